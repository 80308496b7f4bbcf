// SPDX-License-Identifier: Apache-2.0
// The kernels that store rows in another format, for appends.
#include "kernels_convert.cuh"
#include "launch_convert.cuh"

namespace kvappend {

template <unsigned Layers>
static auto *kernel_of(const Parameters<ConvertGeometry, Layers> & /*p*/, bool wide) {
    if constexpr (Layers == 1) {
        return wide ? convert_wide_kernel : convert_kernel<1>;
    }
    return convert_kernel<Layers>;
}

namespace {

using enum Kernel::Variant;

const void *code_of(const NamedKernel &kernel) {
    return kernel.variant == wide     ? address_of(convert_wide_kernel)
           : kernel.variant == layers ? address_of(convert_kernel<most_converted_layers>)
                                      : address_of(convert_kernel<1>);
}

} // namespace

Status load_convert_kernels(const NamedKernel &kernel, CudaState &state) {
    TRY(load_kernel(code_of(kernel), &state.code_architecture));
    return load_kernel(address_of(convert_kernel<most_converted_layers>));
}

Status launch_convert(const Call &call, CUstream_st *stream) {
    return launch_conversion<ConvertGeometry>(call, stream);
}

LayeredRun *begin_conversions(LayeredRunStorage::Part &storage, LayeredRun *copies, CUstream_st *stream) {
    return begin_converting_run<ConvertGeometry>(storage, copies, stream);
}

} // namespace kvappend
