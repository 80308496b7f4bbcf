// SPDX-License-Identifier: Apache-2.0
// The device that a plan belongs to, and what CUDA's errors mean to a caller of this library.
#pragma once

#include "launch.hpp"

#include <cuda_runtime.h>

namespace kvappend {

// The failure of a CUDA call as a status of this library, with a message that names both.
Status cuda_failure(const char *call, cudaError_t error);

// Asks for a kernel's attributes, so that CUDA loads it now rather than at its first launch, which may be in a capture.
// Returns the architecture that its code was compiled for, if the caller asks for it.
Status load_kernel(const void *kernel, int *code_architecture = nullptr);

// The status of a launch into the caller's stream.
Status launched(cudaError_t error);

// Determines the current device and its properties.
Status open_device(CudaState &state);

// Fails if the current device is not the plan's.
Status check_device(const CudaState &state);

// Copies device memory to the host and waits for it.
Status fetch_from_device(void *to, const void *from, std::size_t bytes, CUstream_st *stream);

} // namespace kvappend
