// SPDX-License-Identifier: Apache-2.0
// Rotations of rows by twins: a thread loads both chunks of its part before it stores one of them. It loads their
// numbers of the tables once for all heads of a place. RotateLayout says how a row is divided.
#pragma once

#include "rotate.cuh"

namespace kvappend {

// The elements with which the two chunks of a part begin.
template <class Index>
struct TwinPart {
    Index first;
    Index second; // not below f.dim if there is none
    Index pair;   // of the tables, for the first pair; negative if the part is not rotated

    static __device__ __forceinline__ TwinPart of(const Rotator &rotator, Index i, Index elements) {
        const auto first = static_cast<Index>(rotator.first);
        const Index parts = rotator.active ? static_cast<Index>(rotator.r.dim) / (2 * elements) : 0;
        if (i < parts) {
            const Index begin = first + i * (rotator.r.interleaved ? 2 * elements : elements);
            return {begin, begin + (rotator.r.interleaved ? elements : parts * elements), i * elements};
        }
        // The elements before and after those that are rotated count as adjacent.
        const Index rest = (i - parts) * 2 * elements;
        const Index rotated = parts * 2 * elements;
        const auto around = [=](Index e) { return e < first ? e : e + rotated; };
        return {around(rest), around(rest + elements), -1};
    }
};

// Chunks that are loaded and stored together. The codes are the elements, or E4M3 without scales or with given ones
// that do not depend on the place (serve_twins in layout.cpp).
template <class Source>
class TwinConversion {
public:
    __device__ __forceinline__ TwinConversion(const ConvertLayout &f, const ConvertPointers &pointers, std::int32_t i,
                                              const Rotator &rotator)
        : f_(f), pointers_(pointers), rotator_(rotator), part_(TwinPart<std::int32_t>::of(rotator, i, elements)) {}

    __device__ __forceinline__ void load(std::uint64_t row_byte, std::int32_t head) {
        row_ = pointers_.rows + row_byte;
        first_.load(from(part_.first));
        if (has_second()) {
            second_.load(from(part_.second));
        }
        if (f_.scales_kind == ScalesKind::plain) {
            scale_ = float_of(
                load_index(reinterpret_cast<const std::uint32_t *>(pointers_.scales + product(head, f_.scales.head))));
        }
    }

    __device__ __forceinline__ void place(const PlacedRow &row) {
        if (row.placed && part_.pair >= 0) {
            rotator_.load_tables<elements>(row.position, part_.pair, cos_, sin_);
        }
    }

    __device__ __forceinline__ void store(const PlacedRow &row) {
        if (!row.placed) {
            return;
        }
        if (part_.pair >= 0) {
            rotate();
        }
        store_chunk(first_, part_.first, row);
        if (has_second()) {
            store_chunk(second_, part_.second, row);
        }
    }

private:
    static constexpr unsigned elements = chunk_bytes * 8 / Source::bits;

    __device__ __forceinline__ bool has_second() const { return part_.second < static_cast<std::int32_t>(f_.dim); }
    __device__ __forceinline__ const std::byte *from(std::int32_t element) const {
        return row_ + static_cast<std::uint64_t>(element) * (Source::bits / 8);
    }

    __device__ __forceinline__ void rotate() {
        float first[elements];
        float second[elements];
        unpack_elements<Source, elements>(first_.words(), first);
        unpack_elements<Source, elements>(second_.words(), second);
        float y[elements];
        if (rotator_.r.interleaved) {
            Rotator::rotate_adjacent<elements>(first, cos_, sin_, y);
            pack_elements<Source, elements>(y, first_.words());
            Rotator::rotate_adjacent<elements>(second, cos_ + elements / 2, sin_ + elements / 2, y);
        } else {
#pragma unroll
            for (unsigned k = 0; k < elements; ++k) {
                y[k] = rotated_first(first[k], second[k], cos_[k], sin_[k]);
            }
            pack_elements<Source, elements>(y, first_.words());
#pragma unroll
            for (unsigned k = 0; k < elements; ++k) {
                y[k] = rotated_second(first[k], second[k], cos_[k], sin_[k]);
            }
        }
        pack_elements<Source, elements>(y, second_.words());
    }

