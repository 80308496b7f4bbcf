// SPDX-License-Identifier: Apache-2.0
// What a move moves within a cache: the stored bytes of rows, and the scales that each row has of its own.
#pragma once

#include "buffers.hpp"
#include "tensor.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvappend {

// The codes of K or of V, or their scales. A row of a head lies in pieces.
struct MovedTensor {
    BufferName name;
    Strides strides;
    std::int64_t heads;
    std::int64_t row_bytes;
    std::int64_t piece_bytes; // a power of two, unless the row is one piece
    std::int64_t piece_stride;
    // With BY_FOUR_ROWS, 2: four rows are one row of the tensor, and each of them has a byte of each piece. Else 0.
    std::uint32_t together_log2;
    std::uint32_t alignment; // the widest power of two, 16 at most, that divides the pieces and the strides

    // The bytes from the tensor's base to a row's first head.
    std::int64_t byte_of(std::int64_t block, std::int64_t row) const {
        return block * strides.outer + (row >> together_log2) * strides.row + (row & ((1 << together_log2) - 1));
    }
};

// At most the codes of K and of V, and the scales of both.
class MovedTensors {
public:
    static constexpr std::size_t most = 4;

    // Returns the alignment of the tensor. Ignores an empty one.
    std::uint32_t add(BufferName name, Tensor tensor, std::uint32_t together_log2 = 0);
    std::span<const MovedTensor> all() const { return {tensors_.data(), count_}; }

private:
    std::array<MovedTensor, most> tensors_{};
    std::size_t count_ = 0;
};

} // namespace kvappend
