// SPDX-License-Identifier: Apache-2.0
// The grids of src/cuda/layout, without CUDA: every vector is copied, a short call copies each once, and no index
// leaves its type. How a thread goes on from its place in the grid is restated here from the words of layout.hpp.
#include "../../src/cuda/layout.hpp"
#include "draw.hpp"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <bit>
#include <map>
#include <random>
#include <tuple>
#include <vector>

using kvappend::Addresses;
using kvappend::Copy;
using kvappend::CopyLayout;
using kvappend::GeometryInput;
using kvappend::GeometryLayout;
using kvappend::Grid;
using kvappend::LayoutInput;
using kvappend::Loop;
using kvappend::Problem;

namespace {

using Random = std::mt19937_64;

constexpr std::int64_t most_narrow = INT32_MAX;

Random seeded() {
    return Random(Catch::getSeed());
}

// One launch: its geometries, and which of them each layer has.
struct Launch {
    std::vector<Problem> problems;
    std::vector<GeometryInput> geometries;
    std::vector<unsigned> geometry_of;
    LayoutInput input{};
    std::vector<GeometryLayout> layouts;
    Grid grid{};

    void lay_out() {
        input.geometries = geometries.data();
        input.count = static_cast<unsigned>(geometries.size());
        input.layers = static_cast<unsigned>(geometry_of.size());
        layouts.assign(geometries.size(), {});
        std::vector<GeometryLayout *> pointers;
        for (GeometryLayout &layout : layouts) {
            pointers.push_back(&layout);
        }
        grid = kvappend::lay_out(input, pointers.data());
    }

    std::string text() const {
        std::string out = "grid " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
                          std::to_string(grid.z) + ", " + std::to_string(grid.threads) + " threads, batch step " +
                          std::to_string(grid.batch_step) + ", apart " + std::to_string(grid.apart) + ", layers " +
                          std::to_string(input.layers) + ", multiprocessors " + std::to_string(input.multiprocessors);
        for (const GeometryLayout &g : layouts) {
            out += "\nloop " + std::to_string(static_cast<int>(g.loop)) + ", samples " + std::to_string(g.samples);
            for (unsigned n = 0; n <= g.both; ++n) {
                const CopyLayout &c = g.copies[n];
                out += "; heads " + std::to_string(c.heads) + ", runs " + std::to_string(c.runs) + " of " +
                       std::to_string(c.run_vectors) + " vectors of 2^" + std::to_string(c.access_log2) +
                       " bytes, steps " + std::to_string(c.head_step) + ", " + std::to_string(c.run_step) + ", " +
                       std::to_string(c.vector_step);
            }
        }
        return out;
    }
};

bool is_short(Loop loop) {
    return loop == Loop::pair || loop == Loop::single;
}

std::int64_t loads_of(Loop loop) {
    return is_short(loop) ? 1 : kvappend::loads_in_flight;
}

// ---- every thread, one by one ----

// How often each vector of one tensor of a layer is copied.
class Copied {
public:
    Copied(const GeometryLayout &g, const CopyLayout &c)
        : c_(c), times_(static_cast<std::size_t>(g.samples * c.heads * c.runs * c.run_vectors)) {}

