// SPDX-License-Identifier: Apache-2.0
// validate on random calls, against a search for faults that follows the header's words one by one.
#include "scenario.hpp"
#include "validated.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>
#include <tuple>

namespace {

using std::size_t;
__extension__ using Wide = __int128;

// All faults of the first status that applies: any of them may be told, but of rows the first.
using Faults = std::vector<Finding>;

struct Call {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    Indices indices;

    bool has(kvappend_flag flag) const { return (d.flags & flag) != 0; }
    bool packed() const { return d.lengths == KVAPPEND_LENGTHS_PACKED; }
    std::int64_t begin(std::int64_t b) const { return packed() ? indices.lengths[static_cast<size_t>(b)] : 0; }
    std::int64_t end(std::int64_t b) const {
        return packed() ? indices.lengths[static_cast<size_t>(b) + 1] : d.new_rows;
    }
    std::int64_t pad(std::int64_t b) const {
        return has(KVAPPEND_FLAG_LEFT_PADS) ? indices.left_pads[static_cast<size_t>(b)] : 0;
    }
    std::int64_t block(std::int64_t b) const {
        return has(KVAPPEND_FLAG_BATCH_INDEX) ? indices.batch_index[static_cast<size_t>(b)] : b;
    }
    std::int64_t rows(std::int64_t b) const {
        return d.lengths == KVAPPEND_LENGTHS_PER_SAMPLE ? indices.lengths[static_cast<size_t>(b)]
                                                        : end(b) - begin(b) - pad(b);
    }
    Wide position(std::int64_t b, std::int64_t l) const {
        if (has(KVAPPEND_FLAG_ZERO_OFFSETS)) {
            return l;
        }
        const Wide offset = indices.offsets[has(KVAPPEND_FLAG_SHARED_OFFSET) ? 0 : static_cast<size_t>(b)];
        if (has(KVAPPEND_FLAG_END_OFFSETS)) {
            return offset - rows(b) + l;
        }
        if (has(KVAPPEND_FLAG_LAST_PAGE_LENGTHS)) {
            const std::int64_t pages =
                indices.page_indptr[static_cast<size_t>(b) + 1] - indices.page_indptr[static_cast<size_t>(b)];
            return Wide{std::max<std::int64_t>(pages, 1) - 1} * d.cache_rows + offset - rows(b) + l;
        }
        return offset + l;
    }
    bool of_samples() const {
        return d.addressing == KVAPPEND_ADDRESSING_DENSE || d.addressing == KVAPPEND_ADDRESSING_RING;
    }
    bool by_position() const { return d.lengths == KVAPPEND_LENGTHS_PER_TOKEN; }
    std::int64_t tokens() const { return has(KVAPPEND_FLAG_TOKEN_COUNT) ? indices.token_count[0] : d.new_rows; }
    std::int64_t blocks() const { return d.cache_blocks == 0 ? d.batch : d.cache_blocks; }

