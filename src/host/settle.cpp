// SPDX-License-Identifier: Apache-2.0
// What surrounds a copy on the host: rows that the policy forbids, the report, and advancing the offsets.
#include "../places.hpp"
#include "host.hpp"

namespace kvappend {

namespace {

// Wraps around, as a device does: a report that was not zero at first may hold anything.
void add(std::int64_t &counter, std::uint64_t rows) {
    counter = static_cast<std::int64_t>(static_cast<std::uint64_t>(counter) + rows);
}

void count(const Problem &problem, const kvappend_args &args) {
    kvappend_report &report = *args.report;
    const bool written = problem.addressing.has(KVAPPEND_FLAG_COUNT_WRITTEN);
    if (problem.addressing.has(KVAPPEND_FLAG_RESET_REPORT)) {
        const std::size_t struct_size = report.struct_size;
        report = {};
        report.struct_size = struct_size;
    }
    for_each_place(problem, indices_of(problem.buffers, args), [&](const Place &place) {
        switch (place.fate) {
        case Fate::written:
            add(report.rows_written, written ? 1 : 0);
            break;
        case Fate::replaced:
            add(report.rows_replaced, 1);
            break;
        case Fate::padding:
            add(report.rows_padding, 1);
            break;
        case Fate::below:
        case Fate::above:
            if (report.state[1] == 0) {
                report.state[1] = 1;
                report.first_sample = place.sample;
                report.first_row = place.sample_row;
                report.first_position = reported_position(place);
            }
            add(place.fate == Fate::below ? report.rows_below : report.rows_above, 1);
            break;
        }
        return true;
    });
}

template <class Offset>
void advance_offsets(const Problem &problem, const kvappend_args &args) {
    const Addressing &a = problem.addressing;
    const Indices indices = indices_of(problem.buffers, args);
    auto *const offsets = static_cast<Offset *>(const_cast<void *>(args.cache_offsets));
    for (std::int64_t sample = 0; sample < a.batch; ++sample) {
        const Offset offset = load_on_host(offsets + sample);
        offsets[sample] = static_cast<Offset>(advanced_offset(a, indices, sample, offset, load_on_host));
    }
}

} // namespace

Status host_admit(const Problem &problem, const kvappend_args &args) {
    Status status = KVAPPEND_SUCCESS;
    if (problem.addressing.skip_policy == KVAPPEND_SKIP_TRAP) {
        for_each_place(problem, indices_of(problem.buffers, args), [&](const Place &place) {
            if (astray(place.fate)) {
                status = astray_failure(place, "expected a place for every row, as descriptor.skip_policy is "
                                               "KVAPPEND_SKIP_TRAP");
            }
            return status == KVAPPEND_SUCCESS;
        });
    }
    return status;
}

Status host_count(const Problem &problem, const kvappend_args &args, CUstream_st * /*stream*/) {
    if (problem.addressing.skip_policy == KVAPPEND_SKIP_REPORT) {
        count(problem, args);
    }
    return KVAPPEND_SUCCESS;
}

Status host_advance(const Problem &problem, const kvappend_args &args, CUstream_st * /*stream*/) {
    const Addressing &a = problem.addressing;
    if (a.has(KVAPPEND_FLAG_ADVANCE)) {
        a.offset_bytes == 8 ? advance_offsets<std::int64_t>(problem, args)
                            : advance_offsets<std::int32_t>(problem, args);
    }
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
