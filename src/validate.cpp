// SPDX-License-Identifier: Apache-2.0
#include "validate.hpp"

#include "places.hpp"

#include <algorithm>
#include <cinttypes>
#include <memory>
#include <new>
#include <span>
#include <tuple>

namespace kvappend {

namespace {

// The index arrays in host memory.
class Copies {
public:
    Status fetch(const Problem &problem, const Backend &backend, const kvappend_args &args, CUstream_st *stream) {
        kvappend_args copied = args;
        for (const NeededBuffer &needed : problem.buffers.all()) {
            if (needed.name < BufferName::cache_offsets || needed.name == BufferName::report) {
                continue;
            }
            const auto bytes = static_cast<std::size_t>(needed.bytes);
            auto &memory = memory_[static_cast<std::size_t>(needed.name)];
            memory.reset(new (std::nothrow) std::byte[bytes]);
            if (memory == nullptr) {
                return fail(KVAPPEND_ERROR_OUT_OF_MEMORY,
                            "args.%s: there is no host memory for a copy of its %zu bytes", text(needed.name), bytes);
            }
            TRY(backend.fetch(memory.get(), given(args, needed.name).pointer, bytes, stream));
            give(copied, needed.name, memory.get());
        }
        indices = indices_of(problem.buffers, copied);
        return KVAPPEND_SUCCESS;
    }

