// SPDX-License-Identifier: Apache-2.0
// The problems of the addressing tests, and their check with all that a plan can do besides the copy.
#pragma once

#include "check_scenario.hpp"
#include "subject.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

constexpr std::int64_t least64 = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t most64 = std::numeric_limits<std::int64_t>::max();
constexpr std::int32_t least32 = std::numeric_limits<std::int32_t>::min();
constexpr std::int32_t most32 = std::numeric_limits<std::int32_t>::max();

// Two heads of K rows of 8 and V rows of 5 elements of bfloat16, so that the two go by accesses of different widths.
inline Scenario appending(std::int32_t addressing, std::int64_t batch, std::int64_t new_rows, std::int64_t cache_rows) {
    Scenario scenario;
    kvappend_descriptor &d = scenario.descriptor;
    d.element_type = KVAPPEND_ELEMENT_BF16;
    d.addressing = addressing;
    d.batch = batch;
    d.heads = 2;
    d.new_rows = new_rows;
    d.cache_rows = cache_rows;
    d.k_dim = 8;
    d.v_dim = 5;
    return scenario;
}

// Checks a gather of the rows of the scenario, without and with zeros for skipped rows.
template <class Arrange>
void check_gathers(Scenario scenario, std::mt19937_64 &random, Arrange arrange) {
    INFO("gathered");
    scenario.rotate_nothing();
    scenario.descriptor.operation = KVAPPEND_OPERATION_GATHER;
    arrange(scenario);
    check_scenario(scenario, random);
    INFO("with zeros for rows without a place, and a report");
    scenario.descriptor.flags |= KVAPPEND_FLAG_ZERO_SKIPPED | KVAPPEND_FLAG_COUNT_WRITTEN;
    scenario.descriptor.skip_policy = KVAPPEND_SKIP_REPORT;
    arrange(scenario);
    check_scenario(scenario, random);
}

// Alone; with a report over two runs; where there are offsets, advancing them over three; and backwards, as a gather.
// `arrange` lays the scenario out in memory.
template <class Arrange>
void check_every_way(const Scenario &scenario, std::mt19937_64 &random, Arrange arrange) {
    const auto check = [&](const char *way, std::int32_t policy, std::int32_t flags, int runs) {
        INFO(way);
        Scenario varied = scenario;
        varied.descriptor.skip_policy = policy;
        varied.descriptor.flags |= flags;
        arrange(varied);
        check_scenario(varied, random, runs);
    };
    check("silently", KVAPPEND_SKIP_SILENTLY, 0, 1);
    if (subject().backend() == KVAPPEND_BACKEND_CUDA) {
        check("launched programmatically", KVAPPEND_SKIP_SILENTLY, KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH, 1);
    } else {
        INFO("with threads of the plan, which sleep while so little is copied");
        Scenario threaded = scenario;
        threaded.host_threads = 2;
        arrange(threaded);
        check_scenario(threaded, random);
    }
    check("with a report", KVAPPEND_SKIP_REPORT, 0, 2);
    check("with a report of its own", KVAPPEND_SKIP_REPORT, KVAPPEND_FLAG_RESET_REPORT | KVAPPEND_FLAG_COUNT_WRITTEN,
          2);
    constexpr std::int32_t ends = KVAPPEND_FLAG_END_OFFSETS | KVAPPEND_FLAG_LAST_PAGE_LENGTHS; // which do not advance
    if (asks_for(scenario.descriptor, offsets_index) && (scenario.descriptor.flags & ends) == 0) {
        check("advancing", KVAPPEND_SKIP_SILENTLY, KVAPPEND_FLAG_ADVANCE, 3);
        check("advancing with a report", KVAPPEND_SKIP_REPORT, KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_COUNT_WRITTEN, 3);
    }
    if (scenario.kernel.empty() && (scenario.descriptor.flags & KVAPPEND_FLAG_ADVANCE) == 0) {
        check_gathers(scenario, random, arrange);
    }
}

inline void check_every_way(const Scenario &scenario, std::mt19937_64 &random) {
    check_every_way(scenario, random, [](Scenario &varied) { place_apart(varied, 128, 128); });
}
