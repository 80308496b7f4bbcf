// SPDX-License-Identifier: Apache-2.0
// Copies of bits: finds the runs of a range of rows, and moves them to the cache or, if the call gathers, from it.
#pragma once

#include "copy.hpp"
#include "host.hpp"
#include "runs.hpp"

namespace kvappend {

// What is known of plain dense problems, of those with one row for each sample, and of all that copy bits.
inline constexpr Known dense_known{.kind = KVAPPEND_ADDRESSING_DENSE, .plain_samples = true, .never_rotates = true};
inline constexpr Known dense_step_known{
    .kind = KVAPPEND_ADDRESSING_DENSE, .plain_samples = true, .one_row = true, .never_rotates = true};
inline constexpr Known rows_known{.never_rotates = true};

// The parameter Copier keeps this, and what follows, apart for each processor: see move_avx.cpp.
template <class Copier, bool Gathers>
inline Move move_of(const Copy &copy, const void *rows, void *cache, std::int64_t head) {
    const std::int64_t heads = head < 0 || copy.empty() ? copy.heads() : 1;
    const std::int64_t first = copy.empty() ? 0 : std::max<std::int64_t>(head, 0);
    const std::byte *const in_rows = static_cast<const std::byte *>(rows) + first * copy.rows.strides.head;
    std::byte *const in_cache = static_cast<std::byte *>(cache) + first * copy.cache.strides.head;
    if constexpr (Gathers) {
        return {copy.cache, in_cache, copy.rows, const_cast<std::byte *>(in_rows), heads, copy.adjacent_rows};
    }
    return {copy.rows, in_rows, copy.cache, in_cache, heads, copy.adjacent_rows};
}

template <class Copier, bool Gathers>
inline Moves moves_of(const Problem &problem, const kvappend_args &args, const Part &part) {
    return {move_of<Copier, Gathers>(problem.k, Gathers ? args.k_out : args.k_new, args.k_cache, part.head),
            move_of<Copier, Gathers>(problem.v, Gathers ? args.v_out : args.v_new, args.v_cache, part.head)};
}

// The arrays of indices of a call. A plain dense one has only the offsets.
template <class Copier, Known Facts>
inline Indices indices_of_call(const Problem &problem, const kvappend_args &args) {
    if constexpr (Facts.kind == KVAPPEND_ADDRESSING_DENSE && Facts.plain_samples) {
        Indices indices{};
        indices.offsets = args.cache_offsets;
        return indices;
    } else {
        return indices_of(problem.buffers, args);
    }
}

template <class Copier, bool NonTemporal, bool Gathers, Known Facts>
inline void copy_runs(const Problem &problem, const kvappend_args &args, const Part &part) {
    const Moves moves = moves_of<Copier, Gathers>(problem, args, part);
    const Indices indices = indices_of_call<Copier, Facts>(problem, args);
    const Rule<Facts> rule{problem.addressing, indices};
    const auto copy = [&](const Run &run) {
        const RowIndex from = Gathers ? run.cache : run.source;
        const RowIndex to = Gathers ? run.source : run.cache;
        if (moves.paired && run.rows == 1) {
            copy_row<Copier, NonTemporal>(moves, from, to);
        } else {
            copy_run<Copier, NonTemporal>(moves, from, to, run.rows);
        }
    };
    if (Gathers && problem.addressing.has(KVAPPEND_FLAG_ZERO_SKIPPED)) {
        for_each_run_and_gap(rule, part.rows, copy, [&](RowRange rows) { zero_rows(problem, args, rows, part.head); });
    } else {
        for_each_run(rule, part.rows, copy);
    }
    Copier::template finish<NonTemporal>();
}

// A step of decoding, in which each sample has one row. The copy is chosen once for all rows. If it is chosen for each
// row, a step of one sample in the cache takes 3 % longer (median of models), and 24 % longer for rows of 192 bytes.
template <class Copier, bool NonTemporal>
inline void append_dense_step(const Problem &problem, const kvappend_args &args, const Part &part) {
    const Moves moves = moves_of<Copier, false>(problem, args, part);
    const Indices indices = indices_of_call<Copier, dense_step_known>(problem, args);
    choose_for_rows<Copier, NonTemporal>(moves, [&](auto copy) {
        for_each_run(Rule<dense_step_known>{problem.addressing, indices}, part.rows, [&](const Run &run) {
            for_each_head(moves.k, moves.v, moves.k.span(run.source, run.cache), moves.v.span(run.source, run.cache),
                          copy);
        });
    });
    Copier::template finish<NonTemporal>();
}

// Flattened, so that the values that a loop depends on stay in registers.
template <class Copier, bool NonTemporal, bool Gathers>
[[gnu::flatten]] void copy_dense(const Problem &problem, const kvappend_args &args, const Part &part) {
    if (!Gathers && problem.new_rows == 1 && moves_of<Copier, false>(problem, args, part).paired) {
        append_dense_step<Copier, NonTemporal>(problem, args, part);
    } else {
        copy_runs<Copier, NonTemporal, Gathers, dense_known>(problem, args, part);
    }
}

template <class Copier, bool NonTemporal, bool Gathers>
[[gnu::flatten]] void copy_rows(const Problem &problem, const kvappend_args &args, const Part &part) {
    copy_runs<Copier, NonTemporal, Gathers, rows_known>(problem, args, part);
}

// The copies by a Copier. The first of each pair uses the processor's caches, and the second bypasses them if
// NonTemporal.
template <class Copier, bool NonTemporal>
constexpr Copies copies_of{{{copy_dense<Copier, false, false>, copy_dense<Copier, NonTemporal, false>},
                            {copy_dense<Copier, false, true>, copy_dense<Copier, NonTemporal, true>}},
                           {{copy_rows<Copier, false, false>, copy_rows<Copier, NonTemporal, false>},
                            {copy_rows<Copier, false, true>, copy_rows<Copier, NonTemporal, true>}}};

} // namespace kvappend
