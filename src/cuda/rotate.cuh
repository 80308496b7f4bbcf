// SPDX-License-Identifier: Apache-2.0
// How elements of K are rotated before they are converted or stored: see NoRotation in convert.cuh for the functions.
#pragma once

#include "../rotation.hpp"
#include "convert_chunks.cuh"
#include "convert_pairs.cuh"

namespace kvappend {

// Loads the numbers of `Count` adjacent pairs of a table. They are aligned as a whole, or to 16 bytes.
template <class Entry, unsigned Count>
__device__ __forceinline__ void load_together(const std::byte *from, float *numbers) {
    constexpr unsigned entry_bytes = Entry::bits / 8;
    constexpr unsigned bytes = Count * entry_bytes;
    using Vector = std::conditional_t<bytes % 16 == 0, uint4, std::conditional_t<bytes % 8 == 0, uint2, unsigned>>;
    Vector vectors[bytes / sizeof(Vector)];
#pragma unroll
    for (unsigned i = 0; i < bytes / sizeof(Vector); ++i) {
        vectors[i] = __ldca(reinterpret_cast<const Vector *>(from) + i);
    }
    const auto *const words = reinterpret_cast<const std::uint32_t *>(vectors);
#pragma unroll
    for (unsigned i = 0; i < Count; ++i) {
        const std::uint32_t word = words[i * entry_bytes / 4] >> (i * entry_bytes % 4 * 8);
        numbers[i] = Entry::decode(entry_bytes == 4 ? word : word & 0xffff);
    }
}

// The same, with `together` if they are aligned so. The loads go through the L1 cache, in which the heads of a token
// share them. None goes through the read-only path: see load.cuh.
template <class Entry, unsigned Count>
__device__ __forceinline__ void load_entries(const std::byte *from, bool together, float *numbers) {
    constexpr unsigned entry_bytes = Entry::bits / 8;
    if constexpr (Count > 1) {
        if (together) {
            load_together<Entry, Count>(from, numbers);
            return;
        }
    }
#pragma unroll
    for (unsigned i = 0; i < Count; ++i) {
        numbers[i] = Entry::decode(load_element(from + i * entry_bytes, entry_bytes));
    }
}

// Rounds numbers to elements, and packs them into words.
template <class Source, unsigned Elements>
__device__ __forceinline__ void pack_elements(const float *numbers, std::uint32_t *words) {
    if constexpr (Source::bits == 32) {
#pragma unroll
        for (unsigned i = 0; i < Elements; ++i) {
            words[i] = Source::encode(numbers[i]);
        }
    } else {
        if constexpr (has_instruction<Source>) {
            float sum = 0; // NaN if a number is NaN
#pragma unroll
            for (unsigned i = 0; i < Elements; i += 2) {
                words[i / 2] = codes_of_pair<Source>(numbers[i], numbers[i + 1]);
                sum += numbers[i] + numbers[i + 1];
            }
            if (!is_nan(sum)) {
                return;
            }
        }
#pragma unroll
        for (unsigned i = 0; i < Elements; i += 2) {
            words[i / 2] = Source::encode(numbers[i]) | Source::encode(numbers[i + 1]) << 16;
        }
    }
}

// The rotation of the rows of the tensor that a block converts.
struct Rotator {
    const Rotation &r;
    RotaryTables tables;
    std::int64_t first; // the first element that is rotated
    bool active;        // The block converts K or Q.
    bool together;      // Adjacent numbers of the tables may be loaded together.

    // A chunk is rotated as a whole, or not at all (rotates_by_chunks in layout.cpp).
    template <class Source, unsigned Elements, class Index>
    __device__ __forceinline__ void rotate(std::uint32_t *words, const std::byte *row, Index element,
                                           std::int64_t position) const {
        const Index i = element - static_cast<Index>(first);
        if (!active || i < 0 || i >= static_cast<Index>(r.dim)) {
            return;
        }
        float x[Elements];
        unpack_elements<Source, Elements>(words, x);
        float y[Elements];
        if (r.interleaved) {
            float cos[Elements / 2];
            float sin[Elements / 2];
            load_tables<Elements / 2>(position, i / 2, cos, sin);
            rotate_adjacent<Elements>(x, cos, sin, y);
        } else {
            const auto half = static_cast<Index>(r.dim / 2);
            const bool is_first = i < half;
            Chunk<Source, Elements> chunk;
            chunk.load(row +
                       static_cast<std::uint64_t>(is_first ? element + half : element - half) * (Source::bits / 8));
            float other[Elements];
            unpack_elements<Source, Elements>(chunk.words(), other);
            float cos[Elements];
            float sin[Elements];
            load_tables<Elements>(position, is_first ? i : i - half, cos, sin);
#pragma unroll
            for (unsigned k = 0; k < Elements; ++k) {
                y[k] = is_first ? rotated_first(x[k], other[k], cos[k], sin[k])
                                : rotated_second(other[k], x[k], cos[k], sin[k]);
            }
        }
        pack_elements<Source, Elements>(y, words);
    }

    template <class Index>
    __device__ __forceinline__ std::uint32_t rotated(const ConvertLayout &f, const std::byte *row, Index element,
                                                     std::uint32_t bits, std::int64_t position) const {
        const Index i = element - static_cast<Index>(first);
        if (!active || i < 0 || i >= static_cast<Index>(r.dim)) {
            return bits;
        }
        const auto half = static_cast<Index>(r.dim / 2);
        const Index apart = r.interleaved ? Index{1} : half;
        const bool is_first = r.interleaved ? i % 2 == 0 : i < half;
        const Index pair = r.interleaved ? i / 2 : is_first ? i : i - half;
        const Index partner = is_first ? element + apart : element - apart;
        const std::uint32_t other =
            load_element(row + static_cast<std::uint64_t>(partner) * f.element_bytes, f.element_bytes);
        float cos[1];
        float sin[1];
        load_tables<1>(position, pair, cos, sin);
        with_element_type(
            f.element_type, [&](auto source) __attribute__((always_inline)) {
                using Source = decltype(source);
                const float x = Source::decode(bits);
                const float with = Source::decode(other);
                bits = Source::encode(is_first ? rotated_first(x, with, cos[0], sin[0])
                                               : rotated_second(with, x, cos[0], sin[0]));
            });
        return bits;
    }

    // The numbers of `Count` adjacent pairs.
    template <unsigned Count>
    __device__ __forceinline__ void load_tables(std::int64_t position, std::int64_t pair, float *cos,
                                                float *sin) const {
        const std::uint64_t byte = r.table_byte(position, pair);
        with_element_type(
            r.table_type, [&](auto entry) __attribute__((always_inline)) {
                load_entries<decltype(entry), Count>(tables.cos + byte, together && Count > 1, cos);
                load_entries<decltype(entry), Count>(tables.sin + byte, together && Count > 1, sin);
            });
    }

    // Elements whose pairs are adjacent.
    template <unsigned Elements>
    static __device__ __forceinline__ void rotate_adjacent(const float *x, const float *cos, const float *sin,
                                                           float *y) {
#pragma unroll
        for (unsigned k = 0; k < Elements; k += 2) {
            y[k] = rotated_first(x[k], x[k + 1], cos[k / 2], sin[k / 2]);
            y[k + 1] = rotated_second(x[k], x[k + 1], cos[k / 2], sin[k / 2]);
        }
    }
};

} // namespace kvappend
