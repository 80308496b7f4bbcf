// SPDX-License-Identifier: Apache-2.0
// The kernels that read rows in another format, for gathers.
#include "kernels_decode.cuh"
#include "launch_convert.cuh"

namespace kvappend {

template <unsigned Layers>
static auto *kernel_of(const Parameters<DecodeGeometry, Layers> & /*p*/, bool wide) {
    if constexpr (Layers == 1) {
        return wide ? decode_wide_kernel : decode_kernel<1>;
    }
    return decode_kernel<Layers>;
}

namespace {

using enum Kernel::Variant;

const void *code_of(const NamedKernel &kernel) {
    return kernel.variant == wide     ? address_of(decode_wide_kernel)
           : kernel.variant == layers ? address_of(decode_kernel<most_converted_layers>)
                                      : address_of(decode_kernel<1>);
}

} // namespace

Status load_decode_kernels(const NamedKernel &kernel, CudaState &state) {
    TRY(load_kernel(code_of(kernel), &state.code_architecture));
    return load_kernel(address_of(decode_kernel<most_converted_layers>));
}

Status launch_decode(const Call &call, CUstream_st *stream) {
    return launch_conversion<DecodeGeometry>(call, stream);
}

LayeredRun *begin_decodings(LayeredRunStorage::Part &storage, LayeredRun *gathers, CUstream_st *stream) {
    return begin_converting_run<DecodeGeometry>(storage, gathers, stream);
}

} // namespace kvappend
