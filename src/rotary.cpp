// SPDX-License-Identifier: Apache-2.0
#include "rotary.hpp"

#include <algorithm>
#include <bit>
#include <cinttypes>

namespace kvappend {

namespace {

Status refuse(const char *field, std::int64_t value, const char *expected) {
    return fail(KVAPPEND_ERROR_ROTARY, "descriptor.k_rotary->%s is %" PRId64 ": expected %s", field, value, expected);
}

// The bytes of an element of a type that is rotated; 0 for other types.
std::uint32_t bytes_of_type(std::int32_t type) {
    switch (type) {
    case KVAPPEND_ELEMENT_F32:
        return 4;
    case KVAPPEND_ELEMENT_F16:
    case KVAPPEND_ELEMENT_BF16:
        return 2;
    default:
        return 0;
    }
}

Status check_conflicts(const kvappend_descriptor &d) {
    if (d.operation != KVAPPEND_OPERATION_APPEND) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.k_rotary is not NULL and descriptor.operation is %" PRId32
                    ": expected KVAPPEND_OPERATION_APPEND with a rotation, because other operations store no new rows",
                    d.operation);
    }
    if (bytes_of_type(d.element_type) == 0) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.k_rotary is not NULL and descriptor.element_type is %" PRId32
                    ": expected KVAPPEND_ELEMENT_F32, F16 or BF16 with a rotation",
                    d.element_type);
    }
    if (d.addressing == KVAPPEND_ADDRESSING_SLOTS && (d.flags & KVAPPEND_FLAG_POSITIONS) == 0) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.k_rotary is not NULL and descriptor.flags is 0x%" PRIx32
                    ": expected KVAPPEND_FLAG_POSITIONS in the flags, because a slot of KVAPPEND_ADDRESSING_SLOTS is "
                    "not a position",
                    static_cast<std::uint32_t>(d.flags));
    }
    return KVAPPEND_SUCCESS;
}

Status check_fields(const kvappend_rotary &r, std::int64_t k_dim) {
    if (r.style != KVAPPEND_ROTARY_HALF && r.style != KVAPPEND_ROTARY_INTERLEAVED) {
        return refuse("style", r.style, "a KVAPPEND_ROTARY_* constant");
    }
    if (bytes_of_type(r.table_type) == 0) {
        return refuse("table_type", r.table_type, "KVAPPEND_ELEMENT_F32, F16 or BF16");
    }
    if (r.dim < 2 || r.dim % 2 != 0 || r.dim > k_dim) {
        return refuse("dim", r.dim, "an even number from 2 to descriptor.k_dim");
    }
    if (r.first < 0 || r.first > k_dim - r.dim) {
        return refuse("first", r.first, "0 to descriptor.k_dim - dim");
    }
    if (r.table_rows < 0) {
        return refuse("table_rows", r.table_rows, "0 or more");
    }
    return r.table_stride < 0 ? refuse("table_stride", r.table_stride, "0 or more elements") : KVAPPEND_SUCCESS;
}

} // namespace

Status check_rotary(const kvappend_descriptor &d, Rotation &rotation) {
    rotation = {};
    if (d.k_rotary == nullptr) {
        return KVAPPEND_SUCCESS;
    }
    const kvappend_rotary &r = *d.k_rotary;
    TRY(check_conflicts(d));
    TRY(check_fields(r, d.k_dim));
    const std::int64_t half = r.dim / 2;
    const std::int64_t stride = r.table_stride == 0 ? half : r.table_stride;
    const std::uint32_t bytes = bytes_of_type(r.table_type);
    std::int64_t elements = 0;
    bool overflow = __builtin_mul_overflow(std::max<std::int64_t>(r.table_rows - 1, 0), stride, &elements);
    overflow |= __builtin_add_overflow(elements, half, &elements);
    overflow |= __builtin_mul_overflow(elements, std::int64_t{bytes}, &elements);
    // The stride of a single row, which has no effect, may be the larger number.
    std::int64_t stride_bytes = 0;
    overflow |= __builtin_mul_overflow(stride, std::int64_t{bytes}, &stride_bytes);
    if (overflow) {
        return fail(KVAPPEND_ERROR_OVERFLOW,
                    "descriptor.k_rotary->table_rows is %" PRId64 " and table_stride is %" PRId64
                    ": the bytes of a table do not fit in 63 bits; expected at most 9223372036854775807",
                    r.table_rows, r.table_stride);
    }
    const auto multiple = static_cast<std::uint64_t>(stride_bytes | half * bytes);
    constexpr std::uint64_t widest = 16;
    rotation = {r.dim,
                r.first,
                r.table_rows,
                stride_bytes,
                r.table_type,
                bytes,
                r.style == KVAPPEND_ROTARY_INTERLEAVED,
                1U << std::countr_zero(multiple | widest)};
    return KVAPPEND_SUCCESS;
}

void add_table_buffers(const Rotation &rotation, NeededBuffers &buffers) {
    if (rotation.dim == 0 || rotation.table_rows == 0) {
        return;
    }
    const std::int64_t bytes =
        (rotation.table_rows - 1) * rotation.table_stride + rotation.dim / 2 * std::int64_t{rotation.table_bytes};
    buffers.add({BufferName::rotary_cos, BufferUse::read, rotation.table_bytes, bytes});
    buffers.add({BufferName::rotary_sin, BufferUse::read, rotation.table_bytes, bytes});
}

} // namespace kvappend
