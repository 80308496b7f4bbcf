// SPDX-License-Identifier: Apache-2.0
#include "addressing.hpp"

#include <algorithm>
#include <bit>
#include <cinttypes>

namespace kvappend {

namespace {

constexpr std::int32_t known_flags = KVAPPEND_FLAG_BATCH_INDEX | KVAPPEND_FLAG_LEFT_PADS | KVAPPEND_FLAG_ZERO_OFFSETS |
                                     KVAPPEND_FLAG_RESERVED_SLOT | KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_RESET_REPORT |
                                     KVAPPEND_FLAG_COUNT_WRITTEN | KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH;

constexpr const char *kind_names[] = {"DENSE", "RING", "PAGED", "PAGED_CSR", "SLOTS"};

// Sets of addressings, for saying which a field goes with.
constexpr unsigned dense = 1U << KVAPPEND_ADDRESSING_DENSE;
constexpr unsigned ring = 1U << KVAPPEND_ADDRESSING_RING;
constexpr unsigned paged = 1U << KVAPPEND_ADDRESSING_PAGED | 1U << KVAPPEND_ADDRESSING_PAGED_CSR;
constexpr unsigned csr = 1U << KVAPPEND_ADDRESSING_PAGED_CSR;
constexpr unsigned slots = 1U << KVAPPEND_ADDRESSING_SLOTS;

std::uint32_t bytes_of_offset(std::int32_t type) {
    switch (type) {
    case KVAPPEND_OFFSET_INT64:
        return 8;
    case KVAPPEND_OFFSET_INT32:
        return 4;
    default:
        return 0;
    }
}

// Every value that its addressing has no use for is refused: it is a mistake, or meant for another addressing.
Status check_conflicts(const kvappend_descriptor &d) {
    const struct {
        const char *name;
        std::int64_t value;
        unsigned goes_with;
    } fields[] = {{"lengths", d.lengths, dense | ring | paged},
                  {"sink_rows", d.sink_rows, ring},
                  {"table_entries", d.table_entries, paged},
                  {"table_stride", d.table_stride, paged & ~csr},
                  {"flags & KVAPPEND_FLAG_BATCH_INDEX", d.flags & KVAPPEND_FLAG_BATCH_INDEX, dense | ring},
                  {"flags & KVAPPEND_FLAG_LEFT_PADS", d.flags & KVAPPEND_FLAG_LEFT_PADS, dense | ring | paged},
                  {"flags & KVAPPEND_FLAG_ZERO_OFFSETS", d.flags & KVAPPEND_FLAG_ZERO_OFFSETS, dense | ring | paged},
                  {"flags & KVAPPEND_FLAG_RESERVED_SLOT", d.flags & KVAPPEND_FLAG_RESERVED_SLOT, slots},
                  {"flags & KVAPPEND_FLAG_ADVANCE", d.flags & KVAPPEND_FLAG_ADVANCE, dense | ring | paged},
                  {"reserved_slot", d.reserved_slot, slots}};
    for (const auto &field : fields) {
        if (field.value != 0 && (field.goes_with >> d.addressing & 1U) == 0) {
            return fail(KVAPPEND_ERROR_CONFLICT,
                        "descriptor.%s is %" PRId64 " and descriptor.addressing is KVAPPEND_ADDRESSING_%s, which does "
                        "not use it: expected 0",
                        field.name, field.value, kind_names[d.addressing]);
        }
    }
    if (d.reserved_slot != 0 && (d.flags & KVAPPEND_FLAG_RESERVED_SLOT) == 0) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.reserved_slot is %" PRId64 " and descriptor.flags is %" PRId32
                    ": expected KVAPPEND_FLAG_RESERVED_SLOT in the flags, or slot 0",
                    d.reserved_slot, d.flags);
    }
    constexpr std::int32_t offsets_at_odds = KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_ZERO_OFFSETS;
    if ((d.flags & offsets_at_odds) == offsets_at_odds) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.flags is 0x%" PRIx32
                    ", with both KVAPPEND_FLAG_ADVANCE and KVAPPEND_FLAG_ZERO_OFFSETS: "
                    "expected one of them, as there are no offsets to advance",
                    static_cast<std::uint32_t>(d.flags));
    }
    if ((d.flags & (KVAPPEND_FLAG_RESET_REPORT | KVAPPEND_FLAG_COUNT_WRITTEN)) != 0 &&
        d.skip_policy != KVAPPEND_SKIP_REPORT) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.flags is 0x%" PRIx32 " and descriptor.skip_policy is %" PRId32
                    ": expected KVAPPEND_SKIP_REPORT with KVAPPEND_FLAG_RESET_REPORT or KVAPPEND_FLAG_COUNT_WRITTEN",
                    static_cast<std::uint32_t>(d.flags), d.skip_policy);
    }
    if ((d.flags & KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH) != 0 && d.backend != KVAPPEND_BACKEND_CUDA) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.flags is 0x%" PRIx32 " and descriptor.backend is KVAPPEND_BACKEND_HOST: expected "
                    "KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH with KVAPPEND_BACKEND_CUDA only",
                    static_cast<std::uint32_t>(d.flags));
    }
    if (d.reserved != 0) {
        return fail(KVAPPEND_ERROR_CONFLICT, "descriptor.reserved is %" PRId32 ": expected 0", d.reserved);
    }
    if (d.addressing == KVAPPEND_ADDRESSING_SLOTS && d.batch != 1) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.batch is %" PRId64 " and descriptor.addressing is KVAPPEND_ADDRESSING_SLOTS, which has "
                    "no samples: expected 1, and the number of tokens in new_rows",
                    d.batch);
    }
    if (((paged | slots) >> d.addressing & 1U) != 0 && d.cache_blocks == 0) {
        return fail(
            KVAPPEND_ERROR_CONFLICT,
            "descriptor.cache_blocks is 0 and descriptor.addressing is KVAPPEND_ADDRESSING_%s: expected the number "
            "of pages",
            kind_names[d.addressing]);
    }
    if (d.sink_rows > d.cache_rows) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.sink_rows is %" PRId64 " and descriptor.cache_rows is %" PRId64
                    ": expected no more rows that stay than there are",
                    d.sink_rows, d.cache_rows);
    }
    if (((dense | ring) >> d.addressing & 1U) != 0 && d.cache_blocks != 0 && d.cache_blocks < d.batch &&
        (d.flags & KVAPPEND_FLAG_BATCH_INDEX) == 0) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.cache_blocks is %" PRId64 " and descriptor.batch is %" PRId64
                    ": expected a cache for each sample, or KVAPPEND_FLAG_BATCH_INDEX",
                    d.cache_blocks, d.batch);
    }
    return KVAPPEND_SUCCESS;
}

