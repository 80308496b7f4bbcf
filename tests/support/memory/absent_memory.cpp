// SPDX-License-Identifier: Apache-2.0
// The memory of CUDA devices in a build without CUDA.
#include "memory.hpp"

#include <stdexcept>

std::unique_ptr<Memory> cuda_memory() {
    throw std::runtime_error("this build has no CUDA backend");
}
