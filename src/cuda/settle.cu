// SPDX-License-Identifier: Apache-2.0
#include "settle.hpp"

#include "device.hpp"
#include "settle_kernels.cuh"

#include <algorithm>

namespace kvappend {

namespace {

// More would only wait for each other at the report's counters.
constexpr std::int64_t most_blocks = 256;

using SettleKernel = void (*)(SettleParameters);

// A thread for each item, as far as blocks go.
Status launch(SettleKernel kernel, std::int64_t items, const SettleParameters &p, CUstream_st *stream) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(std::min(most_blocks, (items - 1) / settle_threads + 1)));
    config.blockDim = dim3(items == 1 ? 1 : settle_threads);
    config.stream = stream;
    return launched(cudaLaunchKernelEx(&config, kernel, p));
}

SettleParameters parameters_of(const Problem &problem, const kvappend_args &args) {
    return {problem.addressing, indices_of(problem.buffers, args), problem.batch, problem.new_rows, args.cache_offsets,
            args.report};
}

} // namespace

Status cuda_prepare(const Problem &problem) {
    const Addressing &a = problem.addressing;
    const struct {
        bool used;
        SettleKernel kernel;
    } kernels[] = {{a.has(KVAPPEND_FLAG_RESET_REPORT), reset_report},
                   {a.skip_policy != KVAPPEND_SKIP_SILENTLY, count_rows},
                   {a.skip_policy == KVAPPEND_SKIP_REPORT, name_first},
                   {a.has(KVAPPEND_FLAG_ADVANCE), advance_offsets}};
    for (const auto &[used, kernel] : kernels) {
        if (const Status status = used ? load_kernel(reinterpret_cast<const void *>(kernel)) : KVAPPEND_SUCCESS;
            status != KVAPPEND_SUCCESS) {
            return status;
        }
    }
    return KVAPPEND_SUCCESS;
}

Status cuda_admit(const Problem & /*problem*/, const kvappend_args & /*args*/) {
    return KVAPPEND_SUCCESS;
}

Status cuda_count(const Problem &problem, const kvappend_args &args, CUstream_st *stream) {
    const Addressing &a = problem.addressing;
    const SettleParameters p = parameters_of(problem, args);
    Status status = KVAPPEND_SUCCESS;
    if (a.has(KVAPPEND_FLAG_RESET_REPORT)) {
        status = launch(reset_report, 1, p, stream);
    }
    if (status == KVAPPEND_SUCCESS && a.skip_policy != KVAPPEND_SKIP_SILENTLY) {
        status = launch(count_rows, problem.batch * problem.new_rows, p, stream);
    }
    if (status == KVAPPEND_SUCCESS && a.skip_policy == KVAPPEND_SKIP_REPORT) {
        status = launch(name_first, 1, p, stream);
    }
    return status;
}

Status cuda_advance(const Problem &problem, const kvappend_args &args, CUstream_st *stream) {
    const Addressing &a = problem.addressing;
    return a.has(KVAPPEND_FLAG_ADVANCE) ? launch(advance_offsets, a.batch, parameters_of(problem, args), stream)
                                        : KVAPPEND_SUCCESS;
}

} // namespace kvappend
