// SPDX-License-Identifier: Apache-2.0
// Device memory, and host memory that devices reach (pinned): allocations of exactly the size that was asked for, the
// register of those alive, and copies.
#include "internal.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <shared_mutex>

namespace emulation {

namespace {

// From here on memory comes from the kernel, page by page as it is touched, so that a test may have a huge cache.
constexpr std::size_t mapped_from = std::size_t{64} << 20;
constexpr std::size_t alignment = 256;

struct Register {
    std::shared_mutex mutex;
    std::map<std::uintptr_t, internal::Allocation> alive; // by base
};

Register &allocations() {
    static Register &instance = *new Register; // never destroyed, as destructors of other objects use it
    return instance;
}

std::atomic<std::uint64_t> generation{1};

void *obtain(std::size_t bytes) {
    if (bytes >= mapped_from) {
        void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return memory == MAP_FAILED ? nullptr : memory;
    }
    // Not rounded up, so that the address sanitizer sees the exact end.
    void *memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes) != 0) {
        return nullptr;
    }
    return std::memset(memory, 0, bytes);
}

void give_back(void *memory, std::size_t bytes) {
    if (bytes >= mapped_from) {
        munmap(memory, bytes);
    } else {
        std::free(memory);
    }
}

std::uintptr_t number(const void *address) {
    return reinterpret_cast<std::uintptr_t>(address);
}

bool on_device(const void *address, std::size_t bytes) {
    return internal::find_allocation(number(address)).contains(number(address), bytes);
}

bool on_host(const void *address, std::size_t bytes) {
    const std::uintptr_t begin = number(address);
    Register &known = allocations();
    const std::shared_lock lock(known.mutex);
    const auto behind = known.alive.lower_bound(begin + bytes);
    if (address == nullptr || behind == known.alive.begin()) {
        return address != nullptr;
    }
    const internal::Allocation &last = std::prev(behind)->second; // that begins before the end of the bytes
    return last.base + last.bytes <= begin || (last.pinned && last.contains(begin, bytes));
}

cudaError_t check_copy(const void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind) {
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) {
        return cudaErrorInvalidMemcpyDirection;
    }
    const auto fits = [&](const void *address, bool device_side) {
        return kind == cudaMemcpyDefault ? on_device(address, bytes) || on_host(address, bytes)
               : device_side             ? on_device(address, bytes)
                                         : on_host(address, bytes);
    };
    return bytes == 0 || (fits(to, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
                          fits(from, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice))
               ? cudaSuccess
               : cudaErrorInvalidValue;
}

cudaError_t check_set(const void *to, std::size_t bytes) {
    return bytes == 0 || on_device(to, bytes) ? cudaSuccess : cudaErrorInvalidValue;
}

// Does `action` now if `check` still agrees when everything before it is done.
template <typename Check, typename Action>
cudaError_t do_now(Check check, Action action) {
    const int current = internal::this_thread().device;
    if (const cudaError_t refused = internal::refuse_during_capture(); refused != cudaSuccess) {
        return refused;
    }
    if (const cudaError_t broken = internal::drain_device(current); broken != cudaSuccess) {
        return broken;
    }
    const cudaError_t error = check();
    if (error == cudaSuccess) {
        action();
    }
    return error;
}

// Checks now, and puts `action` in the stream, which checks again: the memory may be gone by then.
template <typename Check, typename Action>
cudaError_t do_later(cudaStream_t handle, Check check, Action action) {
    std::shared_ptr<internal::Stream> stream;
    if (const cudaError_t error = internal::find_stream(handle, stream); error != cudaSuccess) {
        return error;
    }
    if (const cudaError_t error = check(); error != cudaSuccess) {
        return error;
    }
    return internal::submit(*stream, {stream->device, [check, action] {
                                          if (check() != cudaSuccess) {
                                              internal::record_fault("copy or fill of memory freed before it ran");
                                              return cudaErrorIllegalAddress;
                                          }
                                          action();
                                          return cudaSuccess;
                                      }});
}

auto copy_check(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind) {
    return [=] { return check_copy(to, from, bytes, kind); };
}

auto copy_action(void *to, const void *from, std::size_t bytes) {
    return [=] {
        if (bytes != 0) {
            std::memmove(to, from, bytes);
        }
    };
}

auto set_action(void *to, int value, std::size_t bytes) {
    return [=] {
        if (bytes != 0) {
            std::memset(to, value, bytes);
        }
    };
}

} // namespace

internal::Allocation internal::find_allocation(std::uintptr_t address) {
    Register &known = allocations();
    const std::shared_lock lock(known.mutex);
    const auto behind = known.alive.upper_bound(address);
    if (behind == known.alive.begin()) {
        return {};
    }
    const Allocation &found = std::prev(behind)->second;
    return found.contains(address, 1) ? found : Allocation{};
}