    std::string text() const {
        std::ostringstream out;
        out << "addressing " << d.addressing << ", lengths " << d.lengths << ", flags " << d.flags << ", B " << d.batch
            << ", L " << d.new_rows << ", R " << d.cache_rows << ", N " << d.cache_blocks << ", sinks " << d.sink_rows
            << ", table " << d.table_entries << ", reserved " << d.reserved_slot << " " << d.reserved_page << ", types "
            << d.offset_type << " " << d.index_type;
        const auto add = [&out](const char *name, const auto &values) {
            out << "; " << name;
            for (const auto value : values) {
                out << ' ' << value;
            }
        };
        add("offsets", indices.offsets);
        add("slots", indices.slots);
        add("lengths", indices.lengths);
        add("left_pads", indices.left_pads);
        add("batch_index", indices.batch_index);
        add("page_table", indices.page_table);
        add("page_indptr", indices.page_indptr);
        add("token_samples", indices.token_samples);
        add("token_positions", indices.token_positions);
        add("token_count", indices.token_count);
        return out.str();
    }
};

void add_disorder(Faults &faults, const char *array, const std::vector<std::int64_t> &bounds, std::int64_t entries) {
    for (size_t i = 0; i < bounds.size(); ++i) {
        const std::int64_t from = i == 0 ? 0 : bounds[i - 1];
        if (bounds[i] < from || bounds[i] > entries) {
            faults.push_back(
                at_index(KVAPPEND_ERROR_INDEX_ORDER, array, static_cast<std::int64_t>(i), bounds[i], from, entries));
        }
    }
}

std::int64_t least_index(const Call &c) {
    return c.d.index_type == KVAPPEND_INDEX_INT64 ? INT64_MIN : INT32_MIN;
}

Faults token_faults(const Call &c) {
    constexpr kvappend_status range = KVAPPEND_ERROR_INDEX_RANGE;
    if (c.tokens() < 0 || c.tokens() > c.d.new_rows) {
        return {at_index(range, "token_count", 0, c.tokens(), 0, c.d.new_rows)};
    }
    Faults faults;
    for (std::int64_t t = 0; c.by_position() && t < c.tokens(); ++t) {
        const std::int64_t sample = c.indices.token_samples[static_cast<size_t>(t)];
        if (sample >= c.d.batch && c.indices.token_positions[static_cast<size_t>(t)] >= 0) {
            faults.push_back(at_index(range, "token_samples", t, sample, least_index(c), c.d.batch - 1));
        }
    }
    return faults;
}

Faults range_faults(const Call &c) {
    constexpr kvappend_status range = KVAPPEND_ERROR_INDEX_RANGE;
    Faults faults = token_faults(c);
    if (!faults.empty() || c.d.addressing == KVAPPEND_ADDRESSING_SLOTS) {
        return faults;
    }
    for (std::int64_t b = 0; b < c.d.batch; ++b) {
        const std::int64_t there = c.end(b) - c.begin(b);
        if (c.pad(b) < 0 || c.pad(b) > there) {
            faults.push_back(at_index(range, "left_pads", b, c.pad(b), 0, there));
        } else if (c.d.lengths == KVAPPEND_LENGTHS_PER_SAMPLE && (c.rows(b) < 0 || c.rows(b) > there - c.pad(b))) {
            faults.push_back(at_index(range, "lengths", b, c.rows(b), 0, there - c.pad(b)));
        }
        if (c.has(KVAPPEND_FLAG_BATCH_INDEX) && c.block(b) >= c.blocks()) {
            faults.push_back(at_index(range, "batch_index", b, c.block(b), least_index(c), c.blocks() - 1));
        }
    }
    return faults;
}

// The entry of the page table for a position, if there is one.
std::optional<std::int64_t> entry_of(const Call &c, std::int64_t b, Wide position) {
    const Wide nth = position / c.d.cache_rows;
    if (c.d.addressing == KVAPPEND_ADDRESSING_PAGED) {
        return nth < c.d.table_entries ? std::optional(b * c.d.table_entries + static_cast<std::int64_t>(nth))
                                       : std::nullopt;
    }
    const Wide i = c.indices.page_indptr[static_cast<size_t>(b)] + nth;
    return i < c.indices.page_indptr[static_cast<size_t>(b) + 1] ? std::optional(static_cast<std::int64_t>(i))
                                                                 : std::nullopt;
}

using Position = std::pair<std::int64_t, std::int64_t>; // a block of the cache, and a row in it

// Where a row goes, if it has a place; that it is no padding is known.
std::optional<Position> place_of(const Call &c, std::int64_t b, Wide position) {
    const Wide rows = c.d.cache_rows;
    if (position < 0) {
        return std::nullopt;
    }
    if (c.d.addressing == KVAPPEND_ADDRESSING_PAGED || c.d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
        const auto entry = entry_of(c, b, position);
        if (!entry) {
            return std::nullopt;
        }
        return Position{c.indices.page_table[static_cast<size_t>(*entry)], static_cast<std::int64_t>(position % rows)};
    }
    if (c.d.addressing == KVAPPEND_ADDRESSING_RING && position >= c.d.sink_rows && rows > c.d.sink_rows) {
        const Wide round = (position - c.d.sink_rows) % (rows - c.d.sink_rows);
        return Position{c.block(b), static_cast<std::int64_t>(c.d.sink_rows + round)};
    }
    return position < rows ? std::optional(Position{c.block(b), static_cast<std::int64_t>(position)}) : std::nullopt;
}

struct Placed {
    std::int64_t sample;
    std::int64_t row;
    Wide position;
    std::optional<Position> place;
};

// All rows that are no padding, in order.
std::vector<Placed> placed_rows(const Call &c) {
    std::vector<Placed> out;
    if (c.d.addressing == KVAPPEND_ADDRESSING_SLOTS) {
        for (std::int64_t l = 0; l < c.tokens(); ++l) {
            const std::int64_t slot = c.indices.slots[static_cast<size_t>(l)];
            if (slot < 0 || (c.has(KVAPPEND_FLAG_RESERVED_SLOT) && slot == c.d.reserved_slot)) {
                continue;
            }
            const Position at{slot / c.d.cache_rows, slot % c.d.cache_rows};
            out.push_back({0, l, slot, at.first < c.blocks() ? std::optional(at) : std::nullopt});
        }
        return out;
    }
    const auto add = [&](std::int64_t b, std::int64_t l, Wide position) {
        const auto place = place_of(c, b, position);
        // Rows on the reserved page are padding.
        if (!(place && c.has(KVAPPEND_FLAG_RESERVED_PAGE) && place->first == c.d.reserved_page)) {
            out.push_back({b, l, position, place});
        }
    };
    for (std::int64_t t = 0; c.by_position() && t < c.tokens(); ++t) {
        const std::int64_t b = c.indices.token_samples[static_cast<size_t>(t)];
        const std::int64_t position = c.indices.token_positions[static_cast<size_t>(t)];
        if (b >= 0 && position >= 0 && c.block(b) >= 0) {
            add(b, t, position);
        }
    }
    for (std::int64_t b = 0; b < c.d.batch && !c.by_position(); ++b) {
        for (std::int64_t l = 0; l < c.rows(b) && c.block(b) >= 0; ++l) {
            add(b, l, c.position(b, l));
        }
    }
    return out;
}

Faults faults_of(const Call &c) {
    Faults faults;
    if (c.packed()) {
        add_disorder(faults, "lengths", c.indices.lengths, c.d.new_rows);
    }
    if (c.d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
        add_disorder(faults, "page_indptr", c.indices.page_indptr, c.d.table_entries);
    }
    if (faults.empty()) {
        faults = range_faults(c);
    }
    if (!faults.empty()) {
        return faults;
    }
    const std::vector<Placed> rows = placed_rows(c);
    const bool paged = c.d.addressing == KVAPPEND_ADDRESSING_PAGED || c.d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR;
    for (const Placed &row : rows) {
        if (paged && row.place && (row.place->first < 0 || row.place->first >= c.blocks())) {
            return {at_index(KVAPPEND_ERROR_INDEX_RANGE, "page_table", *entry_of(c, row.sample, row.position),
                             row.place->first, 0, c.blocks() - 1)};
        }
    }
    const auto told_position = [](const Placed &row) {
        return static_cast<std::int64_t>(std::clamp<Wide>(row.position, INT64_MIN, INT64_MAX));
    };
    for (const Placed &row : rows) {
        if (!row.place) {
            return {without_place(row.sample, row.row, told_position(row))};
        }
    }
    std::map<Position, const Placed *> taken;
    for (auto row = rows.begin(); row != rows.end(); ++row) {
        // A later row of the sample replaces this one in a ring.
        const bool replaced = c.d.addressing == KVAPPEND_ADDRESSING_RING && !c.by_position() &&
                              std::any_of(row + 1, rows.end(), [&](const Placed &later) {
                                  return later.sample == row->sample && later.place == row->place;
                              });
        if (replaced) {
            continue;
        }
        const auto [at, free] = taken.emplace(*row->place, &*row);
        if (!free) {
            return {doubled({row->sample, row->row, told_position(*row)}, {at->second->sample, at->second->row},
                            row->place->first, row->place->second)};
        }
    }
    return {{}};
}

// Draws what is mostly right. `wrong` is one in so many.
class Draw {
public:
    explicit Draw(std::mt19937_64 &random) : random_(random), wrong_(between(4, 60)) {}

