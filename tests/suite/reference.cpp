// SPDX-License-Identifier: Apache-2.0
// The tensors, and what is copied, advanced and counted by the outcome of each row.
#include "reference.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

namespace {

bool is_new(TensorIndex tensor) {
    return tensor == k_new || tensor == v_new;
}

// The tokens of SLOTS are taken to be packed, as there are no samples: contiguous tensors are [T, H, D].
bool is_of_tokens(const kvappend_descriptor &d) {
    return d.lengths == KVAPPEND_LENGTHS_PACKED || d.lengths == KVAPPEND_LENGTHS_PER_TOKEN ||
           d.addressing == KVAPPEND_ADDRESSING_SLOTS;
}

const std::int64_t *strides_of(const kvappend_descriptor &d, TensorIndex tensor) {
    switch (tensor) {
    case k_new:
        return d.k_new_strides;
    case v_new:
        return d.v_new_strides;
    case k_cache:
        return d.k_cache_strides;
    default:
        return d.v_cache_strides;
    }
}

void append_one_tensor(const Scenario &scenario, const std::vector<Row> &rows, TensorIndex from, TensorIndex to,
                       std::vector<std::vector<unsigned char>> &blocks) {
    const kvappend_descriptor &d = scenario.descriptor;
    const auto bytes = element_bytes(d.element_type);
    const auto at = [&](TensorIndex tensor, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t i) {
        return blocks[scenario.locations[tensor].block].data() + scenario.locations[tensor].start +
               static_cast<std::size_t>(reference_index(d, tensor, b, h, l, i)) * bytes;
    };
    for (const Row &row : rows) {
        if (row.outcome != Outcome::written) {
            continue;
        }
        for (std::int64_t h = 0; h < d.heads; ++h) {
            for (std::int64_t i = 0; i < reference_extents(d, from).dim; ++i) {
                std::memcpy(at(to, row.block, h, row.cache_row, i), at(from, row.batch, h, row.source, i), bytes);
            }
        }
    }
}

} // namespace

std::size_t element_bytes(std::int32_t element_type) {
    switch (element_type) {
    case KVAPPEND_ELEMENT_F64:
        return 8;
    case KVAPPEND_ELEMENT_F32:
        return 4;
    case KVAPPEND_ELEMENT_F16:
    case KVAPPEND_ELEMENT_BF16:
        return 2;
    default:
        return 1;
    }
}

Extents reference_extents(const kvappend_descriptor &d, TensorIndex tensor) {
    const std::int64_t dim = tensor == k_new || tensor == k_cache ? d.k_dim : d.v_dim;
    if (is_new(tensor)) {
        return {is_of_tokens(d) ? 1 : d.batch, d.heads, d.new_rows, dim};
    }
    const bool of_samples = d.addressing == KVAPPEND_ADDRESSING_DENSE || d.addressing == KVAPPEND_ADDRESSING_RING;
    return {of_samples && d.cache_blocks == 0 ? d.batch : d.cache_blocks, d.heads, d.cache_rows, dim};
}

std::int64_t reference_index(const kvappend_descriptor &d, TensorIndex tensor, std::int64_t b, std::int64_t h,
                             std::int64_t l, std::int64_t i) {
    const Extents e = reference_extents(d, tensor);
    const std::int64_t *const s = strides_of(d, tensor);
    const bool contiguous = s[0] == 0 && s[1] == 0 && s[2] == 0;
    if (is_new(tensor)) {
        if (is_of_tokens(d)) {
            return contiguous ? (l * e.heads + h) * e.dim + i : l * s[2] + h * s[1] + i;
        }
        return contiguous ? ((b * e.heads + h) * e.rows + l) * e.dim + i : b * s[0] + h * s[1] + l * s[2] + i;
    }
    const std::int64_t given_pack = tensor == k_cache ? d.k_pack : d.v_pack;
    if (given_pack == 0) {
        return contiguous ? ((b * e.heads + h) * e.rows + l) * e.dim + i : b * s[0] + h * s[1] + l * s[2] + i;
    }
    const std::int64_t piece = i / given_pack;
    const std::int64_t within = i % given_pack;
    if (contiguous) { // [N, H, D/pack, R, pack]
        return (((b * e.heads + h) * (e.dim / given_pack) + piece) * e.rows + l) * given_pack + within;
    }
    const std::int64_t piece_stride = tensor == k_cache ? d.k_piece_stride : d.v_piece_stride;
    return b * s[0] + h * s[1] + l * s[2] + piece * piece_stride + within;
}

