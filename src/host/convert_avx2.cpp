// SPDX-License-Identifier: Apache-2.0
// Conversions by AVX2 and F16C. The compiler vectorises the loops of convert.hpp. Only code after the pragma may use
// these instructions: see move_avx.cpp.
#include "../format.hpp"
#include "../places.hpp"
#include "../rotary.hpp"
#include "../storage.hpp"
#include "host.hpp"
#include "runs.hpp"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#pragma GCC optimize("O3") // At -O2, GCC vectorises hardly any loop.
#endif

#include "decode.hpp"
#include "non_temporal.hpp"
#include "rotate.hpp"

namespace kvappend {

namespace {

// Each line of 64 bytes of the new rows is fetched this far ahead, while the processor computes. By itself it fetches
// less, and it waits for memory at the start of each chunk. A fetch beyond the rows has no effect.
constexpr std::int64_t prefetch_bytes = 4096;

class Avx2Processor : public Loops<Avx2Processor> {
public:
    template <class Source>
    static void widen(const std::byte *from, std::int64_t count, float *x) {
        std::int64_t i = 0;
        for (; i + 32 <= count; i += 32) {
            _mm_prefetch(from + 2 * i + prefetch_bytes, _MM_HINT_T0);
            for (std::int64_t j = i; j < i + 32; j += 8) {
                const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i_u *>(from + 2 * j));
                _mm256_storeu_ps(x + j, decoded(Source{}, codes));
            }
        }
        Loops::widen<Source>(from + i * static_cast<std::int64_t>(sizeof(Code<Source>)), count - i, x + i);
    }

    template <class Stored, Scaling How, bool Tame>
    [[gnu::always_inline]] static void encode_block(const std::byte *x, const float *factors, std::byte *to) {
        if constexpr (std::is_same_v<Stored, F16>) {
            encode_f16(x, to);
        } else if constexpr (Stored::bits > 8) {
            Loops::encode_block<Stored, How, Tame>(x, factors, to);
        } else {
            __m256i codes[4];
            for (int i = 0; i < 4; ++i) {
                const __m256 factor = Tame ? _mm256_broadcast_ss(factors + i / 2) : _mm256_loadu_ps(factors + 8 * i);
                codes[i] = codes_of<Tame>(Stored{}, scaled<How>(load_floats(x + 32 * i), factor));
            }
            const __m256i low = _mm256_packs_epi32(codes[0], codes[1]);
            const __m256i high = _mm256_packs_epi32(codes[2], codes[3]);
            // Only codes of INT8 may be negative. Other negative numbers become 0.
            constexpr bool is_signed =
                std::is_same_v<Stored, Integer<8, 0, false>> || std::is_same_v<Stored, Integer<8, 0, true>>;
            const __m256i bytes = is_signed ? _mm256_packs_epi16(low, high) : _mm256_packus_epi16(low, high);
            // The packs have put together 128 bits of one and 128 bits of the other.
            const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_storeu_si256(reinterpret_cast<__m256i_u *>(to), _mm256_permutevar8x32_epi32(bytes, order));
        }
    }

    // As integers, magnitudes have the same order, and NaN is the largest.
    [[gnu::always_inline]] static float largest_of(const std::byte *x, std::int64_t count) {
        __m256i most = _mm256_setzero_si256();
        std::int64_t i = 0;
        for (; i + 16 <= count; i += 16) {
            _mm_prefetch(x + 4 * i + prefetch_bytes, _MM_HINT_T0);
            most = _mm256_max_epi32(most, magnitudes_of(load_floats(x + 4 * i)));
            most = _mm256_max_epi32(most, magnitudes_of(load_floats(x + 4 * i + 32)));
        }
        __m128i half = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
        half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
        half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
        const float rest = i < count ? Loops::largest_of(x + 4 * i, count - i) : 0;
        const float largest = _mm_cvtss_f32(_mm_castsi128_ps(half));
        return bits_of(largest) > bits_of(rest) ? largest : rest;
    }

    static void copy(std::byte *to, const std::byte *from, std::size_t bytes) {
        if (bytes == 32) { // a block of codes, without a call of the C library
            const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i_u *>(from));
            return _mm256_storeu_si256(reinterpret_cast<__m256i_u *>(to), codes);
        }
        std::memcpy(to, from, bytes);
    }

    static void copy_non_temporal(std::byte *to, const std::byte *from, std::size_t bytes) {
        kvappend::copy_non_temporal<Avx2Processor>(to, from, bytes);
    }
    static void finish_non_temporal() { kvappend::finish_non_temporal<Avx2Processor>(); }

private:
    static __m256 load_floats(const std::byte *from) { return _mm256_loadu_ps(reinterpret_cast<const float *>(from)); }

