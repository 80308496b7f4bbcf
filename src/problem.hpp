// SPDX-License-Identifier: Apache-2.0
// A descriptor, checked and normalised: what is to be copied where. Backends read nothing else about a plan.
#pragma once

#include "addressing.hpp"
#include "buffers.hpp"
#include "failure.hpp"
#include "overlap.hpp"

#include <array>
#include <cstdint>
#include <span>

namespace kvappend {

// Bytes from one entry of an axis to the next.
struct Strides {
    std::int64_t batch;
    std::int64_t head;
    std::int64_t row;
};

// The copy of K, or that of V. Where the heads of a row are adjacent in both tensors, they count as one wider row.
struct TensorCopy {
    std::int64_t heads;
    std::int64_t row_bytes;
    Strides from;
    Strides to;
    // A row of the cache lies in pieces of so many bytes, a power of two unless it is the row itself.
    std::int64_t piece_bytes;
    std::int64_t piece_stride;
    // The rows of one head are adjacent in both tensors, so that they can be copied as one run.
    bool adjacent_rows;
    // The widest power of two, 16 at most, which divides row_bytes and every stride in use.
    std::uint32_t alignment;
    // From the first to the last element. Both are 0 where there is nothing to copy.
    std::int64_t new_bytes;
    std::int64_t cache_bytes;
    // The pieces of the cache's rows, for telling whether it overlaps the other cache.
    std::array<Axis, 4> cache_axes;
    std::int64_t cache_piece_bytes;

    bool empty() const { return new_bytes == 0; }
    bool whole_rows() const { return piece_bytes == row_bytes; }
};

struct Problem {
    std::int32_t backend;
    std::int32_t element_type;
    std::uint32_t element_bytes;
    Addressing addressing;
    // Of the source: 1 where it has tokens for rows.
    std::int64_t batch;
    std::int64_t new_rows;
    TensorCopy k;
    TensorCopy v;
    Interleaving caches;   // of K and V, where both are there
    std::int64_t bytes;    // that a run copies at most; INT64_MAX where they are more
    NeededBuffers buffers; // none where there is nothing to copy

    bool empty() const { return k.empty() && v.empty(); }
    // The append that takes no more than an offset for each sample.
    bool plain() const { return addressing.plain() && k.whole_rows() && v.whole_rows(); }

    // Checks the descriptor and fills the problem.
    static Status create(const kvappend_descriptor &descriptor, Problem &problem);

    // Checks the buffers of one run.
    Status check(const kvappend_args &args) const;
};

} // namespace kvappend
