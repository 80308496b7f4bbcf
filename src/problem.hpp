// SPDX-License-Identifier: Apache-2.0
// A checked descriptor: what is to be copied where. Backends read nothing else about a plan.
#pragma once

#include "addressing.hpp"
#include "buffers.hpp"
#include "format.hpp"
#include "moved.hpp"
#include "rotation.hpp"
#include "status.hpp"
#include "tensor.hpp"

#include <cstdint>

namespace kvappend {

enum class Operation : std::int32_t {
    append = KVAPPEND_OPERATION_APPEND,
    gather = KVAPPEND_OPERATION_GATHER,
    move = KVAPPEND_OPERATION_MOVE
};

// The copy of K, or that of V. Heads that are adjacent in both tensors count as one wider row.
struct Copy {
    Tensor rows;
    Tensor cache;
    Format format;
    Tensor scales; // empty if the format has none
    Rotation rotation;
    // The rows of one head are adjacent in both tensors, so that they can be copied as one piece of memory.
    bool adjacent_rows;
    // The widest power of two, 16 at most, that divides the rows, the pieces and the strides of both tensors.
    std::uint32_t alignment;
    std::uint32_t cache_alignment; // that an address of the cache needs

    bool empty() const { return rows.empty() || cache.empty(); }
    bool converts() const { return format.type != KVAPPEND_STORED_AS_IS; }
    bool rotates() const { return rotation.dim != 0; }
    std::int64_t heads() const { return rows.heads; }
    std::int64_t row_bytes() const { return rows.row_bytes; }
    // The bytes from the tensor of scales to the first one of a row. With BY_FOUR_ROWS, four rows are one row of it.
    std::int64_t scale_byte(std::int64_t block, std::int64_t head, std::int64_t row) const {
        const Strides &s = scales.strides;
        return block * s.outer + head * s.head + (format.by_four_rows ? row / 4 * s.row + row % 4 : row * s.row);
    }
};

struct Problem {
    std::int32_t backend;
    Operation operation;
    std::int32_t element_type;
    std::uint32_t element_bytes;
    Addressing addressing;
    // The samples of the rows. There is at most 1 sample if the rows are tokens.
    std::int64_t source_samples;
    std::int64_t new_rows;
    Copy k;
    Copy v;
    // The queries that are rotated: `rows` are those of args.q, and `cache` is args.q_out, in which each row has the
    // index that it has in args.q. Empty if there is no Q.
    Copy q;
    MovedTensors moved;    // if it is a move
    std::int64_t bytes;    // that a run moves at most; INT64_MAX if there are more
    NeededBuffers buffers; // none if there is nothing to copy

    bool gathers() const { return operation == Operation::gather; }
    bool moves() const { return operation == Operation::move; }
    bool empty() const { return k.empty() && v.empty(); }
    // Whether rows of K or of V are stored in another format.
    bool converts() const { return k.converts() || v.converts(); }
    // What the kernels of the family `convert` do. Those of `rotate` convert, too.
    bool converts_alone() const { return converts() && !rotates(); }
    bool rotates() const { return k.rotates(); }
    bool has_query() const { return !q.empty(); }
    bool writes_scales(const Copy &copy) const { return moves() || (copy.format.computed() && !gathers()); }
    // A dense problem that copies bits, and needs one offset for each sample and no other index.
    bool plain_dense() const {
        return addressing.plain_dense() && !converts() && !rotates() && k.cache.whole_rows() && v.cache.whole_rows();
    }

    // Checks the descriptor and fills the problem.
    static Status create(const kvappend_descriptor &descriptor, Problem &problem);

    // Checks the buffers of one run.
    Status check(const kvappend_args &args) const { return buffers.check(args); }
};

} // namespace kvappend
