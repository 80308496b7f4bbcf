// SPDX-License-Identifier: Apache-2.0
// The placing of the plain dense append: each sample's rows one behind the other, from its offset on. So a line may be
// all new rows of a sample and head.
#pragma once

#include "../window.hpp"
#include "copy.cuh"

namespace kvappend {

struct DensePlacing {
    static constexpr bool in_runs = true;

    const void *offsets;
    std::uint32_t wide_offsets;
    std::int64_t new_rows;
    std::int64_t cache_rows;

    __device__ __forceinline__ Aim aim(const TensorLines &t, std::int64_t sample, std::int64_t head,
                                       std::int64_t line) const {
        const std::int64_t offset = wide_offsets != 0
                                        ? std::int64_t{__ldg(static_cast<const long long *>(offsets) + sample)}
                                        : std::int64_t{__ldg(static_cast<const int *>(offsets) + sample)};
        const Window window = window_of(offset, new_rows, cache_rows);
        Aim aim{0, 0, 0};
        if (t.lines == 1) {
            aim.begin = window.first * t.row_vectors;
            aim.end = window.end * t.row_vectors;
        } else if (window.first <= line && line < window.end) {
            aim.end = t.line_vectors;
        }
        // For vectors inside the cache alone is this the way to an address in it; else it may wrap around, unharmed.
        const std::uint64_t row = static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(line);
        aim.shift = static_cast<std::uint64_t>(sample * t.to_batch + head * t.to_head) +
                    row * static_cast<std::uint64_t>(t.to_row);
        return aim;
    }

    template <unsigned Log2>
    __device__ __forceinline__ std::uint64_t along(const TensorLines & /*t*/, std::int64_t i) const {
        return static_cast<std::uint64_t>(i) << Log2;
    }
};

} // namespace kvappend