// The arrays must have sizes that can be told: what index_buffers multiplies without looking.
Status check_sizes(const kvappend_descriptor &d, std::uint32_t offset_bytes) {
    const bool by_slots = d.addressing == KVAPPEND_ADDRESSING_SLOTS;
    const struct {
        const char *name;
        std::int64_t rows;
        std::int64_t columns;
        std::int64_t more; // elements behind those
        std::int64_t element_bytes;
    } arrays[] = {{"cache_offsets", d.batch, 1, 0, offset_bytes},
                  {"slots", by_slots ? d.new_rows : 0, 1, 0, offset_bytes},
                  {"lengths", d.lengths == KVAPPEND_LENGTHS_PACKED ? d.batch : 0, 1, 1, 4},
                  {"page_indptr", d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR ? d.batch : 0, 1, 1, 4},
                  {"page_table", d.addressing == KVAPPEND_ADDRESSING_PAGED ? std::max<std::int64_t>(d.batch - 1, 0) : 0,
                   d.table_stride == 0 ? d.table_entries : d.table_stride, d.table_entries, 4}};
    for (const auto &array : arrays) {
        std::int64_t bytes = 0;
        bool overflow = __builtin_mul_overflow(array.rows, array.columns, &bytes);
        overflow |= __builtin_add_overflow(bytes, array.more, &bytes);
        overflow |= __builtin_mul_overflow(bytes, array.element_bytes, &bytes);
        if (overflow) {
            return fail(KVAPPEND_ERROR_OVERFLOW,
                        "descriptor.batch is %" PRId64 ", new_rows is %" PRId64 " and table_entries is %" PRId64
                        ": the bytes of %s do not fit in 63 bits; expected at most 9223372036854775807",
                        d.batch, d.new_rows, d.table_entries, array.name);
        }
    }
    return KVAPPEND_SUCCESS;
}

} // namespace

