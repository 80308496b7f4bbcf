// SPDX-License-Identifier: Apache-2.0
// The rule of src/place.hpp, as fast paths compile it: rows of a sample at once, what is known of an addressing, and
// stretches. All must agree with the rule as it stands, row by row.
//
// The arrays of indices are not in memory: a load computes what they hold. So they may have as many elements as a
// descriptor allows, and a load outside an array is a failure.
#include "../../src/cuda/place_rows.cuh"
#include "../../src/places.hpp"
#include "draw.hpp"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>
#include <tuple>
#include <vector>

using kvappend::Addressing;
using kvappend::DeviceLoad;
using kvappend::Indices;
using kvappend::Known;
using kvappend::Outcome;
using kvappend::Place;
using kvappend::Rule;
using kvappend::RuleKind;

namespace {

using Random = std::mt19937_64;

constexpr std::int64_t least64 = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t most64 = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least32 = std::numeric_limits<std::int32_t>::min();
constexpr std::int64_t most32 = std::numeric_limits<std::int32_t>::max();

// What the dense kernels of the host know.
constexpr Known known_dense_of_host{.kind = KVAPPEND_ADDRESSING_DENSE, .plain_samples = true};

std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

// ---- arrays of indices without memory ----

class Arrays {
public:
    enum Name : std::uint64_t {
        offsets = 1,
        slots,
        lengths,
        left_pads,
        batch_index,
        page_table,
        page_indptr,
        token_samples,
        token_positions,
        token_count
    };

    // `in_order`: bounds, of packed samples and of pages, that do not decrease.
    Arrays(const Addressing &a, std::uint64_t seed, bool in_order) : a_(a), seed_(seed) {
        if (a.lengths == KVAPPEND_LENGTHS_PACKED) {
            packed_ = bounds(a.new_rows, in_order);
        }
        if (a.kind == KVAPPEND_ADDRESSING_PAGED_CSR) {
            indptr_ = bounds(a.table_entries, in_order);
        }
    }

    Indices indices() const {
        const auto array = [this](Name name) {
            return count(name) > 0 ? reinterpret_cast<const void *>(std::uintptr_t{name} << 48) : nullptr;
        };
        return {array(offsets),         array(slots),       nullptr,
                array(lengths),         array(left_pads),   array(batch_index),
                array(page_table),      array(page_indptr), array(token_samples),
                array(token_positions), array(token_count), nullptr};
    }

    std::int64_t value_of_number(const void *array, std::uint32_t wide, std::int64_t i) const {
        const auto name = static_cast<Name>(reinterpret_cast<std::uintptr_t>(array) >> 48);
        const bool of_offset_type = name == offsets || name == slots || name == token_positions;
        if (wide != (of_offset_type ? a_.wide_offsets : a_.wide_indices)) {
            throw std::logic_error("array " + std::to_string(name) + " was loaded as one of another type");
        }
        return value(name, i);
    }

private:
    const Addressing &a_;
    std::uint64_t seed_;
    std::vector<std::int64_t> packed_;
    std::vector<std::int64_t> indptr_;

    std::int64_t count(Name name) const {
        const bool by_slot = a_.kind == KVAPPEND_ADDRESSING_SLOTS;
        const bool by_position = a_.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
        switch (name) {
        case offsets:
            return by_slot || by_position || a_.has(KVAPPEND_FLAG_ZERO_OFFSETS) ? 0 : a_.offsets();
        case token_samples:
        case token_positions:
            return by_position ? a_.new_rows : 0;
        case token_count:
            return a_.has(KVAPPEND_FLAG_TOKEN_COUNT) ? 1 : 0;
    case slots:
            return by_slot ? a_.new_rows : 0;
        case lengths:
            return a_.lengths == KVAPPEND_LENGTHS_PACKED       ? a_.samples + 1
                   : a_.lengths == KVAPPEND_LENGTHS_PER_SAMPLE ? a_.samples
                                                               : 0;
        case left_pads:
            return a_.has(KVAPPEND_FLAG_LEFT_PADS) ? a_.samples : 0;
        case batch_index:
            return a_.has(KVAPPEND_FLAG_BATCH_INDEX) ? a_.samples : 0;
        case page_table:
            return a_.kind == KVAPPEND_ADDRESSING_PAGED_CSR ? a_.table_entries
                   : a_.kind == KVAPPEND_ADDRESSING_PAGED && a_.table_entries > 0
                       ? (a_.samples - 1) * a_.table_stride + a_.table_entries
                       : 0;
        case page_indptr:
            return a_.kind == KVAPPEND_ADDRESSING_PAGED_CSR ? a_.samples + 1 : 0;
        }
        return 0;
    }

