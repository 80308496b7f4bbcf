// SPDX-License-Identifier: Apache-2.0
// The dense append as a CUDA kernel, and the parameters by which a launch tells it what to do.
//
// A "line" is what is copied in one piece: all new rows of a (sample, head) where they are adjacent, else one row. The
// grid's z axis is the sample, and which of K and V; y is a group of heads; x is a group of lines, or a piece of the
// only line. Within a block a thread belongs to a lane of a line of a head, by bits of its index: so nothing is
// divided. A grid may be smaller than the work; each thread then goes on in steps of the grid.
//
// All accesses to global memory go through the load and store intrinsics, which an emulation can check one by one.
#pragma once

#include "../window.hpp"

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace kvappend {

constexpr unsigned dense_threads_log2 = 7;
constexpr unsigned dense_threads = 1u << dense_threads_log2;
// Loads that a thread has in flight before it stores.
constexpr int dense_loads = 4;

// K or V. Strides are in bytes. "Vectors" are units of 1 << access_log2 bytes.
struct DenseTensor {
    const std::byte *from;
    std::byte *to;
    std::int64_t from_batch, from_head, from_row;
    std::int64_t to_batch, to_head, to_row;
    std::int64_t heads;
    std::int64_t lines;        // of a head
    std::int64_t row_vectors;  // of a row
    std::int64_t line_vectors; // of a line
    // How far a thread goes on when the grid is smaller than the work.
    std::int64_t head_step, line_step, vector_step;
    // How block indices, and the bits of a thread's index, become the place where a thread starts.
    std::uint32_t lines_per_block;   // 0 where a head has one line: then x counts pieces of it
    std::uint32_t vectors_per_block; // 0 where a head has several lines: then x counts groups of them
    std::uint8_t lane_bits, line_bits;
    std::uint8_t access_log2;
};

struct DenseParameters {
    DenseTensor tensors[2]; // the second one only where both K and V are copied
    std::uint32_t both;     // 1 where both are copied, else 0
    std::uint32_t wide_offsets;
    const void *offsets;
    std::int64_t batch;
    std::int64_t batch_step;
    std::int64_t new_rows;
    std::int64_t cache_rows;
};

template <unsigned Log2>
struct Vector;
template <>
struct Vector<0> {
    using Type = unsigned char;
};
template <>
struct Vector<1> {
    using Type = unsigned short;
};
template <>
struct Vector<2> {
    using Type = unsigned int;
};
template <>
struct Vector<3> {
    using Type = uint2;
};
template <>
struct Vector<4> {
    using Type = uint4;
};

__device__ __forceinline__ std::int64_t load_offset(const DenseParameters &p, std::int64_t sample) {
    return p.wide_offsets != 0 ? std::int64_t{__ldg(static_cast<const long long *>(p.offsets) + sample)}
                               : std::int64_t{__ldg(static_cast<const int *>(p.offsets) + sample)};
}

template <unsigned Log2>
__device__ __forceinline__ void copy_dense(const DenseParameters &p, const DenseTensor &t) {
    using Vector = typename Vector<Log2>::Type;

    const unsigned lane = threadIdx.x & ((1u << t.lane_bits) - 1);
    const unsigned line_in_block = (threadIdx.x >> t.lane_bits) & ((1u << t.line_bits) - 1);
    const unsigned head_in_block = threadIdx.x >> (t.lane_bits + t.line_bits);
    const unsigned heads_per_block_log2 = dense_threads_log2 - t.lane_bits - t.line_bits;

    const std::int64_t first_vector = std::int64_t{blockIdx.x} * t.vectors_per_block + lane;
    const std::int64_t first_line = std::int64_t{blockIdx.x} * t.lines_per_block + line_in_block;
    const std::int64_t first_head = (std::int64_t{blockIdx.y} << heads_per_block_log2) + head_in_block;
    // The grid is as large as the larger of K and V needs.
    if (first_vector >= t.vector_step || first_line >= t.lines || first_head >= t.heads) {
        return;
    }

    std::int64_t line = first_line;
    std::int64_t head = first_head;
    std::int64_t sample = blockIdx.z >> p.both;
    // One loop over lines, heads and samples, of which the usual grid needs one turn. The offset is loaded in each turn
    // anew, so that the compiler cannot move its first use ahead of the first loads of the new rows.
    while (sample < p.batch) {
        const std::int64_t offset = load_offset(p, sample);
        const auto *const from =
            reinterpret_cast<const Vector *>(t.from + sample * t.from_batch + head * t.from_head + line * t.from_row);
        std::byte *const head_to = t.to + sample * t.to_batch + head * t.to_head;

        Vector held[dense_loads];
        const auto load = [&](std::int64_t i) {
#pragma unroll
            for (int n = 0; n < dense_loads; ++n) {
                if (i + n * t.vector_step < t.line_vectors) {
                    held[n] = __ldg(from + i + n * t.vector_step);
                }
            }
        };
        load(first_vector);

        // Which vectors of the line lie inside the cache. For those alone the sum of the two shifts is an address in
        // it; the first by itself may be anything, and wraps around unharmed.
        const Window window = window_of(offset, p.new_rows, p.cache_rows);
        std::int64_t begin = 0;
        std::int64_t end = 0;
        if (t.lines == 1) {
            begin = window.first * t.row_vectors;
            end = window.end * t.row_vectors;
        } else if (window.first <= line && line < window.end) {
            end = t.line_vectors;
        }
        const std::uint64_t row_shift = (static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(line)) *
                                        static_cast<std::uint64_t>(t.to_row);
        const auto store = [&](std::int64_t i) {
#pragma unroll
            for (int n = 0; n < dense_loads; ++n) {
                const std::int64_t at = i + n * t.vector_step;
                if (begin <= at && at < end) {
                    const std::uint64_t shift = row_shift + (static_cast<std::uint64_t>(at) << Log2);
                    __stwb(reinterpret_cast<Vector *>(head_to + shift), held[n]);
                }
            }
        };
        store(first_vector);
        for (std::int64_t i = first_vector + dense_loads * t.vector_step; i < end; i += dense_loads * t.vector_step) {
            load(i);
            store(i);
        }

        line += t.line_step;
        if (line >= t.lines) {
            line = first_line;
            head += t.head_step;
            if (head >= t.heads) {
                head = first_head;
                sample += p.batch_step;
            }
        }
    }
}

// Copies with accesses of at most 1 << WidestLog2 bytes; K and V each have their own width.
template <unsigned WidestLog2>
__global__ void __launch_bounds__(dense_threads) append_dense(const __grid_constant__ DenseParameters p) {
    const DenseTensor &t = p.tensors[blockIdx.z & p.both];
    if constexpr (WidestLog2 >= 4) {
        if (t.access_log2 == 4) {
            return copy_dense<4>(p, t);
        }
    }
    if constexpr (WidestLog2 >= 3) {
        if (t.access_log2 == 3) {
            return copy_dense<3>(p, t);
        }
    }
    if constexpr (WidestLog2 >= 2) {
        if (t.access_log2 == 2) {
            return copy_dense<2>(p, t);
        }
    }
    if constexpr (WidestLog2 >= 1) {
        if (t.access_log2 == 1) {
            return copy_dense<1>(p, t);
        }
    }
    copy_dense<0>(p, t);
}

} // namespace kvappend
