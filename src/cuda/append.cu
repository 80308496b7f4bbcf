// SPDX-License-Identifier: Apache-2.0
// The table of the CUDA kernels, and how a problem becomes the parameters and the grid of a launch.
#include "dense_placing.cuh"
#include "device.hpp"
#include "row_placing.cuh"
#include "settle.hpp"

#include <algorithm>
#include <bit>
#include <tuple>

namespace kvappend {

namespace {

constexpr std::int64_t most_blocks_x = (std::int64_t{1} << 31) - 1;
constexpr std::int64_t most_blocks_yz = 65535;

// ceil(a / 2^bits), for a >= 1.
constexpr std::int64_t shares(std::int64_t a, unsigned bits) {
    return ((a - 1) >> bits) + 1;
}

// The least bits with 2^bits >= n, for n >= 1.
unsigned bits_for(std::int64_t n) {
    return static_cast<unsigned>(std::bit_width(static_cast<std::uint64_t>(n) - 1));
}

struct Grid {
    std::int64_t x = 0;
    std::int64_t y = 0;
};

// Describes one tensor's copy.
TensorLines describe(const Problem &problem, const TensorCopy &copy, const void *from, void *to, std::uint32_t widest,
                     bool in_runs) {
    TensorLines t{};
    const auto addresses = reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to);
    t.access_log2 = static_cast<std::uint32_t>(std::countr_zero(addresses | std::min(copy.alignment, widest)));
    t.from = static_cast<const std::byte *>(from);
    t.to = static_cast<std::byte *>(to);
    t.from_batch = copy.from.batch;
    t.from_head = copy.from.head;
    t.from_row = copy.from.row;
    t.to_batch = copy.to.batch;
    t.to_head = copy.to.head;
    t.to_row = copy.to.row;
    t.heads = copy.heads;
    t.lines = in_runs ? 1 : problem.new_rows;
    t.row_vectors = copy.row_bytes >> t.access_log2;
    t.line_vectors = in_runs ? problem.new_rows * t.row_vectors : t.row_vectors;
    t.run = in_runs && problem.new_rows > 1 ? 1 : 0;
    t.piece_stride = copy.piece_stride;
    t.piece_log2 = bits_for(copy.piece_bytes >> t.access_log2);
    return t;
}

// Lays a tensor out over blocks of 1 << block_log2 threads, each of which copies 1 << loads_log2 vectors at a time.
Grid lay_out(TensorLines &t, unsigned block_log2, unsigned loads_log2) {
    const unsigned lane_bits = std::min(block_log2, bits_for(shares(t.line_vectors, loads_log2)));
    const unsigned line_bits = std::min(block_log2 - lane_bits, bits_for(t.lines));
    const unsigned head_bits = block_log2 - lane_bits - line_bits;
    t.lane_mask = (1u << lane_bits) - 1;
    t.line_mask = (1u << line_bits) - 1;
    t.line_shift = lane_bits;
    t.head_shift = lane_bits + line_bits;
    t.heads_per_block = 1u << head_bits;
    t.lines_per_block = t.lines == 1 ? 0 : 1u << line_bits;
    t.vectors_per_block = t.lines == 1 ? 1u << (lane_bits + loads_log2) : 0;
    t.vector_step = std::int64_t{1} << lane_bits;
    return {std::min(most_blocks_x,
                     t.lines == 1 ? shares(t.line_vectors, lane_bits + loads_log2) : shares(t.lines, line_bits)),
            std::min(most_blocks_yz, shares(t.heads, head_bits))};
}

// How far a thread goes on in a grid, which may be larger than this tensor needs.
void set_steps(TensorLines &t, const Grid &grid, unsigned loads_log2) {
    t.head_step = grid.y * t.heads_per_block;
    t.line_step = t.lines == 1 ? 1 : grid.x * t.lines_per_block;
    t.vector_turn = t.lines == 1 ? grid.x * t.vectors_per_block : t.vector_step << loads_log2;
}

// Whether the kernel can work with 31 bits. Indices go beyond their extents by steps, which are no larger than the
// extents but for the threads of a block.
bool is_narrow(const Problem &problem, const TensorLines &t) {
    constexpr std::int64_t most_index = INT32_MAX >> (block_threads_log2 + 1);
    const Addressing &a = problem.addressing;
    const std::int64_t indices[] = {problem.batch, t.heads, problem.new_rows * t.row_vectors, a.cache_blocks};
    const std::int64_t strides[] = {t.from_batch, t.from_head, t.from_row,    t.to_batch,
                                    t.to_head,    t.to_row,    t.piece_stride};
    return std::ranges::max(indices) <= most_index && a.cache_rows <= INT32_MAX / 2 &&
           std::ranges::max(strides) <= INT32_MAX;
}

bool twins(const TensorLines &k, const TensorLines &v) {
    const auto shape = [](const TensorLines &t) {
        return std::tuple(t.from_batch, t.from_head, t.from_row, t.to_batch, t.to_head, t.to_row, t.heads, t.lines,
                          t.row_vectors, t.access_log2, t.piece_stride, t.piece_log2);
    };
    return shape(k) == shape(v);
}

template <class Placing>
Placing placing_of(const Problem &problem, const kvappend_args &args);

template <>
DensePlacing placing_of(const Problem &problem, const kvappend_args &args) {
    const Addressing &a = problem.addressing;
    return {args.cache_offsets, a.offset_bytes == 8 ? 1u : 0u, a.new_rows, a.cache_rows};
}

template <>
RowPlacing placing_of(const Problem &problem, const kvappend_args &args) {
    return {problem.addressing, indices_of(problem.addressing, args)};
}

template <unsigned WidestLog2, class Placing>
Status launch(const Problem &problem, const Target &target, const kvappend_args &args, CUstream_st *stream) {
    Parameters<Placing> p{};
    p.batch = problem.batch;
    p.placing = placing_of<Placing>(problem, args);

    const struct {
        const TensorCopy &copy;
        const void *from;
        void *to;
    } parts[] = {{problem.k, args.k_new, args.k_cache}, {problem.v, args.v_new, args.v_cache}};
    unsigned count = 0;
    std::int64_t vectors = 0;
    for (const auto &part : parts) {
        if (!part.copy.empty()) {
            const TensorLines &t = p.tensors[count++] = describe(
                problem, part.copy, part.from, part.to, 1u << WidestLog2, Placing::in_runs && part.copy.adjacent_rows);
            vectors += problem.batch * t.heads * t.lines * t.line_vectors;
        }
    }
    const bool narrow =
        std::all_of(p.tensors, p.tensors + count, [&](const TensorLines &t) { return is_narrow(problem, t); });
    // Where a head has several lines, the threads of one block do each of them.
    std::int64_t lanes = 1;
    for (unsigned i = 0; i < count; ++i) {
        lanes = std::max(lanes, p.tensors[i].lines == 1 ? 1 : p.tensors[i].line_vectors);
    }
    // A multiprocessor holds 1024 threads or more: twice that many vectors each make a call long. So do extents that a
    // grid cannot cover.
    const bool is_long = vectors >= std::int64_t{2048} * target.multiprocessors || lanes > block_threads ||
                         problem.batch > most_blocks_yz / 2 ||
                         std::max(p.tensors[0].heads, p.tensors[1].heads) > most_blocks_yz;
    const bool as_twins = narrow && !is_long && count == 2 && twins(p.tensors[0], p.tensors[1]);
    const std::int64_t copies = as_twins ? 2 : 1;
    p.apart = count == 2 && !as_twins ? 1 : 0;
    p.batch_step = std::min(most_blocks_yz >> p.apart, problem.batch);
    // Blocks as small as leaves each multiprocessor with four, so that a short call reaches all of them.
    const std::int64_t share = vectors / copies / (std::int64_t{4} * target.multiprocessors);
    const unsigned share_log2 = share > 0 ? bits_for(share + 1) - 1 : 0;
    const unsigned block_log2 =
        std::clamp(std::max(bits_for(lanes), share_log2), least_block_threads_log2, block_threads_log2);
    const unsigned loads_log2 = narrow && is_long ? bits_for(loads_in_flight) : 0;
    Grid grid;
    for (unsigned i = 0; i < count; ++i) {
        const Grid own = lay_out(p.tensors[i], block_log2, loads_log2);
        grid = {std::max(grid.x, own.x), std::max(grid.y, own.y)};
    }
    for (unsigned i = 0; i < count; ++i) {
        set_steps(p.tensors[i], grid, loads_log2);
    }
    p.way = !narrow ? Way::wide : is_long ? Way::long_one : as_twins ? Way::short_twins : Way::short_one;

    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                          static_cast<unsigned>(p.batch_step << p.apart));
    config.blockDim = dim3(1u << block_log2);
    config.stream = stream;
    return launched(cudaLaunchKernelEx(&config, append<WidestLog2, Placing>, p));
}

