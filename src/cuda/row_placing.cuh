// SPDX-License-Identifier: Apache-2.0
// The placing of every addressing: each row by itself, at the place that is found for it.
#pragma once

#include "../place.hpp"
#include "copy.cuh"
#include "offset_words.cuh"

namespace kvappend {

struct LoadIndex {
    template <class T>
    __device__ __forceinline__ T operator()(const T *index) const {
        return load_global(index);
    }
};

struct PagePlacing;

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

    __device__ __forceinline__ PagePlacing pages() const;
};

// find_place for the pages of samples of which nothing is said but their offsets, where all fits in 31 bits. A step of
// decoding is one wait for an offset and then one for a page, and every instruction between them counts.
struct PagePlacing {
    const RowPlacing &rows;

    static bool serves(const Addressing &a) {
        return a.kind == KVAPPEND_ADDRESSING_PAGED && a.lengths == KVAPPEND_LENGTHS_FIXED && a.turn_log2 >= 0 &&
               !a.has(KVAPPEND_FLAG_BATCH_INDEX) && !a.has(KVAPPEND_FLAG_LEFT_PADS) &&
               !a.has(KVAPPEND_FLAG_ZERO_OFFSETS) && a.table_stride <= INT32_MAX && a.table_entries <= INT32_MAX;
    }

    __device__ __forceinline__ std::uint32_t wide_offsets() const { return rows.addressing.offset_bytes / 8; }

    __device__ __forceinline__ OffsetWords load_early(std::int32_t sample, std::int32_t /*line*/) const {
        return OffsetWords::load(rows.indices.offsets, wide_offsets(), sample);
    }

    __device__ __forceinline__ Aim<std::int32_t> aim(const TensorLines &t, std::int32_t sample, std::int32_t head,
                                                     std::int32_t line, const OffsetWords &early) const {
        const Addressing &a = rows.addressing;
        const std::int32_t *const entries = rows.indices.page_table + product(sample, a.table_stride);
        const std::uint64_t in_page = product(head, t.to_head);
        // One below 0 wraps around to a page that no table has.
        const std::uint64_t position =
            static_cast<std::uint64_t>(early.joined(wide_offsets())) + static_cast<std::uint64_t>(line);
        const std::uint64_t nth = position >> a.turn_log2;
        if (nth >= static_cast<std::uint64_t>(a.table_entries)) {
            return {0, 0, 0};
        }
        const std::int32_t page = load_global(entries + nth);
        if (static_cast<std::uint32_t>(page) >= static_cast<std::uint32_t>(a.cache_blocks)) {
            return {0, 0, 0};
        }
        const auto row = static_cast<std::int32_t>(position) & ((1 << a.turn_log2) - 1);
        return {product(page, t.to_batch) + in_page + product(row, t.to_row), 0,
                static_cast<std::int32_t>(t.line_vectors)};
    }

    __device__ __forceinline__ std::uint64_t along(const TensorLines &t, std::int32_t i) const {
        return rows.along(t, i);
    }
};

__device__ __forceinline__ PagePlacing RowPlacing::pages() const {
    return {*this};
}

} // namespace kvappend
