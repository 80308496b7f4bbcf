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

// The rows of a sample: which row of the source is the first, and how many there are.
struct SampleRows {
    std::int64_t begin;
    std::int64_t count;
};

// `load(pointer)` reads an index from the memory in which the indices are.
template <class Load>
KVAPPEND_HOST_DEVICE SampleRows rows_of_sample(const Addressing &a, const Indices &indices, std::int64_t sample,
                                               Load load) {
    SampleRows rows{0, a.new_rows};
    if (a.lengths == KVAPPEND_LENGTHS_PACKED) {
        const std::int64_t begin = load(indices.lengths + sample);
        rows.begin = begin > 0 ? begin : 0;
        const std::int64_t end = load(indices.lengths + sample + 1);
        rows.count = (end < a.new_rows ? end : a.new_rows) - rows.begin;
    }
    if (indices.left_pads != nullptr) {
        const std::int64_t pad = load(indices.left_pads + sample);
        if (pad > 0) {
            rows.begin += pad;
            rows.count -= pad;
        }
    }
    if (a.lengths == KVAPPEND_LENGTHS_PER_SAMPLE) {
        const std::int64_t length = load(indices.lengths + sample);
        rows.count = length < rows.count ? length : rows.count;
    }
    rows.count = rows.count > 0 ? rows.count : 0;
    return rows;
}

// The sample that a row of a packed source belongs to, if it belongs to any: the last one that begins at or before it,
// as samples without rows begin where the next one does. -1 before the first.
template <class Load>
KVAPPEND_HOST_DEVICE std::int64_t find_sample(const Addressing &a, const Indices &indices, std::int64_t row,
                                              Load load) {
    std::int64_t low = 0;
    std::int64_t high = a.batch;
    while (low < high) {
        const std::int64_t middle = low + (high - low) / 2;
        if (load(indices.lengths + middle) <= row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low - 1;
}

// The entry of the page table for the nth page of a sample; -1 if there is none.
template <class Load>
KVAPPEND_HOST_DEVICE std::int64_t find_entry(const Addressing &a, const Indices &indices, std::int64_t sample,
                                             std::uint64_t nth, Load load) {
    if (a.kind == KVAPPEND_ADDRESSING_PAGED) {
        return nth < static_cast<std::uint64_t>(a.table_entries)
                   ? sample * a.table_stride + static_cast<std::int64_t>(nth)
                   : -1;
    }
    const std::int64_t first = load(indices.page_indptr + sample);
    const std::int64_t last = load(indices.page_indptr + sample + 1);
    if (last <= first || nth >= static_cast<std::uint64_t>(last - first)) {
        return -1;
    }
    const std::int64_t entry = first + static_cast<std::int64_t>(nth);
    return entry >= 0 && entry < a.table_entries ? entry : -1;
}

template <class Load>
KVAPPEND_HOST_DEVICE std::int64_t load_wide(const Addressing &a, const void *array, std::int64_t i, Load load) {
    return a.offset_bytes == 8 ? static_cast<std::int64_t>(load(static_cast<const long long *>(array) + i))
                               : static_cast<std::int64_t>(load(static_cast<const std::int32_t *>(array) + i));
}

// What becomes of row `row` of the source, where rows have samples and `rows` are those of the sample.
template <class Load>
KVAPPEND_HOST_DEVICE Place place_in_sample(const Addressing &a, const Indices &indices, std::int64_t sample,
                                           const SampleRows &rows, std::int64_t row, Load load) {
    Place place{Fate::padding, 0, 0, sample, row - rows.begin, 0};
    if (place.sample_row < 0 || place.sample_row >= rows.count) {
        return place;
    }
    place.block = indices.batch_index != nullptr ? load(indices.batch_index + place.sample) : place.sample;
    if (place.block < 0) {
        return place;
    }
    const std::int64_t offset = indices.offsets != nullptr ? load_wide(a, indices.offsets, place.sample, load) : 0;
    // Two numbers without a sign have a sum of 64 bits, and one of each sign has one of 63.
    place.position = static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(place.sample_row);
    place.fate = Fate::above;
    if (offset < 0 && offset + place.sample_row < 0) {
        place.fate = Fate::below;
        return place;
    }
    if (a.kind >= KVAPPEND_ADDRESSING_PAGED) {
        const Quotient at = divide(place.position, static_cast<std::uint64_t>(a.cache_rows));
        const std::int64_t entry = find_entry(a, indices, place.sample, at.quotient, load);
        place.block = entry >= 0 ? load(indices.page_table + entry) : -1;
        place.row = static_cast<std::int64_t>(at.remainder);
        if (0 <= place.block && place.block < a.cache_blocks) {
            place.fate = Fate::written;
        }
        return place;
    }
    if (place.block >= a.cache_blocks) {
        return place;
    }
    const auto sinks = static_cast<std::uint64_t>(a.sink_rows);
    if (a.kind == KVAPPEND_ADDRESSING_DENSE || place.position < sinks) {
        if (place.position < static_cast<std::uint64_t>(a.cache_rows)) {
            place.fate = Fate::written;
            place.row = static_cast<std::int64_t>(place.position);
        }
        return place;
    }
    const std::int64_t window = a.cache_rows - a.sink_rows;
    if (window > 0) {
        const Quotient turn = divide(place.position - sinks, static_cast<std::uint64_t>(window));
        place.row = a.sink_rows + static_cast<std::int64_t>(turn.remainder);
        place.fate = rows.count - place.sample_row > window ? Fate::replaced : Fate::written;
    }
    return place;
}

// What becomes of row `row` of sample `sample` of the source; there is one sample where the source has tokens for rows.
// Right for all indices: no sum is formed that could leave its range, and no index array is read beyond its end.
template <class Load>
KVAPPEND_HOST_DEVICE Place find_place(const Addressing &a, const Indices &indices, std::int64_t sample,
                                      std::int64_t row, Load load) {
    Place place{Fate::padding, 0, 0, sample, row, 0};
    if (a.kind == KVAPPEND_ADDRESSING_SLOTS) {
        const std::int64_t slot = load_wide(a, indices.slots, row, load);
        if (slot < 0 || slot == a.reserved_slot) {
            return place;
        }
        place.position = static_cast<std::uint64_t>(slot);
        const Quotient at = divide(place.position, static_cast<std::uint64_t>(a.cache_rows));
        place.block = static_cast<std::int64_t>(at.quotient);
        place.row = static_cast<std::int64_t>(at.remainder);
        place.fate = place.block < a.cache_blocks ? Fate::written : Fate::above;
        return place;
    }
    if (a.lengths == KVAPPEND_LENGTHS_PACKED) {
        place.sample = find_sample(a, indices, row, load);
        if (place.sample < 0) {
            return place;
        }
    }
    return place_in_sample(a, indices, place.sample, rows_of_sample(a, indices, place.sample, load), row, load);
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
    const std::int64_t rows = rows_of_sample(a, indices, sample, load).count;
    if ((offset < 0 && offset + rows <= 0) ||
        (indices.batch_index != nullptr && load(indices.batch_index + sample) < 0)) {
        return offset;
    }
    const std::int64_t greatest = a.offset_bytes == 8 ? INT64_MAX : INT32_MAX;
    return offset > greatest - rows ? greatest : offset + rows;
}

} // namespace kvappend