    static __m256 decoded(F16 /*source*/, __m128i codes) { return _mm256_cvtph_ps(codes); }
    static __m256 decoded(BF16 /*source*/, __m128i codes) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), BF16::shift));
    }

    static __m256i magnitudes_of(__m256 x) {
        return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
    }

    template <Scaling How>
    static __m256 scaled(__m256 x, __m256 factors) {
        return How == Scaling::divide ? _mm256_div_ps(x, factors) : _mm256_mul_ps(x, factors);
    }

    // The conversion of F16C keeps bits of NaN.
    static void encode_f16(const std::byte *x, std::byte *to) {
        __m256 any_nan = _mm256_setzero_ps();
        for (int i = 0; i < 4; ++i) {
            const __m256 numbers = load_floats(x + 32 * i);
            any_nan = _mm256_or_ps(any_nan, _mm256_cmp_ps(numbers, numbers, _CMP_UNORD_Q));
            _mm_storeu_si128(reinterpret_cast<__m128i_u *>(to + 16 * i),
                             _mm256_cvtps_ph(numbers, _MM_FROUND_TO_NEAREST_INT));
        }
        if (_mm256_movemask_ps(any_nan) != 0) {
            Loops::encode_block<F16, Scaling::none, false>(x, nullptr, to);
        }
    }

    // The arithmetic of SmallFloat::encode in format.hpp.
    template <bool Tame, unsigned Exponent, unsigned Mantissa, std::uint32_t GreatestCode, std::uint32_t NanCode,
              bool HasInfinity>
    static __m256i codes_of(SmallFloat<Exponent, Mantissa, GreatestCode, NanCode, HasInfinity> /*stored*/, __m256 x) {
        using Stored = SmallFloat<Exponent, Mantissa, GreatestCode, NanCode, HasInfinity>;
        const __m256i bits = _mm256_castps_si256(x);
        const __m256i magnitude = magnitudes_of(x);
        const __m256i limited = Tame ? magnitude : _mm256_min_epi32(magnitude, _mm256_set1_epi32(Stored::greatest));
        const __m256i least = _mm256_set1_epi32(Stored::least_normal);
        const __m256i exponent = _mm256_max_epi32(_mm256_and_si256(limited, _mm256_set1_epi32(float_infinity)), least);
        const __m256i rounds = _mm256_add_epi32(exponent, _mm256_set1_epi32(Stored::to_last_bit));
        const __m256 sum = _mm256_add_ps(_mm256_castsi256_ps(limited), _mm256_castsi256_ps(rounds));
        const __m256i mantissa = _mm256_sub_epi32(_mm256_castps_si256(sum), rounds);
        const __m256i code =
            _mm256_add_epi32(_mm256_srli_epi32(_mm256_sub_epi32(exponent, least), Stored::shift), mantissa);
        const __m256i sign =
            _mm256_and_si256(_mm256_srli_epi32(bits, 32 - Stored::bits), _mm256_set1_epi32(Stored::sign));
        const __m256i with_sign = _mm256_or_si256(code, sign);
        const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        return Tame ? with_sign : _mm256_blendv_epi8(with_sign, _mm256_set1_epi32(NanCode), is_nan);
    }

    // The arithmetic of Integer::encode in format.hpp. The packs make the least code of every lesser number.
    template <bool Tame, unsigned Bits, std::int32_t Zero, bool HalfAway>
    static __m256i codes_of(Integer<Bits, Zero, HalfAway> /*stored*/, __m256 x) {
        using Stored = Integer<Bits, Zero, HalfAway>;
        const __m256 number = _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q));
        const __m256 limited = Tame ? x : _mm256_min_ps(number, _mm256_set1_ps(Stored::greatest));
        if constexpr (!HalfAway) {
            return _mm256_add_epi32(_mm256_cvtps_epi32(limited), _mm256_set1_epi32(Zero));
        }
        const __m256 sign = _mm256_and_ps(limited, _mm256_set1_ps(-0.0F));
        const __m256 half = _mm256_or_ps(sign, _mm256_castsi256_ps(_mm256_set1_epi32(Stored::before_half)));
        return _mm256_add_epi32(_mm256_cvttps_epi32(_mm256_add_ps(limited, half)), _mm256_set1_epi32(Zero));
    }
};

} // namespace

constexpr CopyRows avx2_conversions[3] = {{convert_append<Avx2Processor, false>, convert_append<Avx2Processor, true>},
                                          {convert_gather<Avx2Processor>, convert_gather<Avx2Processor>},
                                          {rotate_append<Avx2Processor, false>, rotate_append<Avx2Processor, true>}};

} // namespace kvappend

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
