// SPDX-License-Identifier: Apache-2.0
#include "validate.hpp"

#include "places.hpp"
#include "storage.hpp"

#include <algorithm>
#include <cfloat>
#include <cinttypes>
#include <compare>
#include <cstring>
#include <memory>
#include <new>
#include <span>

namespace kvappend {

namespace {

// An index in host memory.
std::int64_t index_at(const void *array, std::uint32_t wide, std::int64_t i) {
    return HostLoad{}.number(array, wide, i);
}

bool is_offset(BufferName name) {
    return name == BufferName::cache_offsets || name == BufferName::slots || name == BufferName::from_slots ||
           name == BufferName::token_positions || name == BufferName::positions;
}

// Whether an array of 32-bit indices has the size of one with as many 64-bit indices.
bool may_be_wide(const NeededBuffer &needed, const GivenBuffer &buffer) {
    return is_index(needed.name) && needed.alignment == 4 && buffer.bytes == 2 * static_cast<std::size_t>(needed.bytes);
}

std::int64_t least_index(const Addressing &a) {
    return a.wide_indices != 0 ? INT64_MIN : INT32_MIN;
}

// Refuses an array of 32-bit indices that looks like one of 64-bit indices: the upper words are the signs of the lower
// ones, and the numbers differ from those that a run reads.
Status check_width(const NeededBuffer &needed, const std::byte *array, kvappend_fault &fault) {
    const std::int64_t count = needed.bytes / 4;
    std::int64_t different = count;
    for (std::int64_t i = count - 1; i >= 0; --i) {
        const std::int64_t value = index_at(array, 1, i);
        if (value != static_cast<std::int32_t>(value)) {
            return KVAPPEND_SUCCESS;
        }
        different = value != index_at(array, 0, i) ? i : different;
    }
    if (different == count) {
        return KVAPPEND_SUCCESS;
    }
    fault.array = text(needed.name);
    fault.index = different;
    fault.value = index_at(array, 1, different);
    return fail(KVAPPEND_ERROR_INDEX_WIDTH,
                "args.%s_bytes is %" PRId64 " and the array looks like 64-bit numbers, in which element %" PRId64
                " is %" PRId64 ": expected 32-bit numbers and %" PRId64 " bytes, or a descriptor.%s for 64-bit numbers",
                fault.array, 2 * needed.bytes, different, fault.value, needed.bytes,
                is_offset(needed.name) ? "offset_type" : "index_type");
}

// Whether the values in a buffer are checked: indices, scales that are read, and global scales.
bool is_checked(const NeededBuffer &needed) {
    return is_index(needed.name) ||
           (needed.name >= BufferName::k_scales && needed.name <= BufferName::v_global_scale &&
            needed.use == BufferUse::read) ||
           needed.name == BufferName::q_scales;
}

// What is checked, copied to host memory.
class Copies {
public:
    Status fetch(const Problem &problem, const Backend &backend, const kvappend_args &args, CUstream_st *stream,
                 kvappend_fault &fault) {
        args_ = args;
        for (const NeededBuffer &needed : problem.buffers.all()) {
            if (!is_checked(needed)) {
                continue;
            }
            const GivenBuffer buffer = given(args, needed.name);
            const bool twice = may_be_wide(needed, buffer);
            const std::size_t bytes = twice ? buffer.bytes : static_cast<std::size_t>(needed.bytes);
            auto &memory = memory_[static_cast<std::size_t>(needed.name)];
            memory.reset(new (std::nothrow) std::byte[bytes]);
            if (memory == nullptr) {
                return fail(KVAPPEND_ERROR_OUT_OF_MEMORY,
                            "args.%s: there is no host memory for a copy of its %zu bytes", text(needed.name), bytes);
            }
            TRY(backend.fetch(memory.get(), buffer.pointer, bytes, stream));
            TRY(twice ? check_width(needed, memory.get(), fault) : KVAPPEND_SUCCESS);
            give(args_, needed.name, memory.get());
        }
        indices = indices_of(problem.buffers, args_);
        return KVAPPEND_SUCCESS;
    }

    const kvappend_args &args() const { return args_; }

