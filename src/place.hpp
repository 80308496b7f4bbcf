// SPDX-License-Identifier: Apache-2.0
// Where a row goes: the one rule that every backend, the report and the validation apply. A fast path may specialise
// the rule by what is known of an addressing at compile time (struct Known). It does not restate the rule.
//
// The rule is correct for all values that arrays of indices may hold: no sum overflows, no array is read outside its
// bounds, and no place outside the cache is returned.
#pragma once

#include "addressing.hpp"
#include "host_device.hpp"

#include <cstdint>
#include <type_traits>

namespace kvappend {

enum class Outcome {
    placed,
    replaced, // by a later row of the sample that goes to the same place in a ring
    padding,
    below,
    above,
};

// Whether a row of this outcome has a position but no place.
KVAPPEND_HOST_DEVICE constexpr bool out_of_range(Outcome outcome) {
    return outcome == Outcome::below || outcome == Outcome::above;
}

struct Place {
    Outcome outcome;
    // Where the row goes in the cache, if it is placed.
    std::int64_t block;
    std::int64_t row;
    // Which row it is: the sample, the row counted from the sample's first, and its position or slot.
    std::int64_t sample;
    std::int64_t sample_row;
    std::uint64_t position;
    // The number of rows that the sample has from this one on.
    std::int64_t rows_left;

    KVAPPEND_HOST_DEVICE constexpr bool placed() const { return outcome == Outcome::placed; }
};

// The same for rows that may be rotated. It is a type of its own, because with further fields in Place some kernels
// that never rotate rows take 6 more registers (nvcc 13.0, sm_90).
struct RotatedPlace : Place {
    std::int64_t rotation = 0;  // the position by which the row is rotated
    bool rotated = false;       // The row is placed or replaced, and the tables have its position.
    bool beyond_tables = false; // This alone is why the row is not placed.
};

// What is known of an addressing when code is compiled. By default nothing is known.
struct Known {
    std::int32_t kind = -1;     // KVAPPEND_ADDRESSING_*
    bool plain_samples = false; // Addressing::plain_samples
    bool plain_tokens = false;  // Addressing::plain_tokens
    bool plain_ends = false;    // Addressing::plain_ends
    bool one_row = false;       // Addressing::new_rows is 1, and rows are not tokens
    bool power_of_two = false;  // Addressing::period_log2 is not negative
    // Extents and tables have fewer than 2^31 entries, and the caller needs only whether and where a row is placed.
    // Then a negative position or slot needs no test: as an unsigned number it is above every cache. All indices but
    // offsets, slots and positions have 32 bits.
    bool narrow = false;
    bool never_rotates = false; // Addressing::rotary_rows is negative

    // Whether nothing but the facts says which rows a sample has.
    KVAPPEND_HOST_DEVICE constexpr bool plain() const { return plain_samples || plain_tokens || plain_ends; }
};

template <Known Facts>
using PlaceBy = std::conditional_t<Facts.never_rotates, Place, RotatedPlace>;

// An addressing and its arrays of indices. Facts that are known at compile time replace tests of them.
template <Known Facts = Known{}>
struct Rule {
    const Addressing &a;
    const Indices &indices;

