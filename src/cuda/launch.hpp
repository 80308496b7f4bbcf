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
Status load_gather_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state);
Status load_convert_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state);
Status load_rotate_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state);
Status load_decode_kernels(const NamedKernel &kernel, CudaState &state);
Status load_move_kernels(const NamedKernel &kernel, CudaState &state);

// Launch one call, by its kernel.
Status launch_copy(const Call &call, CUstream_st *stream);
Status launch_gather(const Call &call, CUstream_st *stream);
Status launch_convert(const Call &call, CUstream_st *stream);
Status launch_rotate(const Call &call, CUstream_st *stream);
Status launch_decode(const Call &call, CUstream_st *stream);
Status launch_move(const Call &call, CUstream_st *stream);
Status launch_call(const Call &call, CUstream_st *stream);

// Begin a run of several layers: of appends that copy bits, of gathers, or of moves.
LayeredRun *begin_copies(LayeredRunStorage::Part &storage, bool all_dense, CUstream_st *stream);
LayeredRun *begin_gathers(LayeredRunStorage::Part &storage, bool all_dense, CUstream_st *stream);
LayeredRun *begin_moves(LayeredRunStorage::Part &storage, CUstream_st *stream);
// The same if caches of some layers have another format, or if rows of some layers are rotated. The others are added to
// `copies`, `others` or `gathers`.
LayeredRun *begin_conversions(LayeredRunStorage::Part &storage, LayeredRun *copies, CUstream_st *stream);
LayeredRun *begin_rotations(LayeredRunStorage::Part &storage, LayeredRun *others, CUstream_st *stream);
LayeredRun *begin_decodings(LayeredRunStorage::Part &storage, LayeredRun *gathers, CUstream_st *stream);

} // namespace kvappend
