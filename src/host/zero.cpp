// SPDX-License-Identifier: Apache-2.0
// Sets the skipped rows of a gather's output to zero.
#include "host.hpp"

#include <cstring>

namespace kvappend {

namespace {

void zero_rows_of(const Problem &problem, const Copy &copy, void *out, RowRange rows, std::int64_t head) {
    if (copy.empty()) {
        return;
    }
    const Strides &strides = copy.rows.strides;
    const std::int64_t first_head = head < 0 ? 0 : head;
    const std::int64_t heads_end = head < 0 ? copy.heads() : head + 1;
    for (std::int64_t i = rows.first; i < rows.end; ++i) {
        std::byte *const row =
            static_cast<std::byte *>(out) + i / problem.new_rows * strides.outer + i % problem.new_rows * strides.row;
        for (std::int64_t h = first_head; h < heads_end; ++h) {
            std::memset(row + h * strides.head, 0, static_cast<std::size_t>(copy.row_bytes()));
        }
    }
}

} // namespace

void zero_rows(const Problem &problem, const kvappend_args &args, RowRange rows, std::int64_t head) {
    zero_rows_of(problem, problem.k, args.k_out, rows, head);
    zero_rows_of(problem, problem.v, args.v_out, rows, head);
}

} // namespace kvappend