    std::int64_t value(Name name, std::int64_t i) const {
        if (i < 0 || i >= count(name)) {
            throw std::logic_error("element " + std::to_string(i) + " of array " + std::to_string(name) +
                                   ", which has " + std::to_string(count(name)) + " elements, was loaded");
        }
        const std::uint64_t random = mixed(seed_ ^ mixed(name << 56 ^ static_cast<std::uint64_t>(i)));
        switch (name) {
        case offsets:
            return of_type(offset(random));
    case slots:
            return of_type(slot(random));
        case lengths:
            return packed_.empty() ? few(random, a_.new_rows) : packed_[static_cast<std::size_t>(i)];
        case left_pads:
            return few(random, a_.new_rows);
        case batch_index:
        case page_table:
            return few(random, a_.cache_blocks - 1);
        case token_samples:
            return few(random, a_.samples - 1);
        case token_positions:
            return of_type(offset(random));
        case token_count:
            return few(random, a_.new_rows);
        case page_indptr:
            return indptr_[static_cast<std::size_t>(i)];
        }
        return 0;
    }

    // One of 0 to `most` as a rule, and else one just beyond or far beyond.
    std::int64_t few(std::uint64_t random, std::int64_t most) const {
        // The last ones are 0 and 1 if only their lower half is read.
        const std::int64_t strange[] = {0,
                                        most,
                                        most + 1,
                                        most + 2,
                                        -1,
                                        -2,
                                        least32,
                                        most32,
                                        least64,
                                        most64,
                                        std::int64_t{1} << 32,
                                        (std::int64_t{1} << 32) + 1};
        const std::uint64_t choice = random >> 8;
        const std::int64_t chosen = random % 3 == 0 || most < 0
                                        ? strange[choice % std::size(strange)]
                                        : static_cast<std::int64_t>(choice % (static_cast<std::uint64_t>(most) + 1));
        return a_.wide_indices != 0 ? chosen : std::clamp(chosen, least32, most32);
    }

    std::int64_t offset(std::uint64_t random) const {
        const std::int64_t pages = a_.kind == KVAPPEND_ADDRESSING_PAGED ? a_.table_entries : 3;
        const std::int64_t reach = a_.cache_rows * (a_.kind == KVAPPEND_ADDRESSING_DENSE ? 1 : pages);
        const auto near = static_cast<std::int64_t>(random >> 8 & 3) - 1;
        const std::int64_t wide = std::int64_t{1} << 32;
        const std::int64_t strange[] = {
            reach + near,       reach - a_.new_rows + near, -a_.new_rows + near,  near,
            least64 + near + 1, most64 - near - 1,          wide + near,          -wide + near,
            least32 + near + 1, most32 - near - 1,          a_.cache_rows + near, a_.sink_rows + near};
        const std::uint64_t choice = random >> 16;
        return random % 2 == 0 || reach <= 0 ? strange[choice % std::size(strange)]
                                             : static_cast<std::int64_t>(choice % static_cast<std::uint64_t>(reach));
    }

    std::int64_t slot(std::uint64_t random) const {
        const std::int64_t all = a_.cache_blocks * a_.cache_rows;
        const auto near = static_cast<std::int64_t>(random >> 8 & 3) - 1;
        const std::int64_t wide = std::int64_t{1} << 32;
        const std::int64_t strange[] = {all,
                                        all + near,
                                        near,
                                        -1,
                                        least64 + near + 1,
                                        most64 - near - 1,
                                        wide + near,
                                        -wide + near,
                                        least32 + near + 1,
                                        most32 - near - 1,
                                        a_.reserved_slot,
                                        a_.reserved_slot + near};
        const std::uint64_t choice = random >> 16;
        return random % 2 == 0 || all <= 0 ? strange[choice % std::size(strange)]
                                           : static_cast<std::int64_t>(choice % static_cast<std::uint64_t>(all));
    }

    // What does not fit in 32 bits becomes something that does.
    std::int64_t of_type(std::int64_t value) const {
        return a_.wide_offsets != 0 ? value : std::int64_t{static_cast<std::int32_t>(value)};
    }

    std::vector<std::int64_t> bounds(std::int64_t end, bool in_order) const {
        std::vector<std::int64_t> out;
        for (std::int64_t i = 0; i <= a_.samples; ++i) {
            const std::uint64_t random = mixed(seed_ + 77 + static_cast<std::uint64_t>(i));
            out.push_back(in_order ? static_cast<std::int64_t>(random % (static_cast<std::uint64_t>(end) + 1))
                                   : few(random, end));
        }
        if (in_order) {
            std::ranges::sort(out);
        }
        return out;
    }
};

// Loads as the host does: a number is one value.
struct Load {
    using Number = std::int64_t;

