// SPDX-License-Identifier: Apache-2.0
#include "tensor.hpp"

#include <algorithm>
#include <bit>
#include <cinttypes>
#include <cstdio>

namespace kvappend {

namespace {

const char *unit_of(const TensorDescription &d) {
    return d.stride_bytes == 1 && d.element_bits != 8 ? "bytes" : "elements";
}

// Whether elements are aligned at every multiple of the stride.
bool is_aligned(const TensorDescription &d, std::int64_t stride) {
    return d.stride_bytes != 1 || stride % d.element_alignment() == 0;
}

Status check_strides(const TensorDescription &d) {
    static constexpr const char *axis_names[] = {"BATCH", "HEAD", "ROW"};
    for (int axis = 0; axis < 3; ++axis) {
        const std::int64_t stride = d.strides[axis];
        if (stride < 0) {
            return fail(KVAPPEND_ERROR_STRIDE, "descriptor.%s[KVAPPEND_AXIS_%s] is %" PRId64 ": expected 0 or more %s",
                        d.strides_name, axis_names[axis], stride, unit_of(d));
        }
        if (!is_aligned(d, stride)) {
            return fail(KVAPPEND_ERROR_STRIDE,
                        "descriptor.%s[KVAPPEND_AXIS_%s] is %" PRId64 ": expected a multiple of %" PRIu32
                        " bytes, because it counts bytes",
                        d.strides_name, axis_names[axis], stride, d.element_alignment());
        }
    }
    return KVAPPEND_SUCCESS;
}

// The letter that begins the names of a cache's pack and piece stride.
char letter_of(const TensorDescription &d) {
    return d.name[0];
}

Status check_pack(const TensorDescription &d) {
    const bool legal =
        d.pack == 0 || (d.pack > 0 && std::has_single_bit(static_cast<std::uint64_t>(d.pack)) && d.dim % d.pack == 0);
    if (!legal) {
        return fail(KVAPPEND_ERROR_PACK,
                    "descriptor.%c_pack is %" PRId64 " and descriptor.%c_dim is %" PRId64
                    ": expected 0, or a power of two that divides the dimension",
                    letter_of(d), d.pack, letter_of(d), d.dim);
    }
    if (d.pack % 8 * d.element_bits % 8 != 0) {
        return fail(KVAPPEND_ERROR_PACK,
                    "descriptor.%c_pack is %" PRId64 " and an element has %" PRIu32
                    " bits: expected pieces of whole bytes",
                    letter_of(d), d.pack, d.element_bits);
    }
    if (d.piece_stride < 0 || !is_aligned(d, d.piece_stride)) {
        return fail(KVAPPEND_ERROR_STRIDE,
                    "descriptor.%c_piece_stride is %" PRId64 ": expected 0 or more %s, and a multiple of %" PRIu32,
                    letter_of(d), d.piece_stride, unit_of(d), d.stride_bytes == 1 ? d.element_alignment() : 1);
    }
    if (d.pack == 0 && d.piece_stride != 0) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.%c_piece_stride is %" PRId64 " and descriptor.%c_pack is 0: expected 0, as rows are "
                    "whole",
                    letter_of(d), d.piece_stride, letter_of(d));
    }
    return KVAPPEND_SUCCESS;
}

Status overflow_error(const TensorDescription &d) {
    char pieces[80] = "";
    if (d.pack != 0) {
        std::snprintf(pieces, sizeof pieces, ", pack %" PRId64 " and piece stride %" PRId64, d.pack, d.piece_stride);
    }
    return fail(KVAPPEND_ERROR_OVERFLOW,
                "%s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] with strides {%" PRId64 ", %" PRId64
                ", %" PRId64 "}%s: its bytes, or the bytes from its first to its last element, do not fit in 63 bits; "
                "expected at most 9223372036854775807",
                d.name, d.outer, d.heads, d.rows, d.dim, d.strides[0], d.strides[1], d.strides[2], pieces);
}

// The axis of the pieces, which follows the axes of the stride array, and the number of all axes.
constexpr int pieces = 3;
constexpr int axes = 4;

