// SPDX-License-Identifier: Apache-2.0
// The table of the CUDA kernels, and how a problem becomes the parameters and the grid of a launch.
#include "dense_placing.cuh"
#include "device.hpp"
#include "row_placing.cuh"
#include "settle.hpp"
#include "shifted.cuh"

#include <algorithm>
#include <array>
#include <bit>
#include <new>
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

// Describes one tensor's copy. The addresses are those of all that is described so, or'ed.
TensorLines describe(const Problem &problem, const TensorCopy &copy, std::uintptr_t addresses, std::uint32_t widest,
                     bool in_runs) {
    TensorLines t{};
    t.access_log2 = static_cast<std::uint32_t>(std::countr_zero(addresses | std::min(copy.alignment, widest)));
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
    t.line_items = t.line_vectors;
    t.run = in_runs && problem.new_rows > 1 ? 1 : 0;
    t.piece_stride = copy.piece_stride;
    t.piece_log2 = bits_for(copy.piece_bytes >> t.access_log2);
    return t;
}

// Lays a tensor out over blocks of 1 << block_log2 threads, each of which copies 1 << loads_log2 vectors at a time.
Grid lay_out(TensorLines &t, unsigned block_log2, unsigned loads_log2) {
    const unsigned lane_bits = std::min(block_log2, bits_for(shares(t.line_items, loads_log2)));
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
                     t.lines == 1 ? shares(t.line_items, lane_bits + loads_log2) : shares(t.lines, line_bits)),
            std::min(most_blocks_yz, shares(t.heads, head_bits))};
}

// How far a thread goes on in a grid, which may be larger than this tensor needs.
void set_steps(TensorLines &t, const Grid &grid, unsigned loads_log2) {
    t.head_step = grid.y * t.heads_per_block;
    t.line_step = t.lines == 1 ? 1 : grid.x * t.lines_per_block;
    t.vector_turn = t.lines == 1 ? grid.x * t.vectors_per_block : t.vector_step << loads_log2;
}

// Whether the kernel can work with 31 bits. Indices go beyond their extents by steps, which are no larger than the
// extents but for the threads of a block: extents of any geometry of the launch, as all have the same grid.
bool is_narrow(const Problem &problem, const TensorLines &t) {
    constexpr std::int64_t most_index = INT32_MAX >> (block_threads_log2 + 1);
    const Addressing &a = problem.addressing;
    const std::int64_t indices[] = {problem.batch, t.heads, problem.new_rows * t.row_vectors, t.line_items,
                                    a.cache_blocks};
    const std::int64_t strides[] = {t.from_batch, t.from_head, t.from_row,    t.to_batch,
                                    t.to_head,    t.to_row,    t.piece_stride};
    return std::ranges::max(indices) <= most_index && a.cache_rows <= INT32_MAX / 2 &&
           std::ranges::max(strides) <= INT32_MAX;
}