    Indices indices{};

private:
    kvappend_args args_;
    std::unique_ptr<std::byte[]> memory_[buffer_count];
};

Status fault_at(Status status, kvappend_fault &fault, const char *array, std::int64_t index, std::int64_t value,
                std::int64_t least, std::int64_t most) {
    fault.array = array;
    fault.index = index;
    fault.value = value;
    return fail(status, "args.%s[%" PRId64 "] is %" PRId64 ": expected %" PRId64 " to %" PRId64, array, index, value,
                least, most);
}

Status range_fault(kvappend_fault &fault, const char *array, std::int64_t index, std::int64_t value, std::int64_t least,
                   std::int64_t most) {
    return fault_at(KVAPPEND_ERROR_INDEX_RANGE, fault, array, index, value, least, most);
}

// Checks bounds that divide an array of `entries` entries. None may be less than the one before it, and the first may
// not be negative.
Status check_order(const Addressing &a, const char *array, const void *bounds, std::int64_t entries,
                   kvappend_fault &fault) {
    std::int64_t before = 0;
    for (std::int64_t i = 0; bounds != nullptr && i <= a.samples; ++i) {
        const std::int64_t bound = index_at(bounds, a.wide_indices, i);
        if (bound < before || bound > entries) {
            return fault_at(KVAPPEND_ERROR_INDEX_ORDER, fault, array, i, bound, before, entries);
        }
        before = bound;
    }
    return KVAPPEND_SUCCESS;
}

// Checks the arrays with one element for each token, and the number of tokens.
Status check_tokens(const Addressing &a, const Indices &indices, kvappend_fault &fault) {
    std::int64_t count = a.new_rows;
    if (indices.token_count != nullptr) {
        count = index_at(indices.token_count, a.wide_indices, 0);
        if (count < 0 || count > a.new_rows) {
            return range_fault(fault, "token_count", 0, count, 0, a.new_rows);
        }
    }
    for (std::int64_t token = 0; indices.token_samples != nullptr && token < count; ++token) {
        const std::int64_t sample = index_at(indices.token_samples, a.wide_indices, token);
        // The sample of padding means nothing.
        if (sample >= a.samples && index_at(indices.token_positions, a.wide_offsets, token) >= 0) {
            return range_fault(fault, "token_samples", token, sample, least_index(a), a.samples - 1);
        }
    }
    return KVAPPEND_SUCCESS;
}

// Checks the arrays with one element for each sample.
Status check_samples(const Addressing &a, const Indices &indices, kvappend_fault &fault) {
    const std::uint32_t wide = a.wide_indices;
    for (std::int64_t sample = 0; sample < a.samples; ++sample) {
        const bool packed = a.lengths == KVAPPEND_LENGTHS_PACKED;
        std::int64_t rows =
            packed ? index_at(indices.lengths, wide, sample + 1) - index_at(indices.lengths, wide, sample) : a.new_rows;
        const std::int64_t pad = indices.left_pads != nullptr ? index_at(indices.left_pads, wide, sample) : 0;
        if (pad < 0 || pad > rows) {
            return range_fault(fault, "left_pads", sample, pad, 0, rows);
        }
        rows -= pad;
        const bool per_sample = a.lengths == KVAPPEND_LENGTHS_PER_SAMPLE;
        const std::int64_t length = per_sample ? index_at(indices.lengths, wide, sample) : 0;
        if (length < 0 || length > rows) {
            return range_fault(fault, "lengths", sample, length, 0, rows);
        }
        const std::int64_t block = indices.batch_index != nullptr ? index_at(indices.batch_index, wide, sample) : -1;
        if (block >= a.cache_blocks) {
            return range_fault(fault, "batch_index", sample, block, least_index(a), a.cache_blocks - 1);
        }
    }
    return KVAPPEND_SUCCESS;
}

// The index of a row's entry in the page table, or -1 if it has none.
std::int64_t entry_of(const Addressing &a, const Indices &indices, const RotatedPlace &place) {
    if (indices.page_table == nullptr || place.beyond_tables) {
        return -1;
    }
    return find_entry(Rule<>{a, indices}, load_sample(Rule<>{a, indices}, place.sample, HostLoad{}),
                      place.position / static_cast<std::uint64_t>(a.cache_rows));
}

// Finds the first row whose entry in the page table is not a page of the cache. If there is none, finds the first row
// that is out of range.
Status check_places(const Problem &problem, const Indices &indices, kvappend_fault &fault) {
    const Addressing &a = problem.addressing;
    std::int64_t entry = -1;
    RotatedPlace first{};
    for_each_stretch(problem, indices, [&](const RotatedPlace &place, std::int64_t /*rows*/) {
        entry = place.outcome == Outcome::above ? entry_of(a, indices, place) : -1;
        if (out_of_range(place.outcome) && !out_of_range(first.outcome)) {
            first = place;
        }
        return entry < 0 && (indices.page_table != nullptr || !out_of_range(first.outcome));
    });
    if (entry >= 0) {
        return range_fault(fault, "page_table", entry, index_at(indices.page_table, a.wide_indices, entry), 0,
                           a.cache_blocks - 1);
    }
    if (!out_of_range(first.outcome)) {
        return KVAPPEND_SUCCESS;
    }
    fault.sample = first.sample;
    fault.row = first.sample_row;
    fault.position = reported_position(first);
    return out_of_range_error(first, "expected a place for every row");
}

// A row that is written: its place, and its number among the rows of the source.
struct Written {
    std::int64_t block;
    std::int64_t row;
    std::int64_t number;

