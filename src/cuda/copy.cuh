// SPDX-License-Identifier: Apache-2.0
// The append as a CUDA kernel, for any way to place rows, and the parameters by which a launch tells it what to do.
//
// A "line" is what is copied in one piece: one row, or all new rows of a (sample, head) where they are adjacent and
// placed one behind the other. The grid's z axis is the sample, and which of K and V; y is a group of heads; x is a
// group of lines, or a piece of the only line. Within a block a thread belongs to a lane of a line of a head, by bits
// of its index: so nothing is divided. A grid may be smaller than the work; each thread then goes on in steps of the
// grid. Where one launch copies the rows of several layers, z counts these, too.
//
// All accesses to global memory go through load.cuh and the store intrinsics, which an emulation can check one by one.
#pragma once

#include "load.cuh"

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cuda_runtime.h>

namespace kvappend {

constexpr unsigned block_threads_log2 = 7;
constexpr unsigned least_block_threads_log2 = 5;
constexpr unsigned block_threads = 1u << block_threads_log2;
// Of blocks on a multiprocessor at once. Without such a bound the compiler saves registers until it must spill some.
// The pointer to a layer takes two more.
template <unsigned Layers>
constexpr int blocks_resident = Layers == 1 ? 8 : 7;
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
    // What the threads of a line share out: its vectors, or somewhat more (shifted.cuh).
    std::int64_t line_items;
    std::uint32_t narrow_first, narrow_last; // there, how many of the line's vectors are not moved as such
    // A row of the cache lies in pieces of 1 << piece_log2 vectors, if it is not whole.
    std::int64_t piece_stride;
    std::uint32_t piece_log2;
    // How far a thread goes on when the grid is smaller than the work.
    std::int64_t head_step, line_step, vector_turn;
    std::int64_t vector_step; // between the vectors that a thread has in flight
    // How block indices, and the bits of a thread's index, become the place where a thread starts.
    std::uint32_t heads_per_block;
    std::uint32_t lines_per_block;   // 0 where a head has one line: then x counts pieces of it
    std::uint32_t vectors_per_block; // 0 where a head has several lines: then x counts groups of them
    std::uint32_t lane_mask, line_mask;
    std::uint32_t line_shift, head_shift;
    std::uint32_t access_log2;
    std::uint32_t run; // 1 where a line is more than one row
};

// Where a line goes: `shift` bytes behind the cache's base, but only its vectors begin <= i < end.
template <class Index>
struct Aim {
    std::uint64_t shift;
    Index begin;
    Index end;
};

// What an index contributes to an address. Of 32 bits without a sign, a GPU multiplies and adds that in one
// instruction.
template <class Index>
__device__ __forceinline__ std::uint64_t product(Index index, std::int64_t stride) {
    using Unsigned = std::make_unsigned_t<Index>;
    return std::uint64_t{static_cast<Unsigned>(index)} * static_cast<Unsigned>(stride);
}

// A placing has these members:
// load_early(sample, line): starts to load what a place depends on;
// aim(tensor, sample, head, line, early): the Aim of a line, for which it may have to wait;
// along(tensor, i): the bytes from the line's first vector to its vector i.

// With 31 bits for indices and strides, addresses need a fraction of the instructions. In a short call each thread
// copies one vector, so that it spreads over as many threads as it can, and the same vector of V where K and V are
// twins: of the same shape, strides and width. In a long one each has loads_in_flight.
enum class Way : std::uint32_t {
    short_pages, // twins, which PagePlacing serves
    short_twins,
    short_one,
    long_one,
    wide
};

// What the layers of a model have in common, or some of them.
template <class Placing>
struct Geometry {
    TensorLines tensors[2]; // the second one only where both K and V are copied
    std::uint32_t both;     // 1 where both are copied, else 0
    Way way;
    std::int64_t batch;
    Placing placing;
};