bool twins(const TensorLines &k, const TensorLines &v) {
    const auto shape = [](const TensorLines &t) {
        return std::tuple(t.from_batch, t.from_head, t.from_row, t.to_batch, t.to_head, t.to_row, t.heads, t.lines,
                          t.row_vectors, t.access_log2, t.narrow_first, t.narrow_last, t.piece_stride, t.piece_log2);
    };
    return shape(k) == shape(v);
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

// How many vectors at the ends of a line are not moved as such, whichever of several bases it is a line of.
struct Shift {
    std::uint32_t first = 0, last = 0;

    void widen(std::uintptr_t from, std::uintptr_t to) {
        const Misalignment m(from, to);
        first = std::max(first, m.narrow_first());
        last = std::max(last, m.narrow_last());
    }
};

void shift(TensorLines &t, const Shift &shift) {
    t.narrow_first = shift.first;
    t.narrow_last = shift.last;
    t.line_items += std::int64_t{shift.first + shift.last} * (Shifted::elements - 1);
}

// A launch that is put together append by append.
template <unsigned WidestLog2, class Placing, unsigned Layers>
class Launch {
    using P = Parameters<Placing, Layers>;
    static_assert(sizeof(P) <= 4096);

public:
    // False if there is no room, or none for a further geometry.
    bool add(const Problem &problem, const kvappend_args &args) {
        // Made where it stays: a copy would load two pointers at once that were stored one by one, and wait for them.
        Shared &tried = shared_[geometries_];
        tried.problem = &problem;
        new (&tried.indices) Indices{indices_of(problem.buffers, args)};
        unsigned geometry = 0;
        while (geometry < geometries_ &&
               (shared_[geometry].problem != &problem || shared_[geometry].indices != tried.indices)) {
            ++geometry;
        }
        if (layers_ == P::most_layers || geometry == P::most_geometries) {
            return false;
        }
        geometries_ = std::max(geometries_, geometry + 1);
        Shared &shared = shared_[geometry];
        unsigned tensor = 0;
        const auto put = [&](const TensorCopy &copy, const void *from, void *to) {
            if (!copy.empty()) {
                p_.layers[layers_].from[tensor] = static_cast<const std::byte *>(from);
                p_.layers[layers_].to[tensor] = static_cast<std::byte *>(to);
                const auto source = reinterpret_cast<std::uintptr_t>(from);
                const auto target = reinterpret_cast<std::uintptr_t>(to);
                shared.addresses[tensor] |= source | target;
                shared.shifts[tensor++].widen(source, target);
            }
        };
        put(problem.k, args.k_new, args.k_cache);
        put(problem.v, args.v_new, args.v_cache);
        ++shared.layers;
        p_.geometry_of[layers_++] = static_cast<std::uint8_t>(geometry);
        programmatic_ = programmatic_ && problem.addressing.has(KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH);
        return true;
    }

    Status perform(const Target &target, CUstream_st *stream) {
        Work work = describe_all(target, false);
        // A multiprocessor holds 1024 threads or more: twice that many vectors each make a call long. So do extents
        // that a grid cannot cover.
        const bool is_long = work.per_multiprocessor >= 2048 || work.lanes > block_threads ||
                             work.batch > most_blocks_yz / 2 / layers_ || work.heads > most_blocks_yz;
        const bool shifted = WidestLog2 == 4 && is_long && gains_by_shift();
        if (shifted) {
            work = describe_all(target, true);
        }
        bool narrow = true;
        for (unsigned i = 0; i < geometries_; ++i) {
            narrow = narrow && is_narrow(*shared_[i].problem, p_.geometries[i]);
        }
        bool all_twins = true;
        for (unsigned i = 0; i < geometries_; ++i) {
            Geometry<Placing> &g = p_.geometries[i];
            const bool as_twins = narrow && !is_long && g.both != 0 && twins(g.tensors[0], g.tensors[1]);
            g.way = !narrow ? Way::wide : is_long ? Way::long_one : as_twins ? Way::short_twins : Way::short_one;
            if (as_twins && !Placing::in_runs && PagePlacing::serves(shared_[i].problem->addressing)) {
                g.way = Way::short_pages;
            }
            all_twins = all_twins && as_twins;
            p_.apart |= as_twins ? 0 : g.both;
        }
        p_.batch_step = static_cast<std::uint32_t>(std::min((most_blocks_yz >> p_.apart) / layers_, work.batch));
        // Blocks as small as leaves each multiprocessor with four, so that a short call reaches all of them.
        const std::int64_t share = work.per_multiprocessor / 4 / (all_twins ? 2 : 1);
        const unsigned share_log2 = share > 0 ? bits_for(share + 1) - 1 : 0;
        // Smaller ones in a long call, too: as many threads fit on a multiprocessor, and less of a line's last block is
        // idle.
        const unsigned block_log2 = std::clamp(std::max(bits_for(work.lanes), share_log2), least_block_threads_log2,
                                               block_threads_log2 - (is_long ? 1 : 0));
        const Grid grid = lay_out_all(block_log2, shifted ? Shifted::loads_in_flight : loads_in_flight);
        p_.programmatic = programmatic_ && target.code_architecture >= 90 ? 1 : 0;

        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config{};
        config.gridDim =
            dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), (layers_ * p_.batch_step) << p_.apart);
        config.blockDim = dim3(1u << block_log2);
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = p_.programmatic;
        auto *kernel = append<WidestLog2, Placing, Layers>;
        if constexpr (WidestLog2 == 4) {
            kernel = shifted ? append_shifted<Placing, Layers> : kernel;
        }
        return launched(cudaLaunchKernelEx(&config, kernel, p_));
    }

