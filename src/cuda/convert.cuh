// SPDX-License-Identifier: Apache-2.0
// What all conversions of rows have in common, of appends and of gathers. layout.hpp says how a row is divided: a unit
// is what a team of threads converts together, such as a group whose scale they compute.
#pragma once

#include "../format.hpp"
#include "loop.cuh"

#include <cmath>

namespace kvappend {

// The pointers of a layer: K and V, or the one of them that is copied.
struct ConvertLayer {
    std::byte *rows[2]; // An append only reads them, and a gather only reads the others.
    std::byte *caches[2];
    std::byte *scales[2];
    const float *global_scales[2];
};

// Those of one tensor.
struct ConvertPointers {
    std::byte *rows;
    std::byte *cache;
    std::byte *scales;
    const float *global_scale;
};

// What convert_runs needs to know of the tensor that a block converts. A launch with Q has functions of its own.
template <class Layer>
__device__ __forceinline__ ConvertPointers pointers_of(const BlockWork<Layer> &work) {
    return {work.layer.rows[work.tensor], work.layer.caches[work.tensor], work.layer.scales[work.tensor],
            work.layer.global_scales[work.tensor]};
}
template <class Layer>
__device__ __forceinline__ const CopyLayout &copy_of(const GeometryLayout &g, const BlockWork<Layer> &work) {
    return g.copies[work.tensor];
}
template <class Layer>
__device__ __forceinline__ unsigned head_block_of(const GeometryLayout & /*g*/, const BlockWork<Layer> & /*work*/) {
    return blockIdx.y;
}

// A plain load whose instruction names the cache, so that tests can tell these loads from those of indices in PTX.
__device__ __forceinline__ std::uint32_t load_element(const std::byte *from, std::uint32_t bytes) {
    switch (bytes) {
    case 4:
        return __ldca(reinterpret_cast<const unsigned *>(from));
    case 2:
        return __ldca(reinterpret_cast<const unsigned short *>(from));
    default:
        return __ldca(reinterpret_cast<const unsigned char *>(from));
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

// The bytes from the tensor of scales to those of a row of head 0. With BY_FOUR_ROWS, four rows are one row of the
// tensor.
template <class Index>
__device__ __forceinline__ std::uint64_t scale_byte(const ConvertLayout &f, const Spot<Index> &spot) {
    const auto row = static_cast<Index>(spot.row);
    const std::uint64_t byte = product(spot.block, f.scales.outer);
    return byte + (f.format.by_four_rows ? product(row / 4, f.scales.row) + static_cast<std::uint64_t>(row % 4)
                                         : product(row, f.scales.row));
}

__device__ __forceinline__ float load_global_scale(const ConvertLayout &f, const ConvertPointers &pointers) {
    return f.format.has_global_scale
               ? float_of(load_index(reinterpret_cast<const std::uint32_t *>(pointers.global_scale)))
               : 1;
}

// The larger of a number and a magnitude. A magnitude that is NaN does not count.
__device__ __forceinline__ float larger_of(float number, float magnitude) {
#if defined(__CUDA_ARCH__)
    return fmaxf(number, magnitude); // one instruction; that of C++ gives NaN if the NaN is a signaling one
#else
    return magnitude > number ? magnitude : number;
#endif
}

// The largest number of a team's threads. `lanes` are those that call this together.
__device__ __forceinline__ float largest_of_lanes(unsigned lanes, unsigned team, float largest) {
#pragma unroll
    for (unsigned distance = warp_lanes / 2; distance > 0; distance /= 2) {
        if (distance < team) {
            largest = larger_of(largest, __shfl_xor_sync(lanes, largest, static_cast<int>(distance)));
        }
    }
    return largest;
}

// The largest magnitude that a thread of the team found. If the mask is not a constant, each shuffle takes four more
// instructions, which find the lanes with the same mask.
__device__ __forceinline__ float largest_of_team(const ConvertLayout &f, float largest) {
    const unsigned team = 1U << f.team_log2;
    if (f.in_step != 0) {
        return largest_of_lanes(all_lanes, team, largest);
    }
    const unsigned first_lane = threadIdx.x % warp_lanes & ~(team - 1);
    return largest_of_lanes((all_lanes >> (warp_lanes - team)) << first_lane, team, largest);
}

// The bytes from the scales of a row to that of an element.
template <class Index>
__device__ __forceinline__ std::uint64_t group_byte(const ConvertLayout &f, Index element) {
    return f.group_stride == 0 ? 0 : product(element / static_cast<Index>(f.format.group), f.group_stride);
}

// What a conversion does to elements before it converts them: nothing. Rotator (rotate.cuh) has the same functions. A
// row that is not placed has no position.
struct NoRotation {
    // Rotates a chunk that begins with an element of a row.
    template <class Source, unsigned Elements, class Index>
    __device__ __forceinline__ void rotate(std::uint32_t * /*words*/, const std::byte * /*row*/, Index /*element*/,
                                           std::int64_t /*position*/) const {}
    // An element of a row, whose bits are given.
    template <class Index>
    __device__ __forceinline__ std::uint32_t rotated(const ConvertLayout & /*f*/, const std::byte * /*row*/,
                                                     Index /*element*/, std::uint32_t bits,
                                                     std::int64_t /*position*/) const {
        return bits;
    }
};

// Where the rows of all heads with one spot lie in the cache. A row without a place lies nowhere.
struct PlacedRow {
    bool placed;
    std::byte *codes;
    std::byte *scales;
    std::int64_t position; // as in Spot

    // That of head 0.
    template <class Index>
    static __device__ __forceinline__ PlacedRow of(const ConvertLayout &f, const ConvertPointers &pointers,
                                                   const CopyLayout &c, const Spot<Index> &spot) {
        const bool placed = spot.begin < spot.end;
        return {placed, pointers.cache + (placed ? byte_of(c.cache, spot, Index{0}, false) : 0),
                pointers.scales + (placed && f.format.scaled() ? scale_byte(f, spot) : 0), spot.position};
    }
    template <class Index>
    __device__ __forceinline__ PlacedRow of_head(const ConvertLayout &f, const CopyLayout &c, Index head) const {
        return {placed, codes + product(head, c.cache.head), scales + product(head, f.scales.head), position};
    }
};

// Which threads begin where is as in copy_runs.
//
// What a Conversion must have:
// Conversion(layout, pointers, i, rotator): the part of vector i of any row; load(row_byte, head): begins the row of a
// head, which is row_byte bytes from the tensor's base, and loads what does not depend on the place; place(row): loads
// what all heads of a place have in common; store(row): converts the part and stores it, if the row is placed.
template <class Conversion, class Index, class Geometry, class Layer, class Placing, class Rotator = NoRotation>
__device__ __forceinline__ void convert_runs(const Geometry &g, const ConvertLayout &f, const BlockWork<Layer> &work,
                                             const Placing &placing, const Rotator &rotator = {}) {
    const CopyLayout &c = copy_of(g, work);
    const Start<Index> start(c, head_block_of(g, work));
    const auto run_vectors = static_cast<Index>(c.run_vectors);
    const auto runs = static_cast<Index>(c.runs);
    const auto heads = static_cast<Index>(c.heads);
    if (start.vector >= run_vectors || start.run >= runs || start.head >= heads) {
        return;
    }
    const ConvertPointers pointers = pointers_of(work);
    if (work.programmatic) {
        wait_for_launch_before();
    }
    Index run = start.run;
    Index i = start.vector;
    auto sample = static_cast<Index>(work.sample);
    // One loop over vectors, runs and samples.
    do {
        const auto loaded = placing.load(sample, run);
        Index head = start.head;
        Conversion conversion(f, pointers, i, rotator);
        conversion.load(byte_of(c.rows, sample, head, run), head);
        const PlacedRow row = PlacedRow::of(f, pointers, c, placing.spot(c, sample, run, loaded));
        conversion.place(row);
        for (;;) { // All heads of a row have one place.
            conversion.store(row.of_head(f, c, head));
            head += static_cast<Index>(c.head_step);
            if (head >= heads) {
                break;
            }
            conversion.load(byte_of(c.rows, sample, head, run), head);
        }
        if (f.covered != 0) {
            return;
        }
        i += static_cast<Index>(c.vector_step);
        if (i >= run_vectors) {
            i = start.vector;
            run += static_cast<Index>(c.run_step);
            if (run >= runs) {
                run = start.run;
                sample += static_cast<Index>(work.batch_step);
            }
        }
    } while (sample < static_cast<Index>(g.samples));
}

} // namespace kvappend
