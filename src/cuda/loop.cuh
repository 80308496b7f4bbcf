// SPDX-License-Identifier: Apache-2.0
// The loop of a copy kernel: which vectors a thread copies, and in which order it loads, looks up a place and stores.
// layout.hpp says how the grid becomes vectors.
//
// An append loads the new rows before the first use of an index, so that a thread waits once for both. This order
// matters most: with the order exchanged, a decoding step of 8 samples takes 29 % more cycles (simulated, Turing).
// tests/binary/kernels/order.py checks the order in the machine code.
#pragma once

#include "layout.hpp"
#include "move.cuh"

namespace kvappend {

// Part of a cache: rows of a block, from one row on, and which vectors of the run are copied. `row` is where the run's
// first row goes. If the run is several rows, `row` may lie outside the block, and then begin and end leave that row
// out.
template <class Index>
struct Spot {
    Index block;
    std::int64_t row;
    std::int64_t position; // in the sequence, or for a rotation, of the run's first row
    Index begin;
    Index end;
};

// What a placing must have:
// load(sample, run): starts to load the indices that a spot depends on;
// spot(layout, sample, run, loaded): the spot of a run, for which it may have to wait.

// What a block copies: one or two tensors of a layer, and the samples from `sample` on, in steps of batch_step.
template <class Layer>
struct BlockWork {
    const Layer &layer;
    unsigned tensor;
    std::uint32_t sample;
    std::uint32_t batch_step;
    bool programmatic;
};

// The vector, run and head with which a thread begins.
template <class Index>
struct Start {
    Index vector;
    Index run;
    Index head;

