// SPDX-License-Identifier: Apache-2.0
#include "memory.hpp"

#include <kvappend/kvappend.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace {

class HostMemory final : public Memory {
public:
    std::int32_t backend() const override { return KVAPPEND_BACKEND_HOST; }
    void *allocate(std::size_t bytes) override {
        // calloc leaves the pages of large blocks untouched until they are used.
        void *const pointer = std::calloc(bytes == 0 ? 1 : bytes, 1);
        if (pointer == nullptr) {
            throw std::bad_alloc();
        }
        return pointer;
    }
    void release(void *pointer) override { std::free(pointer); }
    void upload(void *to, const void *from, std::size_t bytes) override { copy(to, from, bytes); }
    void download(void *to, const void *from, std::size_t bytes) override { copy(to, from, bytes); }
    void copy(void *to, const void *from, std::size_t bytes) override {
        if (bytes != 0) { // An empty vector's data may be NULL, which memcpy must not be given.
            std::memcpy(to, from, bytes);
        }
    }
    CUstream_st *stream() const override { return nullptr; }
    void synchronize() override {}
};

} // namespace

std::unique_ptr<Memory> host_memory() {
    return std::make_unique<HostMemory>();
}
