// SPDX-License-Identifier: Apache-2.0
// Which rows there are, and the place of each, in the order and the words of kvappend.h.
#include "reference.hpp"

#include <algorithm>

namespace {

template <class T>
Wide entry(const std::vector<T> &array, Wide index) {
    return array.at(static_cast<std::size_t>(index));
}

bool flag(const Scenario &scenario, std::int32_t bit) {
    return (scenario.descriptor.flags & bit) != 0;
}

// How many rows of padding sample b begins with; a negative number is none.
Wide pad_of(const Scenario &scenario, Wide b) {
    return flag(scenario, KVAPPEND_FLAG_LEFT_PADS) ? std::max<Wide>(entry(scenario.left_pads, b), 0) : 0;
}

// The rows of tensors [B, H, L_new, D], in order.
std::vector<Row> rows_of_batch(const Scenario &scenario) {
    std::vector<Row> rows;
    for (std::int64_t b = 0; b < scenario.descriptor.batch; ++b) {
        const Wide length = scenario.descriptor.lengths == KVAPPEND_LENGTHS_PER_SAMPLE
                                ? entry(scenario.lengths, b)
                                : Wide{scenario.descriptor.new_rows};
        for (std::int64_t l = 0; l < scenario.descriptor.new_rows; ++l) {
            Row row{};
            row.batch = b;
            row.source = l;
            row.sample = b;
            row.row = l - pad_of(scenario, b);
            row.of_sample = row.row >= 0 && row.row < length;
            rows.push_back(row);
        }
    }
    return rows;
}

// The rows of tensors [T, H, D], in order.
std::vector<Row> rows_of_tokens(const Scenario &scenario) {
    std::vector<Row> rows;
    for (std::int64_t t = 0; t < scenario.descriptor.new_rows; ++t) {
        Row row{};
        row.source = t;
        for (std::int64_t b = 0; b < scenario.descriptor.batch; ++b) {
            if (entry(scenario.lengths, b) <= t && t < entry(scenario.lengths, b + 1)) {
                row.sample = b;
                row.row = t - std::max<Wide>(entry(scenario.lengths, b), 0) - pad_of(scenario, b);
                row.of_sample = row.row >= 0;
                break;
            }
        }
        rows.push_back(row);
    }
    return rows;
}

// How many rows there are of the row's sample.
Wide length_of(const std::vector<Row> &rows, std::int64_t sample) {
    return std::ranges::count_if(rows, [&](const Row &row) { return row.of_sample && row.sample == sample; });
}

// Tokens that have a sample and a position each, in order.
std::vector<Row> rows_by_position(const Scenario &scenario) {
    std::vector<Row> rows;
    for (std::int64_t t = 0; t < scenario.descriptor.new_rows; ++t) {
        Row row{};
        row.source = t;
        row.row = t;
        row.sample = static_cast<std::int64_t>(entry(scenario.token_samples, t));
        row.position = entry(scenario.token_positions, t);
        const bool counted = !flag(scenario, KVAPPEND_FLAG_TOKEN_COUNT) || t < scenario.token_count.at(0);
        row.of_sample = counted && row.sample >= 0 && row.position >= 0;
        rows.push_back(row);
    }
    return rows;
}

// The position of a row by its sample's offset.
Wide position_of(const Scenario &scenario, const std::vector<Row> &rows, const Row &row) {
    if (flag(scenario, KVAPPEND_FLAG_ZERO_OFFSETS)) {
        return row.row;
    }
    const Wide offset = entry(scenario.offsets, flag(scenario, KVAPPEND_FLAG_SHARED_OFFSET) ? 0 : row.sample);
    if (flag(scenario, KVAPPEND_FLAG_END_OFFSETS)) {
        return offset - length_of(rows, row.sample) + row.row;
    }
    if (flag(scenario, KVAPPEND_FLAG_LAST_PAGE_LENGTHS)) {
        const Wide pages =
            std::clamp<Wide>(entry(scenario.page_indptr, row.sample + 1) - entry(scenario.page_indptr, row.sample), 1,
                             std::max<Wide>(scenario.descriptor.table_entries, 1));
        return (pages - 1) * scenario.descriptor.cache_rows + offset - length_of(rows, row.sample) + row.row;
    }
    return offset + row.row;
}

void put(Row &row, Wide block, Wide cache_row) {
    row.outcome = Outcome::written;
    row.block = static_cast<std::int64_t>(block);
    row.cache_row = static_cast<std::int64_t>(cache_row);
}

// The place of a row in a cache of its sample's, or of its batch_index.
void place_in_sample(const Scenario &scenario, Row &row) {
    const kvappend_descriptor &d = scenario.descriptor;
    if (row.sample >= d.batch) { // of a token alone
        row.outcome = Outcome::above;
        return;
    }
    const Wide n =
        flag(scenario, KVAPPEND_FLAG_BATCH_INDEX) ? entry(scenario.batch_index, row.sample) : Wide{row.sample};
    if (n < 0) {
        row.outcome = Outcome::padding;
        return;
    }
    if (row.position < 0) {
        row.outcome = Outcome::below;
        return;
    }
    row.outcome = Outcome::above;
    if (n >= reference_extents(d, k_cache).batch) {
        return;
    }
    if (d.addressing == KVAPPEND_ADDRESSING_DENSE || row.position < d.sink_rows) {
        if (row.position < d.cache_rows) {
            put(row, n, row.position);
        }
    } else if (d.sink_rows < d.cache_rows) { // Else there is no row to go round in.
        put(row, n, d.sink_rows + (row.position - d.sink_rows) % (d.cache_rows - d.sink_rows));
    }
}

// The place of a row on a page of its sample's table.
void place_on_page(const Scenario &scenario, Row &row) {
    const kvappend_descriptor &d = scenario.descriptor;
    if (row.position < 0) {
        row.outcome = Outcome::below;
        return;
    }
    row.outcome = Outcome::above;
    if (d.cache_rows == 0 || row.sample >= d.batch) {
        return;
    }
    Wide i = row.position / d.cache_rows;
    if (d.addressing == KVAPPEND_ADDRESSING_PAGED) {
        if (i >= d.table_entries) {
            return;
        }
        i += Wide{row.sample} * (d.table_stride == 0 ? d.table_entries : d.table_stride);
    } else {
        i += entry(scenario.page_indptr, row.sample);
        if (i >= entry(scenario.page_indptr, row.sample + 1) || i < 0 || i >= d.table_entries) {
            return;
        }
    }
    const Wide n = entry(scenario.page_table, i);
    if (flag(scenario, KVAPPEND_FLAG_RESERVED_PAGE) && n == d.reserved_page) {
        row.outcome = Outcome::padding;
    } else if (n >= 0 && n < d.cache_blocks) {
        put(row, n, row.position % d.cache_rows);
    }
}

void place_by_slot(const Scenario &scenario, const std::vector<std::int64_t> &slots, Row &row) {
    const kvappend_descriptor &d = scenario.descriptor;
    row.position = entry(slots, row.source);
    const bool counted = !flag(scenario, KVAPPEND_FLAG_TOKEN_COUNT) || row.source < scenario.token_count.at(0);
    if (!counted || row.position < 0 ||
        (flag(scenario, KVAPPEND_FLAG_RESERVED_SLOT) && row.position == d.reserved_slot)) {
        row.outcome = Outcome::padding;
    } else if (d.cache_rows == 0 || row.position / d.cache_rows >= d.cache_blocks) {
        row.outcome = Outcome::above;
    } else {
        put(row, row.position / d.cache_rows, row.position % d.cache_rows);
    }
}

// A row goes to its slot. In a move it comes from another, and is skipped unless both are places of the cache.
void place_by_slots(const Scenario &scenario, Row &row) {
    place_by_slot(scenario, scenario.slots, row);
    if (!scenario.moves()) {
        return;
    }
    Row from = row;
    place_by_slot(scenario, scenario.from_slots, from);
    row.from_block = from.block;
    row.from_row = from.cache_row;
    if (row.outcome != Outcome::padding && from.outcome != Outcome::written) {
        row.outcome = from.outcome;
        row.position = from.position;
    }
}

// The rotary tables may lack the position of a row that has a place. The Q of a row that another replaces is rotated,
// too, if the tables have its position.
void bound_by_tables(const Scenario &scenario, Row &row) {
    const kvappend_descriptor &d = scenario.descriptor;
    if (d.rotary == nullptr || (row.outcome != Outcome::written && row.outcome != Outcome::replaced)) {
        return;
    }
    const bool tokens = d.addressing == KVAPPEND_ADDRESSING_SLOTS || d.lengths == KVAPPEND_LENGTHS_PACKED ||
                        d.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
    const Wide position =
        flag(scenario, KVAPPEND_FLAG_POSITIONS)
            ? entry(scenario.positions, tokens ? Wide{row.source} : Wide{row.batch} * d.new_rows + row.source)
            : row.position;
    row.rotates_q = position >= 0 && position < d.rotary->table_rows;
    if (row.rotates_q) {
        row.rotation = static_cast<std::int64_t>(position);
    } else if (row.outcome == Outcome::written) {
        row.outcome = position < 0 ? Outcome::below : Outcome::above;
        row.position = position;
    }
}

bool same_place(const Row &one, const Row &other) {
    return one.sample == other.sample && one.block == other.block && one.cache_row == other.cache_row;
}

} // namespace

