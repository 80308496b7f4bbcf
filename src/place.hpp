// SPDX-License-Identifier: Apache-2.0
// Where one row goes: the one rule that every backend applies to rows that are not placed densely.
#pragma once

#include "addressing.hpp"
#include "host_device.hpp"

#include <cstdint>

namespace kvappend {

enum class Fate {
    written,
    replaced, // by a later row of the sample that a ring brings to the same place
    padding,
    below,
    above,
};

// What becomes of a row, and the place in the cache of one that is written.
struct Place {
    Fate fate;
    std::int64_t block;
    std::int64_t row;
    // Which row it was: of which sample, counted from the sample's first, and its position or slot.
    std::int64_t sample;
    std::int64_t sample_row;
    std::uint64_t position;

    KVAPPEND_HOST_DEVICE constexpr bool found() const { return fate == Fate::written; }
};

struct Quotient {
    std::uint64_t quotient;
    std::uint64_t remainder;
};

// Positions are small as a rule, and a GPU divides 32 bits several times as fast.
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

// The same where b is 1 << log2, or where log2 is negative any number.
KVAPPEND_HOST_DEVICE constexpr Quotient divide(std::uint64_t a, std::uint64_t b, std::int32_t log2) {
    if (log2 < 0) {
        return divide(a, b);
    }
    const std::uint64_t quotient = a >> log2;
    return {quotient, a - (quotient << log2)};
}

// The rows of a sample: which row of the source is the first, and how many there are.
struct SampleRows {
    std::int64_t begin;
    std::int64_t count;
};

// Keeps what is made of a loaded number behind this point. A compiler may otherwise convert it where it was loaded, and
// a GPU waits there.
template <class Number>
KVAPPEND_HOST_DEVICE constexpr Number late(Number number) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+r"(number));
#endif
    return number;
}

// What the arrays of indices say of one sample or slot, as it was loaded. Zero where the addressing does without.
struct Loaded {
    std::int64_t sample;
    std::int64_t wide_number; // the offset, or the slot; of 64 bits
    std::int32_t number;      // the same, of 32 bits
    std::int32_t length;      // with PACKED the sample's first row
    std::int32_t end;         // with PACKED the next sample's first row
    std::int32_t pad;
    std::int32_t block;
    std::int32_t first_entry, last_entry;
};

// `load(pointer)` reads an index from the memory in which the indices are.
template <class Load>
KVAPPEND_HOST_DEVICE void load_number(const Addressing &a, const void *array, std::int64_t i, Load load, Loaded &at) {
    if (a.offset_bytes == 8) {
        at.wide_number = load(static_cast<const long long *>(array) + i);
    } else {
        at.number = load(static_cast<const std::int32_t *>(array) + i);
    }
}

KVAPPEND_HOST_DEVICE inline std::int64_t number_of(const Addressing &a, const Loaded &at) {
    return a.offset_bytes == 8 ? at.wide_number : std::int64_t{late(at.number)};
}

// All that depends on nothing but the sample, so that a GPU waits for it once.
template <class Load>
KVAPPEND_HOST_DEVICE Loaded load_sample(const Addressing &a, const Indices &indices, std::int64_t sample, Load load) {
    Loaded at{};
    at.sample = sample;
    if (indices.offsets != nullptr) {
        load_number(a, indices.offsets, sample, load, at);
    }
    if (indices.lengths != nullptr) {
        at.length = load(indices.lengths + sample);
        if (a.lengths == KVAPPEND_LENGTHS_PACKED) {
            at.end = load(indices.lengths + sample + 1);
        }
    }
    if (indices.left_pads != nullptr) {
        at.pad = load(indices.left_pads + sample);
    }
    if (indices.batch_index != nullptr) {
        at.block = load(indices.batch_index + sample);
    }
    if (indices.page_indptr != nullptr) {
        at.first_entry = load(indices.page_indptr + sample);
        at.last_entry = load(indices.page_indptr + sample + 1);
    }
    return at;
}

