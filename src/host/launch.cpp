// SPDX-License-Identifier: Apache-2.0
// A run on the host: whether it bypasses the processor's caches, and whether the plan's threads share it.
#include "host.hpp"

#include <algorithm>

namespace kvappend {

namespace {

// Enough bytes for long runs, and few enough that a helper still finds a share if it wakes up after the start.
constexpr std::int64_t share_bytes = large_bytes / 16;

// A run that is divided into shares. A share is a number of rows, of one head or of all heads.
struct Job {
    CopyRows::Rows copy;
    const Problem &problem;
    const kvappend_args &args;
    std::int64_t rows;
    std::int64_t rows_in_share;
    std::int64_t parts; // of each head, or of all heads
    bool by_head;

    std::int64_t shares() const { return by_head ? std::max(problem.k.heads(), problem.v.heads()) * parts : parts; }

    static void do_share(const void *job, std::uint32_t share) {
        const Job &j = *static_cast<const Job *>(job);
        const std::int64_t first = share % j.parts * j.rows_in_share;
        const RowRange range{first, first + std::min(j.rows_in_share, j.rows - first)};
        j.copy(j.problem, j.args, {range, j.by_head ? share / j.parts : -1});
    }
};

// Whether a run is divided between heads first, so that many adjacent rows stay adjacent. Without this, cold prefill by
// two threads took 4 to 9 % longer.
bool long_runs(const Problem &problem) {
    constexpr std::int64_t many_rows = 64;
    constexpr std::int64_t most_heads = 1024; // so that shares can be counted
    const Copy &k = problem.k;
    const Copy &v = problem.v;
    return problem.new_rows >= many_rows && std::max(k.heads(), v.heads()) <= most_heads &&
           (k.empty() || k.adjacent_rows) && (v.empty() || v.adjacent_rows) &&
           (k.empty() || v.empty() || k.heads() == v.heads());
}

Job in_shares(CopyRows::Rows copy, const Problem &problem, const kvappend_args &args, std::int64_t rows) {
    const bool by_head = long_runs(problem);
    const std::int64_t heads = by_head ? std::max(problem.k.heads(), problem.v.heads()) : 1;
    // Even the largest runs have some thousands of shares at most.
    const std::int64_t in_share = std::max(share_bytes, problem.bytes >> 12);
    const std::int64_t wanted = std::clamp(problem.bytes / heads / in_share, std::int64_t{1}, rows);
    const std::int64_t rows_in_share = (rows - 1) / wanted + 1;
    return {copy, problem, args, rows, rows_in_share, (rows - 1) / rows_in_share + 1, by_head};
}

} // namespace

void copy_all_rows(const HostState &state, const Problem &problem, const kvappend_args &args) {
    if (problem.moves()) {
        return move_all_rows(state, problem, args);
    }
    const std::int64_t rows = problem.source_samples * problem.new_rows;
    const bool large = problem.bytes >= large_bytes;
    const CopyRows::Rows copy_rows = large ? state.copy.non_temporal : state.copy.cached;
    if (state.threads != nullptr && large) {
        const Job job = in_shares(copy_rows, problem, args, rows);
        if (state.threads->share(Job::do_share, &job, static_cast<std::uint32_t>(job.shares()))) {
            return;
        }
    }
    copy_rows(problem, args, {{0, rows}});
}

} // namespace kvappend
