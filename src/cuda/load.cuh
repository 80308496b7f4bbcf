// SPDX-License-Identifier: Apache-2.0
// How kernels access global memory. All accesses go through these functions, so an emulation can check each of them.
//
// Rows are loaded by plain loads, indices by relaxed ones. None of them goes through the read-only path (ld.global.nc):
// a kernel that was launched programmatically may read what the kernel before it wrote while both ran, and PTX does not
// allow that for such loads.
#pragma once

#include "../place.hpp"

#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

namespace kvappend {

template <class T>
__device__ __forceinline__ T load_global(const T *address) {
#if defined(__CUDACC__)
    return *address;
#else
    return __ldca(address);
#endif
}

// Loads an index once (see HostLoad). A compiler may repeat a plain load. It must not repeat a relaxed one, or replace
// it by an earlier one. With the scope `cta` the load uses the L1 cache as a plain load does.
__device__ __forceinline__ std::uint32_t load_index(const std::uint32_t *address) {
#if defined(__CUDA_ARCH__)
    std::uint32_t index;
    asm volatile("ld.relaxed.cta.global.u32 %0, [%1];" : "=r"(index) : "l"(address));
    return index;
#else
    return __ldcv(address);
#endif
}

template <class T>
__device__ __forceinline__ void store_global(T *address, const T &value) {
    __stwb(address, value);
}

// The contribution of an index to an address. For 32 bits without a sign this is one instruction; ptxas joins it with
// an addition. Without it the compiler generates more instructions.
__device__ __forceinline__ std::uint64_t product(std::int32_t index, std::int64_t stride) {
#if defined(__CUDA_ARCH__)
    std::uint64_t result;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(result) : "r"(index), "r"(static_cast<std::uint32_t>(stride)));
    return result;
#else
    return std::uint64_t{static_cast<std::uint32_t>(index)} * static_cast<std::uint32_t>(stride);
#endif
}

__device__ __forceinline__ std::uint64_t product(std::int64_t index, std::int64_t stride) {
    return static_cast<std::uint64_t>(index) * static_cast<std::uint64_t>(stride);
}

// Loads indices on a device. A number is loaded as two words. They are joined where it is used, so that nothing waits
// for the loads earlier.
struct DeviceLoad {
    struct Number {
        std::uint32_t low;
        std::uint32_t high; // the low word again, if the array has 32-bit elements
    };

    __device__ __forceinline__ Number number(const void *array, std::uint32_t wide, std::int64_t i) const {
        const auto *const words = static_cast<const std::uint32_t *>(array) + (i << wide);
        return {load_index(words), load_index(words + wide)};
    }
    __device__ __forceinline__ std::int32_t narrow(const void *array, std::int64_t i) const {
        return static_cast<std::int32_t>(load_index(static_cast<const std::uint32_t *>(array) + i));
    }
    static __device__ __forceinline__ Number of(std::int32_t number) {
        return {static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number)};
    }
    static __device__ __forceinline__ std::int64_t value(Number number, std::uint32_t wide) {
        const auto high = static_cast<std::int64_t>(static_cast<std::int32_t>(number.high));
        return (wide != 0 ? high : high >> 32) << 32 | number.low;
    }
};

} // namespace kvappend
