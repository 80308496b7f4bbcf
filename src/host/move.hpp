// SPDX-License-Identifier: Apache-2.0
// Moves of rows from one tensor to another.
#pragma once

#include "../tensor.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace kvappend {

// Where a row is: the sample or block of a tensor, and the row in it.
struct RowIndex {
    std::int64_t outer;
    std::int64_t row;
};

// Adjacent bytes of the source, and where they go.
struct Span {
    const std::byte *from;
    std::byte *to;
};

// A move of rows from one tensor to another. Each tensor has its own strides, and either of them may be the cache.
struct Move {
    const Tensor &source;
    const void *source_base;
    const Tensor &target;
    void *target_base;
    std::int64_t heads; // that are moved
    bool adjacent_rows; // the rows of one head are adjacent in both tensors

    bool empty() const { return source.empty() || target.empty(); }
    bool whole_rows() const { return source.whole_rows() && target.whole_rows(); }
    std::int64_t row_bytes() const { return source.row_bytes; }

    // A row's first head.
    Span span(RowIndex from, RowIndex to) const {
        return {static_cast<const std::byte *>(source_base) + from.outer * source.strides.outer +
                    from.row * source.strides.row,
                static_cast<std::byte *>(target_base) + to.outer * target.strides.outer + to.row * target.strides.row};
    }
    // The adjacent bytes of a run of rows: a row of a head, or all rows of a head.
    std::size_t span_bytes(std::int64_t rows) const {
        return static_cast<std::size_t>((adjacent_rows ? rows : 1) * row_bytes());
    }
};

// How a row lies in both tensors, in pieces of one size.
struct PieceStrides {
    std::int64_t bytes; // of a piece
    std::int64_t source;
    std::int64_t target;

    explicit PieceStrides(const Move &move)
        : bytes(std::min(move.source.piece_bytes, move.target.piece_bytes)),
          source(move.source.whole_rows() ? bytes : move.source.piece_stride),
          target(move.target.whole_rows() ? bytes : move.target.piece_stride) {}
};

// The rows of K and of V of one call.
struct Moves {
    Move k;
    Move v;
    // Whether a row of K and a row of V can be copied together, head by head.
    bool paired;

    Moves(const Move &k_move, const Move &v_move)
        : k(k_move), v(v_move),
          paired(!k.empty() && !v.empty() && k.whole_rows() && v.whole_rows() && k.heads == v.heads) {}

    bool alike() const { return paired && k.row_bytes() == v.row_bytes(); }
};

} // namespace kvappend
