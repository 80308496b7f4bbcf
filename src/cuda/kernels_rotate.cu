// SPDX-License-Identifier: Apache-2.0
// The kernels that rotate rows of K before they store them.
#include "kernels_rotate.cuh"
#include "launch_convert.cuh"

namespace kvappend {

template <unsigned Layers>
static auto *kernel_of(const Parameters<RotateGeometry, Layers> & /*p*/, bool wide) {
    if constexpr (Layers == 1) {
        return wide ? rotate_wide_kernel : rotate_kernel<1>;
    }
    return rotate_kernel<Layers>;
}

static void finish_rotation(const Rotation &rotation, const RotaryTables &tables, RotateGeometry &g) {
    g.rotation = rotation;
    g.tables = tables;
    const auto addresses = reinterpret_cast<std::uintptr_t>(tables.cos) | reinterpret_cast<std::uintptr_t>(tables.sin);
    constexpr std::uint32_t widest = 1U << widest_access_log2;
    g.together = addresses % widest == 0 && rotation.alignment == widest ? 1 : 0;
}

namespace {

using enum Kernel::Variant;

const void *code_of(const NamedKernel &kernel) {
    return kernel.variant == wide     ? address_of(rotate_wide_kernel)
           : kernel.variant == layers ? address_of(rotate_kernel<most_rotated_layers>)
                                      : address_of(rotate_kernel<1>);
}

} // namespace

Status load_rotate_kernels(const NamedKernel &kernel, CudaState &state) {
    TRY(load_kernel(code_of(kernel), &state.code_architecture));
    return load_kernel(address_of(rotate_kernel<most_rotated_layers>));
}

Status launch_rotate(const Call &call, CUstream_st *stream) {
    return launch_conversion<RotateGeometry>(call, stream);
}

LayeredRun *begin_rotations(LayeredRunStorage::Part &storage, LayeredRun *others, CUstream_st *stream) {
    return begin_converting_run<RotateGeometry>(storage, others, stream);
}

} // namespace kvappend
