// SPDX-License-Identifier: Apache-2.0
// Where a row goes, beyond the plain dense append: how many rows a sample has, and how its places are found.
#pragma once

#include "buffers.hpp"
#include "failure.hpp"
#include "host_device.hpp"

#include <cstdint>

namespace kvappend {

// What find_place (place.hpp) goes by. Extents are not negative.
struct Addressing {
    std::int32_t kind;    // KVAPPEND_ADDRESSING_*
    std::int32_t lengths; // KVAPPEND_LENGTHS_*
    std::int32_t flags;
    std::int32_t skip_policy;
    std::uint32_t offset_bytes; // of an element of cache_offsets or slots
    std::int64_t batch;
    std::int64_t new_rows;
    std::int64_t cache_blocks;
    std::int64_t cache_rows;
    std::int64_t sink_rows;
    std::int64_t table_entries;
    std::int64_t table_stride;
    std::int64_t reserved_slot; // negative where there is none
    // Of the rows that positions go round in, or of those of a page; negative where they are no power of two.
    std::int32_t turn_log2;

    // Every sample has as many rows, which go one behind the other to its own cache.
    bool plain() const {
        return kind == KVAPPEND_ADDRESSING_DENSE && lengths == KVAPPEND_LENGTHS_FIXED &&
               !has(KVAPPEND_FLAG_BATCH_INDEX) && !has(KVAPPEND_FLAG_LEFT_PADS) && !has(KVAPPEND_FLAG_ZERO_OFFSETS);
    }
    KVAPPEND_HOST_DEVICE bool has(kvappend_flag flag) const { return (flags & flag) != 0; }
    // The source has tokens for rows, and no batch axis.
    bool by_token() const { return kind == KVAPPEND_ADDRESSING_SLOTS || lengths == KVAPPEND_LENGTHS_PACKED; }

    // Whether a run has more to do than to copy.
    bool settles() const { return skip_policy != KVAPPEND_SKIP_SILENTLY || has(KVAPPEND_FLAG_ADVANCE); }

    // Checks those fields of the descriptor that say where rows go. Extents have been found not to be negative.
    static Status create(const kvappend_descriptor &descriptor, Addressing &addressing);
};

// The arrays of indices of one run; NULL where the addressing does without.
struct Indices {
    const void *offsets;
    const void *slots;
    const std::int32_t *lengths;
    const std::int32_t *left_pads;
    const std::int32_t *batch_index;
    const std::int32_t *page_table;
    const std::int32_t *page_indptr;

    bool operator==(const Indices &) const = default;
};

// The arrays of indices that an addressing needs, and the report.
void add_index_buffers(const Addressing &addressing, NeededBuffers &buffers);

Indices indices_of(const NeededBuffers &buffers, const kvappend_args &args);

} // namespace kvappend