    KVAPPEND_HOST_DEVICE constexpr std::int32_t kind() const { return Facts.kind >= 0 ? Facts.kind : a.kind; }
    KVAPPEND_HOST_DEVICE constexpr bool by_slot() const { return kind() == KVAPPEND_ADDRESSING_SLOTS; }
    KVAPPEND_HOST_DEVICE constexpr bool has_pages() const { return kind() >= KVAPPEND_ADDRESSING_PAGED; }
    KVAPPEND_HOST_DEVICE constexpr bool packed() const {
        return !Facts.plain() && a.lengths == KVAPPEND_LENGTHS_PACKED;
    }
    KVAPPEND_HOST_DEVICE constexpr bool per_sample() const {
        return !Facts.plain() && a.lengths == KVAPPEND_LENGTHS_PER_SAMPLE;
    }
    // Whether each row has a sample and a position of its own.
    KVAPPEND_HOST_DEVICE constexpr bool by_position() const {
        return Facts.plain_tokens || (!Facts.plain() && a.lengths == KVAPPEND_LENGTHS_PER_TOKEN);
    }
    KVAPPEND_HOST_DEVICE constexpr bool has_offsets() const { return Facts.plain() || indices.offsets != nullptr; }
    // Whether an offset is where the sample ends, not where it begins.
    KVAPPEND_HOST_DEVICE constexpr bool has_ends() const {
        return Facts.plain_ends ||
               (!Facts.plain() && (a.has(KVAPPEND_FLAG_END_OFFSETS) || a.has(KVAPPEND_FLAG_LAST_PAGE_LENGTHS)));
    }
    KVAPPEND_HOST_DEVICE constexpr bool has_token_count() const {
        return !Facts.plain() && indices.token_count != nullptr;
    }
    KVAPPEND_HOST_DEVICE constexpr bool has_left_pads() const { return !Facts.plain() && indices.left_pads != nullptr; }
    KVAPPEND_HOST_DEVICE constexpr bool has_batch_index() const {
        return !Facts.plain() && indices.batch_index != nullptr;
    }
    KVAPPEND_HOST_DEVICE constexpr bool rotates() const { return !Facts.never_rotates && a.rotary_rows >= 0; }
    KVAPPEND_HOST_DEVICE constexpr bool has_positions() const { return rotates() && indices.positions != nullptr; }
    KVAPPEND_HOST_DEVICE constexpr bool has_indptr() const { return kind() == KVAPPEND_ADDRESSING_PAGED_CSR; }
    // Whether indices other than offsets, slots and positions have 64 bits.
    KVAPPEND_HOST_DEVICE constexpr std::uint32_t wide_indices() const { return Facts.narrow ? 0 : a.wide_indices; }
};

// ---- loading indices ----

// What was loaded from the arrays of indices for one sample or token. Fields of unused arrays are zero.
//
// A Load reads indices from their memory. load.number(array, wide, i) returns an element of an array of 64-bit numbers,
// if `wide` is 1, or of 32-bit numbers, as a Load::Number. Load::value(number, wide) returns its value. They are two
// functions, so that a GPU waits for a load only where the value is used. load.narrow(array, i) returns an element of
// an array of 32-bit numbers.
//
// Load::of(number) makes a Load::Number of an element of 32 bits.
template <class Load>
struct Loaded {
    using Number = typename Load::Number;

    std::int64_t sample;
    Number number; // the offset, the slot or the token's position
    Number length; // PER_SAMPLE: the length; PACKED: the sample's first row; PER_TOKEN: the token's sample
    Number end;    // PACKED: the next sample's first row; tokens: their number, token_count[0]
    Number pad;
    Number block;
    Number first_entry, last_entry; // of page_indptr
};

// Loads any index except an offset, a slot or a position.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE typename Load::Number load_index_of(const Rule<Facts> &rule, const void *array, std::int64_t i,
                                                         Load load) {
    if constexpr (Facts.narrow) {
        return Load::of(load.narrow(array, i));
    }
    return load.number(array, rule.wide_indices(), i);
}

// Loads the indices of a sample's block or pages.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE void load_blocks(const Rule<Facts> &rule, std::int64_t sample, Load load, Loaded<Load> &loaded) {
    const Indices &indices = rule.indices;
    loaded.sample = sample;
    if (rule.has_batch_index()) {
        loaded.block = load_index_of(rule, indices.batch_index, sample, load);
    }
    if (rule.has_indptr()) {
        loaded.first_entry = load_index_of(rule, indices.page_indptr, sample, load);
        loaded.last_entry = load_index_of(rule, indices.page_indptr, sample + 1, load);
    }
}

// Loads all indices that depend on the sample alone. They are loaded together, so that a GPU waits once for all of
// them.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Loaded<Load> load_sample(const Rule<Facts> &rule, std::int64_t sample, Load load) {
    const Indices &indices = rule.indices;
    Loaded<Load> loaded{};
    if (rule.has_offsets()) {
        loaded.number = load.number(indices.offsets, rule.a.wide_offsets, sample & rule.a.offset_mask);
    }
    if (rule.packed() || rule.per_sample()) {
        loaded.length = load_index_of(rule, indices.lengths, sample, load);
    }
    if (rule.packed()) {
        loaded.end = load_index_of(rule, indices.lengths, sample + 1, load);
    }
    if (rule.has_left_pads()) {
        loaded.pad = load_index_of(rule, indices.left_pads, sample, load);
    }
    load_blocks(rule, sample, load, loaded);
    return loaded;
}

