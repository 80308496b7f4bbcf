// SPDX-License-Identifier: Apache-2.0
// What the host backend consists of, for its table.
#pragma once

#include "../backend.hpp"
#include "thread_pool.hpp"

namespace kvappend {

// Rows of the source, counted over all its samples.
struct RowRange {
    std::int64_t first;
    std::int64_t end;
};

// A part of a run: a range of rows, of all heads or of one.
struct Part {
    RowRange rows;
    std::int64_t head = -1; // all heads
};

// A copy of a part of the rows, in two ways: one leaves what it writes in the processor's caches, and one bypasses them
// with non-temporal stores.
struct CopyRows {
    using Rows = void (*)(const Problem &problem, const kvappend_args &args, const Part &part);
    Rows cached;
    Rows non_temporal;
};

// Which vector instructions a program may use.
struct Extensions {
    bool avx;
    bool avx2; // and F16C
};

// What the host backend keeps for a plan.
class HostState final : public BackendState {
public:
    explicit HostState(Extensions of_processor) : extensions(of_processor) {}

    const Extensions extensions; // found once for a plan, because it takes microseconds on a virtual machine
    CopyRows copy{};
    std::unique_ptr<ThreadPool> threads; // NULL if the plan has none
};

// The functions for one kind of processor. Index 0 is for appends, index 1 for gathers, and index 2 of conversions for
// appends that rotate rows.
struct Copies {
    CopyRows dense[2];
    CopyRows rows[2];
};
extern const Copies plain_copies;
extern const CopyRows plain_conversions[3];
#if defined(__x86_64__)
extern const Copies avx_copies;
extern const CopyRows avx2_conversions[3];
#endif

// Sets rows of a gather's output to zero.
void zero_rows(const Problem &problem, const kvappend_args &args, RowRange rows, std::int64_t head);

// A run of at least this many bytes would evict other data from the processor's cache. So it bypasses the cache with
// non-temporal stores, and the threads share it. A smaller run ends before a helper wakes up, and its rows are read
// again from the cache. With stores through the cache, large prefill took 14 to 31 % longer (medians of layouts). A
// move never bypasses the cache, because a row may come from a place that an earlier row went to.
inline constexpr std::int64_t large_bytes = std::int64_t{8} << 20;

// Copies or moves all rows. The plan's threads share the work if there are enough bytes.
void copy_all_rows(const HostState &state, const Problem &problem, const kvappend_args &args);
void move_all_rows(const HostState &state, const Problem &problem, const kvappend_args &args);

Status check_policy(const Problem &problem, const kvappend_args &args);
void count_rows(const Problem &problem, const kvappend_args &args, bool reset);
void advance_offsets(const Problem &problem, const kvappend_args &args);

} // namespace kvappend
