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

    // The words of an offset. They are put together only when it is used, and nothing waits for their loads before.
    struct Early {
        std::uint32_t low;
        std::uint32_t high; // the low one again, where offsets have 32 bits
    };

    template <class Index>
    __device__ __forceinline__ Early load_early(Index sample, Index /*line*/) const {
        const auto *const words = static_cast<const unsigned *>(offsets) + (std::int64_t{sample} << wide_offsets);
        return {load_global(words), load_global(words + wide_offsets)};
    }

    template <class Index>
    __device__ __forceinline__ Aim<Index> aim(const TensorLines &t, Index sample, Index head, Index line,
                                              const Early &early) const {
        const std::uint64_t start = product(sample, t.to_batch) + product(head, t.to_head);
        const auto high = static_cast<std::int64_t>(static_cast<std::int32_t>(early.high));
        const std::int64_t offset = (wide_offsets != 0 ? high : high >> 32) << 32 | early.low;
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
