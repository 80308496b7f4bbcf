// SPDX-License-Identifier: Apache-2.0
// What validate finds: each fault with its status, its place and a message; in which order; and that it writes nothing.
#include "validated.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

namespace {

constexpr std::int64_t most = INT64_MAX;
constexpr std::int64_t least = INT64_MIN;
constexpr std::int32_t most32 = INT32_MAX;
constexpr std::int32_t least32 = INT32_MIN;

// Three samples of up to four rows in caches of eight.
kvappend_descriptor dense() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = 3;
    d.heads = 2;
    d.new_rows = 4;
    d.cache_rows = 8;
    d.k_dim = 3;
    d.v_dim = 1;
    return d;
}

kvappend_descriptor ring(std::int64_t sinks) {
    kvappend_descriptor d = dense();
    d.addressing = KVAPPEND_ADDRESSING_RING;
    d.sink_rows = sinks;
    return d;
}

kvappend_descriptor packed(std::int64_t tokens) {
    kvappend_descriptor d = dense();
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.new_rows = tokens;
    return d;
}

// Three samples of up to four rows, six pages of four rows, and a table of two for each sample.
kvappend_descriptor paged() {
    kvappend_descriptor d = dense();
    d.addressing = KVAPPEND_ADDRESSING_PAGED;
    d.cache_rows = 4;
    d.cache_blocks = 6;
    d.table_entries = 2;
    return d;
}

// The same with one table of six entries for all.
kvappend_descriptor csr() {
    kvappend_descriptor d = paged();
    d.addressing = KVAPPEND_ADDRESSING_PAGED_CSR;
    d.table_entries = 6;
    return d;
}

// Eight tokens for six pages of four rows.
kvappend_descriptor slots() {
    kvappend_descriptor d = paged();
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.table_entries = 0;
    d.batch = 1;
    d.new_rows = 8;
    return d;
}

kvappend_descriptor with(kvappend_descriptor d, std::int32_t flags, std::int32_t lengths = KVAPPEND_LENGTHS_FIXED) {
    d.flags |= flags;
    if (lengths != KVAPPEND_LENGTHS_FIXED) {
        d.lengths = lengths;
    }
    return d;
}

constexpr kvappend_status order = KVAPPEND_ERROR_INDEX_ORDER;
constexpr kvappend_status range = KVAPPEND_ERROR_INDEX_RANGE;

Indices at(std::vector<std::int64_t> offsets) {
    return {.offsets = std::move(offsets)};
}

} // namespace

TEST_CASE("lengths of packed samples out of order", "[validate]") {
    const struct {
        std::vector<std::int64_t> lengths;
        std::int64_t index;
        std::int64_t from;
    } faults[] = {{{0, 4, 2, 6}, 2, 4}, {{-1, 2, 4, 6}, 0, 0},     {{least32, 2, 4, 6}, 0, 0},
                  {{0, 2, 4, 7}, 3, 4}, {{0, 2, 4, most32}, 3, 4}, {{0, 9, 3, 6}, 1, 0},
                  {{7, 7, 7, 7}, 0, 0}, {{2, 1, 0, -1}, 1, 2},     {{0, 0, 0, least32}, 3, 0}};
    for (const auto &[lengths, index, from] : faults) {
        const Validated call(packed(6), {.offsets = {0, 0, 0}, .lengths = lengths});
        call.check(at_index(order, "lengths", index, lengths[static_cast<std::size_t>(index)], from, 6));
    }
    // They need neither begin at the first nor end with the last token.
    Validated(packed(6), {.offsets = {0, 0, 0}, .lengths = {1, 3, 3, 5}}).check_good();
    Validated(packed(6), {.offsets = {0, 0, 0}, .lengths = {6, 6, 6, 6}}).check_good();
}

TEST_CASE("page_indptr out of order", "[validate]") {
    const struct {
        std::vector<std::int64_t> page_indptr;
        std::int64_t index;
        std::int64_t from;
    } faults[] = {{{0, 2, 1, 6}, 2, 2}, {{-1, 2, 4, 6}, 0, 0}, {{0, 2, 4, 7}, 3, 4},      {{0, most32, 4, 6}, 1, 0},
                  {{8, 8, 8, 8}, 0, 0}, {{0, 2, 2, 1}, 3, 2},  {{least32, 2, 4, 6}, 0, 0}};
    for (const auto &[page_indptr, index, from] : faults) {
        const Validated call(csr(),
                             {.offsets = {0, 0, 0}, .page_table = {0, 1, 2, 3, 4, 5}, .page_indptr = page_indptr});
        call.check(at_index(order, "page_indptr", index, page_indptr[static_cast<std::size_t>(index)], from, 6));
    }
}

