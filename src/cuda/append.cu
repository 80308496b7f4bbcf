// SPDX-License-Identifier: Apache-2.0
// The table of the CUDA kernels, and how a problem becomes the parameters and the grid of a launch.
#include "dense_placing.cuh"
#include "device.hpp"
#include "row_placing.cuh"
#include "settle.hpp"

#include <algorithm>
#include <array>
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
// The addresses are those of all that is laid out so, or'ed.
Grid lay_out(const Problem &problem, const TensorCopy &copy, std::uintptr_t addresses, std::uint32_t widest,
             bool in_runs, bool busy, TensorLines &t) {
    t.access_log2 = static_cast<std::uint8_t>(std::countr_zero(addresses | std::min(copy.alignment, widest)));
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
Placing placing_of(const Problem &problem, const Indices &indices);

template <>
DensePlacing placing_of(const Problem &problem, const Indices &indices) {
    const Addressing &a = problem.addressing;
    return {indices.offsets, a.offset_bytes == 8 ? 1u : 0u, a.new_rows, a.cache_rows};
}

template <>
RowPlacing placing_of(const Problem &problem, const Indices &indices) {
    return {problem.addressing, indices};
}

// A launch that is put together append by append.
template <unsigned WidestLog2, class Placing, unsigned Layers>
class Launch {
    using P = Parameters<Placing, Layers>;
    static_assert(sizeof(P) <= 4096);

public:
    // False if there is no room, or none for a further geometry.
    bool add(const Problem &problem, const kvappend_args &args) {
        const Indices indices = indices_of(problem.buffers, args);
        unsigned geometry = 0;
        while (geometry < geometries_ &&
               (shared_[geometry].problem != &problem || shared_[geometry].indices != indices)) {
            ++geometry;
        }
        if (layers_ == P::most_layers || geometry == P::most_geometries) {
            return false;
        }
        Shared &shared = shared_[geometry];
        if (geometry == geometries_) {
            shared = {&problem, indices, {}};
            ++geometries_;
        }
        unsigned tensor = 0;
        const auto put = [&](const TensorCopy &copy, const void *from, void *to) {
            if (!copy.empty()) {
                p_.layers[layers_].from[tensor] = static_cast<const std::byte *>(from);
                p_.layers[layers_].to[tensor] = static_cast<std::byte *>(to);
                shared.addresses[tensor++] |=
                    reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to);
                // As a float, for this is no more than a measure, and the sum over layers might not fit.
                bytes_ += static_cast<float>(copy.heads * copy.row_bytes) * static_cast<float>(problem.new_rows) *
                          static_cast<float>(problem.batch);
            }
        };
        put(problem.k, args.k_new, args.k_cache);
        put(problem.v, args.v_new, args.v_cache);
        p_.geometry_of[layers_++] = static_cast<std::uint8_t>(geometry);
        programmatic_ = programmatic_ && problem.addressing.has(KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH);
        return true;
    }

    Status perform(const Target &target, CUstream_st *stream) {
        // A multiprocessor holds 1024 threads or more. Twice that many 16-byte vectors each keep it busy.
        const bool busy = bytes_ >= 2048.0F * 16.0F * static_cast<float>(target.multiprocessors);
        Grid grid;
        std::int64_t batch = 0;
        for (unsigned i = 0; i < geometries_; ++i) {
            const Problem &problem = *shared_[i].problem;
            Geometry<Placing> &g = p_.geometries[i];
            g.batch = problem.batch;
            g.placing = placing_of<Placing>(problem, shared_[i].indices);
            unsigned count = 0;
            for (const TensorCopy *const copy : {&problem.k, &problem.v}) {
                if (!copy->empty()) {
                    const Grid own = lay_out(problem, *copy, shared_[i].addresses[count], 1u << WidestLog2,
                                             Placing::in_runs && copy->adjacent_rows, busy, g.tensors[count]);
                    grid = {std::max(grid.x, own.x), std::max(grid.y, own.y)};
                    ++count;
                }
            }
            g.both = count - 1;
            p_.both |= g.both;
            batch = std::max(batch, g.batch);
        }
        const std::int64_t most_samples = (most_blocks_yz >> p_.both) / layers_;
        p_.batch_step = static_cast<std::uint32_t>(std::min(most_samples, batch));
        p_.programmatic = programmatic_ && target.architecture >= 90 ? 1 : 0;

        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config{};
        config.gridDim =
            dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), (layers_ * p_.batch_step) << p_.both);
        config.blockDim = dim3(block_threads);
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = p_.programmatic;
        return launched(cudaLaunchKernelEx(&config, append<WidestLog2, Placing, Layers>, p_));
    }

