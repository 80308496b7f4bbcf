// SPDX-License-Identifier: Apache-2.0
// The copies by loads and stores of 32 bytes. Only code after the pragma may use AVX, and all of that code is local to
// this file or a template over AvxCopier. If the file were compiled with -mavx, the linker could choose its copy of any
// inline function for the whole library.
#include "../places.hpp"
#include "host.hpp"
#include "move.hpp"

#include <immintrin.h>

#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx")
#endif

#include "copy_rows.hpp"
#include "non_temporal.hpp"

namespace kvappend {

namespace {

class AvxCopier {
public:
    template <bool NonTemporal, class Use>
    static void choose(std::size_t bytes, Use use) {
        if (bytes < line || (!NonTemporal && bytes >= least_of_library)) {
            use([bytes](std::byte *to, const std::byte *from) { std::memcpy(to, from, bytes); });
        } else if (NonTemporal) {
            use([bytes](std::byte *to, const std::byte *from) { copy_non_temporal<AvxCopier>(to, from, bytes); });
        } else {
            use([bytes](std::byte *to, const std::byte *from) { copy_cached(to, from, bytes); });
        }
    }

    template <bool NonTemporal, class Use>
    static void choose_both(std::size_t bytes, Use use) {
        if (!NonTemporal && bytes > most_one_by_one) {
            use([bytes](std::byte *k_to, const std::byte *k_from, std::byte *v_to, const std::byte *v_from) {
                copy_in_alternation(k_to, k_from, v_to, v_from, bytes);
            });
            return;
        }
        choose<NonTemporal>(bytes, [use](auto copy) {
            use([copy](std::byte *k_to, const std::byte *k_from, std::byte *v_to, const std::byte *v_from) {
                copy(k_to, k_from);
                copy(v_to, v_from);
            });
        });
    }

    template <bool NonTemporal>
    static void finish() {
        if (NonTemporal) {
            finish_non_temporal<AvxCopier>();
        }
    }

private:
    static constexpr std::size_t line = 64; // bytes of a cache line
    // From this size on, the C library is as fast or faster.
    static constexpr std::size_t least_of_library = 512;
    // Up to this size, copying K and then V is as fast or faster.
    static constexpr std::size_t most_one_by_one = 256;

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

    static void copy_cached(std::byte *to, const std::byte *from, std::size_t bytes) {
        const std::size_t last = bytes - line;
        for (std::size_t at = 0; at < last; at += line) {
            copy_line(to, from, at);
        }
        copy_line(to, from, last);
    }

    // Copies two cache lines of K, then two of V: the processor prefetches both streams, and it fetches memory by pairs
    // of lines. Without this, cold steps of decoding took 12 to 45 % longer, warm steps 1 to 11 %, and prefill
    // 10 to 22 %. Not inlined, because the loop around it needs the registers.
    [[gnu::noinline]] static void copy_in_alternation(std::byte *k_to, const std::byte *k_from, std::byte *v_to,
                                                      const std::byte *v_from, std::size_t bytes) {
        copy_line(k_to, k_from, 0);
        copy_line(v_to, v_from, 0);
        const std::size_t last = bytes - line;
        // The loop begins at the first whole line of K's target, because a store that crosses cache lines takes twice
        // as long.
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
};

} // namespace

constexpr Copies avx_copies = copies_of<AvxCopier, true>;

} // namespace kvappend

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