    void add(std::int64_t sample, std::int64_t head, std::int64_t run, std::int64_t vector) {
        auto &times =
            times_[static_cast<std::size_t>(((sample * c_.heads + head) * c_.runs + run) * c_.run_vectors + vector)];
        times = static_cast<std::uint8_t>(std::min(times + 1, 255));
    }
    std::uint8_t least() const { return *std::ranges::min_element(times_); }
    std::uint8_t most() const { return *std::ranges::max_element(times_); }

private:
    const CopyLayout &c_;
    std::vector<std::uint8_t> times_;
};

// Where a thread starts.
struct Start {
    std::int64_t sample, head, run, vector;
};

Start start_of(const CopyLayout &c, std::uint32_t x, std::uint32_t y, std::uint32_t thread, std::int64_t sample) {
    return {sample, std::int64_t{y} * c.heads_per_block + (thread >> c.head_shift),
            std::int64_t{x >> c.part_bits} * c.runs_per_block + (thread >> c.run_shift & c.run_mask),
            std::int64_t{x & c.part_mask} * c.vectors_per_block + (thread & c.lane_mask)};
}

// A thread of a short call copies one vector; another goes on in steps of the grid along each axis.
template <class Visit>
void copy_by_thread(const GeometryLayout &g, const CopyLayout &c, const Start &start, std::int64_t batch_step,
                    Visit visit) {
    if (start.vector >= c.run_vectors || start.run >= c.runs || start.head >= c.heads) {
        return;
    }
    if (is_short(g.loop)) {
        visit(start.sample, start.head, start.run, start.vector);
        return;
    }
    for (std::int64_t sample = start.sample; sample < g.samples; sample += batch_step) {
        for (std::int64_t head = start.head; head < c.heads; head += c.head_step) {
            for (std::int64_t run = start.run; run < c.runs; run += c.run_step) {
                for (std::int64_t i = start.vector; i < c.run_vectors; i += c.vector_step) {
                    for (int n = 0; n < kvappend::loads_in_flight; ++n) {
                        if (const std::int64_t at = i + n * c.vector_stride; at < c.run_vectors) {
                            visit(sample, head, run, at);
                        }
                    }
                }
            }
        }
    }
}

// All blocks of one z.
void copy_by_blocks(const Launch &launch, std::uint32_t z, std::vector<std::vector<Copied>> &copied) {
    const Grid &grid = launch.grid;
    const std::uint32_t layer = (z >> grid.apart) / grid.batch_step;
    const std::uint32_t sample = (z >> grid.apart) % grid.batch_step;
    const unsigned tensor = z & grid.apart;
    const GeometryLayout &g = launch.layouts[launch.geometry_of[layer]];
    const bool idle = tensor > (g.loop == Loop::pair ? 0 : g.both) || sample >= g.samples;
    if (launch.input.layers == 1) {
        REQUIRE_FALSE(idle); // the kernels for one layer do not look
    }
    if (idle) {
        return;
    }
    const CopyLayout &c = g.copies[tensor];
    for (std::uint32_t y = 0; y < grid.y; ++y) {
        for (std::uint32_t x = 0; x < grid.x; ++x) {
            for (std::uint32_t thread = 0; thread < grid.threads; ++thread) {
                copy_by_thread(g, c, start_of(c, x, y, thread, sample), grid.batch_step,
                               [&](std::int64_t of_sample, std::int64_t head, std::int64_t run, std::int64_t vector) {
                                   copied[layer][tensor].add(of_sample, head, run, vector);
                                   if (g.loop == Loop::pair) {
                                       copied[layer][1].add(of_sample, head, run, vector);
                                   }
                               });
            }
        }
    }
}

void check_every_thread(const Launch &launch) {
    std::vector<std::vector<Copied>> copied;
    for (const unsigned geometry : launch.geometry_of) {
        const GeometryLayout &g = launch.layouts[geometry];
        auto &tensors = copied.emplace_back();
        for (unsigned n = 0; n <= g.both; ++n) {
            tensors.emplace_back(g, g.copies[n]);
        }
    }
    for (std::uint32_t z = 0; z < launch.grid.z; ++z) {
        copy_by_blocks(launch, z, copied);
    }
    for (std::size_t layer = 0; layer < copied.size(); ++layer) {
        for (const Copied &tensor : copied[layer]) {
            CHECK(tensor.least() >= 1);
            if (is_short(launch.layouts[launch.geometry_of[layer]].loop)) {
                CHECK(tensor.most() == 1);
            }
        }
    }
}

// ---- the same by arithmetic, for calls of any extents ----

// The number of parts, and of groups of runs, that the x axis has for a copy.
std::int64_t parts_of(const CopyLayout &c, const Grid &grid) {
    return std::min<std::int64_t>(grid.x, std::int64_t{1} << c.part_bits);
}
std::int64_t groups_of(const CopyLayout &c, const Grid &grid) {
    return std::max<std::int64_t>(1, grid.x >> c.part_bits);
}

// Starts that lie without a gap from 0 on reach all of an axis if a step is not longer than they are many.
void check_axis(std::int64_t extent, std::int64_t starts, std::int64_t step, bool once) {
    CHECK(starts >= 1);
    if (once) {
        CHECK(starts >= extent);
    } else {
        CHECK(step >= 1);
        CHECK(step <= starts);
    }
}

void check_copy(const GeometryLayout &g, const CopyLayout &c, const Grid &grid) {
    const std::int64_t lanes = std::int64_t{c.lane_mask} + 1;
    const std::int64_t runs = std::int64_t{c.run_mask} + 1;
    const bool once = is_short(g.loop);
    // The bits of a thread's index are the lane's, then the run's, then the head's.
    CHECK(std::has_single_bit(static_cast<std::uint64_t>(lanes)));
    CHECK(std::has_single_bit(static_cast<std::uint64_t>(runs)));
    CHECK(lanes == std::int64_t{1} << c.run_shift);
    CHECK(lanes * runs == std::int64_t{1} << c.head_shift);
    CHECK(lanes * runs * c.heads_per_block == grid.threads);
    CHECK(c.runs_per_block == runs);
    CHECK(c.vector_stride == lanes);
    CHECK(c.vectors_per_block == lanes * loads_of(g.loop));
    CHECK(c.part_mask == (std::uint32_t{1} << c.part_bits) - 1);

    check_axis(c.run_vectors, parts_of(c, grid) * c.vectors_per_block, c.vector_step, once);
    check_axis(c.runs, groups_of(c, grid) * c.runs_per_block, c.run_step, once);
    check_axis(c.heads, std::int64_t{grid.y} * c.heads_per_block, c.head_step, once);
    if (once) {
        CHECK(grid.batch_step >= g.samples);
    }
}

void check_grid(const Launch &launch) {
    const Grid &grid = launch.grid;
    CHECK(grid.x >= 1);
    CHECK(grid.x <= most_narrow);
    CHECK(grid.y >= 1);
    CHECK(grid.y <= 65535);
    CHECK(grid.z >= 1);
    CHECK(grid.z <= 65535);
    CHECK(std::has_single_bit(grid.threads));
    CHECK(grid.threads >= 32);
    CHECK(grid.threads <= 128);
    CHECK(grid.batch_step >= 1);
    CHECK(grid.apart <= 1);
    CHECK(grid.z == (launch.input.layers * grid.batch_step) << grid.apart);
    for (const GeometryLayout &g : launch.layouts) {
        // Where K and V are copied by blocks of their own, the grid has them.
        CHECK(grid.apart >= (g.loop == Loop::pair ? 0 : g.both));
        for (unsigned n = 0; n <= g.both; ++n) {
            check_copy(g, g.copies[n], grid);
        }
    }
}

// Which loops may run for a geometry.
void check_loop(const Launch &launch, std::size_t geometry) {
    const GeometryLayout &g = launch.layouts[geometry];
    const Problem &problem = launch.problems[geometry];
    bool widest = true;
    for (unsigned n = 0; n <= g.both; ++n) {
        const CopyLayout &c = g.copies[n];
        const Copy &copy = n == 1 || problem.k.empty() ? problem.v : problem.k;
        const Addresses &addresses = launch.geometries[geometry].addresses[n];
        const std::uint64_t base = addresses.rows | addresses.cache;
        for (const std::int64_t bytes : {static_cast<std::int64_t>(base), copy.row_bytes(), copy.cache.piece_bytes}) {
            CHECK(bytes % (std::int64_t{1} << c.access_log2) == 0);
        }
        CHECK(c.row_vectors << c.access_log2 == copy.row_bytes());
        CHECK(c.runs * c.run_vectors == problem.new_rows * c.row_vectors);
        CHECK(c.heads == copy.heads());
        widest = widest && c.access_log2 == 4 && copy.cache.whole_rows();
        // No vector of a whole row is taken to be in another piece.
        const std::int64_t vectors = copy.cache.whole_rows() ? c.run_vectors : copy.cache.piece_bytes >> c.access_log2;
        const bool whole = c.piece_log2 < 63 && vectors <= std::int64_t{1} << c.piece_log2;
        CHECK((copy.cache.whole_rows() ? whole : vectors == std::int64_t{1} << c.piece_log2));
    }
    CHECK((g.loop == Loop::any || (widest && !launch.input.wide)));
    if (g.loop == Loop::pair) {
        const CopyLayout &k = g.copies[0];
        const CopyLayout &v = g.copies[1];
        CHECK(g.both == 1);
        CHECK((k.heads == v.heads && k.runs == v.runs && k.run_vectors == v.run_vectors));
        CHECK((k.rows.outer == v.rows.outer && k.rows.head == v.rows.head && k.rows.row == v.rows.row));
        CHECK((k.cache.outer == v.cache.outer && k.cache.head == v.cache.head && k.cache.row == v.cache.row));
    }
}

// ---- indices of 31 bits ----

std::int64_t last_start(std::int64_t last_block, std::int64_t per_block) {
    return last_block * per_block + per_block - 1;
}

// The greatest indices that a thread forms. Those of the start are computed with 32 bits in every kernel.
void check_indices(const GeometryLayout &g, const CopyLayout &c, const Grid &grid, bool narrow) {
    CHECK(last_start(parts_of(c, grid) - 1, c.vectors_per_block) <= most_narrow);
    CHECK(last_start((grid.x - 1) >> c.part_bits, c.runs_per_block) <= most_narrow);
    CHECK(last_start(grid.y - 1, c.heads_per_block) <= most_narrow);
    if (!narrow) {
        return;
    }
    CHECK(c.run_vectors <= most_narrow);
    CHECK(c.runs <= most_narrow);
    CHECK(c.heads <= most_narrow);
    CHECK(g.samples <= most_narrow);
    if (!is_short(g.loop)) {
        CHECK(c.run_vectors - 1 + c.vector_step <= most_narrow);
        CHECK(c.run_vectors - 1 + (loads_of(g.loop) - 1) * c.vector_stride <= most_narrow);
        CHECK(c.runs - 1 + c.run_step <= most_narrow);
        CHECK(c.heads - 1 + c.head_step <= most_narrow);
        CHECK(g.samples - 1 + grid.batch_step <= most_narrow);
    }
    for (const std::int64_t stride :
         {c.rows.outer, c.rows.head, c.rows.row, c.cache.outer, c.cache.head, c.cache.row, c.piece_stride}) {
        CHECK(stride >= 0);
        CHECK(stride <= most_narrow);
    }
}

void check_narrow_problem(const Problem &problem, bool joined) {
    const kvappend::Addressing &a = problem.addressing;
    CHECK(a.cache_blocks <= most_narrow);
    CHECK(a.cache_rows <= most_narrow);
    if (joined) {
        CHECK(a.cache_rows + a.new_rows <= most_narrow); // the room that dense_rows finds
    }
}

void check_launch(const Launch &launch) {
    check_grid(launch);
    for (std::size_t i = 0; i < launch.layouts.size(); ++i) {
        const GeometryLayout &g = launch.layouts[i];
        check_loop(launch, i);
        if (!launch.input.wide) {
            check_narrow_problem(launch.problems[i], launch.input.join_rows);
        }
        for (unsigned n = 0; n <= g.both; ++n) {
            check_indices(g, g.copies[n], launch.grid, !launch.input.wide);
        }
    }
}

// ---- random launches ----

// Draws the launches of a kernel for one layer or for several, with joined rows, or with 64-bit indices.
class DrawLaunch {
public:
    explicit DrawLaunch(Random &random) : draw_(random) {}

