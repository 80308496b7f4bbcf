// SPDX-License-Identifier: Apache-2.0
// The table of the CUDA kernels, and how a problem becomes the parameters and the grid of a launch.
#include "dense_placing.cuh"
#include "device.hpp"
#include "row_placing.cuh"
#include "settle.hpp"

#include <algorithm>
#include <bit>

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

// Lays one tensor out over blocks. With `busy`, there is enough work to fill the device, and each thread gets several
// vectors; otherwise each gets one, so that a short call spreads over as many threads as it can.
Grid lay_out(const Problem &problem, const TensorCopy &copy, const void *from, void *to, std::uint32_t widest,
             bool in_runs, bool busy, TensorLines &t) {
    const auto addresses = reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to);
    t.access_log2 = static_cast<std::uint8_t>(std::countr_zero(addresses | std::min(copy.alignment, widest)));
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

    t.piece_stride = copy.piece_stride;
    // A whole row is one piece of more vectors than there can be.
    t.piece_log2 = copy.whole_rows() ? 62 : bits_for(copy.piece_bytes >> t.access_log2);

    const unsigned loads_log2 = busy ? bits_for(loads_in_flight) : 0;
    const unsigned lane_bits = std::min(block_threads_log2, bits_for(shares(t.line_vectors, loads_log2)));
    const unsigned line_bits = std::min(block_threads_log2 - lane_bits, bits_for(t.lines));
    const unsigned head_bits = block_threads_log2 - lane_bits - line_bits;
    t.lane_bits = static_cast<std::uint8_t>(lane_bits);
    t.line_bits = static_cast<std::uint8_t>(line_bits);

    Grid grid;
    grid.y = std::min(most_blocks_yz, shares(t.heads, head_bits));
    t.head_step = grid.y << head_bits;
    if (t.lines == 1) {
        grid.x = std::min(most_blocks_x, shares(t.line_vectors, lane_bits + loads_log2));
        t.vectors_per_block = 1u << lane_bits;
        t.vector_step = grid.x << lane_bits;
        t.lines_per_block = 0;
        t.line_step = 1;
    } else {
        grid.x = std::min(most_blocks_x, shares(t.lines, line_bits));
        t.vectors_per_block = 0;
        t.vector_step = std::int64_t{1} << lane_bits;
        t.lines_per_block = 1u << line_bits;
        t.line_step = grid.x << line_bits;
    }
    return grid;
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
    return {problem.addressing, indices_of(problem.buffers, args)};
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
    // A multiprocessor holds 1024 threads or more. Twice that many 16-byte vectors each keep it busy.
    double bytes = 0;
    for (const auto &part : parts) {
        bytes += static_cast<double>(part.copy.heads * part.copy.row_bytes) * static_cast<double>(problem.new_rows);
    }
    const bool busy = bytes * static_cast<double>(problem.batch) >= 2048.0 * 16.0 * target.multiprocessors;

    Grid grid;
    unsigned count = 0;
    for (const auto &part : parts) {
        if (!part.copy.empty()) {
            const Grid own = lay_out(problem, part.copy, part.from, part.to, 1u << WidestLog2,
                                     Placing::in_runs && part.copy.adjacent_rows, busy, p.tensors[count++]);
            grid = {std::max(grid.x, own.x), std::max(grid.y, own.y)};
        }
    }
    p.both = count - 1;
    p.batch_step = std::min(most_blocks_yz >> p.both, problem.batch);

    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                          static_cast<unsigned>(p.batch_step << p.both));
    config.blockDim = dim3(block_threads);
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
