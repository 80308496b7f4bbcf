// SPDX-License-Identifier: Apache-2.0
// Random shapes, strides, alignments and offsets, with every kernel of the table, against the reference.
#include "check_scenario.hpp"
#include "draw.hpp"
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

namespace {

Scenario draw_scenario(std::mt19937_64 &random) {
    Draw draw(random);
    Scenario scenario;
    kvappend_descriptor &d = scenario.descriptor;
    d.element_type = draw.element_type();
    d.offset_type = draw.of({KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32});
    d.batch = draw.between(1, 4);
    d.heads = draw.of<std::int64_t>({1, 2, 3, 4, 8, 9});
    d.new_rows = draw.of<std::int64_t>({1, 1, 1, 2, 4, 5, 17, 40});
    d.cache_rows = draw.between(1, 24);
    const auto dim = [&] { return draw.of<std::int64_t>({0, 1, 2, 3, 5, 8, 16, 23, 40, 64, 80, 128, 192}); };
    d.k_dim = dim();
    d.v_dim = draw.one_in(2) ? d.k_dim : dim();
    for (std::int64_t *const extent : {&d.batch, &d.heads, &d.new_rows, &d.cache_rows}) {
        if (draw.one_in(60)) {
            *extent = 0;
        }
    }
    const std::int64_t fresh[3] = {d.batch, d.heads, d.new_rows};
    const std::int64_t held[3] = {d.batch, d.heads, d.cache_rows};
    if (draw.one_in(3)) {
        d.operation = KVAPPEND_OPERATION_GATHER;
        d.flags = draw.one_in(2) ? KVAPPEND_FLAG_ZERO_SKIPPED : 0;
    }
    draw.strides(d.k_new_strides, fresh, d.k_dim, !scenario.gathers());
    draw.strides(d.v_new_strides, fresh, d.v_dim, !scenario.gathers());
    draw.strides(d.k_cache_strides, held, d.k_dim, false);
    draw.strides(d.v_cache_strides, held, d.v_dim, false);
    for (std::int64_t b = 0; b < d.batch; ++b) {
        scenario.offsets.push_back(draw.offset(d.new_rows, d.cache_rows, d.offset_type == KVAPPEND_OFFSET_INT32));
    }
    scenario.pass_sizes = !draw.one_in(4);

    // Guard bands of random bytes around each buffer, or none at all, so that its ends are the allocation's and an
    // access beyond is one outside all memory. A start off by some elements takes the alignment down to one element.
    const bool guarded = draw.one_in(2);
    place_apart(scenario, guarded ? 256 : 0, guarded ? 256 : 0);
    if (draw.one_in(2)) {
        for (std::size_t buffer = 0; buffer < tensor_count; ++buffer) {
            const auto shift =
                static_cast<std::size_t>(draw.of<std::int64_t>({0, 0, 1, 2, 3, 4, 8})) * element_bytes(d.element_type);
            scenario.locations[buffer].start += shift;
            scenario.block_bytes[buffer] += shift;
        }
    }
    return scenario;
}

} // namespace

TEST_CASE("random problems agree with the reference in every byte", "[random]") {
    auto random = seeded_random();
    for (int i = 0; i < 600; ++i) {
        check_scenario(draw_scenario(random), random);
    }
}

TEST_CASE("every kernel of the table agrees with the reference, or refuses the problem by name", "[random]") {
    auto random = seeded_random();
    for (const std::string &name : kernels_of_subject()) {
        int served = 0;
        for (int i = 0; i < 100; ++i) {
            Scenario scenario = draw_scenario(random);
            scenario.kernel = name;
            if (!kernel_serves(scenario)) {
                continue;
            }
            check_scenario(scenario, random);
            ++served;
        }
        INFO(name);
        // [format], [rotary] and [move] have the others.
        CHECK((served > 0 || name.find("convert") != std::string::npos || name.find("rotate") != std::string::npos ||
               name.find("_move") != std::string::npos));
    }
}
