// SPDX-License-Identifier: Apache-2.0
// The tensors that a move changes: the stored bytes of rows, and the scales that belong to one row.
#pragma once

#include "buffers.hpp"
#include "host_device.hpp"
#include "place.hpp"
#include "tensor.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvappend {

// Where the rows of a tensor lie.
struct StoredRows {
    Strides strides;
    // 2 with BY_FOUR_ROWS, otherwise 0. With 2, four rows of the cache are one row of the tensor. Each of the four has
    // a byte of each piece.
    std::uint32_t together_log2;

    // The bytes from the tensor's base to a row's first head.
    KVAPPEND_HOST_DEVICE std::int64_t byte_of(const Place &place) const {
        return place.block * strides.outer + (place.row >> together_log2) * strides.row +
               (place.row & ((1 << together_log2) - 1));
    }
};

// The codes of K or of V, or their scales. A row of a head lies in pieces.
struct MovedTensor : StoredRows {
    BufferName name;
    std::int64_t heads;
    std::int64_t row_bytes;
    std::int64_t piece_bytes; // a power of two, unless the row is one piece
    std::int64_t piece_stride;
    std::uint32_t alignment; // the widest power of two, 16 at most, that divides the pieces and the strides
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
