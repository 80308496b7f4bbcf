// SPDX-License-Identifier: Apache-2.0
// The places of all rows, with indices that the host can read.
#pragma once

#include "place.hpp"
#include "problem.hpp"

namespace kvappend {

// Of a plain load a compiler may make two, and another thread may write between them: then what was found to lie inside
// the cache would not be what is used.
inline constexpr auto load_on_host = [](const auto *index) { return __atomic_load_n(index, __ATOMIC_RELAXED); };

// Calls visit(place) for every row of the source, in order, until it returns false.
template <class Visit>
void for_each_place(const Problem &problem, const Indices &indices, Visit visit) {
    for (std::int64_t sample = 0; sample < problem.batch; ++sample) {
        for (std::int64_t row = 0; row < problem.new_rows; ++row) {
            if (!visit(find_place(problem.addressing, indices, sample, row, load_on_host))) {
                return;
            }
        }
    }
}

// The failure of a row that is astray where none may be.
Status astray_failure(const Place &place, const char *expected);

} // namespace kvappend
