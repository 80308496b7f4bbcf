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

// Draws problems until `count` of them have K or V in such a format, and checks those.
template <class Wanted>
void check_such(const Focus &focus, int count, Wanted wanted) {
    auto random = seeded_random();
    for (int i = 0; i < count;) {
        INFO("problem " << i);
        const Scenario scenario = RandomScenario(random, focus).draw();
        const kvappend_descriptor &d = scenario.descriptor;
        const bool of_k = d.k_storage != nullptr && wanted(scenario, *d.k_storage, d.k_dim, d.k_pack);
        const bool of_v = d.v_storage != nullptr && wanted(scenario, *d.v_storage, d.v_dim, d.v_pack);
        if (of_k || of_v) {
            check_scenario(scenario, random);
            ++i;
        }
    }
}

bool has_nibbles(const kvappend_storage &storage) {
    return storage.type == KVAPPEND_STORED_INT4 || storage.type == KVAPPEND_STORED_E2M1;
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
    check_such(
        {.converts = true, .wide = true}, 100, [](auto & /*scenario*/, auto &storage, auto /*dim*/, auto /*pack*/) {
            return has_nibbles(storage) && (storage.nibbles == KVAPPEND_NIBBLES_HALVES || storage.group % 2 != 0);
        });
}

TEST_CASE("given scales of groups that are converted in parts, some with elements of the next group", "[format]") {
    check_such({.converts = true, .wide = true}, 20, [](auto & /*scenario*/, auto &storage, auto dim, auto /*pack*/) {
        constexpr std::int64_t part = 512; // chunk_elements of the host
        return storage.scaling == KVAPPEND_SCALING_GIVEN && storage.group > part && storage.group < dim;
    });
}

TEST_CASE("given scales of groups in halves that are converted in parts", "[format]") {
    check_such({.converts = true, .wide = true}, 20, [](auto & /*scenario*/, auto &storage, auto dim, auto /*pack*/) {
        constexpr std::int64_t part = 512; // chunk_elements of the host
        return storage.scaling == KVAPPEND_SCALING_GIVEN && storage.nibbles == KVAPPEND_NIBBLES_HALVES &&
               storage.group > 0 && storage.group < dim && part % storage.group != 0;
    });
}

TEST_CASE("given scales of any value, some of them zero, for rows in pieces of 32 codes", "[format]") {
    check_such({.converts = true}, 40, [](auto &scenario, auto &storage, auto /*dim*/, auto pack) {
        return !scenario.tame && !scenario.gathers() && storage.scaling == KVAPPEND_SCALING_GIVEN && pack == 32 &&
               !has_nibbles(storage);
    });
}
