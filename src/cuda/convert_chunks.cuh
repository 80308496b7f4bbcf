// SPDX-License-Identifier: Apache-2.0
// Conversions of rows by chunks: a thread loads adjacent elements of a row together, and stores their codes together.
// All elements of a chunk have one scale.
#pragma once

#include "convert.cuh"

#include <type_traits>

namespace kvappend {

// Stores `Bytes` bytes by accesses of `Type`. Parts of a word are shifted out of it: if their addresses were used, the
// compiler would keep each byte of the words in a register of its own.
template <class Type, unsigned Bytes>
__device__ __forceinline__ void store_as(std::byte *to, const std::uint32_t *words) {
#pragma unroll
    for (unsigned at = 0; at < Bytes; at += sizeof(Type)) {
        Type value;
        if constexpr (sizeof(Type) < 4) {
            value = static_cast<Type>(words[at / 4] >> at % 4 * 8);
        } else {
            __builtin_memcpy(&value, words + at / 4, sizeof value);
        }
        store_global(reinterpret_cast<Type *>(to + at), value);
    }
}

// Stores the codes of a chunk, as wide as their alignment allows: 1 << access_log2 bytes. That is at least a code, and
// at least 2 bytes (has_chunks).
template <unsigned Bytes, unsigned CodeBytes>
__device__ __forceinline__ void store_codes(std::byte *to, const std::uint32_t *words, std::uint32_t access_log2) {
    if (Bytes >= 16 && access_log2 >= 4) {
        return store_as<uint4, Bytes>(to, words);
    }
    if (Bytes == 8 && access_log2 >= 3) {
        return store_as<uint2, Bytes>(to, words);
    }
    if (Bytes >= 4 && (CodeBytes == 4 || access_log2 >= 2)) {
        return store_as<unsigned, Bytes>(to, words);
    }
    store_as<unsigned short, Bytes>(to, words);
}

// How usual scales are applied to a chunk. Others need Factor::apply.
//
// Instead of a division for each element, a quotient is corrected from the rounded reciprocal of the divisor. Then it
// is rounded as a division is (Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor",
// 1990), unless a number in between overflows or loses bits. For the divisors here, the first gives NaN, and the second
// happens only to quotients below 2^-36, which all types that have scales round to 0.
struct ChunkFactor {
    float multiplier;
    float divisor; // 0: the elements are multiplied
    bool usable;

    // `number`: a scale, with the global scale in it.
    static __device__ __forceinline__ ChunkFactor of(std::int32_t scale_use, float number) {
        const bool divides = scale_use == KVAPPEND_SCALE_DIVIDE;
        return {scale_use == KVAPPEND_SCALE_MULTIPLY ? number : 1 / number, divides ? number : 0,
                number >= 0x1p-64F && number <= 0x1p64F};
    }

    __device__ __forceinline__ float quotient(float element) const {
        const float nearly = element * multiplier;
        const float excess = fmaf(nearly, divisor, -element); // Its sign is such that -0 stays -0.
        return fmaf(-excess, multiplier, nearly);
    }
};

// Whether instructions find the codes of two numbers: PTX ISA, cvt. For numbers that are not NaN, they give the codes
// of format.hpp (tests/outside/conversions compares those with NVIDIA's conversions).
#if !defined(__CUDA_ARCH__)
template <class Stored>
inline constexpr bool has_instruction = false;

template <class Stored>
std::uint32_t codes_of_pair(float low, float high);
#else
template <class Stored>
inline constexpr bool has_instruction = (std::is_same_v<Stored, F16> && __CUDA_ARCH__ >= 750) ||
                                        (std::is_same_v<Stored, BF16> && __CUDA_ARCH__ >= 800) ||
                                        (std::is_same_v<Stored, E4M3> && __CUDA_ARCH__ >= 890);

template <class Stored>
__device__ __forceinline__ std::uint32_t codes_of_pair(float low, float high) {
    if constexpr (std::is_same_v<Stored, E4M3>) {
        std::uint16_t codes;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
        return codes;
    } else if constexpr (std::is_same_v<Stored, BF16>) {
        std::uint32_t codes;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(codes) : "f"(high), "f"(low));
        return codes;
    } else if constexpr (__CUDA_ARCH__ >= 800) {
        std::uint32_t codes;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(codes) : "f"(high), "f"(low));
        return codes;
    } else {
        std::uint16_t codes[2];
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(codes[0]) : "f"(low));
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(codes[1]) : "f"(high));
        return codes[0] | std::uint32_t{codes[1]} << 16;
    }
}
#endif

// A stored type that is known when a kernel runs.
struct AnyStored {};

