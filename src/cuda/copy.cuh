// SPDX-License-Identifier: Apache-2.0
// The append as a CUDA kernel, for any way to place rows, and the parameters by which a launch tells it what to do.
//
// A "line" is what is copied in one piece: one row, or all new rows of a (sample, head) where they are adjacent and
// placed one behind the other. The grid's z axis is the sample, and which of K and V; y is a group of heads; x is a
// group of lines, or a piece of the only line. Within a block a thread belongs to a lane of a line of a head, by bits
// of its index: so nothing is divided. A grid may be smaller than the work; each thread then goes on in steps of the
// grid. Where one launch copies the rows of several layers, z counts these, too.
//
// All accesses to global memory go through the load and store intrinsics, which an emulation can check one by one.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace kvappend {

constexpr unsigned block_threads_log2 = 7;
constexpr unsigned block_threads = 1u << block_threads_log2;
// Of blocks on a multiprocessor at once. Without such a bound the compiler saves registers until it must spill some.
constexpr int blocks_resident = 8;
// Loads that a thread has in flight before it stores.
constexpr int loads_in_flight = 4;

// K or V. Strides are in bytes. "Vectors" are units of 1 << access_log2 bytes.
struct TensorLines {
    std::int64_t from_batch, from_head, from_row;
    std::int64_t to_batch, to_head, to_row;
    std::int64_t heads;
    std::int64_t lines;        // of a head
    std::int64_t row_vectors;  // of a row
    std::int64_t line_vectors; // of a line
    // A row of the cache lies in pieces of 1 << piece_log2 vectors, if it is not whole.
    std::int64_t piece_stride;
    std::uint32_t piece_log2;
    // How far a thread goes on when the grid is smaller than the work.
    std::int64_t head_step, line_step, vector_step;
    // How block indices, and the bits of a thread's index, become the place where a thread starts.
    std::uint32_t lines_per_block;   // 0 where a head has one line: then x counts pieces of it
    std::uint32_t vectors_per_block; // 0 where a head has several lines: then x counts groups of them
    std::uint8_t lane_bits, line_bits;
    std::uint8_t access_log2;
};

// Where a line goes: `shift` bytes behind the cache's base, but only its vectors begin <= i < end.
struct Aim {
    std::uint64_t shift;
    std::int64_t begin;
    std::int64_t end;
};

// The pointers of a layer, in the order of its tensors.
struct Layer {
    const std::byte *from[2];
    std::byte *to[2];
};

// What the layers of a model have in common, or some of them. A placing has a member aim(tensor, sample, head, line),
// which gives the Aim of a line, and a member along<Log2>(tensor, i), which gives the bytes from the line's first
// vector to its vector i.
template <class Placing>
struct Geometry {
    TensorLines tensors[2]; // the second one only where both K and V are copied
    std::uint32_t both;     // 1 where both are copied, else 0
    std::int64_t batch;
    Placing placing;
};

// Kernel parameters are 4096 bytes at most, for every driver. That is enough for two geometries, such as those of
// layers with a sliding window and of layers without, and 80 layers.
template <class Placing, unsigned Layers>
struct Parameters {
    static constexpr unsigned most_layers = Layers;
    static constexpr unsigned most_geometries = Layers == 1 ? 1 : 2;

