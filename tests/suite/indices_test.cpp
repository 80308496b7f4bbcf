// SPDX-License-Identifier: Apache-2.0
// The forms of indices that runtimes have: one offset for all samples, lengths after the append, a sample and a
// position for each token, counts of tokens, reserved pages and 64-bit arrays. The expected caches are written out by
// hand.
#include "every_way.hpp"
#include "held.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

namespace {

using Bytes = std::vector<std::uint8_t>;

// An append of K rows of one byte and one head. The new rows are 1, 2, 3 and so on, and the cache is 0.
class ByteAppend {
public:
    explicit ByteAppend(kvappend_descriptor d) : d_(d) {
        d_.backend = subject().backend();
        d_.element_type = KVAPPEND_ELEMENT_UINT8;
        d_.heads = d_.k_dim = 1;
        const bool tokens = d.addressing == KVAPPEND_ADDRESSING_SLOTS || d.lengths >= KVAPPEND_LENGTHS_PACKED;
        Bytes rows(static_cast<std::size_t>((tokens ? 1 : d.batch) * d.new_rows));
        std::iota(rows.begin(), rows.end(), std::uint8_t{1});
        args.k_new = hold(rows);
        cache_ = std::make_unique<Held<std::uint8_t>>(
            Bytes(static_cast<std::size_t>((d.cache_blocks == 0 ? d.batch : d.cache_blocks) * d.cache_rows)));
        args.k_cache = cache_->data();
    }

    // An array of indices, of 64 bits or 32.
    void *hold_indices(const std::vector<std::int64_t> &values, bool wide) {
        Bytes bytes(values.size() * (wide ? 8 : 4));
        for (std::size_t i = 0; i < values.size(); ++i) {
            std::memcpy(bytes.data() + i * (wide ? 8 : 4), &values[i], wide ? 8 : 4); // little-endian
        }
        return hold(bytes);
    }
    void *offsets(const std::vector<std::int64_t> &values) {
        return hold_indices(values, d_.offset_type == KVAPPEND_OFFSET_INT64);
    }
    void *indices(const std::vector<std::int64_t> &values) {
        return hold_indices(values, d_.index_type == KVAPPEND_INDEX_INT64);
    }

    void run() {
        const PlanPointer plan = make_plan(d_);
        REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
    }
    bool cache_holds(const Bytes &expected) const { return cache_->holds(expected); }
    // Whether the array that `hold` returned last has these bytes.
    template <class T>
    bool last_holds(const std::vector<T> &expected) const {
        Bytes bytes(expected.size() * sizeof(T));
        std::memcpy(bytes.data(), expected.data(), bytes.size());
        return held_.back()->holds(bytes);
    }

    kvappend_args args = KVAPPEND_ARGS_INIT;

private:
    void *hold(const Bytes &bytes) {
        held_.push_back(std::make_unique<Held<std::uint8_t>>(bytes));
        return held_.back()->data();
    }

    kvappend_descriptor d_;
    std::unique_ptr<Held<std::uint8_t>> cache_;
    std::vector<std::unique_ptr<Held<std::uint8_t>>> held_;
};

kvappend_descriptor problem(std::int32_t addressing, std::int64_t batch, std::int64_t new_rows, std::int64_t cache_rows,
                            std::int32_t flags = 0) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.addressing = addressing;
    d.batch = batch;
    d.new_rows = new_rows;
    d.cache_rows = cache_rows;
    d.flags = flags;
    return d;
}

kvappend_descriptor on_pages(std::int32_t addressing, std::int64_t batch, std::int64_t new_rows, std::int64_t page_rows,
                             std::int64_t pages, std::int64_t entries, std::int32_t flags = 0) {
    kvappend_descriptor d = problem(addressing, batch, new_rows, page_rows, flags);
    d.cache_blocks = pages;
    d.table_entries = entries;
    return d;
}

} // namespace

TEST_CASE("one offset serves all samples, as ExecuTorch's start_pos does", "[semantics]") {
    kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_DENSE, 3, 2, 4, KVAPPEND_FLAG_SHARED_OFFSET);
    d.offset_type = GENERATE(KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32);
    ByteAppend append(d);
    append.args.cache_offsets = append.offsets({1});
    append.args.cache_offsets_bytes = d.offset_type == KVAPPEND_OFFSET_INT64 ? 8 : 4;
    append.run();
    CHECK(append.cache_holds({0, 1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0}));
}

