// SPDX-License-Identifier: Apache-2.0
#include "addressing.hpp"

#include <algorithm>
#include <bit>
#include <cinttypes>
#include <span>

namespace kvappend {

namespace {

constexpr std::int32_t known_flags = KVAPPEND_FLAG_BATCH_INDEX | KVAPPEND_FLAG_LEFT_PADS | KVAPPEND_FLAG_ZERO_OFFSETS |
                                     KVAPPEND_FLAG_RESERVED_SLOT | KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_RESET_REPORT |
                                     KVAPPEND_FLAG_COUNT_WRITTEN | KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH |
                                     KVAPPEND_FLAG_SHARED_OFFSET | KVAPPEND_FLAG_END_OFFSETS |
                                     KVAPPEND_FLAG_LAST_PAGE_LENGTHS | KVAPPEND_FLAG_TOKEN_COUNT |
                                     KVAPPEND_FLAG_RESERVED_PAGE | KVAPPEND_FLAG_ZERO_SKIPPED | KVAPPEND_FLAG_POSITIONS;

constexpr const char *kind_names[] = {"DENSE", "RING", "PAGED", "PAGED_CSR", "SLOTS"};

// Sets of addressings. They say which addressings use a field.
constexpr unsigned dense = 1U << KVAPPEND_ADDRESSING_DENSE;
constexpr unsigned ring = 1U << KVAPPEND_ADDRESSING_RING;
constexpr unsigned paged = 1U << KVAPPEND_ADDRESSING_PAGED | 1U << KVAPPEND_ADDRESSING_PAGED_CSR;
constexpr unsigned csr = 1U << KVAPPEND_ADDRESSING_PAGED_CSR;
constexpr unsigned slots = 1U << KVAPPEND_ADDRESSING_SLOTS;

bool is_one_of(std::int32_t addressing, unsigned set) {
    return (set >> addressing & 1U) != 0;
}

// Refuses a field that the addressing does not use, unless the field is 0. Any other value is a mistake, or is meant
// for another addressing.
Status check_unused_fields(const kvappend_descriptor &d) {
    const bool moves_samples = d.operation == KVAPPEND_OPERATION_MOVE && d.lengths == KVAPPEND_LENGTHS_PACKED;
    const struct {
        const char *name;
        std::int64_t value;
        unsigned goes_with;
    } fields[] = {{"lengths", moves_samples ? 0 : d.lengths, dense | ring | paged},
                  {"sink_rows", d.sink_rows, ring},
                  {"table_entries", d.table_entries, paged},
                  {"table_stride", d.table_stride, paged & ~csr},
                  {"flags & KVAPPEND_FLAG_BATCH_INDEX", d.flags & KVAPPEND_FLAG_BATCH_INDEX, dense | ring},
                  {"flags & KVAPPEND_FLAG_LEFT_PADS", d.flags & KVAPPEND_FLAG_LEFT_PADS, dense | ring | paged},
                  {"flags & KVAPPEND_FLAG_ZERO_OFFSETS", d.flags & KVAPPEND_FLAG_ZERO_OFFSETS, dense | ring | paged},
                  {"flags & KVAPPEND_FLAG_RESERVED_SLOT", d.flags & KVAPPEND_FLAG_RESERVED_SLOT, slots},
                  {"flags & KVAPPEND_FLAG_ADVANCE", d.flags & KVAPPEND_FLAG_ADVANCE, dense | ring | paged},
                  {"flags & KVAPPEND_FLAG_SHARED_OFFSET", d.flags & KVAPPEND_FLAG_SHARED_OFFSET, dense | ring | paged},
                  {"flags & KVAPPEND_FLAG_END_OFFSETS", d.flags & KVAPPEND_FLAG_END_OFFSETS, dense | ring | paged},
                  {"flags & KVAPPEND_FLAG_LAST_PAGE_LENGTHS", d.flags & KVAPPEND_FLAG_LAST_PAGE_LENGTHS, csr},
                  {"flags & KVAPPEND_FLAG_RESERVED_PAGE", d.flags & KVAPPEND_FLAG_RESERVED_PAGE, paged},
                  {"reserved_slot", d.reserved_slot, slots},
                  {"reserved_page", d.reserved_page, paged}};
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

Status check_each(std::span<const Conflict> conflicts) {
    for (const Conflict &c : conflicts) {
        if (c.when) {
            return fail(KVAPPEND_ERROR_CONFLICT, "descriptor.%s is %" PRId64 " and descriptor.%s is %" PRId64 ": %s",
                        c.field, c.value, c.other, c.other_value, c.message);
        }
    }
    return KVAPPEND_SUCCESS;
}

// The name and the value of a flag.
#define FLAG(name) "flags & KVAPPEND_FLAG_" #name, KVAPPEND_FLAG_##name

// Checks the flags that change how the offsets give positions.
Status check_offset_flags(const kvappend_descriptor &d) {
    const auto has = [&d](std::int32_t flags) { return (d.flags & flags) == flags; };
    const bool zero = has(KVAPPEND_FLAG_ZERO_OFFSETS);
    const bool shared = has(KVAPPEND_FLAG_SHARED_OFFSET);
    const bool ends = has(KVAPPEND_FLAG_END_OFFSETS);
    const bool last_page = has(KVAPPEND_FLAG_LAST_PAGE_LENGTHS);
    const bool advance = has(KVAPPEND_FLAG_ADVANCE);
    const bool pads = has(KVAPPEND_FLAG_LEFT_PADS);
    const bool by_position = d.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
    constexpr const char *no_offsets =
        "expected one of them, because KVAPPEND_FLAG_ZERO_OFFSETS has no array of offsets";
    constexpr const char *at_end = "expected one of them, because the offsets already include the new rows";
    constexpr const char *no_samples = "expected no such flag with KVAPPEND_LENGTHS_PER_TOKEN, because each token "
                                       "has a position of its own";
    const Conflict conflicts[] = {
        {advance && zero, FLAG(ADVANCE), FLAG(ZERO_OFFSETS), no_offsets},
        {shared && zero, FLAG(SHARED_OFFSET), FLAG(ZERO_OFFSETS), no_offsets},
        {ends && zero, FLAG(END_OFFSETS), FLAG(ZERO_OFFSETS), no_offsets},
        {last_page && zero, FLAG(LAST_PAGE_LENGTHS), FLAG(ZERO_OFFSETS), no_offsets},
        {ends && last_page, FLAG(END_OFFSETS), FLAG(LAST_PAGE_LENGTHS),
         "expected one of them, as they give cache_offsets different meanings"},
        {ends && advance, FLAG(END_OFFSETS), FLAG(ADVANCE), at_end},
        {last_page && advance, FLAG(LAST_PAGE_LENGTHS), FLAG(ADVANCE), at_end},
        {shared && advance && pads, FLAG(SHARED_OFFSET), FLAG(LEFT_PADS),
         "expected no pads, because KVAPPEND_FLAG_ADVANCE adds one number of rows to the offset of all samples"},
        {shared && advance && d.lengths != KVAPPEND_LENGTHS_FIXED, FLAG(SHARED_OFFSET), "lengths", d.lengths,
         "expected KVAPPEND_LENGTHS_FIXED, because KVAPPEND_FLAG_ADVANCE adds one number of rows to the offset of all "
         "samples"},
        {by_position && pads, FLAG(LEFT_PADS), "lengths", d.lengths, no_samples},
        {by_position && zero, FLAG(ZERO_OFFSETS), "lengths", d.lengths, no_samples},
        {by_position && shared, FLAG(SHARED_OFFSET), "lengths", d.lengths, no_samples},
        {by_position && ends, FLAG(END_OFFSETS), "lengths", d.lengths, no_samples},
        {by_position && last_page, FLAG(LAST_PAGE_LENGTHS), "lengths", d.lengths, no_samples},
        {by_position && advance, FLAG(ADVANCE), "lengths", d.lengths, no_samples}};
    return check_each(conflicts);
}

// Refuses what has no meaning for a move: every addressing but SLOTS, and new rows.
Status check_move(const kvappend_descriptor &d) {
    if (d.operation != KVAPPEND_OPERATION_MOVE) {
        return KVAPPEND_SUCCESS;
    }
    if (d.addressing != KVAPPEND_ADDRESSING_SLOTS) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "descriptor.operation is %" PRId32 " and descriptor.addressing is KVAPPEND_ADDRESSING_%s: expected "
                    "KVAPPEND_ADDRESSING_SLOTS, because a move goes from slots to slots",
                    d.operation, kind_names[d.addressing]);
    }
    for (int axis = 0; axis < 3; ++axis) {
        const bool is_k = d.k_new_strides[axis] != 0;
        if (is_k || d.v_new_strides[axis] != 0) {
            return fail(KVAPPEND_ERROR_CONFLICT,
                        "descriptor.operation is %" PRId32 " and descriptor.%s[%d] is %" PRId64
                        ": expected 0, because a move has no new rows",
                        d.operation, is_k ? "k_new_strides" : "v_new_strides", axis,
                        is_k ? d.k_new_strides[axis] : d.v_new_strides[axis]);
        }
    }
    return KVAPPEND_SUCCESS;
}

Status check_conflicts(const kvappend_descriptor &d) {
    const auto has = [&d](std::int32_t flags) { return (d.flags & flags) != 0; };
    const bool samples_have_blocks = is_one_of(d.addressing, dense | ring);
    const bool reports = d.skip_policy == KVAPPEND_SKIP_REPORT;
    const bool gathers = d.operation == KVAPPEND_OPERATION_GATHER;
    const Conflict conflicts[] = {
        {has(KVAPPEND_FLAG_ADVANCE) && d.operation != KVAPPEND_OPERATION_APPEND, FLAG(ADVANCE), "operation",
         d.operation, "expected KVAPPEND_OPERATION_APPEND with this flag, because other operations add no rows"},
        {has(KVAPPEND_FLAG_ZERO_SKIPPED) && !gathers, FLAG(ZERO_SKIPPED), "operation", d.operation,
         "expected KVAPPEND_OPERATION_GATHER with this flag, because other operations have no output"},
        {has(KVAPPEND_FLAG_POSITIONS) && d.rotary == nullptr, FLAG(POSITIONS), "rotary", 0,
         "expected KVAPPEND_FLAG_POSITIONS with a rotation only"},
        {d.reserved_slot != 0 && !has(KVAPPEND_FLAG_RESERVED_SLOT), "reserved_slot", d.reserved_slot, "flags", d.flags,
         "expected KVAPPEND_FLAG_RESERVED_SLOT in the flags, or slot 0"},
        {d.reserved_page != 0 && !has(KVAPPEND_FLAG_RESERVED_PAGE), "reserved_page", d.reserved_page, "flags", d.flags,
         "expected KVAPPEND_FLAG_RESERVED_PAGE in the flags, or page 0"},
        {has(KVAPPEND_FLAG_TOKEN_COUNT) && d.addressing != KVAPPEND_ADDRESSING_SLOTS &&
             d.lengths != KVAPPEND_LENGTHS_PER_TOKEN,
         FLAG(TOKEN_COUNT), "lengths", d.lengths,
         "expected KVAPPEND_LENGTHS_PER_TOKEN or KVAPPEND_ADDRESSING_SLOTS with this flag"},
        {has(KVAPPEND_FLAG_RESET_REPORT | KVAPPEND_FLAG_COUNT_WRITTEN) && !reports, "flags", d.flags, "skip_policy",
         d.skip_policy, "expected KVAPPEND_SKIP_REPORT with KVAPPEND_FLAG_RESET_REPORT or KVAPPEND_FLAG_COUNT_WRITTEN"},
        {has(KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH) && d.backend != KVAPPEND_BACKEND_CUDA, "flags", d.flags, "backend",
         d.backend,
         "expected KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH with KVAPPEND_BACKEND_CUDA only, not with KVAPPEND_BACKEND_HOST"},
        {d.addressing == KVAPPEND_ADDRESSING_SLOTS && d.lengths == KVAPPEND_LENGTHS_FIXED && d.batch != 1, "batch",
         d.batch, "addressing", d.addressing,
         "expected batch 1 and the number of tokens in new_rows, because KVAPPEND_ADDRESSING_SLOTS has no samples, "
         "except in a move with KVAPPEND_LENGTHS_PACKED"},
        {is_one_of(d.addressing, paged | slots) && d.cache_blocks == 0, "cache_blocks", d.cache_blocks, "addressing",
         d.addressing, "expected the number of pages in cache_blocks"},
        {d.sink_rows > d.cache_rows, "sink_rows", d.sink_rows, "cache_rows", d.cache_rows,
         "expected no more sink rows than the cache has rows"},
        {samples_have_blocks && d.cache_blocks != 0 && d.cache_blocks < d.batch && !has(KVAPPEND_FLAG_BATCH_INDEX),
         "cache_blocks", d.cache_blocks, "batch", d.batch,
         "expected a cache for each sample, or KVAPPEND_FLAG_BATCH_INDEX"}};
    return check_each(conflicts);
}

#undef FLAG

// Checks that the sizes of the arrays fit in 63 bits, because add_index_buffers multiplies without a check.
Status check_sizes(const kvappend_descriptor &d, std::uint32_t offset_bytes, std::uint32_t index_bytes) {
    const std::int64_t tokens = d.lengths == KVAPPEND_LENGTHS_PER_TOKEN ? d.new_rows : 0;
    const bool has_offsets = d.lengths != KVAPPEND_LENGTHS_PER_TOKEN &&
                             (d.flags & (KVAPPEND_FLAG_ZERO_OFFSETS | KVAPPEND_FLAG_SHARED_OFFSET)) == 0;
    const bool rows_are_tokens = d.addressing == KVAPPEND_ADDRESSING_SLOTS || d.lengths >= KVAPPEND_LENGTHS_PACKED;
    const std::int64_t positions = (d.flags & KVAPPEND_FLAG_POSITIONS) != 0 ? d.new_rows : 0;
    const auto samples_with = [&d](kvappend_flag flag) { return (d.flags & flag) != 0 ? d.batch : 0; };
    const struct {
        const char *name;
        std::int64_t rows;
        std::int64_t columns;
        std::int64_t more; // further elements
        std::int64_t element_bytes;
    } arrays[] = {{"cache_offsets", has_offsets ? d.batch : 0, 1, 0, offset_bytes},
                  {"slots", d.addressing == KVAPPEND_ADDRESSING_SLOTS ? d.new_rows : 0, 1, 0, offset_bytes},
                  {"lengths", d.lengths == KVAPPEND_LENGTHS_PER_SAMPLE ? d.batch : 0, 1, 0, index_bytes},
                  {"lengths", d.lengths == KVAPPEND_LENGTHS_PACKED ? d.batch : 0, 1, 1, index_bytes},
                  {"left_pads", samples_with(KVAPPEND_FLAG_LEFT_PADS), 1, 0, index_bytes},
                  {"batch_index", samples_with(KVAPPEND_FLAG_BATCH_INDEX), 1, 0, index_bytes},
                  {"page_indptr", d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR ? d.batch : 0, 1, 1, index_bytes},
                  {"token_samples", tokens, 1, 0, index_bytes},
                  {"token_positions", tokens, 1, 0, offset_bytes},
                  {"positions", positions, rows_are_tokens ? 1 : d.batch, 0, offset_bytes},
                  {"page_table", d.addressing == KVAPPEND_ADDRESSING_PAGED ? std::max<std::int64_t>(d.batch - 1, 0) : 0,
                   d.table_stride == 0 ? d.table_entries : d.table_stride, d.table_entries, index_bytes}};
    for (const auto &array : arrays) {
        std::int64_t bytes = 0;
        bool overflow = __builtin_mul_overflow(array.rows, array.columns, &bytes);
        overflow |= __builtin_add_overflow(bytes, array.more, &bytes);
        overflow |= __builtin_mul_overflow(bytes, array.element_bytes, &bytes);
        if (overflow) {
            return fail(KVAPPEND_ERROR_OVERFLOW,
                        "descriptor.batch is %" PRId64 ", new_rows is %" PRId64 ", table_entries is %" PRId64
                        " and table_stride is %" PRId64
                        ": the bytes of %s do not fit in 63 bits; expected at most 9223372036854775807",
                        d.batch, d.new_rows, d.table_entries, d.table_stride, array.name);
        }
    }
    std::int64_t rows = 0;
    if ((d.flags & KVAPPEND_FLAG_LAST_PAGE_LENGTHS) != 0 &&
        __builtin_mul_overflow(d.table_entries, d.cache_rows, &rows)) {
        return fail(KVAPPEND_ERROR_OVERFLOW,
                    "descriptor.table_entries is %" PRId64 " and cache_rows is %" PRId64
                    ": the rows of all entries do not fit in 63 bits; expected at most 9223372036854775807 with "
                    "KVAPPEND_FLAG_LAST_PAGE_LENGTHS",
                    d.table_entries, d.cache_rows);
    }
    return KVAPPEND_SUCCESS;
}

Status check_enumerators(const kvappend_descriptor &d) {
    if (d.offset_type != KVAPPEND_OFFSET_INT64 && d.offset_type != KVAPPEND_OFFSET_INT32) {
        return fail(KVAPPEND_ERROR_OFFSET_TYPE,
                    "descriptor.offset_type is %" PRId32 ": expected a KVAPPEND_OFFSET_* constant", d.offset_type);
    }
    if (d.index_type != KVAPPEND_INDEX_INT32 && d.index_type != KVAPPEND_INDEX_INT64) {
        return fail(KVAPPEND_ERROR_INDEX_TYPE,
                    "descriptor.index_type is %" PRId32 ": expected a KVAPPEND_INDEX_* constant", d.index_type);
    }
    if (d.addressing < KVAPPEND_ADDRESSING_DENSE || d.addressing > KVAPPEND_ADDRESSING_SLOTS) {
        return fail(KVAPPEND_ERROR_ADDRESSING,
                    "descriptor.addressing is %" PRId32 ": expected a KVAPPEND_ADDRESSING_* constant", d.addressing);
    }
    if (d.lengths < KVAPPEND_LENGTHS_FIXED || d.lengths > KVAPPEND_LENGTHS_PER_TOKEN) {
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
    TRY(check_move(d));
    TRY(check_unused_fields(d));
    TRY(check_offset_flags(d));
    TRY(check_conflicts(d));
    addressing = {};
    addressing.wide_offsets = d.offset_type == KVAPPEND_OFFSET_INT64 ? 1 : 0;
    addressing.wide_indices = d.index_type == KVAPPEND_INDEX_INT64 ? 1 : 0;
    TRY(check_sizes(d, addressing.offset_bytes(), addressing.index_bytes()));
    addressing.kind = d.addressing;
    addressing.lengths = d.lengths;
    addressing.flags = d.flags;
    addressing.skip_policy = d.skip_policy;
    addressing.samples = d.batch;
    addressing.new_rows = d.new_rows;
    const bool samples_have_blocks = is_one_of(d.addressing, dense | ring);
    addressing.cache_blocks = samples_have_blocks && d.cache_blocks == 0 ? d.batch : d.cache_blocks;
    addressing.cache_rows = d.cache_rows;
    addressing.sink_rows = d.sink_rows;
    addressing.table_entries = d.table_entries;
    addressing.table_stride = d.table_stride == 0 ? d.table_entries : d.table_stride;
    addressing.reserved_slot = addressing.has(KVAPPEND_FLAG_RESERVED_SLOT) ? d.reserved_slot : -1;
    addressing.reserved_page = addressing.has(KVAPPEND_FLAG_RESERVED_PAGE) ? d.reserved_page : -1;
    addressing.offset_mask = addressing.has(KVAPPEND_FLAG_SHARED_OFFSET) ? 0 : -1;
    addressing.rotary_rows = d.rotary != nullptr ? d.rotary->table_rows : -1;
    const auto period = static_cast<std::uint64_t>(std::max(d.cache_rows - d.sink_rows, std::int64_t{0}));
    addressing.period_log2 = std::has_single_bit(period) ? std::countr_zero(period) : -1;
    return KVAPPEND_SUCCESS;
}

void add_index_buffers(const Addressing &a, bool moves, NeededBuffers &buffers) {
    const bool by_slots = a.kind == KVAPPEND_ADDRESSING_SLOTS;
    const bool by_position = a.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
    const bool offsets = !by_slots && !by_position && !a.has(KVAPPEND_FLAG_ZERO_OFFSETS);
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
    const auto add = [&](Name name, std::uint32_t element_bytes, std::int64_t elements) {
        const bool advances = name == Name::cache_offsets && a.has(KVAPPEND_FLAG_ADVANCE);
        buffers.add({name, advances ? BufferUse::written : BufferUse::read, element_bytes, elements * element_bytes});
    };
    add(Name::cache_offsets, a.offset_bytes(), offsets ? a.offsets() : 0);
    add(Name::slots, a.offset_bytes(), by_slots ? a.new_rows : 0);
    add(Name::from_slots, a.offset_bytes(), moves ? a.new_rows : 0);
    add(Name::lengths, a.index_bytes(), lengths);
    add(Name::left_pads, a.index_bytes(), a.has(KVAPPEND_FLAG_LEFT_PADS) ? a.samples : 0);
    add(Name::batch_index, a.index_bytes(), a.has(KVAPPEND_FLAG_BATCH_INDEX) ? a.samples : 0);
    add(Name::page_table, a.index_bytes(), entries);
    add(Name::page_indptr, a.index_bytes(), by_csr ? a.samples + 1 : 0);
    add(Name::token_samples, a.index_bytes(), by_position ? a.new_rows : 0);
    add(Name::token_positions, a.offset_bytes(), by_position ? a.new_rows : 0);
    add(Name::token_count, a.index_bytes(), a.has(KVAPPEND_FLAG_TOKEN_COUNT) ? 1 : 0);
    const std::int64_t rows = a.by_token() ? a.new_rows : a.samples * a.new_rows;
    add(Name::positions, a.offset_bytes(), a.has(KVAPPEND_FLAG_POSITIONS) ? rows : 0);
    buffers.add({Name::report, BufferUse::written, alignof(kvappend_report),
                 a.skip_policy == KVAPPEND_SKIP_REPORT ? std::int64_t{sizeof(kvappend_report)} : 0});
}

Indices indices_of(const NeededBuffers &buffers, const kvappend_args &args) {
    const auto used = [&](BufferName name, const void *array) { return buffers.has(name) ? array : nullptr; };
    using Name = BufferName;
    return {used(Name::cache_offsets, args.cache_offsets), used(Name::slots, args.slots),
            used(Name::from_slots, args.from_slots),       used(Name::lengths, args.lengths),
            used(Name::left_pads, args.left_pads),         used(Name::batch_index, args.batch_index),
            used(Name::page_table, args.page_table),       used(Name::page_indptr, args.page_indptr),
            used(Name::token_samples, args.token_samples), used(Name::token_positions, args.token_positions),
            used(Name::token_count, args.token_count),     used(Name::positions, args.positions)};
}

} // namespace kvappend
