// SPDX-License-Identifier: Apache-2.0
// Memory of the host backend between pages that may be neither read nor written, so that any access beside it ends the
// process. The environment variable KVAPPEND_TEST_BLOCKS says which end of every block is at such a page: `begin` or
// `end`. A test is run with both.
#include "../../suite/subject.hpp"

#include <kvappend/kvappend.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <new>
#include <string_view>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

namespace {

// So far, because a wrong index goes beyond the next page as a rule.
constexpr std::size_t guard = std::size_t{1} << 30;

bool blocks_at_end() {
    const char *const at = std::getenv("KVAPPEND_TEST_BLOCKS");
    const std::string_view end = at != nullptr ? at : "";
    if (end != "begin" && end != "end") {
        std::cerr << "KVAPPEND_TEST_BLOCKS is \"" << end << "\": expected begin or end\n";
        std::exit(EXIT_FAILURE); // main would mistake an exception for an absent backend
    }
    return end == "end";
}

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
    const bool at_end_ = blocks_at_end();
    std::map<void *, std::pair<void *, std::size_t>> blocks_;
};

} // namespace

std::unique_ptr<Memory> another_subject() {
    return std::make_unique<GuardedMemory>();
}
