// SPDX-License-Identifier: Apache-2.0
// An append: finds the runs of a range of new rows, and moves them to the cache.
#pragma once

#include "copy.hpp"
#include "host.hpp"
#include "runs.hpp"

namespace kvappend {

// What is known of plain dense appends, and of those with one row for each sample.
inline constexpr Known dense_known{.kind = KVAPPEND_ADDRESSING_DENSE, .plain_samples = true};
inline constexpr Known dense_step_known{.kind = KVAPPEND_ADDRESSING_DENSE, .plain_samples = true, .one_row = true};

// The parameter Copier keeps this, and what follows, apart for each processor: see move_avx.cpp.
template <class Copier>
inline Move move_of(const Copy &copy, const void *rows, void *cache, std::int64_t head) {
    if (head < 0 || copy.empty()) {
        return {copy.rows, rows, copy.cache, cache, copy.heads(), copy.adjacent_rows};
    }
    return {copy.rows,  static_cast<const std::byte *>(rows) + head * copy.rows.strides.head,
            copy.cache, static_cast<std::byte *>(cache) + head * copy.cache.strides.head,
            1,          copy.adjacent_rows};
}

template <class Copier>
inline Moves moves_of(const Problem &problem, const kvappend_args &args, const Part &part) {
    return {move_of<Copier>(problem.k, args.k_new, args.k_cache, part.head),
            move_of<Copier>(problem.v, args.v_new, args.v_cache, part.head)};
}

// The arrays of indices of an append. A plain dense append has only the offsets.
template <class Copier, Known Facts>
inline Indices indices_of_append(const Problem &problem, const kvappend_args &args) {
    if constexpr (Facts.kind == KVAPPEND_ADDRESSING_DENSE && Facts.plain_samples) {
        Indices indices{};
        indices.offsets = args.cache_offsets;
        return indices;
    } else {
        return indices_of(problem.buffers, args);
    }
}

template <class Copier, bool NonTemporal, Known Facts>
inline void append_runs(const Problem &problem, const kvappend_args &args, const Part &part) {
    const Moves moves = moves_of<Copier>(problem, args, part);
    const Indices indices = indices_of_append<Copier, Facts>(problem, args);
    for_each_run(Rule<Facts>{problem.addressing, indices}, part.rows, [&](const Run &run) {
        if (moves.paired && run.rows == 1) {
            copy_row<Copier, NonTemporal>(moves, run.source, run.cache);
        } else {
            copy_run<Copier, NonTemporal>(moves, run.source, run.cache, run.rows);
        }
    });
    Copier::template finish<NonTemporal>();
}

// A step of decoding, in which each sample has one row. The copy is chosen once for all rows. If it is chosen for each
// row, a step of one sample in the cache takes 3 % longer (median of models), and 24 % longer for rows of 192 bytes.
template <class Copier, bool NonTemporal>
inline void append_dense_step(const Problem &problem, const kvappend_args &args, const Part &part) {
    const Moves moves = moves_of<Copier>(problem, args, part);
    const Indices indices = indices_of_append<Copier, dense_step_known>(problem, args);
    choose_for_rows<Copier, NonTemporal>(moves, [&](auto copy) {
        for_each_run(Rule<dense_step_known>{problem.addressing, indices}, part.rows, [&](const Run &run) {
            for_each_head(moves.k, moves.v, moves.k.span(run.source, run.cache), moves.v.span(run.source, run.cache),
                          copy);
        });
    });
    Copier::template finish<NonTemporal>();
}

// Flattened, so that the values that a loop depends on stay in registers.
template <class Copier, bool NonTemporal>
[[gnu::flatten]] void append_dense(const Problem &problem, const kvappend_args &args, const Part &part) {
    if (problem.new_rows == 1 && moves_of<Copier>(problem, args, part).paired) {
        append_dense_step<Copier, NonTemporal>(problem, args, part);
    } else {
        append_runs<Copier, NonTemporal, dense_known>(problem, args, part);
    }
}

template <class Copier, bool NonTemporal>
[[gnu::flatten]] void append_rows(const Problem &problem, const kvappend_args &args, const Part &part) {
    append_runs<Copier, NonTemporal, Known{}>(problem, args, part);
}

} // namespace kvappend