Status Addressing::create(const kvappend_descriptor &d, Addressing &addressing) {
    const std::uint32_t offset_bytes = bytes_of_offset(d.offset_type);
    if (offset_bytes == 0) {
        return fail(KVAPPEND_ERROR_OFFSET_TYPE,
                    "descriptor.offset_type is %" PRId32 ": expected a KVAPPEND_OFFSET_* constant", d.offset_type);
    }
    if (d.addressing < KVAPPEND_ADDRESSING_DENSE || d.addressing > KVAPPEND_ADDRESSING_SLOTS) {
        return fail(KVAPPEND_ERROR_ADDRESSING,
                    "descriptor.addressing is %" PRId32 ": expected a KVAPPEND_ADDRESSING_* constant", d.addressing);
    }
    if (d.lengths < KVAPPEND_LENGTHS_FIXED || d.lengths > KVAPPEND_LENGTHS_PACKED) {
        return fail(KVAPPEND_ERROR_LENGTHS, "descriptor.lengths is %" PRId32 ": expected a KVAPPEND_LENGTHS_* constant",
                    d.lengths);
    }
    if ((d.flags & ~known_flags) != 0) {
        return fail(KVAPPEND_ERROR_FLAGS,
                    "descriptor.flags is 0x%" PRIx32 ": expected bits of KVAPPEND_FLAG_* constants only",
                    static_cast<std::uint32_t>(d.flags));
    }
    if (d.skip_policy < KVAPPEND_SKIP_SILENTLY || d.skip_policy > KVAPPEND_SKIP_TRAP) {
        return fail(KVAPPEND_ERROR_SKIP_POLICY,
                    "descriptor.skip_policy is %" PRId32 ": expected a KVAPPEND_SKIP_* constant", d.skip_policy);
    }
    if (const Status status = check_conflicts(d); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = check_sizes(d, offset_bytes); status != KVAPPEND_SUCCESS) {
        return status;
    }
    addressing = {};
    addressing.kind = d.addressing;
    addressing.lengths = d.lengths;
    addressing.flags = d.flags;
    addressing.skip_policy = d.skip_policy;
    addressing.offset_bytes = offset_bytes;
    addressing.batch = d.batch;
    addressing.new_rows = d.new_rows;
    const bool of_samples = ((dense | ring) >> d.addressing & 1U) != 0;
    addressing.cache_blocks = of_samples && d.cache_blocks == 0 ? d.batch : d.cache_blocks;
    addressing.cache_rows = d.cache_rows;
    addressing.sink_rows = d.sink_rows;
    addressing.table_entries = d.table_entries;
    addressing.table_stride = d.table_stride == 0 ? d.table_entries : d.table_stride;
    addressing.reserved_slot = addressing.has(KVAPPEND_FLAG_RESERVED_SLOT) ? d.reserved_slot : -1;
    const auto turn = static_cast<std::uint64_t>(std::max(d.cache_rows - d.sink_rows, std::int64_t{0}));
    addressing.turn_log2 = std::has_single_bit(turn) ? std::countr_zero(turn) : -1;
    return KVAPPEND_SUCCESS;
}

void add_index_buffers(const Addressing &a, NeededBuffers &buffers) {
    const std::int64_t wide = a.offset_bytes;
    const bool by_slots = a.kind == KVAPPEND_ADDRESSING_SLOTS;
    const bool offsets = !by_slots && !a.has(KVAPPEND_FLAG_ZERO_OFFSETS);
    const std::int64_t lengths = a.lengths == KVAPPEND_LENGTHS_PACKED       ? a.batch + 1
                                 : a.lengths == KVAPPEND_LENGTHS_PER_SAMPLE ? a.batch
                                                                            : 0;
    const bool by_csr = a.kind == KVAPPEND_ADDRESSING_PAGED_CSR;
    std::int64_t entries = 0;
    if (by_csr) {
        entries = a.table_entries;
    } else if (a.kind == KVAPPEND_ADDRESSING_PAGED && a.table_entries != 0) {
        entries = (a.batch - 1) * a.table_stride + a.table_entries;
    }
    using Name = BufferName;
    buffers.add({Name::cache_offsets, a.has(KVAPPEND_FLAG_ADVANCE), a.offset_bytes, offsets ? a.batch * wide : 0});
    buffers.add({Name::slots, false, a.offset_bytes, by_slots ? a.new_rows * wide : 0});
    buffers.add({Name::lengths, false, 4, lengths * 4});
    buffers.add({Name::left_pads, false, 4, a.has(KVAPPEND_FLAG_LEFT_PADS) ? a.batch * 4 : 0});
    buffers.add({Name::batch_index, false, 4, a.has(KVAPPEND_FLAG_BATCH_INDEX) ? a.batch * 4 : 0});
    buffers.add({Name::page_table, false, 4, entries * 4});
    buffers.add({Name::page_indptr, false, 4, by_csr ? (a.batch + 1) * 4 : 0});
    buffers.add({Name::report, true, alignof(kvappend_report),
                 a.skip_policy == KVAPPEND_SKIP_REPORT ? std::int64_t{sizeof(kvappend_report)} : 0});
}

Indices indices_of(const NeededBuffers &buffers, const kvappend_args &args) {
    const auto used = [&]<class Index>(BufferName name, const Index *array) {
        return buffers.has(name) ? array : nullptr;
    };
    using Name = BufferName;
    return {used(Name::cache_offsets, args.cache_offsets),
            used(Name::slots, args.slots),
            used(Name::lengths, args.lengths),
            used(Name::left_pads, args.left_pads),
            used(Name::batch_index, args.batch_index),
            used(Name::page_table, args.page_table),
            used(Name::page_indptr, args.page_indptr)};
}

} // namespace kvappend