    const Arrays *arrays;

    std::int32_t narrow(const void *array, std::int64_t i) const {
        return static_cast<std::int32_t>(arrays->value_of_number(array, 0, i));
    }
    Number number(const void *array, std::uint32_t wide, std::int64_t i) const {
        return arrays->value_of_number(array, wide, i);
    }
    static std::int64_t value(Number number, std::uint32_t /*wide*/) { return number; }
};

// Loads as a device does: a number is two words.
struct LoadWords {
    using Number = DeviceLoad::Number;

    const Arrays *arrays;

    std::int32_t narrow(const void *array, std::int64_t i) const {
        return static_cast<std::int32_t>(arrays->value_of_number(array, 0, i));
    }
    Number number(const void *array, std::uint32_t wide, std::int64_t i) const {
        const auto value = static_cast<std::uint64_t>(arrays->value_of_number(array, wide, i));
        const auto low = static_cast<std::uint32_t>(value);
        return {low, wide != 0 ? static_cast<std::uint32_t>(value >> 32) : low};
    }
    static Number of(std::int32_t number) { return DeviceLoad::of(number); }
    static std::int64_t value(Number number, std::uint32_t wide) { return DeviceLoad::value(number, wide); }
};

std::string text(const Addressing &a) {
    return "kind " + std::to_string(a.kind) + ", lengths " + std::to_string(a.lengths) + ", flags " +
           std::to_string(a.flags) + ", wide " + std::to_string(a.wide_offsets) + " " + std::to_string(a.wide_indices) +
           ", samples " + std::to_string(a.samples) + ", new rows " + std::to_string(a.new_rows) + ", cache " +
           std::to_string(a.cache_blocks) + " x " + std::to_string(a.cache_rows) + ", sinks " +
           std::to_string(a.sink_rows) + ", entries " + std::to_string(a.table_entries) + " of " +
           std::to_string(a.table_stride) + ", reserved " + std::to_string(a.reserved_slot) + " " +
           std::to_string(a.reserved_page);
}

std::string text(const Place &place) {
    return "outcome " + std::to_string(static_cast<int>(place.outcome)) + ", sample " + std::to_string(place.sample) +
           ", its row " + std::to_string(place.sample_row) + ", position " +
           std::to_string(static_cast<std::int64_t>(place.position)) + ", block " + std::to_string(place.block) +
           ", row " + std::to_string(place.row);
}

Addressing addressing_of(const kvappend_descriptor &d) {
    Addressing a{};
    REQUIRE(Addressing::create(d, a) == KVAPPEND_SUCCESS);
    return a;
}

// ---- rows of a sample at once ----

Outcome dense_outcome(std::int64_t offset, std::int64_t row, std::int64_t new_rows, std::int64_t cache_rows) {
    Addressing a{};
    a.kind = KVAPPEND_ADDRESSING_DENSE;
    a.wide_offsets = 1;
    a.offset_mask = -1;
    a.rotary_rows = -1;
    a.samples = a.cache_blocks = 1;
    a.new_rows = new_rows;
    a.cache_rows = cache_rows;
    Indices indices{};
    indices.offsets = &offset;
    return place_of(Rule<>{a, indices}, 0, row, kvappend::HostLoad{}).outcome;
}

template <class Index>
void check_dense_rows(std::int64_t offset, std::int64_t new_rows, std::int64_t cache_rows, std::int64_t row) {
    const auto rows = kvappend::dense_rows(offset, static_cast<Index>(new_rows), static_cast<Index>(cache_rows));
    INFO("offset " << offset << ", new rows " << new_rows << ", cache rows " << cache_rows << ", row " << row);
    CHECK(rows.first >= 0);
    CHECK(rows.first <= new_rows);
    CHECK(rows.end >= 0);
    CHECK(rows.end <= new_rows);
    CHECK((row >= rows.first && row < rows.end) ==
          (dense_outcome(offset, row, new_rows, cache_rows) == Outcome::placed));
}

// ---- what is known of an addressing ----

// Of some rows of an addressing, those about the ends among them.
template <class Visit>
void for_some_rows(const Addressing &a, Draw<Random> &draw, Visit visit) {
    const std::int64_t samples = a.by_token() ? 1 : a.samples;
    for (int i = 0; i < 24; ++i) {
        const auto one_of = [&](std::int64_t count) {
            return draw.one_in(3) ? draw.of({std::int64_t{0}, count - 1}) : draw.between(0, count - 1);
        };
        visit(one_of(samples), one_of(a.new_rows));
    }
}

template <Known Facts>
int compare_rules(const Addressing &a, Random &random) {
    const Arrays arrays(a, random(), true);
    const Indices indices = arrays.indices();
    Draw<Random> draw(random);
    int placed = 0;
    for_some_rows(a, draw, [&](std::int64_t sample, std::int64_t row) {
        const auto place = place_of(Rule<>{a, indices}, sample, row, Load{&arrays});
        const auto fast = place_of(Rule<Facts>{a, indices}, sample, row, LoadWords{&arrays});
        INFO(text(a) << "\nrow " << row << " of " << sample << "\nby the rule: " << text(place)
                     << "\nas compiled: " << text(fast));
        REQUIRE(fast.placed() == place.placed());
        if (place.placed()) {
            ++placed;
            REQUIRE(std::pair(fast.block, fast.row) == std::pair(place.block, place.row));
        }
        if (!Facts.narrow) {
            REQUIRE(fast.outcome == place.outcome);
            REQUIRE(fast.position == place.position);
            REQUIRE(std::tuple(fast.sample, fast.sample_row, fast.rows_left) ==
                    std::tuple(place.sample, place.sample_row, place.rows_left));
            REQUIRE(stretch_of(Rule<Facts>{a, indices}, fast) == stretch_of(Rule<>{a, indices}, place));
        }
    });
    return placed;
}

// An addressing whose extents reach to the bounds of 31 bits (fits_in_31_bits).
kvappend_descriptor plain_descriptor(std::int32_t kind, Draw<Random> &draw) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.addressing = kind;
    d.offset_type = draw.of({KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32});
    const auto extent = [&](std::int64_t most_log2) {
        const std::int64_t power = std::int64_t{1} << draw.between(0, most_log2);
        return draw.one_in(3) ? power : draw.between(1, power);
    };
    d.batch = kind == KVAPPEND_ADDRESSING_SLOTS ? 1 : extent(30);
    d.new_rows = extent(30);
    d.cache_rows = draw.one_in(8) ? extent(29) : std::int64_t{1} << draw.between(0, draw.one_in(3) ? 29 : 6);
    d.cache_blocks = kind == KVAPPEND_ADDRESSING_DENSE ? 0 : extent(draw.one_in(2) ? 30 : 5);
    if (kind == KVAPPEND_ADDRESSING_PAGED) {
        d.table_entries = draw.of({std::int64_t{0}, most32, extent(4), extent(30)});
        d.table_stride = draw.one_in(2) ? std::min(d.table_entries + draw.between(0, 9), most32) : 0;
        // So that the table ends before the next array begins.
        d.batch =
            std::min(d.batch, (std::int64_t{1} << 44) / std::max({d.table_entries, d.table_stride, std::int64_t{1}}));
    }
    if (kind == KVAPPEND_ADDRESSING_PAGED_CSR) {
        d.table_entries = draw.of({std::int64_t{0}, most32, extent(4), extent(30)});
        d.batch = draw.between(1, 1000);
        if (draw.one_in(2)) {
            d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
        } else {
            d.flags = KVAPPEND_FLAG_LAST_PAGE_LENGTHS;
        }
    }
    if (kind == KVAPPEND_ADDRESSING_SLOTS && draw.one_in(2)) {
        d.flags = KVAPPEND_FLAG_RESERVED_SLOT;
        d.reserved_slot = draw.one_in(2) ? draw.between(-2, 3) : d.cache_rows * d.cache_blocks - draw.between(-1, 2);
    }
    if ((kind == KVAPPEND_ADDRESSING_PAGED || kind == KVAPPEND_ADDRESSING_PAGED_CSR) && draw.one_in(2)) {
        d.flags |= KVAPPEND_FLAG_RESERVED_PAGE;
        d.reserved_page = draw.of({draw.between(-2, 3), d.cache_blocks - draw.between(-1, 2), std::int64_t{1} << 32,
                                   (std::int64_t{1} << 32) + 1, least64});
    }
    if (kind != KVAPPEND_ADDRESSING_SLOTS && kind != KVAPPEND_ADDRESSING_PAGED_CSR && draw.one_in(4)) {
        d.flags |= KVAPPEND_FLAG_SHARED_OFFSET;
    }
    return d;
}

