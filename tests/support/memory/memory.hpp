// SPDX-License-Identifier: Apache-2.0
// The memory and the stream that a backend works with, so that one test or benchmark body serves every backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

struct CUstream_st;

class Memory {
public:
    virtual ~Memory() = default;
    virtual std::int32_t backend() const = 0; // KVAPPEND_BACKEND_*
    virtual void *allocate(std::size_t bytes) = 0;
    virtual void release(void *pointer) = 0;
    virtual void upload(void *to, const void *from, std::size_t bytes) = 0;
    virtual void download(void *to, const void *from, std::size_t bytes) = 0;
    // Copies within the backend's memory, in the stream, as a plan does.
    virtual void copy(void *to, const void *from, std::size_t bytes) = 0;
    // The stream to run plans in.
    virtual CUstream_st *stream() const = 0;
    // Waits until what was started in the stream is done.
    virtual void synchronize() = 0;
};

// Each member throws std::runtime_error when a call of the backend fails, and so does cuda_memory() without a device.
std::unique_ptr<Memory> host_memory();
std::unique_ptr<Memory> cuda_memory();
