// SPDX-License-Identifier: Apache-2.0
// Conversions of any row, by pairs of elements.
#pragma once

#include "convert.cuh"

namespace kvappend {

// The elements of a pair are adjacent, or half a group apart. `at` is where the codes of the pair lie: an even element.
template <class Index>
__device__ __forceinline__ Index element_of_pair(const ConvertLayout &f, Index at, unsigned second) {
    if (!f.format.halves) {
        return at + static_cast<Index>(second);
    }
    const auto unit = static_cast<Index>(f.unit);
    const Index begin = at / unit * unit;
    return begin + (at - begin) / 2 + (second != 0 ? unit / 2 : 0);
}

// What a thread converts of a row, pair by pair: see ConvertLayout.
template <class Index>
struct PairPart {
    Index first; // element
    Index end;
    bool leads; // whether the thread is the first of its team

    static __device__ __forceinline__ PairPart of(const ConvertLayout &f, Index i) {
        const Index unit = i >> f.team_log2;
        const Index lane = i - (unit << f.team_log2);
        const auto dim = static_cast<Index>(f.dim);
        const Index begin = unit * static_cast<Index>(f.unit);
        return {begin + lane * 2, dim - begin < static_cast<Index>(f.unit) ? dim : begin + static_cast<Index>(f.unit),
                lane == 0};
    }
    static __device__ __forceinline__ Index step(const ConvertLayout &f) { return Index{2} << f.team_log2; }
};

// Two elements, one by one. Codes of less than a byte share a byte. In a row with an odd number of elements, the last
// chunk has one element.
template <class Index>
class PairChunk {
public:
    __device__ __forceinline__ void load(const ConvertLayout &f, const std::byte *row, Index at, Index end) {
        raw_[0] = load_element(row + static_cast<std::uint64_t>(element_of_pair(f, at, 0)) * f.element_bytes,
                               f.element_bytes);
        has_second_ = at + 1 < end;
        if (has_second_) {
            raw_[1] = load_element(row + static_cast<std::uint64_t>(element_of_pair(f, at, 1)) * f.element_bytes,
                                   f.element_bytes);
        }
    }

    template <class Rotator>
    __device__ __forceinline__ void rotate(const ConvertLayout &f, const Rotator &rotator, const std::byte *row,
                                           Index at, std::int64_t position) {
        raw_[0] = rotator.rotated(f, row, element_of_pair(f, at, 0), raw_[0], position);
        if (has_second_) {
            raw_[1] = rotator.rotated(f, row, element_of_pair(f, at, 1), raw_[1], position);
        }
    }

    // NaN is not counted.
    __device__ __forceinline__ float largest(const ConvertLayout &f) const {
        return larger_of(larger_of(0, fabsf(decode(f, 0))), has_second_ ? fabsf(decode(f, 1)) : 0);
    }

    template <class FactorOf>
    __device__ __forceinline__ void store(const ConvertLayout &f, std::byte *row, Index at,
                                          FactorOf factor_of_element) const {
        std::uint32_t codes[2] = {raw_[0], raw_[1]};
        if (f.format.type != KVAPPEND_STORED_AS_IS) {
            const float first = factor_of_element(element_of_pair(f, at, 0)).apply(decode(f, 0));
            const float second = has_second_ ? factor_of_element(element_of_pair(f, at, 1)).apply(decode(f, 1)) : 0;
            with_stored_type(f.format, [&](auto stored) {
                codes[0] = decltype(stored)::encode(first);
                codes[1] = decltype(stored)::encode(second);
            });
        }
        if (f.code_bits < 8) {
            return store_element(code_at(f, row, at), codes[0] | codes[1] << 4, 1);
        }
        store_element(code_at(f, row, at), codes[0], f.code_bits / 8);
        if (has_second_) {
            store_element(code_at(f, row, at + 1), codes[1], f.code_bits / 8);
        }
    }

private:
    __device__ __forceinline__ float decode(const ConvertLayout &f, unsigned i) const {
        float x = 0;
        with_element_type(f.element_type, [&](auto source) { x = decltype(source)::decode(raw_[i]); });
        return x;
    }

    std::uint32_t raw_[2] = {};
    bool has_second_ = false;
};

// The conversion of a thread's part of a unit.
template <class Index, class Rotator = NoRotation>
class PairConversion {
public:
    __device__ __forceinline__ PairConversion(const ConvertLayout &f, const ConvertPointers &pointers, Index i,
                                              const Rotator &rotator)
        : f_(f), pointers_(pointers), part_(PairPart<Index>::of(f, i)), rotator_(rotator) {}

    // Loads the first chunk, which does not depend on the place.
    __device__ __forceinline__ void load(std::uint64_t row_byte, Index /*head*/) {
        row_ = pointers_.rows + row_byte;
        if (part_.first < part_.end) {
            chunk_.load(f_, row_, part_.first, part_.end);
        }
        global_ = load_global_scale(f_, pointers_);
    }

    __device__ __forceinline__ void place(const PlacedRow & /*row*/) const {}

    // All threads of a team must call this, whatever the place, because they exchange what they found. If an index
    // changes during the run, threads of a team may have different places.
    __device__ __forceinline__ void store(const PlacedRow &row) {
        const Format &format = f_.format;
        if (row.placed && part_.first < part_.end) {
            chunk_.rotate(f_, rotator_, row_, part_.first, row.position);
        }
        Scale scale{};
        Factor computed{1, false, false};
        if (format.computed()) {
            computed = compute_factor(format, largest(row.placed, row.position), global_, scale);
        }
        if (!row.placed) {
            return;
        }
        if (format.computed() && part_.leads) {
            store_element(row.scales + group_byte(f_, part_.first), scale.code, f_.scale_bytes);
        }
        if (format.scaled() && !format.computed()) {
            return store_chunks(row.codes, row.position, [&](Index element) {
                const std::uint32_t code = load_element(row.scales + group_byte(f_, element), f_.scale_bytes);
                return factor_of(format, decode_scale(format.scale_type, code), global_);
            });
        }
        store_chunks(row.codes, row.position, [&](Index /*element*/) { return computed; });
    }

private:
    __device__ __forceinline__ float largest(bool placed, std::int64_t position) const {
        float largest = chunk_.largest(f_); // 0 if the part is empty
        for (Index at = part_.first + PairPart<Index>::step(f_); at < part_.end; at += PairPart<Index>::step(f_)) {
            PairChunk<Index> chunk;
            chunk.load(f_, row_, at, part_.end);
            if (placed) {
                chunk.rotate(f_, rotator_, row_, at, position);
            }
            largest = larger_of(largest, chunk.largest(f_));
        }
        return largest_of_team(f_, largest);
    }

    template <class FactorOf>
    __device__ __forceinline__ void store_chunks(std::byte *codes, std::int64_t position, FactorOf factor_of_element) {
        for (Index at = part_.first; at < part_.end; at += PairPart<Index>::step(f_)) {
            if (at != part_.first) {
                chunk_.load(f_, row_, at, part_.end);
                chunk_.rotate(f_, rotator_, row_, at, position);
            }
            chunk_.store(f_, codes, at, factor_of_element);
        }
    }

    const ConvertLayout &f_;
    const ConvertPointers &pointers_;
    PairPart<Index> part_;
    const std::byte *row_ = nullptr;
    PairChunk<Index> chunk_;
    const Rotator &rotator_;
    float global_ = 1;
};

} // namespace kvappend