// ---- stretches ----

kvappend_descriptor any_descriptor(Draw<Random> &draw) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.addressing = draw.of({KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED,
                            KVAPPEND_ADDRESSING_PAGED_CSR, KVAPPEND_ADDRESSING_SLOTS});
    d.offset_type = draw.of({KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32});
    d.index_type = draw.of({KVAPPEND_INDEX_INT64, KVAPPEND_INDEX_INT32});
    const bool by_slot = d.addressing == KVAPPEND_ADDRESSING_SLOTS;
    const bool pages = d.addressing >= KVAPPEND_ADDRESSING_PAGED;
    d.batch = by_slot ? 1 : draw.between(1, 4);
    d.new_rows = draw.between(1, 12);
    d.cache_rows = draw.between(1, 8);
    d.cache_blocks = pages ? draw.between(1, 6) : 0;
    if (!by_slot) {
        d.lengths = draw.of(
            {KVAPPEND_LENGTHS_FIXED, KVAPPEND_LENGTHS_PER_SAMPLE, KVAPPEND_LENGTHS_PACKED, KVAPPEND_LENGTHS_PER_TOKEN});
    } else if (draw.one_in(2)) {
        d.flags = KVAPPEND_FLAG_RESERVED_SLOT;
        d.reserved_slot = draw.between(0, 9);
    }
    const bool by_token = by_slot || d.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
    if (by_token) {
        d.flags |= draw.one_in(3) ? KVAPPEND_FLAG_TOKEN_COUNT : 0;
    } else {
        d.flags |= draw.one_in(3) ? KVAPPEND_FLAG_LEFT_PADS : 0;
        d.flags |= draw.of({0, 0, 0, 0, 0, 0, 0, +KVAPPEND_FLAG_ZERO_OFFSETS, +KVAPPEND_FLAG_SHARED_OFFSET,
                            +KVAPPEND_FLAG_END_OFFSETS, +KVAPPEND_FLAG_END_OFFSETS,
                            d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR ? +KVAPPEND_FLAG_LAST_PAGE_LENGTHS : 0,
                            KVAPPEND_FLAG_SHARED_OFFSET | KVAPPEND_FLAG_END_OFFSETS});
    }
    if (pages && !by_slot && draw.one_in(3)) {
        d.flags |= KVAPPEND_FLAG_RESERVED_PAGE;
        d.reserved_page = draw.between(-1, 6);
    }
    if (!pages) {
        d.flags |= draw.one_in(3) ? KVAPPEND_FLAG_BATCH_INDEX : 0;
        d.sink_rows = d.addressing == KVAPPEND_ADDRESSING_RING ? draw.between(0, d.cache_rows) : 0;
    } else if (!by_slot) {
        d.table_entries = draw.between(0, 5);
    }
    return d;
}