// The same for a row of the source. Which sample a packed row belongs to is not known before; but in a step of decoding
// each sample has one row, so the row's own number is the guess, and find_place looks whether it was right.
template <class Load>
KVAPPEND_HOST_DEVICE Loaded load_row(const Addressing &a, const Indices &indices, std::int64_t sample, std::int64_t row,
                                     Load load) {
    if (a.kind == KVAPPEND_ADDRESSING_SLOTS) {
        Loaded at{};
        at.sample = sample;
        load_number(a, indices.slots, row, load, at);
        return at;
    }
    if (a.lengths == KVAPPEND_LENGTHS_PACKED) {
        sample = row < a.batch ? row : a.batch - 1;
    }
    return load_sample(a, indices, sample, load);
}

KVAPPEND_HOST_DEVICE inline SampleRows rows_of_sample(const Addressing &a, const Loaded &at) {
    SampleRows rows{0, a.new_rows};
    const std::int64_t length = late(at.length);
    if (a.lengths == KVAPPEND_LENGTHS_PACKED) {
        rows.begin = length > 0 ? length : 0;
        const std::int64_t end = late(at.end);
        rows.count = (end < a.new_rows ? end : a.new_rows) - rows.begin;
    }
    if (const std::int64_t pad = late(at.pad); pad > 0) {
        rows.begin += pad;
        rows.count -= pad;
    }
    if (a.lengths == KVAPPEND_LENGTHS_PER_SAMPLE) {
        rows.count = length < rows.count ? length : rows.count;
    }
    rows.count = rows.count > 0 ? rows.count : 0;
    return rows;
}

// The sample that a row of a packed source belongs to, if it belongs to any: the last one that begins at or before it,
// as samples without rows begin where the next one does. -1 before the first. It looks at three samples at a time,
// because a GPU waits no longer for three than for one.
template <class Load>
KVAPPEND_HOST_DEVICE std::int64_t find_sample(const Addressing &a, const Indices &indices, std::int64_t row,
                                              Load load) {
    std::int64_t low = 0;
    std::int64_t high = a.batch;
    while (low < high) {
        const std::int64_t quarter = (high - low) / 4;
        const std::int64_t third = high - 1 - quarter;
        const std::int64_t first = low + quarter;
        const std::int64_t second = first + (third - first) / 2;
        const std::int64_t begins[] = {load(indices.lengths + first), load(indices.lengths + second),
                                       load(indices.lengths + third)};
        if (begins[0] > row) {
            high = first;
        } else if (begins[1] > row) {
            low = first + 1;
            high = second;
        } else if (begins[2] > row) {
            low = second + 1;
            high = third;
        } else {
            low = third + 1;
        }
    }
    return low - 1;
}

// The entry of the page table for the nth page of a sample; -1 if there is none.
KVAPPEND_HOST_DEVICE inline std::int64_t find_entry(const Addressing &a, const Loaded &at, std::uint64_t nth) {
    if (a.kind == KVAPPEND_ADDRESSING_PAGED) {
        return nth < static_cast<std::uint64_t>(a.table_entries)
                   ? at.sample * a.table_stride + static_cast<std::int64_t>(nth)
                   : -1;
    }
    const std::int64_t first = late(at.first_entry);
    const std::int64_t last = late(at.last_entry);
    if (last <= first || nth >= static_cast<std::uint64_t>(last - first)) {
        return -1;
    }
    const std::int64_t entry = first + static_cast<std::int64_t>(nth);
    return entry >= 0 && entry < a.table_entries ? entry : -1;
}