TEST_CASE("a length that is negative or more than the rows there are", "[validate]") {
    const kvappend_descriptor d = with(dense(), 0, KVAPPEND_LENGTHS_PER_SAMPLE);
    const auto call = [&](std::vector<std::int64_t> lengths) {
        return Indices{.offsets = {0, 1, 2}, .lengths = std::move(lengths)};
    };
    Validated(d, call({0, 4, 1})).check_good();
    Validated(d, call({0, -1, 5})).check(at_index(range, "lengths", 1, -1, 0, 4));
    Validated(d, call({4, 4, 5})).check(at_index(range, "lengths", 2, 5, 0, 4));
    Validated(d, call({least32, 4, 5})).check(at_index(range, "lengths", 0, least32, 0, 4));
    Validated(d, call({4, most32, 0})).check(at_index(range, "lengths", 1, most32, 0, 4));
    SECTION("of which there are fewer behind a pad") {
        const kvappend_descriptor p = with(d, KVAPPEND_FLAG_LEFT_PADS);
        const auto padded = [&](std::vector<std::int64_t> lengths) {
            return Indices{.offsets = {0, 1, 2}, .lengths = std::move(lengths), .left_pads = {0, 3, 4}};
        };
        Validated(p, padded({4, 1, 0})).check_good();
        Validated(p, padded({4, 2, 0})).check(at_index(range, "lengths", 1, 2, 0, 1));
        Validated(p, padded({4, 1, 1})).check(at_index(range, "lengths", 2, 1, 0, 0));
    }
}

TEST_CASE("a pad that is negative or more than the rows there are", "[validate]") {
    const kvappend_descriptor d = with(dense(), KVAPPEND_FLAG_LEFT_PADS);
    const auto call = [&](std::vector<std::int64_t> pads) {
        return Indices{.offsets = {0, 1, 2}, .left_pads = std::move(pads)};
    };
    Validated(d, call({0, 4, 1})).check_good();
    Validated(d, call({0, -1, 1})).check(at_index(range, "left_pads", 1, -1, 0, 4));
    Validated(d, call({5, 4, 1})).check(at_index(range, "left_pads", 0, 5, 0, 4));
    Validated(d, call({0, 0, most32})).check(at_index(range, "left_pads", 2, most32, 0, 4));
    Validated(d, call({0, least32, 0})).check(at_index(range, "left_pads", 1, least32, 0, 4));
    SECTION("of a packed sample") {
        const kvappend_descriptor p = with(packed(6), KVAPPEND_FLAG_LEFT_PADS);
        const auto padded = [&](std::vector<std::int64_t> pads) {
            return Indices{.offsets = {0, 1, 2}, .lengths = {0, 3, 3, 5}, .left_pads = std::move(pads)};
        };
        Validated(p, padded({3, 0, 1})).check_good();
        Validated(p, padded({3, 1, 1})).check(at_index(range, "left_pads", 1, 1, 0, 0));
        Validated(p, padded({3, 0, 3})).check(at_index(range, "left_pads", 2, 3, 0, 2));
    }
}

TEST_CASE("a block that the cache does not have", "[validate]") {
    kvappend_descriptor d = with(GENERATE(dense(), ring(2)), KVAPPEND_FLAG_BATCH_INDEX);
    d.cache_blocks = 5;
    const auto call = [&](std::vector<std::int64_t> blocks) {
        return Indices{.offsets = {0, 1, 2}, .batch_index = std::move(blocks)};
    };
    Validated(d, call({4, 0, 2})).check_good();
    Validated(d, call({4, -1, least32})).check_good(); // These two samples are left out.
    Validated(d, call({4, 5, 2})).check(at_index(range, "batch_index", 1, 5, least32, 4));
    Validated(d, call({-1, 0, most32})).check(at_index(range, "batch_index", 2, most32, least32, 4));
}