// A row that was visited: where in the source, what became of it, and its place.
using Visited = std::tuple<std::int64_t, std::int64_t, Outcome, std::int64_t, std::int64_t, std::uint64_t>;

Visited visited(std::int64_t sample, std::int64_t row, const Place &place) {
    // The position of padding means nothing.
    return {sample,
            row,
            place.outcome,
            place.placed() ? place.block : 0,
            place.placed() ? place.row : 0,
            place.outcome == Outcome::padding ? 0 : place.position};
}

// The rows of a stretch, from its first one.
void add_stretch(const Place &place, std::int64_t sample, std::int64_t row, std::int64_t rows,
                 std::vector<Visited> &all) {
    for (std::int64_t i = 0; i < rows; ++i) {
        Place next = place;
        next.row += place.placed() ? i : 0;
        next.position += static_cast<std::uint64_t>(i);
        all.push_back(visited(sample, row + i, next));
    }
}

// Row by row, or by stretches, over the rows of each sample, as the host's copies go.
std::vector<Visited> visit_samples(const Rule<> &rule, const Load &load, bool by_stretches) {
    std::vector<Visited> all;
    for (std::int64_t sample = 0; sample < rule.a.samples; ++sample) {
        const auto loaded = load_sample(rule, sample, load);
        const auto rows = rows_of_sample(rule, loaded);
        const std::int64_t end = rows.begin + rows.count;
        for (std::int64_t row = rows.begin; row < end;) {
            const auto place = place_of(rule, sample, row, loaded, load);
            const std::int64_t stretch = by_stretches ? stretch_of(rule, place) : 1;
            REQUIRE(stretch >= 1);
            REQUIRE(stretch <= end - row);
            add_stretch(place, sample, row, stretch, all);
            row += stretch;
        }
    }
    return all;
}