    __device__ __forceinline__ void store_chunk(Chunk<Source, elements> &chunk, std::int32_t element,
                                                const PlacedRow &row) const {
        std::byte *const codes = code_at(f_, row.codes, element);
        if (f_.format.type == KVAPPEND_STORED_AS_IS) {
            return chunk.store_bits(codes, f_.access_log2);
        }
        chunk.decode();
        const auto factor = ChunkFactor::of(f_.format.scale_use, scale_);
        if (!factor.usable || !chunk.template store<E4M3>(codes, f_.access_log2, factor)) {
            const auto element_bits = [&](unsigned i) __attribute__((always_inline)) {
                const std::int32_t e = element + static_cast<std::int32_t>(i);
                return rotator_.rotated(f_, row_, e, load_element(from(e), Source::bits / 8), row.position);
            };
            convert_one_by_one<Source, E4M3, elements>(element_bits, codes, factor_of(f_.format, scale_, 1));
        }
    }

    const ConvertLayout &f_;
    const ConvertPointers &pointers_;
    const Rotator &rotator_;
    TwinPart<std::int32_t> part_;
    const std::byte *row_ = nullptr;
    Chunk<Source, elements> first_;
    Chunk<Source, elements> second_;
    float cos_[elements] = {};
    float sin_[elements] = {};
    float scale_ = 1;
};

// Chunks of one element, for any Q.
template <class Index>
class ElementTwins {
public:
    __device__ __forceinline__ ElementTwins(const ConvertLayout &f, const ConvertPointers &pointers, Index i,
                                            const Rotator &rotator)
        : f_(f), pointers_(pointers), rotator_(rotator), part_(TwinPart<Index>::of(rotator, i, 1)) {}

    __device__ __forceinline__ void load(std::uint64_t row_byte, Index /*head*/) {
        const std::byte *const row = pointers_.rows + row_byte;
        first_ = load_element(row + product(part_.first, f_.element_bytes), f_.element_bytes);
        if (has_second()) {
            second_ = load_element(row + product(part_.second, f_.element_bytes), f_.element_bytes);
        }
    }

    __device__ __forceinline__ void place(const PlacedRow &row) {
        if (row.placed && part_.pair >= 0) {
            rotator_.load_tables<1>(row.position, part_.pair, &cos_, &sin_);
        }
    }

    __device__ __forceinline__ void store(const PlacedRow &row) {
        if (!row.placed) {
            return;
        }
        with_element_type(f_.element_type, [&](auto source) {
            using Source = decltype(source);
            if (part_.pair >= 0) {
                const float x1 = Source::decode(first_);
                const float x2 = Source::decode(second_);
                first_ = Source::encode(rotated_first(x1, x2, cos_, sin_));
                second_ = Source::encode(rotated_second(x1, x2, cos_, sin_));
            }
            store_code(row, part_.first, first_, Source::decode(first_));
            if (has_second()) {
                store_code(row, part_.second, second_, Source::decode(second_));
            }
        });
    }

private:
    __device__ __forceinline__ bool has_second() const { return part_.second < static_cast<Index>(f_.dim); }

    __device__ __forceinline__ void store_code(const PlacedRow &row, Index element, std::uint32_t code,
                                               float number) const {
        const Format &format = f_.format;
        if (format.type != KVAPPEND_STORED_AS_IS) {
            Factor factor{1, false, false};
            if (format.scaled()) {
                const std::uint32_t scale = load_element(row.scales + group_byte(f_, element), f_.scale_bytes);
                factor = factor_of(format, decode_scale(format.scale_type, scale), 1);
            }
            with_stored_type(format, [&](auto stored) { code = decltype(stored)::encode(factor.apply(number)); });
        }
        store_element(code_at(f_, row.codes, element), code, f_.code_bits / 8);
    }

    const ConvertLayout &f_;
    const ConvertPointers &pointers_;
    const Rotator &rotator_;
    TwinPart<Index> part_;
    std::uint32_t first_ = 0;
    std::uint32_t second_ = 0;
    float cos_ = 0;
    float sin_ = 0;
};

} // namespace kvappend