TEST_CASE("64-bit indices that are declared as 32-bit ones", "[validate]") {
    kvappend_descriptor d = dense();
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.batch = 1;
    d.new_rows = 3;
    d.cache_blocks = 2;
    d.offset_type = KVAPPEND_OFFSET_INT32;
    const auto wide = [](const char *array, std::int64_t index, std::int64_t value, const char *words) {
        Finding f;
        f.status = KVAPPEND_ERROR_INDEX_WIDTH;
        f.fault.array = array;
        f.fault.index = index;
        f.fault.value = value;
        f.words = words;
        return f;
    };
    SECTION("slots of tokens") {
        // Each number is two words: the number and its sign.
        const auto slots = [](std::vector<std::int64_t> words) { return Indices{.slots = std::move(words)}; };
        Validated(d, slots({5, 0, 6, 0, 7, 0}))
            .check(wide("slots", 1, 6,
                        "args.slots_bytes is 24 and the array looks like 64-bit numbers, in which element 1 "
                        "is 6: expected 32-bit numbers and 12 bytes, or a descriptor.offset_type for 64-bit numbers"));
        Validated(d, slots({5, 0, -1, -1, 7, 0})).check(wide("slots", 1, -1, "element 1 is -1"));
        Validated(d, slots({0, 0, 0, 0, 1, 0})).check(wide("slots", 2, 1, "element 2 is 1"));
        // Another number of bytes, words that are not signs, and numbers that are the same in both widths.
        Validated(d, slots({5, 0, 6})).check_good();
        Validated(d, slots({5, 0, 6, 0, 7, 0, 8})).check_good();
        Validated(d, slots({5, 0, 6, 0, 7, 1})).check_good();
        Validated(d, slots({5, 1, 6, 0, 7, 0})).check_good();
        Validated(d, slots({5, 0, 6, -1, 7, 0})).check_good();
        Validated(d, slots({-1, -1, -1, -1, -1, -1})).check_good();
        Validated unknown(d, slots({5, 0, 6, 0, 7, 0}));
        unknown.args.slots_bytes = 0;
        unknown.check_good();
        d.offset_type = KVAPPEND_OFFSET_INT64;
        Validated(d, slots({5, 0, 6, 1, 7, 2})).check_good();
    }
    SECTION("a table of pages, before its faults") {
        Validated(paged(), {.offsets = {0, 0, 0}, .page_table = {0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 77, 0}})
            .check(wide("page_table", 1, 1, "a descriptor.index_type for 64-bit numbers"));
    }
}

TEST_CASE("a number of tokens and a sample that are out of range", "[validate]") {
    kvappend_descriptor d = dense();
    d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
    d.flags = KVAPPEND_FLAG_TOKEN_COUNT;
    const auto call = [](std::vector<std::int64_t> samples, std::int64_t count) {
        return Indices{.token_samples = std::move(samples), .token_positions = {0, 1, 2, -1}, .token_count = {count}};
    };
    Validated(d, call({0, 1, 2, 3}, 4)).check_good(); // The last token is padding by its position.
    Validated(d, call({0, -7, 3, 3}, 2)).check_good();
    Validated(d, call({0, 1, 2, 0}, -1)).check(at_index(range, "token_count", 0, -1, 0, 4));
    Validated(d, call({0, 1, 2, 0}, 5)).check(at_index(range, "token_count", 0, 5, 0, 4));
    Validated(d, call({0, 3, 7, 0}, 4)).check(at_index(range, "token_samples", 1, 3, least32, 2));
    d.index_type = KVAPPEND_INDEX_INT64;
    Validated(d, call({0, 1, most, 0}, 4)).check(at_index(range, "token_samples", 2, most, least, 2));
    // A row is named by its sample and its token.
    Validated(d, {.token_samples = {2, 0, 2, 0}, .token_positions = {1, 8, 1, 0}, .token_count = {4}})
        .check(without_place(0, 1, 8));
    Validated(d, {.token_samples = {2, 0, 0, 2}, .token_positions = {1, 7, 7, 1}, .token_count = {4}})
        .check(doubled({0, 2, 7}, {0, 1}, 0, 7));
}

TEST_CASE("validation stops as soon as its result is certain", "[validate]") {
    kvappend_descriptor d = dense();
    d.k_new_strides[KVAPPEND_AXIS_BATCH] = d.v_new_strides[KVAPPEND_AXIS_BATCH] = 1; // and 0 for heads and rows
    d.new_rows = std::int64_t{1} << 40; // far more rows than a test has time for
    Validated(d, {.offsets = {0, 0, 0}}, 64).check(without_place(0, 8, 8));
    Validated(d, {.offsets = {least, 0, 0}}, 64).check(without_place(0, 0, least));
    kvappend_descriptor p = paged();
    p.k_new_strides[KVAPPEND_AXIS_BATCH] = p.v_new_strides[KVAPPEND_AXIS_BATCH] = 1;
    p.new_rows = std::int64_t{1} << 40;
    Validated(p, {.offsets = {least, least, least}, .page_table = {0, 1, 2, 3, 4, 5}}, 64)
        .check(without_place(0, 0, least));
}

