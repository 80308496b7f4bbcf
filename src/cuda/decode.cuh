// SPDX-License-Identifier: Apache-2.0
// Gathers from caches in another format: the codes of a row become elements again. A thread has the same part of a row
// as in an append (convert.cuh). The threads of a team need no common result.
#pragma once

#include "convert_chunks.cuh"
#include "convert_pairs.cuh"

namespace kvappend {

// What the numbers of a group are multiplied by, or divided by; `at` is the group's scale.
__device__ __forceinline__ Factor load_factor(const ConvertLayout &f, const std::byte *at, float global) {
    const Format &format = f.format;
    if (!format.scaled()) {
        return {1, false, false};
    }
    return decoding_factor_of(format, decode_scale(format.scale_type, load_element(at, f.scale_bytes)), global);
}

// The decoding of a thread's part of a unit, by pairs of elements.
template <class Index>
class PairDecoding {
public:
    __device__ __forceinline__ PairDecoding(const ConvertLayout &f, const ConvertPointers &pointers, Index i,
                                            const NoRotation & /*rotator*/)
        : f_(f), pointers_(pointers), part_(PairPart<Index>::of(f, i)) {}

    __device__ __forceinline__ void load(std::uint64_t row_byte, Index /*head*/) { row_ = pointers_.rows + row_byte; }

    __device__ __forceinline__ void place(const PlacedRow & /*from*/) const {}

    __device__ __forceinline__ void store(const PlacedRow &from) const {
        if (!from.placed && f_.zeroes == 0) {
            return;
        }
        const float global = load_global_scale(f_, pointers_);
        for (Index at = part_.first; at < part_.end; at += PairPart<Index>::step(f_)) {
            store_pair(from, at, global);
        }
    }

private:
    __device__ __forceinline__ void store_pair(const PlacedRow &from, Index at, float global) const {
        const bool has_second = at + 1 < part_.end;
        std::uint32_t codes[2] = {};
        if (from.placed && f_.code_bits < 8) {
            const std::uint32_t both = load_element(code_at(f_, from.codes, at), 1);
            codes[0] = both & 15;
            codes[1] = both >> 4;
        } else if (from.placed) {
            codes[0] = load_element(code_at(f_, from.codes, at), f_.code_bits / 8);
            codes[1] = has_second ? load_element(code_at(f_, from.codes, at + 1), f_.code_bits / 8) : 0;
        }
        store_one(from, element_of_pair(f_, at, 0), codes[0], global);
        if (has_second) {
            store_one(from, element_of_pair(f_, at, 1), codes[1], global);
        }
    }

    __device__ __forceinline__ void store_one(const PlacedRow &from, Index element, std::uint32_t code,
                                              float global) const {
        std::uint32_t bits = code;
        if (from.placed && f_.format.type != KVAPPEND_STORED_AS_IS) {
            float number = 0;
            with_stored_type(
                f_.format, [&](auto stored)
                               __attribute__((always_inline)) { number = decltype(stored)::decode(code); });
            number = load_factor(f_, from.scales + group_byte(f_, element), global).apply(number);
            with_element_type(
                f_.element_type, [&](auto type)
                                     __attribute__((always_inline)) { bits = decltype(type)::encode(number); });
        }
        store_element(row_ + static_cast<std::uint64_t>(element) * f_.element_bytes, bits, f_.element_bytes);
    }

