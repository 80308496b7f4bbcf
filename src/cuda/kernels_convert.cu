// SPDX-License-Identifier: Apache-2.0
// The kernels that store rows in another format, for appends.
#include "kernels_convert.cuh"
#include "launch_convert.cuh"

namespace kvappend {

// The kernel for the rows of a call, or for the layers of several calls.
template <unsigned Layers>
static auto *kernel_for(std::int32_t element_type, bool known) {
    if (!known) {
        return convert_kernel<Layers>;
    }
    switch (element_type) {
    case KVAPPEND_ELEMENT_F16:
        return convert_known_kernel<F16, Layers>;
    case KVAPPEND_ELEMENT_BF16:
        return convert_known_kernel<BF16, Layers>;
    default:
        return convert_known_kernel<F32, Layers>;
    }
}

template <unsigned Layers>
static auto *kernel_of(const Parameters<ConvertGeometry, Layers> &p, bool wide) {
    const ConvertLayout &first = p.geometries[0].formats[0]; // All others have types that are known, too, or none has.
    if constexpr (Layers == 1) {
        return wide ? convert_wide_kernel : kernel_for<1>(first.element_type, first.types != Types::any);
    }
    return kernel_for<Layers>(first.element_type, first.types != Types::any);
}

namespace {

using enum Kernel::Variant;

const void *code_of(const NamedKernel &kernel) {
    return kernel.variant == wide     ? address_of(convert_wide_kernel)
           : kernel.variant == layers ? address_of(convert_kernel<most_converted_layers>)
                                      : address_of(convert_kernel<1>);
}

} // namespace

Status load_convert_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state) {
    TRY(load_kernel(code_of(kernel), &state.code_architecture));
    TRY(load_kernel(address_of(convert_kernel<most_converted_layers>)));
    TRY(load_kernel(address_of(kernel_for<1>(problem.element_type, true))));
    return load_kernel(address_of(kernel_for<most_converted_layers>(problem.element_type, true)));
}

Status launch_convert(const Call &call, CUstream_st *stream) {
    return launch_conversion<ConvertGeometry>(call, stream);
}

LayeredRun *begin_conversions(LayeredRunStorage::Part &storage, LayeredRun *copies, CUstream_st *stream) {
    return begin_converting_run<ConvertGeometry>(storage, copies, stream);
}

} // namespace kvappend
