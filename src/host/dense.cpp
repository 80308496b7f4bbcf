// SPDX-License-Identifier: Apache-2.0
// The plain dense append on the calling thread: the rows of a sample and head lie one behind the other.
#include "host.hpp"

#include "../window.hpp"

#include <cstddef>
#include <cstring>

namespace kvappend {

namespace {

std::int64_t offset_of(const Problem &problem, const void *offsets, std::int64_t sample) {
    return problem.addressing.offset_bytes == 8 ? static_cast<const std::int64_t *>(offsets)[sample]
                                                : static_cast<const std::int32_t *>(offsets)[sample];
}

// Copies the rows in the window, of one sample, to the places from row first + offset on.
void copy_sample(const TensorCopy &copy, const std::byte *from, std::byte *to, Window window, std::int64_t offset) {
    const std::int64_t rows = window.end - window.first;
    from += window.first * copy.from.row;
    to += (window.first + offset) * copy.to.row;
    for (std::int64_t head = 0; head < copy.heads; ++head, from += copy.from.head, to += copy.to.head) {
        if (copy.adjacent_rows) {
            std::memcpy(to, from, static_cast<std::size_t>(rows * copy.row_bytes));
            continue;
        }
        for (std::int64_t row = 0; row < rows; ++row) {
            std::memcpy(to + row * copy.to.row, from + row * copy.from.row, static_cast<std::size_t>(copy.row_bytes));
        }
    }
}

void copy_tensor(const Problem &problem, const TensorCopy &copy, const void *from, void *to, const void *offsets) {
    if (copy.empty()) {
        return;
    }
    for (std::int64_t sample = 0; sample < problem.batch; ++sample) {
        const std::int64_t offset = offset_of(problem, offsets, sample);
        const Window window = window_of(offset, problem.new_rows, problem.addressing.cache_rows);
        if (window.first < window.end) {
            copy_sample(copy, static_cast<const std::byte *>(from) + sample * copy.from.batch,
                        static_cast<std::byte *>(to) + sample * copy.to.batch, window, offset);
        }
    }
}

} // namespace

Status host_append_dense(const Problem &problem, const Target & /*target*/, const kvappend_args &args,
                         CUstream_st * /*stream*/) {
    copy_tensor(problem, problem.k, args.k_new, args.k_cache, args.cache_offsets);
    copy_tensor(problem, problem.v, args.v_new, args.v_cache, args.cache_offsets);
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