    // Few enough vectors to walk through them.
    Launch small() { return launch(&DrawLaunch::small_descriptor); }
    // Extents about the bounds of 31 bits, of the grid, and beyond.
    Launch extreme() { return launch(&DrawLaunch::extreme_descriptor); }

    unsigned refused() const { return refused_; }

private:
    Draw<Random> draw_;
    std::int32_t operation_ = KVAPPEND_OPERATION_APPEND; // of all problems of a launch
    unsigned refused_ = 0;                               // problems that are no problems, or have other kernels

    using Descriptor = kvappend_descriptor (DrawLaunch::*)();

    Launch launch(Descriptor next) {
        Launch launch;
        launch.input.join_rows = draw_.one_in(2);
        launch.input.wide = !launch.input.join_rows && draw_.one_in(4);
        launch.input.multiprocessors = static_cast<std::int32_t>(draw_.of<std::int64_t>({1, 1, 2, 7, 30, 132, 200}));
        operation_ = draw_.of({KVAPPEND_OPERATION_APPEND, KVAPPEND_OPERATION_GATHER});
        const unsigned count = launch.input.wide || draw_.one_in(2) ? 1 : 2;
        for (unsigned i = 0; i < count; ++i) {
            launch.problems.push_back(problem(next, launch.input));
        }
        const unsigned layers = launch.input.wide || (count == 1 && draw_.one_in(2))
                                    ? 1
                                    : static_cast<unsigned>(draw_.of<std::int64_t>({2, 3, 5, 80}));
        for (const Problem &problem : launch.problems) {
            launch.geometries.push_back({&problem, {}, 0});
        }
        for (unsigned i = 0; i < layers; ++i) {
            // Each geometry has a layer.
            const auto geometry = i < count ? i : static_cast<unsigned>(draw_.between(0, count - 1));
            launch.geometry_of.push_back(geometry);
            ++launch.geometries[geometry].layers;
        }
        const std::int64_t alignment = draw_.of<std::int64_t>({1, 2, 8, 16, 256});
        for (GeometryInput &geometry : launch.geometries) {
            const auto unit =
                static_cast<std::uint64_t>(geometry.problem->element_bytes) * static_cast<std::uint64_t>(alignment);
            for (Addresses &addresses : geometry.addresses) {
                for (std::uintptr_t *const address : {&addresses.rows, &addresses.cache}) {
                    *address = std::uintptr_t{1} << 40 | static_cast<std::uint64_t>(draw_.between(0, 15)) * unit;
                }
            }
        }
        launch.lay_out();
        return launch;
    }