// Loads the indices of a row of the source. The sample of a packed row is not known before a search for it. In a
// decoding step each sample has one row, so the row's number is taken as the sample's number, and position_of checks
// that.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Loaded<Load> load_row(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row, Load load) {
    if (rule.by_slot() || rule.by_position()) {
        const Indices &indices = rule.indices;
        Loaded<Load> loaded{};
        loaded.sample = sample;
        loaded.number = load.number(rule.by_slot() ? indices.slots : indices.token_positions, rule.a.wide_offsets, row);
        if (!rule.by_slot()) {
            loaded.length = load_index_of(rule, indices.token_samples, row, load);
        }
        if (rule.has_token_count()) {
            loaded.end = load_index_of(rule, indices.token_count, 0, load);
        }
        return loaded;
    }
    if (rule.packed()) {
        sample = row < rule.a.samples ? row : rule.a.samples - 1;
    }
    return load_sample(rule, sample, load);
}

// ---- which row it is, and its position ----

// The rows of a sample: which row of the source is the first, and how many there are.
struct SampleRows {
    std::int64_t begin;
    std::int64_t count;
};

template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE SampleRows rows_of_sample(const Rule<Facts> &rule, const Loaded<Load> &loaded) {
    const auto between = [](std::int64_t least, std::int64_t number, std::int64_t most) {
        return number < least ? least : number > most ? most : number;
    };
    const std::uint32_t wide = rule.wide_indices();
    SampleRows rows{0, rule.a.new_rows};
    if (rule.packed()) {
        rows.begin = between(0, Load::value(loaded.length, wide), rule.a.new_rows);
        rows.count = between(rows.begin, Load::value(loaded.end, wide), rule.a.new_rows) - rows.begin;
    }
    if (rule.has_left_pads()) {
        const std::int64_t pad = between(0, Load::value(loaded.pad, wide), rows.count);
        rows.begin += pad;
        rows.count -= pad;
    }
    if (rule.per_sample()) {
        rows.count = between(0, Load::value(loaded.length, wide), rows.count);
    }
    return rows;
}

// Whether the sample's block is negative, so that all its rows are padding.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE bool is_left_out(const Rule<Facts> &rule, const Loaded<Load> &loaded) {
    return rule.has_batch_index() && Load::value(loaded.block, rule.wide_indices()) < 0;
}

// The sample that a row of a packed source belongs to: the last one that begins at or before the row. A sample without
// rows begins where the next one begins. Returns -1 for a row before the first sample. The search looks at three
// samples at a time, because a GPU waits for three loads as long as for one.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE std::int64_t find_sample(const Rule<Facts> &rule, std::int64_t row, Load load) {
    const auto begin_of = [&](std::int64_t sample) {
        return Load::value(load_index_of(rule, rule.indices.lengths, sample, load), rule.wide_indices());
    };
    std::int64_t low = 0;
    std::int64_t high = rule.a.samples;
    while (low < high) {
        const std::int64_t quarter = (high - low) / 4;
        const std::int64_t third = high - 1 - quarter;
        const std::int64_t first = low + quarter;
        const std::int64_t second = first + (third - first) / 2;
        const std::int64_t begin[] = {begin_of(first), begin_of(second), begin_of(third)};
        if (begin[0] > row) {
            high = first;
        } else if (begin[1] > row) {
            low = first + 1;
            high = second;
        } else if (begin[2] > row) {
            low = second + 1;
            high = third;
        } else {
            low = third + 1;
        }
    }
    return low - 1;
}

// Finds the position of a token: its slot, or with PER_TOKEN its position in a sample.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Place position_of_token(const Rule<Facts> &rule, std::int64_t row, Loaded<Load> &loaded,
                                             Load load) {
    const Addressing &a = rule.a;
    const std::int64_t position = Load::value(loaded.number, a.wide_offsets);
    Place place{Outcome::placed, 0, 0, loaded.sample, row, static_cast<std::uint64_t>(position), 1};
    const bool is_reserved = rule.by_slot() && position == a.reserved_slot;
    if ((!Facts.narrow && position < 0) || is_reserved ||
        (rule.has_token_count() && row >= Load::value(loaded.end, rule.wide_indices()))) {
        place.outcome = Outcome::padding;
    }
    if (rule.by_slot() || !place.placed()) {
        return place;
    }
    place.sample = Load::value(loaded.length, rule.wide_indices());
    if (place.sample < 0) {
        place.outcome = Outcome::padding;
    } else if (place.sample >= a.samples) {
        place.outcome = Outcome::above;
    } else {
        load_blocks(rule, place.sample, load, loaded);
        place.outcome = is_left_out(rule, loaded) ? Outcome::padding : Outcome::placed;
    }
    return place;
}

