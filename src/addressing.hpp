// SPDX-License-Identifier: Apache-2.0
// The fields of a descriptor that say where rows go: how many rows a sample has, and how their places are found.
#pragma once

#include "buffers.hpp"
#include "host_device.hpp"
#include "status.hpp"

#include <cstdint>

namespace kvappend {

// What the rule of place.hpp depends on. Extents are not negative.
struct Addressing {
    std::int32_t kind;    // KVAPPEND_ADDRESSING_*
    std::int32_t lengths; // KVAPPEND_LENGTHS_*
    std::int32_t flags;
    std::int32_t skip_policy;
    // 1: cache_offsets, slots, from_slots, token_positions and positions have 64-bit elements
    std::uint32_t wide_offsets;
    std::uint32_t wide_indices; // the same for the other arrays of indices
    // The binary logarithm of the period, or -1 if the period is not a power of two. The period is the number of rows
    // after which a ring repeats, or after which the next page begins.
    std::int32_t period_log2;
    std::int64_t samples;
    std::int64_t new_rows;
    std::int64_t cache_blocks;
    std::int64_t cache_rows;
    std::int64_t sink_rows;
    std::int64_t table_entries;
    std::int64_t table_stride;
    std::int64_t reserved_slot; // negative if there is none
    std::int64_t reserved_page; // -1 if there is none
    std::int64_t offset_mask;   // 0 if all samples share one offset, else -1
    std::int64_t rotary_rows;   // positions that the rotary tables have; -1 if rows are not rotated

    std::uint32_t offset_bytes() const { return 4U << wide_offsets; }
    std::uint32_t index_bytes() const { return 4U << wide_indices; }
    // The number of offsets.
    KVAPPEND_HOST_DEVICE std::int64_t offsets() const { return offset_mask == 0 ? 1 : samples; }
    KVAPPEND_HOST_DEVICE bool has(kvappend_flag flag) const { return (flags & flag) != 0; }
    // Whether blocks are pages, which a page table or a slot names.
    KVAPPEND_HOST_DEVICE bool has_pages() const { return kind >= KVAPPEND_ADDRESSING_PAGED; }
    // Whether the rows of the source are tokens, without a batch axis.
    bool by_token() const { return kind == KVAPPEND_ADDRESSING_SLOTS || lengths >= KVAPPEND_LENGTHS_PACKED; }

    // Whether each sample has new_rows rows whose positions depend on its offset alone. With SLOTS: whether all
    // new_rows tokens have a slot, because there is no count.
    bool plain_samples() const {
        constexpr std::int32_t not_plain = KVAPPEND_FLAG_BATCH_INDEX | KVAPPEND_FLAG_LEFT_PADS |
                                           KVAPPEND_FLAG_ZERO_OFFSETS | KVAPPEND_FLAG_END_OFFSETS |
                                           KVAPPEND_FLAG_LAST_PAGE_LENGTHS | KVAPPEND_FLAG_TOKEN_COUNT;
        return lengths == KVAPPEND_LENGTHS_FIXED && (flags & not_plain) == 0;
    }
    // PAGED_CSR: whether each row is a token, and all new_rows tokens count (FlashInfer's batch_indices and positions).
    bool plain_tokens() const {
        return kind == KVAPPEND_ADDRESSING_PAGED_CSR && lengths == KVAPPEND_LENGTHS_PER_TOKEN &&
               !has(KVAPPEND_FLAG_TOKEN_COUNT);
    }
    // PAGED_CSR: whether each sample has new_rows rows, the last of which is the last one on its pages (FlashInfer's
    // last_page_len).
    bool plain_ends() const {
        return kind == KVAPPEND_ADDRESSING_PAGED_CSR && lengths == KVAPPEND_LENGTHS_FIXED &&
               has(KVAPPEND_FLAG_LAST_PAGE_LENGTHS) && !has(KVAPPEND_FLAG_LEFT_PADS);
    }
    bool plain_dense() const { return kind == KVAPPEND_ADDRESSING_DENSE && plain_samples(); }

    // Whether a run does more than copy rows.
    bool has_more_than_copies() const { return skip_policy != KVAPPEND_SKIP_SILENTLY || has(KVAPPEND_FLAG_ADVANCE); }

    // Checks those fields of the descriptor that say where rows go. The caller has checked that no extent is negative.
    static Status create(const kvappend_descriptor &descriptor, Addressing &addressing);
};

// The arrays of indices of one run. An array that the addressing does not use is NULL.
struct Indices {
    const void *offsets;
    const void *slots;
    const void *from_slots;
    const void *lengths;
    const void *left_pads;
    const void *batch_index;
    const void *page_table;
    const void *page_indptr;
    const void *token_samples;
    const void *token_positions;
    const void *token_count;
    const void *positions;

    bool operator==(const Indices &) const = default;
};

// Adds the arrays of indices that an addressing needs, and the report. The rows of a move come from slots, too.
void add_index_buffers(const Addressing &addressing, bool moves, NeededBuffers &buffers);

Indices indices_of(const NeededBuffers &buffers, const kvappend_args &args);

} // namespace kvappend
