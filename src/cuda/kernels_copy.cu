// SPDX-License-Identifier: Apache-2.0
// The kernels that copy bits, for appends.
#include "kernels_copy.cuh"
#include "launch_append.cuh"

namespace kvappend {

// ---- the parameters of a launch: see launch_append.cuh ----

static void fill_layer(const Append &append, unsigned tensor, bool is_k, Layer &layer) {
    layer.rows[tensor] = static_cast<const std::byte *>(is_k ? append.args.k_new : append.args.v_new);
    layer.caches[tensor] = static_cast<std::byte *>(is_k ? append.args.k_cache : append.args.v_cache);
}

static void finish_geometry(const Problem &problem, const Indices &indices, DenseGeometry &g) {
    const Addressing &a = problem.addressing;
    g.placing = {indices.offsets, a.wide_offsets, static_cast<std::int32_t>(a.offset_mask), a.new_rows, a.cache_rows};
}

static void finish_geometry(const Problem &problem, const Indices &indices, RowsGeometry &g) {
    g.rule = g.loop == Loop::any ? RuleKind::any : rule_kind_of(problem.addressing);
    g.addressing = problem.addressing;
    g.indices = indices;
}

template <unsigned Layers>
static auto *kernel_of(const Parameters<DenseGeometry, Layers> & /*p*/, bool /*wide*/) {
    return copy_kernel<DenseGeometry, Layers>;
}

template <unsigned Layers>
static auto *kernel_of(const Parameters<RowsGeometry, Layers> & /*p*/, bool wide) {
    if constexpr (Layers == 1) {
        return wide ? copy_wide_kernel : copy_kernel<RowsGeometry, 1>;
    }
    return copy_kernel<RowsGeometry, Layers>;
}

namespace {

using enum Kernel::Family;
using enum Kernel::Variant;

using DenseRun = CudaLayeredRun<DenseGeometry, most_layers>;
using RowsRun = CudaLayeredRun<RowsGeometry, most_layers>;
static_assert(sizeof(DenseRun) <= sizeof(LayeredRunStorage::Part) &&
              sizeof(RowsRun) <= sizeof(LayeredRunStorage::Part));

const void *code_of(const NamedKernel &kernel) {
    if (kernel.family == dense) {
        return kernel.variant == layers ? address_of(copy_kernel<DenseGeometry, most_layers>)
                                        : address_of(copy_kernel<DenseGeometry, 1>);
    }
    switch (kernel.variant) {
    case wide:
        return address_of(copy_wide_kernel);
    case layers:
        return address_of(copy_kernel<RowsGeometry, most_layers>);
    default:
        return address_of(copy_kernel<RowsGeometry, 1>);
    }
}

} // namespace

// The first launch of a kernel would load it, and that breaks a capture. Therefore the kernels for several layers are
// loaded here, too. Which of them a call launches depends on the other plans of the call.
Status load_copy_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state) {
    TRY(load_kernel(code_of(kernel), &state.code_architecture));
    TRY(load_kernel(address_of(copy_kernel<RowsGeometry, most_layers>)));
    return problem.plain_dense() ? load_kernel(address_of(copy_kernel<DenseGeometry, most_layers>)) : KVAPPEND_SUCCESS;
}

Status launch_copy(const Append &append, CUstream_st *stream) {
    const bool several = append.kernel.variant == layers;
    if (append.kernel.family == dense) {
        return several ? launch_one<DenseGeometry, most_layers>(append, stream)
                       : launch_one<DenseGeometry, 1>(append, stream);
    }
    return several ? launch_one<RowsGeometry, most_layers>(append, stream)
                   : launch_one<RowsGeometry, 1>(append, stream);
}

LayeredRun *begin_copies(LayeredRunStorage::Part &storage, bool all_dense, CUstream_st *stream) {
    if (all_dense) {
        return new (storage.bytes) DenseRun(stream);
    }
    return new (storage.bytes) RowsRun(stream);
}

} // namespace kvappend
