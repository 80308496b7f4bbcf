// SPDX-License-Identifier: Apache-2.0
// What surrounds a copy on the host: rows that the policy forbids, the report, and advancing the offsets.
#include "../places.hpp"
#include "host.hpp"

namespace kvappend {

namespace {

void count(const Problem &problem, const kvappend_args &args) {
    kvappend_report &report = *args.report;
    const bool written = problem.addressing.has(KVAPPEND_FLAG_COUNT_WRITTEN);
    if (problem.addressing.has(KVAPPEND_FLAG_RESET_REPORT)) {
        const std::size_t struct_size = report.struct_size;
        report = {};
        report.struct_size = struct_size;
    }
    for_each_place(problem, indices_of(problem.addressing, args), [&](const Place &place) {
        switch (place.fate) {
        case Fate::written:
            report.rows_written += written ? 1 : 0;
            break;
        case Fate::replaced:
            ++report.rows_replaced;
            break;
        case Fate::padding:
            ++report.rows_padding;
            break;
        case Fate::below:
        case Fate::above:
            if (report.rows_below + report.rows_above == 0) {
                report.first_sample = place.sample;
                report.first_row = place.sample_row;
                report.first_position = reported_position(place);
            }
            ++(place.fate == Fate::below ? report.rows_below : report.rows_above);
            break;
        }
        return true;
    });
}

template <class Offset>
void advance_offsets(const Problem &problem, const kvappend_args &args) {
    const Addressing &a = problem.addressing;
    const Indices indices = indices_of(a, args);
    auto *const offsets = static_cast<Offset *>(const_cast<void *>(args.cache_offsets));
    for (std::int64_t sample = 0; sample < a.batch; ++sample) {
        const SampleRows rows = rows_of_sample(a, indices, sample, load_on_host);
        offsets[sample] = static_cast<Offset>(advance(offsets[sample], rows.count, sizeof(Offset)));
    }
}

} // namespace

Status host_admit(const Problem &problem, const kvappend_args &args) {
    Status status = KVAPPEND_SUCCESS;
    if (problem.addressing.skip_policy == KVAPPEND_SKIP_TRAP) {
        for_each_place(problem, indices_of(problem.addressing, args), [&](const Place &place) {
            if (astray(place.fate)) {
                status = astray_failure(place, "expected a place for every row, as descriptor.skip_policy is "
                                               "KVAPPEND_SKIP_TRAP");
            }
            return status == KVAPPEND_SUCCESS;
        });
    }
    return status;
}

Status host_settle(const Problem &problem, const kvappend_args &args, CUstream_st * /*stream*/) {
    const Addressing &a = problem.addressing;
    if (a.skip_policy == KVAPPEND_SKIP_REPORT) {
        count(problem, args);
    }
    if (a.has(KVAPPEND_FLAG_ADVANCE)) {
        a.offset_bytes == 8 ? advance_offsets<std::int64_t>(problem, args)
                            : advance_offsets<std::int32_t>(problem, args);
    }
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