private:
    struct Shared {
        const Problem *problem;
        Indices indices;
        std::array<std::uintptr_t, 2> addresses; // or'ed, by tensor
    };

    P p_{};
    std::array<Shared, P::most_geometries> shared_{};
    unsigned geometries_ = 0;
    unsigned layers_ = 0;
    float bytes_ = 0;
    bool programmatic_ = true;
};

template <unsigned WidestLog2, class Placing, unsigned Layers>
Status launch(const Problem &problem, const Target &target, const kvappend_args &args, CUstream_st *stream) {
    Launch<WidestLog2, Placing, Layers> launch;
    launch.add(problem, args);
    return launch.perform(target, stream);
}

template <unsigned WidestLog2, class Placing, unsigned Layers>
Status load() {
    return load_kernel(reinterpret_cast<const void *>(append<WidestLog2, Placing, Layers>));
}

// A kernel is of use if K or V can be moved by its widest access. The first such kernel is the widest.
bool moves(const Kernel &kernel, const Problem &problem) {
    return problem.empty() || (!problem.k.empty() && problem.k.alignment >= kernel.access_bytes) ||
           (!problem.v.empty() && problem.v.alignment >= kernel.access_bytes);
}

bool moves_plain(const Kernel &kernel, const Problem &problem) {
    return problem.plain() && moves(kernel, problem);
}

template <unsigned WidestLog2, unsigned Layers = 1>
constexpr Kernel dense(const char *name) {
    return {name,
            1u << WidestLog2,
            75,
            moves_plain,
            load<WidestLog2, DensePlacing, Layers>,
            launch<WidestLog2, DensePlacing, Layers>};
}

template <unsigned WidestLog2, unsigned Layers = 1>
constexpr Kernel rows(const char *name) {
    return {name,
            1u << WidestLog2,
            75,
            moves,
            load<WidestLog2, RowPlacing, Layers>,
            launch<WidestLog2, RowPlacing, Layers>};
}

constexpr unsigned most_layers = 80;

constexpr Kernel kernels[] = {
    dense<4>("cuda_dense_b16"), dense<3>("cuda_dense_b8"), dense<2>("cuda_dense_b4"), dense<1>("cuda_dense_b2"),
    dense<0>("cuda_dense_b1"), rows<4>("cuda_rows_b16"), rows<3>("cuda_rows_b8"), rows<2>("cuda_rows_b4"),
    rows<1>("cuda_rows_b2"), rows<0>("cuda_rows_b1"),
    // For several layers. They serve one as well, but not as fast.
    dense<4, most_layers>("cuda_dense_layers_b16"), rows<4, most_layers>("cuda_rows_layers_b16")};

template <class Placing>
Status launch_layers(Appends &appends, CUstream_st *stream) {
    std::size_t next = 0;
    while (next < appends.count()) {
        Launch<4, Placing, most_layers> launch;
        bool any = false;
        for (; next < appends.count(); ++next) {
            const LayerAppend append = appends.at(next);
            if (append.problem->empty()) {
                continue;
            }
            if (!launch.add(*append.problem, *append.args)) {
                break;
            }
            any = true;
        }
        if (const Status status = any ? launch.perform(*appends.at(0).target, stream) : KVAPPEND_SUCCESS;
            status != KVAPPEND_SUCCESS) {
            return status;
        }
    }
    return KVAPPEND_SUCCESS;
}

Status launch_all(Appends &appends, CUstream_st *stream) {
    bool plain = true;
    for (std::size_t i = 0; plain && i < appends.count(); ++i) {
        plain = appends.at(i).problem->plain();
    }
    return plain ? launch_layers<DensePlacing>(appends, stream) : launch_layers<RowPlacing>(appends, stream);
}

// What launch_all may come to, which other plans decide as well, and what settles.
Status prepare(const Problem &problem) {
    if (const Status status = load<4, RowPlacing, most_layers>(); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = problem.plain() ? load<4, DensePlacing, most_layers>() : KVAPPEND_SUCCESS;
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    return cuda_prepare(problem);
}

constexpr Backend backend{kernels,    open_device, prepare,     enter_device,
                          launch_all, cuda_admit,  cuda_settle, fetch_from_device};

} // namespace

const Backend &cuda_backend() {
    return backend;
}

} // namespace kvappend