// The pointers of a layer, in the order of its tensors.
struct Layer {
    const std::byte *from[2];
    std::byte *to[2];
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
    // One value of z for each sample in a step of each layer; or two, if blocks copy K or V.
    std::uint32_t apart;
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

// Calls use(Width) for the width that a tensor has, of those up to the widest.
template <unsigned WidestLog2, class Use>
__device__ __forceinline__ void with_width(unsigned log2, Use use) {
    if constexpr (WidestLog2 > 0) {
        if (log2 != WidestLog2) [[unlikely]] {
            return with_width<WidestLog2 - 1>(log2, use);
        }
    }
    use(Vector<WidestLog2>{});
}

// What a block copies: tensors of a layer, from the first or the second one on, and samples from one on.
struct BlockWork {
    const Layer &layer;
    unsigned tensor;
    std::uint32_t sample;
    std::uint32_t batch_step;
    bool programmatic;
};

// With programmatic dependent launch, a kernel may start while the one before it in the stream runs. Nothing of memory
// may be touched until that is done. The kernel behind may then start in the same way; it waits for this one likewise.
__device__ __forceinline__ void wait_for_launch_before() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// How a thread moves the vectors that it has in flight: all by one access, as wide as the tensor allows, though at most
// 1 << WidestLog2 bytes. `start` is how far behind the tensor's base the line begins.
template <unsigned WidestLog2>
struct Even {
    static constexpr bool long_only = false;
    static constexpr int loads_in_flight = kvappend::loads_in_flight;

    template <unsigned Tensors, int Loads, class Index>
    class Moves {
    public:
        __device__ __forceinline__ Moves(const TensorLines &t, const BlockWork &work) : t_(t), work_(work) {}

        __device__ __forceinline__ void load(std::uint64_t start, Index i) {
            with_width<WidestLog2>(t_.access_log2, [&](auto width) {
                using Type = typename decltype(width)::Type;
#pragma unroll
                for (int n = 0; n < Loads; ++n) {
                    const Index at = i + n * static_cast<Index>(t_.vector_step);
                    if (n > 0 && at >= static_cast<Index>(t_.line_items)) {
                        break;
                    }
#pragma unroll
                    for (unsigned k = 0; k < Tensors; ++k) {
                        const std::byte *const from = work_.layer.from[work_.tensor + k] + start;
                        const Type vector = load_global(reinterpret_cast<const Type *>(from) + at);
                        __builtin_memcpy(&held_[n][k], &vector, sizeof vector);
                    }
                }
            });
        }

        static __device__ __forceinline__ Index items_end(const TensorLines & /*t*/, const Aim<Index> &aim) {
            return aim.end;
        }

        template <class Placing>
        __device__ __forceinline__ void store(const Placing &placing, const Aim<Index> &aim, std::uint64_t /*start*/,
                                              Index i) {
            with_width<WidestLog2>(t_.access_log2, [&](auto width) {
                using Type = typename decltype(width)::Type;
#pragma unroll
                for (int n = 0; n < Loads; ++n) {
                    const Index at = i + n * static_cast<Index>(t_.vector_step);
                    if (aim.begin <= at && at < aim.end) {
                        const std::uint64_t shift = aim.shift + placing.along(t_, at);
#pragma unroll
                        for (unsigned k = 0; k < Tensors; ++k) {
                            Type vector;
                            __builtin_memcpy(&vector, &held_[n][k], sizeof vector);
                            __stwb(reinterpret_cast<Type *>(work_.layer.to[work_.tensor + k] + shift), vector);
                        }
                    }
                }
            });
        }

