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

// What is known of an addressing when code is compiled. By default nothing is known.
struct Known {
    std::int32_t kind = -1;     // KVAPPEND_ADDRESSING_*
    bool plain_samples = false; // Addressing::plain_samples
    bool one_row = false;       // Addressing::new_rows is 1, and rows are not tokens
    bool power_of_two = false;  // Addressing::period_log2 is not negative
    // Extents and tables have fewer than 2^31 entries, and the caller needs only whether and where a row is placed.
    // Then a negative position or slot needs no test: as an unsigned number it is above every cache.
    bool narrow = false;
};

// An addressing and its arrays of indices. Facts that are known at compile time replace tests of them.
template <Known Facts = Known{}>
struct Rule {
    const Addressing &a;
    const Indices &indices;

    KVAPPEND_HOST_DEVICE constexpr std::int32_t kind() const { return Facts.kind >= 0 ? Facts.kind : a.kind; }
    KVAPPEND_HOST_DEVICE constexpr bool by_slot() const { return kind() == KVAPPEND_ADDRESSING_SLOTS; }
    KVAPPEND_HOST_DEVICE constexpr bool has_pages() const { return kind() >= KVAPPEND_ADDRESSING_PAGED; }
    KVAPPEND_HOST_DEVICE constexpr bool packed() const {
        return !Facts.plain_samples && a.lengths == KVAPPEND_LENGTHS_PACKED;
    }
    KVAPPEND_HOST_DEVICE constexpr bool per_sample() const {
        return !Facts.plain_samples && a.lengths == KVAPPEND_LENGTHS_PER_SAMPLE;
    }
    KVAPPEND_HOST_DEVICE constexpr bool has_offsets() const {
        return Facts.plain_samples || indices.offsets != nullptr;
    }
    KVAPPEND_HOST_DEVICE constexpr bool has_left_pads() const {
        return !Facts.plain_samples && indices.left_pads != nullptr;
    }
    KVAPPEND_HOST_DEVICE constexpr bool has_batch_index() const {
        return !Facts.plain_samples && indices.batch_index != nullptr;
    }
    KVAPPEND_HOST_DEVICE constexpr bool has_indptr() const { return kind() == KVAPPEND_ADDRESSING_PAGED_CSR; }
};

// ---- loading indices ----

// An optimisation barrier. Without it a compiler converts a number right after its load, and a GPU waits there instead
// of where the number is used.
template <class Number>
KVAPPEND_HOST_DEVICE constexpr Number opaque(Number number) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+r"(number));
#endif
    return number;
}

// What was loaded from the arrays of indices for one sample or slot. Fields of unused arrays are zero.
//
// A Load reads indices from their memory. load(pointer) returns a 32-bit index. load.number(array, wide, i) returns an
// element of cache_offsets or slots as a Load::Number, and Load::value(number, wide) returns its value.
template <class Load>
struct Loaded {
    std::int64_t sample;
    typename Load::Number number; // the offset or the slot
    std::int32_t length;          // with PACKED the sample's first row
    std::int32_t end;             // with PACKED the next sample's first row
    std::int32_t pad;
    std::int32_t block;
    std::int32_t first_entry, last_entry; // of page_indptr
};

// Loads all indices that depend on the sample alone. They are loaded together, so that a GPU waits once for all of
// them.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Loaded<Load> load_sample(const Rule<Facts> &rule, std::int64_t sample, Load load) {
    const Indices &indices = rule.indices;
    Loaded<Load> loaded{};
    loaded.sample = sample;
    if (rule.has_offsets()) {
        loaded.number = load.number(indices.offsets, rule.a.wide_offsets, sample);
    }
    if (rule.packed() || rule.per_sample()) {
        loaded.length = load(indices.lengths + sample);
    }
    if (rule.packed()) {
        loaded.end = load(indices.lengths + sample + 1);
    }
    if (rule.has_left_pads()) {
        loaded.pad = load(indices.left_pads + sample);
    }
    if (rule.has_batch_index()) {
        loaded.block = load(indices.batch_index + sample);
    }
    if (rule.has_indptr()) {
        loaded.first_entry = load(indices.page_indptr + sample);
        loaded.last_entry = load(indices.page_indptr + sample + 1);
    }
    return loaded;
}