std::size_t tensor_bytes(const kvappend_descriptor &d, TensorIndex tensor) {
    const Extents e = reference_extents(d, tensor);
    if (e.batch == 0 || e.heads == 0 || e.rows == 0 || e.dim == 0) {
        return 0;
    }
    return static_cast<std::size_t>(reference_index(d, tensor, e.batch - 1, e.heads - 1, e.rows - 1, e.dim - 1) + 1) *
           element_bytes(d.element_type);
}

bool places_differ(const std::vector<Row> &rows) {
    std::set<std::pair<std::int64_t, std::int64_t>> places;
    return std::ranges::all_of(rows, [&](const Row &row) {
        return row.outcome != Outcome::written || places.emplace(row.block, row.cache_row).second;
    });
}

void reference_append(const Scenario &scenario, std::vector<std::vector<unsigned char>> &blocks) {
    const std::vector<Row> rows = reference_rows(scenario);
    append_one_tensor(scenario, rows, k_new, k_cache, blocks);
    append_one_tensor(scenario, rows, v_new, v_cache, blocks);
}

std::vector<std::int64_t> reference_advance(const Scenario &scenario) {
    const std::int64_t most = scenario.descriptor.offset_type == KVAPPEND_OFFSET_INT64
                                  ? std::numeric_limits<std::int64_t>::max()
                                  : std::numeric_limits<std::int32_t>::max();
    std::vector<std::int64_t> advanced;
    if ((scenario.descriptor.flags & KVAPPEND_FLAG_SHARED_OFFSET) != 0) {
        const std::int64_t offset = scenario.offsets.at(0);
        const Wide sum = Wide{offset} + scenario.descriptor.new_rows;
        advanced.push_back(sum <= 0 ? offset : static_cast<std::int64_t>(std::min<Wide>(sum, most)));
        return advanced;
    }
    for (std::size_t b = 0; b < scenario.offsets.size(); ++b) {
        Wide rows = 0;
        Wide below = 0;
        for (const Row &row : reference_rows(scenario)) {
            if (row.of_sample && row.sample == static_cast<std::int64_t>(b)) {
                rows += 1;
                below += scenario.offsets[b] + row.row < 0;
            }
        }
        const bool excluded =
            (scenario.descriptor.flags & KVAPPEND_FLAG_BATCH_INDEX) != 0 && scenario.batch_index[b] < 0;
        const bool left_out = excluded || below == rows;
        advanced.push_back(left_out ? scenario.offsets[b]
                                    : static_cast<std::int64_t>(std::min<Wide>(scenario.offsets[b] + rows, most)));
    }
    return advanced;
}

void reference_report(const Scenario &scenario, kvappend_report &report) {
    if ((scenario.descriptor.flags & KVAPPEND_FLAG_RESET_REPORT) != 0) {
        const std::size_t struct_size = report.struct_size;
        report = {};
        report.struct_size = struct_size;
    }
    // A first row below or above stays the first for all later runs.
    bool has_first = report.rows_below + report.rows_above > 0;
    const Row *first = nullptr;
    const std::vector<Row> rows = reference_rows(scenario);
    for (const Row &row : rows) {
        report.rows_written +=
            row.outcome == Outcome::written && (scenario.descriptor.flags & KVAPPEND_FLAG_COUNT_WRITTEN) != 0;
        report.rows_replaced += row.outcome == Outcome::replaced;
        report.rows_padding += row.outcome == Outcome::padding;
        report.rows_below += row.outcome == Outcome::below;
        report.rows_above += row.outcome == Outcome::above;
        if (row.outcome != Outcome::below && row.outcome != Outcome::above) {
            continue;
        }
        const bool earlier =
            first == nullptr || row.sample < first->sample || (row.sample == first->sample && row.row < first->row);
        // The rows of tokens are in the order of the tokens.
        if (scenario.descriptor.lengths == KVAPPEND_LENGTHS_PER_TOKEN ? first == nullptr : earlier) {
            first = &row;
        }
    }
    if (first != nullptr && !has_first) {
        report.first_sample = first->sample;
        report.first_row = static_cast<std::int64_t>(first->row);
        report.first_position = static_cast<std::int64_t>(std::clamp<Wide>(
            first->position, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()));
    }
}