    std::int64_t between(std::int64_t least, std::int64_t most) { return random_between(random_, least, most); }
    bool one_in(std::int64_t n) { return between(1, n) == 1; }
    std::int32_t index(std::int64_t least, std::int64_t most) {
        if (one_in(wrong_) || most < least) {
            const std::int64_t strange[] = {INT32_MIN, -1, most + 1, most + 2, INT32_MAX, between(-3, 30)};
            return static_cast<std::int32_t>(strange[between(0, 5)]);
        }
        return static_cast<std::int32_t>(between(least, most));
    }
    std::int64_t wide(std::int64_t least, std::int64_t most, bool narrow) {
        if (!narrow && one_in(wrong_)) {
            const std::int64_t strange[] = {INT64_MIN, INT64_MAX, INT64_MAX - between(0, 9), INT64_MIN + between(0, 9)};
            return strange[between(0, 3)];
        }
        return index(least, most);
    }
    std::vector<std::int64_t> bounds(std::int64_t count, std::int64_t entries) {
        std::vector<std::int64_t> out;
        for (std::int64_t i = 0; i <= count; ++i) {
            out.push_back(static_cast<std::int32_t>(between(0, entries)));
        }
        std::ranges::sort(out);
        for (auto &bound : out) {
            bound = one_in(wrong_) ? index(1, 0) : bound;
        }
        return out;
    }
    // Different ones where there are enough.
    std::vector<std::int64_t> ids(std::int64_t count, std::int64_t limit) {
        std::vector<std::int64_t> out;
        for (std::int64_t i = 0; i < count; ++i) {
            out.push_back(static_cast<std::int32_t>(i % std::max<std::int64_t>(limit, 1)));
        }
        std::ranges::shuffle(out, random_);
        for (auto &id : out) {
            id = one_in(wrong_) ? index(0, limit - 1) : id;
        }
        return out;
    }
    Call call();

private:
    void add_count(Call &c);
    void add_slots(Call &c);
    void add_flags(Call &c);
    std::int64_t add_tables(Call &c);
    void add_tokens(Call &c, std::int64_t reach);

