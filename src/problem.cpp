// SPDX-License-Identifier: Apache-2.0
#include "problem.hpp"

#include <algorithm>
#include <bit>
#include <cinttypes>
#include <cstddef>

namespace kvappend {

namespace {

std::uint32_t bytes_of_element(std::int32_t type) {
    switch (type) {
    case KVAPPEND_ELEMENT_F64:
        return 8;
    case KVAPPEND_ELEMENT_F32:
        return 4;
    case KVAPPEND_ELEMENT_F16:
    case KVAPPEND_ELEMENT_BF16:
        return 2;
    default:
        return 0;
    }
}

std::uint32_t bytes_of_offset(std::int32_t type) {
    switch (type) {
    case KVAPPEND_OFFSET_INT64:
        return 8;
    case KVAPPEND_OFFSET_INT32:
        return 4;
    default:
        return 0;
    }
}

// One of the four tensors as the descriptor tells of it, and what follows from that.
struct Tensor {
    const char *name;
    std::int64_t batch;
    std::int64_t heads;
    std::int64_t rows;
    std::int64_t dim;
    const std::int64_t (&strides_in_elements)[3];

    Strides strides{}; // in bytes
    std::int64_t bytes = 0;

    Status measure(std::uint32_t element_bytes);
};

Status Tensor::measure(std::uint32_t element_bytes) {
    static constexpr const char *axis_names[] = {"BATCH", "HEAD", "ROW"};
    for (int axis = 0; axis < 3; ++axis) {
        if (strides_in_elements[axis] < 0) {
            return fail(KVAPPEND_ERROR_STRIDE,
                        "descriptor.%s_strides[KVAPPEND_AXIS_%s] is %" PRId64 ": expected 0 or more elements", name,
                        axis_names[axis], strides_in_elements[axis]);
        }
    }
    const std::int64_t extents[3] = {batch, heads, rows};
    if (batch == 0 || heads == 0 || rows == 0 || dim == 0) {
        return KVAPPEND_SUCCESS;
    }
    std::int64_t all = element_bytes;
    bool overflow = __builtin_mul_overflow(all, dim, &all);
    std::int64_t in_bytes[3] = {0, 0, 0};
    const bool contiguous = std::ranges::all_of(strides_in_elements, [](std::int64_t s) { return s == 0; });
    std::int64_t span = all;
    const std::int64_t row_bytes = all;
    // Innermost axis first: the order in memory of the contiguous tensor is batch, head, row.
    for (int axis = 2; axis >= 0; --axis) {
        if (contiguous) {
            in_bytes[axis] = all;
        } else if (extents[axis] > 1) {
            overflow |= __builtin_mul_overflow(strides_in_elements[axis], std::int64_t{element_bytes}, &in_bytes[axis]);
        }
        std::int64_t reach = 0;
        overflow |= __builtin_mul_overflow(in_bytes[axis], extents[axis] - 1, &reach);
        overflow |= __builtin_add_overflow(span, reach, &span);
        overflow |= __builtin_mul_overflow(all, extents[axis], &all);
    }
    if (overflow) {
        return fail(
            KVAPPEND_ERROR_OVERFLOW,
            "%s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] with strides {%" PRId64 ", %" PRId64 ", %" PRId64
            "}: its bytes, or the bytes from its first to its last element, do not fit in 63 bits; expected at "
            "most 9223372036854775807",
            name, batch, heads, rows, dim, strides_in_elements[0], strides_in_elements[1], strides_in_elements[2]);
    }
    strides = {in_bytes[KVAPPEND_AXIS_BATCH], in_bytes[KVAPPEND_AXIS_HEAD], in_bytes[KVAPPEND_AXIS_ROW]};
    bytes = std::max(span, row_bytes);
    return KVAPPEND_SUCCESS;
}

Status plan_copy(Tensor from, Tensor to, std::uint32_t element_bytes, TensorCopy &copy) {
    if (const Status status = from.measure(element_bytes); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = to.measure(element_bytes); status != KVAPPEND_SUCCESS) {
        return status;
    }
    copy = {};
    if (from.bytes == 0 || to.bytes == 0) {
        return KVAPPEND_SUCCESS;
    }
    const std::int64_t row_bytes = from.dim * element_bytes;
    copy.cache_axes = {{{to.batch, to.strides.batch}, {to.heads, to.strides.head}, {to.rows, to.strides.row}}};
    copy.cache_row_bytes = row_bytes;
    if (const Reach overlap = rows_overlap(copy.cache_axes, row_bytes); overlap != Reach::no) {
        return fail(KVAPPEND_ERROR_CACHE_OVERLAP,
                    "%s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] with strides {%" PRId64 ", %" PRId64
                    ", %" PRId64 "}: %s; expected rows that share no element",
                    to.name, to.batch, to.heads, to.rows, to.dim, to.strides_in_elements[0], to.strides_in_elements[1],
                    to.strides_in_elements[2],
                    overlap == Reach::yes ? "two of its rows share memory"
                                          : "these strides are too irregular to tell whether its rows share memory");
    }

    const bool merge = from.heads > 1 && from.strides.head == row_bytes && to.strides.head == row_bytes;
    copy.heads = merge ? 1 : from.heads;
    copy.row_bytes = merge ? from.heads * row_bytes : row_bytes;
    copy.from = from.strides;
    copy.to = to.strides;
    copy.adjacent_rows = from.rows == 1 || (from.strides.row == copy.row_bytes && to.strides.row == copy.row_bytes);
    copy.new_bytes = from.bytes;
    copy.cache_bytes = to.bytes;

    // The stride of an axis with one entry is never used, and must not narrow the accesses.
    std::int64_t divided = 16 | copy.row_bytes;
    const auto use = [&divided](std::int64_t extent, std::int64_t stride) { divided |= extent > 1 ? stride : 0; };
    use(from.batch, copy.from.batch);
    use(from.batch, copy.to.batch);
    use(copy.heads, copy.from.head);
    use(copy.heads, copy.to.head);
    use(from.rows, copy.from.row);
    use(to.rows, copy.to.row);
    copy.alignment = std::uint32_t{1} << std::countr_zero(static_cast<std::uint64_t>(divided));
    return KVAPPEND_SUCCESS;
}

// The memory from a buffer's first to its last element.
struct Range {
    const char *name;
    std::uintptr_t begin;
    std::uintptr_t end;
};

Status check_buffer(const char *name, const void *pointer, std::size_t given, std::int64_t needed,
                    std::uint32_t alignment, Range &range) {
    const auto begin = reinterpret_cast<std::uintptr_t>(pointer);
    if (pointer == nullptr) {
        return fail(KVAPPEND_ERROR_NULL_BUFFER, "args.%s is NULL: expected a buffer of %" PRId64 " bytes", name,
                    needed);
    }
    if (begin % alignment != 0) {
        return fail(KVAPPEND_ERROR_MISALIGNED, "args.%s is %p: expected an address that is a multiple of %" PRIu32,
                    name, pointer, alignment);
    }
    if (given != 0 && given < static_cast<std::size_t>(needed)) {
        return fail(KVAPPEND_ERROR_BUFFER_TOO_SMALL,
                    "args.%s_bytes is %zu: expected at least %" PRId64 ", or 0 where the size is unknown", name, given,
                    needed);
    }
    range = {name, begin, 0};
    if (__builtin_add_overflow(begin, static_cast<std::uintptr_t>(needed), &range.end)) {
        return fail(KVAPPEND_ERROR_BUFFER_TOO_SMALL,
                    "args.%s is %p: expected an address with %" PRId64 " bytes before the end of the address space",
                    name, pointer, needed);
    }
    return KVAPPEND_SUCCESS;
}

bool meet(const Range &a, const Range &b) {
    return a.begin < b.end && b.begin < a.end;
}

} // namespace

Status Problem::create(const kvappend_descriptor &d, Problem &problem) {
    problem = {};
    if (d.backend != KVAPPEND_BACKEND_HOST && d.backend != KVAPPEND_BACKEND_CUDA) {
        return fail(KVAPPEND_ERROR_BACKEND, "descriptor.backend is %" PRId32 ": expected a KVAPPEND_BACKEND_* constant",
                    d.backend);
    }
    problem.element_bytes = bytes_of_element(d.element_type);
    if (problem.element_bytes == 0) {
        return fail(KVAPPEND_ERROR_ELEMENT_TYPE,
                    "descriptor.element_type is %" PRId32 ": expected a KVAPPEND_ELEMENT_* constant", d.element_type);
    }
    problem.offset_bytes = bytes_of_offset(d.offset_type);
    if (problem.offset_bytes == 0) {
        return fail(KVAPPEND_ERROR_OFFSET_TYPE,
                    "descriptor.offset_type is %" PRId32 ": expected a KVAPPEND_OFFSET_* constant", d.offset_type);
    }
    if (d.addressing != KVAPPEND_ADDRESSING_DENSE) {
        return fail(KVAPPEND_ERROR_ADDRESSING,
                    "descriptor.addressing is %" PRId32 ": expected a KVAPPEND_ADDRESSING_* constant", d.addressing);
    }
    const struct {
        const char *name;
        std::int64_t value;
    } extents[] = {{"batch", d.batch},           {"heads", d.heads}, {"new_rows", d.new_rows},
                   {"cache_rows", d.cache_rows}, {"k_dim", d.k_dim}, {"v_dim", d.v_dim}};
    for (const auto &extent : extents) {
        if (extent.value < 0) {
            return fail(KVAPPEND_ERROR_EXTENT, "descriptor.%s is %" PRId64 ": expected 0 or more", extent.name,
                        extent.value);
        }
    }
    if (std::int64_t bytes = 0; __builtin_mul_overflow(d.batch, std::int64_t{problem.offset_bytes}, &bytes)) {
        return fail(KVAPPEND_ERROR_OVERFLOW,
                    "descriptor.batch is %" PRId64 ": the bytes of cache_offsets [%" PRId64 "] do not fit in 63 bits; "
                    "expected at most 9223372036854775807",
                    d.batch, d.batch);
    }
    problem.backend = d.backend;
    problem.element_type = d.element_type;
    problem.offset_type = d.offset_type;
    problem.batch = d.batch;
    problem.new_rows = d.new_rows;
    problem.cache_rows = d.cache_rows;
    if (const Status status = plan_copy({"k_new", d.batch, d.heads, d.new_rows, d.k_dim, d.k_new_strides},
                                        {"k_cache", d.batch, d.heads, d.cache_rows, d.k_dim, d.k_cache_strides},
                                        problem.element_bytes, problem.k);
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    return plan_copy({"v_new", d.batch, d.heads, d.new_rows, d.v_dim, d.v_new_strides},
                     {"v_cache", d.batch, d.heads, d.cache_rows, d.v_dim, d.v_cache_strides}, problem.element_bytes,
                     problem.v);
}

Status Problem::check(const kvappend_args &args) const {
    if (empty()) {
        return KVAPPEND_SUCCESS;
    }
    const std::int64_t offsets_bytes = batch * offset_bytes;
    const struct {
        const char *name;
        const void *pointer;
        std::size_t given;
        std::int64_t needed;
        std::uint32_t alignment;
        bool read;
    } buffers[] = {{"k_new", args.k_new, args.k_new_bytes, k.new_bytes, element_bytes, true},
                   {"v_new", args.v_new, args.v_new_bytes, v.new_bytes, element_bytes, true},
                   {"cache_offsets", args.cache_offsets, args.cache_offsets_bytes, offsets_bytes, offset_bytes, true},
                   {"k_cache", args.k_cache, args.k_cache_bytes, k.cache_bytes, element_bytes, false},
                   {"v_cache", args.v_cache, args.v_cache_bytes, v.cache_bytes, element_bytes, false}};
    Range read[3];
    Range written[2];
    std::size_t reads = 0;
    std::size_t writes = 0;
    for (const auto &b : buffers) {
        if (b.needed == 0) {
            continue;
        }
        Range &range = b.read ? read[reads++] : written[writes++];
        if (const Status status = check_buffer(b.name, b.pointer, b.given, b.needed, b.alignment, range);
            status != KVAPPEND_SUCCESS) {
            return status;
        }
    }
    for (const Range &w : std::span(written, writes)) {
        for (const Range &r : std::span(read, reads)) {
            if (meet(r, w)) {
                return fail(KVAPPEND_ERROR_ALIAS,
                            "args.%s [0x%" PRIxPTR ", 0x%" PRIxPTR ") and args.%s [0x%" PRIxPTR ", 0x%" PRIxPTR
                            ") share memory: expected buffers apart from each other",
                            r.name, r.begin, r.end, w.name, w.begin, w.end);
            }
        }
    }
    if (writes == 2 && meet(written[0], written[1])) {
        const auto distance = static_cast<std::int64_t>(written[1].begin - written[0].begin);
        const Reach overlap = rows_overlap(k.cache_axes, k.cache_row_bytes, v.cache_axes, v.cache_row_bytes, distance);
        if (overlap != Reach::no) {
            return fail(KVAPPEND_ERROR_CACHE_OVERLAP,
                        "args.k_cache is %p and args.v_cache is %p: %s; expected caches that share no element",
                        args.k_cache, args.v_cache,
                        overlap == Reach::yes ? "a row of one shares memory with a row of the other"
                                              : "their strides are too irregular to tell whether they share memory");
        }
    }
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
