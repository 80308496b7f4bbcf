// SPDX-License-Identifier: Apache-2.0
// What both ways to store rows in another format have in common. layout.hpp says how a row is divided: a unit is what a
// team of threads converts together, such as a group whose scale they compute.
#pragma once

#include "../format.hpp"
#include "loop.cuh"

#include <cmath>

namespace kvappend {

inline constexpr unsigned warp_lanes = 32;

// The pointers of a layer: K and V, or the one of them that is copied.
struct ConvertLayer {
    const std::byte *rows[2];
    std::byte *caches[2];
    std::byte *scales[2];
    const float *global_scales[2];
};

// Those of K or of V.
struct ConvertPointers {
    const std::byte *rows;
    std::byte *cache;
    std::byte *scales;
    const float *global_scale;

    __device__ __forceinline__ explicit ConvertPointers(const BlockWork<ConvertLayer> &work)
        : rows(work.layer.rows[work.tensor]), cache(work.layer.caches[work.tensor]),
          scales(work.layer.scales[work.tensor]), global_scale(work.layer.global_scales[work.tensor]) {}
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

// The bytes from the tensor of scales to those of a row. With BY_FOUR_ROWS, four rows are one row of the tensor.
template <class Index>
__device__ __forceinline__ std::uint64_t scale_byte(const ConvertLayout &f, const Spot<Index> &spot, Index head) {
    const auto row = static_cast<Index>(spot.row);
    const std::uint64_t byte = product(spot.block, f.scales.outer) + product(head, f.scales.head);
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

// The largest magnitude that a thread of the team found.
__device__ __forceinline__ float largest_of_team(const ConvertLayout &f, float largest) {
    const unsigned team = 1U << f.team_log2;
    const unsigned first_lane = threadIdx.x % warp_lanes & ~(team - 1);
    const unsigned lanes = (0xffffffffU >> (warp_lanes - team)) << first_lane;
#pragma unroll
    for (unsigned distance = warp_lanes / 2; distance > 0; distance /= 2) {
        if (distance < team) {
            largest = larger_of(largest, __shfl_xor_sync(lanes, largest, static_cast<int>(distance)));
        }
    }
    return largest;
}

} // namespace kvappend