    Problem problem(Descriptor next, const LayoutInput &input) {
        while (true) {
            Problem problem;
            if (Problem::create((this->*next)(), problem) == KVAPPEND_SUCCESS && !problem.empty() &&
                (input.wide || (input.join_rows ? problem.plain_dense() && runs_fit_in_31_bits(problem)
                                                : fits_in_31_bits(problem)))) {
                return problem;
            }
            ++refused_;
        }
    }

    kvappend_descriptor descriptor() {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = KVAPPEND_BACKEND_CUDA;
        d.operation = operation_;
        d.element_type =
            draw_.of({KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F64, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16});
        d.addressing = draw_.of({KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_PAGED,
                                 KVAPPEND_ADDRESSING_SLOTS});
        return d;
    }

    void finish(kvappend_descriptor &d) {
        d.batch = d.addressing == KVAPPEND_ADDRESSING_SLOTS ? 1 : d.batch;
        d.cache_blocks = d.addressing == KVAPPEND_ADDRESSING_DENSE ? 0 : std::max<std::int64_t>(d.cache_blocks, 1);
        d.table_entries = d.addressing == KVAPPEND_ADDRESSING_PAGED ? 4 : 0;
    }

    kvappend_descriptor small_descriptor() {
        kvappend_descriptor d = descriptor();
        d.batch = draw_.of<std::int64_t>({1, 1, 2, 3, 8, 33});
        d.heads = draw_.of<std::int64_t>({1, 2, 3, 8, 70});
        d.new_rows = draw_.of<std::int64_t>({1, 1, 1, 2, 3, 16, 65});
        d.cache_rows = draw_.of<std::int64_t>({1, 16, 256});
        d.cache_blocks = draw_.between(1, 9);
        d.k_dim = draw_.of<std::int64_t>({0, 1, 8, 16, 80, 128, 128, 576, 5000});
        d.v_dim = draw_.one_in(2) ? d.k_dim : draw_.of<std::int64_t>({0, 1, 24, 64, 128});
        finish(d);
        if (draw_.one_in(3)) {
            const bool tokens = d.addressing == KVAPPEND_ADDRESSING_SLOTS;
            const std::int64_t rows[3] = {tokens ? 1 : d.batch, d.heads, d.new_rows};
            const std::int64_t cache[3] = {std::max(d.cache_blocks, d.batch), d.heads, d.cache_rows};
            draw_.strides(d.k_new_strides, rows, d.k_dim, true);
            draw_.strides(d.v_new_strides, rows, d.v_dim, true);
            draw_.strides(d.k_cache_strides, cache, d.k_dim, false);
            draw_.strides(d.v_cache_strides, cache, d.v_dim, false);
        } else if (draw_.one_in(4)) {
            d.k_pack = d.k_dim % 8 == 0 ? 8 : 0;
        }
        return d;
    }

