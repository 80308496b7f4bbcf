// SPDX-License-Identifier: Apache-2.0
// The places of all rows, with indices that the host can read.
#pragma once

#include "place.hpp"
#include "problem.hpp"

#include <algorithm>

namespace kvappend {

// Loads an index once. A compiler may repeat a plain load, and another thread may write the index between the two
// loads. The value that passed a check would then not be the value that is used.
struct HostLoad {
    using Number = std::int64_t;

    Number number(const void *array, std::uint32_t wide, std::int64_t i) const {
        return wide != 0 ? __atomic_load_n(static_cast<const std::int64_t *>(array) + i, __ATOMIC_RELAXED)
                         : narrow(array, i);
    }
    std::int32_t narrow(const void *array, std::int64_t i) const {
        return __atomic_load_n(static_cast<const std::int32_t *>(array) + i, __ATOMIC_RELAXED);
    }
    static Number of(std::int32_t number) { return number; }
    static std::int64_t value(Number number, std::uint32_t /*wide*/) { return number; }
};

inline RotatedPlace place_of_row(const Problem &problem, const Indices &indices, std::int64_t sample,
                                 std::int64_t row) {
    const Rule<> rule{problem.addressing, indices};
    return problem.moves() ? place_of_row<true>(rule, sample, row, HostLoad{})
                           : place_of_row<false>(rule, sample, row, HostLoad{});
}

// Calls visit(place, rows) for all rows of the source, in order, until it returns false. `place` is that of the first
// of `rows` rows that share its outcome. If they are placed, their places follow each other.
template <class Visit>
void for_each_stretch(const Problem &problem, const Indices &indices, Visit visit) {
    for (std::int64_t sample = 0; sample < problem.source_samples; ++sample) {
        std::int64_t rows = 0;
        for (std::int64_t row = 0; row < problem.new_rows; row += rows) {
            const RotatedPlace place = place_of_row(problem, indices, sample, row);
            rows = std::min(rows_alike(Rule<>{problem.addressing, indices}, place), problem.new_rows - row);
            if (!visit(place, rows)) {
                return;
            }
        }
    }
}

// The error for a row that is out of range, if no row may be out of range.
Status out_of_range_error(const RotatedPlace &place, const char *expected);

} // namespace kvappend
