// SPDX-License-Identifier: Apache-2.0
// How kernels read global memory: by plain loads, as a kernel that was launched programmatically may read what the one
// before it wrote while both ran, which is not what PTX promises of loads by the read-only path. An emulation, which
// cannot see plain loads, gets a name to check them by.
#pragma once

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

} // namespace kvappend