    std::int64_t extent() {
        const std::int64_t power = std::int64_t{1} << draw_.between(0, 33);
        switch (draw_.between(0, 5)) {
        case 0:
            return std::max<std::int64_t>((std::int64_t{1} << 30) + draw_.between(-2, 2), 1);
        case 1:
            return (std::int64_t{1} << draw_.of<std::int64_t>({16, 21, 31})) + draw_.between(-2, 2);
        case 2:
            return draw_.between(power, 2 * power);
        default:
            return draw_.of<std::int64_t>({1, 1, 2, 8});
        }
    }

    kvappend_descriptor extreme_descriptor() {
        kvappend_descriptor d = descriptor();
        d.batch = extent();
        d.heads = extent();
        d.new_rows = extent();
        d.cache_rows = extent();
        d.cache_blocks = extent();
        d.k_dim = extent() * draw_.of<std::int64_t>({1, 8});
        d.v_dim = draw_.one_in(2) ? d.k_dim : draw_.of<std::int64_t>({0, 8, 128});
        finish(d);
        if (draw_.one_in(2)) {
            // One sample and one head, whose strides are not used: so the rows may be as many as the bounds allow.
            d.batch = d.heads = 1;
            for (auto *const strides : {d.k_new_strides, d.k_cache_strides}) {
                strides[KVAPPEND_AXIS_ROW] = d.k_dim;
            }
            for (auto *const strides : {d.v_new_strides, d.v_cache_strides}) {
                strides[KVAPPEND_AXIS_ROW] = std::max<std::int64_t>(d.v_dim, 1);
            }
        } else if (draw_.one_in(2)) {
            // The same new row for all samples, heads and rows.
            for (auto *const strides : {d.k_new_strides, d.v_new_strides}) {
                strides[0] = 0;
                strides[1] = 0;
                strides[2] = 0;
                strides[draw_.between(0, 2)] = 16;
            }
        }
        return d;
    }
};

std::int64_t threads_of(const Launch &launch) {
    return std::int64_t{launch.grid.x} * launch.grid.y * launch.grid.z * launch.grid.threads;
}

// The vectors of all layers.
std::int64_t vectors_of(const Launch &launch) {
    std::int64_t vectors = 0;
    for (const unsigned geometry : launch.geometry_of) {
        const GeometryLayout &g = launch.layouts[geometry];
        for (unsigned n = 0; n <= g.both; ++n) {
            const CopyLayout &c = g.copies[n];
            vectors += g.samples * c.heads * c.runs * c.run_vectors;
        }
    }
    return vectors;
}

} // namespace