// Finds the position of a row from the end of its sample, which the offset gives. The end is `rows` rows after the
// position. All sums are exact: each is at most 2^64 - 1.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE void position_before_end(const Rule<Facts> &rule, const Loaded<Load> &loaded, std::int64_t rows,
                                              Place &place) {
    const Addressing &a = rule.a;
    const std::int64_t offset = Load::value(loaded.number, a.wide_offsets);
    std::uint64_t up = offset > 0 ? static_cast<std::uint64_t>(offset) : 0;
    const std::uint64_t down =
        static_cast<std::uint64_t>(rows) + (offset < 0 ? -static_cast<std::uint64_t>(offset) : 0);
    if (Facts.plain_ends || (rule.has_indptr() && a.has(KVAPPEND_FLAG_LAST_PAGE_LENGTHS))) {
        const std::int64_t first = Load::value(loaded.first_entry, rule.wide_indices());
        const std::int64_t last = Load::value(loaded.last_entry, rule.wide_indices());
        const std::uint64_t all =
            first < last ? static_cast<std::uint64_t>(last) - static_cast<std::uint64_t>(first) : 0;
        const auto most = static_cast<std::uint64_t>(a.table_entries);
        const std::uint64_t pages = all < most ? all : most;
        up += (pages > 0 ? pages - 1 : 0) * static_cast<std::uint64_t>(a.cache_rows);
    }
    place.position = up - down;
    place.outcome = up < down ? Outcome::below : Outcome::placed;
}

// Finds the sample, the row in the sample and the position of a row of the source. With SLOTS the position is the slot.
// The outcome is `placed` if the position may have a place. `loaded` is what load_row loaded. It is loaded again if the
// row belongs to another sample.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Place position_of(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row,
                                       Loaded<Load> &loaded, Load load) {
    if (rule.by_slot() || rule.by_position()) {
        return position_of_token(rule, row, loaded, load);
    }
    Place place{Outcome::padding, 0, 0, sample, row, 0, 1};
    if (rule.packed()) {
        const std::uint32_t wide = rule.wide_indices();
        if (row < Load::value(loaded.length, wide) || row >= Load::value(loaded.end, wide)) {
            place.sample = find_sample(rule, row, load);
            if (place.sample < 0) {
                return place;
            }
            loaded = load_sample(rule, place.sample, load);
        }
        place.sample = loaded.sample;
    }
    if (!Facts.plain_samples) {
        const SampleRows rows = rows_of_sample(rule, loaded);
        place.sample_row = row - rows.begin;
        place.rows_left = rows.count - place.sample_row;
        if (place.sample_row < 0 || place.rows_left <= 0 || is_left_out(rule, loaded)) {
            return place;
        }
        if (rule.has_ends()) {
            position_before_end(rule, loaded, place.rows_left, place);
            return place;
        }
    } else {
        place.rows_left = rule.a.new_rows - row;
    }
    const std::int64_t offset = rule.has_offsets() ? Load::value(loaded.number, rule.a.wide_offsets) : 0;
    // The sum of two non-negative numbers fits in 64 bits without a sign. The sum of a negative and a non-negative
    // number fits in 64 bits with a sign.
    place.position = static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(place.sample_row);
    const bool is_below = !Facts.narrow && offset < 0 && static_cast<std::int64_t>(place.position) < 0;
    place.outcome = is_below ? Outcome::below : Outcome::placed;
    return place;
}

// ---- the place of a position ----

struct Quotient {
    std::uint64_t quotient;
    std::uint64_t remainder;
};

// Positions are usually small, and a GPU divides 32-bit numbers several times as fast as 64-bit numbers.
KVAPPEND_HOST_DEVICE constexpr Quotient divide(std::uint64_t a, std::uint64_t b) {
    if ((a | b) >> 32 == 0) {
        const auto narrow_a = static_cast<std::uint32_t>(a);
        const auto narrow_b = static_cast<std::uint32_t>(b);
        const std::uint32_t quotient = narrow_a / narrow_b;
        return {quotient, narrow_a - quotient * narrow_b};
    }
    const std::uint64_t quotient = a / b;
    return {quotient, a - quotient * b};
}

