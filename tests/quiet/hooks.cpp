// SPDX-License-Identifier: Apache-2.0
#include "hooks.hpp"

#include <cerrno>
#include <cstddef>

#include <dlfcn.h>
#include <pthread.h>

namespace {

thread_local std::uint64_t count = 0;

} // namespace

std::uint64_t disturbances() {
    return count;
}

// glibc's own names for its allocator, which it exports for such hooks. Of its functions, all that can be reached from
// C++'s operators and from a library in C.
extern "C" {

void *__libc_malloc(std::size_t bytes);
void __libc_free(void *pointer);
void *__libc_calloc(std::size_t entries, std::size_t bytes);
void *__libc_realloc(void *pointer, std::size_t bytes);
void *__libc_memalign(std::size_t alignment, std::size_t bytes);

void *malloc(std::size_t bytes) {
    ++count;
    return __libc_malloc(bytes);
}
void free(void *pointer) {
    ++count;
    __libc_free(pointer);
}
void *calloc(std::size_t entries, std::size_t bytes) {
    ++count;
    return __libc_calloc(entries, bytes);
}
void *realloc(void *pointer, std::size_t bytes) {
    ++count;
    return __libc_realloc(pointer, bytes);
}
void *aligned_alloc(std::size_t alignment, std::size_t bytes) {
    ++count;
    return __libc_memalign(alignment, bytes);
}
int posix_memalign(void **pointer, std::size_t alignment, std::size_t bytes) {
    ++count;
    *pointer = __libc_memalign(alignment, bytes);
    return *pointer != nullptr ? 0 : ENOMEM;
}

int pthread_mutex_lock(pthread_mutex_t *mutex) {
    ++count;
    static auto *const next = reinterpret_cast<int (*)(pthread_mutex_t *)>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
    return next(mutex);
}
}