// Loads the indices of a row of the source. The sample of a packed row is not known before a search for it. In a
// decoding step each sample has one row, so the row's number is taken as the sample's number, and position_of checks
// that.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Loaded<Load> load_row(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row, Load load) {
    if (rule.by_slot()) {
        Loaded<Load> loaded{};
        loaded.sample = sample;
        loaded.number = load.number(rule.indices.slots, rule.a.wide_offsets, row);
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
    SampleRows rows{0, rule.a.new_rows};
    if (rule.packed()) {
        const std::int64_t begin = opaque(loaded.length);
        const std::int64_t end = opaque(loaded.end);
        rows.begin = begin > 0 ? begin : 0;
        rows.count = (end < rule.a.new_rows ? end : rule.a.new_rows) - rows.begin;
    }
    if (rule.has_left_pads()) {
        const std::int64_t pad = opaque(loaded.pad);
        rows.begin += pad > 0 ? pad : 0;
        rows.count -= pad > 0 ? pad : 0;
    }
    if (rule.per_sample()) {
        const std::int64_t length = opaque(loaded.length);
        rows.count = length < rows.count ? length : rows.count;
    }
    rows.count = rows.count > 0 ? rows.count : 0;
    return rows;
}

// The sample that a row of a packed source belongs to: the last one that begins at or before the row. A sample without
// rows begins where the next one begins. Returns -1 for a row before the first sample. The search looks at three
// samples at a time, because a GPU waits for three loads as long as for one.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE std::int64_t find_sample(const Rule<Facts> &rule, std::int64_t row, Load load) {
    const std::int32_t *const begins = rule.indices.lengths;
    std::int64_t low = 0;
    std::int64_t high = rule.a.samples;
    while (low < high) {
        const std::int64_t quarter = (high - low) / 4;
        const std::int64_t third = high - 1 - quarter;
        const std::int64_t first = low + quarter;
        const std::int64_t second = first + (third - first) / 2;
        const std::int64_t begin[] = {load(begins + first), load(begins + second), load(begins + third)};
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

// Finds the sample, the row in the sample and the position of a row of the source. With SLOTS the position is the slot.
// The outcome is `placed` if the position may have a place. `loaded` is what load_row loaded. It is loaded again if the
// row belongs to another sample.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Place position_of(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row,
                                       Loaded<Load> &loaded, Load load) {
    Place place{Outcome::padding, 0, 0, sample, row, 0, 1};
    if (rule.by_slot()) {
        const std::int64_t slot = Load::value(loaded.number, rule.a.wide_offsets);
        place.position = static_cast<std::uint64_t>(slot);
        const bool is_padding = (!Facts.narrow && slot < 0) || slot == rule.a.reserved_slot;
        place.outcome = is_padding ? Outcome::padding : Outcome::placed;
        return place;
    }
    if (rule.packed()) {
        if (row < opaque(loaded.length) || row >= opaque(loaded.end)) {
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
        if (place.sample_row < 0 || place.rows_left <= 0 || (rule.has_batch_index() && opaque(loaded.block) < 0)) {
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
// 0 <= offset + l < cache_rows. No row is placed if first >= end. The offset may have any value. The sum of the two
// extents must fit in Index.
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
    const Index room = cache_rows - clamped;
    return {clamped < 0 ? -clamped : Index{0}, room < new_rows ? room : new_rows};
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
    const std::int64_t first = opaque(loaded.first_entry);
    const std::int64_t last = opaque(loaded.last_entry);
    if (last <= first || nth >= static_cast<std::uint64_t>(last - first)) {
        return -1;
    }
    const std::int64_t entry = first + static_cast<std::int64_t>(nth);
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
    const std::int32_t block = load(rule.indices.page_table + entry);
    place.block = block;
    // One unsigned comparison refuses a negative page, too.
    const bool exists = Facts.narrow
                            ? static_cast<std::uint32_t>(block) < static_cast<std::uint32_t>(rule.a.cache_blocks)
                            : static_cast<std::uint64_t>(place.block) < static_cast<std::uint64_t>(rule.a.cache_blocks);
    place.outcome = exists ? Outcome::placed : Outcome::above;
}

// The place of row `row` of sample `sample` of the source, for which load_row loaded `loaded`. The source has one
// sample if its rows are tokens.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Place place_of(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row, Loaded<Load> loaded,
                                    Load load) {
    Place place = position_of(rule, sample, row, loaded, load);
    if (!place.placed()) {
        return place;
    }
    if (rule.has_pages()) {
        place_on_page(rule, loaded, load, place);
        return place;
    }
    place.block = rule.has_batch_index() ? opaque(loaded.block) : place.sample;
    if (rule.has_batch_index() && place.block >= rule.a.cache_blocks) {
        place.outcome = Outcome::above;
    } else if (rule.kind() == KVAPPEND_ADDRESSING_DENSE) {
        place_in_dense(rule, place);
    } else {
        place_in_ring(rule, place);
    }
    return place;
}

template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE Place place_of(const Rule<Facts> &rule, std::int64_t sample, std::int64_t row, Load load) {
    return place_of(rule, sample, row, load_row(rule, sample, row, load), load);
}

// The number of rows of the sample, from this one on, that share its outcome and, if they are placed, follow each other
// in its block. At least 1, if the cache has rows.
template <Known Facts>
KVAPPEND_HOST_DEVICE std::int64_t stretch_of(const Rule<Facts> &rule, const Place &place) {
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
    // A sample that is left out is padding as a whole. Rows outside every sample are taken one by one.
    return place.sample_row >= 0 && place.rows_left > 0 ? place.rows_left : 1;
}

// SLOTS: the number of rows, from a placed one on and before row `end`, whose places follow each other in its block.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE std::int64_t stretch_of_slots(const Rule<Facts> &rule, const Place &place, std::int64_t row,
                                                   std::int64_t end, Load load) {
    const Addressing &a = rule.a;
    const std::int64_t room = a.cache_rows - place.row;
    const std::int64_t most = end - row < room ? end - row : room;
    const auto slot = static_cast<std::int64_t>(place.position);
    std::int64_t rows = 1;
    while (rows < most && slot + rows != a.reserved_slot &&
           Load::value(load.number(rule.indices.slots, a.wide_offsets, row + rows), a.wide_offsets) == slot + rows) {
        ++rows;
    }
    return rows;
}

// ---- after a run ----

// A row's position, at most INT64_MAX. It is negative only for a row below the cache.
KVAPPEND_HOST_DEVICE constexpr std::int64_t reported_position(const Place &place) {
    return place.outcome != Outcome::below && place.position > INT64_MAX ? INT64_MAX
                                                                         : static_cast<std::int64_t>(place.position);
}

// A sample's offset after a run, at most the greatest value of its type. A sample that is left out keeps its offset, so
// that it stays left out: one with a negative batch index, and one whose rows all have negative positions.
template <Known Facts, class Load>
KVAPPEND_HOST_DEVICE std::int64_t advanced_offset(const Rule<Facts> &rule, std::int64_t sample, Load load) {
    const Loaded<Load> loaded = load_sample(rule, sample, load);
    const std::int64_t offset = Load::value(loaded.number, rule.a.wide_offsets);
    const std::int64_t rows = rows_of_sample(rule, loaded).count;
    if ((offset < 0 && offset + rows <= 0) || loaded.block < 0) {
        return offset;
    }
    const std::int64_t greatest = rule.a.wide_offsets != 0 ? INT64_MAX : INT32_MAX;
    return offset > greatest - rows ? greatest : offset + rows;
}

} // namespace kvappend