// Whether scales are computed for codes of a type.
template <class Stored>
inline constexpr bool may_be_computed = !std::is_same_v<Stored, F16> && !std::is_same_v<Stored, BF16>;

// Calls use(type) with the type of codes. Int8 stands for both ways of rounding.
template <class Stored, class Use>
__device__ __forceinline__ void with_stored(const Format &f, Use use) {
    if constexpr (std::is_same_v<Stored, AnyStored>) {
        with_stored_type(f, use);
    } else if constexpr (std::is_same_v<Stored, Int8>) {
        if (f.half_away) {
            use(Int8Away{});
        } else {
            use(Int8{});
        }
    } else {
        use(Stored{});
    }
}

// The numbers of elements that are packed into words.
template <class Source, unsigned Elements>
__device__ __forceinline__ void unpack_elements(const std::uint32_t *words, float *x) {
    constexpr unsigned bits = Source::bits;
#pragma unroll
    for (unsigned i = 0; i < Elements; ++i) {
        const std::uint32_t word = words[i * bits / 32] >> (i * bits % 32);
        x[i] = Source::decode(bits == 32 ? word : word & 0xffff);
    }
}

template <class Source, unsigned Elements>
class Chunk {
public:
    static constexpr unsigned elements = Elements;
    static constexpr unsigned bytes = Elements * Source::bits / 8;

    __device__ __forceinline__ void load(const std::byte *from) {
#pragma unroll
        for (unsigned i = 0; i < vectors; ++i) {
            raw_[i] = load_global(reinterpret_cast<const Vector *>(from) + i);
        }
    }

    template <class Rotator>
    __device__ __forceinline__ void rotate(const Rotator &rotator, const std::byte *row, std::int32_t element,
                                           std::int64_t position) {
        rotator.template rotate<Source, Elements>(words(), row, element, position);
    }

    __device__ __forceinline__ std::uint32_t *words() {
        return reinterpret_cast<std::uint32_t *>(raw_);
    }

    __device__ __forceinline__ void decode() {
        unpack_elements<Source, Elements>(words(), x_);
    }

    // NaN is not counted.
    __device__ __forceinline__ float largest() const {
        return largest_of<elements>(x_);
    }

    // Stores the elements as they are.
    __device__ __forceinline__ void store_bits(std::byte *to, std::uint32_t access_log2) const {
        store_codes<bytes, Source::bits / 8>(to, reinterpret_cast<const std::uint32_t *>(raw_), access_log2);
    }

    // Stores codes. If a number is NaN, returns false and stores nothing.
    template <class Stored>
    __device__ __forceinline__ bool store(std::byte *to, std::uint32_t access_log2, const ChunkFactor &factor) const {
        float numbers[elements];
        if (factor.divisor == 0) {
#pragma unroll
            for (unsigned i = 0; i < elements; ++i) {
                numbers[i] = operand<Stored>(i) * factor.multiplier;
            }
        } else {
#pragma unroll
            for (unsigned i = 0; i < elements; ++i) {
                numbers[i] = factor.quotient(operand<Stored>(i));
            }
        }
        if (is_nan(sum_of<elements>(numbers))) {
            return false;
        }
        std::uint32_t words[(elements * Stored::bits + 31) / 32];
        pack<Stored>(numbers, words);
        store_codes<elements * Stored::bits / 8, (Stored::bits + 7) / 8>(to, words, access_log2);
        return true;
    }

private:
    using Vector = std::conditional_t<bytes == 8, uint2, uint4>;
    static constexpr unsigned vectors = bytes / sizeof(Vector);

    // Instructions take the sign with the magnitude.
    template <class Stored>
    static constexpr bool by_magnitude = Stored::by_magnitude && !has_instruction<Stored>;

    template <class Stored>
    __device__ __forceinline__ float operand(unsigned i) const {
        return by_magnitude<Stored> ? fabsf(x_[i]) : x_[i];
    }

    // Both by halves, because each operation in a row of them would wait for the one before it.
    template <unsigned Count>
    static __device__ __forceinline__ float largest_of(const float *numbers) {
        if constexpr (Count == 1) {
            return larger_of(0, fabsf(numbers[0]));
        } else {
            return larger_of(largest_of<Count / 2>(numbers), largest_of<Count / 2>(numbers + Count / 2));
        }
    }
    template <unsigned Count>
    static __device__ __forceinline__ float sum_of(const float *numbers) {
        if constexpr (Count == 1) {
            return numbers[0];
        } else {
            return sum_of<Count / 2>(numbers) + sum_of<Count / 2>(numbers + Count / 2);
        }
    }