    auto operator<=>(const Written &) const = default;
    bool same_place(const Written &other) const { return block == other.block && row == other.row; }
};
static_assert(sizeof(Written) == 24); // as kvappend.h says

// Fills the rows that are written, and returns their number.
std::size_t find_written(const Problem &problem, const Indices &indices, Written *rows) {
    std::size_t count = 0;
    std::int64_t number = 0;
    for_each_stretch(problem, indices, [&](const Place &place, std::int64_t stretch) {
        for (std::int64_t i = 0; place.placed() && i < stretch; ++i, ++count) {
            if (rows != nullptr) {
                rows[count] = {place.block, place.row + i, number + i};
            }
        }
        number += stretch;
        return true;
    });
    return count;
}

Status duplicate_error(const Problem &problem, const Indices &indices, const Written &earlier, const Written &later,
                       kvappend_fault &fault) {
    const auto place_at = [&](std::int64_t number) {
        return place_of_row(problem, indices, number / problem.new_rows, number % problem.new_rows);
    };
    const Place first = place_at(earlier.number);
    const Place second = place_at(later.number);
    fault.sample = second.sample;
    fault.row = second.sample_row;
    fault.position = reported_position(second);
    fault.other_sample = first.sample;
    fault.other_row = first.sample_row;
    return fail(KVAPPEND_ERROR_DUPLICATE,
                "row %" PRId64 " of sample %" PRId64 " and row %" PRId64 " of sample %" PRId64
                " both go to row %" PRId64 " of block %" PRId64 " of the cache: expected a place of its own for each",
                first.sample_row, first.sample, second.sample_row, second.sample, second.row, second.block);
}

Status check_duplicates(const Problem &problem, const Indices &indices, kvappend_fault &fault) {
    const std::size_t count = find_written(problem, indices, nullptr);
    const std::unique_ptr<Written[]> memory(new (std::nothrow) Written[count]);
    if (memory == nullptr) {
        return fail(KVAPPEND_ERROR_OUT_OF_MEMORY, "validate: there is no host memory for the places of %zu rows",
                    count);
    }
    const std::span rows(memory.get(), count);
    find_written(problem, indices, rows.data());
    std::ranges::sort(rows);
    const Written *later = nullptr; // the first row of the source with the place of an earlier row
    for (std::size_t i = 1; i < count; ++i) {
        if (rows[i].same_place(rows[i - 1]) && (later == nullptr || rows[i].number < later->number)) {
            later = &rows[i];
        }
    }
    return later == nullptr ? KVAPPEND_SUCCESS : duplicate_error(problem, indices, later[-1], *later, fault);
}

// A place that a row of a move reads or writes.
struct Touched {
    std::int64_t block;
    std::int64_t row;
    std::int64_t sample;
    std::int64_t number; // of the row; its complement if the row writes the place

