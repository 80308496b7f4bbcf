// SPDX-License-Identifier: Apache-2.0
// How threads store rows in another format. layout.hpp says how a row is divided: a unit is what a team of threads
// converts together, such as a group whose scale they compute, and a chunk is what one thread converts at once.
//
// The source type and the stored type are the same for all threads of a block, so they are chosen at run time. One
// kernel for each pair of types would be as fast and many times as large.
#pragma once

#include "../format.hpp"
#include "loop.cuh"

namespace kvappend {

inline constexpr unsigned warp_lanes = 32;

// The pointers of a layer: K and V, or the one of them that is copied.
struct ConvertLayer {
    const std::byte *rows[2];
    std::byte *caches[2];
    std::byte *scales[2];
    const float *global_scales[2];
};

// Where the row of a head lies in its cache. The pointers are not used if the row is not placed.
struct TargetRow {
    std::byte *codes;
    std::byte *scales;
    bool placed;
};

// Calls use(type) with the element type of the new rows.
template <class Use>
__device__ __forceinline__ void with_source_type(std::int32_t element_type, Use use) {
    switch (element_type) {
    case KVAPPEND_ELEMENT_F32:
        return use(F32{});
    case KVAPPEND_ELEMENT_F16:
        return use(F16{});
    default:
        return use(BF16{});
    }
}

// Stores `Bytes` bytes by accesses of `Type`, or of the whole if that is smaller.
template <class Type, unsigned Bytes>
__device__ __forceinline__ void store_as(std::byte *to, const std::uint32_t *words) {
#pragma unroll
    for (unsigned at = 0; at < Bytes; at += sizeof(Type)) {
        Type value;
        __builtin_memcpy(&value, reinterpret_cast<const unsigned char *>(words) + at, sizeof value);
        store_global(reinterpret_cast<Type *>(to + at), value);
    }
}

// Stores `Bytes` bytes, which are aligned to 1 << access_log2.
template <unsigned Bytes>
__device__ __forceinline__ void store_bytes(std::byte *to, const std::uint32_t *words, std::uint32_t access_log2) {
    if (Bytes >= 16 && access_log2 >= 4) {
        return store_as<uint4, Bytes>(to, words);
    }
    if (Bytes >= 8 && access_log2 >= 3) {
        return store_as<uint2, Bytes>(to, words);
    }
    if (Bytes >= 4 && access_log2 >= 2) {
        return store_as<unsigned, Bytes>(to, words);
    }
    if (access_log2 >= 1) {
        return store_as<unsigned short, Bytes>(to, words);
    }
    store_as<unsigned char, Bytes>(to, words);
}

__device__ __forceinline__ std::uint32_t load_element(const std::byte *from, std::uint32_t bytes) {
    switch (bytes) {
    case 4:
        return load_global(reinterpret_cast<const unsigned *>(from));
    case 2:
        return load_global(reinterpret_cast<const unsigned short *>(from));
    default:
        return load_global(reinterpret_cast<const unsigned char *>(from));
    }
}

__device__ __forceinline__ void store_element(std::byte *to, std::uint32_t value, std::uint32_t bytes) {
    switch (bytes) {
    case 4:
        return store_global(reinterpret_cast<unsigned *>(to), value);
    case 2:
        return store_global(reinterpret_cast<unsigned short *>(to), static_cast<unsigned short>(value));
    default:
        store_global(reinterpret_cast<unsigned char *>(to), static_cast<unsigned char>(value));
    }
}

// The place of an element's code in its row. A code of less than a byte has an even element here.
template <class Index>
__device__ __forceinline__ std::byte *code_at(const ConvertLayout &f, std::byte *row, Index element) {
    const Index piece = element >> f.pack_log2;
    const auto in_piece = static_cast<std::uint64_t>(element - (piece << f.pack_log2));
    return row + product(piece, f.piece_stride) + (in_piece * f.code_bits >> 3);
}

// Adjacent elements, by accesses of 16 bytes. They belong to one group.
template <class Index>
class WideChunk {
public:
    static constexpr int elements = wide_chunk;

