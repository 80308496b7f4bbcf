// SPDX-License-Identifier: Apache-2.0
// Whole calls that take a special way of a backend, with indices at each of its edges. No other memory is next to a
// buffer, so an access just outside a buffer is outside all memory. If only one backend has a way, the other does the
// same call in its own way.
#include "draw.hpp"
#include "every_way.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

namespace {

void check(Scenario scenario, std::mt19937_64 &random) {
    place_apart(scenario, 0, 0);
    check_scenario(scenario, random);
}

// Rows of 16 bytes of K and of V: a thread of a device copies one vector of each.
Scenario of_vectors(std::int32_t addressing, std::int64_t new_rows) {
    Scenario scenario = appending(addressing, 2, new_rows, 4);
    scenario.descriptor.element_type = KVAPPEND_ELEMENT_F32;
    scenario.descriptor.k_dim = scenario.descriptor.v_dim = 4;
    return scenario;
}

// Two samples of two entries, pages of four rows. The number of pages is 3, or a power of two.
Scenario of_pages(std::int64_t pages) {
    Scenario scenario = of_vectors(KVAPPEND_ADDRESSING_PAGED, 2);
    scenario.descriptor.cache_blocks = pages;
    scenario.descriptor.table_entries = 2;
    scenario.page_table = {2, 0, -1, 1};
    scenario.offsets = {0, 5};
    return scenario;
}

// The widths that K and V may have together: equal, different, K alone, V alone, and no whole vectors.
struct Widths {
    std::int64_t k;
    std::int64_t v;
};
constexpr Widths widths[] = {{4, 4}, {4, 8}, {8, 0}, {0, 4}, {3, 4}, {5, 5}};

void give(Scenario &scenario, const Widths &of) {
    scenario.descriptor.k_dim = of.k;
    scenario.descriptor.v_dim = of.v;
}

} // namespace

TEST_CASE("entries that are not pages, among entries that are", "[addressing]") {
    auto random = seeded_random();
    const std::int64_t pages = GENERATE(3, 4);
    Scenario scenario = of_pages(pages);
    kvappend_descriptor &d = scenario.descriptor;
    // The rule of plain samples does not serve the last two.
    d.flags = GENERATE(0, +KVAPPEND_FLAG_LEFT_PADS, +KVAPPEND_FLAG_ZERO_OFFSETS);
    scenario.left_pads = {0, 1};
    const auto last = static_cast<std::int32_t>(pages - 1);
    for (const std::int32_t page : {-1, last + 1, last, 0, 1, least32, most32, -last, last + 2}) {
        for (std::size_t entry = 0; entry < 4; ++entry) {
            for (const std::int64_t first : {0, 3}) {
                // The other entries name no page, because otherwise the same page would be written twice.
                scenario.page_table = {-1, -1, -1, -1};
                scenario.page_table[entry] = page;
                scenario.page_table[entry ^ 1U] = page == 0 ? 1 : 0;
                scenario.offsets = {first, first};
                check(scenario, random);
            }
        }
    }
}

TEST_CASE("positions at the end of a table, and far beyond", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = of_pages(4);
    kvappend_descriptor &d = scenario.descriptor;
    scenario.page_table = {2, 0, 3, 1};
    d.offset_type = GENERATE(KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32);
    d.flags = GENERATE(0, +KVAPPEND_FLAG_LEFT_PADS);
    scenario.left_pads = {1, -1};
    std::vector<std::int64_t> offsets = {-3, -2, -1, 0, 3, 4, 6, 7, 8, 9, most32 - 1, most32, least32, least32 + 1};
    if (d.offset_type == KVAPPEND_OFFSET_INT64) {
        offsets.insert(offsets.end(), {most64, most64 - 1, least64, least64 + 1, std::int64_t{1} << 32,
                                       (std::int64_t{1} << 33) - 1, (std::int64_t{1} << 34) + 5});
    }
    for (const std::int64_t first : offsets) {
        for (const std::int64_t second : {std::int64_t{2}, first}) {
            scenario.offsets = {first, second};
            check(scenario, random);
        }
    }
}