template <unsigned WidestLog2, class Placing>
Status load() {
    return load_kernel(reinterpret_cast<const void *>(append<WidestLog2, Placing>));
}

// A kernel is of use if K or V can be moved by its widest access. The first such kernel is the widest.
bool moves(const Kernel &kernel, const Problem &problem) {
    return problem.empty() || (!problem.k.empty() && problem.k.alignment >= kernel.access_bytes) ||
           (!problem.v.empty() && problem.v.alignment >= kernel.access_bytes);
}

bool moves_plain(const Kernel &kernel, const Problem &problem) {
    return problem.plain() && moves(kernel, problem);
}

template <unsigned WidestLog2>
constexpr Kernel dense(const char *name) {
    return {name, 1u << WidestLog2, 75, moves_plain, load<WidestLog2, DensePlacing>, launch<WidestLog2, DensePlacing>};
}

template <unsigned WidestLog2>
constexpr Kernel rows(const char *name) {
    return {name, 1u << WidestLog2, 75, moves, load<WidestLog2, RowPlacing>, launch<WidestLog2, RowPlacing>};
}

constexpr Kernel kernels[] = {dense<4>("cuda_dense_b16"), dense<3>("cuda_dense_b8"), dense<2>("cuda_dense_b4"),
                              dense<1>("cuda_dense_b2"),  dense<0>("cuda_dense_b1"), rows<4>("cuda_rows_b16"),
                              rows<3>("cuda_rows_b8"),    rows<2>("cuda_rows_b4"),   rows<1>("cuda_rows_b2"),
                              rows<0>("cuda_rows_b1")};
constexpr Backend backend{kernels, open_device, cuda_prepare, enter_device, cuda_admit, cuda_settle, fetch_from_device};

} // namespace

const Backend &cuda_backend() {
    return backend;
}

} // namespace kvappend