std::vector<Row> reference_rows(const Scenario &scenario) {
    const kvappend_descriptor &d = scenario.descriptor;
    const bool by_position = d.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
    std::vector<Row> rows = by_position                            ? rows_by_position(scenario)
                            : d.lengths == KVAPPEND_LENGTHS_PACKED ? rows_of_tokens(scenario)
                                                                   : rows_of_batch(scenario);
    for (Row &row : rows) {
        if (!row.of_sample) {
            row.outcome = Outcome::padding;
        } else if (d.addressing == KVAPPEND_ADDRESSING_SLOTS) {
            place_by_slots(scenario, row);
        } else {
            if (!by_position) {
                row.position = position_of(scenario, rows, row);
            }
            if (d.addressing == KVAPPEND_ADDRESSING_DENSE || d.addressing == KVAPPEND_ADDRESSING_RING) {
                place_in_sample(scenario, row);
            } else {
                place_on_page(scenario, row);
            }
        }
    }
    if (d.addressing == KVAPPEND_ADDRESSING_RING && !by_position) {
        for (std::size_t i = 0; i < rows.size(); ++i) {
            for (std::size_t later = i + 1; later < rows.size(); ++later) {
                if (rows[i].outcome == Outcome::written && rows[later].outcome == Outcome::written &&
                    same_place(rows[i], rows[later])) {
                    rows[i].outcome = Outcome::replaced;
                }
            }
        }
    }
    for (Row &row : rows) {
        bound_by_tables(scenario, row);
    }
    return rows;
}
