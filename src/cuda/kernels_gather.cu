// SPDX-License-Identifier: Apache-2.0
// The kernels that copy bits, for gathers.
#include "launch_copy.cuh"

namespace kvappend {

Status load_gather_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state) {
    return CopyLaunches<GatherRows>::load(kernel, problem, state);
}

Status launch_gather(const Call &call, CUstream_st *stream) {
    return CopyLaunches<GatherRows>::launch(call, stream);
}

LayeredRun *begin_gathers(LayeredRunStorage::Part &storage, bool all_dense, CUstream_st *stream) {
    return CopyLaunches<GatherRows>::begin(storage, all_dense, stream);
}

} // namespace kvappend