// Divides a number of rows by the period. The quotient is the page, or the round of a ring. The remainder is the row in
// it. The period must not be 0.
template <Known Facts>
KVAPPEND_HOST_DEVICE Quotient divide_by_period(const Rule<Facts> &rule, std::uint64_t rows) {
    const std::int32_t log2 = rule.a.period_log2;
    if (Facts.power_of_two || log2 >= 0) {
        const std::uint64_t quotient = rows >> log2;
        // The remainder of a narrow rule has 31 bits.
        return {quotient, Facts.narrow ? static_cast<std::uint32_t>(rows) & ((std::uint32_t{1} << log2) - 1)
                                       : rows - (quotient << log2)};
    }
    return divide(rows, static_cast<std::uint64_t>(rule.a.cache_rows - rule.a.sink_rows));
}

// DENSE: the row is the position. As an unsigned number a negative position is above every cache.
KVAPPEND_HOST_DEVICE constexpr bool is_in_dense(std::uint64_t position, std::int64_t cache_rows) {
    return position < static_cast<std::uint64_t>(cache_rows);
}

template <Known Facts>
KVAPPEND_HOST_DEVICE void place_in_dense(const Rule<Facts> &rule, Place &place) {
    place.row = static_cast<std::int64_t>(place.position);
    place.outcome = is_in_dense(place.position, rule.a.cache_rows) ? Outcome::placed : Outcome::above;
}

// The same for all rows of a sample at once. Row l is placed if first <= l < end, which means
// 0 <= offset + l < cache_rows. No row is placed if first >= end. The offset and the extents may have any value.
template <class Index>
struct DenseRows {
    Index first;
    Index end;
};

template <class Index>
KVAPPEND_HOST_DEVICE constexpr DenseRows<Index> dense_rows(std::int64_t offset, Index new_rows, Index cache_rows) {
    // An offset beyond these bounds places no row. Neither does an offset that equals one of them.
    const std::int64_t least = -std::int64_t{new_rows};
    const std::int64_t most = cache_rows;
    const auto clamped = static_cast<Index>(offset < least ? least : offset > most ? most : offset);
    // The room from an offset far below the cache may not fit in Index. The difference of the extents does.
    return {clamped < 0 ? -clamped : Index{0}, clamped > cache_rows - new_rows ? cache_rows - clamped : new_rows};
}

// RING: a position below sink_rows is its own row. The other positions go round the rows after the sinks. If several
// rows of one sample go to the same row, the last one is placed.
template <Known Facts>
KVAPPEND_HOST_DEVICE void place_in_ring(const Rule<Facts> &rule, Place &place) {
    const Addressing &a = rule.a;
    const auto sinks = static_cast<std::uint64_t>(a.sink_rows);
    if (place.position < sinks) {
        place_in_dense(rule, place);
        return;
    }
    const std::int64_t period = a.cache_rows - a.sink_rows;
    if (period <= 0) {
        place.outcome = Outcome::above;
        return;
    }
    place.row = a.sink_rows + static_cast<std::int64_t>(divide_by_period(rule, place.position - sinks).remainder);
    place.outcome = place.rows_left > period ? Outcome::replaced : Outcome::placed;
}

// The entry of the page table for page `nth` of a sample; -1 if there is none.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE std::int64_t find_entry(const Rule<Facts> &rule, const Loaded<Load> &loaded, std::uint64_t nth) {
    const Addressing &a = rule.a;
    if (!rule.has_indptr()) {
        return nth < static_cast<std::uint64_t>(a.table_entries)
                   ? loaded.sample * a.table_stride + static_cast<std::int64_t>(nth)
                   : -1;
    }
    const std::int64_t first = Load::value(loaded.first_entry, rule.wide_indices());
    const std::int64_t last = Load::value(loaded.last_entry, rule.wide_indices());
    if (last <= first || nth >= static_cast<std::uint64_t>(last) - static_cast<std::uint64_t>(first)) {
        return -1;
    }
    // The sum is below `last`, so it fits in 64 bits. `nth` alone may not.
    const auto entry = static_cast<std::int64_t>(static_cast<std::uint64_t>(first) + nth);
    return entry >= 0 && entry < a.table_entries ? entry : -1;
}