std::uint64_t internal::memory_generation() {
    return generation.load(std::memory_order_acquire);
}

std::size_t live_allocations() {
    Register &known = allocations();
    const std::shared_lock lock(known.mutex);
    return known.alive.size();
}

} // namespace emulation

using namespace emulation;
using namespace emulation::internal;

namespace {

cudaError_t allocate(Call call, void **pointer, std::size_t bytes, bool pinned) {
    return perform(call, Needs::Device, [&] {
        if (const cudaError_t refused = refuse_during_capture(); refused != cudaSuccess) {
            return refused;
        }
        if (pointer == nullptr) {
            return cudaErrorInvalidValue;
        }
        *pointer = nullptr;
        if (bytes == 0) {
            return cudaSuccess;
        }
        void *memory = obtain(bytes);
        if (memory == nullptr) {
            return cudaErrorMemoryAllocation;
        }
        Register &known = allocations();
        const std::unique_lock lock(known.mutex);
        known.alive[number(memory)] = {number(memory), bytes, this_thread().device, pinned};
        *pointer = memory;
        return cudaSuccess;
    });
}

cudaError_t release(Call call, void *pointer, bool pinned) {
    // Memory of a broken device can be given back, so that a test does so as usual; the answer is still the error.
    return perform(call, Needs::Driver, [&] {
        if (const cudaError_t refused = refuse_during_capture(); refused != cudaSuccess) {
            return refused;
        }
        if (pointer != nullptr) {
            Register &known = allocations();
            std::unique_lock lock(known.mutex);
            const auto found = known.alive.find(number(pointer));
            if (found == known.alive.end() || found->second.pinned != pinned) {
                return cudaErrorInvalidValue;
            }
            const std::size_t bytes = found->second.bytes;
            known.alive.erase(found);
            generation.fetch_add(1, std::memory_order_release);
            lock.unlock();
            give_back(pointer, bytes);
        }
        return device(this_thread().device).broken.load();
    });
}

} // namespace

cudaError_t cudaMalloc(void **pointer, std::size_t bytes) {
    return allocate(Call::Malloc, pointer, bytes, false);
}

cudaError_t cudaFree(void *pointer) {
    return release(Call::Free, pointer, false);
}

cudaError_t cudaMallocHost(void **pointer, std::size_t bytes) {
    return allocate(Call::MallocHost, pointer, bytes, true);
}

cudaError_t cudaFreeHost(void *pointer) {
    return release(Call::FreeHost, pointer, true);
}

cudaError_t cudaMemcpy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind) {
    return perform(Call::Memcpy, Needs::Device,
                   [&] { return do_now(copy_check(to, from, bytes, kind), copy_action(to, from, bytes)); });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return perform(Call::MemcpyAsync, Needs::Device,
                   [&] { return do_later(stream, copy_check(to, from, bytes, kind), copy_action(to, from, bytes)); });
}

cudaError_t cudaMemcpyBatchAsync(void *const *to, const void *const *from, const std::size_t *bytes, std::size_t count,
                                 cudaMemcpyAttributes *attributes, std::size_t *attributes_from,
                                 std::size_t attributes_count, cudaStream_t handle) {
    return perform(Call::MemcpyBatchAsync, Needs::Device, [&] {
        if (is_default_stream(handle) || count == 0 || to == nullptr || from == nullptr || bytes == nullptr ||
            attributes == nullptr || attributes_from == nullptr || attributes_count != 1 || attributes_from[0] != 0 ||
            attributes[0].srcAccessOrder < cudaMemcpySrcAccessOrderStream ||
            attributes[0].srcAccessOrder > cudaMemcpySrcAccessOrderAny) {
            return cudaErrorInvalidValue;
        }
        for (std::size_t i = 0; i < count; ++i) { // All are checked before the first is put in the stream.
            if (const cudaError_t error = check_copy(to[i], from[i], bytes[i], cudaMemcpyDefault);
                error != cudaSuccess) {
                return error;
            }
        }
        for (std::size_t i = 0; i < count; ++i) {
            const cudaError_t error = do_later(handle, copy_check(to[i], from[i], bytes[i], cudaMemcpyDefault),
                                               copy_action(to[i], from[i], bytes[i]));
            if (error != cudaSuccess) {
                return error;
            }
        }
        return cudaSuccess;
    });
}

cudaError_t cudaMemset(void *to, int value, std::size_t bytes) {
    return perform(Call::Memset, Needs::Device,
                   [&] { return do_now([=] { return check_set(to, bytes); }, set_action(to, value, bytes)); });
}

cudaError_t cudaMemsetAsync(void *to, int value, std::size_t bytes, cudaStream_t stream) {
    return perform(Call::MemsetAsync, Needs::Device, [&] {
        return do_later(
            stream, [=] { return check_set(to, bytes); }, set_action(to, value, bytes));
    });
}