// The same over all rows of the source, padding among them, as the count of a report goes.
std::vector<Visited> visit_source(const Rule<> &rule, const Load &load, bool by_stretches) {
    std::vector<Visited> all;
    for (std::int64_t sample = 0; sample < (rule.a.by_token() ? 1 : rule.a.samples); ++sample) {
        for (std::int64_t row = 0; row < rule.a.new_rows;) {
            const auto place = place_of(rule, sample, row, load);
            const std::int64_t stretch = by_stretches ? stretch_of(rule, place) : 1;
            REQUIRE(stretch >= 1);
            REQUIRE(stretch <= rule.a.new_rows - row);
            add_stretch(place, sample, row, stretch, all);
            row += stretch;
        }
    }
    return all;
}

} // namespace

TEST_CASE("the placed rows of a dense sample are those that are placed one by one", "[place]") {
    for (std::int64_t new_rows = 0; new_rows <= 6; ++new_rows) {
        for (std::int64_t cache_rows = 0; cache_rows <= 7; ++cache_rows) {
            std::vector<std::int64_t> offsets;
            for (std::int64_t near = 0; near <= 9; ++near) {
                const std::int64_t wide = std::int64_t{1} << 32;
                for (const std::int64_t offset :
                     {near, -near, least64 + near, most64 - near, least32 + near, least32 - near, most32 + near,
                      most32 - near, wide + near, wide - near, -wide + near, -wide - near}) {
                    offsets.push_back(offset);
                }
            }
            for (const std::int64_t offset : offsets) {
                for (std::int64_t row = 0; row < new_rows; ++row) {
                    check_dense_rows<std::int32_t>(offset, new_rows, cache_rows, row);
                    check_dense_rows<std::int64_t>(offset, new_rows, cache_rows, row);
                }
            }
        }
    }
}

TEST_CASE("the same at the bounds of 31 bits", "[place]") {
    constexpr std::int64_t most = std::int64_t{1} << 30;
    for (const std::int64_t new_rows : {most, most - 1, std::int64_t{1}}) {
        for (const std::int64_t cache_rows : {most - 1, most - 2, std::int64_t{1}}) {
            for (std::int64_t near = -2; near <= 2; ++near) {
                for (const std::int64_t offset :
                     {near, cache_rows + near, -new_rows + near, cache_rows / 2 + near, least64 + near + 2,
                      most64 - near - 2, least32 + near, most32 + near}) {
                    // The ends of what is placed; an offset far away places nothing.
                    const std::int64_t nearer = std::clamp(offset, -2 * most, 2 * most);
                    for (const std::int64_t about : {std::int64_t{0}, -nearer, cache_rows - nearer, new_rows}) {
                        if (const std::int64_t row = about + near; row >= 0 && row < new_rows) {
                            check_dense_rows<std::int32_t>(offset, new_rows, cache_rows, row);
                            check_dense_rows<std::int64_t>(offset, new_rows, cache_rows, row);
                        }
                    }
                }
            }
        }
    }
}

TEST_CASE("a rule compiled for what is known places the same rows at the same places", "[place]") {
    Random random(Catch::getSeed());
    Draw<Random> draw(random);
    std::map<RuleKind, int> kinds;
    std::map<RuleKind, int> placed;
    const auto compare = [&](RuleKind kind, const Addressing &a) {
        switch (kind) {
        case RuleKind::dense:
            compare_rules<known_dense_of_host>(a, random);
            return compare_rules<kvappend::known_dense>(a, random);
        case RuleKind::pages:
            return compare_rules<kvappend::known_pages>(a, random);
        case RuleKind::slots:
            return compare_rules<kvappend::known_slots>(a, random);
        case RuleKind::tokens:
            return compare_rules<kvappend::known_tokens>(a, random);
        case RuleKind::ends:
            return compare_rules<kvappend::known_ends>(a, random);
        default:
            return 0;
        }
    };
    for (int i = 0; i < 20'000; ++i) {
        const auto addressing = draw.of({KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_PAGED,
                                         KVAPPEND_ADDRESSING_PAGED_CSR, KVAPPEND_ADDRESSING_SLOTS});
        const Addressing a = addressing_of(plain_descriptor(addressing, draw));
        const RuleKind kind = kvappend::rule_kind_of(a);
        ++kinds[kind];
        placed[kind] += compare(kind, a);
    }
    for (const RuleKind kind : {RuleKind::dense, RuleKind::pages, RuleKind::slots, RuleKind::tokens, RuleKind::ends}) {
        INFO("kind " << static_cast<int>(kind));
        CHECK(kinds[kind] >= 1000);
        CHECK(placed[kind] >= 1000);
    }
}

