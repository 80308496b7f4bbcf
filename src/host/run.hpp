// SPDX-License-Identifier: Apache-2.0
// Rows that are copied together, and how many they are.
#pragma once

#include "../places.hpp"
#include "../window.hpp"
#include "host.hpp"

#include <algorithm>

namespace kvappend {

// Rows that lie one behind the other in the source and in one block of the cache.
struct Run {
    std::int64_t sample; // of the source
    std::int64_t row;
    std::int64_t block;
    std::int64_t cache_row;
    std::int64_t rows;
};

// An offset or a slot.
inline std::int64_t wide_index(const Addressing &a, const void *array, std::int64_t i) {
    return a.offset_bytes == 8 ? load_on_host(static_cast<const std::int64_t *>(array) + i)
                               : load_on_host(static_cast<const std::int32_t *>(array) + i);
}

inline const std::byte *source_of(const TensorCopy &copy, const void *source, const Run &run) {
    return static_cast<const std::byte *>(source) + run.sample * copy.from.batch + run.row * copy.from.row;
}

inline std::byte *target_of(const TensorCopy &copy, void *cache, const Run &run) {
    return static_cast<std::byte *>(cache) + run.block * copy.to.batch + run.cache_row * copy.to.row;
}

// Rows of K and of V that can be copied in one loop.
inline bool paired(const TensorCopy &k, const TensorCopy &v) {
    return k.heads == v.heads && k.whole_rows() && v.whole_rows() && !k.empty() && !v.empty();
}

inline bool alike(const TensorCopy &k, const TensorCopy &v) {
    return paired(k, v) && k.row_bytes == v.row_bytes;
}

// K and V of a token may lie on one page of memory, as in a fused projection, which need not be found twice when they
// are copied soon one after the other.
inline std::int64_t rows_at_once(const Problem &problem, RowRange range) {
    constexpr std::int64_t few = 8;
    const bool runs = problem.k.adjacent_rows && problem.v.adjacent_rows;
    return runs || problem.new_rows <= few ? range.end - range.first : few;
}

// How many rows of the sample, from this one on, share its fate and, where they are written, lie one behind the other.
inline std::int64_t stretch_of(const Addressing &a, const SampleRows &rows, const Place &place) {
    const std::int64_t rest = rows.count - place.sample_row;
    const bool pages = a.kind >= KVAPPEND_ADDRESSING_PAGED;
    switch (place.fate) {
    case Fate::written:
        // The rows behind the sinks may be replaced.
        return std::min(rest, (pages || place.row >= a.sink_rows ? a.cache_rows : a.sink_rows) - place.row);
    case Fate::replaced:
        return rest - (a.cache_rows - a.sink_rows);
    case Fate::below:
        return static_cast<std::int64_t>(std::min(static_cast<std::uint64_t>(rest), -place.position));
    case Fate::above:
        return pages ? std::min(rest, a.cache_rows - place.row) : rest;
    case Fate::padding:
        break;
    }
    return rest;
}

} // namespace kvappend
