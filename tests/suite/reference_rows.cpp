// SPDX-License-Identifier: Apache-2.0
// Which rows there are, and the place of each, in the order and the words of kvappend.h.
#include "reference.hpp"

#include <algorithm>

namespace {

template <class T>
Wide entry(const std::vector<T> &array, Wide index) {
    return array.at(static_cast<std::size_t>(index));
}

bool flag(const Case &c, std::int32_t bit) {
    return (c.descriptor.flags & bit) != 0;
}

// How many rows of padding sample b begins with; a negative number is none.
Wide pad_of(const Case &c, Wide b) {
    return flag(c, KVAPPEND_FLAG_LEFT_PADS) ? std::max<Wide>(entry(c.left_pads, b), 0) : 0;
}

// The rows of tensors [B, H, L_new, D], in order.
std::vector<Row> rows_of_batch(const Case &c) {
    std::vector<Row> rows;
    for (std::int64_t b = 0; b < c.descriptor.batch; ++b) {
        const Wide length =
            c.descriptor.lengths == KVAPPEND_LENGTHS_PER_SAMPLE ? entry(c.lengths, b) : Wide{c.descriptor.new_rows};
        for (std::int64_t l = 0; l < c.descriptor.new_rows; ++l) {
            Row row{};
            row.batch = b;
            row.source = l;
            row.sample = b;
            row.row = l - pad_of(c, b);
            row.of_sample = row.row >= 0 && row.row < length;
            rows.push_back(row);
        }
    }
    return rows;
}

// The rows of tensors [T, H, D], in order.
std::vector<Row> rows_of_tokens(const Case &c) {
    std::vector<Row> rows;
    for (std::int64_t t = 0; t < c.descriptor.new_rows; ++t) {
        Row row{};
        row.source = t;
        for (std::int64_t b = 0; b < c.descriptor.batch; ++b) {
            if (entry(c.lengths, b) <= t && t < entry(c.lengths, b + 1)) {
                row.sample = b;
                row.row = t - std::max<Wide>(entry(c.lengths, b), 0) - pad_of(c, b);
                row.of_sample = row.row >= 0;
                break;
            }
        }
        rows.push_back(row);
    }
    return rows;
}

void put(Row &row, Wide block, Wide cache_row) {
    row.fate = Fate::written;
    row.block = static_cast<std::int64_t>(block);
    row.cache_row = static_cast<std::int64_t>(cache_row);
}

// The place of a row in a cache of its sample's, or of its batch_index.
void place_in_sample(const Case &c, Row &row) {
    const kvappend_descriptor &d = c.descriptor;
    const Wide n = flag(c, KVAPPEND_FLAG_BATCH_INDEX) ? entry(c.batch_index, row.sample) : Wide{row.sample};
    if (n < 0) {
        row.fate = Fate::padding;
        return;
    }
    if (row.position < 0) {
        row.fate = Fate::below;
        return;
    }
    row.fate = Fate::above;
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
void place_on_page(const Case &c, Row &row) {
    const kvappend_descriptor &d = c.descriptor;
    if (row.position < 0) {
        row.fate = Fate::below;
        return;
    }
    row.fate = Fate::above;
    if (d.cache_rows == 0) {
        return;
    }
    Wide i = row.position / d.cache_rows;
    if (d.addressing == KVAPPEND_ADDRESSING_PAGED) {
        if (i >= d.table_entries) {
            return;
        }
        i += Wide{row.sample} * (d.table_stride == 0 ? d.table_entries : d.table_stride);
    } else {
        i += entry(c.page_indptr, row.sample);
        if (i >= entry(c.page_indptr, row.sample + 1) || i < 0 || i >= d.table_entries) {
            return;
        }
    }
    const Wide n = entry(c.page_table, i);
    if (n >= 0 && n < d.cache_blocks) {
        put(row, n, row.position % d.cache_rows);
    }
}

void place_by_slot(const Case &c, Row &row) {
    const kvappend_descriptor &d = c.descriptor;
    row.position = entry(c.slots, row.source);
    if (row.position < 0 || (flag(c, KVAPPEND_FLAG_RESERVED_SLOT) && row.position == d.reserved_slot)) {
        row.fate = Fate::padding;
    } else if (d.cache_rows == 0 || row.position / d.cache_rows >= d.cache_blocks) {
        row.fate = Fate::above;
    } else {
        put(row, row.position / d.cache_rows, row.position % d.cache_rows);
    }
}

bool same_place(const Row &one, const Row &other) {
    return one.sample == other.sample && one.block == other.block && one.cache_row == other.cache_row;
}

} // namespace

std::vector<Row> reference_rows(const Case &c) {
    const kvappend_descriptor &d = c.descriptor;
    std::vector<Row> rows = d.lengths == KVAPPEND_LENGTHS_PACKED ? rows_of_tokens(c) : rows_of_batch(c);
    for (Row &row : rows) {
        if (!row.of_sample) {
            row.fate = Fate::padding;
        } else if (d.addressing == KVAPPEND_ADDRESSING_SLOTS) {
            place_by_slot(c, row);
        } else {
            row.position = row.row + (flag(c, KVAPPEND_FLAG_ZERO_OFFSETS) ? Wide{0} : entry(c.offsets, row.sample));
            if (d.addressing == KVAPPEND_ADDRESSING_DENSE || d.addressing == KVAPPEND_ADDRESSING_RING) {
                place_in_sample(c, row);
            } else {
                place_on_page(c, row);
            }
        }
    }
    if (d.addressing == KVAPPEND_ADDRESSING_RING) {
        for (std::size_t i = 0; i < rows.size(); ++i) {
            for (std::size_t later = i + 1; later < rows.size(); ++later) {
                if (rows[i].fate == Fate::written && rows[later].fate == Fate::written &&
                    same_place(rows[i], rows[later])) {
                    rows[i].fate = Fate::replaced;
                }
            }
        }
    }
    return rows;
}