// PAGED, PAGED_CSR and SLOTS: the page table or the slot itself names the page.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE void place_on_page(const Rule<Facts> &rule, const Loaded<Load> &loaded, Load load, Place &place) {
    place.outcome = Outcome::above;
    if (rule.a.cache_rows <= 0) {
        return;
    }
    const Quotient page = divide_by_period(rule, place.position);
    place.row = static_cast<std::int64_t>(page.remainder);
    if (rule.by_slot()) {
        place.block = static_cast<std::int64_t>(page.quotient);
        const bool exists = page.quotient < static_cast<std::uint64_t>(rule.a.cache_blocks);
        place.outcome = exists ? Outcome::placed : Outcome::above;
        return;
    }
    const std::int64_t entry = find_entry(rule, loaded, page.quotient);
    if (entry < 0) {
        return;
    }
    const Addressing &a = rule.a;
    // One unsigned comparison refuses a negative page, too.
    if (Facts.narrow) {
        const auto block = static_cast<std::uint32_t>(load.narrow(rule.indices.page_table, entry));
        place.block = block;
        const bool exists =
            block < static_cast<std::uint32_t>(a.cache_blocks) && block != static_cast<std::uint32_t>(a.reserved_page);
        place.outcome = exists ? Outcome::placed : Outcome::above;
        return;
    }
    place.block = Load::value(load_index_of(rule, rule.indices.page_table, entry, load), rule.wide_indices());
    if (a.has(KVAPPEND_FLAG_RESERVED_PAGE) && place.block == a.reserved_page) {
        place.outcome = Outcome::padding;
        return;
    }
    const bool exists = static_cast<std::uint64_t>(place.block) < static_cast<std::uint64_t>(a.cache_blocks);
    place.outcome = exists ? Outcome::placed : Outcome::above;
}

// A row that is rotated has a place only if the rotary tables have its position. The Q of a replaced row is rotated,
// too.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE void bound_by_tables(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row, Load load,
                                          RotatedPlace &place) {
    if (!rule.rotates() || !(place.placed() || place.outcome == Outcome::replaced)) {
        return;
    }
    place.rotation = place.position > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(place.position);
    if (rule.has_positions()) {
        const bool by_token = rule.by_slot() || rule.by_position() || rule.packed();
        const std::int64_t i = by_token ? row : sample * rule.a.new_rows + row;
        place.rotation = Load::value(load.number(rule.indices.positions, rule.a.wide_offsets, i), rule.a.wide_offsets);
    }
    // As an unsigned number a negative position is beyond every table.
    place.rotated = static_cast<std::uint64_t>(place.rotation) < static_cast<std::uint64_t>(rule.a.rotary_rows);
    place.beyond_tables = place.placed() && !place.rotated;
    if (place.beyond_tables) {
        place.outcome = place.rotation < 0 ? Outcome::below : Outcome::above;
    }
}

template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Place place_in_cache(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row,
                                          Loaded<Load> loaded, Load load) {
    Place place = position_of(rule, sample, row, loaded, load);
    if (!place.placed()) {
        return place;
    }
    if (rule.has_pages()) {
        place_on_page(rule, loaded, load, place);
        return place;
    }
    place.block = rule.has_batch_index() ? Load::value(loaded.block, rule.wide_indices()) : place.sample;
    if (rule.has_batch_index() && place.block >= rule.a.cache_blocks) {
        place.outcome = Outcome::above;
    } else if (rule.kind() == KVAPPEND_ADDRESSING_DENSE) {
        place_in_dense(rule, place);
    } else {
        place_in_ring(rule, place);
    }
    return place;
}

// The place of row `row` of sample `sample` of the source, for which load_row loaded `loaded`. The source has one
// sample if its rows are tokens.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE PlaceBy<Facts> place_of(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row,
                                             Loaded<Load> loaded, Load load) {
    if constexpr (Facts.never_rotates) {
        return place_in_cache(rule, sample, row, loaded, load);
    } else {
        RotatedPlace place{place_in_cache(rule, sample, row, loaded, load)};
        bound_by_tables(rule, sample, row, load, place);
        return place;
    }
}

template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE PlaceBy<Facts> place_of(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row,
                                             Load load) {
    return place_of(rule, sample, row, load_row(rule, sample, row, load), load);
}

// ---- MOVE: from one slot to another ----

// Where a row of a move comes from, and where it goes.
struct MovedRow {
    Place from;
    Place to;

