// SPDX-License-Identifier: Apache-2.0
// Calls long enough that rows go by wide accesses even from and to bases that are aligned to an element alone. No
// buffer has a byte around it, so whoever touches more than the tensors leaves the memory.
#include "every_way.hpp"
#include "scenario.hpp"

#include <catch2/catch_test_macros.hpp>

#include <iterator>

namespace {

constexpr std::size_t ways_off = 16 / 2; // of 2 bytes each

// K is off by `from` and `to` elements, and V the other way round.
void shift(Scenario &scenario, std::size_t from, std::size_t to) {
    const std::size_t elements[] = {from, to, to, from};
    for (std::size_t tensor = 0; tensor < std::size(elements); ++tensor) {
        const std::size_t bytes = elements[tensor] * element_bytes(scenario.descriptor.element_type);
        scenario.locations[tensor].start += bytes;
        scenario.block_bytes[tensor] += bytes;
    }
}

// Rows of 192 elements, which take more threads than a block has where each copies one element.
Scenario rows(std::int32_t addressing) {
    Scenario scenario = appending(addressing, 3, 2, 4);
    scenario.descriptor.k_dim = scenario.descriptor.v_dim = 192;
    scenario.offsets = {-1, 2, 3};
    return scenario;
}

} // namespace

TEST_CASE("long runs from every to every alignment, clipped by the cache or not", "[unaligned]") {
    auto random = seeded_random();
    for (std::size_t way = 0; way < ways_off * ways_off; ++way) {
        Scenario scenario = appending(KVAPPEND_ADDRESSING_DENSE, 12, 40, 44);
        scenario.descriptor.heads = 1;
        scenario.descriptor.k_dim = scenario.descriptor.v_dim = 288;
        scenario.offsets = {0, 4, 3, 5, -1, -39, -40, 20, 43, 44, most64, 2};
        place_apart(scenario, 0, 0);
        shift(scenario, way % ways_off, way / ways_off);
        check_scenario(scenario, random);
    }
}

TEST_CASE("rows one by one from every to every alignment", "[unaligned]") {
    auto random = seeded_random();
    for (std::size_t way = 0; way < ways_off * ways_off; ++way) {
        Scenario scenario = rows(KVAPPEND_ADDRESSING_RING);
        // Gaps between the rows of the source, as in a fused projection.
        scenario.descriptor.k_new_strides[KVAPPEND_AXIS_HEAD] = 208;
        scenario.descriptor.k_new_strides[KVAPPEND_AXIS_ROW] = std::int64_t{2} * 208;
        scenario.descriptor.k_new_strides[KVAPPEND_AXIS_BATCH] = std::int64_t{4} * 208;
        check_every_way(scenario, random, [&](Scenario &varied) {
            place_apart(varied, 0, 0);
            shift(varied, way % ways_off, way / ways_off);
        });
    }
}

TEST_CASE("layers of several alignments", "[unaligned]") {
    auto random = seeded_random();
    for (const std::int32_t addressing : {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING}) {
        std::vector<ScenarioLayer> layers;
        for (std::size_t n = 0; n <= ways_off; ++n) {
            const std::size_t way = n % ways_off; // The last layer is aligned, as the first one is.
            ScenarioLayer layer{rows(addressing), n == 0 ? -1 : 0};
            // As rows of a run are adjacent, heads apart make lines of rows.
            layer.scenario.descriptor.k_new_strides[KVAPPEND_AXIS_HEAD] = 192;
            layer.scenario.descriptor.k_new_strides[KVAPPEND_AXIS_ROW] = std::int64_t{2} * 192;
            layer.scenario.descriptor.k_new_strides[KVAPPEND_AXIS_BATCH] = std::int64_t{4} * 192;
            place_apart(layer.scenario, 0, 0);
            shift(layer.scenario, way, way * 5 % ways_off);
            layers.push_back(layer);
        }
        check_layers(layers, random);
    }
}
