// SPDX-License-Identifier: Apache-2.0
// What the CUDA backend consists of: the kernels' table, launches, and what a plan keeps.
#pragma once

#include "../backend.hpp"

namespace kvappend {

// What the CUDA backend keeps for a plan.
class CudaState final : public BackendState {
public:
    std::int32_t device() const override { return device_number; }
    std::int32_t architecture() const override { return architecture_of_device; }

    int device_number = 0;
    int architecture_of_device = 0;
    int multiprocessors = 0;
    // Whether the kernels for several layers serve the plan's problem: see fits_in_31_bits and runs_fit_in_31_bits.
    bool fits_in_31_bits = false;
    bool runs_fit_in_31_bits = false;
    // The architecture that the kernels' code was compiled for. It is older than the device if the driver translated
    // PTX.
    int code_architecture = 0;
};

// The kernels of kernels_copy.cu.
std::span<const NamedKernel> copy_kernels();
bool supports(const NamedKernel &kernel, const Problem &problem);
// Loads what a plan with this kernel may launch, and determines the architecture of its code.
Status load_copy_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state);

// Launches the copy of one append, by its kernel.
Status launch_copy(const Append &append, CUstream_st *stream);
// Begins a run of several appends.
LayeredRun *begin_layers(LayeredRunStorage &storage, bool all_dense, CUstream_st *stream);

} // namespace kvappend