    std::mt19937_64 &random_;
    std::int64_t wrong_;
};

void Draw::add_count(Call &c) {
    if (one_in(2)) {
        c.d.flags |= KVAPPEND_FLAG_TOKEN_COUNT;
        c.indices.token_count = {index(0, c.d.new_rows)};
    }
}

// Tokens whose positions rise, so that most of them have places of their own.
void Draw::add_tokens(Call &c, std::int64_t reach) {
    add_count(c);
    std::int64_t position = between(0, std::max<std::int64_t>(reach - c.d.new_rows, 0));
    for (std::int64_t t = 0; t < c.d.new_rows; ++t) {
        c.indices.token_samples.push_back(index(-1, c.d.batch - 1));
        const bool narrow = c.d.offset_type == KVAPPEND_OFFSET_INT32;
        c.indices.token_positions.push_back(one_in(wrong_) ? wide(1, 0, narrow) : position++);
    }
}

void Draw::add_slots(Call &c) {
    kvappend_descriptor &d = c.d;
    const bool narrow = d.offset_type == KVAPPEND_OFFSET_INT32;
    d.batch = 1;
    d.cache_blocks = between(1, 12);
    if (one_in(2)) {
        d.flags = KVAPPEND_FLAG_RESERVED_SLOT;
        d.reserved_slot = between(-1, d.cache_blocks * d.cache_rows);
    }
    for (std::int64_t l = 0; l < d.new_rows; ++l) {
        c.indices.slots.push_back(wide(-1, d.cache_blocks * d.cache_rows - 1, narrow));
    }
    add_count(c);
}

// Flags, most of which say how the offsets give positions.
void Draw::add_flags(Call &c) {
    kvappend_descriptor &d = c.d;
    if (!c.by_position()) {
        d.flags |= one_in(3) ? KVAPPEND_FLAG_LEFT_PADS : 0;
        switch (between(0, 9)) {
        case 0:
            d.flags |= KVAPPEND_FLAG_ZERO_OFFSETS;
            break;
        case 1:
            d.flags |= KVAPPEND_FLAG_SHARED_OFFSET;
            break;
        case 2:
        case 3:
            d.flags |= d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR ? KVAPPEND_FLAG_LAST_PAGE_LENGTHS
                                                                     : KVAPPEND_FLAG_END_OFFSETS;
            break;
        default:
            break;
        }
    }
    if (!c.of_samples() && one_in(3)) {
        d.flags |= KVAPPEND_FLAG_RESERVED_PAGE;
        d.reserved_page = between(-1, 12);
    }
    d.flags |= c.of_samples() && one_in(2) ? KVAPPEND_FLAG_BATCH_INDEX : 0;
}

// Adds the pages of samples, and returns how many rows a sample may have.
std::int64_t Draw::add_tables(Call &c) {
    kvappend_descriptor &d = c.d;
    std::int64_t reach = d.cache_rows;
    if (d.addressing == KVAPPEND_ADDRESSING_PAGED) {
        d.table_entries = between(0, 4);
        reach *= d.table_entries;
        c.indices.page_table = ids(d.batch * d.table_entries, d.cache_blocks);
    } else if (d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
        d.table_entries = between(0, 12);
        reach *= d.table_entries / d.batch;
        c.indices.page_table = ids(d.table_entries, d.cache_blocks);
        c.indices.page_indptr = bounds(d.batch, d.table_entries);
    } else if (d.addressing == KVAPPEND_ADDRESSING_RING) {
        reach = 40;
    }
    return reach;
}

Call Draw::call() {
    Call c;
    kvappend_descriptor &d = c.d;
    d.backend = subject().backend();
    d.addressing = static_cast<std::int32_t>(between(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_SLOTS));
    d.offset_type = static_cast<std::int32_t>(between(KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32));
    const bool narrow = d.offset_type == KVAPPEND_OFFSET_INT32;
    d.index_type = static_cast<std::int32_t>(between(KVAPPEND_INDEX_INT32, KVAPPEND_INDEX_INT64));
    d.heads = d.k_dim = 1;
    d.cache_rows = between(1, 8);
    d.new_rows = between(1, 6);
    if (d.addressing == KVAPPEND_ADDRESSING_SLOTS) {
        add_slots(c);
        return c;
    }
    const bool of_samples = c.of_samples();
    d.batch = between(1, 4);
    d.lengths = static_cast<std::int32_t>(between(KVAPPEND_LENGTHS_FIXED, KVAPPEND_LENGTHS_PER_TOKEN));
    add_flags(c);
    d.sink_rows = d.addressing == KVAPPEND_ADDRESSING_RING ? between(0, d.cache_rows) : 0;
    d.cache_blocks = of_samples ? d.batch + between(0, 2) : between(1, 12);
    std::int64_t reach = add_tables(c);
    if (c.has(KVAPPEND_FLAG_BATCH_INDEX)) {
        c.indices.batch_index = ids(d.batch, d.cache_blocks);
    }
    if (c.packed()) {
        c.indices.lengths = bounds(d.batch, d.new_rows);
    }
    if (c.by_position()) {
        add_tokens(c, reach);
    }
    const std::int64_t shift = c.has(KVAPPEND_FLAG_END_OFFSETS) ? d.new_rows : 0;
    if (c.has(KVAPPEND_FLAG_LAST_PAGE_LENGTHS)) {
        reach = d.cache_rows + d.new_rows;
    }
    for (std::int64_t b = 0; b < d.batch; ++b) {
        c.indices.offsets.push_back(wide(shift, std::max<std::int64_t>(reach - d.new_rows, 0) + shift, narrow));
        if (c.has(KVAPPEND_FLAG_LEFT_PADS)) {
            c.indices.left_pads.push_back(index(0, c.packed() ? 1 : d.new_rows));
        }
        if (d.lengths == KVAPPEND_LENGTHS_PER_SAMPLE) {
            // A pad that is out of range leaves no length that is in it.
            c.indices.lengths.push_back(index(0, d.new_rows - std::clamp<std::int64_t>(c.pad(b), 0, d.new_rows)));
        }
    }
    if (c.has(KVAPPEND_FLAG_SHARED_OFFSET)) {
        c.indices.offsets.resize(1);
    }
    return c;
}

} // namespace

