// SPDX-License-Identifier: Apache-2.0
#include "places.hpp"

#include <cinttypes>

namespace kvappend {

Status out_of_range_error(const RotatedPlace &place, const char *expected) {
    return fail(KVAPPEND_ERROR_SKIPPED,
                "row %" PRId64 " of sample %" PRId64 " has the position %" PRId64 ", %s the %s: %s", place.sample_row,
                place.sample, reported_position(place), place.outcome == Outcome::below ? "below" : "above",
                place.beyond_tables ? "rotary tables" : "cache", expected);
}

} // namespace kvappend
