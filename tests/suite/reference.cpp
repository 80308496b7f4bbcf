// SPDX-License-Identifier: Apache-2.0
// The append by its definition, one element at a time: written to be obviously right, and without the library.
#include "case.hpp"

#include <cstring>

namespace {

std::int64_t extent_rows(const kvappend_descriptor &d, TensorIndex tensor) {
    return tensor == k_new || tensor == v_new ? d.new_rows : d.cache_rows;
}

std::int64_t extent_dim(const kvappend_descriptor &d, TensorIndex tensor) {
    return tensor == k_new || tensor == k_cache ? d.k_dim : d.v_dim;
}

const std::int64_t *strides_of(const kvappend_descriptor &d, TensorIndex tensor) {
    switch (tensor) {
    case k_new:
        return d.k_new_strides;
    case v_new:
        return d.v_new_strides;
    case k_cache:
        return d.k_cache_strides;
    default:
        return d.v_cache_strides;
    }
}

// How many elements into its tensor [b, h, l, i] is.
std::int64_t index_of(const kvappend_descriptor &d, TensorIndex tensor, std::int64_t b, std::int64_t h, std::int64_t l,
                      std::int64_t i) {
    const std::int64_t *const s = strides_of(d, tensor);
    if (s[0] == 0 && s[1] == 0 && s[2] == 0) {
        return ((b * d.heads + h) * extent_rows(d, tensor) + l) * extent_dim(d, tensor) + i;
    }
    return b * s[0] + h * s[1] + l * s[2] + i;
}

void append_one_tensor(const Case &c, TensorIndex from, TensorIndex to,
                       std::vector<std::vector<unsigned char>> &blocks) {
    const kvappend_descriptor &d = c.descriptor;
    const auto bytes = element_bytes(d.element_type);
    const auto at = [&](TensorIndex tensor, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t i) {
        return blocks[c.places[tensor].block].data() + c.places[tensor].start +
               static_cast<std::size_t>(index_of(d, tensor, b, h, l, i)) * bytes;
    };
    for (std::int64_t b = 0; b < d.batch; ++b) {
        for (std::int64_t l = 0; l < d.new_rows; ++l) {
            __extension__ const __int128 row = static_cast<__int128>(c.offsets[static_cast<std::size_t>(b)]) + l;
            if (row < 0 || row >= d.cache_rows) {
                continue;
            }
            for (std::int64_t h = 0; h < d.heads; ++h) {
                for (std::int64_t i = 0; i < extent_dim(d, from); ++i) {
                    std::memcpy(at(to, b, h, static_cast<std::int64_t>(row), i), at(from, b, h, l, i), bytes);
                }
            }
        }
    }
}

} // namespace

std::size_t element_bytes(std::int32_t element_type) {
    return element_type == KVAPPEND_ELEMENT_F64 ? 8 : element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2;
}

std::size_t offset_bytes(std::int32_t offset_type) {
    return offset_type == KVAPPEND_OFFSET_INT64 ? 8 : 4;
}

std::size_t tensor_bytes(const kvappend_descriptor &d, TensorIndex tensor) {
    const std::int64_t rows = extent_rows(d, tensor);
    const std::int64_t dim = extent_dim(d, tensor);
    if (d.batch == 0 || d.heads == 0 || rows == 0 || dim == 0) {
        return 0;
    }
    return static_cast<std::size_t>(index_of(d, tensor, d.batch - 1, d.heads - 1, rows - 1, dim - 1) + 1) *
           element_bytes(d.element_type);
}

void reference_append(const Case &c, std::vector<std::vector<unsigned char>> &blocks) {
    append_one_tensor(c, k_new, k_cache, blocks);
    append_one_tensor(c, v_new, v_cache, blocks);
}