TEST_CASE("a page that the cache does not have, where a row makes use of it", "[validate]") {
    SECTION("a table for each sample") {
        // The samples have the positions 0 to 3, 2 to 5 and 4 to 7, and so the entries 0, 2, 3 and 5.
        const auto call = [&](std::vector<std::int64_t> pages) {
            return Indices{.offsets = {0, 2, 4}, .page_table = std::move(pages)};
        };
        Validated(paged(), call({5, -1, 0, 1, 77, 3})).check_good();
        Validated(paged(), call({6, 0, 1, 2, 3, 4})).check(at_index(range, "page_table", 0, 6, 0, 5));
        Validated(paged(), call({5, 9, 1, -1, 3, -2})).check(at_index(range, "page_table", 3, -1, 0, 5));
        Validated(paged(), call({5, 9, 1, 0, 9, most32})).check(at_index(range, "page_table", 5, most32, 0, 5));
        Validated(paged(), call({5, 9, least32, 0, 9, 8})).check(at_index(range, "page_table", 2, least32, 0, 5));
        SECTION("but not where padding would") {
            const kvappend_descriptor d = with(paged(), 0, KVAPPEND_LENGTHS_PER_SAMPLE);
            Indices indices = call({5, 9, 1, -1, 3, 2});
            indices.lengths = {4, 2, 4};
            Validated(d, indices).check_good();
            indices.lengths = {4, 3, 4};
            Validated(d, indices).check(at_index(range, "page_table", 3, -1, 0, 5));
        }
    }
    SECTION("one table for all") {
        const auto call = [&](std::vector<std::int64_t> pages) {
            return Indices{.offsets = {0, 2, 0}, .page_table = std::move(pages), .page_indptr = {1, 2, 4, 6}};
        };
        Validated(csr(), call({-1, 0, 1, 2, 3, -1})).check_good();
        Validated(csr(), call({-1, 6, 1, 2, -3, -1})).check(at_index(range, "page_table", 1, 6, 0, 5));
        Validated(csr(), call({-1, 0, 1, 2, -3, -1})).check(at_index(range, "page_table", 4, -3, 0, 5));
    }
    SECTION("before a row that has no entry in the table") {
        const Indices indices{.offsets = {-1, 100, 4}, .page_table = {0, 1, 2, 3, 4, -5}};
        Validated(paged(), indices).check(at_index(range, "page_table", 5, -5, 0, 5));
    }
}

TEST_CASE("a row with a position but no place", "[validate]") {
    SECTION("dense") {
        Validated(dense(), at({0, 4, 2})).check_good();
        Validated(dense(), at({0, -1, 8})).check(without_place(1, 0, -1));
        Validated(dense(), at({0, 5, -1})).check(without_place(1, 3, 8));
        Validated(dense(), at({0, 0, least})).check(without_place(2, 0, least));
        Validated(dense(), at({most, 0, 0})).check(without_place(0, 0, most));
        // Left out by an offset, which is for lengths to do.
        Validated(dense(), at({0, -4, 0})).check(without_place(1, 0, -4));
    }
    SECTION("offsets of 32 bits") {
        kvappend_descriptor d = dense();
        d.offset_type = KVAPPEND_OFFSET_INT32;
        Validated(d, at({0, 4, 2})).check_good();
        Validated(d, at({0, least32, 2})).check(without_place(1, 0, least32));
        Validated(d, at({0, 4, most32})).check(without_place(2, 0, most32));
    }
    SECTION("all offsets 0") {
        kvappend_descriptor d = with(dense(), KVAPPEND_FLAG_ZERO_OFFSETS);
        Validated(d, {}).check_good();
        d.new_rows = 10;
        Validated(d, {}).check(without_place(0, 8, 8));
    }
    SECTION("a ring has every position that is not negative") {
        const std::int64_t sinks = GENERATE(0, 3, 7);
        Validated(ring(sinks), at({0, 1000, most})).check_good();
        Validated(ring(sinks), at({5, 5, -1})).check(without_place(2, 0, -1));
        Validated(ring(sinks), at({5, least, -1})).check(without_place(1, 0, least));
    }
    SECTION("rows are counted from the one behind the pad") {
        const kvappend_descriptor d = with(dense(), KVAPPEND_FLAG_LEFT_PADS);
        Validated(d, {.offsets = {0, 4, 6}, .left_pads = {0, 0, 2}}).check_good();
        Validated(d, {.offsets = {0, 4, 6}, .left_pads = {0, 0, 1}}).check(without_place(2, 2, 8));
        Validated(d, {.offsets = {-1, 4, 6}, .left_pads = {4, 0, 2}}).check_good();
    }
    SECTION("what a length leaves out has no position") {
        const kvappend_descriptor d = with(dense(), 0, KVAPPEND_LENGTHS_PER_SAMPLE);
        Validated(d, {.offsets = {-9, 7, 5}, .lengths = {0, 1, 3}}).check_good();
        Validated(d, {.offsets = {-9, 7, 5}, .lengths = {0, 2, 3}}).check(without_place(1, 1, 8));
    }
    SECTION("what batch_index leaves out has no position") {
        const kvappend_descriptor d = with(dense(), KVAPPEND_FLAG_BATCH_INDEX);
        Validated(d, {.offsets = {-9, 4, 99}, .batch_index = {-1, 0, -2}}).check_good();
        Validated(d, {.offsets = {-9, 4, 99}, .batch_index = {-1, 0, 1}}).check(without_place(2, 0, 99));
    }
    SECTION("packed") {
        // Tokens before and behind the samples are padding.
        Validated(packed(9), {.offsets = {0, 7, 6}, .lengths = {1, 4, 5, 7}}).check_good();
        Validated(packed(9), {.offsets = {0, 7, 6}, .lengths = {1, 3, 5, 7}}).check(without_place(1, 1, 8));
        Validated(packed(9), {.offsets = {-1, 7, 6}, .lengths = {1, 1, 2, 7}}).check(without_place(2, 2, 8));
    }
}

