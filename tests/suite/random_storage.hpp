// SPDX-License-Identifier: Apache-2.0
// Random storage formats, and layouts of caches that have them: scales in a tensor of their own, at the end of each
// row, at the end of each block, or between the pieces of a row.
#pragma once

#include "draw.hpp"
#include "reference.hpp"
#include "reference_format.hpp"

#include <bit>
#include <numeric>

template <class Random>
class RandomStorage {
public:
    RandomStorage(Random &random, Scenario &scenario) : random_(random), draw_(random), scenario_(scenario) {}

    static bool serves(std::int32_t element_type) {
        return element_type == KVAPPEND_ELEMENT_F32 || element_type == KVAPPEND_ELEMENT_F16 ||
               element_type == KVAPPEND_ELEMENT_BF16;
    }

    // Draws how K and V are stored, and replaces the layouts of their caches. The extents have been drawn.
    void draw() {
        draw_one(k_cache, d_.v_dim == 0);
        draw_one(v_cache, reference_keeps_bits(d_.k_storage, d_.element_type) || d_.k_dim == 0);
        scenario_.tame = draw_.one_in(2);
        scenario_.k_global_scale = global_scale();
        scenario_.v_global_scale = global_scale();
    }

    // Draws how q_out is stored: codes of whole bytes, and given scales that are the same for all rows.
    kvappend_storage draw_query(std::int64_t heads, std::int64_t dim) {
        dim_ = dim;
        s_ = KVAPPEND_STORAGE_INIT;
        s_.type = draw_.template of<std::int32_t>({KVAPPEND_STORED_AS_IS, KVAPPEND_STORED_F32, KVAPPEND_STORED_F16,
                                                   KVAPPEND_STORED_BF16, KVAPPEND_STORED_E4M3, KVAPPEND_STORED_E4M3,
                                                   KVAPPEND_STORED_E5M2, KVAPPEND_STORED_INT8});
        draw_encoding({KVAPPEND_SCALING_NONE, KVAPPEND_SCALING_GIVEN, KVAPPEND_SCALING_GIVEN});
        s_.global_scale = 0;
        if (s_.scaling != KVAPPEND_SCALING_NONE) {
            draw_scales_apart({1, heads, 1, dim});
            s_.scale_strides[0] = s_.scale_strides[2] = 0;
        }
        return s_;
    }

    // Moves the begin of a cache, or of q_out, to where codes of any type are aligned.
    void align(TensorIndex cache) {
        BufferLocation &location = scenario_.locations[cache];
        const std::size_t start = (location.start + 3) / 4 * 4;
        scenario_.block_bytes[location.block] += start - location.start;
        location.start = start;
    }

    // Puts scales that lie within a cache there. The buffers have been placed.
    void place() {
        for (const TensorIndex cache : {k_cache, v_cache}) {
            if (storage_of(d_, cache) == nullptr) {
                continue;
            }
            align(cache);
            const BufferLocation &location = scenario_.locations[cache];
            std::size_t &bytes = scenario_.block_bytes[location.block];
            const std::size_t scales = scales_index_of(cache);
            if (within_[cache] >= 0 && asks_for(d_, scales)) {
                const std::size_t after = bytes - location.start - tensor_bytes(d_, cache);
                scenario_.block_bytes[scenario_.locations[scales].block] = 0;
                scenario_.locations[scales] = {location.block,
                                               location.start + static_cast<std::size_t>(within_[cache])};
                bytes = std::max(bytes, scenario_.locations[scales].start + scales_bytes(d_, cache) + after);
            }
        }
    }

private:
    Random &random_;
    Draw<Random> draw_;
    Scenario &scenario_;
    kvappend_descriptor &d_ = scenario_.descriptor;
    std::int64_t within_[tensor_count] = {}; // bytes from a cache to its scales, or -1

    // The cache that is being drawn.
    kvappend_storage s_{};
    std::int64_t dim_ = 0;
    std::int64_t groups_ = 0;
    std::int64_t scale_bytes_ = 0;

    static std::int64_t up(std::int64_t bytes) { return (bytes + 3) / 4 * 4; }
    std::int64_t gap() { return draw_.one_in(3) ? 4 * draw_.between(1, 3) : 0; }
    bool small() const { return s_.type >= KVAPPEND_STORED_E4M3; }
    bool nibbles() const { return s_.type == KVAPPEND_STORED_INT4 || s_.type == KVAPPEND_STORED_E2M1; }
    bool computed() const { return s_.scaling == KVAPPEND_SCALING_COMPUTED; }
    std::int64_t bytes_of(std::int64_t elements) const {
        return (elements * static_cast<std::int64_t>(reference_code_bits(s_.type)) + 7) / 8;
    }