// What becomes of row `row` of sample `sample` of the source, for which `at` was loaded; there is one sample where the
// source has tokens for rows. Right for all indices: no sum is formed that could leave its range, and no index array is
// read beyond its end.
template <class Load>
KVAPPEND_HOST_DEVICE Place find_place(const Addressing &a, const Indices &indices, std::int64_t sample,
                                      std::int64_t row, Loaded at, Load load) {
    Place place{Fate::padding, 0, 0, sample, row, 0};
    std::int64_t rows_left = 0;
    if (a.kind == KVAPPEND_ADDRESSING_SLOTS) {
        const std::int64_t slot = number_of(a, at);
        if (slot < 0 || slot == a.reserved_slot) {
            return place;
        }
        place.position = static_cast<std::uint64_t>(slot);
    } else {
        if (a.lengths == KVAPPEND_LENGTHS_PACKED) {
            if (row < late(at.length) || row >= late(at.end)) {
                place.sample = find_sample(a, indices, row, load);
                if (place.sample < 0) {
                    return place;
                }
                at = load_sample(a, indices, place.sample, load);
            }
            place.sample = at.sample;
        }
        const SampleRows rows = rows_of_sample(a, at);
        place.sample_row = row - rows.begin;
        if (place.sample_row < 0 || place.sample_row >= rows.count) {
            return place;
        }
        rows_left = rows.count - place.sample_row;
        place.block = indices.batch_index != nullptr ? late(at.block) : place.sample;
        if (place.block < 0) {
            return place;
        }
        const std::int64_t offset = number_of(a, at);
        // Two numbers without a sign have a sum of 64 bits, and one of each sign has one of 63.
        place.position = static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(place.sample_row);
        if (offset < 0 && offset + place.sample_row < 0) {
            place.fate = Fate::below;
            return place;
        }
    }
    place.fate = Fate::above;
    const bool pages = a.kind >= KVAPPEND_ADDRESSING_PAGED;
    const auto sinks = static_cast<std::uint64_t>(a.sink_rows); // 0 but for rings
    if (!pages) {
        if (place.block >= a.cache_blocks) {
            return place;
        }
        if (a.kind == KVAPPEND_ADDRESSING_DENSE || place.position < sinks) {
            if (place.position < static_cast<std::uint64_t>(a.cache_rows)) {
                place.fate = Fate::written;
                place.row = static_cast<std::int64_t>(place.position);
            }
            return place;
        }
    }
    // Positions go round in the rows behind the sinks, or on to the next page.
    const std::int64_t turn = a.cache_rows - a.sink_rows;
    if (turn <= 0) {
        return place;
    }
    const Quotient in_turn = divide(place.position - sinks, static_cast<std::uint64_t>(turn), a.turn_log2);
    place.row = a.sink_rows + static_cast<std::int64_t>(in_turn.remainder);
    if (!pages) {
        place.fate = rows_left > turn ? Fate::replaced : Fate::written;
        return place;
    }
    if (a.kind == KVAPPEND_ADDRESSING_SLOTS) {
        place.block = static_cast<std::int64_t>(in_turn.quotient);
    } else {
        const std::int64_t entry = find_entry(a, at, in_turn.quotient);
        place.block = entry >= 0 ? load(indices.page_table + entry) : -1;
    }
    if (0 <= place.block && place.block < a.cache_blocks) {
        place.fate = Fate::written;
    }
    return place;
}

template <class Load>
KVAPPEND_HOST_DEVICE Place find_place(const Addressing &a, const Indices &indices, std::int64_t sample,
                                      std::int64_t row, Load load) {
    return find_place(a, indices, sample, row, load_row(a, indices, sample, row, load), load);
}

// Whether a row of this fate has a position but no place.
KVAPPEND_HOST_DEVICE constexpr bool astray(Fate fate) {
    return fate == Fate::below || fate == Fate::above;
}

// A row's position, as far as 63 bits can say. One below the cache is negative, and no other is.
KVAPPEND_HOST_DEVICE constexpr std::int64_t reported_position(const Place &place) {
    return place.fate != Fate::below && place.position > INT64_MAX ? INT64_MAX
                                                                   : static_cast<std::int64_t>(place.position);
}

// A sample's offset behind the rows of a run, as far as its type goes. A sample that is left out keeps its offset, so
// that it stays left out: one with a negative batch index, and one whose rows all have negative positions.
template <class Load>
KVAPPEND_HOST_DEVICE std::int64_t advanced_offset(const Addressing &a, const Indices &indices, std::int64_t sample,
                                                  std::int64_t offset, Load load) {
    const Loaded at = load_sample(a, indices, sample, load);
    const std::int64_t rows = rows_of_sample(a, at).count;
    if ((offset < 0 && offset + rows <= 0) || at.block < 0) {
        return offset;
    }
    const std::int64_t greatest = a.offset_bytes == 8 ? INT64_MAX : INT32_MAX;
    return offset > greatest - rows ? greatest : offset + rows;
}

} // namespace kvappend