    private:
        const TensorLines &t_;
        const BlockWork &work_;
        typename Vector<WidestLog2>::Type held_[std::size_t{Loads}][Tensors];
    };
};

template <class Access, unsigned Tensors, int Loads, class Index, class Placing>
__device__ __forceinline__ void copy_lines(const Geometry<Placing> &g, const BlockWork &work, const auto &placing) {
    const TensorLines &t = g.tensors[work.tensor];
    // The grid of a short call is as large as the work, but for the length of a line.
    constexpr bool once = Loads == 1 && sizeof(Index) == sizeof(std::int32_t);
    const auto first = [](unsigned block, unsigned per_block, unsigned in_block) {
        return static_cast<Index>(block) * static_cast<Index>(per_block) + static_cast<Index>(in_block);
    };
    const Index first_item = first(blockIdx.x, t.vectors_per_block, threadIdx.x & t.lane_mask);
    const Index first_line = first(blockIdx.x, t.lines_per_block, (threadIdx.x >> t.line_shift) & t.line_mask);
    const Index first_head = first(blockIdx.y, t.heads_per_block, threadIdx.x >> t.head_shift);
    const auto items = static_cast<Index>(t.line_items);
    const auto lines = static_cast<Index>(t.lines);
    const auto heads = static_cast<Index>(t.heads);
    if (first_item >= items || first_line >= lines || first_head >= heads) {
        return;
    }

    Index line = first_line;
    Index head = first_head;
    auto sample = static_cast<Index>(work.sample);
    if (work.programmatic) {
        wait_for_launch_before();
    }
    // One loop over lines, heads and samples, of which the usual grid needs one turn. A line is aimed at in each turn
    // anew, so that the compiler cannot move the wait for its indices ahead of the first loads of the new rows.
    do {
        const auto early = placing.load_early(sample, line);
        const std::uint64_t start =
            product(sample, t.from_batch) + product(head, t.from_head) + product(line, t.from_row);

        typename Access::template Moves<Tensors, Loads, Index> moves(t, work);
        moves.load(start, first_item);

        const Aim<Index> aim = placing.aim(t, sample, head, line, early);
        moves.store(placing, aim, start, first_item);
        const auto vector_turn = static_cast<Index>(t.vector_turn);
        const Index end = moves.items_end(t, aim);
        for (Index i = first_item + vector_turn; i < end; i += vector_turn) {
            moves.load(start, i);
            moves.store(placing, aim, start, i);
        }

        if constexpr (once) {
            return;
        }
        line += static_cast<Index>(t.line_step);
        if (line >= lines) {
            line = first_line;
            head += static_cast<Index>(t.head_step);
            if (head >= heads) {
                head = first_head;
                sample += static_cast<Index>(work.batch_step);
            }
        }
    } while (sample < static_cast<Index>(g.batch));
}

template <class Access, class Placing, unsigned Layers>
__device__ __forceinline__ void copy(const Parameters<Placing, Layers> &p) {
    const unsigned part = blockIdx.z >> p.apart;
    const unsigned layer = Layers == 1 ? 0 : part / p.batch_step;
    const Geometry<Placing> &g = p.geometries[Layers == 1 ? 0 : p.geometry_of[layer]];
    BlockWork work{p.layers[layer], 0, part - layer * p.batch_step, p.batch_step, p.programmatic != 0};
    if constexpr (Layers > 1) {
        // Of two geometries one may have fewer samples, or K or V alone, or its K and V copied by the same blocks.
        const unsigned most = g.way <= Way::short_twins ? 0 : g.both;
        if ((blockIdx.z & p.apart) > most || work.sample >= g.batch) {
            return;
        }
    }
    // In the order of haste.
    if constexpr (!Access::long_only) {
        if constexpr (!Placing::in_runs) {
            if (g.way == Way::short_pages) [[likely]] {
                return copy_lines<Access, 2, 1, std::int32_t>(g, work, g.placing.pages());
            }
        }
        if (g.way == Way::short_twins) [[likely]] {
            return copy_lines<Access, 2, 1, std::int32_t>(g, work, g.placing);
        }
    }
    work.tensor = blockIdx.z & p.apart;
    if constexpr (!Access::long_only) {
        if (g.way == Way::short_one) {
            return copy_lines<Access, 1, 1, std::int32_t>(g, work, g.placing);
        }
    }
    if (g.way == Way::long_one) {
        return copy_lines<Access, 1, Access::loads_in_flight, std::int32_t>(g, work, g.placing);
    }
    copy_lines<Access, 1, 1, std::int64_t>(g, work, g.placing);
}

// Copies with accesses of at most 1 << WidestLog2 bytes; K and V each have their own width.
template <unsigned WidestLog2, class Placing, unsigned Layers>
__global__ void __launch_bounds__(block_threads, blocks_resident<Layers>)
    append(const __grid_constant__ Parameters<Placing, Layers> p) {
    copy<Even<WidestLog2>>(p);
}

} // namespace kvappend