    float global_scale() {
        return draw_.of({1.0F, 0.25F, 3.1F, 1e-3F, 0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN(),
                         std::numeric_limits<float>::infinity(), 1e-38F, 3e38F});
    }

    void draw_scaling(std::initializer_list<kvappend_scaling> scalings) {
        s_.scaling = draw_.of(scalings);
        if (s_.scaling == KVAPPEND_SCALING_NONE) {
            return;
        }
        s_.scale_use = draw_.of({KVAPPEND_SCALE_DIVIDE, KVAPPEND_SCALE_RECIPROCAL,
                                 computed() ? KVAPPEND_SCALE_UNROUNDED_RECIPROCAL : KVAPPEND_SCALE_MULTIPLY});
        s_.scale_type = draw_.of({KVAPPEND_SCALE_F32, KVAPPEND_SCALE_F16, KVAPPEND_SCALE_E4M3, KVAPPEND_SCALE_UE8M0});
        const bool only_powers = s_.scale_type == KVAPPEND_SCALE_UE8M0;
        if (computed() && (only_powers || (s_.scale_type == KVAPPEND_SCALE_F32 && draw_.one_in(2)))) {
            s_.scale_rounding = KVAPPEND_SCALE_POWER_OF_TWO;
        }
        if (computed()) {
            s_.amax_floor = draw_.of({0.0F, 0.0F, 1e-4F, 0.7F});
            s_.scale_floor = draw_.of({0.0F, 0.0F, 1e-6F, 0.1F, std::numeric_limits<float>::min()});
        }
        s_.global_scale = draw_.one_in(3) ? 1 : 0;
        const auto fits = [this](std::int64_t group) { return !computed() || group % 2 == 0 || group == dim_; };
        for (std::int64_t group = 1; group <= dim_; ++group) {
            if (dim_ % group == 0 && fits(group) && draw_.one_in(3)) {
                s_.group = group;
            }
        }
        groups_ = dim_ == 0 ? 0 : dim_ / reference_group(s_, dim_);
        scale_bytes_ = static_cast<std::int64_t>(reference_scale_bytes(s_.scale_type));
        if (nibbles() && reference_group(s_, dim_) % 2 == 0 && draw_.one_in(2)) {
            s_.nibbles = KVAPPEND_NIBBLES_HALVES;
        }
    }

    // How a row becomes codes of the type that has been drawn.
    void draw_encoding(std::initializer_list<kvappend_scaling> scalings) {
        groups_ = 0;
        if (s_.type == KVAPPEND_STORED_INT8 || s_.type == KVAPPEND_STORED_INT4) {
            s_.rounding = draw_.of({KVAPPEND_ROUNDING_HALF_EVEN, KVAPPEND_ROUNDING_HALF_AWAY});
        }
        if (small()) {
            draw_scaling(scalings);
        }
    }

    // `converts`: the cache must not keep the bits of the rows.
    void draw_one(TensorIndex cache, bool converts) {
        dim_ = cache == k_cache ? d_.k_dim : d_.v_dim;
        within_[cache] = -1;
        s_ = KVAPPEND_STORAGE_INIT;
        s_.type = draw_.template of<std::int32_t>({KVAPPEND_STORED_AS_IS, KVAPPEND_STORED_F32, KVAPPEND_STORED_F16,
                                                   KVAPPEND_STORED_BF16, KVAPPEND_STORED_E4M3, KVAPPEND_STORED_E4M3,
                                                   KVAPPEND_STORED_E5M2, KVAPPEND_STORED_INT8, KVAPPEND_STORED_INT4,
                                                   KVAPPEND_STORED_E2M1});
        if (converts && reference_keeps_bits(&s_, d_.element_type)) {
            s_.type = KVAPPEND_STORED_E4M3;
        }
        draw_encoding(
            {KVAPPEND_SCALING_NONE, KVAPPEND_SCALING_GIVEN, KVAPPEND_SCALING_COMPUTED, KVAPPEND_SCALING_COMPUTED});
        if (s_.type == KVAPPEND_STORED_AS_IS) {
            std::ranges::fill(cache == k_cache ? d_.k_cache_strides : d_.v_cache_strides, 0);
            pack(cache) = piece_stride(cache) = 0;
        } else {
            draw_layout(cache);
        }
        cache == k_cache ? scenario_.store_k(s_) : scenario_.store_v(s_);
    }

    std::int64_t &pack(TensorIndex cache) { return cache == k_cache ? d_.k_pack : d_.v_pack; }
    std::int64_t &piece_stride(TensorIndex cache) { return cache == k_cache ? d_.k_piece_stride : d_.v_piece_stride; }
    std::int64_t (&strides(TensorIndex cache))[3] { return cache == k_cache ? d_.k_cache_strides : d_.v_cache_strides; }

