// SPDX-License-Identifier: Apache-2.0
// Whole appends, gathers and moves, drawn from the input as the random tests draw theirs, with more hostile indices:
// every byte must be as the reference has it, alone and with other layers, and validate must say what the reference
// finds.
#include "../../suite/check_scenario.hpp"
#include "../../suite/random_move.hpp"
#include "../../suite/random_scenario.hpp"
#include "input.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

namespace {

using Scenarios = RandomScenario<Input>;

template <class T>
T spoiled(Draw<Input> &draw, T value) {
    constexpr T most = std::numeric_limits<T>::max();
    switch (draw.between(0, 4)) {
    case 1:
        return draw.of<T>({T{-1}, T{0}, most, std::numeric_limits<T>::min(), most - 1});
    case 2:
        return static_cast<T>(draw.between(-100, 155));
    case 3:
        return value < most - 4 ? value + static_cast<T>(draw.between(1, 4)) : value;
    case 4:
        return value > std::numeric_limits<T>::min() + 4 ? value - static_cast<T>(draw.between(1, 4)) : value;
    default:
        return value;
    }
}

template <class T>
void spoil(Draw<Input> &draw, std::vector<T> &values) {
    if (draw.one_in(2)) {
        return;
    }
    for (T &value : values) {
        value = spoiled(draw, value);
    }
}

// Values of the array's type, whatever holds them.
void spoil_array(Draw<Input> &draw, std::vector<std::int64_t> &values, bool wide) {
    if (wide) {
        spoil(draw, values);
        return;
    }
    std::vector<std::int32_t> narrow;
    std::ranges::transform(values, std::back_inserter(narrow), [](auto v) { return static_cast<std::int32_t>(v); });
    spoil(draw, narrow);
    std::ranges::copy(narrow, values.begin());
}

// Replaces indices by arbitrary ones. What the header then leaves undefined is not compared; everything else is.
void spoil(Draw<Input> &draw, Scenario &scenario) {
    kvappend_descriptor &d = scenario.descriptor;
    for (const IndexArray &array : index_arrays) {
        spoil_array(draw, scenario.*array.values, array.element_bytes(d) == 8);
    }
    if (d.lengths == KVAPPEND_LENGTHS_PACKED) {
        scenario.rows_open = !std::ranges::is_sorted(scenario.lengths);
        if (std::ranges::any_of(scenario.lengths, [](std::int64_t length) { return length < 0; })) {
            d.flags &= ~KVAPPEND_FLAG_ADVANCE; // It is left open how far.
        }
    }
}

Scenario draw_scenario(Draw<Input> &draw, Input &input, const Focus &focus, bool hostile,
                       const std::vector<std::string> &kernels) {
    Scenario scenario = Scenarios(input, focus).draw_once();
    if (hostile) {
        spoil(draw, scenario);
    }
    scenario.caches_open = !Scenarios::is_defined(scenario);
    if (draw.one_in(4) && !kernels.empty()) {
        const auto last = static_cast<std::int64_t>(kernels.size()) - 1;
        scenario.kernel = kernels[static_cast<std::size_t>(draw.between(0, last))];
        if (!kernel_serves(scenario)) {
            scenario.kernel.clear();
        }
    }
    if (subject().backend() == KVAPPEND_BACKEND_CUDA) {
        scenario.descriptor.flags |= draw.one_in(3) ? KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH : 0;
    } else {
        scenario.host_threads = draw.one_in(20) ? 2 : 0;
    }
    return scenario;
}

Scenario draw_move(Draw<Input> &draw, Input &input, bool hostile) {
    Scenario scenario = RandomMove<Input>(input).draw(draw.one_in(2));
    if (hostile) {
        spoil(draw, scenario);
    }
    scenario.caches_open = !samples_keep_apart(reference_rows(scenario));
    return scenario;
}

bool nothing_to_copy(const kvappend_descriptor &d, TensorIndex rows, TensorIndex cache) {
    return tensor_bytes(d, rows) == 0 || tensor_bytes(d, cache) == 0;
}

bool nothing_to_copy(const kvappend_descriptor &d) {
    return nothing_to_copy(d, k_new, k_cache) && nothing_to_copy(d, v_new, v_cache);
}

bool bad_global_scale(const Scenario &scenario) {
    const kvappend_descriptor &d = scenario.descriptor;
    const auto bad = [&](TensorIndex rows, TensorIndex cache, float scale) {
        const kvappend_storage *const storage = storage_of(d, cache);
        const bool usable = scale > 0 && scale <= std::numeric_limits<float>::max();
        return storage != nullptr && storage->global_scale != 0 && !nothing_to_copy(d, rows, cache) && !usable;
    };
    return bad(k_new, k_cache, scenario.k_global_scale) || bad(v_new, v_cache, scenario.v_global_scale);
}

// Scales with random bits that the run reads. Some may be unusable.
bool reads_random_scales(const Scenario &scenario) {
    const auto reads = [&](TensorIndex cache) {
        const kvappend_storage *const storage = storage_of(scenario.descriptor, cache);
        return storage != nullptr && ((storage->scaling == KVAPPEND_SCALING_GIVEN && !scenario.tame) ||
                                      (storage->scaling == KVAPPEND_SCALING_COMPUTED && scenario.gathers()));
    };
    return reads(k_cache) || reads(v_cache) || reads(q_out);
}

// Errors of the arrays of indices come before those of rows, and those of scales come last.
void check_finding(const Scenario &scenario, kvappend_status status) {
    INFO(scenario.text());
    INFO(kvappend_status_name(status));
    if (nothing_to_copy(scenario.descriptor)) {
        REQUIRE(status == KVAPPEND_SUCCESS);
        return;
    }
    if (status == KVAPPEND_ERROR_INDEX_ORDER || status == KVAPPEND_ERROR_INDEX_RANGE) {
        return;
    }
    REQUIRE(!scenario.rows_open); // The lengths decrease, which comes first of all.
    const std::vector<Row> rows = reference_rows(scenario);
    const bool any_without_place = std::ranges::any_of(
        rows, [](const Row &row) { return row.outcome == Outcome::below || row.outcome == Outcome::above; });
    if (scenario.moves()) {
        REQUIRE(status == (any_without_place          ? KVAPPEND_ERROR_SKIPPED
                           : samples_keep_apart(rows) ? KVAPPEND_SUCCESS
                                                      : KVAPPEND_ERROR_DUPLICATE));
        return;
    }
    const kvappend_status expected = any_without_place                             ? KVAPPEND_ERROR_SKIPPED
                                     : !scenario.gathers() && !places_differ(rows) ? KVAPPEND_ERROR_DUPLICATE
                                     : bad_global_scale(scenario)                  ? KVAPPEND_ERROR_SCALE
                                                                                   : KVAPPEND_SUCCESS;
    if (expected == KVAPPEND_SUCCESS && reads_random_scales(scenario)) {
        REQUIRE((status == KVAPPEND_SUCCESS || status == KVAPPEND_ERROR_SCALE));
    } else {
        REQUIRE(status == expected);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    static const std::vector<std::string> kernels = kernels_of_subject();
    Input input(data, size);
    Draw draw(input);
    const std::uint8_t first = input();
    std::mt19937_64 random(first); // for the tensors' bytes, on which no decision depends
    // The greatest of these seeds also focus on a special way.
    constexpr std::size_t unfocused = 256 - Focus::count;
    const Focus focus = first < unfocused ? Focus{} : Focus::of(first - unfocused);
    const bool hostile = !draw.one_in(3);
    constexpr std::size_t moves = 16;
    if (first < unfocused && first + moves >= unfocused) {
        if (draw.one_in(4)) {
            const Scenario first_layer = draw_move(draw, input, hostile);
            check_layers({{first_layer}, {draw_move(draw, input, hostile)}, {first_layer, 0}}, random, Scenarios::runs);
            return 0;
        }
        const Scenario scenario = draw_move(draw, input, hostile);
        check_finding(scenario, check_validate(scenario, random));
        check_scenario(scenario, random, Scenarios::runs);
        return 0;
    }
    const auto layers = draw.one_in(4) ? draw.between(2, 5) : 1;
    if (layers == 1) {
        const Scenario scenario = draw_scenario(draw, input, focus, hostile, kernels);
        check_finding(scenario, check_validate(scenario, random));
        check_scenario(scenario, random, Scenarios::runs);
        return 0;
    }
    std::vector<ScenarioLayer> cases;
    Focus of_all = focus;
    while (static_cast<std::int64_t>(cases.size()) < layers) {
        if (cases.empty() || draw.one_in(2)) {
            cases.push_back({draw_scenario(draw, input, of_all, hostile, {})});
            of_all.operation = cases.front().scenario.descriptor.operation;
        } else {
            cases.push_back({cases.front().scenario, 0});
        }
    }
    check_layers(cases, random, Scenarios::runs);
    return 0;
}
