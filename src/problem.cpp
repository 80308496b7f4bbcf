// SPDX-License-Identifier: Apache-2.0
#include "problem.hpp"

#include "overlap.hpp"

#include <algorithm>
#include <cinttypes>
#include <utility>

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
    case KVAPPEND_ELEMENT_E4M3:
    case KVAPPEND_ELEMENT_E5M2:
    case KVAPPEND_ELEMENT_INT8:
    case KVAPPEND_ELEMENT_UINT8:
        return 1;
    default:
        return 0;
    }
}

Status check_enumerators(const kvappend_descriptor &d) {
    if (d.backend != KVAPPEND_BACKEND_HOST && d.backend != KVAPPEND_BACKEND_CUDA) {
        return fail(KVAPPEND_ERROR_BACKEND, "descriptor.backend is %" PRId32 ": expected a KVAPPEND_BACKEND_* constant",
                    d.backend);
    }
    if (bytes_of_element(d.element_type) == 0) {
        return fail(KVAPPEND_ERROR_ELEMENT_TYPE,
                    "descriptor.element_type is %" PRId32 ": expected a KVAPPEND_ELEMENT_* constant", d.element_type);
    }
    return KVAPPEND_SUCCESS;
}

Status check_extents(const kvappend_descriptor &d) {
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
    return KVAPPEND_SUCCESS;
}

Status check_cache(const TensorDescription &d, const Tensor &cache) {
    const Reach overlap = pieces_overlap(Pieces(cache));
    if (overlap == Reach::no) {
        return KVAPPEND_SUCCESS;
    }
    return fail(KVAPPEND_ERROR_CACHE_OVERLAP,
                "%s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] with strides {%" PRId64 ", %" PRId64
                ", %" PRId64 "}: %s; expected rows that share no element",
                d.name, d.outer, d.heads, d.rows, d.dim, d.strides[0], d.strides[1], d.strides[2],
                overlap != Reach::yes ? "these strides are too irregular to tell whether its rows share memory"
                : d.pack == 0         ? "two of its rows share memory"
                                      : "two pieces of its rows share memory because of these strides, its pack and "
                                        "its piece stride");
}

Status create_copy(const TensorDescription &rows, const TensorDescription &cache, std::uint32_t element_bytes,
                   Copy &copy) {
    TRY(Tensor::create(rows, element_bytes, copy.rows));
    TRY(Tensor::create(cache, element_bytes, copy.cache));
    if (copy.empty()) {
        copy = {};
        return KVAPPEND_SUCCESS;
    }
    TRY(check_cache(cache, copy.cache));
    if (copy.rows.adjacent_heads() && copy.cache.adjacent_heads()) {
        copy.rows.merge_heads();
        copy.cache.merge_heads();
    }
    copy.adjacent_rows = copy.rows.rows == 1 || (copy.rows.adjacent_rows() && copy.cache.adjacent_rows());
    copy.alignment = std::min(copy.rows.alignment(), copy.cache.alignment());
    return KVAPPEND_SUCCESS;
}

Status create_copies(const kvappend_descriptor &d, Problem &problem) {
    const auto rows = [&](const char *name, std::int64_t dim, const std::int64_t(&strides)[3]) {
        return TensorDescription{name,    problem.source_samples,       d.heads, d.new_rows, dim,
                                 strides, problem.addressing.by_token()};
    };
    const auto cache = [&](const char *name, std::int64_t dim, const std::int64_t(&strides)[3], std::int64_t pack,
                           std::int64_t piece_stride) {
        return TensorDescription{
            name, problem.addressing.cache_blocks, d.heads, d.cache_rows, dim, strides, false, pack, piece_stride};
    };
    TRY(create_copy(rows("k_new", d.k_dim, d.k_new_strides),
                    cache("k_cache", d.k_dim, d.k_cache_strides, d.k_pack, d.k_piece_stride), problem.element_bytes,
                    problem.k));
    return create_copy(rows("v_new", d.v_dim, d.v_new_strides),
                       cache("v_cache", d.v_dim, d.v_cache_strides, d.v_pack, d.v_piece_stride), problem.element_bytes,
                       problem.v);
}

// The number of bytes that a run copies at most. One block receives at most cache_rows rows of a sample, because a ring
// replaces earlier rows.
std::int64_t bytes_of(const Problem &problem, const Copy &copy) {
    const Addressing &a = problem.addressing;
    const bool one_block = !a.by_token() && !a.has_pages();
    const std::int64_t rows = one_block ? std::min(problem.new_rows, a.cache_rows) : problem.new_rows;
    return copy.empty() ? 0 : problem.source_samples * rows * copy.heads() * copy.row_bytes();
}

void add_buffers(Problem &problem) {
    const std::uint32_t alignment = problem.element_bytes;
    problem.buffers.add({BufferName::k_new, false, alignment, problem.k.rows.bytes});
    problem.buffers.add({BufferName::v_new, false, alignment, problem.v.rows.bytes});
    problem.buffers.add({BufferName::k_cache, true, alignment, problem.k.cache.bytes});
    problem.buffers.add({BufferName::v_cache, true, alignment, problem.v.cache.bytes});
    add_index_buffers(problem.addressing, problem.buffers);
    const auto add_interleaving = [&](BufferName a, const Tensor &tensor_a, BufferName b, const Tensor &tensor_b) {
        if (!tensor_a.empty() && !tensor_b.empty()) {
            problem.buffers.add_interleaving(a, b, Interleaving(tensor_a, tensor_b));
        }
    };
    for (const auto &[name, cache] :
         {std::pair(BufferName::k_cache, &problem.k.cache), std::pair(BufferName::v_cache, &problem.v.cache)}) {
        add_interleaving(BufferName::k_new, problem.k.rows, name, *cache);
        add_interleaving(BufferName::v_new, problem.v.rows, name, *cache);
    }
    add_interleaving(BufferName::k_cache, problem.k.cache, BufferName::v_cache, problem.v.cache);
}

} // namespace

Status Problem::create(const kvappend_descriptor &d, Problem &problem) {
    problem = {};
    TRY(check_enumerators(d));
    TRY(check_extents(d));
    TRY(Addressing::create(d, problem.addressing));
    problem.backend = d.backend;
    problem.element_type = d.element_type;
    problem.element_bytes = bytes_of_element(d.element_type);
    problem.source_samples = problem.addressing.by_token() ? std::min<std::int64_t>(d.batch, 1) : d.batch;
    problem.new_rows = d.new_rows;
    TRY(create_copies(d, problem));
    if (problem.empty()) {
        return KVAPPEND_SUCCESS;
    }
    // Each number fits in 63 bits, but the sum may not.
    const std::int64_t k_bytes = bytes_of(problem, problem.k);
    problem.bytes = k_bytes + std::min(bytes_of(problem, problem.v), INT64_MAX - k_bytes);
    add_buffers(problem);
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
