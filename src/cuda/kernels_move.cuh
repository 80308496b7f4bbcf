// SPDX-License-Identifier: Apache-2.0
// The kernels that move rows within caches, and the parameters of their launches.
#pragma once

#include "loop.cuh"
#include "move_layout.hpp"
#include "parameters.cuh"

namespace kvappend {

// The number of rows that a thread loads before it stores them.
inline constexpr int moves_in_flight = 4;

inline constexpr unsigned most_moved_layers = 80;

struct MoveLayer {
    std::byte *tensors[MovedTensors::most];
};

struct MoveGeometry : MoveGeometryLayout {
    using Layer = MoveLayer;
    static constexpr bool joins_rows = false;

    Addressing addressing;
    Indices indices;
};

using SlotRule = Rule<Known{.kind = KVAPPEND_ADDRESSING_SLOTS}>;

// The bytes from a tensor's base to its column `column`, in the first row.
__device__ inline std::uint64_t byte_of_column(const MoveLayout &m, std::uint64_t column) {
    const Quotient at = divide(column, static_cast<std::uint64_t>(m.row_vectors));
    const std::uint64_t piece = at.remainder >> m.piece_log2;
    return at.quotient * static_cast<std::uint64_t>(m.strides.head) +
           piece * static_cast<std::uint64_t>(m.piece_stride) +
           ((at.remainder - (piece << m.piece_log2)) << m.access_log2);
}

// The bytes from the first row of a column to the row at a place.
__device__ inline std::uint64_t byte_of_place(const MoveLayout &m, const Place &place) {
    const auto row = static_cast<std::uint64_t>(place.row);
    return static_cast<std::uint64_t>(place.block) * static_cast<std::uint64_t>(m.strides.outer) +
           (row >> m.together_log2) * static_cast<std::uint64_t>(m.strides.row) + (row & ((1U << m.together_log2) - 1));
}

// Moves the rows row <= i < end of a column as if one after the other, but not more than moves_in_flight of them. All
// loads come before all stores, so a thread waits only once for the loads. If a row comes from a place to which an
// earlier row goes, it takes the vector of the earlier row.
template <class Vector>
__device__ __forceinline__ void move_some_rows(const MoveLayout &m, std::byte *column, const SlotRule &rule,
                                               std::int64_t row, std::int64_t end) {
    LoadedMove<DeviceLoad> loaded[moves_in_flight];
#pragma unroll
    for (int n = 0; n < moves_in_flight; ++n) {
        if (row + n < end) {
            loaded[n] = load_move(rule, row + n, DeviceLoad{});
        }
    }
    bool placed[moves_in_flight];
    std::uint64_t from[moves_in_flight];
    std::uint64_t to[moves_in_flight];
    Vector held[moves_in_flight];
#pragma unroll
    for (int n = 0; n < moves_in_flight; ++n) {
        placed[n] = false;
        if (row + n < end) {
            const MovedRow moved = places_of_move(rule, row + n, loaded[n], DeviceLoad{});
            placed[n] = moved.placed();
            from[n] = byte_of_place(m, moved.from);
            to[n] = byte_of_place(m, moved.to);
        }
        if (placed[n]) {
            held[n] = load_global(reinterpret_cast<const Vector *>(column + from[n]));
        }
    }
#pragma unroll
    for (int n = 0; n < moves_in_flight; ++n) {
#pragma unroll
        for (int earlier = 0; earlier < n; ++earlier) {
            if (placed[n] && placed[earlier] && to[earlier] == from[n]) {
                held[n] = held[earlier];
            }
        }
        if (placed[n]) {
            store_global(reinterpret_cast<Vector *>(column + to[n]), held[n]);
        }
    }
}

// Moves the columns of a thread, for all samples.
template <class Vector>
__device__ __forceinline__ void move_columns(const MoveGeometry &g, const MoveLayout &m, std::byte *tensor) {
    const SlotRule rule{g.addressing, g.indices};
    const auto first = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    const auto columns = static_cast<std::uint64_t>(m.columns);
    for (std::int64_t sample = blockIdx.y; sample < g.samples; sample += gridDim.y) {
        const SampleRows rows = moves_of_sample(rule, sample, DeviceLoad{});
        const std::int64_t end = rows.begin + rows.count;
        for (std::uint64_t column = first; column < columns; column += std::uint64_t{gridDim.x} * blockDim.x) {
            for (std::int64_t row = rows.begin; row < end; row += moves_in_flight) {
                move_some_rows<Vector>(m, tensor + byte_of_column(m, column), rule, row, end);
            }
        }
    }
}

// The number of blocks on a multiprocessor at once (`__launch_bounds__`). ptxas spills none of the 128 registers that
// this leaves. Without a bound it limits itself to 96 on some architectures, and spills.
constexpr int resident_move_blocks = 4;

template <unsigned Layers>
__global__ void __launch_bounds__(block_threads, resident_move_blocks)
    move_kernel(const __grid_constant__ Parameters<MoveGeometry, Layers> p) {
    const unsigned layer = Layers == 1 ? 0 : blockIdx.z >> moved_tensors_log2;
    const unsigned tensor = blockIdx.z - (layer << moved_tensors_log2);
    const MoveGeometry &g = p.geometries[Layers == 1 ? 0 : p.geometry_of[layer]];
    if (tensor >= g.tensor_count) {
        return;
    }
    if (p.programmatic != 0) {
        wait_for_launch_before();
    }
    const MoveLayout &m = g.tensors[tensor];
    std::byte *const base = p.layers[layer].tensors[tensor];
    switch (m.access_log2) {
    case 4:
        return move_columns<uint4>(g, m, base);
    case 3:
        return move_columns<uint2>(g, m, base);
    case 2:
        return move_columns<unsigned>(g, m, base);
    case 1:
        return move_columns<unsigned short>(g, m, base);
    default:
        return move_columns<unsigned char>(g, m, base);
    }
}

} // namespace kvappend
