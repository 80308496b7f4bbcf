// SPDX-License-Identifier: Apache-2.0
// Compiled against the CUDA runtime, or as plain C++ against the emulated one.
#include "memory.hpp"

#include <kvappend/kvappend.h>

#include <cuda_runtime.h>

#include <new>
#include <stdexcept>
#include <string>

namespace {

void require(cudaError_t error, const char *call) {
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); // so that later calls do not bring it again
        throw std::bad_alloc();
    }
    if (error != cudaSuccess) {
        throw std::runtime_error(std::string(call) + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error));
    }
}

class CudaMemory final : public Memory {
public:
    CudaMemory() {
        // cudaFree(nullptr) starts CUDA, so that a missing device is noticed here.
        require(cudaFree(nullptr), "cudaFree");
        require(cudaStreamCreate(&stream_), "cudaStreamCreate");
    }
    CudaMemory(const CudaMemory &) = delete;
    CudaMemory &operator=(const CudaMemory &) = delete;
    ~CudaMemory() override { cudaStreamDestroy(stream_); }

    std::int32_t backend() const override { return KVAPPEND_BACKEND_CUDA; }
    void *allocate(std::size_t bytes) override {
        void *pointer = nullptr;
        require(cudaMalloc(&pointer, bytes == 0 ? 1 : bytes), "cudaMalloc");
        return pointer;
    }
    void release(void *pointer) override { cudaFree(pointer); }
    void upload(void *to, const void *from, std::size_t bytes) override {
        require(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    void download(void *to, const void *from, std::size_t bytes) override {
        require(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    }
    void copy(void *to, const void *from, std::size_t bytes) override {
        require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "cudaMemcpyAsync");
    }
    CUstream_st *stream() const override { return stream_; }
    void synchronize() override { require(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

private:
    cudaStream_t stream_ = nullptr;
};

} // namespace

std::unique_ptr<Memory> cuda_memory() {
    return std::make_unique<CudaMemory>();
}
