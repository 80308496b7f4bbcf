// SPDX-License-Identifier: Apache-2.0
// What kernels use: CUDA's keywords, the index of the running thread, and checked accesses to global memory.
//
// Barriers, shuffles and shared memory are missing on purpose: the threads of a block run one after the other, and a
// kernel that needs more must fail to compile instead of giving wrong results.
#pragma once

#include "vector_types.h"

#include <cstddef>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))

extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;

namespace emulation::detail {

template <typename T, typename... Types>
constexpr bool is_one_of = (std::is_same_v<T, Types> || ...);

template <typename T>
concept Accessible = is_one_of<T, unsigned char, unsigned short, int, unsigned int, long, unsigned long, long long,
                               unsigned long long, int2, uint2, int4, uint4, longlong2>;

// They end the kernel with a fault when the access is misaligned or not inside one live allocation of the device.
void load(void *value, const void *address, std::size_t bytes);
void store(void *address, const void *value, std::size_t bytes);
void wait_for_launch_before();
[[noreturn]] void trap();

} // namespace emulation::detail

#define EMULATION_LOAD(name)                                                                                           \
    template <emulation::detail::Accessible T>                                                                         \
    inline T name(const T *address) {                                                                                  \
        T value;                                                                                                       \
        emulation::detail::load(&value, address, sizeof value);                                                        \
        return value;                                                                                                  \
    }
#define EMULATION_STORE(name)                                                                                          \
    template <emulation::detail::Accessible T>                                                                         \
    inline void name(T *address, std::type_identity_t<T> value) {                                                      \
        emulation::detail::store(address, &value, sizeof value);                                                       \
    }

EMULATION_LOAD(__ldg)
EMULATION_LOAD(__ldca)
EMULATION_LOAD(__ldcg)
EMULATION_LOAD(__ldcs)
EMULATION_LOAD(__ldcv)
EMULATION_LOAD(__ldlu)
EMULATION_STORE(__stwb)
EMULATION_STORE(__stcg)
EMULATION_STORE(__stcs)
EMULATION_STORE(__stwt)

// The threads of a kernel run one after the other, so a load and a store are one operation to them.
#define EMULATION_ATOMIC(name, new_value)                                                                              \
    template <emulation::detail::Accessible T>                                                                         \
    inline T name(T *address, std::type_identity_t<T> value) {                                                         \
        T old;                                                                                                         \
        emulation::detail::load(&old, address, sizeof old);                                                            \
        value = new_value;                                                                                             \
        emulation::detail::store(address, &value, sizeof value);                                                       \
        return old;                                                                                                    \
    }

EMULATION_ATOMIC(atomicAdd, old + value)
EMULATION_ATOMIC(atomicMax, old > value ? old : value)

#undef EMULATION_ATOMIC

// Ends the kernel as a fault does.
[[noreturn]] inline void __trap() {
    emulation::detail::trap();
}

// Of a kernel that was launched programmatically, a thread that accesses memory without having waited ends with a
// fault.
inline void cudaGridDependencySynchronize() {
    emulation::detail::wait_for_launch_before();
}
inline void cudaTriggerProgrammaticLaunchCompletion() {}

#undef EMULATION_LOAD
#undef EMULATION_STORE