TEST_CASE("a row with a position or a slot that no page has", "[validate]") {
    SECTION("behind the table") {
        Validated(paged(), {.offsets = {4, 0, 0}, .page_table = {0, 1, 2, 3, 4, 5}}).check_good();
        Validated(paged(), {.offsets = {4, 5, 0}, .page_table = {0, 1, 2, 3, 4, 5}}).check(without_place(1, 3, 8));
        Validated(paged(), {.offsets = {4, 0, -2}, .page_table = {0, 1, 2, 3, 4, 5}}).check(without_place(2, 0, -2));
        Validated(paged(), {.offsets = {most, 0, 0}, .page_table = {0, 1, 2, 3, 4, 5}})
            .check(without_place(0, 0, most));
        // The second sample has one page, and the third has none.
        const auto call = [&](std::vector<std::int64_t> offsets) {
            return Indices{
                .offsets = std::move(offsets), .page_table = {0, 1, 2, 3, 4, 5}, .page_indptr = {0, 4, 5, 5}};
        };
        Validated(csr(), call({12, 0, 0})).check(without_place(2, 0, 0));
        Validated(csr(), call({12, 1, 0})).check(without_place(1, 3, 4));
        Validated(csr(), call({13, 0, 0})).check(without_place(0, 3, 16));
    }
    SECTION("slots") {
        const auto call = [&](std::vector<std::int64_t> s) { return Indices{.slots = std::move(s)}; };
        Validated(slots(), call({0, 23, -1, -1, 5, 6, least, 7})).check_good();
        Validated(slots(), call({0, 1, 2, 3, 24, 6, 99, 7})).check(without_place(0, 4, 24));
        Validated(slots(), call({0, 1, 2, 3, 4, 6, most, 7})).check(without_place(0, 6, most));
        kvappend_descriptor d = slots();
        d.flags = KVAPPEND_FLAG_RESERVED_SLOT;
        d.reserved_slot = 99;
        Validated(d, call({0, 1, 2, 3, 99, 6, 99, 7})).check_good();
        Validated(d, call({0, 1, 2, 3, 99, 6, 98, 7})).check(without_place(0, 6, 98));
        d.offset_type = KVAPPEND_OFFSET_INT32;
        Validated(d, call({0, 1, 2, 3, 99, 6, 98, 7})).check(without_place(0, 6, 98));
    }
}

TEST_CASE("a row without a place is found whatever the policy says", "[validate]") {
    kvappend_descriptor d = dense();
    d.skip_policy = KVAPPEND_SKIP_TRAP;
    Validated(d, at({0, 4, 2})).check_good();
    Validated(d, at({0, 5, -1})).check(without_place(1, 3, 8));
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    Validated(d, at({0, 5, -1})).check(without_place(1, 3, 8));
}