// The bytes of adjacent elements. Returns true if they do not fit in 63 bits.
bool bytes_overflow(std::int64_t elements, std::uint32_t element_bits, std::int64_t &bytes) {
    const bool overflow = __builtin_mul_overflow(elements / 8, std::int64_t{element_bits}, &bytes);
    return __builtin_add_overflow(bytes, (elements % 8 * element_bits + 7) / 8, &bytes) || overflow;
}

// Measures a tensor that has elements. Returns false where a number of bytes overflows.
bool measure(const TensorDescription &d, Tensor &tensor) {
    const std::int64_t extents[axes] = {d.outer, d.heads, d.rows, d.pack == 0 ? 1 : d.dim / d.pack};
    const std::int64_t given[axes] = {d.strides[0], d.strides[1], d.strides[2], d.piece_stride};
    std::int64_t strides[axes] = {0, 0, 0, 0};
    bool overflow = bytes_overflow(d.pack == 0 ? d.dim : d.pack, d.element_bits, tensor.piece_bytes);
    std::int64_t contiguous_bytes = tensor.piece_bytes; // of the axes so far
    tensor.bytes = tensor.piece_bytes;
    const bool contiguous = !d.repeats && std::ranges::all_of(d.strides, [](std::int64_t s) { return s == 0; });
    // Innermost axis first, in the order in memory of the contiguous tensor.
    constexpr int by_sample_order[] = {KVAPPEND_AXIS_ROW, pieces, KVAPPEND_AXIS_HEAD, KVAPPEND_AXIS_BATCH};
    constexpr int by_token_order[] = {KVAPPEND_AXIS_HEAD, KVAPPEND_AXIS_ROW, KVAPPEND_AXIS_BATCH, pieces};
    for (const int axis : d.by_token ? by_token_order : by_sample_order) {
        // The stride of an axis with one entry is never used. It stays 0, so that it never requires 64-bit strides.
        if (extents[axis] > 1 && contiguous) {
            strides[axis] = contiguous_bytes;
        } else if (extents[axis] > 1) {
            overflow |= __builtin_mul_overflow(given[axis], std::int64_t{d.stride_bytes}, &strides[axis]);
        }
        std::int64_t reach = 0;
        overflow |= __builtin_mul_overflow(strides[axis], extents[axis] - 1, &reach);
        overflow |= __builtin_add_overflow(tensor.bytes, reach, &tensor.bytes);
        overflow |= __builtin_mul_overflow(contiguous_bytes, extents[axis], &contiguous_bytes);
    }
    if (overflow) {
        return false;
    }
    tensor.row_bytes = tensor.piece_bytes * extents[pieces];
    tensor.strides = {strides[KVAPPEND_AXIS_BATCH], strides[KVAPPEND_AXIS_HEAD], strides[KVAPPEND_AXIS_ROW]};
    tensor.piece_stride = strides[pieces];
    return true;
}

} // namespace

Status Tensor::create(const TensorDescription &d, Tensor &tensor) {
    tensor = {};
    TRY(check_pack(d));
    TRY(check_strides(d));
    tensor.outer = d.outer;
    tensor.heads = d.heads;
    tensor.rows = d.rows;
    if (d.outer == 0 || d.heads == 0 || d.rows == 0 || d.dim == 0) {
        return KVAPPEND_SUCCESS;
    }
    return measure(d, tensor) ? KVAPPEND_SUCCESS : overflow_error(d);
}

void Tensor::merge_heads() {
    row_bytes *= heads;
    piece_bytes = row_bytes;
    heads = 1;
}

std::uint32_t Tensor::alignment() const {
    // The stride of an axis with one entry is never used, and must not narrow the accesses.
    std::int64_t divided = 16 | row_bytes | piece_bytes;
    const auto use = [&divided](std::int64_t extent, std::int64_t stride) { divided |= extent > 1 ? stride : 0; };
    use(outer, strides.outer);
    use(heads, strides.head);
    use(rows, strides.row);
    use(row_bytes / piece_bytes, piece_stride);
    return std::uint32_t{1} << std::countr_zero(static_cast<std::uint64_t>(divided));
}

} // namespace kvappend
