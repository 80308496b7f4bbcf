// SPDX-License-Identifier: Apache-2.0
// What comes with a copy on the host: the policy for rows that are out of range, the report, and advanced offsets.
#include "../places.hpp"
#include "host.hpp"

namespace kvappend {

namespace {

// Wraps around, as a device does: a report that was not zero at first may hold any value.
void add(std::int64_t &counter, std::int64_t rows) {
    counter = static_cast<std::int64_t>(static_cast<std::uint64_t>(counter) + static_cast<std::uint64_t>(rows));
}

template <class Offset>
void advance_all(const Problem &problem, const kvappend_args &args) {
    const Indices indices = indices_of(problem.buffers, args);
    const Rule<> rule{problem.addressing, indices};
    auto *const offsets = static_cast<Offset *>(args.cache_offsets);
    for (std::int64_t i = 0; i < problem.addressing.offsets(); ++i) {
        offsets[i] = static_cast<Offset>(advanced_offset(rule, i, HostLoad{}));
    }
}

} // namespace

Status check_policy(const Problem &problem, const kvappend_args &args) {
    Status status = KVAPPEND_SUCCESS;
    if (problem.addressing.skip_policy == KVAPPEND_SKIP_TRAP) {
        for_each_stretch(
            problem, indices_of(problem.buffers, args), [&](const RotatedPlace &place, std::int64_t /*rows*/) {
                if (out_of_range(place.outcome)) {
                    status = out_of_range_error(place, "expected a place for every row, as descriptor.skip_policy is "
                                                       "KVAPPEND_SKIP_TRAP");
                }
                return status == KVAPPEND_SUCCESS;
            });
    }
    return status;
}

void count_rows(const Problem &problem, const kvappend_args &args, bool reset) {
    kvappend_report &report = *args.report;
    const bool written = problem.addressing.has(KVAPPEND_FLAG_COUNT_WRITTEN);
    if (reset) {
        const std::size_t struct_size = report.struct_size;
        report = {};
        report.struct_size = struct_size;
    }
    for_each_stretch(problem, indices_of(problem.buffers, args), [&](const RotatedPlace &place, std::int64_t rows) {
        switch (place.outcome) {
        case Outcome::placed:
            add(report.rows_written, written ? rows : 0);
            break;
        case Outcome::replaced:
            add(report.rows_replaced, rows);
            break;
        case Outcome::padding:
            add(report.rows_padding, rows);
            break;
        case Outcome::below:
        case Outcome::above:
            if (report.state[1] == 0) {
                report.state[1] = 1;
                report.first_sample = place.sample;
                report.first_row = place.sample_row;
                report.first_position = reported_position(place);
            }
            add(place.outcome == Outcome::below ? report.rows_below : report.rows_above, rows);
            break;
        }
        return true;
    });
}

void advance_offsets(const Problem &problem, const kvappend_args &args) {
    if (problem.addressing.wide_offsets != 0) {
        advance_all<std::int64_t>(problem, args);
    } else {
        advance_all<std::int32_t>(problem, args);
    }
}

} // namespace kvappend