TEST_CASE("two rows with one place", "[validate]") {
    SECTION("slots") {
        const auto call = [&](std::vector<std::int64_t> s) { return Indices{.slots = std::move(s)}; };
        Validated(slots(), call({0, 9, 5, 6, 7, 9, 1, 2})).check(doubled({0, 5, 9}, {0, 1}, 2, 1));
        // Of several, the row that comes first as the later one, and the first row with its place.
        Validated(slots(), call({4, 9, 5, 5, 7, 9, 4, 5})).check(doubled({0, 3, 5}, {0, 2}, 1, 1));
        Validated(slots(), call({23, 1, 23, 23, 7, 1, 1, 2})).check(doubled({0, 2, 23}, {0, 0}, 5, 3));
        Validated(slots(), call({-1, -1, -2, -2, 7, 1, 2, least})).check_good();
        kvappend_descriptor d = slots();
        d.flags = KVAPPEND_FLAG_RESERVED_SLOT;
        Validated(d, call({0, 0, 0, 0, 7, 1, 0, 2})).check_good();
        Validated(d, call({0, 0, 0, 0, 7, 1, 0, 7})).check(doubled({0, 7, 7}, {0, 4}, 1, 3));
    }
    SECTION("two samples in one block") {
        const kvappend_descriptor d = with(dense(), KVAPPEND_FLAG_BATCH_INDEX);
        Validated(d, {.offsets = {0, 0, 4}, .batch_index = {1, 2, 1}}).check_good(); // at different positions
        Validated(d, {.offsets = {0, 0, 2}, .batch_index = {1, 2, 1}}).check(doubled({2, 0, 2}, {0, 2}, 1, 2));
        Validated(d, {.offsets = {3, 1, 0}, .batch_index = {0, 0, 0}}).check(doubled({1, 2, 3}, {0, 0}, 0, 3));
        Validated(d, {.offsets = {3, 3, 3}, .batch_index = {-1, -1, 2}}).check_good();
    }
    SECTION("a page in two tables") {
        // The samples have the positions 0 to 3, 2 to 5 and 4 to 7.
        const auto call = [&](std::vector<std::int64_t> pages) {
            return Indices{.offsets = {0, 2, 4}, .page_table = std::move(pages)};
        };
        Validated(paged(), call({0, 1, 2, 3, 4, 5})).check_good();
        Validated(paged(), call({0, 2, 2, 3, 2, 5})).check_good(); // Not in use.
        Validated(paged(), call({0, 1, 0, 3, 4, 5})).check(doubled({1, 0, 2}, {0, 2}, 0, 2));
        Validated(paged(), call({0, 1, 2, 3, 4, 3})).check(doubled({2, 0, 4}, {1, 2}, 3, 0));
        // Twice in one table, at rows of their own.
        Validated(paged(), call({0, 1, 3, 3, 4, 5})).check_good();
    }
    SECTION("a page twice in one table of different lengths") {
        kvappend_descriptor d = csr();
        d.batch = 1;
        d.new_rows = 8;
        const auto call = [&](std::int64_t offset, std::vector<std::int64_t> pages) {
            return Indices{.offsets = {offset}, .page_table = std::move(pages), .page_indptr = {1, 5}};
        };
        Validated(d, call(3, {9, 1, 2, 3, 9, 9})).check_good();
        Validated(d, call(3, {9, 3, 2, 3, 9, 9})).check_good(); // Rows of their own.
        Validated(d, call(3, {9, 2, 2, 3, 9, 9})).check(doubled({0, 4, 7}, {0, 0}, 2, 3));
        Validated(d, call(3, {9, 1, 4, 4, 9, 9})).check(doubled({0, 5, 8}, {0, 1}, 4, 0));
    }
}

TEST_CASE("two rows with one place in a ring", "[validate]") {
    SECTION("a ring that goes round within one sample replaces rows") {
        kvappend_descriptor d = ring(2);
        d.new_rows = 15;
        Validated(d, {.offsets = {0, 1, 77}}).check_good();
        d.new_rows = 40;
        Validated(d, {.offsets = {0, 1, most}}).check_good();
    }
    SECTION("two samples in one ring") {
        const kvappend_descriptor d = with(ring(2), KVAPPEND_FLAG_BATCH_INDEX);
        const auto call = [&](std::vector<std::int64_t> offsets) {
            return Indices{.offsets = std::move(offsets), .batch_index = {2, 0, 2}};
        };
        Validated(d, call({0, 0, 4})).check_good();
        Validated(d, call({0, 0, 10})).check_good(); // At the rows 4 to 7 again.
        Validated(d, call({2, 0, 6})).check(doubled({2, 2, 8}, {0, 0}, 2, 2));
        Validated(d, call({4, 0, 8})).check(doubled({2, 2, 10}, {0, 0}, 2, 4));
        // 2^63 - 2 goes to row 6, and 2^63, which is told as the greatest position there is, to row 2.
        Validated(d, call({0, 0, most - 1})).check(doubled({2, 2, most}, {0, 2}, 2, 2));
    }
}

