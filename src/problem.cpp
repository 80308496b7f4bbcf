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

// One of the four tensors as the descriptor tells of it, and what follows from that.
struct Tensor {
    const char *name;
    std::int64_t batch;
    std::int64_t heads;
    std::int64_t rows;
    std::int64_t dim;
    const std::int64_t (&strides_in_elements)[3];
    bool by_token = false; // contiguous means [rows, heads, dim]
    // A row in pieces of `pack` elements; contiguous means [batch, heads, dim / pack, rows, pack]. 0: a row is whole.
    std::int64_t pack = 0;
    std::int64_t piece_stride_in_elements = 0;

    Strides strides{}; // in bytes
    std::int64_t piece_bytes = 0;
    std::int64_t piece_stride = 0;
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
    if (batch == 0 || heads == 0 || rows == 0 || dim == 0) {
        return KVAPPEND_SUCCESS;
    }
    // The three axes of the stride array, and the pieces.
    constexpr int pieces = 3;
    const std::int64_t extents[] = {batch, heads, rows, pack == 0 ? 1 : dim / pack};
    std::int64_t in_bytes[] = {0, 0, 0, 0};
    bool overflow = __builtin_mul_overflow(pack == 0 ? dim : pack, std::int64_t{element_bytes}, &piece_bytes);
    std::int64_t all = piece_bytes;
    std::int64_t span = piece_bytes;
    const bool contiguous = std::ranges::all_of(strides_in_elements, [](std::int64_t s) { return s == 0; });
    // Innermost axis first, in the order in memory of the contiguous tensor.
    constexpr int by_sample_order[] = {KVAPPEND_AXIS_ROW, pieces, KVAPPEND_AXIS_HEAD, KVAPPEND_AXIS_BATCH};
    constexpr int by_token_order[] = {KVAPPEND_AXIS_HEAD, KVAPPEND_AXIS_ROW, KVAPPEND_AXIS_BATCH, pieces};
    for (const int axis : by_token ? by_token_order : by_sample_order) {
        if (contiguous) {
            in_bytes[axis] = all;
        } else if (extents[axis] > 1) {
            const std::int64_t elements = axis == pieces ? piece_stride_in_elements : strides_in_elements[axis];
            overflow |= __builtin_mul_overflow(elements, std::int64_t{element_bytes}, &in_bytes[axis]);
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
    piece_stride = in_bytes[pieces];
    bytes = span;
    return KVAPPEND_SUCCESS;
}

// The rows of K or of V: new ones, and those of the cache.
struct Part {
    const char *name; // "k" or "v"
    Tensor from;
    Tensor to;
};

Status check_pack(const char *name, const Tensor &to) {
    if (to.pack < 0 ||
        (to.pack != 0 && (!std::has_single_bit(static_cast<std::uint64_t>(to.pack)) || to.dim % to.pack != 0))) {
        return fail(KVAPPEND_ERROR_PACK,
                    "descriptor.%s_pack is %" PRId64 " and descriptor.%s_dim is %" PRId64
                    ": expected 0, or a power of two that divides the dimension",
                    name, to.pack, name, to.dim);
    }
    if (to.piece_stride_in_elements < 0) {
        return fail(KVAPPEND_ERROR_STRIDE, "descriptor.%s_piece_stride is %" PRId64 ": expected 0 or more elements",
                    name, to.piece_stride_in_elements);
    }
    if (to.pack == 0 && to.piece_stride_in_elements != 0) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.%s_piece_stride is %" PRId64 " and descriptor.%s_pack is 0: expected 0, as rows are "
                    "whole",
                    name, to.piece_stride_in_elements, name);
    }
    return KVAPPEND_SUCCESS;
}

