// SPDX-License-Identifier: Apache-2.0
// Random combinations of addressing, lengths, flags, layouts and policies, with indices that lead nowhere among them.
#include "check_scenario.hpp"
#include "random_scenario.hpp"

#include <catch2/catch_test_macros.hpp>

namespace {

constexpr int runs = RandomScenario<std::mt19937_64>::runs;
constexpr std::int32_t most32 = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t least32 = std::numeric_limits<std::int32_t>::min();
constexpr std::int64_t most64 = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least64 = std::numeric_limits<std::int64_t>::min();

} // namespace

TEST_CASE("random addressing, lengths, layouts and policies agree with the reference in every byte", "[addressing]") {
    auto random = seeded_random();
    for (int i = 0; i < 1000; ++i) {
        check_scenario(RandomScenario(random).draw(), random, runs);
    }
}

TEST_CASE("random problems that take a special way agree with the reference in every byte", "[addressing]") {
    auto random = seeded_random();
    for (std::size_t i = 0; i < 100 * Focus::count; ++i) {
        check_scenario(RandomScenario(random, Focus::of(i)).draw(), random, runs);
    }
}

TEST_CASE("random layers that take special ways agree with the reference", "[layers]") {
    auto random = seeded_random();
    for (std::size_t i = 0; i < 4 * Focus::count; ++i) {
        // Two layers of one way, and one of another.
        const Scenario first = RandomScenario(random, Focus::of(i)).draw();
        Focus like_first = Focus::of(i * 5 + 1);
        like_first.operation = first.descriptor.operation;
        const Scenario other = RandomScenario(random, like_first).draw();
        const bool shares = (first.descriptor.flags & KVAPPEND_FLAG_ADVANCE) == 0;
        check_layers({{first}, {first, shares ? 0 : -1}, {other}}, random, runs);
    }
}

TEST_CASE("every kernel that serves a random problem agrees with the reference, and others refuse it by name",
          "[addressing]") {
    auto random = seeded_random();
    for (const std::string &name : kernels_of_subject()) {
        int served = 0;
        const Focus own{.converts = name.find("convert") != std::string::npos,
                        .operation = name.find("_gather") != std::string::npos ? KVAPPEND_OPERATION_GATHER
                                                                               : KVAPPEND_OPERATION_APPEND};
        for (int i = 0; i < 150; ++i) {
            // Few of all problems are gathers from another format.
            Scenario scenario = RandomScenario(random, i % 3 == 0 ? own : Focus{}).draw();
            scenario.kernel = name;
            if (!kernel_serves(scenario)) {
                continue;
            }
            if (subject().backend() == KVAPPEND_BACKEND_CUDA && i % 2 == 0) {
                scenario.descriptor.flags |= KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH;
            }
            check_scenario(scenario, random, runs);
            ++served;
        }
        INFO(name);
        // A dense kernel serves dense problems alone, of which there may be none that it is wide enough for.
        const bool is_special = name.find("dense") != std::string::npos || name.find("_move") != std::string::npos;
        CHECK((served > 0 || is_special)); // [move] has those for moves
    }
}

TEST_CASE("random layers in one call agree with the reference, each by itself", "[layers]") {
    auto random = seeded_random();
    Draw draw(random);
    for (int i = 0; i < 60; ++i) {
        std::vector<ScenarioLayer> layers;
        const auto distinct = draw.between(1, 4);
        const Focus focus{.operation = draw.of({KVAPPEND_OPERATION_APPEND, KVAPPEND_OPERATION_GATHER})};
        for (std::int64_t n = 0; n < distinct; ++n) {
            layers.push_back({RandomScenario(random, focus).draw()});
        }
        const auto further = draw.between(0, 6);
        for (std::int64_t n = 0; n < further; ++n) {
            const auto with = static_cast<std::size_t>(draw.between(0, distinct - 1));
            // Offsets that several layers share advance once.
            layers.push_back({layers[with].scenario, static_cast<int>(with)});
        }
        std::ranges::shuffle(layers.begin() + distinct, layers.end(), random);
        check_layers(layers, random, runs);
    }
}

TEST_CASE("indices of any value make a run read and write nothing outside the buffers", "[addressing]") {
    auto random = seeded_random();
    Draw draw(random);
    for (int i = 0; i < 600; ++i) {
        Scenario scenario = RandomScenario(random).draw();
        scenario.rows_open = true;
        const std::int64_t range = draw.of<std::int64_t>({8, 40, most32});
        for (const IndexArray &array : index_arrays) {
            const bool wide = array.element_bytes(scenario.descriptor) == 8;
            for (std::int64_t &value : scenario.*array.values) {
                value = draw.one_in(6)           ? draw.of<std::int64_t>({most32, least32, most32 - 1, -1, 0})
                        : wide && draw.one_in(4) ? draw.of<std::int64_t>({most64, least64, most64 - 1, least64 + 1})
                                                 : draw.between(-range / 4, range);
            }
        }
        check_scenario(scenario, random);
    }
}