TEST_CASE("the first status that applies is the one returned", "[validate]") {
    // Everything is wrong at first, and is put right from the first status to the last.
    kvappend_descriptor d = with(csr(), KVAPPEND_FLAG_LEFT_PADS, KVAPPEND_LENGTHS_PACKED);
    d.new_rows = 6;
    Indices indices{.offsets = {-1, 0, 0},
                    .lengths = {0, 3, 2, 6},
                    .left_pads = {0, 0, 9},
                    .page_table = {0, 1, 2, 2, 9, 9},
                    .page_indptr = {0, 2, 1, 5}};
    const auto check = [&](const Finding &expected) { Validated(d, indices).check(expected); };
    check(at_index(order, "lengths", 2, 2, 3, 6));
    indices.lengths = {0, 2, 4, 6};
    check(at_index(order, "page_indptr", 2, 1, 2, 6));
    indices.page_indptr = {0, 2, 3, 5};
    check(at_index(range, "left_pads", 2, 9, 0, 2));
    indices.left_pads = {0, 0, 0};
    indices.offsets[2] = 3;
    check(at_index(range, "page_table", 4, 9, 0, 5));
    indices.page_table[4] = 5;
    check(without_place(0, 0, -1));
    indices.offsets = {0, 3, 3};
    check(without_place(1, 1, 4));
    indices.offsets[1] = 2;
    check(doubled({2, 0, 3}, {1, 1}, 2, 3));
    indices.offsets[2] = 4;
    check({});

    SECTION("and those of run come before all") {
        indices.lengths = {0, 3, 2, 6};
        Validated call(d, indices);
        const kvappend_args args = call.args;
        call.workspace_bytes = 8;
        call.check(refused(KVAPPEND_ERROR_WORKSPACE, "workspace is NULL and workspace_bytes is 8: expected"));
        call.workspace_bytes = 0;
        call.args.page_indptr = nullptr;
        call.check(refused(KVAPPEND_ERROR_NULL_BUFFER, "args.page_indptr is NULL: expected"));
        call.args = args;
        call.args.lengths_bytes = 15;
        call.check(refused(KVAPPEND_ERROR_BUFFER_TOO_SMALL, "args.lengths_bytes is 15: expected at least 16"));
        call.args = args;
        call.args.page_table =
            reinterpret_cast<const std::int32_t *>(reinterpret_cast<const unsigned char *>(args.page_table) + 2);
        call.args.page_table_bytes = 0;
        call.check(refused(KVAPPEND_ERROR_MISALIGNED, "args.page_table is "));
        call.args = args;
        call.args.left_pads = static_cast<const std::int32_t *>(args.k_cache);
        call.args.left_pads_bytes = 0;
        call.check(refused(KVAPPEND_ERROR_ALIAS, "args.left_pads "));
        call.args = args;
        call.args.v_cache = args.k_cache;
        call.args.v_cache_bytes = 0;
        call.check(refused(KVAPPEND_ERROR_OVERLAP, "share"));
        call.args = args;
        if (subject().backend() == KVAPPEND_BACKEND_HOST) {
            call.stream = reinterpret_cast<CUstream_st *>(&call);
            call.check(refused(KVAPPEND_ERROR_STREAM, "expected NULL"));
            call.stream = nullptr;
        }
        call.check(at_index(order, "lengths", 2, 2, 3, 6));
    }
}

TEST_CASE("a good call stays good with a report, offsets to advance and a workspace", "[validate]") {
    const std::int32_t flags = GENERATE(0, KVAPPEND_FLAG_RESET_REPORT, KVAPPEND_FLAG_COUNT_WRITTEN);
    kvappend_descriptor d = with(paged(), KVAPPEND_FLAG_ADVANCE | flags);
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    Validated call(d, {.offsets = {0, 2, 4}, .page_table = {5, -1, 0, 1, 77, 3}});
    call.check_good();
    unsigned char memory[16] = {};
    call.workspace = memory;
    call.workspace_bytes = sizeof memory;
    call.check_good();
    call.args.report = nullptr;
    call.check(refused(KVAPPEND_ERROR_NULL_BUFFER, "args.report is NULL: expected"));
    Validated(d, {.offsets = {0, 2, 4}, .page_table = {5, -1, 0, 6, 77, 3}})
        .check(at_index(range, "page_table", 3, 6, 0, 5));
}

TEST_CASE("arrays that the plan does not ask for are not looked at", "[validate]") {
    Validated call(dense(), {.offsets = {0, 4, 2},
                             .slots = {99, 99},
                             .lengths = {-1, -1, -1, -1},
                             .left_pads = {-1, -1, -1},
                             .batch_index = {7, 7, 7},
                             .page_table = {-1},
                             .page_indptr = {-1}});
    call.check_good();
    // They may as well be no memory at all.
    const auto *const nowhere = reinterpret_cast<const std::int32_t *>(std::uintptr_t{3});
    call.args.slots = nowhere;
    call.args.lengths = call.args.left_pads = call.args.batch_index = nowhere;
    call.args.page_table = call.args.page_indptr = nowhere;
    call.check_good();
}

