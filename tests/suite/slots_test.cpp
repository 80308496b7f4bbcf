// SPDX-License-Identifier: Apache-2.0
// A slot for each token: slots of padding, of no page, and pages of any size.
#include "every_way.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

namespace {

Scenario tokens(std::int64_t blocks, std::int64_t block_rows, std::vector<std::int64_t> slots) {
    Scenario scenario = appending(KVAPPEND_ADDRESSING_SLOTS, 1, static_cast<std::int64_t>(slots.size()), block_rows);
    scenario.descriptor.cache_blocks = blocks;
    scenario.slots = std::move(slots);
    return scenario;
}

} // namespace

TEST_CASE("each token goes to its slot, by pages of any size and slots of either type", "[addressing]") {
    auto random = seeded_random();
    const std::int64_t page = GENERATE(1, 7, 16, 64);
    Scenario scenario = tokens(5, page, {0, 3 * page, 5 * page - 1, 2 * page, 3 * page - 1, 4 * page});
    if (page == 1) {
        scenario.slots = {0, 3, 4, 2, -1, 1};
    }
    scenario.descriptor.offset_type = GENERATE(KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32);
    check_every_way(scenario, random);
}

TEST_CASE("negative slots are padding, and slots beyond the cache are skipped", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = tokens(3, 7, {-1, 20, 21, 5, -2, 22, 0, 1000, 13});
    check_every_way(scenario, random);
    SECTION("the extremes of int64") {
        scenario.slots = {most64, least64, most64 - 1, 4, least64 + 1, -1, 20, 21, 3};
        check_every_way(scenario, random);
    }
    SECTION("the extremes of int32") {
        scenario.descriptor.offset_type = KVAPPEND_OFFSET_INT32;
        scenario.slots = {most32, least32, most32 - 1, 4, least32 + 1, -1, 20, 21, 3};
        check_every_way(scenario, random);
    }
    SECTION("the first page that there is not, where a product of int32 would wrap around") {
        scenario.slots = {
            std::int64_t{1} << 32, (std::int64_t{1} << 32) + 3, std::int64_t{7} << 32, 4, 21, -1, 20, 27, 3};
        check_every_way(scenario, random);
    }
    SECTION("no token but padding") {
        scenario.slots.assign(9, -1);
        check_every_way(scenario, random);
    }
}

TEST_CASE("the reserved slot is padding", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = tokens(3, 4, {5, 0, 0, 11, 12, -1, 7, 0});
    scenario.descriptor.flags = KVAPPEND_FLAG_RESERVED_SLOT;
    SECTION("slot 0, as vLLM's null block begins") {
        check_every_way(scenario, random);
    }
    SECTION("the last slot") {
        scenario.descriptor.reserved_slot = 11;
        scenario.slots = {11, 5, 11, 0, 12, -1, 7, 11};
        check_every_way(scenario, random);
    }
    SECTION("a slot that the cache does not have, so that it is not above it") {
        scenario.descriptor.reserved_slot = 12;
        scenario.slots = {11, 5, 12, 0, 13, -1, 7, 12};
        check_every_way(scenario, random);
        scenario.descriptor.reserved_slot = most64;
        scenario.slots = {11, 5, most64, 0, 13, -1, 7, most64 - 1};
        check_every_way(scenario, random);
    }
    SECTION("a value that no int32 has") {
        scenario.descriptor.offset_type = KVAPPEND_OFFSET_INT32;
        scenario.descriptor.reserved_slot = (std::int64_t{1} << 32) + 5;
        scenario.slots = {5, 0, 1, 11, 12, -1, 7, 2};
        check_every_way(scenario, random);
    }
    SECTION("a negative one") {
        scenario.descriptor.reserved_slot = -1;
        scenario.slots = {5, 0, 1, 11, 12, -1, 7, 2};
        check_every_way(scenario, random);
    }
}

TEST_CASE("tokens of one slot by mistake write nothing outside it", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = tokens(3, 4, {5, 5, 5, 7, 7, 11});
    scenario.caches_open = true;
    check_every_way(scenario, random);
}

TEST_CASE("tokens of vLLM's tensors [T, H, D], by strides", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = tokens(4, 16, {17, 18, 63, 0, -1, 33});
    kvappend_descriptor &d = scenario.descriptor;
    // A projection of queries, K and V: rows of 3 * (8 + 5) * 2 elements.
    const std::int64_t step = 96;
    d.k_new_strides[KVAPPEND_AXIS_HEAD] = 8;
    d.v_new_strides[KVAPPEND_AXIS_HEAD] = 5;
    d.k_new_strides[KVAPPEND_AXIS_ROW] = d.v_new_strides[KVAPPEND_AXIS_ROW] = step;
    check_every_way(scenario, random, [](Scenario &varied) {
        place_apart(varied, 128, 128);
        share_block(varied, v_new, k_new, 16);
    });
}

TEST_CASE("vLLM's classic layout: K in pieces of 16 bytes, V in pieces of one element", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = tokens(3, 16, {17, 18, 47, 0, -1, 33, 48});
    kvappend_descriptor &d = scenario.descriptor;
    d.element_type = GENERATE(KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F64, KVAPPEND_ELEMENT_BF16);
    d.k_dim = 64;
    d.v_dim = 24;
    d.k_pack = static_cast<std::int64_t>(16 / element_bytes(d.element_type));
    d.v_pack = 1;
    check_every_way(scenario, random);

    SECTION("with room between the pieces, the heads and the pages") {
        const std::int64_t rows = d.cache_rows;
        d.k_cache_strides[KVAPPEND_AXIS_ROW] = d.k_pack;
        d.k_piece_stride = rows * d.k_pack + 16;
        d.k_cache_strides[KVAPPEND_AXIS_HEAD] = d.k_piece_stride * (d.k_dim / d.k_pack);
        d.k_cache_strides[KVAPPEND_AXIS_BATCH] = 2 * d.k_cache_strides[KVAPPEND_AXIS_HEAD] + 3;
        d.v_cache_strides[KVAPPEND_AXIS_ROW] = 1;
        d.v_piece_stride = rows + 1;
        d.v_cache_strides[KVAPPEND_AXIS_HEAD] = d.v_piece_stride * d.v_dim + 5;
        d.v_cache_strides[KVAPPEND_AXIS_BATCH] = 2 * d.v_cache_strides[KVAPPEND_AXIS_HEAD];
        check_every_way(scenario, random);
    }
    SECTION("pieces of the whole row, and of half of it") {
        d.k_pack = d.k_dim;
        d.v_pack = 8;
        check_every_way(scenario, random);
        d.k_pack = d.k_dim / 2;
        d.v_pack = 4;
        check_every_way(scenario, random);
    }
}