TEST_CASE("a shared offset advances once", "[semantics]") {
    kvappend_descriptor d =
        problem(KVAPPEND_ADDRESSING_DENSE, 3, 2, 4, KVAPPEND_FLAG_SHARED_OFFSET | KVAPPEND_FLAG_ADVANCE);
    ByteAppend append(d);
    const std::int64_t before = GENERATE(1, -1, -2, -7, most64 - 1);
    append.args.cache_offsets = append.offsets({before});
    append.run();
    // All rows of -2 and of -7 have negative positions.
    const std::int64_t after = before <= -2 ? before : before == most64 - 1 ? most64 : before + 2;
    CHECK(append.last_holds(std::vector<std::int64_t>{after}));
}

TEST_CASE("a shared offset serves samples with blocks, pages and lengths of their own", "[semantics]") {
    auto random = seeded_random();
    Scenario scenario = appending(GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING), 4, 3, 6);
    scenario.descriptor.flags = KVAPPEND_FLAG_SHARED_OFFSET | KVAPPEND_FLAG_BATCH_INDEX;
    scenario.descriptor.cache_blocks = 5;
    scenario.offsets = {GENERATE(0, 4, -1, -3, 6)};
    scenario.batch_index = {4, -1, 0, 7};
    check_every_way(scenario, random);
    scenario.batch_index = {-1, 4, 0, 7}; // The offset advances although its first sample is left out.
    check_every_way(scenario, random);
}

TEST_CASE("offsets may be the lengths after the append, as lmdeploy's kv_seqlens are", "[semantics]") {
    kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_DENSE, 3, 2, 4, KVAPPEND_FLAG_END_OFFSETS);
    ByteAppend append(d);
    append.args.cache_offsets = append.offsets({2, 3, 1}); // The last sample's first row has the position -1.
    append.run();
    CHECK(append.cache_holds({1, 2, 0, 0, 0, 3, 4, 0, 6, 0, 0, 0}));
}

TEST_CASE("lengths after the append go with rows of any number, as TransformerEngine's cu_cached_lens", "[semantics]") {
    SECTION("packed") {
        kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_DENSE, 3, 6, 4, KVAPPEND_FLAG_END_OFFSETS);
        d.lengths = KVAPPEND_LENGTHS_PACKED;
        ByteAppend append(d);
        append.args.cache_offsets = append.offsets({4, 1, 2});
        append.args.lengths = append.indices({0, 3, 4, 6});
        append.run();
        CHECK(append.cache_holds({0, 1, 2, 3, 4, 0, 0, 0, 5, 6, 0, 0}));
    }
    SECTION("a length for each sample") {
        kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_DENSE, 3, 3, 4, KVAPPEND_FLAG_END_OFFSETS);
        d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
        ByteAppend append(d);
        append.args.cache_offsets = append.offsets({3, 4, 2});
        append.args.lengths = append.indices({3, 1, 0});
        append.run();
        CHECK(append.cache_holds({1, 2, 3, 0, 0, 0, 0, 4, 0, 0, 0, 0}));
    }
    SECTION("left pads") {
        kvappend_descriptor d =
            problem(KVAPPEND_ADDRESSING_DENSE, 2, 3, 4, KVAPPEND_FLAG_END_OFFSETS | KVAPPEND_FLAG_LEFT_PADS);
        ByteAppend append(d);
        append.args.cache_offsets = append.offsets({3, 3});
        append.args.left_pads = append.indices({1, 2});
        append.run();
        CHECK(append.cache_holds({0, 2, 3, 0, 0, 0, 6, 0}));
    }
}

