// SPDX-License-Identifier: Apache-2.0
#include "moved.hpp"

namespace kvappend {

std::uint32_t MovedTensors::add(BufferName name, Tensor tensor, std::uint32_t together_log2) {
    if (tensor.empty()) {
        return 0;
    }
    if (together_log2 == 0 && tensor.piece_stride == tensor.piece_bytes) {
        tensor.piece_bytes = tensor.row_bytes; // adjacent pieces
    }
    if (together_log2 == 0 && tensor.adjacent_heads()) {
        tensor.merge_heads();
    }
    MovedTensor &moved = tensors_[count_++];
    moved = {{tensor.strides, together_log2},
             name,
             tensor.heads,
             tensor.row_bytes >> together_log2,
             tensor.piece_bytes >> together_log2,
             tensor.piece_stride,
             together_log2 == 0 ? tensor.alignment() : 1};
    return moved.alignment;
}

} // namespace kvappend
