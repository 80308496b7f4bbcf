// SPDX-License-Identifier: Apache-2.0
// The placing of every addressing: each row by itself, at the place that is found for it.
#pragma once

#include "../place.hpp"
#include "copy.cuh"

namespace kvappend {

struct LoadIndex {
    template <class T>
    __device__ __forceinline__ T operator()(const T *index) const {
        return load_global(index);
    }
};

struct RowPlacing {
    static constexpr bool in_runs = false;

    Addressing addressing;
    Indices indices;

    using Early = Loaded;

    template <class Index>
    __device__ __forceinline__ Early load_early(Index sample, Index line) const {
        return load_row(addressing, indices, sample, line, LoadIndex{});
    }

    template <class Index>
    __device__ __forceinline__ Aim<Index> aim(const TensorLines &t, Index sample, Index head, Index line,
                                              const Early &early) const {
        const Place place = find_place(addressing, indices, sample, line, early, LoadIndex{});
        if (!place.found()) {
            return {0, 0, 0};
        }
        return {product(static_cast<Index>(place.block), t.to_batch) + product(head, t.to_head) +
                    product(static_cast<Index>(place.row), t.to_row),
                0, static_cast<Index>(t.line_vectors)};
    }

    template <class Index>
    __device__ __forceinline__ std::uint64_t along(const TensorLines &t, Index i) const {
        const Index piece = i >> t.piece_log2;
        const Index in_piece = i - (piece << t.piece_log2);
        return product(piece, t.piece_stride) + (static_cast<std::uint64_t>(std::int64_t{in_piece}) << t.access_log2);
    }
};

} // namespace kvappend