TEST_CASE("FlashInfer's state after an append serves as it is", "[semantics]") {
    // Pages of 4 rows. Sample 0 then has 6 rows, sample 1 has none, and sample 2 has 4. Two, none and one are new.
    kvappend_descriptor d = on_pages(KVAPPEND_ADDRESSING_PAGED_CSR, 3, 3, 4, 4, 3, KVAPPEND_FLAG_LAST_PAGE_LENGTHS);
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.offset_type = KVAPPEND_OFFSET_INT32;
    ByteAppend append(d);
    append.args.lengths = append.indices({0, 2, 2, 3});
    append.args.page_indptr = append.indices({0, 2, 2, 3});
    append.args.page_table = append.indices({3, 1, 0});
    append.args.cache_offsets = append.offsets({2, 0, 4}); // paged_kv_last_page_len
    append.run();
    CHECK(append.cache_holds({0, 0, 0, 3, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_CASE("lengths of the last page reach back over earlier pages", "[semantics]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_PAGED_CSR, 4, 7, 3);
    kvappend_descriptor &d = scenario.descriptor;
    d.flags = KVAPPEND_FLAG_LAST_PAGE_LENGTHS | GENERATE(0, KVAPPEND_FLAG_SHARED_OFFSET);
    d.cache_blocks = 12;
    d.table_entries = 9;
    d.index_type = GENERATE(KVAPPEND_INDEX_INT32, KVAPPEND_INDEX_INT64);
    scenario.page_table = {4, 11, 2, 0, 7, 3, 9, 10, 1};
    scenario.page_indptr = {0, 4, 4, 6, 9};
    scenario.offsets = {1, 2, 3, 0};
    SECTION("as they should be") {}
    SECTION("offsets that no length can have") {
        scenario.offsets = {most64, least64, -1, 100};
    }
    SECTION("bounds out of order") {
        scenario.page_indptr = {3, 0, -5, 9, 2};
    }
    SECTION("bounds whose difference does not fit in 64 bits") {
        if (d.index_type == KVAPPEND_INDEX_INT32) {
            scenario.page_indptr = {least32, most32, least32, most32, 0};
        } else {
            scenario.page_indptr = {least64, most64, least64, most64, 0};
        }
        scenario.offsets = {most64, 3, 0, least64};
    }
    if ((d.flags & KVAPPEND_FLAG_SHARED_OFFSET) != 0) {
        scenario.offsets.resize(1);
    }
    for (const std::int32_t policy : {KVAPPEND_SKIP_SILENTLY, KVAPPEND_SKIP_REPORT}) {
        d.skip_policy = policy;
        place_apart(scenario, 128, 128);
        check_scenario(scenario, random);
    }
}

TEST_CASE("each token may have a sample and a position, as FlashInfer's batch_indices and positions", "[semantics]") {
    SECTION("in a dense cache") {
        kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_DENSE, 2, 6, 4);
        d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
        ByteAppend append(d);
        append.args.token_samples = append.indices({1, 0, 1, 0, 0, -1});
        append.args.token_positions = append.offsets({3, 0, 1, 1, -1, 2}); // The last two tokens are padding.
        append.run();
        CHECK(append.cache_holds({2, 4, 0, 0, 0, 3, 0, 1}));
    }
    SECTION("in a ring with a sink") {
        kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_RING, 1, 4, 4);
        d.sink_rows = 1;
        d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
        ByteAppend append(d);
        append.args.token_samples = append.indices({0, 0, 0, 0});
        append.args.token_positions = append.offsets({0, 6, 5, 4});
        append.run();
        CHECK(append.cache_holds({1, 4, 3, 2}));
    }
    SECTION("in a ring, where the least position does not follow the greatest one") {
        kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_RING, 1, 3, 10);
        d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
        ByteAppend append(d);
        append.args.token_samples = append.indices({0, 0, 0});
        append.args.token_positions = append.offsets({most64 - 1, most64, least64});
        append.run();
        CHECK(append.cache_holds({0, 0, 0, 0, 0, 0, 1, 2, 0, 0}));
    }
    SECTION("on pages") {
        kvappend_descriptor d = on_pages(KVAPPEND_ADDRESSING_PAGED, 2, 4, 2, 4, 2);
        d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
        ByteAppend append(d);
        append.args.token_samples = append.indices({0, 1, 0, 1});
        append.args.token_positions = append.offsets({3, 0, 0, 1});
        append.args.page_table = append.indices({2, 0, 1, 3});
        append.run();
        CHECK(append.cache_holds({0, 1, 2, 4, 3, 0, 0, 0}));
    }
    SECTION("on pages of samples with tables of their own length, and fewer tokens than there is room for") {
        kvappend_descriptor d = on_pages(KVAPPEND_ADDRESSING_PAGED_CSR, 2, 4, 2, 4, 3, KVAPPEND_FLAG_TOKEN_COUNT);
        d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
        ByteAppend append(d);
        append.args.token_samples = append.indices({1, 1, 0, 0});
        append.args.token_positions = append.offsets({2, 1, 1, 0});
        append.args.page_table = append.indices({2, 0, 1});
        append.args.page_indptr = append.indices({0, 1, 3});
        append.args.token_count = append.indices({3});
        append.run();
        CHECK(append.cache_holds({0, 2, 1, 0, 0, 3, 0, 0}));
    }
}

TEST_CASE("tokens of any samples and positions, with strides and a report", "[semantics]") {
    auto random = seeded_random();
    const auto addressing = GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED,
                                     KVAPPEND_ADDRESSING_PAGED_CSR);
    Scenario scenario = appending(addressing, 3, 8, 4);
    kvappend_descriptor &d = scenario.descriptor;
    d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
    d.offset_type = GENERATE(KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32);
    d.index_type = GENERATE(KVAPPEND_INDEX_INT64, KVAPPEND_INDEX_INT32);
    d.k_new_strides[KVAPPEND_AXIS_HEAD] = 9;
    d.k_new_strides[KVAPPEND_AXIS_ROW] = 40;
    if (addressing >= KVAPPEND_ADDRESSING_PAGED) {
        d.cache_blocks = 6;
        d.table_entries = addressing == KVAPPEND_ADDRESSING_PAGED ? 2 : 6;
        scenario.page_table = {5, 0, 1, 2, 3, 4};
        scenario.page_indptr = {0, 2, 4, 6};
    } else {
        d.flags = GENERATE(0, KVAPPEND_FLAG_BATCH_INDEX);
        scenario.batch_index = {2, -1, 0};
    }
    const std::int64_t far = d.offset_type == KVAPPEND_OFFSET_INT64 ? most64 : most32;
    const std::int64_t no_sample = d.index_type == KVAPPEND_INDEX_INT64 ? std::int64_t{1} << 32 : 3;
    scenario.token_samples = {0, 0, 1, 2, no_sample, 2, -1, 0};
    scenario.token_positions = {1, 2, 0, 0, 0, far, 5, -far}; // In a ring of 4 rows, far is row 3.
    check_every_way(scenario, random);
}

