// SPDX-License-Identifier: Apache-2.0
#include "rotary.hpp"

#include <algorithm>
#include <bit>
#include <cinttypes>

namespace kvappend {

namespace {

Status refuse(const char *field, std::int64_t value, const char *expected) {
    return fail(KVAPPEND_ERROR_ROTARY, "descriptor.rotary->%s is %" PRId64 ": expected %s", field, value, expected);
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
                    "descriptor.rotary is not NULL and descriptor.operation is %" PRId32
                    ": expected KVAPPEND_OPERATION_APPEND with a rotation, because other operations store no new rows",
                    d.operation);
    }
    if (bytes_of_type(d.element_type) == 0) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.rotary is not NULL and descriptor.element_type is %" PRId32
                    ": expected KVAPPEND_ELEMENT_F32, F16 or BF16 with a rotation",
                    d.element_type);
    }
    if (d.addressing == KVAPPEND_ADDRESSING_SLOTS && (d.flags & KVAPPEND_FLAG_POSITIONS) == 0) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.rotary is not NULL and descriptor.flags is 0x%" PRIx32
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

Status check_query(const kvappend_rotary &r) {
    if (r.q_heads <= 0) {
        return r.q_heads < 0 ? refuse("q_heads", r.q_heads, "0 or more") : KVAPPEND_SUCCESS;
    }
    if (r.q_dim < r.dim) {
        return refuse("q_dim", r.q_dim, "at least dim");
    }
    return r.q_first < 0 || r.q_first > r.q_dim - r.dim ? refuse("q_first", r.q_first, "0 to q_dim - dim")
                                                        : KVAPPEND_SUCCESS;
}

// Refuses what a storage of Q may not ask for. check_storage refuses fields that are no constants.
Status check_query_storage(const kvappend_storage *storage) {
    if (storage == nullptr) {
        return KVAPPEND_SUCCESS;
    }
    const kvappend_storage &s = *storage;
    const struct {
        const char *name;
        std::int64_t value;
        bool is_refused;
        const char *expected;
    } fields[] = {
        {"type", s.type, s.type == KVAPPEND_STORED_INT4 || s.type == KVAPPEND_STORED_E2M1, "codes of 8 bits or more"},
        {"scaling", s.scaling, s.scaling == KVAPPEND_SCALING_COMPUTED,
         "KVAPPEND_SCALING_NONE or KVAPPEND_SCALING_GIVEN"},
        {"scale_order", s.scale_order, s.scale_order == KVAPPEND_SCALE_BY_FOUR_ROWS, "KVAPPEND_SCALE_LINEAR"},
        {"global_scale", s.global_scale, s.global_scale == 1, "0"},
        {"scale_strides[0]", s.scale_strides[0], s.scale_strides[0] != 0, "0, because all rows have the same scales"},
        {"scale_strides[2]", s.scale_strides[2], s.scale_strides[2] != 0, "0, because all rows have the same scales"}};
    for (const auto &field : fields) {
        if (field.is_refused) {
            return fail(KVAPPEND_ERROR_CONFLICT,
                        "descriptor.rotary->q_storage->%s is %" PRId64 ": expected %s in a storage of Q", field.name,
                        field.value, field.expected);
        }
    }
    return KVAPPEND_SUCCESS;
}

} // namespace

Status check_rotary(const kvappend_descriptor &d, Rotation &k, Rotation &q) {
    k = q = {};
    if (d.rotary == nullptr) {
        return KVAPPEND_SUCCESS;
    }
    const kvappend_rotary &r = *d.rotary;
    TRY(check_conflicts(d));
    TRY(check_fields(r, d.k_dim));
    TRY(check_query(r));
    TRY(check_query_storage(r.q_heads > 0 ? r.q_storage : nullptr));
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
                    "descriptor.rotary->table_rows is %" PRId64 " and table_stride is %" PRId64
                    ": the bytes of a table do not fit in 63 bits; expected at most 9223372036854775807",
                    r.table_rows, r.table_stride);
    }
    const auto multiple = static_cast<std::uint64_t>(stride_bytes | half * bytes);
    constexpr std::uint64_t widest = 16;
    k = {r.dim,
         r.first,
         r.table_rows,
         stride_bytes,
         r.table_type,
         bytes,
         r.style == KVAPPEND_ROTARY_INTERLEAVED,
         1U << std::countr_zero(multiple | widest)};
    if (r.q_heads > 0) {
        q = k;
        q.first = r.q_first;
    }
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
