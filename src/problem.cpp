// SPDX-License-Identifier: Apache-2.0
#include "problem.hpp"

#include "overlap.hpp"
#include "rotary.hpp"
#include "storage.hpp"

#include <algorithm>
#include <cinttypes>
#include <iterator>
#include <tuple>

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
    if (d.operation < KVAPPEND_OPERATION_APPEND || d.operation > KVAPPEND_OPERATION_MOVE) {
        return fail(KVAPPEND_ERROR_OPERATION,
                    "descriptor.operation is %" PRId32 ": expected a KVAPPEND_OPERATION_* constant", d.operation);
    }
    if (d.reserved != 0) {
        return fail(KVAPPEND_ERROR_CONFLICT, "descriptor.reserved is %" PRId32 ": expected 0", d.reserved);
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

// Refuses a tensor of scales that a run writes if two of its scales share memory.
Status check_scales(const char *storage, const Tensor &scales) {
    const Reach overlap = pieces_overlap(Pieces(scales));
    return overlap == Reach::no
               ? KVAPPEND_SUCCESS
               : fail(KVAPPEND_ERROR_OVERLAP,
                      "descriptor.%s->scale_strides: %s; expected scales that share no byte, because an append or a "
                      "move writes them",
                      storage,
                      overlap == Reach::yes ? "two scales share memory"
                                            : "these strides are too irregular to tell whether scales share memory");
}

// Refuses a tensor in which two rows share memory: a cache, or what a gather writes.
Status check_rows(const TensorDescription &d, const Tensor &tensor) {
    const Reach overlap = pieces_overlap(Pieces(tensor));
    if (overlap == Reach::no) {
        return KVAPPEND_SUCCESS;
    }
    return fail(KVAPPEND_ERROR_OVERLAP,
                "%s [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] with strides {%" PRId64 ", %" PRId64
                ", %" PRId64 "}: %s; expected rows that share no element",
                d.name, d.outer, d.heads, d.rows, d.dim, d.strides[0], d.strides[1], d.strides[2],
                overlap != Reach::yes ? "these strides are too irregular to tell whether its rows share memory"
                : d.pack == 0         ? "two of its rows share memory"
                                      : "two pieces of its rows share memory because of these strides, its pack and "
                                        "its piece stride");
}

// The names of the tensors of K, of V or of Q, and of the fields that describe them.
struct CopyNames {
    const char *rows; // "k_new" or "k_out"
    const char *cache;
    const char *scales;
    const char *rows_strides;
    const char *cache_strides;
    const char *storage;
    const char *scale_strides;
};

// The tensors of K, of V or of Q.
struct CopyInput {
    CopyNames names;
    std::int64_t heads;
    std::int64_t dim;
    const std::int64_t (&rows_strides)[3];
    std::int64_t cache_outer;
    std::int64_t cache_rows;
    const std::int64_t (&cache_strides)[3];
    bool cache_by_token;
    std::int64_t pack;
    std::int64_t piece_stride;
    const kvappend_storage *storage;
};

Status create_tensors(const kvappend_descriptor &d, const Problem &problem, const CopyInput &input, Copy &copy) {
    const CopyNames &names = input.names;
    const StorageInput storage{d,         input.storage, names.storage, names.scales, names.scale_strides,
                               input.dim, input.pack};
    TRY(check_storage(storage, copy.format));
    const std::uint32_t bits = 8 * problem.element_bytes;
    const bool in_bytes = input.storage != nullptr && input.storage->type != KVAPPEND_STORED_AS_IS;
    const TensorDescription rows{names.rows,
                                 names.rows_strides,
                                 problem.source_samples,
                                 input.heads,
                                 d.new_rows,
                                 input.dim,
                                 input.rows_strides,
                                 bits,
                                 problem.element_bytes,
                                 problem.addressing.by_token()};
    TensorDescription cache{names.cache,
                            names.cache_strides,
                            input.cache_outer,
                            input.heads,
                            input.cache_rows,
                            input.dim,
                            input.cache_strides,
                            copy.converts() ? bits_of_stored_type(copy.format.type) : bits,
                            in_bytes ? 1 : problem.element_bytes,
                            input.cache_by_token};
    cache.pack = input.pack;
    cache.piece_stride = input.piece_stride;
    TRY(Tensor::create(rows, copy.rows));
    TRY(Tensor::create(cache, copy.cache));
    TRY(create_scales(storage, copy.format, cache, copy.scales));
    if (copy.empty()) {
        copy = {};
        return KVAPPEND_SUCCESS;
    }
    copy.cache_alignment = cache.element_alignment();
    TRY(check_rows(cache, copy.cache));
    if (problem.gathers()) {
        TRY(check_rows(rows, copy.rows));
    }
    return copy.format.computed() ? check_scales(names.storage, copy.scales) : KVAPPEND_SUCCESS;
}

// Turns the copy of an append into the copy of a move. A move moves the stored bytes, and the scales that belong to one
// row. Scales that are the same for all rows stay where they are.
Status copy_within_cache(const CopyInput &input, Copy &copy) {
    copy.rows = copy.cache;
    copy.format.type = KVAPPEND_STORED_AS_IS;
    Tensor &scales = copy.scales;
    if (scales.strides.outer == 0 && scales.strides.row == 0 && !copy.format.by_four_rows) {
        scales = {};
        return KVAPPEND_SUCCESS;
    }
    // Heads, or the groups of a row, may share scales. Shared scales are moved once.
    scales.heads = scales.strides.head == 0 ? 1 : scales.heads;
    scales.row_bytes = scales.piece_stride == 0 ? scales.piece_bytes : scales.row_bytes;
    return check_scales(input.names.storage, scales);
}

Status create_copy(const kvappend_descriptor &d, const Problem &problem, const CopyInput &input, Copy &copy) {
    TRY(create_tensors(d, problem, input, copy));
    if (copy.empty()) {
        return KVAPPEND_SUCCESS;
    }
    if (problem.moves()) {
        return copy_within_cache(input, copy);
    }
    copy.alignment = std::min(copy.rows.alignment(), copy.cache.alignment());
    if (copy.converts() || copy.rotates()) {
        return KVAPPEND_SUCCESS;
    }
    if (copy.rows.adjacent_heads() && copy.cache.adjacent_heads()) {
        copy.rows.merge_heads();
        copy.cache.merge_heads();
        copy.alignment = std::min(copy.rows.alignment(), copy.cache.alignment());
    }
    copy.adjacent_rows = copy.rows.rows == 1 || (copy.rows.adjacent_rows() && copy.cache.adjacent_rows());
    return KVAPPEND_SUCCESS;
}

// What the rows of a problem are called in messages.
const char *rows_name(const Problem &problem, const char *append, const char *gather, const char *move) {
    return problem.gathers() ? gather : problem.moves() ? move : append;
}

Status create_copies(const kvappend_descriptor &d, Problem &problem) {
    TRY(check_rotary(d, problem.k.rotation, problem.q.rotation));
    const std::int64_t blocks = problem.addressing.cache_blocks;
    const CopyNames k{rows_name(problem, "k_new", "k_out", "rows of k_cache"),
                      "k_cache",
                      "k_scales",
                      "k_new_strides",
                      "k_cache_strides",
                      "k_storage",
                      "k_storage->scale_strides"};
    const CopyNames v{rows_name(problem, "v_new", "v_out", "rows of v_cache"),
                      "v_cache",
                      "v_scales",
                      "v_new_strides",
                      "v_cache_strides",
                      "v_storage",
                      "v_storage->scale_strides"};
    TRY(create_copy(d, problem,
                    {k, d.heads, d.k_dim, d.k_new_strides, blocks, d.cache_rows, d.k_cache_strides, false, d.k_pack,
                     d.k_piece_stride, d.k_storage},
                    problem.k));
    TRY(create_copy(d, problem,
                    {v, d.heads, d.v_dim, d.v_new_strides, blocks, d.cache_rows, d.v_cache_strides, false, d.v_pack,
                     d.v_piece_stride, d.v_storage},
                    problem.v));
    if (!problem.q.rotates() || problem.k.empty()) {
        problem.q = {};
        return KVAPPEND_SUCCESS;
    }
    const CopyNames q{"q",
                      "q_out",
                      "q_scales",
                      "rotary->q_strides",
                      "rotary->q_out_strides",
                      "rotary->q_storage",
                      "rotary->q_storage->scale_strides"};
    const kvappend_rotary &r = *d.rotary;
    return create_copy(d, problem,
                       {q, r.q_heads, r.q_dim, r.q_strides, problem.source_samples, d.new_rows, r.q_out_strides,
                        problem.addressing.by_token(), 0, 0, r.q_storage},
                       problem.q);
}

void add_moved_tensors(Problem &problem) {
    if (!problem.moves()) {
        return;
    }
    const auto together_log2 = [](const Copy &copy) { return copy.format.by_four_rows ? 2U : 0U; };
    problem.k.alignment = problem.moved.add(BufferName::k_cache, problem.k.cache);
    problem.v.alignment = problem.moved.add(BufferName::v_cache, problem.v.cache);
    problem.moved.add(BufferName::k_scales, problem.k.scales, together_log2(problem.k));
    problem.moved.add(BufferName::v_scales, problem.v.scales, together_log2(problem.v));
}

// The number of bytes that a run copies at most. One block receives at most cache_rows rows of a sample, because a ring
// replaces earlier rows.
std::int64_t bytes_of(const Problem &problem, const Copy &copy) {
    const Addressing &a = problem.addressing;
    const bool one_block = !a.by_token() && !a.has_pages();
    const std::int64_t rows = one_block ? std::min(problem.new_rows, a.cache_rows) : problem.new_rows;
    if (copy.empty()) {
        return 0;
    }
    // The stored rows of a move may be wider than the elements whose bytes have been checked.
    std::int64_t bytes = 0;
    const bool overflow =
        __builtin_mul_overflow(problem.source_samples * rows * copy.heads(), copy.row_bytes(), &bytes);
    return overflow ? INT64_MAX : bytes;
}

// Adds the buffers of K or of V.
struct CopyBuffers {
    BufferName rows;
    BufferName cache;
    BufferName scales;
    BufferName global_scale;
};
CopyBuffers k_buffers(bool gathers) {
    return {gathers ? BufferName::k_out : BufferName::k_new, BufferName::k_cache, BufferName::k_scales,
            BufferName::k_global_scale};
}
CopyBuffers v_buffers(bool gathers) {
    return {gathers ? BufferName::v_out : BufferName::v_new, BufferName::v_cache, BufferName::v_scales,
            BufferName::v_global_scale};
}

void add_query_buffers(const Copy &q, Problem &problem) {
    problem.buffers.add({BufferName::q, BufferUse::read, problem.element_bytes, q.rows.bytes});
    problem.buffers.add({BufferName::q_out, BufferUse::written, q.cache_alignment, q.cache.bytes});
    problem.buffers.add({BufferName::q_scales, BufferUse::read, bytes_of_scale(q.format.scale_type), q.scales.bytes});
    const auto layout = [](const Tensor &tensor) {
        return std::tuple(tensor.strides.outer, tensor.strides.head, tensor.strides.row);
    };
    if (!q.converts() && layout(q.rows) == layout(q.cache)) {
        problem.buffers.allow_in_place();
    }
}

void add_copy_buffers(const CopyBuffers &names, const Copy &copy, Problem &problem) {
    if (copy.empty()) {
        return;
    }
    const auto target_if = [](bool is_target) { return is_target ? BufferUse::target : BufferUse::read; };
    problem.buffers.add(
        {names.rows, target_if(problem.gathers()), problem.element_bytes, problem.moves() ? 0 : copy.rows.bytes});
    problem.buffers.add({names.cache, target_if(!problem.gathers()), copy.cache_alignment, copy.cache.bytes});
    problem.buffers.add({names.scales, problem.writes_scales(copy) ? BufferUse::written : BufferUse::read,
                         bytes_of_scale(copy.format.scale_type), copy.scales.bytes});
    constexpr std::int64_t one_float = 4;
    const bool reads_global_scale = copy.format.has_global_scale && !problem.moves();
    problem.buffers.add({names.global_scale, BufferUse::read, one_float, reads_global_scale ? one_float : 0});
}

// Adds the pairs of strided tensors of which a run writes one.
Status add_interleavings(Problem &problem) {
    const struct {
        const Tensor *tensor;
        BufferName name;
        bool written;
    } tensors[] = {{&problem.k.rows, k_buffers(problem.gathers()).rows, problem.gathers()},
                   {&problem.v.rows, v_buffers(problem.gathers()).rows, problem.gathers()},
                   {&problem.k.cache, BufferName::k_cache, !problem.gathers()},
                   {&problem.v.cache, BufferName::v_cache, !problem.gathers()},
                   {&problem.k.scales, BufferName::k_scales, problem.writes_scales(problem.k)},
                   {&problem.v.scales, BufferName::v_scales, problem.writes_scales(problem.v)},
                   {&problem.q.rows, BufferName::q, false},
                   {&problem.q.cache, BufferName::q_out, true},
                   {&problem.q.scales, BufferName::q_scales, false}};
    const auto for_each_pair = [&](auto act) {
        for (const auto &a : tensors) {
            for (const auto *b = &a + 1; b != std::end(tensors); ++b) {
                if ((a.written || b->written) && problem.buffers.has(a.name) && problem.buffers.has(b->name)) {
                    act(a, *b);
                }
            }
        }
    };
    std::size_t count = 0;
    for_each_pair([&](const auto & /*a*/, const auto & /*b*/) { ++count; });
    TRY(problem.buffers.make_room(count));
    for_each_pair([&](const auto &a, const auto &b) {
        problem.buffers.add_interleaving(a.name, b.name, Interleaving(*a.tensor, *b.tensor));
    });
    return KVAPPEND_SUCCESS;
}

Status add_buffers(Problem &problem) {
    add_copy_buffers(k_buffers(problem.gathers()), problem.k, problem);
    add_copy_buffers(v_buffers(problem.gathers()), problem.v, problem);
    add_index_buffers(problem.addressing, problem.moves(), problem.buffers);
    add_table_buffers(problem.k.rotation, problem.buffers);
    add_query_buffers(problem.q, problem);
    return add_interleavings(problem);
}

} // namespace

Status Problem::create(const kvappend_descriptor &d, Problem &problem) {
    problem = {};
    TRY(check_enumerators(d));
    TRY(check_extents(d));
    TRY(Addressing::create(d, problem.addressing));
    problem.backend = d.backend;
    problem.operation = Operation{d.operation};
    problem.element_type = d.element_type;
    problem.element_bytes = bytes_of_element(d.element_type);
    problem.source_samples = problem.addressing.by_token() ? std::min<std::int64_t>(d.batch, 1) : d.batch;
    problem.new_rows = d.new_rows;
    TRY(create_copies(d, problem));
    add_moved_tensors(problem);
    if (problem.empty()) {
        return KVAPPEND_SUCCESS;
    }
    for (const Copy *const copy : {&problem.k, &problem.v, &problem.q}) {
        problem.bytes += std::min(bytes_of(problem, *copy), INT64_MAX - problem.bytes);
    }
    return add_buffers(problem);
}

} // namespace kvappend