    auto operator<=>(const Touched &) const = default;
    bool same_place(const Touched &other) const { return block == other.block && row == other.row; }
    bool writes() const { return number < 0; }
    std::int64_t moved_row() const { return writes() ? ~number : number; }
    bool excludes(const Touched &other) const {
        return same_place(other) && sample != other.sample && (writes() || other.writes());
    }
};
static_assert(2 * sizeof(Touched) == 64); // as kvappend.h says

std::size_t find_touched(const Problem &problem, const Indices &indices, Touched *touched) {
    const Rule<> rule{problem.addressing, indices};
    std::size_t count = 0;
    for (std::int64_t row = 0; row < problem.new_rows; ++row) {
        const MovedRow moved = places_of_move(rule, row, HostLoad{});
        const Place place = place_of_move(rule, row, moved, HostLoad{});
        if (place.placed()) {
            touched[count++] = {moved.from.block, moved.from.row, place.sample, row};
            touched[count++] = {moved.to.block, moved.to.row, place.sample, ~row};
        }
    }
    return count;
}

Status shared_place_error(const Problem &problem, const Indices &indices, const Touched &a, const Touched &b,
                          kvappend_fault &fault) {
    const auto first_row_of = [&](const Touched &touched) {
        return place_of_row(problem, indices, 0, touched.moved_row());
    };
    const bool in_order = a.moved_row() < b.moved_row();
    const Place earlier = first_row_of(in_order ? a : b);
    const Place later = first_row_of(in_order ? b : a);
    fault.sample = later.sample;
    fault.row = later.sample_row;
    fault.position = a.block * problem.addressing.cache_rows + a.row;
    fault.other_sample = earlier.sample;
    fault.other_row = earlier.sample_row;
    return fail(KVAPPEND_ERROR_DUPLICATE,
                "row %" PRId64 " of sample %" PRId64 " and row %" PRId64 " of sample %" PRId64 " both use row %" PRId64
                " of block %" PRId64 " of the cache, and one of them writes it: expected "
                "samples that write no place of another",
                earlier.sample_row, earlier.sample, later.sample_row, later.sample, a.row, a.block);
}

// Finds a place that one sample of a move writes and another sample uses. The uses of a place are sorted by sample, and
// the writes of a sample come before its reads. Therefore it is enough to compare each use with the first use of the
// place.
Status check_samples_apart(const Problem &problem, const Indices &indices, kvappend_fault &fault) {
    if (problem.addressing.samples == 1) {
        return KVAPPEND_SUCCESS;
    }
    const auto most = 2 * static_cast<std::size_t>(problem.new_rows);
    const std::unique_ptr<Touched[]> memory(new (std::nothrow) Touched[most]);
    if (memory == nullptr) {
        return fail(KVAPPEND_ERROR_OUT_OF_MEMORY, "validate: there is no host memory for the places of %zu rows",
                    static_cast<std::size_t>(problem.new_rows));
    }
    const std::span touched(memory.get(), find_touched(problem, indices, memory.get()));
    std::ranges::sort(touched);
    const Touched *first = touched.data();
    for (const Touched &use : touched) {
        if (use.excludes(*first)) {
            return shared_place_error(problem, indices, *first, use, fault);
        }
        first = use.same_place(*first) ? first : &use;
    }
    return KVAPPEND_SUCCESS;
}

Status scale_fault(kvappend_fault &fault, const char *array, std::int64_t index, std::uint32_t bits, float value) {
    fault.array = array;
    fault.index = index;
    fault.value = bits;
    return fail(KVAPPEND_ERROR_SCALE, "args.%s[%" PRId64 "] is %g: expected a finite number that is more than 0", array,
                index, static_cast<double>(value));
}

bool is_usable(float scale) {
    return scale > 0 && scale <= FLT_MAX;
}

// The scales of K or of V that a run reads, in host memory.
struct ReadScales {
    const Copy &copy;
    std::int64_t element_bytes;
    const char *name;
    const void *scales;

