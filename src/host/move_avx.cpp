// SPDX-License-Identifier: Apache-2.0
// The appends by moves of 32 bytes. What AVX may be used in stands behind the pragma, and all of it is this file's own
// or a template over it: compiled with -mavx, any inline function here could become that of the whole library.
#include "host.hpp"
#include "small.hpp"

#include <immintrin.h>

#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx")
#endif

#include "move.hpp"

namespace kvappend {

namespace {

struct AvxMoves {
    static constexpr std::size_t line = 64;
    // From here on the C library is as fast or faster.
    static constexpr std::size_t much = 512;
    // As far as here, K and V as a whole are as fast as in turns, or faster.
    static constexpr std::size_t few = 256;

    template <bool Far, class Use>
    static void choose(std::size_t bytes, Use use) {
        if (bytes < line) {
            use([bytes](std::byte *to, const std::byte *from) { copy_small(to, from, bytes); });
        } else if (Far) {
            use([bytes](std::byte *to, const std::byte *from) { copy_far(to, from, bytes); });
        } else if (bytes >= much) {
            use([bytes](std::byte *to, const std::byte *from) { std::memcpy(to, from, bytes); });
        } else {
            use([bytes](std::byte *to, const std::byte *from) { copy_near(to, from, bytes); });
        }
    }

    template <bool Far, class Use>
    static void choose_both(std::size_t bytes, Use use) {
        if (!Far && bytes > few) {
            use([bytes](std::byte *k_to, const std::byte *k_from, std::byte *v_to, const std::byte *v_from) {
                copy_in_turns(k_to, k_from, v_to, v_from, bytes);
            });
        } else {
            choose<Far>(bytes, [use](auto one) { use(one_by_one(one)); });
        }
    }

    template <bool Far>
    static void finish() {
        if (Far) {
            _mm_sfence(); // Whoever is told that the rows are there must see them.
        }
    }

private:
    struct Line {
        __m256i low;
        __m256i high;
    };
    static Line load(const std::byte *from) {
        return {_mm256_loadu_si256(reinterpret_cast<const __m256i_u *>(from)),
                _mm256_loadu_si256(reinterpret_cast<const __m256i_u *>(from + line / 2))};
    }
    static void store(std::byte *to, Line value) {
        _mm256_storeu_si256(reinterpret_cast<__m256i_u *>(to), value.low);
        _mm256_storeu_si256(reinterpret_cast<__m256i_u *>(to + line / 2), value.high);
    }

    static void copy_line(std::byte *to, const std::byte *from, std::size_t at) { store(to + at, load(from + at)); }

    static void copy_near(std::byte *to, const std::byte *from, std::size_t bytes) {
        const std::size_t last = bytes - line;
        for (std::size_t at = 0; at < last; at += line) {
            copy_line(to, from, at);
        }
        copy_line(to, from, last);
    }

    // Two lines at a time: a processor that sees K's lines and V's follow each other fetches ahead in both, and memory
    // is read by pairs of lines. No part of the loop around it, whose registers are few.
    [[gnu::noinline]] static void copy_in_turns(std::byte *k_to, const std::byte *k_from, std::byte *v_to,
                                                const std::byte *v_from, std::size_t bytes) {
        copy_line(k_to, k_from, 0);
        copy_line(v_to, v_from, 0);
        const std::size_t last = bytes - line;
        // Stores that cross lines take twice as long.
        std::size_t at = line - reinterpret_cast<std::uintptr_t>(k_to) % line;
        for (; at + line < last; at += 2 * line) {
            copy_line(k_to, k_from, at);
            copy_line(k_to, k_from, at + line);
            copy_line(v_to, v_from, at);
            copy_line(v_to, v_from, at + line);
        }
        if (at < last) {
            copy_line(k_to, k_from, at);
            copy_line(v_to, v_from, at);
        }
        copy_line(k_to, k_from, last);
        copy_line(v_to, v_from, last);
    }

    // Whole lines by stores that do not fetch them first; what there is of other lines goes the ordinary way.
    static void copy_far(std::byte *to, const std::byte *from, std::size_t bytes) {
        std::size_t at = -reinterpret_cast<std::uintptr_t>(to) % line;
        copy_small(to, from, at);
        for (; at + line <= bytes; at += line) {
            const Line value = load(from + at);
            _mm256_stream_si256(reinterpret_cast<__m256i *>(to + at), value.low);
            _mm256_stream_si256(reinterpret_cast<__m256i *>(to + at + line / 2), value.high);
        }
        copy_small(to + at, from + at, bytes - at);
    }
};

} // namespace

constexpr CopyRows avx_dense{copy_rows<AvxMoves, false, dense_known>, copy_rows<AvxMoves, true, dense_known>};
constexpr CopyRows avx_rows{copy_rows<AvxMoves, false>, copy_rows<AvxMoves, true>};

} // namespace kvappend

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
