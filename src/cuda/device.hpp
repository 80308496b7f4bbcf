// SPDX-License-Identifier: Apache-2.0
// The device that a plan belongs to, and what CUDA's errors mean to a caller of this library.
#pragma once

#include "launch.hpp"

#include <cuda_runtime.h>

namespace kvappend {

// The failure of a CUDA call as a status of this library, with a message that names both.
Status cuda_failure(const char *call, cudaError_t error);

// Asks for a kernel's attributes, so that CUDA loads it now rather than at its first launch, which may be in a capture.
// Returns the architecture that its code was compiled for, where the caller asks for it.
Status load_kernel(const void *kernel, int *code_architecture = nullptr);

// The status of a launch into the caller's stream.
Status launched(cudaError_t error);

// Finds out which device is current, and what it is.
Status open_device(CudaState &state);

// Refuses to go on when another device than the plan's is current.
Status check_device(const CudaState &state);

// Copies device memory to the host and waits for it.
Status fetch_from_device(void *to, const void *from, std::size_t bytes, CUstream_st *stream);

} // namespace kvappend