TEST_CASE("validate finds the faults of random calls, and no others", "[validate]") {
    auto random = seeded_random();
    std::map<kvappend_status, int> seen;
    for (int i = 0; i < 4000; ++i) {
        const Call c = Draw(random).call();
        INFO(c.text());
        const Faults faults = faults_of(c);
        const Validated call(c.d, c.indices);
        kvappend_fault found = KVAPPEND_FAULT_INIT;
        const kvappend_status status = call.validate(&found);
        INFO(told(status));
        const auto same = [&](const Finding &f) {
            return f.status == status && f.fault.index == found.index &&
                   (f.fault.array == nullptr) == (found.array == nullptr) &&
                   (found.array == nullptr || std::string(found.array) == f.fault.array);
        };
        const auto expected = std::ranges::find_if(faults, same);
        REQUIRE(expected != faults.end());
        call.check(*expected);
        ++seen[status];
    }
    // Each status came up, or the draw would be of little use.
    for (const kvappend_status status :
         {kvappend_status{KVAPPEND_SUCCESS}, kvappend_status{KVAPPEND_ERROR_INDEX_ORDER},
          kvappend_status{KVAPPEND_ERROR_INDEX_RANGE}, kvappend_status{KVAPPEND_ERROR_SKIPPED},
          kvappend_status{KVAPPEND_ERROR_DUPLICATE}}) {
        INFO(kvappend_status_name(status));
        CHECK(seen[status] > 100);
    }
}
