// SPDX-License-Identifier: Apache-2.0
// Caches of samples: rings and sinks, and the block that is a sample's by batch_index.
#include "every_way.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

TEST_CASE("a ring goes round at its end, each sample at its own", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_RING, 6, 3, 5);
    scenario.offsets = {0, 2, 3, 4, 5, 1000003};
    check_every_way(scenario, random);
    scenario.descriptor.offset_type = KVAPPEND_OFFSET_INT32;
    check_every_way(scenario, random);
}

TEST_CASE("a ring leaves its sinks alone once they are written", "[addressing]") {
    auto random = seeded_random();
    const std::int64_t sinks = GENERATE(1, 2, 4, 5);
    Scenario scenario = appending(KVAPPEND_ADDRESSING_RING, 9, 3, 6);
    scenario.descriptor.sink_rows = sinks;
    scenario.offsets = {0, 1, 2, 3, 4, 5, 6, 7, 1000001};
    check_every_way(scenario, random);
}

TEST_CASE("a ring of sinks alone has no place behind them", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_RING, 5, 3, 4);
    scenario.descriptor.sink_rows = 4;
    scenario.offsets = {0, 1, 3, 4, most64};
    check_every_way(scenario, random);
}

TEST_CASE("of more rows than a ring holds the last ones are kept", "[addressing]") {
    auto random = seeded_random();
    const std::int64_t sinks = GENERATE(0, 1, 3);
    const std::int64_t new_rows = GENERATE(4, 5, 11, 40);
    Scenario scenario = appending(KVAPPEND_ADDRESSING_RING, 7, new_rows, 4);
    scenario.descriptor.sink_rows = sinks;
    scenario.offsets = {0, 1, 3, 4, -2, -7, 1000};
    check_every_way(scenario, random);
}

TEST_CASE("a ring of one row keeps the last row", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_RING, 4, 3, 1);
    scenario.offsets = {0, 7, -1, -3};
    check_every_way(scenario, random);
}

TEST_CASE("a ring goes round at positions beyond every integer, and skips negative ones", "[addressing]") {
    auto random = seeded_random();
    const std::int64_t sinks = GENERATE(0, 2);
    Scenario scenario = appending(KVAPPEND_ADDRESSING_RING, 10, 4, 7);
    scenario.descriptor.sink_rows = sinks;
    scenario.offsets = {most64, most64 - 1, most64 - 2, most64 - 3, most64 - 4, least64, least64 + 1, -1, -3, -4};
    check_every_way(scenario, random);

    SECTION("more rows than the window there") {
        scenario.descriptor.new_rows = 17;
        check_every_way(scenario, random);
    }
    SECTION("at the extremes of int32") {
        scenario.descriptor.offset_type = KVAPPEND_OFFSET_INT32;
        scenario.offsets = {most32, most32 - 1, most32 - 2, most32 - 3, most32 - 4, least32, least32 + 1, -1, -3, -4};
        check_every_way(scenario, random);
    }
}

TEST_CASE("offsets that advance stop at the greatest value of their type", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_DENSE, 6, 5, 8);
    scenario.offsets = {most64, most64 - 1, most64 - 4, most64 - 5, most64 - 6, least64};
    check_every_way(scenario, random);
    scenario.descriptor.offset_type = KVAPPEND_OFFSET_INT32;
    scenario.offsets = {most32, most32 - 1, most32 - 4, most32 - 5, most32 - 6, least32};
    check_every_way(scenario, random);
}

TEST_CASE("without offsets every sample begins at position 0", "[addressing]") {
    auto random = seeded_random();
    const std::int32_t addressing = GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING);
    const std::int64_t new_rows = GENERATE(1, 4, 9);
    Scenario scenario = appending(addressing, 3, new_rows, 6);
    scenario.descriptor.flags = KVAPPEND_FLAG_ZERO_OFFSETS;
    check_every_way(scenario, random);
}

TEST_CASE("batch_index puts each sample into its block of a larger cache", "[addressing]") {
    auto random = seeded_random();
    const std::int32_t addressing = GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING);
    Scenario scenario = appending(addressing, 4, 3, 5);
    scenario.descriptor.flags = KVAPPEND_FLAG_BATCH_INDEX;
    scenario.offsets = {0, 2, 4, -1};
    SECTION("a permutation, by as many blocks as samples") {
        scenario.batch_index = {2, 0, 3, 1};
        check_every_way(scenario, random);
        scenario.descriptor.cache_blocks = 4;
        check_every_way(scenario, random);
    }
    SECTION("some of many blocks") {
        scenario.descriptor.cache_blocks = 11;
        scenario.batch_index = {10, 0, 7, 3};
        check_every_way(scenario, random);
    }
    SECTION("fewer blocks than samples") {
        scenario.descriptor.cache_blocks = 2;
        scenario.batch_index = {-1, 1, -1, 0};
        check_every_way(scenario, random);
    }
    SECTION("indices of no block") {
        scenario.descriptor.cache_blocks = 5;
        for (const auto &indices : {std::vector<std::int64_t>{-1, 3, 5, 0}, {least32, most32, 6, -2}}) {
            scenario.batch_index = indices;
            check_every_way(scenario, random);
            // A sample with a negative position is below the cache, whatever its block.
            scenario.offsets = {-3, -9, -2, -1};
            check_every_way(scenario, random);
        }
    }
}

TEST_CASE("a cache of more blocks than samples leaves the others alone", "[addressing]") {
    auto random = seeded_random();
    const std::int32_t addressing = GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING);
    Scenario scenario = appending(addressing, 2, 3, 5);
    scenario.descriptor.cache_blocks = 4;
    scenario.offsets = {1, 3};
    check_every_way(scenario, random);
}

TEST_CASE("samples that share a block by mistake write nothing outside it", "[addressing]") {
    auto random = seeded_random();
    const std::int32_t addressing = GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING);
    Scenario scenario = appending(addressing, 3, 4, 5);
    scenario.descriptor.flags = KVAPPEND_FLAG_BATCH_INDEX;
    scenario.descriptor.cache_blocks = 3;
    scenario.offsets = {0, 1, 3};
    scenario.batch_index = {1, 1, 1};
    scenario.caches_open = true;
    check_every_way(scenario, random);
}
