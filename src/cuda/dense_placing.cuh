// SPDX-License-Identifier: Apache-2.0
// The placing of the plain dense append: each sample's rows one behind the other, from its offset on. So a line may be
// all new rows of a sample and head.
#pragma once

#include "../window.hpp"
#include "copy.cuh"
#include "offset_words.cuh"

namespace kvappend {

struct DensePlacing {
    static constexpr bool in_runs = true;

    const void *offsets;
    std::uint32_t wide_offsets;
    std::int64_t new_rows;
    std::int64_t cache_rows;

    using Early = OffsetWords;

    template <class Index>
    __device__ __forceinline__ Early load_early(Index sample, Index /*line*/) const {
        return OffsetWords::load(offsets, wide_offsets, sample);
    }

    template <class Index>
    __device__ __forceinline__ Aim<Index> aim(const TensorLines &t, Index sample, Index head, Index line,
                                              const Early &early) const {
        const std::uint64_t start = product(sample, t.to_batch) + product(head, t.to_head);
        const std::int64_t offset = early.joined(wide_offsets);
        // For rows inside the cache alone is this the way to an address in it; else it may wrap around, unharmed.
        const std::uint64_t row = static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(line);
        const std::uint64_t shift = start + row * static_cast<std::make_unsigned_t<Index>>(t.to_row);
        if (t.run == 0) {
            return {shift, 0, row < static_cast<std::uint64_t>(cache_rows) ? static_cast<Index>(t.line_vectors) : 0};
        }
        const auto window = window_of(offset, static_cast<Index>(new_rows), static_cast<Index>(cache_rows));
        const auto row_vectors = static_cast<Index>(t.row_vectors);
        return {shift, window.first * row_vectors, window.end * row_vectors};
    }

    template <class Index>
    __device__ __forceinline__ std::uint64_t along(const TensorLines &t, Index i) const {
        return static_cast<std::uint64_t>(std::int64_t{i}) << t.access_log2;
    }
};

} // namespace kvappend