    Indices indices{};

private:
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

// Bounds that divide an array of `entries` entries: each is at least the one before it, and the first is not negative.
Status check_order(const char *array, const std::int32_t *bounds, std::int64_t batch, std::int64_t entries,
                   kvappend_fault &fault) {
    std::int64_t before = 0;
    for (std::int64_t i = 0; bounds != nullptr && i <= batch; ++i) {
        if (bounds[i] < before || bounds[i] > entries) {
            return fault_at(KVAPPEND_ERROR_INDEX_ORDER, fault, array, i, bounds[i], before, entries);
        }
        before = bounds[i];
    }
    return KVAPPEND_SUCCESS;
}

// The arrays with one element for each sample.
Status check_ranges(const Addressing &a, const Indices &indices, kvappend_fault &fault) {
    for (std::int64_t sample = 0; sample < a.samples; ++sample) {
        const bool packed = a.lengths == KVAPPEND_LENGTHS_PACKED;
        std::int64_t rows = packed ? indices.lengths[sample + 1] - std::int64_t{indices.lengths[sample]} : a.new_rows;
        const std::int64_t pad = indices.left_pads != nullptr ? indices.left_pads[sample] : 0;
        if (pad < 0 || pad > rows) {
            return fault_at(KVAPPEND_ERROR_INDEX_RANGE, fault, "left_pads", sample, pad, 0, rows);
        }
        rows -= pad;
        const std::int64_t length = a.lengths == KVAPPEND_LENGTHS_PER_SAMPLE ? indices.lengths[sample] : 0;
        if (length < 0 || length > rows) {
            return fault_at(KVAPPEND_ERROR_INDEX_RANGE, fault, "lengths", sample, length, 0, rows);
        }
        const std::int64_t block = indices.batch_index != nullptr ? indices.batch_index[sample] : -1;
        if (block >= a.cache_blocks) {
            return fault_at(KVAPPEND_ERROR_INDEX_RANGE, fault, "batch_index", sample, block, INT32_MIN,
                            a.cache_blocks - 1);
        }
    }
    return KVAPPEND_SUCCESS;
}

// The index of a row's entry in the page table, or -1 if it has none.
std::int64_t entry_of(const Addressing &a, const Indices &indices, const Place &place) {
    const Rule<> rule{a, indices};
    return a.has_pages() && !rule.by_slot() ? find_entry(rule, load_sample(rule, place.sample, HostLoad{}),
                                                         place.position / static_cast<std::uint64_t>(a.cache_rows))
                                            : -1;
}

// Finds the first row whose entry in the page table is not a page of the cache. If there is none, finds the first row
// that is out of range.
Status check_places(const Problem &problem, const Indices &indices, kvappend_fault &fault) {
    const Addressing &a = problem.addressing;
    std::int64_t entry = -1;
    Place first{};
    for_each_place(problem, indices, [&](const Place &place) {
        if (entry < 0 && place.outcome == Outcome::above) {
            entry = entry_of(a, indices, place);
        }
        if (out_of_range(place.outcome) && !out_of_range(first.outcome)) {
            first = place;
        }
        return true;
    });
    if (entry >= 0) {
        return fault_at(KVAPPEND_ERROR_INDEX_RANGE, fault, "page_table", entry, indices.page_table[entry], 0,
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

// A row that is written: its place, and which row it is.
struct Written {
    std::int64_t block;
    std::int64_t row;
    std::int64_t sample;
    std::int64_t sample_row;
    std::int64_t position;
};
static_assert(sizeof(Written) == 40); // as kvappend.h says

Status check_duplicates(const Problem &problem, const Indices &indices, kvappend_fault &fault) {
    std::size_t count = 0;
    for_each_place(problem, indices, [&](const Place &place) {
        count += place.placed() ? 1U : 0U;
        return true;
    });
    std::size_t bytes = 0;
    const bool fits = !__builtin_mul_overflow(count, sizeof(Written), &bytes);
    const std::unique_ptr<Written[]> memory(fits ? new (std::nothrow) Written[count] : nullptr);
    if (memory == nullptr) {
        return fail(KVAPPEND_ERROR_OUT_OF_MEMORY, "validate: there is no host memory for the places of %zu rows",
                    count);
    }
    const std::span rows(memory.get(), count);
    std::size_t next = 0;
    for_each_place(problem, indices, [&](const Place &place) {
        if (place.placed()) {
            rows[next++] = {place.block, place.row, place.sample, place.sample_row, reported_position(place)};
        }
        return true;
    });
    const auto where = [](const Written &w) { return std::tie(w.block, w.row); };
    const auto which = [](const Written &w) { return std::tie(w.sample, w.sample_row); };
    std::ranges::sort(rows, [&](const Written &a, const Written &b) {
        return where(a) != where(b) ? where(a) < where(b) : which(a) < which(b);
    });
    const Written *earlier = nullptr;
    for (std::size_t i = 1; i < count; ++i) {
        const bool same = where(rows[i]) == where(rows[i - 1]);
        if (same && (earlier == nullptr || which(rows[i]) < which(earlier[1]))) {
            earlier = &rows[i - 1];
        }
    }
    if (earlier == nullptr) {
        return KVAPPEND_SUCCESS;
    }
    const Written &later = earlier[1];
    fault.sample = later.sample;
    fault.row = later.sample_row;
    fault.position = later.position;
    fault.other_sample = earlier->sample;
    fault.other_row = earlier->sample_row;
    return fail(KVAPPEND_ERROR_DUPLICATE,
                "row %" PRId64 " of sample %" PRId64 " and row %" PRId64 " of sample %" PRId64
                " both go to row %" PRId64 " of block %" PRId64 " of the cache: expected a place of its own for each",
                earlier->sample_row, earlier->sample, later.sample_row, later.sample, later.row, later.block);
}

} // namespace

Status validate(const Problem &problem, const Backend &backend, const kvappend_args &args, CUstream_st *stream,
                kvappend_fault &fault) {
    const Addressing &a = problem.addressing;
    Copies copies;
    TRY(copies.fetch(problem, backend, args, stream));
    const Indices &indices = copies.indices;
    const bool packed = a.lengths == KVAPPEND_LENGTHS_PACKED;
    TRY(check_order("lengths", packed ? indices.lengths : nullptr, a.samples, problem.new_rows, fault));
    TRY(check_order("page_indptr", indices.page_indptr, a.samples, a.table_entries, fault));
    TRY(check_ranges(a, indices, fault));
    TRY(check_places(problem, indices, fault));
    return check_duplicates(problem, indices, fault);
}

} // namespace kvappend