    __device__ __forceinline__ explicit Start(const CopyLayout &c, unsigned head_block = blockIdx.y)
        : vector(first(blockIdx.x & c.part_mask, c.vectors_per_block, threadIdx.x & c.lane_mask)),
          run(first(blockIdx.x >> c.part_bits, c.runs_per_block, threadIdx.x >> c.run_shift & c.run_mask)),
          head(first(head_block, c.heads_per_block, threadIdx.x >> c.head_shift)) {}

private:
    static __device__ __forceinline__ Index first(unsigned block, unsigned per_block, unsigned in_block) {
        return static_cast<Index>(block) * static_cast<Index>(per_block) + static_cast<Index>(in_block);
    }
};

// With programmatic dependent launch, a kernel may start while the one before it in the stream runs. It must not touch
// memory until that one is done. The kernel after it may then start in the same way; it waits for this one likewise.
__device__ __forceinline__ void wait_for_launch_before() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// The bytes from a tensor's base to a row.
template <class Index>
__device__ __forceinline__ std::uint64_t byte_of(const Strides &strides, Index outer, Index head, Index row) {
    return product(outer, strides.outer) + product(head, strides.head) + product(row, strides.row);
}

// The same for a spot. The row of joined rows may be negative, so its product has 64 bits.
template <class Index>
__device__ __forceinline__ std::uint64_t byte_of(const Strides &strides, const Spot<Index> &spot, Index head,
                                                 bool joined_rows) {
    const std::uint64_t row = joined_rows
                                  ? static_cast<std::uint64_t>(spot.row) * static_cast<std::uint64_t>(strides.row)
                                  : product(static_cast<Index>(spot.row), strides.row);
    return product(spot.block, strides.outer) + product(head, strides.head) + row;
}

// The operation of a kernel. A gather also knows what to do with skipped rows.
struct AppendRows {
    static constexpr bool gathers = false;
};
struct GatherRows {
    static constexpr bool gathers = true;
    bool zeroes; // KVAPPEND_FLAG_ZERO_SKIPPED
};

// Reads the vectors of a run from its place, from `first` on. With Once, the thread has one vector.
template <bool Once, class Move, class Source, class Target, class Index>
__device__ __forceinline__ void gather_run(Move &move, GatherRows way, const Source &source, Target target, Index first,
                                           Index step) {
    if (!way.zeroes) {
        target.begin = source.begin;
        target.end = source.end;
    }
    Index i = first;
    do {
        move.load_or_zero(source, i);
        move.store(target, i);
        i += step;
    } while (!Once && i < target.end);
}

template <unsigned Tensors, int Loads, class Access, class Index, class Way, class Placing>
__device__ __forceinline__ void copy_runs(const GeometryLayout &g, const BlockWork<Layer> &work, Way way,
                                          const Placing &placing) {
    const CopyLayout &c = g.copies[work.tensor];
    // The grid of a short call covers all of it.
    constexpr bool once = Loads == 1;
    const Start<Index> start(c);
    const Index first_vector = start.vector;
    const Index first_run = start.run;
    const Index first_head = start.head;
    const auto run_vectors = static_cast<Index>(c.run_vectors);
    const auto runs = static_cast<Index>(c.runs);
    const auto heads = static_cast<Index>(c.heads);
    if (first_vector >= run_vectors || first_run >= runs || first_head >= heads) {
        return;
    }

    std::byte *const *const rows = work.layer.rows + work.tensor;
    std::byte *const *const caches = work.layer.caches + work.tensor;
    Index run = first_run;
    Index head = first_head;
    auto sample = static_cast<Index>(work.sample);
    if (work.programmatic) {
        wait_for_launch_before();
    }
    // One loop over runs, heads and samples; the usual grid executes it once. Each iteration looks up its spot, so that
    // the compiler cannot move the wait for its indices ahead of the first loads of the new rows.
    do {
        const auto loaded = placing.load(sample, run);
        Move<Tensors, Loads, Access, Index> move(c);
        const Side<std::byte, Index, false> in_rows{rows, byte_of(c.rows, sample, head, run), 0, run_vectors};
        if constexpr (!Way::gathers) {
            move.load(in_rows, first_vector);
        }

        const Spot<Index> spot = placing.spot(c, sample, run, loaded);
        const Side<std::byte, Index, true> in_cache{
            caches, byte_of(c.cache, spot, head, Placing::joins_rows && c.joined_rows), spot.begin, spot.end};
        const auto vector_step = static_cast<Index>(c.vector_step);
        if constexpr (Way::gathers) {
            gather_run<once>(move, way, in_cache, in_rows, first_vector, vector_step);
        } else {
            move.store(in_cache, first_vector);
        }
        if constexpr (once) {
            return;
        } else {
            for (Index i = first_vector + vector_step; !Way::gathers && i < spot.end; i += vector_step) {
                move.load(in_rows, i);
                move.store(in_cache, i);
            }
            run += static_cast<Index>(c.run_step);
            if (run >= runs) {
                run = first_run;
                head += static_cast<Index>(c.head_step);
                if (head >= heads) {
                    head = first_head;
                    sample += static_cast<Index>(work.batch_step);
                }
            }
        }
    } while (sample < static_cast<Index>(g.samples));
}

// The loops of a placing, the hot one first. Loop::any is compiled only for placings that are used with it.
template <bool HasAny, class Way, class Placing>
__device__ __forceinline__ void copy_by_loop(const GeometryLayout &g, BlockWork<Layer> &work, unsigned own_tensor,
                                             Way way, const Placing &placing) {
    if (g.loop == Loop::pair) [[likely]] {
        return copy_runs<2, 1, WidestAccess, std::int32_t>(g, work, way, placing);
    }
    work.tensor = own_tensor;
    if (g.loop == Loop::single) {
        return copy_runs<1, 1, WidestAccess, std::int32_t>(g, work, way, placing);
    }
    if (!HasAny || g.loop == Loop::deep) {
        return copy_runs<1, loads_in_flight, WidestAccess, std::int32_t>(g, work, way, placing);
    }
    if constexpr (HasAny) {
        copy_runs<1, loads_in_flight, AnyAccess, std::int32_t>(g, work, way, placing);
    }
}

} // namespace kvappend
