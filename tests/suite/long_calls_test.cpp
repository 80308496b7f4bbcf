// SPDX-License-Identifier: Apache-2.0
// Random calls that are long for a device of one multiprocessor: each thread copies several vectors, which are a whole
// grid apart.
#include "check_scenario.hpp"
#include "random_scenario.hpp"

#include "../support/emulation/emulation.hpp"

#include <catch2/catch_test_macros.hpp>

TEST_CASE("random long calls that take a special way agree with the reference in every byte", "[faults]") {
    emulation::reset();
    emulation::set_multiprocessors(0, 1);
    auto random = seeded_random();
    for (std::size_t i = 0; i < 6 * Focus::count; ++i) {
        Focus focus = Focus::of(i);
        focus.least_bytes = 280000; // a long append has 2048 vectors of 16 bytes, a long gather 16384
        check_scenario(RandomScenario(random, focus).draw(), random);
    }
    emulation::reset();
}