    template <class Stored>
    __device__ __forceinline__ void pack(const float (&numbers)[elements], std::uint32_t *words) const {
        constexpr unsigned bits = Stored::bits;
        constexpr unsigned in_word = 32 / bits < elements ? 32 / bits : elements;
#pragma unroll
        for (unsigned first = 0; first < elements; first += in_word) {
            const std::uint32_t word = word_of<Stored, in_word>(numbers + first);
            std::uint32_t signs = 0;
#pragma unroll
            for (unsigned i = 0; i < in_word; ++i) {
                signs |= (bits_of(x_[first + i]) & float_sign) >> (32 - (i + 1) * bits);
            }
            words[first / in_word] = by_magnitude<Stored> ? word | signs : word;
        }
    }

    template <class Stored, unsigned Count>
    static __device__ __forceinline__ std::uint32_t word_of(const float *numbers) {
        constexpr unsigned bits = Stored::bits;
        constexpr std::uint32_t ones = 0xffffffffU / (0xffffffffU >> (32 - bits)); // 1 in each code of a word
        std::uint32_t word = 0;
        if constexpr (has_instruction<Stored>) {
#pragma unroll
            for (unsigned i = 0; i < Count; i += 2) {
                word |= codes_of_pair<Stored>(numbers[i], numbers[i + 1]) << (i * bits);
            }
        } else {
#pragma unroll
            for (unsigned i = 0; i < Count; ++i) {
                word += Stored::raw_code(numbers[i]) << (i * bits);
            }
            word = (word - Stored::raw_zero * ones) ^ (Stored::flipped * ones);
        }
        return word;
    }

    Vector raw_[vectors] = {};
    float x_[elements] = {};
};

// Converts the elements of a chunk, with any factor, those of one byte at a time. element_bits(i) are those of one.
template <class Source, class Stored, unsigned Elements, class Element>
__device__ __forceinline__ void convert_one_by_one(Element element_bits, std::byte *to, const Factor &factor) {
    constexpr unsigned in_byte = Stored::bits < 8 ? 8 / Stored::bits : 1;
    constexpr unsigned code_bytes = (Stored::bits + 7) / 8;
#pragma unroll 1
    for (unsigned i = 0; i < Elements; i += in_byte) {
        std::uint32_t code = 0;
#pragma unroll
        for (unsigned k = 0; k < in_byte; ++k) {
            const float element = Source::decode(element_bits(i + k));
            code |= Stored::encode(factor.apply(element)) << (k * Stored::bits);
        }
        store_element(to + i / in_byte * code_bytes, code, code_bytes);
    }
}

// What a thread converts of a row: see ConvertLayout.
struct ChunkPart {
    std::int32_t first; // element
    std::int32_t end;
    std::int32_t unit;
    bool leads; // the team

    // With `IsKnown` the parts are the chunks of the row in order.
    template <bool IsKnown>
    static __device__ __forceinline__ ChunkPart of(const ConvertLayout &f, std::int32_t i, std::int32_t elements) {
        const std::int32_t unit = i >> f.team_log2;
        const std::int32_t lane = i - (unit << f.team_log2);
        if constexpr (IsKnown) {
            return {i * elements, i * elements + elements, unit, lane == 0};
        }
        const std::int32_t begin = unit * static_cast<std::int32_t>(f.unit);
        return {begin + lane * elements, begin + static_cast<std::int32_t>(f.unit), unit, lane == 0};
    }
};

// The conversion of a thread's part of a row. With a known stored type the part is one chunk: see ConvertLayout::types.
template <class Source, class Stored, unsigned Elements, class Rotator = NoRotation>
class ChunkConversion {
public:
    __device__ __forceinline__ ChunkConversion(const ConvertLayout &f, const ConvertPointers &pointers, std::int32_t i,
                                               const Rotator &rotator)
        : f_(f), pointers_(pointers), part_(ChunkPart::of<is_known>(f, i, elements)), rotator_(rotator) {}

    // Loads what does not depend on the place: the first chunk, and perhaps a given scale.
    __device__ __forceinline__ void load(std::uint64_t row_byte, std::int32_t head) {
        row_ = pointers_.rows + row_byte;
        if (is_known || part_.first < part_.end) {
            chunk_.load(from(part_.first));
        }
        if (f_.scales_kind == ScalesKind::plain) {
            const std::byte *const scale =
                pointers_.scales + product(head, f_.scales.head) + product(part_.unit, f_.group_stride);
            plain_scale_ = float_of(load_index(reinterpret_cast<const std::uint32_t *>(scale)));
        }
        if (f_.scales_kind == ScalesKind::any) {
            global_ = load_global_scale(f_, pointers_);
        }
    }

    __device__ __forceinline__ void place(const PlacedRow & /*row*/) const {}