TEST_CASE("every vector is copied, in a short call once", "[layout]") {
    Random random = seeded();
    DrawLaunch draw(random);
    std::map<Loop, int> loops;
    int split_runs = 0;
    int two_geometries = 0;
    for (int i = 0; i < 600; ++i) {
        const Launch launch = draw.small();
        if (threads_of(launch) > 4'000'000 || vectors_of(launch) > 2'000'000) {
            continue;
        }
        INFO(launch.text());
        check_launch(launch);
        check_every_thread(launch);
        two_geometries += launch.layouts.size() == 2 ? 1 : 0;
        for (const GeometryLayout &g : launch.layouts) {
            ++loops[g.loop];
            const CopyLayout &c = g.copies[0];
            split_runs += c.runs > 1 && c.part_bits > 0 ? 1 : 0;
        }
    }
    // Each way has been drawn.
    for (const Loop loop : {Loop::pair, Loop::single, Loop::deep, Loop::any}) {
        INFO("loop " << static_cast<int>(loop));
        CHECK(loops[loop] >= 10);
    }
    CHECK(split_runs >= 10);
    CHECK(two_geometries >= 50);
}

TEST_CASE("capped grids go on in steps, and indices stay within 31 bits", "[layout]") {
    Random random = seeded();
    DrawLaunch draw(random);
    int capped_x = 0;
    int capped_y = 0;
    int capped_z = 0;
    for (int i = 0; i < 20'000; ++i) {
        const Launch launch = draw.extreme();
        INFO(launch.text());
        check_launch(launch);
        capped_x += launch.grid.x == 1U << 21 ? 1 : 0;
        capped_y += launch.grid.y == 65535 ? 1 : 0;
        capped_z += launch.grid.batch_step < launch.layouts[0].samples ? 1 : 0;
    }
    CHECK(capped_x >= 100);
    CHECK(capped_y >= 20);
    CHECK(capped_z >= 100);
    CHECK(draw.refused() >= 100);
}