TEST_CASE("slots at the end of the cache, and far beyond", "[addressing]") {
    auto random = seeded_random();
    const std::int64_t pages = GENERATE(3, 4);
    const std::int64_t count = pages * 4;
    Scenario scenario = of_vectors(KVAPPEND_ADDRESSING_SLOTS, 3);
    kvappend_descriptor &d = scenario.descriptor;
    d.batch = 1;
    d.cache_blocks = pages;
    d.offset_type = GENERATE(KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32);
    std::vector<std::int64_t> slots = {-1,        -2,     0,       count - 1,  count,       count + 1,
                                       2 * count, most32, least32, most32 - 3, least32 + 3, -count};
    if (d.offset_type == KVAPPEND_OFFSET_INT64) {
        slots.insert(slots.end(), {most64, least64, most64 - 3, least64 + 3, std::int64_t{1} << 32,
                                   (std::int64_t{1} << 32) + 1, (std::int64_t{1} << 34) + 5, -(std::int64_t{1} << 32)});
    }
    for (const std::int64_t slot : slots) {
        for (std::size_t token = 0; token < 3; ++token) {
            scenario.slots = {4, 5, 6};
            scenario.slots[token] = slot;
            check(scenario, random);
        }
    }
    SECTION("with a reserved slot at either end") {
        d.flags = KVAPPEND_FLAG_RESERVED_SLOT;
        for (const std::int64_t reserved : {std::int64_t{0}, count - 1, count, std::int64_t{5}}) {
            d.reserved_slot = reserved;
            scenario.slots = {reserved, 4, reserved};
            check(scenario, random);
            scenario.slots = {4, 5, 6};
            check(scenario, random);
        }
    }
}

TEST_CASE("dense rows that begin before the cache, end after it, or both", "[dense]") {
    auto random = seeded_random();
    Scenario scenario = of_vectors(KVAPPEND_ADDRESSING_DENSE, 1);
    kvappend_descriptor &d = scenario.descriptor;
    for (const Widths &of : widths) {
        give(scenario, of);
        for (std::int64_t new_rows = 1; new_rows <= 7; ++new_rows) {
            d.new_rows = new_rows;
            for (std::int64_t first = -new_rows - 1; first <= d.cache_rows + 1; ++first) {
                scenario.offsets = {first, d.cache_rows - new_rows - first};
                check(scenario, random);
            }
        }
    }
}

TEST_CASE("one dense row for each sample, at each row of its cache and just outside it", "[dense]") {
    auto random = seeded_random();
    Scenario scenario = of_vectors(KVAPPEND_ADDRESSING_DENSE, 1);
    kvappend_descriptor &d = scenario.descriptor;
    d.batch = 9;
    scenario.offsets = {-1, 0, 1, d.cache_rows - 1, d.cache_rows, most64, least64, least64 + 1, 2};
    for (const Widths &of : widths) {
        give(scenario, of);
        for (const std::int64_t heads : {1, 2, 3}) {
            d.heads = heads;
            check(scenario, random);
        }
    }
}

TEST_CASE("rows of a ring that later rows replace, in vectors and otherwise", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = of_vectors(KVAPPEND_ADDRESSING_RING, 1);
    kvappend_descriptor &d = scenario.descriptor;
    for (const Widths &of : widths) {
        give(scenario, of);
        for (const std::int64_t sinks : {0, 1, 3, 4}) {
            d.sink_rows = sinks;
            for (const std::int64_t new_rows : {1, 3, 4, 5, 9, 13}) {
                d.new_rows = new_rows;
                for (const std::int64_t first : {-10, -5, -1, 0, 1, 3, 4, 7}) {
                    scenario.offsets = {first, 6 - first};
                    check(scenario, random);
                }
            }
        }
    }
}

