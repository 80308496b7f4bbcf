// SPDX-License-Identifier: Apache-2.0
// The placing of every addressing: each row by itself, at the place that is found for it.
#pragma once

#include "../place.hpp"
#include "copy.cuh"

namespace kvappend {

struct RowPlacing {
    static constexpr bool in_runs = false;

    Addressing addressing;
    Indices indices;

    __device__ __forceinline__ Aim aim(const TensorLines &t, std::int64_t sample, std::int64_t head,
                                       std::int64_t line) const {
        const auto load = [](const auto *index) { return __ldg(index); };
        const Place place = find_place(addressing, indices, sample, line, load);
        if (!place.found()) {
            return {0, 0, 0};
        }
        return {static_cast<std::uint64_t>(place.block * t.to_batch + head * t.to_head + place.row * t.to_row), 0,
                t.line_vectors};
    }

    template <unsigned Log2>
    __device__ __forceinline__ std::uint64_t along(const TensorLines &t, std::int64_t i) const {
        const std::int64_t piece = i >> t.piece_log2;
        const std::int64_t in_piece = i - (piece << t.piece_log2);
        return static_cast<std::uint64_t>(piece * t.piece_stride + (in_piece << Log2));
    }
};

} // namespace kvappend
