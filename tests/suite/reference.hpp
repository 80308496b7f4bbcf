// SPDX-License-Identifier: Apache-2.0
// What the header says that a run does, one row and one element at a time: written to be obviously right, and without
// the library.
#pragma once

#include "scenario.hpp"

__extension__ typedef __int128 Wide; // in which no sum or product of indices wraps around

enum class Outcome {
    written,
    replaced, // by a later row of the same run, in a ring
    padding,
    below,
    above
};

// What becomes of one row of the new tensors.
struct Row {
    // Where it comes from: [batch, :, source, :], or [source, :, :] of packed tensors.
    std::int64_t batch;
    std::int64_t source;
    Outcome outcome;
    // Which row of which sample it is; a row of none is padding.
    bool of_sample;
    std::int64_t sample;
    Wide row;
    // Where it goes: its position, or its slot, and if it is written or replaced [block, :, cache_row, :].
    Wide position;
    std::int64_t block;
    std::int64_t cache_row;
    // The position by which its K is rotated if it is written, and its Q if it is written or replaced.
    std::int64_t rotation;
    bool rotates_q;
    // Where a move takes it from.
    std::int64_t from_block;
    std::int64_t from_row;
};

std::vector<Row> reference_rows(const Scenario &scenario);

// Whether no two rows are written to one place, across samples: else the header does not say what is left there.
bool places_differ(const std::vector<Row> &rows);

// Whether no sample of a move writes a place that another one reads or writes: else the header does not say what is
// left there.
bool samples_keep_apart(const std::vector<Row> &rows);

// What all blocks hold after the run.
void reference_run(const Scenario &scenario, std::vector<std::vector<unsigned char>> &blocks);

// The part of reference_run that rotates Q.
void reference_rotate_queries(const Scenario &scenario, std::vector<std::vector<unsigned char>> &blocks);

// The offsets after KVAPPEND_FLAG_ADVANCE.
std::vector<std::int64_t> reference_advance(const Scenario &scenario);

// Adds a run to the report, or with KVAPPEND_FLAG_RESET_REPORT makes it this run's. Leaves struct_size and the
// library's own state.
void reference_report(const Scenario &scenario, kvappend_report &report);

// In what follows, q_out counts as a cache: its blocks are the samples of q, and its rows have the numbers of those of
// q.

// How many bytes into a cache with its own format the code of [n, h, r, i] is, and which half of the byte: 0 for a
// whole byte or the low half, 4 for the high half.
struct CodePlace {
    std::int64_t byte;
    unsigned shift;
};
CodePlace reference_code(const kvappend_descriptor &d, TensorIndex cache, std::int64_t n, std::int64_t h,
                         std::int64_t r, std::int64_t i);
// The bytes of a row's codes, from the one of the first element, if they lie in one piece.
std::int64_t reference_row_bytes(const kvappend_descriptor &d, TensorIndex cache);

// How many bytes into the scales of a cache that of [n, h, r, group] is.
std::int64_t reference_scale(const kvappend_descriptor &d, TensorIndex cache, std::int64_t n, std::int64_t h,
                             std::int64_t r, std::int64_t group);

const kvappend_storage *storage_of(const kvappend_descriptor &d, TensorIndex cache);

// How many elements into its tensor [b, h, l, i] is; of packed tensors [l, h, i].
std::int64_t reference_index(const kvappend_descriptor &d, TensorIndex tensor, std::int64_t b, std::int64_t h,
                             std::int64_t l, std::int64_t i);

// The extents of a tensor: of packed tensors the first is 1, of caches it is the number of blocks. Without Q, the
// extents of q and q_out are 0.
struct Extents {
    std::int64_t batch;
    std::int64_t heads;
    std::int64_t rows;
    std::int64_t dim;
};
Extents reference_extents(const kvappend_descriptor &d, TensorIndex tensor);
