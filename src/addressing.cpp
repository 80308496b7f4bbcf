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

// Sets of addressings. They say which addressings use a field.
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

bool is_one_of(std::int32_t addressing, unsigned set) {
    return (set >> addressing & 1U) != 0;
}

// Refuses a field that the addressing does not use, unless the field is 0. Any other value is a mistake, or is meant
// for another addressing.
Status check_unused_fields(const kvappend_descriptor &d) {
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
        if (field.value != 0 && !is_one_of(d.addressing, field.goes_with)) {
            return fail(KVAPPEND_ERROR_CONFLICT,
                        "descriptor.%s is %" PRId64 " and descriptor.addressing is KVAPPEND_ADDRESSING_%s, which does "
                        "not use it: expected 0",
                        field.name, field.value, kind_names[d.addressing]);
        }
    }
    return KVAPPEND_SUCCESS;
}

// Two fields whose values exclude each other, and the end of the message, which follows the values.
struct Conflict {
    bool when;
    const char *field;
    std::int64_t value;
    const char *other;
    std::int64_t other_value;
    const char *message;
};

Status check_conflicts(const kvappend_descriptor &d) {
    if (d.reserved != 0) {
        return fail(KVAPPEND_ERROR_CONFLICT, "descriptor.reserved is %" PRId32 ": expected 0", d.reserved);
    }
    const auto has = [&d](std::int32_t flags) { return (d.flags & flags) != 0; };
    const bool samples_have_blocks = is_one_of(d.addressing, dense | ring);
    const bool reports = d.skip_policy == KVAPPEND_SKIP_REPORT;
    const Conflict conflicts[] = {
        {d.reserved_slot != 0 && !has(KVAPPEND_FLAG_RESERVED_SLOT), "reserved_slot", d.reserved_slot, "flags", d.flags,
         "expected KVAPPEND_FLAG_RESERVED_SLOT in the flags, or slot 0"},
        {has(KVAPPEND_FLAG_ADVANCE) && has(KVAPPEND_FLAG_ZERO_OFFSETS), "flags & KVAPPEND_FLAG_ADVANCE",
         KVAPPEND_FLAG_ADVANCE, "flags & KVAPPEND_FLAG_ZERO_OFFSETS", KVAPPEND_FLAG_ZERO_OFFSETS,
         "expected one of them, as there are no offsets to advance"},
        {has(KVAPPEND_FLAG_RESET_REPORT | KVAPPEND_FLAG_COUNT_WRITTEN) && !reports, "flags", d.flags, "skip_policy",
         d.skip_policy, "expected KVAPPEND_SKIP_REPORT with KVAPPEND_FLAG_RESET_REPORT or KVAPPEND_FLAG_COUNT_WRITTEN"},
        {has(KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH) && d.backend != KVAPPEND_BACKEND_CUDA, "flags", d.flags, "backend",
         d.backend,
         "expected KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH with KVAPPEND_BACKEND_CUDA only, not with KVAPPEND_BACKEND_HOST"},
        {d.addressing == KVAPPEND_ADDRESSING_SLOTS && d.batch != 1, "batch", d.batch, "addressing", d.addressing,
         "expected batch 1, as KVAPPEND_ADDRESSING_SLOTS has no samples, and the number of tokens in new_rows"},
        {is_one_of(d.addressing, paged | slots) && d.cache_blocks == 0, "cache_blocks", d.cache_blocks, "addressing",
         d.addressing, "expected the number of pages in cache_blocks"},
        {d.sink_rows > d.cache_rows, "sink_rows", d.sink_rows, "cache_rows", d.cache_rows,
         "expected no more sink rows than the cache has rows"},
        {samples_have_blocks && d.cache_blocks != 0 && d.cache_blocks < d.batch && !has(KVAPPEND_FLAG_BATCH_INDEX),
         "cache_blocks", d.cache_blocks, "batch", d.batch,
         "expected a cache for each sample, or KVAPPEND_FLAG_BATCH_INDEX"}};
    for (const Conflict &c : conflicts) {
        if (c.when) {
            return fail(KVAPPEND_ERROR_CONFLICT, "descriptor.%s is %" PRId64 " and descriptor.%s is %" PRId64 ": %s",
                        c.field, c.value, c.other, c.other_value, c.message);
        }
    }
    return KVAPPEND_SUCCESS;
}

