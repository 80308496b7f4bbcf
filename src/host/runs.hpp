// SPDX-License-Identifier: Apache-2.0
// Which rows belong together: the runs of a range of rows, found by the one rule of place.hpp.
#pragma once

#include "../places.hpp"

#include <algorithm>

namespace kvappend {

// Rows of the source, counted over all its samples.
struct RowRange {
    std::int64_t first;
    std::int64_t end;
};

// Rows that follow each other in the source and in one block of the cache.
struct Run {
    std::int64_t sample; // of the source
    std::int64_t row;
    std::int64_t block;
    std::int64_t cache_row;
    std::int64_t rows;
};

// The sample of a row. Most ranges begin with the first row, for which there is nothing to divide.
inline std::int64_t sample_of(std::int64_t row, std::int64_t rows_each) {
    return row == 0 ? 0 : row / rows_each;
}

// The runs of one sample, each of at most `most` rows. `source` is the sample of the source in which its rows are.
template <Known Facts, class Visit>
void for_each_run_of_sample(const Rule<Facts> &rule, std::int64_t source, std::int64_t sample, RowRange range,
                            std::int64_t most, Visit visit) {
    const Loaded<HostLoad> loaded = load_sample(rule, sample, HostLoad{});
    const SampleRows rows = rows_of_sample(rule, loaded);
    const std::int64_t end = std::min(range.end, rows.begin + rows.count);
    std::int64_t row = std::max(range.first, rows.begin);
    while (row < end) {
        const Place place = place_of(rule, sample, row, loaded, HostLoad{});
        std::int64_t stretch = std::min(stretch_of(rule, place), end - row);
        if (place.placed()) {
            stretch = std::min(stretch, most);
            visit({source, row, place.block, place.row, stretch});
        }
        row += stretch;
    }
}

template <Known Facts, class Visit>
void for_each_run_of_slots(const Rule<Facts> &rule, RowRange range, Visit visit) {
    Run run{0, 0, 0, 0, 0};
    for (std::int64_t row = range.first; row < range.end; ++row) {
        const Place place = place_of(rule, 0, row, HostLoad{});
        const bool follows =
            place.placed() && run.rows != 0 && place.block == run.block && place.row == run.cache_row + run.rows;
        if (follows) {
            ++run.rows;
            continue;
        }
        if (run.rows != 0) {
            visit(run);
        }
        run = {0, row, place.block, place.row, place.placed() ? 1 : 0};
    }
    if (run.rows != 0) {
        visit(run);
    }
}

// Calls visit(run) for the runs of the rows of a range. Only the runs of samples are held to `most` rows.
template <Known Facts, class Visit>
void for_each_run(const Rule<Facts> &rule, RowRange range, std::int64_t most, Visit visit) {
    const Addressing &a = rule.a;
    if (rule.by_slot()) {
        for_each_run_of_slots(rule, range, visit);
        return;
    }
    if (rule.packed()) {
        const std::int64_t first = find_sample(rule, range.first, HostLoad{});
        for (std::int64_t sample = std::max<std::int64_t>(first, 0);
             sample < a.samples && HostLoad{}(rule.indices.lengths + sample) < range.end; ++sample) {
            for_each_run_of_sample(rule, 0, sample, range, most, visit);
        }
        return;
    }
    for (std::int64_t sample = sample_of(range.first, a.new_rows); sample * a.new_rows < range.end; ++sample) {
        const std::int64_t before = sample * a.new_rows;
        for_each_run_of_sample(rule, sample, sample, {range.first - before, range.end - before}, most, visit);
    }
}

} // namespace kvappend
