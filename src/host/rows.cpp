// SPDX-License-Identifier: Apache-2.0
// Every addressing on the calling thread: row by row, each at the place that is found for it.
#include "host.hpp"

#include "../places.hpp"

#include <cstddef>
#include <cstring>

namespace kvappend {

namespace {

// The heads of one row.
void copy_row(const TensorCopy &copy, const void *from, void *to, std::int64_t sample, std::int64_t row,
              const Place &place) {
    if (copy.empty()) {
        return;
    }
    const auto *source = static_cast<const std::byte *>(from) + sample * copy.from.batch + row * copy.from.row;
    auto *target = static_cast<std::byte *>(to) + place.block * copy.to.batch + place.row * copy.to.row;
    for (std::int64_t head = 0; head < copy.heads; ++head, source += copy.from.head, target += copy.to.head) {
        auto *piece = target;
        for (std::int64_t at = 0; at < copy.row_bytes; at += copy.piece_bytes, piece += copy.piece_stride) {
            std::memcpy(piece, source + at, static_cast<std::size_t>(copy.piece_bytes));
        }
    }
}

} // namespace

Status host_append_rows(const Problem &problem, const Target & /*target*/, const kvappend_args &args,
                        CUstream_st * /*stream*/) {
    const Indices indices = indices_of(problem.buffers, args);
    for (std::int64_t sample = 0; sample < problem.batch; ++sample) {
        for (std::int64_t row = 0; row < problem.new_rows; ++row) {
            const Place place = find_place(problem.addressing, indices, sample, row, load_on_host);
            if (place.found()) {
                copy_row(problem.k, args.k_new, args.k_cache, sample, row, place);
                copy_row(problem.v, args.v_new, args.v_cache, sample, row, place);
            }
        }
    }
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