TEST_CASE("where there is nothing to do there is no fault, and there need be no buffers", "[validate]") {
    for (std::int64_t kvappend_descriptor::*const extent :
         {&kvappend_descriptor::batch, &kvappend_descriptor::heads, &kvappend_descriptor::new_rows,
          &kvappend_descriptor::cache_rows}) {
        kvappend_descriptor d = paged();
        d.*extent = 0;
        Validated call(d, {});
        call.args = KVAPPEND_ARGS_INIT;
        call.check_good();
        // What is not a buffer is checked all the same.
        call.workspace_bytes = 1;
        call.check(refused(KVAPPEND_ERROR_WORKSPACE, "workspace_bytes is 1: expected"));
    }
    // Without a table every row is above it, for there is a cache.
    kvappend_descriptor d = paged();
    d.table_entries = 0;
    Validated(d, {.offsets = {0, 0, 0}}).check(without_place(0, 0, 0));
}

TEST_CASE("a fault of another size is filled as far as both sides know it", "[validate]") {
    const Validated call(slots(), {.slots = {0, 9, 5, 6, 7, 9, 1, 2}});
    const Finding expected = doubled({0, 5, 9}, {0, 1}, 2, 1);
    constexpr std::size_t room = 4096 + 64;
    for (const std::size_t size : {std::size_t{8}, std::size_t{16}, std::size_t{40}, sizeof(kvappend_fault) - 8,
                                   sizeof(kvappend_fault), sizeof(kvappend_fault) + 8, std::size_t{4096}}) {
        INFO(size);
        alignas(8) std::array<unsigned char, room> memory;
        memory.fill(0x7f);
        auto *const fault = reinterpret_cast<kvappend_fault *>(memory.data());
        std::memcpy(memory.data(), &size, sizeof size);
        std::array<unsigned char, room> filled = memory;
        std::fill_n(filled.begin(), size, static_cast<unsigned char>(0));
        std::memcpy(filled.data(), &expected.fault, std::min(size, sizeof expected.fault));
        std::memcpy(filled.data(), &size, sizeof size);
        CHECK(told(call.validate(fault)).starts_with("KVAPPEND_ERROR_DUPLICATE: "));
        CHECK(memory == filled);
    }
    for (const std::size_t size : {std::size_t{0}, std::size_t{4}, std::size_t{12}, sizeof(kvappend_fault) - 4,
                                   std::size_t{4104}, std::size_t{SIZE_MAX}, SIZE_MAX - 7}) {
        INFO(size);
        alignas(8) std::array<unsigned char, room> memory;
        memory.fill(0x7f);
        std::memcpy(memory.data(), &size, sizeof size);
        const std::array<unsigned char, room> before = memory;
        CHECK(told(call.validate(reinterpret_cast<kvappend_fault *>(memory.data())))
                  .starts_with("KVAPPEND_ERROR_STRUCT_SIZE: fault.struct_size is " + std::to_string(size) +
                               ": expected"));
        CHECK(memory == before);
    }
    CHECK(call.untouched());
}

TEST_CASE("a plan or arguments that are none leave a fault of zeros", "[validate]") {
    Validated call(dense(), {.offsets = {0, 5, 2}});
    call.check(without_place(1, 3, 8));
    const auto check = [&](const kvappend_plan *plan, const kvappend_args *args, const std::string &words) {
        kvappend_fault fault;
        std::memset(&fault, 0x7f, sizeof fault);
        fault.struct_size = sizeof fault;
        const std::string found = told(kvappend_plan_validate(plan, args, nullptr, 0, call.stream, &fault));
        INFO(found);
        CHECK(found.starts_with(words));
        const kvappend_fault zero = KVAPPEND_FAULT_INIT;
        CHECK(std::memcmp(&fault, &zero, sizeof fault) == 0);
        CHECK(told(kvappend_plan_validate(plan, args, nullptr, 0, call.stream, nullptr)) == found);
    };
    check(nullptr, &call.args, "KVAPPEND_ERROR_NULL_ARGUMENT: plan is NULL: expected");
    check(call.plan(), nullptr, "KVAPPEND_ERROR_NULL_ARGUMENT: args is NULL: expected");
    call.args.struct_size = 12;
    check(call.plan(), &call.args, "KVAPPEND_ERROR_STRUCT_SIZE: args.struct_size is 12: expected");
    call.args.struct_size = sizeof call.args;
    // Arguments of an older header have no arrays but the offsets.
    call.args.struct_size = offsetof(kvappend_args, slots);
    CHECK(told(call.validate(nullptr)).starts_with("KVAPPEND_ERROR_SKIPPED: "));
    CHECK(call.untouched());
}