    const ConvertLayout &f_;
    const ConvertPointers &pointers_;
    PairPart<Index> part_;
    std::byte *row_ = nullptr;
};

// Loads `Bytes` bytes by accesses of `Type`.
template <class Type, unsigned Bytes>
__device__ __forceinline__ void load_as(const std::byte *from, std::uint32_t *words) {
#pragma unroll
    for (unsigned at = 0; at < Bytes; at += sizeof(Type)) {
        const Type value = __ldca(reinterpret_cast<const Type *>(from + at));
        if constexpr (sizeof(Type) < 4) {
            words[at / 4] |= std::uint32_t{value} << at % 4 * 8;
        } else {
            __builtin_memcpy(words + at / 4, &value, sizeof value);
        }
    }
}

// Loads the codes of a chunk as store_codes stores them. The words must be zero.
template <unsigned Bytes, unsigned CodeBytes>
__device__ __forceinline__ void load_codes(const std::byte *from, std::uint32_t *words, std::uint32_t access_log2) {
    if (Bytes >= 16 && access_log2 >= 4) {
        return load_as<uint4, Bytes>(from, words);
    }
    if (Bytes == 8 && access_log2 >= 3) {
        return load_as<uint2, Bytes>(from, words);
    }
    if (Bytes >= 4 && (CodeBytes == 4 || access_log2 >= 2)) {
        return load_as<unsigned, Bytes>(from, words);
    }
    load_as<unsigned short, Bytes>(from, words);
}

// The decoding of a thread's part of a row by chunks of 16 bytes of elements. All elements of a chunk have one scale.
template <class Element>
class ChunkDecoding {
public:
    __device__ __forceinline__ ChunkDecoding(const ConvertLayout &f, const ConvertPointers &pointers, std::int32_t i,
                                             const NoRotation & /*rotator*/)
        : f_(f), pointers_(pointers), part_(ChunkPart::of<false>(f, i, elements)) {}

    __device__ __forceinline__ void load(std::uint64_t row_byte, std::int32_t /*head*/) {
        row_ = pointers_.rows + row_byte;
    }

    __device__ __forceinline__ void place(const PlacedRow & /*from*/) const {}

    __device__ __forceinline__ void store(const PlacedRow &from) const {
        if (!from.placed && f_.zeroes == 0) {
            return;
        }
        const Factor factor = from.placed ? load_factor(f_, from.scales + product(part_.unit, f_.group_stride),
                                                        load_global_scale(f_, pointers_))
                                          : Factor{1, false, true};
        for (std::int32_t at = part_.first; at < part_.end; at += elements << f_.team_log2) {
            uint4 vector{};
            if (from.placed) {
                vector = chunk_of(code_at(f_, from.codes, at), factor);
            }
            store_global(reinterpret_cast<uint4 *>(row_ + static_cast<std::uint64_t>(at) * (Element::bits / 8)),
                         vector);
        }
    }

private:
    static constexpr std::int32_t elements = chunk_bytes * 8 / static_cast<std::int32_t>(Element::bits);

    __device__ __forceinline__ uint4 chunk_of(const std::byte *codes, const Factor &factor) const {
        uint4 vector{};
        if (f_.format.type == KVAPPEND_STORED_AS_IS) {
            std::uint32_t words[4] = {};
            load_codes<chunk_bytes, Element::bits / 8>(codes, words, f_.access_log2);
            __builtin_memcpy(&vector, words, sizeof vector);
            return vector;
        }
        with_stored_type(
            f_.format, [&](auto stored)
                           __attribute__((always_inline)) { vector = decode<decltype(stored)>(codes, factor); });
        return vector;
    }

    template <class Stored>
    __device__ __forceinline__ uint4 decode(const std::byte *from, const Factor &factor) const {
        constexpr unsigned bits = Stored::bits;
        std::uint32_t codes[(elements * bits + 31) / 32] = {};
        load_codes<elements * bits / 8, (bits + 7) / 8>(from, codes, f_.access_log2);
        std::uint32_t words[4] = {};
#pragma unroll
        for (unsigned i = 0; i < elements; ++i) {
            const std::uint32_t code = codes[i * bits / 32] >> (i * bits % 32) & (0xffffffffU >> (32 - bits));
            words[i * Element::bits / 32] |= Element::encode(factor.apply(Stored::decode(code)))
                                             << (i * Element::bits % 32);
        }
        uint4 vector;
        __builtin_memcpy(&vector, words, sizeof vector);
        return vector;
    }

    const ConvertLayout &f_;
    const ConvertPointers &pointers_;
    ChunkPart part_;
    std::byte *row_ = nullptr;
};

} // namespace kvappend
