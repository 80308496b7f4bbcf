// SPDX-License-Identifier: Apache-2.0
// Moderate numbers for new rows and given scales. Random bits are mostly numbers that overflow or vanish.
#pragma once

#include "reference.hpp"
#include "reference_format.hpp"
#include "reference_rotation.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <random>

// The bits of a number in an element type. It has few bits of mantissa, so it is exact in all of them.
inline std::uint32_t bits_of_number(std::int32_t element_type, float number) {
    const auto bits = std::bit_cast<std::uint32_t>(number);
    switch (element_type) {
    case KVAPPEND_ELEMENT_F32:
        return bits;
    case KVAPPEND_ELEMENT_BF16:
        return bits >> 16;
    default: { // F16; the number is 0 or normal
        const std::uint32_t magnitude = bits & 0x7fffffff;
        return (bits >> 16 & 0x8000) | (magnitude == 0 ? 0 : (magnitude >> 13) - (112U << 10));
    }
    }
}

// A number of seven bits of mantissa, from 2^-6 to 2^6, or 0, or rarely one that is not moderate.
template <class Random>
std::uint32_t tame_bits(std::int32_t element_type, Random &random) {
    const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
    switch (draw(0, 40)) {
    case 0:
        return 0;
    case 1:
        return static_cast<std::uint32_t>(random()); // any bits
    default: {
        const float number = std::ldexp(1 + static_cast<float>(draw(0, 127)) / 128, draw(-6, 5));
        return bits_of_number(element_type, draw(0, 1) != 0 ? -number : number);
    }
    }
}

template <class Random>
std::uint32_t tame_scale(std::int32_t scale_type, Random &random) {
    const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
    switch (scale_type) {
    case KVAPPEND_SCALE_F32:
        return bits_of_number(KVAPPEND_ELEMENT_F32,
                              std::ldexp(1 + static_cast<float>(draw(0, 1 << 20)) / (1 << 20), draw(-9, 2)));
    case KVAPPEND_SCALE_F16:
        return bits_of_number(KVAPPEND_ELEMENT_F16,
                              std::ldexp(1 + static_cast<float>(draw(0, 127)) / 128, draw(-9, 2)));
    case KVAPPEND_SCALE_E4M3:
        return static_cast<std::uint32_t>(draw(1, 0x7e));
    default:
        return static_cast<std::uint32_t>(draw(118, 129));
    }
}

template <class Act>
void for_each_element(const Extents &e, Act act) {
    for (std::int64_t b = 0; b < e.batch; ++b) {
        for (std::int64_t h = 0; h < e.heads; ++h) {
            for (std::int64_t l = 0; l < e.rows; ++l) {
                for (std::int64_t i = 0; i < e.dim; ++i) {
                    act(b, h, l, i);
                }
            }
        }
    }
}

// The new rows of floating-point elements.
template <class Random>
void put_tame_rows(const Scenario &scenario, Random &random, std::vector<std::vector<unsigned char>> &blocks) {
    const kvappend_descriptor &d = scenario.descriptor;
    const std::size_t width = element_bytes(d.element_type);
    for (const TensorIndex tensor : {k_new, v_new, q_rows}) {
        for_each_element(reference_extents(d, tensor), [&](auto b, auto h, auto l, auto i) {
            const std::uint32_t bits = tame_bits(d.element_type, random);
            const BufferLocation &location = scenario.locations[tensor];
            const auto index = static_cast<std::size_t>(reference_index(d, tensor, b, h, l, i));
            std::memcpy(&blocks[location.block][location.start + index * width], &bits, width);
        });
    }
}

// Rotary tables of angles, as far as few bits of mantissa go.
template <class Random>
void put_tame_tables(const Scenario &scenario, Random &random, std::vector<std::vector<unsigned char>> &blocks) {
    const kvappend_rotary *const r = scenario.descriptor.rotary;
    for (std::int64_t p = 0; r != nullptr && p < r->table_rows; ++p) {
        for (std::int64_t pair = 0; pair < r->dim / 2; ++pair) {
            for (const std::size_t table : {rotary_cos_index, rotary_sin_index}) {
                const auto numerator = std::uniform_int_distribution<int>(-128, 128)(random);
                const std::uint32_t bits = bits_of_number(r->table_type, static_cast<float>(numerator) / 128);
                const BufferLocation &location = scenario.locations[table];
                std::memcpy(&blocks[location.block][location.start + reference_table_byte(*r, p, pair)], &bits,
                            element_bytes(r->table_type));
            }
        }
    }
}

// Sets each given scale to the bits that draw(scale_type, bits) makes of its bits.
template <class Draw>
void put_given_scales(const Scenario &scenario, std::vector<std::vector<unsigned char>> &blocks, Draw draw) {
    const kvappend_descriptor &d = scenario.descriptor;
    for (const TensorIndex cache : {k_cache, v_cache, q_out}) {
        const kvappend_storage *const storage = storage_of(d, cache);
        const std::size_t buffer = scales_index_of(cache);
        if (storage == nullptr || storage->scaling != KVAPPEND_SCALING_GIVEN || !asks_for(d, buffer)) {
            continue;
        }
        Extents e = reference_extents(d, cache);
        e.dim = e.dim == 0 ? 0 : e.dim / reference_group(*storage, e.dim);
        for_each_element(e, [&](auto n, auto h, auto r, auto group) {
            const BufferLocation &location = scenario.locations[buffer];
            const auto byte = static_cast<std::size_t>(reference_scale(d, cache, n, h, r, group));
            unsigned char *const scale = &blocks[location.block][location.start + byte];
            const std::size_t bytes = reference_scale_bytes(storage->scale_type);
            std::uint32_t bits = 0;
            std::memcpy(&bits, scale, bytes);
            bits = draw(storage->scale_type, bits);
            std::memcpy(scale, &bits, bytes);
        });
    }
}
