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

using SlotRule = Rule<Known{.kind = KVAPPEND_ADDRESSING_SLOTS, .never_rotates = true}>;

// The bytes from a tensor's base to its column `column`, in the first row.
__device__ inline std::uint64_t byte_of_column(const MoveLayout &m, std::uint64_t column) {
    const Quotient at = divide(column, static_cast<std::uint64_t>(m.row_vectors));
    const std::uint64_t piece = at.remainder >> m.piece_log2;
    return at.quotient * static_cast<std::uint64_t>(m.strides.head) +
           piece * static_cast<std::uint64_t>(m.piece_stride) +
           ((at.remainder - (piece << m.piece_log2)) << m.access_log2);
}

// Where a row of a tensor comes from and goes to, in bytes from its column in the first row. They are equal for a row
// that is not moved.
struct MovedBytes {
    std::int64_t from;
    std::int64_t to;
};

__device__ __forceinline__ MovedBytes bytes_of_move(const MoveLayout &m, const SlotRule &rule, std::int64_t row) {
    const MovedRow moved = places_of_move(rule, row, DeviceLoad{});
    return moved.placed() ? MovedBytes{m.byte_of(moved.from), m.byte_of(moved.to)} : MovedBytes{};
}

// What lane `lane` of the warp has found.
__device__ __forceinline__ MovedBytes bytes_of_lane(const MovedBytes &own, int lane) {
    return {__shfl_sync(all_lanes, own.from, lane), __shfl_sync(all_lanes, own.to, lane)};
}

// The indices may change while a kernel runs. The lanes of a warp must agree on how often they exchange places.
__device__ __forceinline__ SampleRows rows_of_first_lane(const SampleRows &rows) {
    return {__shfl_sync(all_lanes, rows.begin, 0), __shfl_sync(all_lanes, rows.count, 0)};
}

// Moves the rows that the lanes first <= lane < first + moves_in_flight have found, as if one after the other. All
// loads come before all stores, so a thread waits only once for the loads. If a row comes from a place to which an
// earlier row goes, it takes the vector of the earlier row. All lanes of the warp must take part. Those without a
// column move nothing.
template <class Vector>
__device__ __forceinline__ void move_some_rows(std::byte *column, bool has_column, const MovedBytes &own, int first) {
    MovedBytes rows[moves_in_flight];
    Vector held[moves_in_flight];
#pragma unroll
    for (int n = 0; n < moves_in_flight; ++n) {
        rows[n] = bytes_of_lane(own, first + n);
        rows[n].to = has_column ? rows[n].to : rows[n].from;
        if (rows[n].from != rows[n].to) {
            held[n] = load_global(reinterpret_cast<const Vector *>(column + rows[n].from));
        }
    }
#pragma unroll
    for (int n = 0; n < moves_in_flight; ++n) {
        if (rows[n].from == rows[n].to) {
            continue;
        }
#pragma unroll
        for (int earlier = 0; earlier < n; ++earlier) {
            if (rows[earlier].from != rows[earlier].to && rows[earlier].to == rows[n].from) {
                held[n] = held[earlier];
            }
        }
        store_global(reinterpret_cast<Vector *>(column + rows[n].to), held[n]);
    }
}

// Moves the columns of a warp, for all samples. Each lane finds the places of one row.
template <class Vector>
__device__ __forceinline__ void move_columns(const MoveGeometry &g, const MoveLayout &m, std::byte *tensor) {
    const SlotRule rule{g.addressing, g.indices};
    const unsigned lane = threadIdx.x % warp_lanes;
    const auto first = std::int64_t{blockIdx.x} * blockDim.x + (threadIdx.x - lane);
    for (std::int64_t sample = blockIdx.y; sample < g.samples; sample += gridDim.y) {
        const SampleRows rows = rows_of_first_lane(moves_of_sample(rule, sample, DeviceLoad{}));
        for (std::int64_t done = 0; done < rows.count; done += warp_lanes) {
            const std::int64_t left = rows.count - done;
            const MovedBytes own = lane < left ? bytes_of_move(m, rule, rows.begin + done + lane) : MovedBytes{};
            const auto most = static_cast<int>(left < warp_lanes ? left : warp_lanes);
            for (std::int64_t warp = first; warp < m.columns; warp += std::int64_t{gridDim.x} * blockDim.x) {
                const std::int64_t column = warp + lane;
                const bool has_column = column < m.columns;
                std::byte *const base =
                    tensor + (has_column ? byte_of_column(m, static_cast<std::uint64_t>(column)) : 0);
                for (int n = 0; n < most; n += moves_in_flight) {
                    move_some_rows<Vector>(base, has_column, own, n);
                }
            }
        }
    }
}

// The number of blocks on a multiprocessor at once (`__launch_bounds__`). ptxas spills none of the 96 registers that
// this leaves. Without a bound it limits itself to 64, and spills.
constexpr int resident_move_blocks = 5;

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