TEST_CASE("a count says how many tokens have a slot, whatever the slots after them hold", "[semantics]") {
    kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_SLOTS, 1, 5, 4, KVAPPEND_FLAG_TOKEN_COUNT);
    d.cache_blocks = 2;
    d.index_type = GENERATE(KVAPPEND_INDEX_INT64, KVAPPEND_INDEX_INT32);
    const auto check = [&](std::int64_t count, const Bytes &expected) {
        INFO(count << " tokens");
        ByteAppend append(d);
        append.args.slots = append.offsets({7, 0, 3, 4, 5});
        append.args.token_count = append.indices({count});
        append.run();
        CHECK(append.cache_holds(expected));
    };
    check(3, {2, 0, 0, 3, 0, 0, 0, 1});
    check(0, {0, 0, 0, 0, 0, 0, 0, 0});
    check(-1, {0, 0, 0, 0, 0, 0, 0, 0});
    check(5, {2, 0, 0, 3, 4, 5, 0, 1});
    check(6, {2, 0, 0, 3, 4, 5, 0, 1});
    if (d.index_type == KVAPPEND_INDEX_INT64) {
        check((std::int64_t{1} << 32) + 3, {2, 0, 0, 3, 4, 5, 0, 1});
    }
}

TEST_CASE("nothing is written to the reserved page, which lmdeploy gives to padded requests", "[semantics]") {
    const auto addressing = GENERATE(KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR);
    const bool csr = addressing == KVAPPEND_ADDRESSING_PAGED_CSR;
    kvappend_descriptor d = on_pages(addressing, 3, 3, 2, 4, csr ? 6 : 2, KVAPPEND_FLAG_RESERVED_PAGE);
    ByteAppend append(d);
    append.args.cache_offsets = append.offsets({0, 0, 0});
    append.args.page_table = append.indices({2, 0, 0, 0, 0, 1});
    append.args.page_indptr = csr ? append.indices({0, 2, 4, 6}) : nullptr;
    append.run();
    CHECK(append.cache_holds({0, 0, 9, 0, 1, 2, 0, 0}));
}

TEST_CASE("the reserved page may be any number, and its rows count as padding", "[semantics]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_PAGED, 3, 5, 4);
    kvappend_descriptor &d = scenario.descriptor;
    d.flags = KVAPPEND_FLAG_RESERVED_PAGE;
    d.cache_blocks = 5;
    d.table_entries = 3;
    d.index_type = GENERATE(KVAPPEND_INDEX_INT64, KVAPPEND_INDEX_INT32);
    // A page beyond 32 bits is not the page that its lower half names.
    d.reserved_page = GENERATE(std::int64_t{0}, std::int64_t{4}, std::int64_t{-1}, std::int64_t{5},
                               std::int64_t{1} << 32, (std::int64_t{1} << 32) + 2, least64);
    scenario.page_table = {0, 1, -1, 4, -1, 5, 2, 3, 0}; // Samples 0 and 2 share page 0, and no row of it.
    scenario.offsets = {2, 1, 5};
    check_every_way(scenario, random);
}

TEST_CASE("64-bit arrays of indices serve as they are", "[semantics]") {
    kvappend_descriptor d = on_pages(KVAPPEND_ADDRESSING_PAGED, 2, 3, 2, 4, 2, KVAPPEND_FLAG_LEFT_PADS);
    d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    d.index_type = KVAPPEND_INDEX_INT64;
    ByteAppend append(d);
    append.args.cache_offsets = append.offsets({0, 1});
    append.args.lengths = append.indices({2, 1});
    append.args.left_pads = append.indices({1, 0});
    append.args.page_table = append.indices({3, 1, 0, 2});
    append.run();
    CHECK(append.cache_holds({0, 4, 0, 0, 0, 0, 2, 3}));
}

