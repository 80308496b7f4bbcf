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

// Load what a plan with this kernel may launch, and determine the architecture of its code.
Status load_copy_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state);
Status load_convert_kernels(const NamedKernel &kernel, CudaState &state);

// Launch one append, by its kernel.
Status launch_copy(const Append &append, CUstream_st *stream);
Status launch_convert(const Append &append, CUstream_st *stream);
inline Status launch_append(const Append &append, CUstream_st *stream) {
    return append.kernel.family == Kernel::Family::convert ? launch_convert(append, stream)
                                                           : launch_copy(append, stream);
}

// Begin a run of several appends, which copy bits, or some of which store rows in another format.
LayeredRun *begin_copies(LayeredRunStorage::Part &storage, bool all_dense, CUstream_st *stream);
LayeredRun *begin_conversions(LayeredRunStorage::Part &storage, LayeredRun *copies, CUstream_st *stream);

} // namespace kvappend
