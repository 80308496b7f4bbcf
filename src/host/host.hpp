// SPDX-License-Identifier: Apache-2.0
// What the host backend consists of, for its table.
#pragma once

#include "../kernel.hpp"

namespace kvappend {

// Rows of the source, counted over all its samples.
struct RowRange {
    std::int64_t first;
    std::int64_t end;
};

// An append of such rows, in two ways: one leaves what it writes in the processor's caches, and one goes past them.
struct Append {
    using Rows = void (*)(const Problem &problem, const kvappend_args &args, RowRange range);
    Rows near;
    Rows far;
};

extern const Append plain_dense;
extern const Append plain_rows;
#if defined(__x86_64__)
extern const Append avx_dense;
extern const Append avx_rows;
#endif

// Appends all rows.
Status host_launch(const Append &append, const Problem &problem, const Target &target, const kvappend_args &args);

Status host_admit(const Problem &problem, const kvappend_args &args);
Status host_count(const Problem &problem, const kvappend_args &args, CUstream_st *stream);
Status host_advance(const Problem &problem, const kvappend_args &args, CUstream_st *stream);

} // namespace kvappend
