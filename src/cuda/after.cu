// SPDX-License-Identifier: Apache-2.0
#include "after.hpp"

#include "after_kernel.cuh"
#include "device.hpp"

#include <algorithm>

namespace kvappend {

namespace {

// An estimate of the number of stretches (stretch_of) in the rows of the problem. At least 1.
std::int64_t stretches_of(const Problem &problem, std::int64_t rows) {
    const Addressing &a = problem.addressing;
    if (a.by_token()) {
        return rows; // a slot is a stretch of its own, and packed samples may have a row each
    }
    // The rows of a sample may begin within a page, and those of a ring may wrap around.
    const std::int64_t of_sample = 2 + (a.has_pages() && a.cache_rows > 0 ? problem.new_rows / a.cache_rows : 0);
    return of_sample < rows / a.samples ? a.samples * of_sample : rows;
}

} // namespace

Status load_after(const Problem &problem) {
    void (*const kernel)(AfterParameters) = problem.moves() ? after_move : after_copy;
    return problem.addressing.has_more_than_copies() ? load_kernel(reinterpret_cast<const void *>(kernel))
                                                     : KVAPPEND_SUCCESS;
}

Status launch_after(const Call &call, Backend::After work, CUstream_st *stream) {
    const Problem &problem = call.problem;
    const Addressing &a = problem.addressing;
    const std::int64_t rows = problem.source_samples * problem.new_rows;
    const std::int64_t items = std::max(work.counts ? stretches_of(problem, rows) : 1, work.advances ? a.offsets() : 1);
    const std::int64_t most_threads = problem.moves() ? most_after_move_threads : most_after_threads;
    const std::int64_t warps = (std::min(items, most_threads) - 1) / warp_lanes + 1;
    const std::int64_t threads = warps * warp_lanes;
    // A token is a stretch of its own. With one row at once, neighbouring threads load neighbouring indices.
    const bool each_token = a.kind == KVAPPEND_ADDRESSING_SLOTS || a.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
    const std::int64_t rows_at_once = each_token ? 1 : (rows - 1) / threads + 1;

    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1);
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream;
    return launched(cudaLaunchKernelEx(&config, problem.moves() ? after_move : after_copy,
                                       AfterParameters{a, indices_of(problem.buffers, call.args),
                                                       problem.source_samples, rows_at_once, call.args.cache_offsets,
                                                       call.args.report, work.counts, work.resets, work.advances}));
}

} // namespace kvappend