// The sizes of the arrays must fit in 63 bits: add_index_buffers multiplies without a check.
Status check_sizes(const kvappend_descriptor &d, std::uint32_t offset_bytes) {
    const bool by_slots = d.addressing == KVAPPEND_ADDRESSING_SLOTS;
    const struct {
        const char *name;
        std::int64_t rows;
        std::int64_t columns;
        std::int64_t more; // further elements
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

Status check_enumerators(const kvappend_descriptor &d) {
    if (bytes_of_offset(d.offset_type) == 0) {
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
    return KVAPPEND_SUCCESS;
}

} // namespace

Status Addressing::create(const kvappend_descriptor &d, Addressing &addressing) {
    TRY(check_enumerators(d));
    TRY(check_unused_fields(d));
    TRY(check_conflicts(d));
    const std::uint32_t offset_bytes = bytes_of_offset(d.offset_type);
    TRY(check_sizes(d, offset_bytes));
    addressing = {};
    addressing.kind = d.addressing;
    addressing.lengths = d.lengths;
    addressing.flags = d.flags;
    addressing.skip_policy = d.skip_policy;
    addressing.wide_offsets = offset_bytes == 8 ? 1 : 0;
    addressing.samples = d.batch;
    addressing.new_rows = d.new_rows;
    const bool samples_have_blocks = is_one_of(d.addressing, dense | ring);
    addressing.cache_blocks = samples_have_blocks && d.cache_blocks == 0 ? d.batch : d.cache_blocks;
    addressing.cache_rows = d.cache_rows;
    addressing.sink_rows = d.sink_rows;
    addressing.table_entries = d.table_entries;
    addressing.table_stride = d.table_stride == 0 ? d.table_entries : d.table_stride;
    addressing.reserved_slot = addressing.has(KVAPPEND_FLAG_RESERVED_SLOT) ? d.reserved_slot : -1;
    const auto period = static_cast<std::uint64_t>(std::max(d.cache_rows - d.sink_rows, std::int64_t{0}));
    addressing.period_log2 = std::has_single_bit(period) ? std::countr_zero(period) : -1;
    return KVAPPEND_SUCCESS;
}

void add_index_buffers(const Addressing &a, NeededBuffers &buffers) {
    const std::uint32_t bytes = a.offset_bytes();
    const std::int64_t wide = bytes;
    const bool by_slots = a.kind == KVAPPEND_ADDRESSING_SLOTS;
    const bool offsets = !by_slots && !a.has(KVAPPEND_FLAG_ZERO_OFFSETS);
    const std::int64_t lengths = a.lengths == KVAPPEND_LENGTHS_PACKED       ? a.samples + 1
                                 : a.lengths == KVAPPEND_LENGTHS_PER_SAMPLE ? a.samples
                                                                            : 0;
    const bool by_csr = a.kind == KVAPPEND_ADDRESSING_PAGED_CSR;
    std::int64_t entries = 0;
    if (by_csr) {
        entries = a.table_entries;
    } else if (a.kind == KVAPPEND_ADDRESSING_PAGED && a.table_entries != 0) {
        entries = (a.samples - 1) * a.table_stride + a.table_entries;
    }
    using Name = BufferName;
    buffers.add({Name::cache_offsets, a.has(KVAPPEND_FLAG_ADVANCE), bytes, offsets ? a.samples * wide : 0});
    buffers.add({Name::slots, false, bytes, by_slots ? a.new_rows * wide : 0});
    buffers.add({Name::lengths, false, 4, lengths * 4});
    buffers.add({Name::left_pads, false, 4, a.has(KVAPPEND_FLAG_LEFT_PADS) ? a.samples * 4 : 0});
    buffers.add({Name::batch_index, false, 4, a.has(KVAPPEND_FLAG_BATCH_INDEX) ? a.samples * 4 : 0});
    buffers.add({Name::page_table, false, 4, entries * 4});
    buffers.add({Name::page_indptr, false, 4, by_csr ? (a.samples + 1) * 4 : 0});
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