    // All threads of a team must call this, whatever the place, because they exchange what they found. If an index
    // changes during the run, threads of a team may have different places.
    __device__ __forceinline__ void store(const PlacedRow &row) {
        const bool together = may_be_computed<Stored> && f_.format.computed();
        if (!together && !row.placed) {
            return;
        }
        if (row.placed && (is_known || part_.first < part_.end)) {
            chunk_.rotate(rotator_, row_, part_.first, row.position);
        }
        if (stored_as_is()) {
            return chunk_.store_bits(code_at(row.codes, part_.first), f_.access_log2);
        }
        chunk_.decode();
        const float scale = find_scale(row);
        if (!row.placed || (!is_known && part_.first >= part_.end)) {
            return;
        }
        for (std::int32_t at = part_.first;;) {
            store_chunk(at, row.codes, scale, row.position);
            at += step();
            if (is_known || at >= part_.end) {
                return;
            }
            chunk_.load(from(at));
            chunk_.rotate(rotator_, row_, at, row.position);
            chunk_.decode();
        }
    }

private:
    static constexpr bool is_known = !std::is_same_v<Stored, AnyStored>;
    static constexpr auto elements = static_cast<std::int32_t>(Elements);

    __device__ __forceinline__ bool stored_as_is() const {
        return !is_known && f_.format.type == KVAPPEND_STORED_AS_IS;
    }
    __device__ __forceinline__ std::int32_t step() const { return elements << f_.team_log2; }
    __device__ __forceinline__ const std::byte *from(std::int32_t element) const {
        return row_ + static_cast<std::uint64_t>(element) * (Source::bits / 8);
    }
    __device__ __forceinline__ std::byte *code_at(std::byte *row, std::int32_t element) const {
        if constexpr (is_known) {
            if (f_.in_pieces == 0) {
                return row + static_cast<std::uint64_t>(element) * Stored::bits / 8;
            }
        }
        return kvappend::code_at(f_, row, element);
    }

    // The scale of the part; 1 if there is none.
    __device__ __forceinline__ float find_scale(const PlacedRow &row) {
        const Format &format = f_.format;
        if (f_.scales_kind != ScalesKind::any) {
            return plain_scale_;
        }
        std::byte *const scale_at = row.scales + product(part_.unit, f_.group_stride);
        if (!may_be_computed<Stored> || !format.computed()) {
            return decode_scale(format.scale_type, load_element(scale_at, f_.scale_bytes));
        }
        Scale scale;
        const float used = compute_scale(format, largest(row.placed, row.position), greatest(), scale);
        if (row.placed && part_.leads) {
            store_element(scale_at, scale.code, f_.scale_bytes);
        }
        return used;
    }

    // What the largest magnitude of a group is divided by.
    __device__ __forceinline__ float greatest() const {
        if constexpr (!is_known) {
            return greatest_with(f_.format, global_);
        } else {
            return with_global(f_.format, Stored::greatest_number, global_);
        }
    }

    __device__ __forceinline__ float largest(bool placed, std::int64_t position) const {
        float largest = chunk_.largest();
        for (std::int32_t at = part_.first + step(); !is_known && at < part_.end; at += step()) {
            Chunk<Source, Elements> chunk;
            chunk.load(from(at));
            if (placed) {
                chunk.rotate(rotator_, row_, at, position);
            }
            chunk.decode();
            largest = larger_of(largest, chunk.largest());
        }
        return largest_of_team(f_, largest);
    }

    __device__ __forceinline__ void store_chunk(std::int32_t at, std::byte *row, float scale,
                                                std::int64_t position) const {
        std::byte *const codes = code_at(row, at);
        const Format &format = f_.format;
        const float number = with_global(format, scale, global_);
        with_stored<Stored>(
            format, [&](auto stored) __attribute__((always_inline)) {
                using Type = decltype(stored);
                const auto factor = ChunkFactor::of(format.scale_use, number);
                if (!factor.usable || !chunk_.template store<Type>(codes, f_.access_log2, factor)) {
                    constexpr unsigned element_bytes = Source::bits / 8;
                    const auto element_bits = [&](unsigned i) __attribute__((always_inline)) {
                        const std::int32_t element = at + static_cast<std::int32_t>(i);
                        const std::uint32_t bits = load_element(from(at) + i * element_bytes, element_bytes);
                        return rotator_.rotated(f_, row_, element, bits, position);
                    };
                    convert_one_by_one<Source, Type, Elements>(element_bits, codes, factor_of(format, scale, global_));
                }
            });
    }

    const ConvertLayout &f_;
    const ConvertPointers &pointers_;
    ChunkPart part_;
    const std::byte *row_ = nullptr;
    Chunk<Source, Elements> chunk_;
    const Rotator &rotator_;
    float plain_scale_ = 1;
    float global_ = 1;
};

} // namespace kvappend
