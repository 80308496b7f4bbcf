// SPDX-License-Identifier: Apache-2.0
// Conversions of any row, by pairs of elements.
#pragma once

#include "convert.cuh"

namespace kvappend {

// Two elements, one by one. Codes of less than a byte share a byte. In a row with an odd number of elements, the last
// chunk has one element.
template <class Index>
class PairChunk {
public:
    static constexpr int elements = 2;

    // `at` is where the codes of the pair lie: an even element.
    __device__ __forceinline__ void load(const ConvertLayout &f, const std::byte *row, Index at, Index end) {
        raw_[0] =
            load_element(row + static_cast<std::uint64_t>(element_at(f, at, 0)) * f.element_bytes, f.element_bytes);
        has_second_ = at + 1 < end;
        if (has_second_) {
            raw_[1] =
                load_element(row + static_cast<std::uint64_t>(element_at(f, at, 1)) * f.element_bytes, f.element_bytes);
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
            const float first = factor_of_element(element_at(f, at, 0)).apply(decode(f, 0));
            const float second = has_second_ ? factor_of_element(element_at(f, at, 1)).apply(decode(f, 1)) : 0;
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
    // The elements of a pair are adjacent, or half a group apart.
    static __device__ __forceinline__ Index element_at(const ConvertLayout &f, Index at, unsigned second) {
        if (!f.format.halves) {
            return at + static_cast<Index>(second);
        }
        const auto unit = static_cast<Index>(f.unit);
        const Index begin = at / unit * unit;
        return begin + (at - begin) / 2 + (second != 0 ? unit / 2 : 0);
    }

    __device__ __forceinline__ float decode(const ConvertLayout &f, unsigned i) const {
        float x = 0;
        with_source_type(f.element_type, [&](auto source) { x = decltype(source)::decode(raw_[i]); });
        return x;
    }

    std::uint32_t raw_[2] = {};
    bool has_second_ = false;
};

// Where the row of a head lies in its cache. The pointers are not used if the row is not placed.
struct TargetRow {
    std::byte *codes;
    std::byte *scales;
    bool placed;
};

template <class Index>
__device__ __forceinline__ TargetRow target_row(const CopyLayout &c, const ConvertLayout &f,
                                                const ConvertPointers &pointers, const Spot<Index> &spot, Index head) {
    if (spot.begin >= spot.end) {
        return {pointers.cache, pointers.scales, false};
    }
    return {pointers.cache + byte_of(c.cache, spot, head, false), pointers.scales + scale_byte(f, spot, head), true};
}

// One thread's part of a unit.
template <class Index>
class PairConversion {
public:
    __device__ __forceinline__ PairConversion(const ConvertLayout &f, const std::byte *row) : f_(f), row_(row) {}

    // Loads the first chunk of what vector i of the row is for this thread: see ConvertLayout.
    __device__ __forceinline__ void load(Index i) {
        const Index unit = i >> f_.team_log2;
        const Index lane = i - (unit << f_.team_log2);
        const auto dim = static_cast<Index>(f_.dim);
        const Index begin = unit * static_cast<Index>(f_.unit);
        end_ = dim - begin < static_cast<Index>(f_.unit) ? dim : begin + static_cast<Index>(f_.unit);
        at_ = begin + lane * static_cast<Index>(PairChunk<Index>::elements);
        is_first_ = lane == 0;
        if (at_ < end_) {
            chunk_.load(f_, row_, at_, end_);
        }
    }

    // All threads of a team must call this, whatever the place, because they exchange what they found. If an index
    // changes during the run, threads of a team may have different places.
    __device__ __forceinline__ void store(const TargetRow &to, float global) {
        const Format &format = f_.format;
        if (format.computed()) {
            Scale scale;
            const Factor factor = compute_factor(format, largest(), global, scale);
            if (to.placed && is_first_) {
                store_element(to.scales + group_byte(at_), scale.code, f_.scale_bytes);
            }
            return store_chunks(to, [&](Index /*element*/) { return factor; });
        }
        if (format.scaled()) {
            return store_chunks(to, [&](Index element) {
                const std::uint32_t code = load_element(to.scales + group_byte(element), f_.scale_bytes);
                return factor_of(format, decode_scale(format.scale_type, code), global);
            });
        }
        store_chunks(to, [](Index /*element*/) { return Factor{1, false, false}; });
    }

private:
    __device__ __forceinline__ Index step() const {
        return static_cast<Index>(PairChunk<Index>::elements) << f_.team_log2;
    }

    __device__ __forceinline__ std::uint64_t group_byte(Index element) const {
        return f_.group_stride == 0 ? 0 : product(element / static_cast<Index>(f_.format.group), f_.group_stride);
    }

    __device__ __forceinline__ float largest() const {
        float largest = at_ < end_ ? chunk_.largest(f_) : 0;
        for (Index at = at_ + step(); at < end_; at += step()) {
            PairChunk<Index> chunk;
            chunk.load(f_, row_, at, end_);
            largest = larger_of(largest, chunk.largest(f_));
        }
        return largest_of_team(f_, largest);
    }

    template <class FactorOf>
    __device__ __forceinline__ void store_chunks(const TargetRow &to, FactorOf factor_of_element) {
        if (!to.placed) {
            return;
        }
        for (Index at = at_; at < end_; at += step()) {
            if (at != at_) {
                chunk_.load(f_, row_, at, end_);
            }
            chunk_.store(f_, to.codes, at, factor_of_element);
        }
    }

    const ConvertLayout &f_;
    const std::byte *row_;
    PairChunk<Index> chunk_;
    Index at_ = 0;
    Index end_ = 0;
    bool is_first_ = false;
};

// Which threads begin where is as in copy_runs.
template <class Index, class Placing>
__device__ __forceinline__ void convert_pairs(const GeometryLayout &g, const ConvertLayout &f,
                                              const BlockWork<ConvertLayer> &work, const Placing &placing) {
    const CopyLayout &c = g.copies[work.tensor];
    const Start<Index> start(c);
    const auto run_vectors = static_cast<Index>(c.run_vectors);
    const auto runs = static_cast<Index>(c.runs);
    const auto heads = static_cast<Index>(c.heads);
    if (start.vector >= run_vectors || start.run >= runs || start.head >= heads) {
        return;
    }
    if (work.programmatic) {
        wait_for_launch_before();
    }
    const ConvertPointers pointers(work);
    for (auto sample = static_cast<Index>(work.sample); sample < static_cast<Index>(g.samples);
         sample += static_cast<Index>(work.batch_step)) {
        for (Index head = start.head; head < heads; head += static_cast<Index>(c.head_step)) {
            for (Index run = start.run; run < runs; run += static_cast<Index>(c.run_step)) {
                const auto loaded = placing.load(sample, run);
                PairConversion<Index> conversion(f, pointers.rows + byte_of(c.rows, sample, head, run));
                conversion.load(start.vector);
                const float global = load_global_scale(f, pointers);
                const Spot<Index> spot = placing.spot(c, sample, run, loaded);
                const TargetRow to = target_row(c, f, pointers, spot, head);
                conversion.store(to, global);
                for (Index i = start.vector + static_cast<Index>(c.vector_step); i < run_vectors;
                     i += static_cast<Index>(c.vector_step)) {
                    conversion.load(i);
                    conversion.store(to, global);
                }
            }
        }
    }
}

} // namespace kvappend