    // Lays out axes in any order around entries of `bytes` bytes, and returns their strides.
    template <std::size_t Count>
    std::array<std::int64_t, Count> lay_out(const std::array<std::int64_t, Count> &extents, std::int64_t bytes,
                                            std::int64_t unit) {
        std::array<std::size_t, Count> order;
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::ranges::shuffle(order, random_);
        std::array<std::int64_t, Count> out{};
        std::int64_t step = bytes;
        for (const std::size_t axis : order) {
            step = (step + (draw_.one_in(3) ? draw_.between(1, 9) : 0) + unit - 1) / unit * unit;
            out[axis] = step;
            step *= std::max<std::int64_t>(extents[axis], 1);
        }
        return out;
    }

    void draw_layout(TensorIndex cache) {
        const Extents e = reference_extents(d_, cache);
        pack(cache) = piece_stride(cache) = 0;
        std::ranges::fill(strides(cache), 0);
        const bool scaled = s_.scaling != KVAPPEND_SCALING_NONE;
        const bool by_four = scaled && scale_bytes_ == 1 && d_.cache_rows % 4 == 0 && draw_.one_in(2);
        if (scaled && by_four) {
            s_.scale_order = KVAPPEND_SCALE_BY_FOUR_ROWS;
            const auto tiles = lay_out<2>({e.batch, e.heads}, e.rows * groups_, 1);
            std::ranges::copy(tiles, s_.scale_strides);
        } else if (scaled && dim_ > 0 && draw_.one_in(2)) {
            draw_scales_within(cache, e);
            return;
        } else if (scaled) {
            draw_scales_apart(e);
        }
        draw_codes(cache, e);
    }

    void draw_scales_apart(const Extents &e) {
        const auto apart = lay_out<4>({e.batch, e.heads, e.rows, groups_}, scale_bytes_, scale_bytes_);
        std::ranges::copy(apart, s_.scale_strides);
        for (std::int64_t &stride : s_.scale_strides) {
            if (!computed() && draw_.one_in(3)) {
                stride = 0;
            }
        }
    }

    // Any order of axes, rows whole or in pieces, or contiguous.
    void draw_codes(TensorIndex cache, const Extents &e) {
        const std::int64_t unit = std::max<std::int64_t>(reference_code_bits(s_.type) / 8, 1);
        std::int64_t p = std::int64_t{1} << draw_.between(0, 5);
        const std::int64_t whole = s_.nibbles != 0 ? reference_group(s_, dim_) : nibbles() ? 2 : 1;
        const bool in_pieces = dim_ > 0 && dim_ % p == 0 && p % whole == 0 && draw_.one_in(2);
        pack(cache) = in_pieces ? p : 0;
        if (draw_.one_in(3)) {
            return;
        }
        if (in_pieces) {
            const auto out = lay_out<4>({e.batch, e.heads, e.rows, dim_ / p}, bytes_of(p), unit);
            std::copy_n(out.begin(), 3, strides(cache));
            piece_stride(cache) = out[3];
            return;
        }
        std::ranges::copy(lay_out<3>({e.batch, e.heads, e.rows}, bytes_of(dim_), unit), strides(cache));
    }

    // At the end of each row, at the end of each block, or after each piece, which is then a group.
    void draw_scales_within(TensorIndex cache, const Extents &e) {
        std::int64_t(&codes)[3] = strides(cache);
        std::int64_t(&scales)[4] = s_.scale_strides;
        const std::int64_t row_bytes = up(bytes_of(dim_));
        const std::int64_t group = reference_group(s_, dim_);
        scales[3] = scale_bytes_;
        if (draw_.one_in(3)) {
            codes[0] = e.heads * e.rows * (row_bytes + groups_ * scale_bytes_) + 3 + gap();
            codes[0] = up(codes[0]);
            codes[1] = e.rows * row_bytes;
            codes[2] = row_bytes;
            scales[0] = codes[0];
            scales[1] = e.rows * groups_ * scale_bytes_;
            scales[2] = groups_ * scale_bytes_;
            within_[cache] = e.heads * e.rows * row_bytes;
            return;
        }
        std::int64_t bytes = row_bytes + up(groups_ * scale_bytes_);
        within_[cache] = row_bytes;
        if (std::has_single_bit(static_cast<std::uint64_t>(group)) && (!nibbles() || group % 2 == 0) &&
            draw_.one_in(2)) {
            pack(cache) = group;
            within_[cache] = up(bytes_of(group));
            scales[3] = piece_stride(cache) = within_[cache] + 4;
            bytes = groups_ * scales[3];
        }
        const auto out = lay_out<3>({e.batch, e.heads, e.rows}, bytes, 4);
        std::ranges::copy(out, codes);
        std::ranges::copy(out, scales);
    }
};