Status plan_copy(Part part, std::uint32_t element_bytes, TensorCopy &copy) {
    auto &[name, from, to] = part;
    if (const Status status = from.measure(element_bytes); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = check_pack(name, to); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = to.measure(element_bytes); status != KVAPPEND_SUCCESS) {
        return status;
    }
    copy = {};
    if (from.bytes == 0 || to.bytes == 0) {
        return KVAPPEND_SUCCESS;
    }
    const std::int64_t row_bytes = from.piece_bytes;
    copy.cache_axes = {{{to.batch, to.strides.batch},
                        {to.heads, to.strides.head},
                        {to.rows, to.strides.row},
                        {row_bytes / to.piece_bytes, to.piece_stride}}};
    copy.cache_piece_bytes = to.piece_bytes;
    if (const Reach overlap = rows_overlap(copy.cache_axes, to.piece_bytes); overlap != Reach::no) {
        return fail(KVAPPEND_ERROR_CACHE_OVERLAP,
                    "%s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] with strides {%" PRId64 ", %" PRId64
                    ", %" PRId64 "}: %s; expected rows that share no element",
                    to.name, to.batch, to.heads, to.rows, to.dim, to.strides_in_elements[0], to.strides_in_elements[1],
                    to.strides_in_elements[2],
                    overlap != Reach::yes ? "these strides are too irregular to tell whether its rows share memory"
                    : to.pack == 0        ? "two of its rows share memory"
                                          : "two pieces of its rows share memory, by these strides, its pack and its "
                                            "piece stride");
    }

    const bool whole = to.piece_bytes == row_bytes;
    const bool merge = whole && from.heads > 1 && from.strides.head == row_bytes && to.strides.head == row_bytes;
    copy.heads = merge ? 1 : from.heads;
    copy.row_bytes = merge ? from.heads * row_bytes : row_bytes;
    copy.from = from.strides;
    copy.to = to.strides;
    copy.piece_bytes = whole ? copy.row_bytes : to.piece_bytes;
    copy.piece_stride = to.piece_stride;
    copy.adjacent_rows = from.rows == 1 || (from.strides.row == copy.row_bytes && to.strides.row == copy.row_bytes);
    copy.new_bytes = from.bytes;
    copy.cache_bytes = to.bytes;

    // The stride of an axis with one entry is never used, and must not narrow the accesses.
    std::int64_t divided = 16 | copy.row_bytes | copy.piece_bytes;
    const auto use = [&divided](std::int64_t extent, std::int64_t stride) { divided |= extent > 1 ? stride : 0; };
    use(from.batch, copy.from.batch);
    use(to.batch, copy.to.batch);
    use(copy.heads, copy.from.head);
    use(copy.heads, copy.to.head);
    use(from.rows, copy.from.row);
    use(to.rows, copy.to.row);
    use(copy.row_bytes / copy.piece_bytes, copy.piece_stride);
    copy.alignment = std::uint32_t{1} << std::countr_zero(static_cast<std::uint64_t>(divided));
    return KVAPPEND_SUCCESS;
}

