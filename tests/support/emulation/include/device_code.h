// SPDX-License-Identifier: Apache-2.0
// What kernels use: CUDA's keywords, the index of the running thread, checked accesses to global memory, and barriers,
// shuffles and votes.
//
// The threads of a block run one after the other, each until it ends or has to wait for others. A barrier that not all
// threads of the block reach, or a shuffle that not all lanes of its mask reach, ends the kernel with a fault. Each
// place in the source is a barrier of its own, as CUDA leaves undefined what happens where threads of a block wait at
// two. What CUDA has besides is missing on purpose: a kernel that needs more must fail to compile instead of giving
// wrong results.
#pragma once

#include "vector_types.h"

#include <cstddef>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
// A host thread runs one block at a time. Unlike a GPU's, the memory holds zeros or what the block before left there.
#define __shared__ static thread_local
#define __launch_bounds__(...)
// Not inlined by force: the conversions would take GCC five times as long.
#define __forceinline__ inline
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

// Waits until all threads of the block have come here.
void meet_block(const char *name, const char *file, int line);
// Waits until all lanes of the mask have come here. Returns the value that the lane `source` has brought, or for a
// negative source the mask of the lanes that have brought another value than 0.
unsigned long long meet_warp(const char *name, unsigned mask, unsigned long long value, int source, const char *file,
                             int line);

inline int lane() {
    return static_cast<int>(((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x) % 32);
}

template <typename T>
concept Shuffled = std::is_arithmetic_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

template <Shuffled T>
T shuffle(const char *name, unsigned mask, T value, int source, const char *file, int line) {
    unsigned long long bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = meet_warp(name, mask, bits, source, file, line);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

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

// No thread of a block runs between the load and the store of another, so they are one operation.
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

// Where in the source a call stands.
#define EMULATION_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATION_HERE) {
    emulation::detail::meet_block("__syncthreads", file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffff, EMULATION_HERE) {
    emulation::detail::meet_warp("__syncwarp", mask, 0, emulation::detail::lane(), file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATION_HERE) {
    const unsigned long long value = predicate != 0 ? 1 : 0;
    return static_cast<unsigned>(emulation::detail::meet_warp("__ballot_sync", mask, value, -1, file, line));
}
inline int __any_sync(unsigned mask, int predicate, EMULATION_HERE) {
    const unsigned long long value = predicate != 0 ? 1 : 0;
    return emulation::detail::meet_warp("__any_sync", mask, value, -1, file, line) != 0 ? 1 : 0;
}

// A lane gets the value of the lane `source`, or its own where that would be of another part of `width` lanes.
#define EMULATION_SHUFFLE(name, operand, source)                                                                       \
    template <emulation::detail::Shuffled T>                                                                           \
    inline T name(unsigned mask, T value, int operand, int width = 32, EMULATION_HERE) {                               \
        const int lane = emulation::detail::lane();                                                                    \
        const int first = lane & ~(width - 1);                                                                         \
        const int from = source;                                                                                       \
        return emulation::detail::shuffle(#name, mask, value, from < first + width ? from : lane, file, line);         \
    }

EMULATION_SHUFFLE(__shfl_sync, number, first + (number & (width - 1)))
EMULATION_SHUFFLE(__shfl_xor_sync, bits, lane ^ bits)
EMULATION_SHUFFLE(__shfl_down_sync, delta, lane + delta)

#undef EMULATION_SHUFFLE
#undef EMULATION_HERE

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
