// SPDX-License-Identifier: Apache-2.0
// Memory of the host backend between pages that may be neither read nor written, so that any access beside it ends the
// process. Every other block begins directly behind such a page; the rest end directly before one.
#include "../../suite/subject.hpp"

#include <kvappend/kvappend.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <new>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

namespace {

// So far, because a wrong index goes beyond the next page as a rule.
constexpr std::size_t guard = std::size_t{1} << 30;

class GuardedMemory final : public Memory {
public:
    std::int32_t backend() const override { return KVAPPEND_BACKEND_HOST; }
    void *allocate(std::size_t bytes) override {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        const std::size_t usable = (bytes + page - 1) / page * page;
        const std::size_t all = guard + usable + guard;
        void *const base = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) {
            throw std::bad_alloc();
        }
        auto *const first = static_cast<std::byte *>(base) + guard;
        if (usable != 0 && mprotect(first, usable, PROT_READ | PROT_WRITE) != 0) {
            munmap(base, all);
            throw std::bad_alloc();
        }
        at_end_ = !at_end_;
        std::byte *const block = at_end_ ? first + (usable - bytes) : first;
        blocks_[block] = {base, all};
        return block;
    }
    void release(void *pointer) override {
        const auto found = blocks_.find(pointer);
        munmap(found->second.first, found->second.second);
        blocks_.erase(found);
    }
    void upload(void *to, const void *from, std::size_t bytes) override { copy(to, from, bytes); }
    void download(void *to, const void *from, std::size_t bytes) override { copy(to, from, bytes); }
    void copy(void *to, const void *from, std::size_t bytes) override {
        if (bytes != 0) {
            std::memcpy(to, from, bytes);
        }
    }
    CUstream_st *stream() const override { return nullptr; }
    void synchronize() override {}

private:
    bool at_end_ = false;
    std::map<void *, std::pair<void *, std::size_t>> blocks_;
};

} // namespace

std::unique_ptr<Memory> another_subject() {
    return std::make_unique<GuardedMemory>();
}