    // Checks the scales of a row.
    Status check(std::int64_t block, std::int64_t row, kvappend_fault &fault) const {
        const std::int64_t groups = copy.row_bytes() / element_bytes / copy.format.group;
        for (std::int64_t head = 0; head < copy.heads(); ++head) {
            for (std::int64_t group = 0; group < groups; ++group) {
                TRY(check_at(copy.scale_byte(block, head, row) + group * copy.scales.piece_stride, fault));
            }
        }
        return KVAPPEND_SUCCESS;
    }

private:
    Status check_at(std::int64_t byte, kvappend_fault &fault) const {
        const std::uint32_t bytes = bytes_of_scale(copy.format.scale_type);
        std::uint32_t code = 0;
        std::memcpy(&code, static_cast<const std::byte *>(scales) + byte, bytes);
        const float value = decode_scale(copy.format.scale_type, code);
        // A group of zeros has a computed scale of zero.
        return is_usable(value) || (value == 0 && copy.format.computed())
                   ? KVAPPEND_SUCCESS
                   : scale_fault(fault, name, byte / bytes, code, value);
    }
};

Status check_global_scale(const Copy &copy, const char *name, const float *scale, kvappend_fault &fault) {
    return copy.empty() || !copy.format.has_global_scale || is_usable(*scale)
               ? KVAPPEND_SUCCESS
               : scale_fault(fault, name, 0, bits_of(*scale), *scale);
}

// All rows of Q have the same scales, which are read if one row is rotated.
Status check_query_scales(const Problem &problem, const Indices &indices, const kvappend_args &args,
                          kvappend_fault &fault) {
    bool reads = false;
    if (problem.has_query() && problem.q.format.scaled()) {
        for_each_stretch(problem, indices, [&](const RotatedPlace &place, std::int64_t /*rows*/) {
            reads = place.rotated;
            return !reads;
        });
    }
    return reads ? ReadScales{problem.q, problem.element_bytes, "q_scales", args.q_scales}.check(0, 0, fault)
                 : KVAPPEND_SUCCESS;
}

// Checks the global scales, and the scales that a run reads for the rows of the call.
Status check_scales(const Problem &problem, const Indices &indices, const kvappend_args &args, kvappend_fault &fault) {
    TRY(check_global_scale(problem.k, "k_global_scale", args.k_global_scale, fault));
    TRY(check_global_scale(problem.v, "v_global_scale", args.v_global_scale, fault));
    for (const ReadScales &read : {ReadScales{problem.k, problem.element_bytes, "k_scales", args.k_scales},
                                   ReadScales{problem.v, problem.element_bytes, "v_scales", args.v_scales}}) {
        if (read.copy.empty() || !read.copy.format.scaled() || problem.writes_scales(read.copy)) {
            continue;
        }
        Status status = KVAPPEND_SUCCESS;
        for_each_stretch(problem, indices, [&](const Place &place, std::int64_t rows) {
            for (std::int64_t i = 0; place.placed() && i < rows && status == KVAPPEND_SUCCESS; ++i) {
                status = read.check(place.block, place.row + i, fault);
            }
            return status == KVAPPEND_SUCCESS;
        });
        TRY(status);
    }
    return check_query_scales(problem, indices, args, fault);
}

} // namespace

Status validate(const Problem &problem, const Backend &backend, const kvappend_args &args, CUstream_st *stream,
                kvappend_fault &fault) {
    const Addressing &a = problem.addressing;
    Copies copies;
    TRY(copies.fetch(problem, backend, args, stream, fault));
    const Indices &indices = copies.indices;
    const bool packed = a.lengths == KVAPPEND_LENGTHS_PACKED;
    TRY(check_order(a, "lengths", packed ? indices.lengths : nullptr, problem.new_rows, fault));
    TRY(check_order(a, "page_indptr", indices.page_indptr, a.table_entries, fault));
    TRY(check_tokens(a, indices, fault));
    TRY(check_samples(a, indices, fault));
    TRY(check_places(problem, indices, fault));
    if (problem.moves()) {
        return check_samples_apart(problem, indices, fault);
    }
    if (!problem.gathers()) { // A gather may read a place twice.
        TRY(check_duplicates(problem, indices, fault));
    }
    return check_scales(problem, indices, copies.args(), fault);
}

} // namespace kvappend
