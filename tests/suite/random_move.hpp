// SPDX-License-Identifier: Apache-2.0
// Random moves: chains, swaps, rows that stay, rows that go to several places, samples that do not write places of
// other samples, and slots that are padding or do not exist.
#pragma once

#include "draw.hpp"
#include "random_storage.hpp"
#include "reference.hpp"

#include <vector>

template <class Random>
class RandomMove {
public:
    explicit RandomMove(Random &random) : random_(random), draw_(random) {}

    Scenario draw(bool converts) {
        do {
            scenario_ = Scenario{};
            draw_extents(converts);
            draw_layouts(converts);
        } while (!scales_keep_apart(k_cache) || !scales_keep_apart(v_cache));
        draw_samples();
        draw_slots();
        scenario_.pass_sizes = !draw_.one_in(4);
        const bool guarded = draw_.one_in(2);
        place_apart(scenario_, guarded ? 256 : 0, guarded ? 256 : 0);
        for (const TensorIndex cache : {k_cache, v_cache}) {
            const auto shift = static_cast<std::size_t>(draw_.template of<std::int64_t>({0, 0, 1, 2, 3, 4, 8})) *
                               element_bytes(d_.element_type);
            scenario_.locations[cache].start += shift;
            scenario_.block_bytes[cache] += shift;
        }
        if (converts) {
            storage_.place();
        }
        return scenario_;
    }

private:
    Random &random_;
    Draw<Random> draw_;
    Scenario scenario_;
    kvappend_descriptor &d_ = scenario_.descriptor;
    RandomStorage<Random> storage_{random_, scenario_};

    void draw_extents(bool converts) {
        d_.operation = KVAPPEND_OPERATION_MOVE;
        d_.addressing = KVAPPEND_ADDRESSING_SLOTS;
        d_.element_type = converts ? draw_.of({KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16})
                                   : draw_.element_type();
        d_.offset_type = draw_.of({KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32});
        d_.index_type = draw_.of({KVAPPEND_INDEX_INT64, KVAPPEND_INDEX_INT32});
        d_.heads = draw_.template of<std::int64_t>({1, 2, 3, 8});
        d_.new_rows = draw_.template of<std::int64_t>({1, 2, 3, 4, 5, 7, 8, 9, 20, 33, 70});
        d_.cache_rows = draw_.template of<std::int64_t>({1, 2, 3, 4, 5, 8, 16});
        d_.cache_blocks = draw_.between(1, 6);
        d_.k_dim = draw_.template of<std::int64_t>({0, 1, 3, 8, 16, 23, 40, 128});
        d_.v_dim = d_.k_dim == 0 ? 8 : draw_.template of<std::int64_t>({0, 2, 5, 16, 80, d_.k_dim});
        d_.skip_policy = draw_.of({KVAPPEND_SKIP_SILENTLY, KVAPPEND_SKIP_REPORT});
        if (d_.skip_policy == KVAPPEND_SKIP_REPORT) {
            d_.flags |= draw_.one_in(2) ? KVAPPEND_FLAG_COUNT_WRITTEN : 0;
            d_.flags |= draw_.one_in(2) ? KVAPPEND_FLAG_RESET_REPORT : 0;
        }
        d_.flags |= draw_.one_in(3) ? KVAPPEND_FLAG_RESERVED_SLOT : 0;
        d_.flags |= draw_.one_in(3) ? KVAPPEND_FLAG_TOKEN_COUNT : 0;
        if (subject().backend() == KVAPPEND_BACKEND_CUDA && draw_.one_in(3)) {
            d_.flags |= KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH;
        }
        scenario_.host_threads = subject().backend() == KVAPPEND_BACKEND_HOST && draw_.one_in(8) ? 2 : 0;
    }

    void draw_layouts(bool converts) {
        const std::int64_t held[3] = {d_.cache_blocks, d_.heads, d_.cache_rows};
        draw_.strides(d_.k_cache_strides, held, d_.k_dim, false);
        draw_.strides(d_.v_cache_strides, held, d_.v_dim, false);
        draw_pieces(d_.k_dim, d_.k_pack, d_.k_cache_strides);
        draw_pieces(d_.v_dim, d_.v_pack, d_.v_cache_strides);
        if (converts) {
            storage_.draw();
            scenario_.tame = false; // There are no new rows. Codes and scales may have any value.
        }
    }

