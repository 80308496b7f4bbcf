// SPDX-License-Identifier: Apache-2.0
// What the random tests draw their problems with, and the kernels that they try.
#pragma once

#include "scenario.hpp"
#include "subject.hpp"

#include <kvappend/kvappend.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

template <class Random>
class Draw {
public:
    explicit Draw(Random &random) : random_(random) {}

    std::int64_t between(std::int64_t low, std::int64_t high) {
        return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
    }
    bool one_in(std::int64_t n) { return between(1, n) == 1; }
    template <class T>
    T of(std::initializer_list<T> choices) {
        return choices.begin()[between(0, static_cast<std::int64_t>(choices.size()) - 1)];
    }

    std::int32_t element_type() {
        return of({KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F64, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16,
                   KVAPPEND_ELEMENT_E4M3, KVAPPEND_ELEMENT_E5M2, KVAPPEND_ELEMENT_INT8, KVAPPEND_ELEMENT_UINT8});
    }

    // Any order of the axes from outer to inner, with gaps or without; gaps are multiples of `unit` elements.
    void strides(std::int64_t (&out)[3], const std::int64_t (&extents)[3], std::int64_t dim, bool source) {
        if (one_in(4)) {
            std::ranges::fill(out, 0);
            return;
        }
        std::array<int, 3> order{0, 1, 2};
        std::ranges::shuffle(order, random_);
        const std::int64_t unit = of<std::int64_t>({1, 1, 2, 8, 16});
        std::int64_t step = dim;
        for (const int axis : order) {
            if (one_in(3)) {
                step += unit * between(1, 3);
            }
            out[axis] = step;
            step *= std::max<std::int64_t>(extents[axis], 1);
        }
        if (source && one_in(6)) {
            // One entry for the whole axis, as in a broadcast; the others are at least dim, so not all are zero.
            out[between(0, 2)] = 0;
        }
    }

    std::int64_t offset(std::int64_t new_rows, std::int64_t cache_rows, bool narrow) {
        switch (between(0, 7)) {
        case 0:
            return between(-new_rows - 2, 1);
        case 1:
            return between(std::max<std::int64_t>(cache_rows - new_rows, 0) - 1, cache_rows + 2);
        case 2:
            return narrow ? std::numeric_limits<std::int32_t>::min() + between(0, 4)
                          : std::numeric_limits<std::int64_t>::min() + between(0, 4);
        case 3:
            return narrow ? std::numeric_limits<std::int32_t>::max() - between(0, 4)
                          : std::numeric_limits<std::int64_t>::max() - between(0, 4);
        default:
            return between(0, std::max<std::int64_t>(cache_rows - 1, 0));
        }
    }

private:
    Random &random_;
};

// All kernels of the table that are of the backend under test.
inline std::vector<std::string> kernels_of_subject() {
    const std::string prefix = subject().backend() == KVAPPEND_BACKEND_CUDA ? "cuda_" : "host_";
    std::vector<std::string> names;
    for (std::size_t i = 0; kvappend_kernel_name(i) != nullptr; ++i) {
        if (std::string name = kvappend_kernel_name(i); name.starts_with(prefix)) {
            names.push_back(std::move(name));
        }
    }
    return names;
}

// Whether the kernel that the scenario forces serves it; one that does not must refuse it by its name.
inline bool kernel_serves(const Scenario &scenario) {
    kvappend_descriptor d = scenario.descriptor;
    d.backend = subject().backend();
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    preference.kernel_name = scenario.kernel.c_str();
    kvappend_plan *plan = nullptr;
    const kvappend_status status = kvappend_plan_create(&d, &preference, &plan);
    kvappend_plan_destroy(plan);
    if (status != KVAPPEND_ERROR_KERNEL) {
        return true;
    }
    CHECK(std::string(kvappend_last_error_message()).find(scenario.kernel) != std::string::npos);
    return false;
}
