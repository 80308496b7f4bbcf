// SPDX-License-Identifier: Apache-2.0
#include "pieces.hpp"

#include <optional>

namespace {

struct CacheRow {
    std::int64_t block;
    std::int64_t row;
};

// Of new row l of a sample with so many rows; none if a later row comes to the same place of a ring.
std::optional<CacheRow> cache_row_of(const Workload &workload, const Indices &indices, std::size_t sample,
                                     std::int64_t l, std::int64_t rows) {
    const kvappend_descriptor &d = workload.descriptor;
    if (d.addressing == KVAPPEND_ADDRESSING_SLOTS) {
        const std::int64_t slot = indices.places[static_cast<std::size_t>(l)];
        return CacheRow{slot / d.cache_rows, slot % d.cache_rows};
    }
    const std::int64_t position = indices.places[sample] + l;
    const auto block = static_cast<std::int64_t>(sample);
    switch (d.addressing) {
    case KVAPPEND_ADDRESSING_DENSE:
        return CacheRow{block, position};
    case KVAPPEND_ADDRESSING_RING: {
        const std::int64_t window = d.cache_rows - d.sink_rows;
        if (position < d.sink_rows) {
            return CacheRow{block, position};
        }
        if (l + window < rows) {
            return std::nullopt;
        }
        return CacheRow{block, d.sink_rows + (position - d.sink_rows) % window};
    }
    default: {
        const auto entry = static_cast<std::size_t>(workload.page_indptr[sample] + position / d.cache_rows);
        return CacheRow{workload.page_table[entry], position % d.cache_rows};
    }
    }
}

void add(std::vector<Piece> &pieces, const Piece &piece) {
    if (!pieces.empty()) {
        Piece &last = pieces.back();
        if (last.from + last.bytes == piece.from && last.to + last.bytes == piece.to) {
            last.bytes += piece.bytes;
            return;
        }
    }
    pieces.push_back(piece);
}

} // namespace

std::vector<Piece> pieces_of(const Workload &workload, const Indices &indices) {
    const kvappend_descriptor &d = workload.descriptor;
    const bool packed = d.lengths == KVAPPEND_LENGTHS_PACKED;
    const struct {
        const Rows &rows;
        std::size_t new_at, cache_at;
    } tensors[] = {{workload.k, 0, 0}, {workload.v, workload.v_new_at, workload.v_cache_at}};

    std::vector<Piece> pieces;
    for (const auto &[tensor, new_at, cache_at] : tensors) {
        for (std::size_t sample = 0; sample < static_cast<std::size_t>(d.batch); ++sample) {
            const std::int64_t first = packed ? indices.lengths[sample] : 0;
            const std::int64_t rows = packed ? indices.lengths[sample + 1] - first : d.new_rows;
            const std::int64_t from = packed ? 0 : static_cast<std::int64_t>(sample) * tensor.new_batch;
            for (std::int64_t h = 0; h < tensor.heads; ++h) {
                for (std::int64_t l = 0; l < rows; ++l) {
                    const auto place = cache_row_of(workload, indices, sample, l, rows);
                    if (!place) {
                        continue;
                    }
                    const std::size_t fresh =
                        new_at + static_cast<std::size_t>(from + h * tensor.new_head + (first + l) * tensor.new_row);
                    const std::size_t cache =
                        cache_at + static_cast<std::size_t>(place->block * tensor.block + h * tensor.head +
                                                            place->row * tensor.row);
                    const bool gathers = workload.gathers();
                    add(pieces, {gathers ? cache : fresh, gathers ? fresh : cache, tensor.bytes});
                }
            }
        }
    }
    return pieces;
}

std::vector<std::int32_t> samples_of_tokens(const Indices &indices) {
    std::vector<std::int32_t> samples;
    for (std::size_t sample = 0; sample + 1 < indices.lengths.size(); ++sample) {
        samples.insert(samples.end(), static_cast<std::size_t>(indices.lengths[sample + 1] - indices.lengths[sample]),
                       static_cast<std::int32_t>(sample));
    }
    return samples;
}