TEST_CASE("what has 31 bits is told from what has not", "[layout]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = d.heads = d.new_rows = d.k_dim = 1;
    d.cache_rows = 4;
    d.element_type = KVAPPEND_ELEMENT_F16;
    const auto fit = [&] {
        Problem problem;
        REQUIRE(Problem::create(d, problem) == KVAPPEND_SUCCESS);
        return std::pair(kvappend::fits_in_31_bits(problem), kvappend::runs_fit_in_31_bits(problem));
    };
    CHECK(fit() == std::pair(true, true));

    constexpr std::int64_t bound = std::int64_t{1} << 30;
    for (std::int64_t *const extent : {&d.batch, &d.new_rows}) {
        // One row for all of them, so that no stride has more than 31 bits.
        d.k_new_strides[KVAPPEND_AXIS_HEAD] = 1;
        *extent = bound;
        d.cache_rows = 1;
        CHECK(fit() == std::pair(true, true));
        *extent = bound + 1;
        CHECK(fit() == std::pair(false, false));
        *extent = 1;
    }
    d.new_rows = bound / 4;
    d.k_dim = 4;
    CHECK(fit() == std::pair(true, true));
    d.k_dim = 5;
    CHECK(fit() == std::pair(true, false));
}

TEST_CASE("one stride of more than 31 bits is enough, that of the pieces too", "[layout]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = d.heads = d.new_rows = d.cache_rows = d.k_dim = 2;
    d.k_pack = d.k_piece_stride = 1;
    d.element_type = KVAPPEND_ELEMENT_F16;
    for (std::int64_t(*const strides)[3] : {&d.k_new_strides, &d.k_cache_strides}) {
        (*strides)[KVAPPEND_AXIS_BATCH] = 8;
        (*strides)[KVAPPEND_AXIS_HEAD] = 4;
        (*strides)[KVAPPEND_AXIS_ROW] = 2;
    }
    const auto fits = [&] {
        Problem problem;
        REQUIRE(Problem::create(d, problem) == KVAPPEND_SUCCESS);
        return kvappend::fits_in_31_bits(problem);
    };
    CHECK(fits());
    constexpr std::int64_t least = std::int64_t{1} << 30; // of two bytes each
    for (std::int64_t *const stride :
         {&d.k_new_strides[0], &d.k_new_strides[1], &d.k_new_strides[2], &d.k_cache_strides[0], &d.k_cache_strides[1],
          &d.k_cache_strides[2], &d.k_piece_stride}) {
        const std::int64_t before = *stride;
        *stride = least - 1;
        CHECK(fits());
        *stride = least;
        CHECK(!fits());
        *stride = before;
    }
}

TEST_CASE("a call with more heads or samples than a grid has blocks goes on in steps", "[layout]") {
    // So many multiprocessors that the number of vectors alone would make it a short call.
    constexpr std::int32_t multiprocessors = 1 << 20;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.new_rows = 1;
    d.cache_rows = 4;
    d.k_dim = 256;
    d.v_dim = 128;
    for (const auto &[batch, heads, layers] :
         {std::tuple(1, 65535, 1), std::tuple(1, 65536, 1), std::tuple(32767, 1, 1), std::tuple(32768, 1, 1),
          std::tuple(3276, 1, 10), std::tuple(3277, 1, 10)}) {
        d.batch = batch;
        d.heads = heads;
        Launch launch;
        launch.problems.resize(1);
        REQUIRE(Problem::create(d, launch.problems[0]) == KVAPPEND_SUCCESS);
        launch.geometries.push_back({launch.problems.data(), {}, static_cast<unsigned>(layers)});
        launch.geometry_of.assign(static_cast<std::size_t>(layers), 0);
        launch.input.multiprocessors = multiprocessors;
        launch.lay_out();
        INFO(launch.text());
        CHECK(is_short(launch.layouts[0].loop) == (heads <= 65535 && batch * layers <= 65535 / 2));
        check_launch(launch);
    }
}

