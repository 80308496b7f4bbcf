// SPDX-License-Identifier: Apache-2.0
// Random problems that store rows in other formats, with every kernel for them: every byte as the reference has it.
#include "check_scenario.hpp"
#include "random_scenario.hpp"

#include <catch2/catch_test_macros.hpp>

TEST_CASE("random problems in all formats agree with the reference in every byte", "[format]") {
    auto random = seeded_random();
    for (int i = 0; i < 1500; ++i) {
        INFO("problem " << i);
        check_scenario(RandomScenario(random, {.converts = true}).draw(), random, 2);
    }
}

TEST_CASE("every kernel stores the same bytes in all formats", "[format]") {
    auto random = seeded_random();
    for (const std::string &name : kernels_of_subject()) {
        int served = 0;
        for (int i = 0; i < 200; ++i) {
            INFO("problem " << i);
            Scenario scenario = RandomScenario(random, {.converts = true}).draw();
            scenario.kernel = name;
            if (kernel_serves(scenario)) {
                check_scenario(scenario, random);
                ++served;
            }
        }
        INFO(name << " served " << served << " problems");
        CHECK((served > 0 || name.find("convert") == std::string::npos));
    }
}
