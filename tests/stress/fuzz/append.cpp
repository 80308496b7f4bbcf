// SPDX-License-Identifier: Apache-2.0
// Whole appends, drawn from the input as the random tests draw theirs, with more hostile indices: every byte must be as
// the reference has it, alone and with other layers, and validate must say what the reference finds.
#include "../../suite/problem.hpp"
#include "input.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

namespace {

using Problems = Problem<Input>;

template <class T>
T astray(Draw<Input> &draw, T value) {
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
        value = astray(draw, value);
    }
}

// Values of the offsets' type, whatever holds them.
void spoil_wide(Draw<Input> &draw, std::vector<std::int64_t> &values, std::int32_t type) {
    if (type == KVAPPEND_OFFSET_INT64) {
        spoil(draw, values);
        return;
    }
    std::vector<std::int32_t> narrow;
    std::ranges::transform(values, std::back_inserter(narrow), [](auto v) { return static_cast<std::int32_t>(v); });
    spoil(draw, narrow);
    std::ranges::copy(narrow, values.begin());
}

// Leads the indices astray. What the header leaves open then is not compared, all else is.
void spoil(Draw<Input> &draw, Case &c) {
    kvappend_descriptor &d = c.descriptor;
    spoil_wide(draw, c.offsets, d.offset_type);
    spoil_wide(draw, c.slots, d.offset_type);
    spoil(draw, c.lengths);
    spoil(draw, c.left_pads);
    spoil(draw, c.batch_index);
    spoil(draw, c.page_table);
    spoil(draw, c.page_indptr);
    if (d.lengths == KVAPPEND_LENGTHS_PACKED) {
        c.rows_open = !std::ranges::is_sorted(c.lengths);
        if (std::ranges::any_of(c.lengths, [](std::int32_t length) { return length < 0; })) {
            d.flags &= ~KVAPPEND_FLAG_ADVANCE; // It is left open how far.
        }
    }
}

Case draw_case(Draw<Input> &draw, Input &input, bool hostile, const std::vector<std::string> &kernels) {
    Case c = Problems(input).draw_once();
    if (hostile) {
        spoil(draw, c);
    }
    c.caches_open = !Problems::is_defined(c);
    if (draw.one_in(4) && !kernels.empty()) {
        const auto last = static_cast<std::int64_t>(kernels.size()) - 1;
        c.kernel = kernels[static_cast<std::size_t>(draw.between(0, last))];
        if (!kernel_serves(c)) {
            c.kernel.clear();
        }
    }
    if (subject().backend() == KVAPPEND_BACKEND_CUDA) {
        c.descriptor.flags |= draw.one_in(3) ? KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH : 0;
    } else {
        c.host_threads = draw.one_in(20) ? 2 : 0;
    }
    return c;
}

bool nothing_to_copy(const kvappend_descriptor &d) {
    return (tensor_bytes(d, k_new) == 0 || tensor_bytes(d, k_cache) == 0) &&
           (tensor_bytes(d, v_new) == 0 || tensor_bytes(d, v_cache) == 0);
}

// Errors of the arrays of indices come before those of rows.
void check_finding(const Case &c, kvappend_status status) {
    INFO(c.text());
    INFO(kvappend_status_name(status));
    if (nothing_to_copy(c.descriptor)) {
        REQUIRE(status == KVAPPEND_SUCCESS);
        return;
    }
    if (status == KVAPPEND_ERROR_INDEX_ORDER || status == KVAPPEND_ERROR_INDEX_RANGE) {
        return;
    }
    REQUIRE(!c.rows_open); // The lengths decrease, which comes first of all.
    const std::vector<Row> rows = reference_rows(c);
    const bool astray =
        std::ranges::any_of(rows, [](const Row &row) { return row.fate == Fate::below || row.fate == Fate::above; });
    REQUIRE(status == (astray                ? KVAPPEND_ERROR_SKIPPED
                       : places_differ(rows) ? KVAPPEND_SUCCESS
                                             : KVAPPEND_ERROR_DUPLICATE));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    static const std::vector<std::string> kernels = kernels_of_subject();
    Input input(data, size);
    Draw draw(input);
    std::mt19937_64 random(input()); // for the tensors' bytes, which no decision goes by
    const bool hostile = !draw.one_in(3);
    const auto layers = draw.one_in(4) ? draw.between(2, 5) : 1;
    if (layers == 1) {
        const Case c = draw_case(draw, input, hostile, kernels);
        check_finding(c, check_validate(c, random));
        check_case(c, random, Problems::runs);
        return 0;
    }
    std::vector<LayerCase> cases;
    while (static_cast<std::int64_t>(cases.size()) < layers) {
        const bool advances = !cases.empty() && (cases.front().c.descriptor.flags & KVAPPEND_FLAG_ADVANCE) != 0;
        if (cases.empty() || advances || draw.one_in(2)) {
            cases.push_back({draw_case(draw, input, hostile, {})});
        } else {
            cases.push_back({cases.front().c, 0});
        }
    }
    check_layers(cases, random, Problems::runs);
    return 0;
}
