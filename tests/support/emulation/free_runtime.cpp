// SPDX-License-Identifier: Apache-2.0
// A CUDA runtime in which every call succeeds at once and a launch does nothing. What remains of a run over it is what
// the library itself costs.
#include <cuda_runtime.h>

const char *cudaGetErrorName(cudaError_t /*error*/) {
    return "";
}
const char *cudaGetErrorString(cudaError_t /*error*/) {
    return "";
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int /*device*/) {
    *value = attribute == cudaDevAttrMultiProcessorCount ? 132 : attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void * /*kernel*/) {
    *attributes = {};
    attributes->ptxVersion = 90;
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void * /*to*/, const void * /*from*/, std::size_t /*bytes*/, cudaMemcpyKind /*kind*/,
                            cudaStream_t /*stream*/) {
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t /*stream*/) {
    return cudaSuccess;
}

// The kernels are compiled, but nothing runs them.
constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace emulation::detail {

void load(void * /*value*/, const void * /*address*/, std::size_t /*bytes*/) {}
void store(void * /*address*/, const void * /*value*/, std::size_t /*bytes*/) {}
void wait_for_launch_before() {}
void trap() {
    __builtin_trap();
}
void meet_block(const char * /*name*/, const char * /*file*/, int /*line*/) {}
unsigned long long meet_warp(const char * /*name*/, unsigned /*mask*/, unsigned long long value, int /*source*/,
                             const char * /*file*/, int /*line*/) {
    return value;
}
cudaError_t launch(const cudaLaunchConfig_t * /*config*/, const void * /*kernel*/,
                   const std::function<ThreadBody()> & /*bind*/) {
    return cudaSuccess;
}

} // namespace emulation::detail
