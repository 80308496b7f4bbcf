// SPDX-License-Identifier: Apache-2.0
// Samples with numbers of rows of their own: lengths, packed tensors and left pads, with every addressing of samples.
#include "every_way.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <numeric>

namespace {

// Five samples with room for 20 positions, before and behind which they reach.
Scenario five_samples(std::int32_t addressing, std::int64_t new_rows) {
    Scenario scenario = appending(addressing, 5, new_rows, 20);
    scenario.offsets = {0, 7, 17, -2, 11};
    if (addressing == KVAPPEND_ADDRESSING_RING) {
        scenario.descriptor.cache_rows = 6;
        scenario.descriptor.sink_rows = 1;
    }
    if (addressing == KVAPPEND_ADDRESSING_PAGED || addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
        scenario.descriptor.cache_rows = 4;
        scenario.descriptor.cache_blocks = 26;
        scenario.page_table.resize(25);
        std::iota(scenario.page_table.rbegin(), scenario.page_table.rend(), 1);
        scenario.descriptor.table_entries = addressing == KVAPPEND_ADDRESSING_PAGED ? 5 : 25;
        scenario.page_indptr = {0, 5, 10, 15, 20, 25};
    }
    return scenario;
}

#define EVERY_ADDRESSING                                                                                               \
    GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED,                           \
             KVAPPEND_ADDRESSING_PAGED_CSR)

} // namespace

TEST_CASE("each sample has its own number of rows", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = five_samples(EVERY_ADDRESSING, 8);
    scenario.descriptor.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    for (const auto &lengths :
         {std::vector<std::int64_t>{8, 1, 0, 5, 3}, {0, 0, 0, 0, 0}, {-1, least32, 8, 9, most32}, {7, 8, 9, -3, 1}}) {
        scenario.lengths = lengths;
        check_every_way(scenario, random);
    }
}

TEST_CASE("left pads are skipped, and the row behind them is the first", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = five_samples(EVERY_ADDRESSING, 8);
    scenario.descriptor.flags = KVAPPEND_FLAG_LEFT_PADS;
    for (const auto &pads : {std::vector<std::int64_t>{0, 1, 7, 5, 3}, {8, 9, most32, 2, 0}}) {
        scenario.left_pads = pads;
        check_every_way(scenario, random);
    }
    SECTION("negative ones are none") {
        scenario.left_pads = {-1, least32, -8, 0, 2};
        check_every_way(scenario, random);
    }
    SECTION("with lengths, which count from that row on") {
        scenario.descriptor.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
        scenario.left_pads = {0, 3, 7, 5, 8};
        for (const auto &lengths :
             {std::vector<std::int64_t>{8, 5, 1, 2, 1}, {3, 6, 2, 0, 8}, {-1, most32, most32, least32, most32}}) {
            scenario.lengths = lengths;
            check_every_way(scenario, random);
        }
        scenario.left_pads = {most32, most32, 1, 0, most32};
        check_every_way(scenario, random);
    }
}

