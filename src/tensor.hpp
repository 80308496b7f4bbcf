// SPDX-License-Identifier: Apache-2.0
// A tensor of rows in bytes: its strides, its pieces, what is adjacent in it, and how it is aligned.
#pragma once

#include "status.hpp"

#include <cstdint>

namespace kvappend {

// What the descriptor says of one tensor [outer, heads, rows, dim]. The outer axis counts samples of new rows, and
// blocks of a cache.
struct TensorDescription {
    const char *name;         // "k_cache"
    const char *strides_name; // "k_cache_strides", a field of the descriptor
    std::int64_t outer;
    std::int64_t heads;
    std::int64_t rows;
    std::int64_t dim;
    const std::int64_t (&strides)[3]; // all zero: contiguous, unless `repeats`
    std::uint32_t element_bits;
    std::uint32_t stride_bytes; // of a unit in which strides count: an element, or 1
    bool by_token = false;      // contiguous means [rows, heads, dim]
    bool repeats = false;       // strides of zero are taken as they are
    // A row in pieces of `pack` elements; contiguous means [outer, heads, dim / pack, rows, pack]. 0: a row is whole.
    std::int64_t pack = 0;
    std::int64_t piece_stride = 0;

    // The alignment that an address of an element needs.
    std::uint32_t element_alignment() const { return element_bits < 8 ? 1 : element_bits / 8; }
};

// Bytes from one entry of an axis to the next.
struct Strides {
    std::int64_t outer;
    std::int64_t head;
    std::int64_t row;
};

struct Tensor {
    std::int64_t outer;
    std::int64_t heads;
    std::int64_t rows;
    std::int64_t row_bytes;
    Strides strides;
    // A row lies in pieces of piece_bytes, a power of two unless the row is one piece.
    std::int64_t piece_bytes;
    std::int64_t piece_stride;
    // From the first to the last element; 0 if there is no element.
    std::int64_t bytes;

    // Checks the description and measures the tensor.
    static Status create(const TensorDescription &description, Tensor &tensor);

    bool empty() const { return bytes == 0; }
    bool whole_rows() const { return piece_bytes == row_bytes; }
    bool adjacent_heads() const { return whole_rows() && heads > 1 && strides.head == row_bytes; }
    bool adjacent_rows() const { return whole_rows() && strides.row == row_bytes; }

    // Makes the adjacent heads of a row one wider row.
    void merge_heads();

    // The widest power of two, 16 at most, that divides the row, its pieces and every stride in use.
    std::uint32_t alignment() const;
};

} // namespace kvappend
