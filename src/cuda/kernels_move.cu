// SPDX-License-Identifier: Apache-2.0
// The kernels that move rows within caches, and their launches: see launch_call.cuh.
#include "kernels_move.cuh"
#include "launch_call.cuh"

namespace kvappend {

static void add_tensors(const Call &call, MoveLayer &layer, GeometryInput &input) {
    std::size_t i = 0;
    for (const MovedTensor &tensor : call.problem.moved.all()) {
        void *const base = const_cast<void *>(given(call.args, tensor.name).pointer);
        layer.tensors[i] = static_cast<std::byte *>(base);
        input.addresses[i++].cache |= reinterpret_cast<std::uintptr_t>(base);
    }
}

static void finish_geometry(const Problem &problem, const Indices &indices, MoveGeometry &g) {
    g.addressing = problem.addressing;
    g.indices = indices;
}

template <unsigned Layers>
static auto *kernel_of(const Parameters<MoveGeometry, Layers> & /*p*/, bool /*wide*/) {
    return move_kernel<Layers>;
}

namespace {

using MoveRun = CudaLayeredRun<MoveGeometry, most_moved_layers>;
static_assert(sizeof(MoveRun) <= sizeof(LayeredRunStorage::Part));

} // namespace

Status load_move_kernels(const NamedKernel &kernel, CudaState &state) {
    const bool several = kernel.variant == Kernel::Variant::layers;
    TRY(load_kernel(several ? address_of(move_kernel<most_moved_layers>) : address_of(move_kernel<1>),
                    &state.code_architecture));
    return load_kernel(address_of(move_kernel<most_moved_layers>));
}

Status launch_move(const Call &call, CUstream_st *stream) {
    return call.kernel.variant == Kernel::Variant::layers ? launch_one<MoveGeometry, most_moved_layers>(call, stream)
                                                          : launch_one<MoveGeometry, 1>(call, stream);
}

LayeredRun *begin_moves(LayeredRunStorage::Part &storage, CUstream_st *stream) {
    return new (storage.bytes) MoveRun(stream);
}

} // namespace kvappend
