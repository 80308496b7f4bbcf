// SPDX-License-Identifier: Apache-2.0
// Which rows belong together: the runs of a range of rows, found by the one rule of place.hpp.
#pragma once

#include "../places.hpp"
#include "host.hpp"
#include "move.hpp"

#include <algorithm>

namespace kvappend {

// Rows that follow each other in the source and in one block of the cache.
struct Run {
    RowIndex source;
    RowIndex cache;
    std::int64_t rows;
    std::int64_t rotation = 0; // the position of the first row; those of the others follow each other
    bool replaced = false;     // Later rows replace those of the run. Only Q is rotated.
};

// Calls visit with a run that begins at a row of the source, unless nothing is done for its rows.
template <class Visit>
void visit_rows(const Place &place, RowIndex source, std::int64_t rows, Visit visit) {
    if (place.placed()) {
        visit(Run{source, {place.block, place.row}, rows});
    }
}
template <class Visit>
void visit_rows(const RotatedPlace &place, RowIndex source, std::int64_t rows, Visit visit) {
    if (place.placed() || place.rotated) {
        visit(Run{source, {place.block, place.row}, rows, place.rotation, !place.placed()});
    }
}

// DENSE: those rows of a sample that are placed are one run.
template <Known Facts, class Visit>
void for_run_of_dense_sample(const Rule<Facts> &rule, std::int64_t sample, RowRange range, Visit visit) {
    const Loaded<HostLoad> loaded = load_sample(rule, sample, HostLoad{});
    const std::int64_t offset = HostLoad::value(loaded.number, rule.a.wide_offsets);
    const DenseRows<std::int64_t> rows = dense_rows(offset, rule.a.new_rows, rule.a.cache_rows);
    const std::int64_t first = std::max(rows.first, range.first);
    const std::int64_t end = std::min(rows.end, range.end);
    if (first < end) {
        visit({{sample, first}, {sample, offset + first}, end - first});
    }
}

// `source` is the sample of the source in which the rows of the sample are.
template <Known Facts, class Visit>
void for_each_run_of_sample(const Rule<Facts> &rule, std::int64_t source, std::int64_t sample, RowRange range,
                            Visit visit) {
    if constexpr (Facts.kind == KVAPPEND_ADDRESSING_DENSE && Facts.plain_samples) {
        return for_run_of_dense_sample(rule, sample, range, visit);
    }
    const Loaded<HostLoad> loaded = load_sample(rule, sample, HostLoad{});
    const SampleRows rows = rows_of_sample(rule, loaded);
    const std::int64_t end = std::min(range.end, rows.begin + rows.count);
    std::int64_t row = std::max(range.first, rows.begin);
    while (row < end) {
        const PlaceBy<Facts> place = place_of(rule, sample, row, loaded, HostLoad{});
        const std::int64_t stretch = std::min(stretch_of(rule, place), end - row);
        visit_rows(place, {source, row}, stretch, visit);
        row += stretch;
    }
}

// Each sample has one row.
template <Known Facts, class Visit>
void for_each_single_row(const Rule<Facts> &rule, RowRange range, Visit visit) {
    for (std::int64_t sample = range.first; sample < range.end; ++sample) {
        const PlaceBy<Facts> place = place_of(rule, sample, 0, HostLoad{});
        visit_rows(place, {sample, 0}, 1, visit);
    }
}

template <Known Facts>
inline constexpr Known slots_known{.kind = KVAPPEND_ADDRESSING_SLOTS, .never_rotates = Facts.never_rotates};

// SLOTS and PER_TOKEN.
template <Known Facts, class Visit>
void for_each_run_of_tokens(const Rule<Facts> &rule, RowRange range, Visit visit) {
    if (rule.has_token_count()) {
        const std::uint32_t wide = rule.a.wide_indices;
        range.end = std::min(range.end, HostLoad::value(HostLoad{}.number(rule.indices.token_count, wide, 0), wide));
    }
    std::int64_t rows = 1;
    for (std::int64_t row = range.first; row < range.end; row += rows, rows = 1) {
        const PlaceBy<Facts> place = place_of(rule, 0, row, HostLoad{});
        if (place.placed()) {
            rows = stretch_of_tokens(rule, place, row, range.end, HostLoad{});
        }
        visit_rows(place, {0, row}, rows, visit);
    }
}

// Calls visit(run) for the runs of the rows of a range.
template <Known Facts, class Visit>
void for_each_run(const Rule<Facts> &rule, RowRange range, Visit visit) {
    const Addressing &a = rule.a;
    if constexpr (Facts.one_row) {
        return for_each_single_row(rule, range, visit);
    }
    if (rule.by_slot()) {
        for_each_run_of_tokens(Rule<slots_known<Facts>>{a, rule.indices}, range, visit);
        return;
    }
    if (rule.by_position()) {
        for_each_run_of_tokens(rule, range, visit);
        return;
    }
    if (rule.packed()) {
        const auto begin_of = [&](std::int64_t sample) {
            return HostLoad{}.number(rule.indices.lengths, a.wide_indices, sample);
        };
        const std::int64_t first = find_sample(rule, range.first, HostLoad{});
        for (std::int64_t sample = std::max<std::int64_t>(first, 0); sample < a.samples && begin_of(sample) < range.end;
             ++sample) {
            for_each_run_of_sample(rule, 0, sample, range, visit);
            // A row belongs to one sample, even if lengths decrease, because Q in place must not be rotated twice.
            range.first = std::max(range.first, begin_of(sample + 1));
        }
        return;
    }
    // Most ranges begin with row 0, which needs no division.
    const std::int64_t first_sample = range.first == 0 ? 0 : range.first / a.new_rows;
    for (std::int64_t sample = first_sample; sample * a.new_rows < range.end; ++sample) {
        const std::int64_t before = sample * a.new_rows;
        for_each_run_of_sample(rule, sample, sample, {range.first - before, range.end - before}, visit);
    }
}

// As for_each_run. It also calls skip(rows) for the rows before, between and after the runs.
template <Known Facts, class Visit, class Skip>
void for_each_run_and_gap(const Rule<Facts> &rule, RowRange range, Visit visit, Skip skip) {
    std::int64_t next = range.first;
    for_each_run(rule, range, [&](const Run &run) {
        const std::int64_t first = run.source.outer * rule.a.new_rows + run.source.row;
        if (next < first) {
            skip(RowRange{next, first});
        }
        next = first + run.rows;
        visit(run);
    });
    if (next < range.end) {
        skip(RowRange{next, range.end});
    }
}

} // namespace kvappend