TEST_CASE("each rule that is compiled separately is for no other addressing", "[place]") {
    kvappend_descriptor paged = KVAPPEND_DESCRIPTOR_INIT;
    paged.addressing = KVAPPEND_ADDRESSING_PAGED;
    paged.batch = paged.cache_blocks = 4;
    paged.new_rows = 2;
    paged.cache_rows = 16;
    paged.table_entries = 8;
    const auto kind_of = [](kvappend_descriptor d, auto change) {
        change(d);
        return kvappend::rule_kind_of(addressing_of(d));
    };
    using D = kvappend_descriptor;
    CHECK(kind_of(paged, [](D &) {}) == RuleKind::pages);
    CHECK(kind_of(paged, [](D &d) { d.table_stride = most32; }) == RuleKind::pages);
    CHECK(kind_of(paged, [](D &d) { d.table_stride = most32 + 1; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.table_entries = most32; }) == RuleKind::pages);
    CHECK(kind_of(paged, [](D &d) { d.table_entries = most32 + 1; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.cache_rows = 12; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.flags = KVAPPEND_FLAG_LEFT_PADS; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.flags = KVAPPEND_FLAG_ZERO_OFFSETS; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.lengths = KVAPPEND_LENGTHS_PACKED; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.addressing = KVAPPEND_ADDRESSING_PAGED_CSR; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.lengths = KVAPPEND_LENGTHS_PER_TOKEN; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.flags = KVAPPEND_FLAG_END_OFFSETS; }) == RuleKind::any);
    CHECK(kind_of(paged, [](D &d) { d.flags = KVAPPEND_FLAG_SHARED_OFFSET; }) == RuleKind::pages);
    CHECK(kind_of(paged, [](D &d) { d.index_type = KVAPPEND_INDEX_INT64; }) == RuleKind::any);
    const auto reserving = [](std::int64_t page) {
        return [page](D &d) {
            d.flags = KVAPPEND_FLAG_RESERVED_PAGE;
            d.reserved_page = page;
        };
    };
    CHECK(kind_of(paged, reserving(0)) == RuleKind::pages);
    CHECK(kind_of(paged, reserving(-1)) == RuleKind::pages);
    CHECK(kind_of(paged, reserving(most32 + 1)) == RuleKind::any);
    CHECK(kind_of(paged, reserving(least32 - 1)) == RuleKind::any);
    const auto other = [](std::int32_t kind) {
        return [kind](D &d) {
            d.addressing = kind;
            d.table_entries = 0;
            d.batch = 1;
        };
    };
    CHECK(kind_of(paged, other(KVAPPEND_ADDRESSING_DENSE)) == RuleKind::dense);
    CHECK(kind_of(paged, other(KVAPPEND_ADDRESSING_RING)) == RuleKind::any);
    CHECK(kind_of(paged, other(KVAPPEND_ADDRESSING_SLOTS)) == RuleKind::slots);
    D csr = paged;
    csr.addressing = KVAPPEND_ADDRESSING_PAGED_CSR;
    CHECK(kind_of(csr, [](D &d) { d.lengths = KVAPPEND_LENGTHS_PER_TOKEN; }) == RuleKind::tokens);
    CHECK(kind_of(csr, [](D &d) { d.flags = KVAPPEND_FLAG_LAST_PAGE_LENGTHS; }) == RuleKind::ends);
    for (const bool tokens : {true, false}) {
        D plain = csr;
        plain.lengths = tokens ? KVAPPEND_LENGTHS_PER_TOKEN : KVAPPEND_LENGTHS_FIXED;
        plain.flags = tokens ? 0 : KVAPPEND_FLAG_LAST_PAGE_LENGTHS;
        CHECK(kind_of(plain, [](D &d) { d.offset_type = KVAPPEND_OFFSET_INT32; }) != RuleKind::any);
        CHECK(kind_of(plain, [](D &d) { d.index_type = KVAPPEND_INDEX_INT64; }) == RuleKind::any);
        CHECK(kind_of(plain, [](D &d) { d.cache_rows = 12; }) == RuleKind::any);
        CHECK(kind_of(plain, [](D &d) { d.table_entries = most32 + 1; }) == RuleKind::any);
        CHECK(kind_of(plain, [tokens](D &d) {
                  d.flags |= tokens ? KVAPPEND_FLAG_TOKEN_COUNT : KVAPPEND_FLAG_LEFT_PADS;
              }) == RuleKind::any);
    }
    CHECK(kind_of(csr, [](D &d) {
              d.flags = KVAPPEND_FLAG_LAST_PAGE_LENGTHS;
              d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
          }) == RuleKind::any);
    CHECK(kvappend::conversion_rule_of(addressing_of(paged)) == RuleKind::pages);
    D slots = paged;
    other(KVAPPEND_ADDRESSING_SLOTS)(slots);
    CHECK(kind_of(slots, [](D &d) { d.flags = KVAPPEND_FLAG_RESERVED_SLOT; }) == RuleKind::slots);
    CHECK(kind_of(slots, [](D &d) { d.cache_rows = 12; }) == RuleKind::any);
    CHECK(kind_of(slots, [](D &d) { d.flags = KVAPPEND_FLAG_TOKEN_COUNT; }) == RuleKind::any);
    CHECK(kind_of(slots, [](D &d) { d.index_type = KVAPPEND_INDEX_INT64; }) == RuleKind::slots);
    D dense = paged;
    other(KVAPPEND_ADDRESSING_DENSE)(dense);
    CHECK(kind_of(dense, [](D &d) { d.cache_rows = 12; }) == RuleKind::dense);
    CHECK(kind_of(dense, [](D &d) { d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE; }) == RuleKind::any);
    CHECK(kind_of(dense, [](D &d) { d.flags = KVAPPEND_FLAG_LEFT_PADS; }) == RuleKind::any);
    CHECK(kind_of(dense, [](D &d) { d.flags = KVAPPEND_FLAG_BATCH_INDEX; }) == RuleKind::any);
}