    KVAPPEND_HOST_DEVICE constexpr bool placed() const { return from.placed() && to.placed(); }
};

template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE MovedRow places_of_move(const Rule<Facts> &rule, std::int64_t row, Load load) {
    const Loaded<Load> to = load_row(rule, 0, row, load);
    Loaded<Load> from = to;
    from.number = load.number(rule.indices.from_slots, rule.a.wide_offsets, row);
    return {place_of(rule, 0, row, from, load), place_of(rule, 0, row, to, load)};
}

// The rows of a sample of a move. Without PACKED, all rows belong to one sample.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE SampleRows moves_of_sample(const Rule<Facts> &rule, std::int64_t sample, Load load) {
    Loaded<Load> loaded{};
    if (rule.packed()) {
        loaded.length = load_index_of(rule, rule.indices.lengths, sample, load);
        loaded.end = load_index_of(rule, rule.indices.lengths, sample + 1, load);
    }
    return rows_of_sample(rule, loaded);
}

// Where a row of a move goes, or why it has no place. If neither slot has a place, padding counts first, and then the
// source.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Place place_of_move(const Rule<Facts> &rule, std::int64_t row, const MovedRow &moved, Load load) {
    Place place = moved.from.placed() || moved.to.outcome == Outcome::padding ? moved.to : moved.from;
    if (rule.packed()) {
        place.sample = find_sample(rule, row, load);
        const SampleRows rows = place.sample < 0 ? SampleRows{row, 0} : moves_of_sample(rule, place.sample, load);
        place.sample_row = row - rows.begin;
        place.outcome = place.sample_row < rows.count ? place.outcome : Outcome::padding;
    }
    return place;
}

// Where a row goes, or why it has no place, for a move or for another operation.
template <bool Moves, Known Facts, class Load>
KVAPPEND_HOST_DEVICE PlaceBy<Facts> place_of_row(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row,
                                                 Load load) {
    if constexpr (Moves) {
        return PlaceBy<Facts>{place_of_move(rule, row, places_of_move(rule, row, load), load)};
    } else {
        return place_of(rule, sample, row, load);
    }
}

// ---- rows that belong together ----

// What stretch_of returns, but for the rotary tables.
template <Known Facts>
KVAPPEND_HOST_DEVICE std::int64_t stretch_in_cache(const Rule<Facts> &rule, const Place &place) {
    const Addressing &a = rule.a;
    const auto least = [](std::int64_t x, std::int64_t y) { return x < y ? x : y; };
    switch (place.outcome) {
    case Outcome::placed:
        // The rows after the sinks may be replaced.
        return least(place.rows_left,
                     (rule.has_pages() || place.row >= a.sink_rows ? a.cache_rows : a.sink_rows) - place.row);
    case Outcome::replaced:
        return place.rows_left - (a.cache_rows - a.sink_rows);
    case Outcome::below: {
        const std::uint64_t rows = -place.position; // up to position 0
        return rows < static_cast<std::uint64_t>(place.rows_left) ? static_cast<std::int64_t>(rows) : place.rows_left;
    }
    case Outcome::above:
        return rule.has_pages() ? least(place.rows_left, a.cache_rows - place.row) : place.rows_left;
    case Outcome::padding:
        break;
    }
    // A sample that is left out is padding as a whole, and so are the rows on the reserved page. Rows outside every
    // sample are taken one by one.
    if (place.sample_row < 0 || place.rows_left <= 0) {
        return 1;
    }
    return rule.has_pages() ? least(place.rows_left, a.cache_rows - place.row) : place.rows_left;
}

// The number of rows of the sample, from this one on, that share its outcome and, if they are placed, follow each other
// in its block. At least 1, if the cache has rows. Positions of placed rows follow each other, too.
template <Known Facts>
KVAPPEND_HOST_DEVICE std::int64_t stretch_of(const Rule<Facts> &rule, const PlaceBy<Facts> &place) {
    if constexpr (Facts.never_rotates) {
        return stretch_in_cache(rule, place);
    } else {
        if (!rule.rotates() || !(place.placed() || place.outcome == Outcome::replaced || place.beyond_tables)) {
            return stretch_in_cache(rule, place);
        }
        if (rule.has_positions()) {
            return 1;
        }
        // The rows that follow are in the cache, too, and a greater position than one beyond the tables is beyond them.
        Place in_cache = place;
        in_cache.outcome = place.beyond_tables ? Outcome::placed : place.outcome;
        const std::int64_t rows = stretch_in_cache(rule, in_cache);
        const std::int64_t left = place.rotated ? rule.a.rotary_rows - place.rotation : rows;
        return left < rows ? left : rows;
    }
}