// A block keeps no more rows of a sample than it has, of which a ring replaces those before.
std::int64_t bytes_of(const Problem &problem, const TensorCopy &copy) {
    const Addressing &a = problem.addressing;
    const bool one_block = !a.by_token() && a.kind < KVAPPEND_ADDRESSING_PAGED;
    const std::int64_t rows = one_block ? std::min(problem.new_rows, a.cache_rows) : problem.new_rows;
    return copy.empty() ? 0 : problem.batch * rows * copy.heads * copy.row_bytes;
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
    const struct {
        const char *name;
        std::int64_t value;
    } extents[] = {{"batch", d.batch},
                   {"heads", d.heads},
                   {"new_rows", d.new_rows},
                   {"cache_rows", d.cache_rows},
                   {"k_dim", d.k_dim},
                   {"v_dim", d.v_dim},
                   {"cache_blocks", d.cache_blocks},
                   {"sink_rows", d.sink_rows},
                   {"table_entries", d.table_entries}};
    for (const auto &extent : extents) {
        if (extent.value < 0) {
            return fail(KVAPPEND_ERROR_EXTENT, "descriptor.%s is %" PRId64 ": expected 0 or more", extent.name,
                        extent.value);
        }
    }
    if (d.table_stride < 0) {
        return fail(KVAPPEND_ERROR_STRIDE, "descriptor.table_stride is %" PRId64 ": expected 0 or more elements",
                    d.table_stride);
    }
    if (const Status status = Addressing::create(d, problem.addressing); status != KVAPPEND_SUCCESS) {
        return status;
    }
    problem.backend = d.backend;
    problem.element_type = d.element_type;
    const bool by_token = problem.addressing.by_token();
    problem.batch = by_token ? std::min<std::int64_t>(d.batch, 1) : d.batch;
    problem.new_rows = d.new_rows;
    const auto from = [&](const char *name, std::int64_t dim, const std::int64_t(&strides)[3]) {
        return Tensor{name, problem.batch, d.heads, d.new_rows, dim, strides, by_token};
    };
    const auto to = [&](const char *name, std::int64_t dim, const std::int64_t(&strides)[3], std::int64_t pack,
                        std::int64_t piece_stride) {
        return Tensor{name,        problem.addressing.cache_blocks, d.heads, d.cache_rows, dim, strides, false, pack,
                      piece_stride};
    };
    if (const Status status = plan_copy({"k", from("k_new", d.k_dim, d.k_new_strides),
                                         to("k_cache", d.k_dim, d.k_cache_strides, d.k_pack, d.k_piece_stride)},
                                        problem.element_bytes, problem.k);
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = plan_copy({"v", from("v_new", d.v_dim, d.v_new_strides),
                                         to("v_cache", d.v_dim, d.v_cache_strides, d.v_pack, d.v_piece_stride)},
                                        problem.element_bytes, problem.v);
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (!problem.k.empty() && !problem.v.empty()) {
        problem.caches = Interleaving(problem.k.cache_axes, problem.k.cache_piece_bytes, problem.v.cache_axes,
                                      problem.v.cache_piece_bytes);
    }
    // Each fits in 63 bits, which the sum may not.
    const std::int64_t k_bytes = bytes_of(problem, problem.k);
    problem.bytes = k_bytes + std::min(bytes_of(problem, problem.v), INT64_MAX - k_bytes);
    if (!problem.empty()) {
        const std::uint32_t alignment = problem.element_bytes;
        problem.buffers.add({BufferName::k_new, false, alignment, problem.k.new_bytes});
        problem.buffers.add({BufferName::v_new, false, alignment, problem.v.new_bytes});
        problem.buffers.add({BufferName::k_cache, true, alignment, problem.k.cache_bytes});
        problem.buffers.add({BufferName::v_cache, true, alignment, problem.v.cache_bytes});
        add_index_buffers(problem.addressing, problem.buffers);
    }
    return KVAPPEND_SUCCESS;
}

Status Problem::check(const kvappend_args &args) const {
    if (const Status status = buffers.check(args); status != KVAPPEND_SUCCESS) {
        return status;
    }
    const auto k_begin = reinterpret_cast<std::uintptr_t>(args.k_cache);
    const auto v_begin = reinterpret_cast<std::uintptr_t>(args.v_cache);
    if (k.empty() || v.empty() || v_begin >= k_begin + static_cast<std::uintptr_t>(k.cache_bytes) ||
        k_begin >= v_begin + static_cast<std::uintptr_t>(v.cache_bytes)) {
        return KVAPPEND_SUCCESS;
    }
    const auto distance = static_cast<std::int64_t>(v_begin - k_begin);
    if (caches.apart(distance)) {
        return KVAPPEND_SUCCESS;
    }
    const Reach overlap = rows_overlap(k.cache_axes, k.cache_piece_bytes, v.cache_axes, v.cache_piece_bytes, distance);
    if (overlap == Reach::no) {
        return KVAPPEND_SUCCESS;
    }
    return fail(KVAPPEND_ERROR_CACHE_OVERLAP,
                "args.k_cache is %p and args.v_cache is %p: %s; expected caches that share no element", args.k_cache,
                args.v_cache,
                overlap == Reach::yes ? "a row of one shares memory with a row of the other"
                                      : "their strides are too irregular to tell whether they share memory");
}

} // namespace kvappend
