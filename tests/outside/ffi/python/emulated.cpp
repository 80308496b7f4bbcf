// SPDX-License-Identifier: Apache-2.0
// What the Python package calls of the CUDA driver, over the emulated runtime, and what its test calls of the runtime,
// with C linkage. As on a real machine, the runtime's current device is the device of the driver's current context.
#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

namespace {

constexpr int success = 0, invalid_value = 1, invalid_device = 101, invalid_context = 201;

// A device's primary context.
struct Context {
    int device;
};

Context contexts[] = {{0}, {1}};

thread_local std::vector<int> devices_below;

} // namespace

// NOLINTBEGIN(readability-identifier-naming): the names are the driver's.
extern "C" {

int cuInit(unsigned flags) {
    return flags == 0 ? success : invalid_value;
}

int cuDeviceGet(int *device, int ordinal) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || ordinal < 0 || ordinal >= count) {
        return invalid_device;
    }
    *device = ordinal;
    return success;
}

int cuDevicePrimaryCtxRetain(Context **context, int device) {
    *context = &contexts[device];
    return success;
}

int cuCtxPushCurrent_v2(Context *context) {
    int device = 0;
    if (context == nullptr || cudaGetDevice(&device) != cudaSuccess || cudaSetDevice(context->device) != cudaSuccess) {
        return invalid_context;
    }
    devices_below.push_back(device);
    return success;
}

int cuCtxPopCurrent_v2(Context **context) {
    int device = 0;
    if (devices_below.empty() || cudaGetDevice(&device) != cudaSuccess ||
        cudaSetDevice(devices_below.back()) != cudaSuccess) {
        return invalid_context;
    }
    devices_below.pop_back();
    *context = &contexts[device];
    return success;
}

cudaError_t emulated_get_device(int *device) {
    return cudaGetDevice(device);
}

cudaError_t emulated_set_device(int device) {
    return cudaSetDevice(device);
}

cudaError_t emulated_stream(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
}

cudaError_t emulated_stream_query(cudaStream_t stream) {
    return cudaStreamQuery(stream);
}

cudaError_t emulated_synchronize() {
    return cudaDeviceSynchronize();
}

cudaError_t emulated_malloc(void **memory, std::size_t bytes) {
    return cudaMalloc(memory, bytes);
}

cudaError_t emulated_free(void *memory) {
    return cudaFree(memory);
}

cudaError_t emulated_copy(void *to, const void *from, std::size_t bytes) {
    return cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
}

} // extern "C"
// NOLINTEND(readability-identifier-naming)