// The number of rows of the source, from this one on, that share its outcome, or fewer. At least 1; it may reach beyond
// the rows of the source's sample.
template <Known Facts>
KVAPPEND_HOST_DEVICE std::int64_t rows_alike(const Rule<Facts> &rule, const PlaceBy<Facts> &by_rule) {
    const Place &place = by_rule;
    // Padding with a place in its sample is one stretch: rows of a sample that is left out, or rows on the reserved
    // page.
    if (place.outcome != Outcome::padding || (place.sample_row >= 0 && place.rows_left > 0)) {
        const std::int64_t rows = stretch_of(rule, by_rule);
        return rows > 1 ? rows : 1;
    }
    if (rule.packed()) {
        return 1; // the next row may belong to another sample
    }
    // Rows before a sample's first one, or after its last one.
    return place.sample_row < 0 && place.rows_left > -place.sample_row ? -place.sample_row : INT64_MAX;
}

// SLOTS and PER_TOKEN: the number of tokens, from a placed one on and before token `end`, whose places follow each
// other in its block. Tokens that are rotated are taken one by one.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE std::int64_t stretch_of_tokens(const Rule<Facts> &rule, const Place &place, std::int64_t row,
                                                    std::int64_t end, Load load) {
    if (rule.rotates()) {
        return 1;
    }
    const Addressing &a = rule.a;
    const bool by_slot = rule.by_slot();
    const void *const positions = by_slot ? rule.indices.slots : rule.indices.token_positions;
    const std::int64_t room = a.cache_rows - place.row; // In a ring, the rows after the sinks follow them.
    const auto position = static_cast<std::int64_t>(place.position);
    const std::int64_t after = INT64_MAX - position; // the number of greater positions; a ring may have more room
    std::int64_t most = end - row < room ? end - row : room;
    most = most > after ? after + 1 : most;
    std::int64_t rows = 1;
    const auto follows = [&] {
        return Load::value(load.number(positions, a.wide_offsets, row + rows), a.wide_offsets) == position + rows &&
               (by_slot ? position + rows != a.reserved_slot
                        : Load::value(load_index_of(rule, rule.indices.token_samples, row + rows, load),
                                      rule.wide_indices()) == place.sample);
    };
    while (rows < most && follows()) {
        ++rows;
    }
    return rows;
}

// ---- after a run ----

// A row's position, between INT64_MIN and INT64_MAX. It is negative only for a row below the cache.
KVAPPEND_HOST_DEVICE constexpr std::int64_t reported_position(const Place &place) {
    const bool is_negative = place.position > INT64_MAX;
    if (place.outcome == Outcome::below) {
        return is_negative ? static_cast<std::int64_t>(place.position) : INT64_MIN;
    }
    return is_negative ? INT64_MAX : static_cast<std::int64_t>(place.position);
}

KVAPPEND_HOST_DEVICE constexpr std::int64_t reported_position(const RotatedPlace &place) {
    return place.beyond_tables ? place.rotation : reported_position(static_cast<const Place &>(place));
}

// Offset `i` after a run, at most the greatest value of its type. It is the offset of sample i, or of all samples. A
// sample is left out if its batch index is negative, or if all its rows have negative positions. It keeps its offset,
// so that it stays left out. A shared offset does not depend on batch indices.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE std::int64_t advanced_offset(const Rule<Facts> &rule, std::int64_t i, Load load) {
    const Loaded<Load> loaded = load_sample(rule, i, load);
    const std::int64_t offset = Load::value(loaded.number, rule.a.wide_offsets);
    const std::int64_t rows = rows_of_sample(rule, loaded).count;
    const bool is_shared = rule.a.offset_mask == 0;
    if ((offset < 0 && offset + rows <= 0) || (!is_shared && is_left_out(rule, loaded))) {
        return offset;
    }
    const std::int64_t greatest = rule.a.wide_offsets != 0 ? INT64_MAX : INT32_MAX;
    return offset > greatest - rows ? greatest : offset + rows;
}

} // namespace kvappend