private:
    struct Shared {
        const Problem *problem;
        Indices indices;
        std::array<std::uintptr_t, 2> addresses; // or'ed, by tensor
        std::array<Shift, 2> shifts;
        unsigned layers;
    };

    struct Work {
        std::int64_t per_multiprocessor; // vectors
        std::int64_t lanes;              // that a line needs in one block
        std::int64_t batch;
        std::int64_t heads;
    };

    Work describe_all(const Target &target, bool shifted) {
        float vectors = 0; // no more than a measure, and the sum might not fit in a whole number
        Work work{0, 1, 0, 0};
        for (unsigned i = 0; i < geometries_; ++i) {
            Geometry<Placing> &g = p_.geometries[i];
            describe_geometry(shared_[i], shifted, g);
            work.batch = std::max(work.batch, g.batch);
            for (unsigned n = 0; n <= g.both; ++n) {
                const TensorLines &t = g.tensors[n];
                vectors += static_cast<float>(g.batch * t.heads) * static_cast<float>(t.lines * t.line_items) *
                           static_cast<float>(shared_[i].layers);
                work.heads = std::max(work.heads, t.heads);
                // Where a head has several lines, the threads of one block do each of them.
                work.lanes = std::max(work.lanes, t.lines == 1 ? 1 : t.line_items);
            }
        }
        work.per_multiprocessor = static_cast<std::int64_t>(
            std::min(vectors / static_cast<float>(target.multiprocessors), static_cast<float>(INT32_MAX)));
        return work;
    }

    static void describe_geometry(const Shared &shared, bool shifted, Geometry<Placing> &g) {
        const Problem &problem = *shared.problem;
        g.batch = problem.batch;
        g.placing = placing_of<Placing>(problem, shared.indices);
        unsigned count = 0;
        for (const TensorCopy *const copy : {&problem.k, &problem.v}) {
            if (!copy->empty()) {
                TensorLines &t = g.tensors[count];
                t = describe(problem, *copy, shifted ? 0 : shared.addresses[count], 1u << WidestLog2,
                             Placing::in_runs && copy->adjacent_rows);
                if (shifted) {
                    shift(t, shared.shifts[count]);
                }
                ++count;
            }
        }
        g.both = count - 1;
    }

    // Whether nothing but the bases keeps all accesses from being 16 bytes wide, and makes some much narrower.
    bool gains_by_shift() const {
        std::uintptr_t addresses = 0;
        for (unsigned i = 0; i < geometries_; ++i) {
            const Shared &shared = shared_[i];
            addresses |= shared.addresses[0] | shared.addresses[1];
            for (const TensorCopy *const copy : {&shared.problem->k, &shared.problem->v}) {
                if (!copy->empty() &&
                    (copy->alignment < 16 || !copy->whole_rows() || copy->row_bytes < 16 * Shifted::least_vectors)) {
                    return false;
                }
            }
        }
        return addresses % 8 != 0;
    }

    static bool is_narrow(const Problem &problem, const Geometry<Placing> &g) {
        return std::all_of(g.tensors, g.tensors + g.both + 1,
                           [&](const TensorLines &t) { return kvappend::is_narrow(problem, t); });
    }

    Grid lay_out_all(unsigned block_log2, int loads) {
        Grid grid;
        const auto for_each_tensor = [&](auto act) {
            for (unsigned i = 0; i < geometries_; ++i) {
                Geometry<Placing> &g = p_.geometries[i];
                const unsigned loads_log2 = g.way == Way::long_one ? bits_for(loads) : 0;
                std::for_each_n(g.tensors, g.both + 1, [&](TensorLines &t) { act(t, loads_log2); });
            }
        };
        for_each_tensor([&](TensorLines &t, unsigned loads_log2) {
            const Grid own = lay_out(t, block_log2, loads_log2);
            grid = {std::max(grid.x, own.x), std::max(grid.y, own.y)};
        });
        for_each_tensor([&](TensorLines &t, unsigned loads_log2) { set_steps(t, grid, loads_log2); });
        return grid;
    }

    P p_{};
    std::array<Shared, P::most_geometries + 1> shared_{}; // the last one for a geometry that has no room
    unsigned geometries_ = 0;
    unsigned layers_ = 0;
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
    if constexpr (WidestLog2 == 4) {
        if (const Status status = load_kernel(reinterpret_cast<const void *>(append_shifted<Placing, Layers>));
            status != KVAPPEND_SUCCESS) {
            return status;
        }
    }
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

template <unsigned WidestLog2, class Placing, unsigned Layers = 1>
constexpr Kernel kernel(const char *name) {
    return {name,
            1u << WidestLog2,
            75,
            Placing::in_runs ? moves_plain : moves,
            load<WidestLog2, Placing, Layers>,
            launch<WidestLog2, Placing, Layers>};
}

constexpr unsigned most_layers = 80;

constexpr Kernel kernels[] = {kernel<4, DensePlacing>("cuda_dense_b16"), kernel<3, DensePlacing>("cuda_dense_b8"),
                              kernel<2, DensePlacing>("cuda_dense_b4"), kernel<1, DensePlacing>("cuda_dense_b2"),
                              kernel<0, DensePlacing>("cuda_dense_b1"), kernel<4, RowPlacing>("cuda_rows_b16"),
                              kernel<3, RowPlacing>("cuda_rows_b8"), kernel<2, RowPlacing>("cuda_rows_b4"),
                              kernel<1, RowPlacing>("cuda_rows_b2"), kernel<0, RowPlacing>("cuda_rows_b1"),
                              // For several layers. They serve one as well, but not as fast.
                              kernel<4, DensePlacing, most_layers>("cuda_dense_layers_b16"),
                              kernel<4, RowPlacing, most_layers>("cuda_rows_layers_b16")};

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
Status prepare(const Problem &problem, Target &target) {
    // All kernels of this file are compiled for the same architectures.
    if (const Status status =
            load_kernel(reinterpret_cast<const void *>(append<4, RowPlacing, most_layers>), &target.code_architecture);
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = problem.plain() ? load<4, DensePlacing, most_layers>() : KVAPPEND_SUCCESS;
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    return cuda_prepare(problem);
}

constexpr Backend backend{kernels,    open_device, prepare,      enter_device,     launch_all,
                          cuda_admit, cuda_count,  cuda_advance, fetch_from_device};

} // namespace

const Backend &cuda_backend() {
    return backend;
}

} // namespace kvappend