TEST_CASE("64-bit indices are compared in all their bits", "[semantics]") {
    auto random = seeded_random();
    constexpr std::int64_t beyond = std::int64_t{1} << 32; // whose lower half is 0
    Scenario scenario = appending(GENERATE(KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR), 3, 4, 4);
    kvappend_descriptor &d = scenario.descriptor;
    d.index_type = KVAPPEND_INDEX_INT64;
    d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    d.flags = KVAPPEND_FLAG_LEFT_PADS;
    d.cache_blocks = 4;
    d.table_entries = d.addressing == KVAPPEND_ADDRESSING_PAGED ? 1 : 3;
    scenario.page_table = {0, beyond + 1, 2};
    scenario.page_indptr = {0, 1, 2, 3};
    scenario.offsets = {0, 0, 0};
    scenario.lengths = {4, 4, 4};
    scenario.left_pads = {0, 0, 0};
    SECTION("a page") {}
    SECTION("a length") {
        scenario.lengths = {beyond + 1, -beyond + 1, most64};
    }
    SECTION("a pad") {
        scenario.left_pads = {beyond + 1, -beyond + 1, most64};
    }
    SECTION("bounds of pages") {
        scenario.page_indptr = {-beyond, beyond + 1, most64, least64};
    }
    check_every_way(scenario, random);
}

TEST_CASE("pages are counted from bounds of any value", "[semantics]") {
    kvappend_descriptor d = on_pages(KVAPPEND_ADDRESSING_PAGED_CSR, 1, 3, 1, 3, 2);
    d.index_type = KVAPPEND_INDEX_INT64;
    ByteAppend append(d);
    append.args.cache_offsets = append.offsets({most64});
    append.args.page_table = append.indices({2, 0});
    append.args.page_indptr = append.indices({least64, most64});
    append.run();
    // The positions are 2^63 - 1 and the next two, so the entries are -1, 0 and 1.
    CHECK(append.cache_holds({3, 0, 2}));
}

TEST_CASE("elements of 8 bits lie at any address, in rows of any length", "[semantics]") {
    auto random = seeded_random();
    const std::int32_t type =
        GENERATE(KVAPPEND_ELEMENT_E4M3, KVAPPEND_ELEMENT_E5M2, KVAPPEND_ELEMENT_INT8, KVAPPEND_ELEMENT_UINT8);
    const auto addressing = GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED,
                                     KVAPPEND_ADDRESSING_SLOTS);
    Scenario scenario = appending(addressing, addressing == KVAPPEND_ADDRESSING_SLOTS ? 1 : 2, 3, 4);
    kvappend_descriptor &d = scenario.descriptor;
    d.element_type = type;
    d.k_dim = 17;
    d.v_dim = 32;
    d.cache_blocks = 4;
    d.table_entries = addressing == KVAPPEND_ADDRESSING_PAGED ? 2 : 0;
    scenario.offsets = {0, 2};
    scenario.page_table = {3, 0, 1, 2};
    scenario.slots = {5, 15, 0};
    check_every_way(scenario, random, [](Scenario &varied) {
        place_apart(varied, 128, 128);
        for (std::size_t buffer = 0; buffer < tensor_count; ++buffer) {
            varied.locations[buffer].start -= 2 * buffer + 1;
        }
    });
}

TEST_CASE("a token of four bytes is a column of vLLM's classic V cache", "[semantics]") {
    // [blocks, H, D, block] with 1 head, D 4 and blocks of 8. Slot 5 is column 5.
    kvappend_descriptor d = problem(KVAPPEND_ADDRESSING_SLOTS, 1, 1, 8);
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_UINT8;
    d.heads = 1;
    d.v_dim = 4;
    d.v_pack = 1;
    d.cache_blocks = 1;
    const Held<std::uint8_t> row({1, 2, 3, 4});
    const Held<std::uint8_t> cache(Bytes(32));
    const Held<std::int64_t> slots({5});
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.v_new = row.data();
    args.v_cache = cache.data();
    args.slots = slots.data();
    const PlanPointer plan = make_plan(d);
    REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    Bytes expected(32);
    expected[5] = 1;
    expected[8 + 5] = 2;
    expected[16 + 5] = 3;
    expected[24 + 5] = 4;
    CHECK(cache.holds(expected));
}