TEST_CASE("rows in pieces, of every size of an access", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = of_pages(4);
    kvappend_descriptor &d = scenario.descriptor;
    scenario.page_table = {2, 0, 3, 1};
    scenario.offsets = {3, -1};
    d.element_type = KVAPPEND_ELEMENT_BF16;
    for (const std::int64_t pack : {1, 2, 4, 8, 16, 32}) {
        for (const std::int64_t pieces : {1, 2, 3}) {
            for (const std::int64_t room : {0, 1, 8}) {
                d.k_dim = d.v_dim = pack * pieces;
                d.k_pack = pack;
                // For each head, the first piece of all rows, then the second, and so on, with gaps between them.
                d.k_cache_strides[KVAPPEND_AXIS_ROW] = pack;
                d.k_piece_stride = d.cache_rows * pack + room;
                d.k_cache_strides[KVAPPEND_AXIS_HEAD] = d.k_piece_stride * pieces;
                d.k_cache_strides[KVAPPEND_AXIS_BATCH] = d.k_cache_strides[KVAPPEND_AXIS_HEAD] * d.heads;
                check(scenario, random);
            }
        }
    }
}

namespace {

// Rows of K alone, whose elements are moderate numbers.
Scenario k_in_pieces(std::int64_t pack, std::int64_t pieces) {
    Scenario scenario = of_vectors(KVAPPEND_ADDRESSING_DENSE, 2);
    scenario.offsets = {0, 1};
    scenario.tame = true;
    scenario.descriptor.v_dim = 0;
    scenario.descriptor.k_pack = pack;
    scenario.descriptor.k_dim = pieces * pack;
    return scenario;
}

// Appends K as E4M3, and gathers it.
void check_as_e4m3(Scenario scenario) {
    auto random = seeded_random();
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    storage.type = KVAPPEND_STORED_E4M3;
    scenario.store_k(storage);
    for (const std::int32_t operation : {KVAPPEND_OPERATION_APPEND, KVAPPEND_OPERATION_GATHER}) {
        scenario.descriptor.operation = operation;
        place_apart(scenario, 0, 0);
        check_scenario(scenario, random);
    }
}

} // namespace

TEST_CASE("rows in pieces, where what is converted together ends within a piece", "[format]") {
    auto random = seeded_random();
    // The host encodes a piece of 32 codes at once. A row is more than it converts together, which are whole groups.
    Scenario scenario = k_in_pieces(32, 24);
    const kvappend_descriptor &d = scenario.descriptor;
    for (const std::int64_t group : {24, 96}) {
        kvappend_storage storage = KVAPPEND_STORAGE_INIT;
        storage.type = KVAPPEND_STORED_INT8;
        storage.scaling = KVAPPEND_SCALING_COMPUTED;
        storage.group = group;
        const std::int64_t row_bytes = d.k_dim / group * 4;
        const std::array<std::int64_t, 4> strides = {d.heads * d.cache_rows * row_bytes, d.cache_rows * row_bytes,
                                                     row_bytes, 4};
        std::ranges::copy(strides, storage.scale_strides);
        scenario.store_k(storage);
        for (const std::string &name : kernels_of_subject()) {
            scenario.kernel = name;
            place_apart(scenario, 0, 0);
            if (kernel_serves(scenario)) {
                check_scenario(scenario, random, 4);
            }
        }
    }
}

TEST_CASE("rows in pieces that are larger than what the host converts together", "[format]") {
    check_as_e4m3(k_in_pieces(1024, 2));
}

TEST_CASE("heads whose pieces lie between those of other heads are not one row", "[format]") {
    Scenario scenario = k_in_pieces(32, 2);
    kvappend_descriptor &d = scenario.descriptor;
    // The pieces of a head are 128 bytes apart. Head 1 begins after the bytes of one row, in a gap.
    d.heads = 2;
    d.k_piece_stride = 128;
    d.k_cache_strides[KVAPPEND_AXIS_HEAD] = 64;
    d.k_cache_strides[KVAPPEND_AXIS_ROW] = 256;
    d.k_cache_strides[KVAPPEND_AXIS_BATCH] = d.cache_rows * 256;
    // The heads of a new row are adjacent.
    d.k_new_strides[KVAPPEND_AXIS_HEAD] = d.k_dim;
    d.k_new_strides[KVAPPEND_AXIS_ROW] = d.heads * d.k_dim;
    d.k_new_strides[KVAPPEND_AXIS_BATCH] = d.new_rows * d.heads * d.k_dim;
    check_as_e4m3(scenario);
}
