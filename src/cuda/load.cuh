// SPDX-License-Identifier: Apache-2.0
// How kernels access global memory. All accesses go through these functions, so an emulation can check each of them.
//
// Loads are plain: a kernel that was launched programmatically may read what the kernel before it wrote while both ran,
// and PTX does not allow that for loads through the read-only path (ld.global.nc).
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

// Loads indices on a device. An offset or a slot is loaded as two words. They are joined where the number is used, so
// that nothing waits for the loads earlier.
struct DeviceLoad {
    struct Number {
        std::uint32_t low;
        std::uint32_t high; // the low word again, if the array has 32-bit elements
    };

    template <class T>
    __device__ __forceinline__ T operator()(const T *index) const {
        return load_global(index);
    }
    __device__ __forceinline__ Number number(const void *array, std::uint32_t wide, std::int64_t i) const {
        const auto *const words = static_cast<const unsigned *>(array) + (i << wide);
        return {load_global(words), load_global(words + wide)};
    }
    static __device__ __forceinline__ std::int64_t value(Number number, std::uint32_t wide) {
        const auto high = static_cast<std::int64_t>(static_cast<std::int32_t>(number.high));
        return (wide != 0 ? high : high >> 32) << 32 | number.low;
    }
};

// Loads an index once, by a load that the compiler may not repeat (see HostLoad).
struct LoadOnce {
    using Number = std::int64_t;

    template <class T>
    __device__ T operator()(const T *index) const {
#if defined(__CUDACC__)
        return *static_cast<const volatile T *>(index);
#else
        return __ldcv(index);
#endif
    }
    __device__ Number number(const void *array, std::uint32_t wide, std::int64_t i) const {
        return wide != 0 ? (*this)(static_cast<const long long *>(array) + i)
                         : (*this)(static_cast<const int *>(array) + i);
    }
    static __device__ std::int64_t value(Number number, std::uint32_t /*wide*/) {
        return number;
    }
};

} // namespace kvappend