    __device__ __forceinline__ void load(const ConvertLayout &f, const std::byte *row, Index at, Index /*end*/) {
        const auto *const from =
            reinterpret_cast<const uint4 *>(row + static_cast<std::uint64_t>(at) * f.element_bytes);
        raw_[0] = load_global(from);
        if (f.element_bytes == 4) {
            raw_[1] = load_global(from + 1);
        }
    }

    __device__ __forceinline__ std::int32_t largest(const ConvertLayout &f) const {
        float x[elements];
        decode(f, x);
        std::int32_t most = 0;
#pragma unroll
        for (const float element : x) {
            const std::int32_t magnitude = counted_magnitude(element);
            most = magnitude > most ? magnitude : most;
        }
        return most;
    }

    template <class FactorOf>
    __device__ __forceinline__ void store(const ConvertLayout &f, std::byte *row, Index at,
                                          FactorOf factor_of_element) const {
        std::byte *const to = code_at(f, row, at);
        if (f.format.type == KVAPPEND_STORED_AS_IS) {
            const auto *const words = reinterpret_cast<const std::uint32_t *>(raw_);
            return f.element_bytes == 4 ? store_bytes<4U * elements>(to, words, f.access_log2)
                                        : store_bytes<2U * elements>(to, words, f.access_log2);
        }
        float x[elements];
        decode(f, x);
        const Factor factor = factor_of_element(at);
        with_stored_type(f.format, [&](auto stored) {
            using Stored = decltype(stored);
            constexpr unsigned bits = Stored::bits;
            std::uint32_t words[static_cast<unsigned>(elements) * bits / 32] = {};
#pragma unroll
            for (unsigned i = 0; i < elements; ++i) {
                words[i * bits / 32] |= Stored::encode(factor.apply(x[i])) << (i * bits % 32);
            }
            store_bytes<elements * bits / 8>(to, words, f.access_log2);
        });
    }

private:
    __device__ __forceinline__ void decode(const ConvertLayout &f, float (&x)[elements]) const {
        const auto *const words = reinterpret_cast<const std::uint32_t *>(raw_);
        with_source_type(f.element_type, [&](auto source) {
            using Source = decltype(source);
            constexpr unsigned bits = Source::bits;
#pragma unroll
            for (unsigned i = 0; i < elements; ++i) {
                const std::uint32_t word = words[i * bits / 32] >> (i * bits % 32);
                x[i] = Source::decode(bits == 32 ? word : word & 0xffff);
            }
        });
    }

    uint4 raw_[2] = {};
};

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