    Geometry<Placing> geometries[most_geometries];
    Layer layers[Layers];
    std::uint8_t geometry_of[Layers];
    // One value of z for each tensor of each of so many samples of each layer.
    std::uint32_t both;
    std::uint32_t batch_step;
    std::uint32_t programmatic; // 1: wait for the launch before
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

// With programmatic dependent launch, a kernel may start while the one before it in the stream runs. Nothing of memory
// may be touched until that is done. The kernel behind may then start in the same way; it waits for this one likewise.
__device__ __forceinline__ void wait_for_launch_before() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// What one block copies from: a tensor of a layer, from one sample on.
struct BlockWork {
    const std::byte *from;
    std::byte *to;
    std::int64_t sample;
    std::int64_t batch_step;
    bool programmatic;
};

template <unsigned Log2, class Placing>
__device__ __forceinline__ void copy_lines(const Geometry<Placing> &g, const TensorLines &t, const BlockWork &work) {
    using Vector = typename Vector<Log2>::Type;

    const unsigned lane = threadIdx.x & ((1u << t.lane_bits) - 1);
    const unsigned line_in_block = (threadIdx.x >> t.lane_bits) & ((1u << t.line_bits) - 1);
    const unsigned head_in_block = threadIdx.x >> (t.lane_bits + t.line_bits);
    const unsigned heads_per_block_log2 = block_threads_log2 - t.lane_bits - t.line_bits;

    const std::int64_t first_vector = std::int64_t{blockIdx.x} * t.vectors_per_block + lane;
    const std::int64_t first_line = std::int64_t{blockIdx.x} * t.lines_per_block + line_in_block;
    const std::int64_t first_head = (std::int64_t{blockIdx.y} << heads_per_block_log2) + head_in_block;
    // The grid is as large as the larger of K and V needs.
    if (first_vector >= t.vector_step || first_line >= t.lines || first_head >= t.heads) {
        return;
    }

    std::int64_t line = first_line;
    std::int64_t head = first_head;
    std::int64_t sample = work.sample;
    if (work.programmatic) {
        wait_for_launch_before();
    }
    // One loop over lines, heads and samples, of which the usual grid needs one turn. A line is aimed at in each turn
    // anew, so that the compiler cannot move the wait for its indices ahead of the first loads of the new rows.
    while (sample < g.batch) {
        const auto *const from = reinterpret_cast<const Vector *>(work.from + sample * t.from_batch +
                                                                  head * t.from_head + line * t.from_row);

        Vector held[loads_in_flight];
        const auto load = [&](std::int64_t i) {
#pragma unroll
            for (int n = 0; n < loads_in_flight; ++n) {
                if (i + n * t.vector_step < t.line_vectors) {
                    held[n] = __ldg(from + i + n * t.vector_step);
                }
            }
        };
        load(first_vector);

        const Aim aim = g.placing.aim(t, sample, head, line);
        const auto store = [&](std::int64_t i) {
#pragma unroll
            for (int n = 0; n < loads_in_flight; ++n) {
                const std::int64_t at = i + n * t.vector_step;
                if (aim.begin <= at && at < aim.end) {
                    const std::uint64_t shift = aim.shift + g.placing.template along<Log2>(t, at);
                    __stwb(reinterpret_cast<Vector *>(work.to + shift), held[n]);
                }
            }
        };
        store(first_vector);
        for (std::int64_t i = first_vector + loads_in_flight * t.vector_step; i < aim.end;
             i += loads_in_flight * t.vector_step) {
            load(i);
            store(i);
        }

        line += t.line_step;
        if (line >= t.lines) {
            line = first_line;
            head += t.head_step;
            if (head >= t.heads) {
                head = first_head;
                sample += work.batch_step;
            }
        }
    }
}

// Copies with accesses of at most 1 << WidestLog2 bytes; K and V each have their own width.
template <unsigned WidestLog2, class Placing, unsigned Layers>
__global__ void __launch_bounds__(block_threads, blocks_resident)
    append(const __grid_constant__ Parameters<Placing, Layers> p) {
    const unsigned part = blockIdx.z >> p.both;
    const unsigned layer = Layers == 1 ? 0 : part / p.batch_step;
    const Geometry<Placing> &g = p.geometries[Layers == 1 ? 0 : p.geometry_of[layer]];
    const unsigned tensor = blockIdx.z & p.both;
    if (Layers > 1 && tensor > g.both) {
        return; // Of two geometries one may have K or V alone.
    }
    const TensorLines &t = g.tensors[tensor];
    const BlockWork work{p.layers[layer].from[tensor], p.layers[layer].to[tensor],
                         std::int64_t{part - layer * p.batch_step}, std::int64_t{p.batch_step}, p.programmatic != 0};
    if constexpr (WidestLog2 >= 4) {
        if (t.access_log2 == 4) {
            return copy_lines<4>(g, t, work);
        }
    }
    if constexpr (WidestLog2 >= 3) {
        if (t.access_log2 == 3) {
            return copy_lines<3>(g, t, work);
        }
    }
    if constexpr (WidestLog2 >= 2) {
        if (t.access_log2 == 2) {
            return copy_lines<2>(g, t, work);
        }
    }
    if constexpr (WidestLog2 >= 1) {
        if (t.access_log2 == 1) {
            return copy_lines<1>(g, t, work);
        }
    }
    copy_lines<0>(g, t, work);
}

} // namespace kvappend
