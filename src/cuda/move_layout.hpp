// SPDX-License-Identifier: Apache-2.0
// How a move is spread over the blocks and threads of a grid: plain C++, which needs no CUDA.
//
// A column is the same vector of every row. A vector is at most 16 bytes of a head. A thread moves a column of all rows
// of a sample, one row after the other. Therefore no barrier is needed. The threads of a warp have neighbouring columns
// and the same rows, whose places they find together. The grid's x axis counts the
// columns of a tensor, its y axis counts samples, and its z axis counts the tensors of each layer. If the grid is
// smaller than the work, each thread continues in steps of the grid's size.
#pragma once

#include "../moved.hpp"
#include "layout.hpp"

namespace kvappend {

inline constexpr unsigned moved_tensors_log2 = 2;
static_assert(MovedTensors::most == 1U << moved_tensors_log2);

// One tensor of a move. "Vectors" are units of 1 << access_log2 bytes.
struct MoveLayout : StoredRows {
    std::int64_t columns; // of all heads
    std::int64_t row_vectors;
    std::int64_t piece_stride;
    std::uint32_t piece_log2; // the vectors of a piece; if the row is one piece, at least those of the row
    std::uint32_t access_log2;
};

struct MoveGeometryLayout {
    MoveLayout tensors[MovedTensors::most];
    std::uint32_t tensor_count;
    std::int64_t samples;
};

// Fills *layouts[i] for each geometry, and returns the grid for all of them. `layers` is the number of all layers.
Grid lay_out_moves(const GeometryInput *geometries, unsigned count, unsigned layers, std::int32_t multiprocessors,
                   MoveGeometryLayout *const *layouts);

} // namespace kvappend