namespace {

// Rows of 16 vectors in pages of 16 rows, on a device of 30 multiprocessors. A page has all rows of a head together, or
// all heads of a row.
Launch in_pages(std::int32_t operation, std::int64_t rows, std::int64_t heads, bool heads_together) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.operation = operation;
    d.element_type = KVAPPEND_ELEMENT_BF16;
    d.addressing = KVAPPEND_ADDRESSING_PAGED;
    d.batch = 1;
    d.heads = heads;
    d.new_rows = rows;
    d.cache_rows = 16;
    d.cache_blocks = d.table_entries = 1024;
    d.k_dim = d.v_dim = 128;
    for (std::int64_t(*const strides)[3] : {&d.k_cache_strides, &d.v_cache_strides}) {
        (*strides)[KVAPPEND_AXIS_BATCH] = 16 * heads * 128;
        (*strides)[KVAPPEND_AXIS_HEAD] = heads_together ? 128 : 16 * 128;
        (*strides)[KVAPPEND_AXIS_ROW] = heads_together ? heads * 128 : 128;
    }
    Launch launch;
    launch.problems.resize(1);
    REQUIRE(Problem::create(d, launch.problems[0]) == KVAPPEND_SUCCESS);
    launch.geometries.push_back({launch.problems.data(), {}, 1});
    launch.geometry_of = {0};
    launch.input.multiprocessors = 30;
    launch.lay_out();
    check_launch(launch);
    return launch;
}

} // namespace

TEST_CASE("a gather of as many rows as a long append is short, and a longer one is long", "[layout]") {
    const auto loop = [](std::int32_t operation, std::int64_t rows) {
        return in_pages(operation, rows, 1, false).layouts[0].loop;
    };
    CHECK(loop(KVAPPEND_OPERATION_APPEND, 4096) == Loop::deep);
    CHECK(loop(KVAPPEND_OPERATION_GATHER, 4096) == Loop::pair);
    CHECK(loop(KVAPPEND_OPERATION_GATHER, 16384) == Loop::deep);
}

TEST_CASE("a block of a gather has what is together in the cache: rows of a head, or heads of a row", "[layout]") {
    const auto shape = [](std::int32_t operation, std::int64_t heads, bool heads_together) {
        const CopyLayout c = in_pages(operation, 512, heads, heads_together).layouts[0].copies[0];
        return std::pair(c.runs_per_block, c.heads_per_block);
    };
    CHECK(shape(KVAPPEND_OPERATION_GATHER, 8, false) == std::pair(8U, 1U));
    CHECK(shape(KVAPPEND_OPERATION_GATHER, 8, true) == std::pair(1U, 8U));
    CHECK(shape(KVAPPEND_OPERATION_GATHER, 3, true) == std::pair(2U, 4U));
    CHECK(shape(KVAPPEND_OPERATION_APPEND, 8, true) == std::pair(16U, 1U));
}

TEST_CASE("the rule for pages reads tables whose indices have 31 bits", "[layout]") {
    using kvappend::RuleKind;
    const auto kind = [](auto change) {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.addressing = KVAPPEND_ADDRESSING_PAGED;
        d.batch = 2;
        d.heads = d.new_rows = d.k_dim = 1;
        d.cache_rows = 16;
        d.cache_blocks = d.table_entries = 8;
        change(d);
        Problem problem;
        REQUIRE(Problem::create(d, problem) == KVAPPEND_SUCCESS);
        return rule_kind_of(problem.addressing);
    };
    const auto reserve = [](kvappend_descriptor &d, std::int64_t page) {
        d.flags = KVAPPEND_FLAG_RESERVED_PAGE;
        d.reserved_page = page;
    };
    CHECK(kind([](auto & /*d*/) {}) == RuleKind::pages);
    CHECK(kind([](auto &d) { d.table_stride = INT32_MAX; }) == RuleKind::pages);
    CHECK(kind([](auto &d) { d.table_stride = std::int64_t{1} << 31; }) == RuleKind::any);
    CHECK(kind([](auto &d) { d.table_entries = std::int64_t{1} << 31; }) == RuleKind::any);
    CHECK(kind([](auto &d) { d.index_type = KVAPPEND_INDEX_INT64; }) == RuleKind::any);
    CHECK(kind([&](auto &d) { reserve(d, INT32_MAX); }) == RuleKind::pages);
    CHECK(kind([&](auto &d) { reserve(d, std::int64_t{1} << 32); }) == RuleKind::any);
    CHECK(kind([](auto &d) { d.cache_rows = 12; }) == RuleKind::any);
    CHECK(kind([](auto &d) { d.flags = KVAPPEND_FLAG_ZERO_OFFSETS; }) == RuleKind::any);
}