    // Sometimes a contiguous cache whose rows lie in pieces.
    void draw_pieces(std::int64_t dim, std::int64_t &pack, std::int64_t (&strides)[3]) {
        const std::int64_t pieces = std::int64_t{1} << draw_.between(0, 4);
        if (dim > 0 && dim % pieces == 0 && draw_.one_in(3)) {
            pack = pieces;
            std::ranges::fill(strides, 0);
        }
    }

    // Whether the rows of any two places share all of their scales or none of them.
    bool scales_keep_apart(TensorIndex cache) const {
        const kvappend_storage *const storage = storage_of(d_, cache);
        if (storage == nullptr || storage->scaling == KVAPPEND_SCALING_NONE || !scales_vary(d_, cache)) {
            return true;
        }
        const bool by_row =
            d_.cache_rows == 1 || storage->scale_strides[2] != 0 || storage->scale_order == KVAPPEND_SCALE_BY_FOUR_ROWS;
        return by_row && (d_.cache_blocks == 1 || storage->scale_strides[0] != 0);
    }

    void draw_samples() {
        d_.batch = 1;
        if (draw_.one_in(2)) {
            return;
        }
        d_.lengths = KVAPPEND_LENGTHS_PACKED;
        d_.batch = draw_.between(1, 5);
        for (std::int64_t b = 0; b <= d_.batch; ++b) {
            scenario_.lengths.push_back(
                draw_.between(draw_.one_in(8) ? -3 : 0, d_.new_rows + (draw_.one_in(8) ? 3 : 0)));
        }
        std::ranges::sort(scenario_.lengths);
    }

    // Each slot belongs to one sample or to none. A sample may read and write its own slots. Every sample may read
    // slots that belong to none.
    void draw_slots() {
        const std::int64_t count = d_.cache_blocks * d_.cache_rows;
        d_.reserved_slot = (d_.flags & KVAPPEND_FLAG_RESERVED_SLOT) != 0 ? draw_.between(0, count) : 0;
        if ((d_.flags & KVAPPEND_FLAG_TOKEN_COUNT) != 0) {
            scenario_.token_count.push_back(draw_.between(draw_.one_in(8) ? -1 : 0, d_.new_rows + 1));
        }
        std::vector<std::vector<std::int64_t>> readable(static_cast<std::size_t>(d_.batch));
        std::vector<std::vector<std::int64_t>> writable(static_cast<std::size_t>(d_.batch));
        const std::int64_t used = draw_.between(1, count); // few slots make long chains
        for (std::int64_t slot = 0; slot < used; ++slot) {
            const std::int64_t owner = draw_.between(draw_.one_in(4) ? -1 : 0, d_.batch - 1);
            for (std::int64_t b = 0; b < d_.batch; ++b) {
                if (owner == b || owner == -1) {
                    readable[static_cast<std::size_t>(b)].push_back(slot);
                }
                if (owner == b) {
                    writable[static_cast<std::size_t>(b)].push_back(slot);
                }
            }
        }
        for (std::int64_t t = 0; t < d_.new_rows; ++t) {
            std::size_t sample = 0;
            for (std::size_t b = 0; d_.lengths == KVAPPEND_LENGTHS_PACKED && b < readable.size(); ++b) {
                sample = scenario_.lengths[b] <= t ? b : sample;
            }
            scenario_.from_slots.push_back(slot_of(readable[sample]));
            scenario_.slots.push_back(slot_of(writable[sample]));
        }
    }

    std::int64_t slot_of(const std::vector<std::int64_t> &slots) {
        const std::int64_t count = d_.cache_blocks * d_.cache_rows;
        if (slots.empty() || draw_.one_in(10)) {
            const bool narrow = d_.offset_type == KVAPPEND_OFFSET_INT32;
            return draw_.template of<std::int64_t>(
                {-1, -2, count, count + 1,
                 narrow ? std::numeric_limits<std::int32_t>::max() : std::numeric_limits<std::int64_t>::max(),
                 narrow ? std::numeric_limits<std::int32_t>::min() : std::numeric_limits<std::int64_t>::min()});
        }
        return slots[static_cast<std::size_t>(draw_.between(0, static_cast<std::int64_t>(slots.size()) - 1))];
    }
};
