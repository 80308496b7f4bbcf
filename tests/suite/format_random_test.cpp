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

namespace {

// Runs problems with each kernel of the subject.
void check_all_kernels(const Focus &focus, int problems) {
    auto random = seeded_random();
    for (const std::string &name : kernels_of_subject()) {
        int served = 0;
        for (int i = 0; i < problems; ++i) {
            INFO("problem " << i);
            Scenario scenario = RandomScenario(random, focus).draw();
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

bool shares_bytes(const kvappend_storage *storage) {
    return storage != nullptr && (storage->nibbles == KVAPPEND_NIBBLES_HALVES || storage->group % 2 != 0) &&
           (storage->type == KVAPPEND_STORED_INT4 || storage->type == KVAPPEND_STORED_E2M1);
}

} // namespace

TEST_CASE("every kernel stores the same bytes in all formats", "[format]") {
    check_all_kernels({.converts = true}, 200);
}

TEST_CASE("every kernel stores the same bytes of rows that are converted in parts", "[format]") {
    check_all_kernels({.converts = true, .wide = true}, 60);
}

TEST_CASE("a byte has elements that are far apart or of two groups, also where rows are converted in parts",
          "[format]") {
    auto random = seeded_random();
    for (int i = 0; i < 100;) {
        INFO("problem " << i);
        const Scenario scenario = RandomScenario(random, {.converts = true, .wide = true}).draw();
        if (shares_bytes(scenario.descriptor.k_storage) || shares_bytes(scenario.descriptor.v_storage)) {
            check_scenario(scenario, random);
            ++i;
        }
    }
}