TEST_CASE("packed samples have the tokens between their bounds", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = five_samples(EVERY_ADDRESSING, 23);
    scenario.descriptor.lengths = KVAPPEND_LENGTHS_PACKED;
    SECTION("all tokens are of a sample") {
        scenario.lengths = {0, 4, 10, 15, 22, 23};
        check_every_way(scenario, random);
    }
    SECTION("samples without tokens, at the beginning, between others and at the end") {
        scenario.lengths = {0, 0, 9, 9, 23, 23};
        check_every_way(scenario, random);
        scenario.lengths = {23, 23, 23, 23, 23, 23};
        check_every_way(scenario, random);
    }
    SECTION("tokens before the first sample and behind the last") {
        scenario.lengths = {3, 5, 5, 14, 18, 20};
        check_every_way(scenario, random);
        scenario.lengths = {0, 0, 0, 0, 0, 0};
        check_every_way(scenario, random);
    }
    SECTION("one token of each sample, as in a step of decoding") {
        scenario.descriptor.new_rows = 5;
        scenario.lengths = {0, 1, 2, 3, 4, 5};
        check_every_way(scenario, random);
    }
    SECTION("bounds behind the last token") {
        scenario.lengths = {0, 4, 10, 15, 22, most32};
        check_every_way(scenario, random);
        scenario.lengths = {20, 22, 30, 31, 50, most32};
        check_every_way(scenario, random);
    }
    SECTION("by strides, of which that of the batch is not used") {
        kvappend_descriptor &d = scenario.descriptor;
        scenario.lengths = {0, 4, 10, 15, 22, 23};
        d.k_new_strides[KVAPPEND_AXIS_HEAD] = 8;
        d.k_new_strides[KVAPPEND_AXIS_ROW] = 40;
        d.v_new_strides[KVAPPEND_AXIS_BATCH] = 12345; // of an axis that is not there
        d.v_new_strides[KVAPPEND_AXIS_HEAD] = 23 * 5;
        d.v_new_strides[KVAPPEND_AXIS_ROW] = 5;
        check_every_way(scenario, random);
    }
}

TEST_CASE("a packed bound below 0 is that of a sample whose first tokens are not there", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = five_samples(EVERY_ADDRESSING, 12);
    scenario.descriptor.lengths = KVAPPEND_LENGTHS_PACKED;
    scenario.lengths = {-3, 2, 5, 5, 9, 12};
    place_apart(scenario, 128, 128);
    check_scenario(scenario, random);
    scenario.lengths = {least32, -5, -2, 3, 9, 12};
    place_apart(scenario, 128, 128);
    check_scenario(scenario, random);
}

TEST_CASE("packed bounds that decrease write nothing outside the caches", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = five_samples(EVERY_ADDRESSING, 12);
    scenario.descriptor.lengths = KVAPPEND_LENGTHS_PACKED;
    scenario.rows_open = true;
    for (const auto &lengths : {std::vector<std::int64_t>{0, 9, 4, 7, 2, 12},
                                {12, 9, 7, 5, 3, 0},
                                {most32, least32, most32, least32, most32, least32},
                                {least32, most32, 0, 12, -1, 13},
                                {5, 5, 4, 4, 100, -100}}) {
        scenario.lengths = lengths;
        check_every_way(scenario, random, [](Scenario &varied) { place_apart(varied, 0, 0); });
        check_every_way(scenario, random);
    }
}

TEST_CASE("ragged samples of blocks by batch_index", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = five_samples(GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING), 8);
    scenario.descriptor.flags = KVAPPEND_FLAG_BATCH_INDEX;
    scenario.descriptor.cache_blocks = 7;
    scenario.batch_index = {6, -1, 0, 7, 3};
    SECTION("lengths and pads") {
        scenario.descriptor.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
        scenario.descriptor.flags |= KVAPPEND_FLAG_LEFT_PADS;
        scenario.lengths = {8, 2, 3, 1, 0};
        scenario.left_pads = {0, 2, 3, 5, 1};
        check_every_way(scenario, random);
    }
    SECTION("packed") {
        scenario.descriptor.lengths = KVAPPEND_LENGTHS_PACKED;
        scenario.lengths = {0, 1, 3, 3, 5, 7};
        check_every_way(scenario, random);
        scenario.batch_index = {0, 5, 2, 4, 1};
        check_every_way(scenario, random);
    }
}

TEST_CASE("packed tokens of vLLM's classic layout, and of pools", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = five_samples(EVERY_ADDRESSING, 23);
    kvappend_descriptor &d = scenario.descriptor;
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    scenario.lengths = {0, 4, 10, 15, 22, 23};
    d.k_dim = 16;
    d.k_pack = 8;
    d.v_pack = 1;
    check_every_way(scenario, random);
}