    __device__ __forceinline__ std::int32_t largest(const ConvertLayout &f) const {
        const std::int32_t first = counted_magnitude(decode(f, 0));
        const std::int32_t second = has_second_ ? counted_magnitude(decode(f, 1)) : 0;
        return first > second ? first : second;
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

// One thread's part of a unit.
template <class Chunk, class Index>
class Conversion {
public:
    __device__ __forceinline__ Conversion(const ConvertLayout &f, const std::byte *row) : f_(f), row_(row) {}

    // Loads the first chunk of what vector i of the row is for this thread: see ConvertLayout.
    __device__ __forceinline__ void load(Index i) {
        const Index unit = i >> f_.team_log2;
        const Index lane = i - (unit << f_.team_log2);
        const auto dim = static_cast<Index>(f_.dim);
        const Index begin = unit * static_cast<Index>(f_.unit);
        end_ = dim - begin < static_cast<Index>(f_.unit) ? dim : begin + static_cast<Index>(f_.unit);
        at_ = begin + lane * static_cast<Index>(Chunk::elements);
        is_first_ = lane == 0;
        if (at_ < end_) {
            chunk_.load(f_, row_, at_, end_);
        }
    }

    // All threads of a team must call this, whatever the place, because they exchange what they found. If an index
    // changes during the run, threads of a team may have different places.
    __device__ __forceinline__ void store(const TargetRow &to, const float *global_scale) {
        const Format &format = f_.format;
        float global = 1;
        if (format.has_global_scale) {
            global = float_of(load_index(reinterpret_cast<const std::uint32_t *>(global_scale)));
        }
        if (format.computed()) {
            const std::int32_t largest = largest_of_team();
            Scale scale;
            const Factor factor = compute_factor(format, float_of(static_cast<std::uint32_t>(largest)), global, scale);
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
    __device__ __forceinline__ Index step() const { return static_cast<Index>(Chunk::elements) << f_.team_log2; }

    __device__ __forceinline__ std::uint64_t group_byte(Index element) const {
        return f_.group_stride == 0 ? 0 : product(element / static_cast<Index>(f_.format.group), f_.group_stride);
    }

    __device__ __forceinline__ std::int32_t largest_of_team() const {
        std::int32_t largest = at_ < end_ ? chunk_.largest(f_) : 0;
        for (Index at = at_ + step(); at < end_; at += step()) {
            Chunk chunk;
            chunk.load(f_, row_, at, end_);
            const std::int32_t other = chunk.largest(f_);
            largest = other > largest ? other : largest;
        }
        const unsigned team = 1U << f_.team_log2;
        const unsigned first_lane = threadIdx.x % warp_lanes & ~(team - 1);
        const unsigned lanes = (0xffffffffU >> (warp_lanes - team)) << first_lane;
        for (unsigned distance = team / 2; distance > 0; distance /= 2) {
            const std::int32_t other = __shfl_xor_sync(lanes, largest, static_cast<int>(distance));
            largest = other > largest ? other : largest;
        }
        return largest;
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
    Chunk chunk_;
    Index at_ = 0;
    Index end_ = 0;
    bool is_first_ = false;
};

// The bytes from the tensor of scales to those of a row. With BY_FOUR_ROWS, four rows are one row of the tensor.
template <class Index>
__device__ __forceinline__ std::uint64_t scale_byte(const ConvertLayout &f, const Spot<Index> &spot, Index head) {
    const auto row = static_cast<Index>(spot.row);
    const std::uint64_t byte = product(spot.block, f.scales.outer) + product(head, f.scales.head);
    return byte + (f.format.by_four_rows ? product(row / 4, f.scales.row) + static_cast<std::uint64_t>(row % 4)
                                         : product(row, f.scales.row));
}

// Which threads begin where is as in copy_runs.
template <class Chunk, class Index, class Placing>
__device__ __forceinline__ void convert_runs(const GeometryLayout &g, const ConvertLayout &f,
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
    const std::byte *const rows = work.layer.rows[work.tensor];
    std::byte *const cache = work.layer.caches[work.tensor];
    std::byte *const scales = work.layer.scales[work.tensor];
    for (auto sample = static_cast<Index>(work.sample); sample < static_cast<Index>(g.samples);
         sample += static_cast<Index>(work.batch_step)) {
        for (Index head = start.head; head < heads; head += static_cast<Index>(c.head_step)) {
            for (Index run = start.run; run < runs; run += static_cast<Index>(c.run_step)) {
                const auto loaded = placing.load(sample, run);
                Conversion<Chunk, Index> conversion(f, rows + byte_of(c.rows, sample, head, run));
                conversion.load(start.vector);
                const Spot<Index> spot = placing.spot(c, sample, run, loaded);
                TargetRow to{cache, scales, spot.begin < spot.end};
                if (to.placed) {
                    to.codes += byte_of(c.cache, spot, head, false);
                    to.scales += scale_byte(f, spot, head);
                }
                conversion.store(to, work.layer.global_scales[work.tensor]);
                for (Index i = start.vector + static_cast<Index>(c.vector_step); i < run_vectors;
                     i += static_cast<Index>(c.vector_step)) {
                    conversion.load(i);
                    conversion.store(to, work.layer.global_scales[work.tensor]);
                }
            }
        }
    }
}

} // namespace kvappend
