// SPDX-License-Identifier: Apache-2.0
#include "hooks.hpp"

#include <cerrno>
#include <cstddef>

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

// How many more requests are met before one is not; that one takes it below 0. Far from 0 where none is to fail.
constexpr int never = 1 << 30;
thread_local int left[] = {never, never};
thread_local std::int64_t held = 0;
thread_local std::uint64_t calls = 0;

bool fails(Request kind) {
    ++calls;
    return left[static_cast<int>(kind)]-- == 0;
}

void *got(void *block) {
    held += block != nullptr ? 1 : 0;
    return block;
}

void *refused() {
    errno = ENOMEM;
    return nullptr;
}

} // namespace

Failing::Failing(Request kind, int nth) : kind_(kind) {
    left[static_cast<int>(kind)] = nth - 1;
}

Failing::~Failing() {
    left[static_cast<int>(kind_)] = never;
}

bool Failing::happened() const {
    return left[static_cast<int>(kind_)] < 0;
}

std::int64_t blocks_held() {
    return held;
}

std::uint64_t hooked_calls() {
    return calls;
}

// glibc's own names for its allocator, which it exports for such hooks. The hooks are all of its functions that C++'s
// operators and a library in C can reach.
extern "C" {

void *__libc_malloc(std::size_t bytes);
void __libc_free(void *pointer);
void *__libc_calloc(std::size_t entries, std::size_t bytes);
void *__libc_realloc(void *pointer, std::size_t bytes);
void *__libc_memalign(std::size_t alignment, std::size_t bytes);

void *malloc(std::size_t bytes) {
    return fails(Request::memory) ? refused() : got(__libc_malloc(bytes));
}
void free(void *pointer) {
    ++calls;
    held -= pointer != nullptr ? 1 : 0;
    __libc_free(pointer);
}
void *calloc(std::size_t entries, std::size_t bytes) {
    return fails(Request::memory) ? refused() : got(__libc_calloc(entries, bytes));
}
void *realloc(void *pointer, std::size_t bytes) {
    if (fails(Request::memory)) {
        return refused();
    }
    void *const moved = __libc_realloc(pointer, bytes);
    held += pointer == nullptr && moved != nullptr ? 1 : 0;
    return moved;
}
void *aligned_alloc(std::size_t alignment, std::size_t bytes) {
    return fails(Request::memory) ? refused() : got(__libc_memalign(alignment, bytes));
}
int posix_memalign(void **pointer, std::size_t alignment, std::size_t bytes) {
    *pointer = aligned_alloc(alignment, bytes);
    return *pointer != nullptr ? 0 : ENOMEM;
}

void *mmap(void *address, std::size_t bytes, int protection, int flags, int file, off_t offset) {
    if (fails(Request::memory)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    ++held;
    return reinterpret_cast<void *>(syscall(SYS_mmap, address, bytes, protection, flags, file, offset));
}
int munmap(void *address, std::size_t bytes) {
    ++calls;
    --held;
    return static_cast<int>(syscall(SYS_munmap, address, bytes));
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*begin)(void *), void *argument) {
    using Create = int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    static const auto next = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
    return fails(Request::thread) ? EAGAIN : next(thread, attributes, begin, argument);
}

int pthread_mutex_lock(pthread_mutex_t *mutex) {
    ++calls;
    static auto *const next = reinterpret_cast<int (*)(pthread_mutex_t *)>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
    return next(mutex);
}
}
