// SPDX-License-Identifier: Apache-2.0
// What CUDA gives by handles, given back by itself; and no call's error unnoticed.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

class CudaError : public std::runtime_error {
public:
    CudaError(cudaError_t error, const char *call)
        : std::runtime_error(std::string(call) + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error)) {}
};

inline void require(cudaError_t error, const char *call) {
    if (error != cudaSuccess) {
        cudaGetLastError(); // so that no later call brings it again
        throw CudaError(error, call);
    }
}

// A handle, by the type of it and the call that ends it.
template <class Handle, cudaError_t (*Destroy)(Handle)>
class Owned {
public:
    Owned() = default;
    explicit Owned(Handle handle) : handle_(handle) {}
    Owned(Owned &&other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
    Owned &operator=(Owned &&other) noexcept {
        Handle const mine = handle_;
        handle_ = other.handle_;
        other.handle_ = mine;
        return *this;
    }
    Owned(const Owned &) = delete;
    Owned &operator=(const Owned &) = delete;
    ~Owned() {
        if (handle_ != nullptr) {
            Destroy(handle_);
        }
    }
    Handle get() const { return handle_; }

private:
    Handle handle_ = nullptr;
};

using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
using Memory = Owned<void *, cudaFree>;
using PinnedMemory = Owned<void *, cudaFreeHost>;

inline Stream make_stream() {
    cudaStream_t stream = nullptr;
    require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return Stream(stream);
}

inline Event make_event() {
    cudaEvent_t event = nullptr;
    require(cudaEventCreate(&event), "cudaEventCreate");
    return Event(event);
}

inline Memory allocate(std::size_t bytes) {
    void *memory = nullptr;
    require(cudaMalloc(&memory, bytes == 0 ? 1 : bytes), "cudaMalloc");
    return Memory(memory);
}

inline PinnedMemory allocate_pinned(std::size_t bytes) {
    void *memory = nullptr;
    require(cudaMallocHost(&memory, bytes == 0 ? 1 : bytes), "cudaMallocHost");
    return PinnedMemory(memory);
}

// Returns when the bytes have arrived, for all streams.
template <class Vector>
void upload(void *to, const Vector &from) {
    if (!from.empty()) {
        require(cudaMemcpy(to, from.data(), from.size() * sizeof from[0], cudaMemcpyHostToDevice), "cudaMemcpy");
        require(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    }
}

template <class Vector>
Memory uploaded(const Vector &from) {
    Memory memory = allocate(from.size() * sizeof from[0]);
    upload(memory.get(), from);
    return memory;
}

inline int attribute(cudaDeviceAttr which) {
    int device = 0;
    int value = 0;
    require(cudaGetDevice(&device), "cudaGetDevice");
    require(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
}