TEST_CASE("a number that a device loads as two words is what it was", "[place]") {
    for (const std::int64_t number : {std::int64_t{0}, std::int64_t{1}, std::int64_t{-1}, least32, most32, least32 - 1,
                                      most32 + 1, most32 * 2 + 1, least64, most64}) {
        INFO(number);
        const auto bits = static_cast<std::uint64_t>(number);
        const auto low = static_cast<std::uint32_t>(bits);
        CHECK(DeviceLoad::value({low, static_cast<std::uint32_t>(bits >> 32)}, 1) == number);
        CHECK(DeviceLoad::value({low, low}, 0) == std::int64_t{static_cast<std::int32_t>(number)});
    }
}

TEST_CASE("stretches have the outcomes and places of their rows", "[place]") {
    Random random(Catch::getSeed());
    Draw<Random> draw(random);
    std::map<std::pair<std::int32_t, Outcome>, int> seen;
    for (int i = 0; i < 30'000; ++i) {
        const Addressing a = addressing_of(any_descriptor(draw));
        const bool in_order = draw.one_in(2);
        const Arrays arrays(a, random(), in_order);
        const Indices indices = arrays.indices();
        const Rule<> rule{a, indices};
        const Load load{&arrays};
        INFO(text(a));
        if (a.kind != KVAPPEND_ADDRESSING_SLOTS && a.lengths != KVAPPEND_LENGTHS_PER_TOKEN) {
            REQUIRE(visit_samples(rule, load, true) == visit_samples(rule, load, false));
        }
        const auto rows = visit_source(rule, load, false);
        if (in_order || a.lengths != KVAPPEND_LENGTHS_PACKED) {
            REQUIRE(visit_source(rule, load, true) == rows);
        }
        for (const Visited &row : rows) {
            ++seen[{a.kind, std::get<Outcome>(row)}];
        }
    }
    const auto often = [&](std::int32_t kind, Outcome outcome) {
        INFO("addressing " << kind << ", outcome " << static_cast<int>(outcome));
        CHECK(seen[std::pair(kind, outcome)] >= 100);
    };
    for (const auto kind : {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED,
                            KVAPPEND_ADDRESSING_PAGED_CSR, KVAPPEND_ADDRESSING_SLOTS}) {
        for (const Outcome outcome : {Outcome::placed, Outcome::padding, Outcome::above}) {
            often(kind, outcome);
        }
        if (kind != KVAPPEND_ADDRESSING_SLOTS) {
            often(kind, Outcome::below);
        }
    }
    often(KVAPPEND_ADDRESSING_RING, Outcome::replaced);
}

TEST_CASE("a sample that is left out is one stretch", "[place]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.flags = KVAPPEND_FLAG_BATCH_INDEX;
    d.batch = d.heads = d.k_dim = 1;
    d.new_rows = 100'000;
    d.cache_rows = 8;
    d.cache_blocks = 1;
    const Addressing a = addressing_of(d);
    const std::vector<std::int64_t> offsets(8);
    const std::vector<std::int32_t> blocks(8, -1);
    Indices indices{};
    indices.offsets = offsets.data();
    indices.batch_index = blocks.data();
    const Rule<> rule{a, indices};
    const auto place = place_of(rule, 0, 3, kvappend::HostLoad{});
    CHECK(place.outcome == Outcome::padding);
    CHECK(stretch_of(rule, place) == d.new_rows - 3);
}
