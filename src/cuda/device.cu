// SPDX-License-Identifier: Apache-2.0
#include "device.hpp"

namespace kvappend {

namespace {

Status failure_of(const char *call, cudaError_t error, Status status, const char *meaning) {
    return fail(status, "%s: %s returned %s (%s)", meaning, call, cudaGetErrorName(error), cudaGetErrorString(error));
}

} // namespace

Status cuda_failure(const char *call, cudaError_t error) {
    switch (error) {
    case cudaErrorNoDevice:
        return failure_of(call, error, KVAPPEND_ERROR_NO_DEVICE, "there is no CUDA device");
    case cudaErrorInsufficientDriver: {
        // CUDA returns the same error for a driver that is too old and for a missing driver.
        int version = 0;
        if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
            return failure_of(call, error, KVAPPEND_ERROR_NO_DEVICE, "there is no CUDA driver, hence no CUDA device");
        }
        return failure_of(call, error, KVAPPEND_ERROR_DRIVER, "the CUDA driver is too old for this library");
    }
    case cudaErrorStubLibrary:
        return failure_of(call, error, KVAPPEND_ERROR_NO_DEVICE, "there is only a stub of the CUDA driver");
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorUnsupportedPtxVersion:
        return failure_of(call, error, KVAPPEND_ERROR_DRIVER,
                          "the CUDA driver does not fit this library or the device");
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction: // cudaFuncGetAttributes returns this one.
        return failure_of(call, error, KVAPPEND_ERROR_UNSUPPORTED, "this library has no kernel for the current device");
    default:
        return failure_of(call, error, KVAPPEND_ERROR_CUDA, "a CUDA call failed");
    }
}

Status load_kernel(const void *kernel, int *code_architecture) {
    cudaFuncAttributes attributes{};
    if (const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel); error != cudaSuccess) {
        return cuda_failure("cudaFuncGetAttributes", error);
    }
    if (code_architecture != nullptr) {
        *code_architecture = attributes.ptxVersion;
    }
    return KVAPPEND_SUCCESS;
}

Status launched(cudaError_t error) {
    constexpr const char *call = "cudaLaunchKernelEx";
    if (error == cudaErrorInvalidResourceHandle) {
        return failure_of(call, error, KVAPPEND_ERROR_CUDA,
                          "stream is not a stream of the plan's device, or is a stream of another context");
    }
    return error == cudaSuccess ? KVAPPEND_SUCCESS : cuda_failure(call, error);
}

Status open_device(CudaState &state) {
    if (const cudaError_t error = cudaGetDevice(&state.device_number); error != cudaSuccess) {
        return cuda_failure("cudaGetDevice", error);
    }
    int major = 0;
    int minor = 0;
    const struct {
        cudaDeviceAttr attribute;
        int *value;
    } queries[] = {{cudaDevAttrComputeCapabilityMajor, &major},
                   {cudaDevAttrComputeCapabilityMinor, &minor},
                   {cudaDevAttrMultiProcessorCount, &state.multiprocessors}};
    for (const auto &query : queries) {
        if (const cudaError_t error = cudaDeviceGetAttribute(query.value, query.attribute, state.device_number);
            error != cudaSuccess) {
            return cuda_failure("cudaDeviceGetAttribute", error);
        }
    }
    state.architecture_of_device = major * 10 + minor;
    return KVAPPEND_SUCCESS;
}

Status check_device(const CudaState &state) {
    int device = 0;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) {
        return cuda_failure("cudaGetDevice", error);
    }
    if (device != state.device_number) {
        return fail(KVAPPEND_ERROR_WRONG_DEVICE,
                    "the current device is %d: expected device %d, which was current when the plan was created", device,
                    state.device_number);
    }
    return KVAPPEND_SUCCESS;
}

Status fetch_from_device(void *to, const void *from, std::size_t bytes, CUstream_st *stream) {
    if (const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream); error != cudaSuccess) {
        return cuda_failure("cudaMemcpyAsync", error);
    }
    if (const cudaError_t error = cudaStreamSynchronize(stream); error != cudaSuccess) {
        return cuda_failure("cudaStreamSynchronize", error);
    }
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
