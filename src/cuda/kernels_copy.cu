// SPDX-License-Identifier: Apache-2.0
// The kernels that copy bits, for appends.
#include "launch_copy.cuh"

namespace kvappend {

Status load_copy_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state) {
    return CopyLaunches<AppendRows>::load(kernel, problem, state);
}

Status launch_copy(const Call &call, CUstream_st *stream) {
    return CopyLaunches<AppendRows>::launch(call, stream);
}

LayeredRun *begin_copies(LayeredRunStorage::Part &storage, bool all_dense, CUstream_st *stream) {
    return CopyLaunches<AppendRows>::begin(storage, all_dense, stream);
}

} // namespace kvappend
