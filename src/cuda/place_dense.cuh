// SPDX-License-Identifier: Apache-2.0
// The placing of plain dense problems: a sample's rows follow each other from its offset on, so a run may be all rows
// of a sample and head.
#pragma once

#include "../place.hpp"
#include "loop.cuh"

namespace kvappend {

struct DensePlacing {
    static constexpr bool joins_rows = true;

    const void *offsets;
    std::uint32_t wide_offsets;
    std::int32_t offset_mask; // as in Addressing
    std::int64_t new_rows;
    std::int64_t cache_rows;

    template <class Index>
    __device__ __forceinline__ DeviceLoad::Number load(Index sample, Index /*run*/) const {
        return DeviceLoad{}.number(offsets, wide_offsets, sample & offset_mask);
    }

    template <class Index>
    __device__ __forceinline__ Spot<Index> spot(const CopyLayout &c, Index sample, Index run,
                                                const DeviceLoad::Number &loaded) const {
        const std::int64_t offset = DeviceLoad::value(loaded, wide_offsets);
        const auto row_vectors = static_cast<Index>(c.row_vectors);
        if (c.joined_rows == 0) {
            // The sum is exact modulo 2^64. As an unsigned number a negative position is above every cache.
            const std::uint64_t position = static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(run);
            const auto row = static_cast<std::int64_t>(position);
            return {sample, row, row, 0, is_in_dense(position, cache_rows) ? row_vectors : Index{0}};
        }
        const auto rows = dense_rows(offset, static_cast<Index>(new_rows), static_cast<Index>(cache_rows));
        return {sample, offset, offset, rows.first * row_vectors, rows.end * row_vectors};
    }
};

} // namespace kvappend
