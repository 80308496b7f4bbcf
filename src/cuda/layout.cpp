// SPDX-License-Identifier: Apache-2.0
#include "layout.hpp"

#include "../storage.hpp"

#include <algorithm>
#include <bit>
#include <tuple>

namespace kvappend {

namespace {

// With extents of at most this, an index and a step together fit in 31 bits: most_blocks_x blocks of at most 512
// vectors make a step of at most 2^30.
constexpr std::int64_t most_index = std::int64_t{1} << 30;

// A call is long if each multiprocessor has at least this number of vectors: two for each of the 1024 threads or more
// that it holds. In a shorter call each thread copies one vector, which spreads the work over more multiprocessors: 18
// to 28 % fewer cycles (bench/cuda, decode of 1 and 8 samples).
constexpr std::int64_t long_vectors = 2048;
// A gather is long from more vectors on. Its threads wait twice, first for the place of a row and then for its vectors,
// so they need other threads to hide the waits. One vector of K and the same one of V for each thread make twice as
// many threads, and share the place. Compared with Loop::deep, 4096 rows of 256 bytes take 28 % fewer cycles, and 8192
// rows 11 % fewer (simulated, Turing: 4369 and 8738 vectors for each multiprocessor). Longer ones were not measured.
constexpr std::int64_t long_gather_vectors = 16384;
// In a long call blocks have half as many threads. The same number of threads fits on a multiprocessor, and fewer
// threads of a run's last block are idle (bench/cuda, prefill: 4 % fewer cycles).
constexpr unsigned long_block_threads_log2 = block_threads_log2 - 1;

// ceil(a / 2^bits), for a >= 1.
constexpr std::int64_t shares(std::int64_t a, unsigned bits) {
    return ((a - 1) >> bits) + 1;
}

void describe_copy(const Problem &problem, const Copy &copy, const Addresses &addresses, bool join_rows,
                   CopyLayout &c) {
    c.access_log2 = static_cast<std::uint32_t>(std::countr_zero(addresses.rows | addresses.cache | copy.alignment));
    c.rows = copy.rows.strides;
    c.cache = copy.cache.strides;
    c.heads = copy.heads();
    c.row_vectors = copy.row_bytes() >> c.access_log2;
    const bool joined = join_rows && copy.adjacent_rows;
    c.runs = joined ? 1 : problem.new_rows;
    c.run_vectors = joined ? problem.new_rows * c.row_vectors : c.row_vectors;
    c.joined_rows = joined && problem.new_rows > 1 ? 1 : 0;
    c.piece_stride = copy.cache.piece_stride;
    c.piece_log2 = bits_for(copy.cache.whole_rows() ? c.run_vectors : copy.cache.piece_bytes >> c.access_log2);
}

std::uint32_t code_bits_of(const Copy &copy, std::uint32_t element_bytes) {
    return copy.converts() ? bits_of_stored_type(copy.format.type) : 8 * element_bytes;
}

// Whether groups of a row have scales of their own.
bool has_groups(const Copy &copy) {
    return copy.format.computed() || (copy.format.scaled() && copy.scales.piece_stride != 0);
}

// Whether a thread can load and store `chunk` elements together.
bool has_chunks(const Copy &copy, std::uint32_t element_bytes, const Addresses &addresses, std::int64_t chunk) {
    const Format &f = copy.format;
    const std::int64_t bytes = chunk * element_bytes;
    const std::int64_t codes = chunk * code_bits_of(copy, element_bytes) / 8;
    const std::int64_t pack =
        copy.cache.whole_rows() ? chunk : copy.cache.piece_bytes * 8 / code_bits_of(copy, element_bytes);
    const std::int64_t access = std::min<std::int64_t>(bytes, 1 << widest_access_log2);
    const bool is_aligned = addresses.rows % static_cast<std::uintptr_t>(access) == 0 &&
                            copy.rows.alignment() % static_cast<std::uint32_t>(access) == 0;
    const bool is_target_aligned = addresses.cache % 2 == 0 && copy.cache.alignment() % 2 == 0 && codes % 2 == 0;
    return is_aligned && is_target_aligned && copy.row_bytes() % bytes == 0 &&
           (!has_groups(copy) || f.group % chunk == 0) && !f.halves && pack % chunk == 0;
}

// Whether all elements of a chunk are rotated in the same way, or none is.
bool rotates_by_chunks(const Rotation &rotation, std::int64_t chunk) {
    const std::int64_t alike = rotation.interleaved ? rotation.dim : rotation.dim / 2;
    return rotation.first % chunk == 0 && alike % chunk == 0;
}

Types types_of(std::int32_t element_type, const Format &f) {
    const bool narrows = element_type == KVAPPEND_ELEMENT_F32;
    switch (f.type) {
    case KVAPPEND_STORED_F16:
        return narrows ? Types::f16 : Types::any;
    case KVAPPEND_STORED_BF16:
        return narrows ? Types::bf16 : Types::any;
    case KVAPPEND_STORED_E4M3:
        return Types::e4m3;
    case KVAPPEND_STORED_INT8:
        return Types::int8;
    case KVAPPEND_STORED_E2M1:
        return Types::e2m1;
    default:
        return Types::any;
    }
}

ScalesKind scales_kind_of(const Copy &copy) {
    const Format &f = copy.format;
    if (!f.scaled()) {
        return ScalesKind::none;
    }
    const bool by_place = copy.scales.strides.outer != 0 || copy.scales.strides.row != 0;
    return f.computed() || f.has_global_scale || f.scale_type != KVAPPEND_SCALE_F32 || by_place ? ScalesKind::any
                                                                                                : ScalesKind::plain;
}

// How long the chunks of known types are, if all geometries have known types.
enum class Chunks {
    short_ones,
    long_ones,
    any // their types are not known
};

// A tensor of a geometry, and its layouts.
struct TensorLayout {
    const Copy &copy;
    const Addresses &addresses;
    CopyLayout &layout;
    ConvertLayout *format;        // NULL unless the kernel converts
    std::uint32_t *twin_elements; // NULL unless the kernel rotates rows
    std::uint32_t *first_head_block;
};

// Calls act(tensor) for K, V and Q.
template <class Act>
void for_each_tensor(const LayoutInput &input, unsigned i, GeometryLayout &g, Act act) {
    const GeometryInput &geometry = input.geometries[i];
    RotateLayout *const rotation = input.rotations == nullptr ? nullptr : input.rotations[i];
    const auto tensor = [&](unsigned n, const Copy &copy, CopyLayout &layout, ConvertLayout *format) {
        act(TensorLayout{copy, geometry.addresses[n], layout, format,
                         rotation == nullptr ? nullptr : &rotation->twin_elements[n],
                         rotation == nullptr ? nullptr : &rotation->first_head_block[n]});
    };
    unsigned n = 0;
    for (const Copy *const copy : {&geometry.problem->k, &geometry.problem->v}) {
        if (!copy->empty()) {
            tensor(n, *copy, g.copies[n], input.formats == nullptr ? nullptr : &input.formats[i][n]);
            ++n;
        }
    }
    if (input.query != nullptr && geometry.problem->has_query()) {
        tensor(query_tensor, geometry.problem->q, input.query->copy, &input.query->format);
    }
}

// The elements that a launch converts, for each multiprocessor.
float elements_per_multiprocessor(const LayoutInput &input) {
    float elements = 0; // an estimate; the exact sum may not fit in 63 bits
    for (unsigned i = 0; i < input.count; ++i) {
        const GeometryInput &geometry = input.geometries[i];
        const Problem &problem = *geometry.problem;
        for (const Copy *const copy : {&problem.k, &problem.v, &problem.q}) {
            if (!copy->empty()) {
                const std::int64_t dim = copy->row_bytes() / problem.element_bytes;
                elements += static_cast<float>(geometry.layers) * static_cast<float>(problem.source_samples) *
                            static_cast<float>(problem.new_rows) * static_cast<float>(copy->heads() * dim);
            }
        }
    }
    return elements / static_cast<float>(input.multiprocessors);
}

// Whether twins of `chunk` elements serve a tensor: the types of codes and scales that TwinConversion knows.
bool serve_twins(const Problem &problem, const Copy &copy, const Addresses &addresses, std::int64_t chunk) {
    const Format &f = copy.format;
    const bool known = f.type == KVAPPEND_STORED_AS_IS || f.type == KVAPPEND_STORED_E4M3;
    return known && scales_kind_of(copy) != ScalesKind::any && copy.scales.piece_stride == 0 &&
           has_chunks(copy, problem.element_bytes, addresses, chunk) && copy.rotation.first % chunk == 0 &&
           copy.rotation.dim / 2 % chunk == 0;
}

// Below this number of elements for each multiprocessor, threads convert short chunks: 8 warps with long ones of 16-bit
// elements.
constexpr float least_long_conversion = 8 * warp_lanes * 16;

// For each of these elements of a multiprocessor, a thread converts one head more, all at places that it finds once. A
// prompt of 4096 rows takes 8 to 23 % less time with 8 heads for a thread than with 2, and one of 512 rows up to 15 %
// more with 2 than with 1 (H200, bench/cuda, bf16).
constexpr float elements_for_one_head = 6144;

// Divides a row into chunks of `chunk` elements and units.
void divide_row(const Copy &copy, std::int64_t chunk, bool by_team, ConvertLayout &f) {
    f.unit = by_team ? copy.format.group : chunk;
    f.team_log2 = std::min(warp_lanes_log2, bits_for((f.unit - 1) / chunk + 1));
}

void choose_chunks(const LayoutInput &input, Chunks chunks, const Problem &problem, const Copy &copy,
                   const Addresses &addresses, ConvertLayout &f) {
    const bool by_team = problem.writes_scales(copy) || copy.format.halves;
    const auto try_chunks = [&](std::int64_t chunk) {
        divide_row(copy, chunk, by_team || has_groups(copy), f);
        return !input.wide && has_chunks(copy, f.element_bytes, addresses, chunk) &&
               rotates_by_chunks(copy.rotation, chunk);
    };
    const auto try_known_chunks = [&](std::int64_t chunk) {
        return try_chunks(chunk) && f.unit == chunk << f.team_log2 && f.dim % f.unit == 0;
    };
    f.by_chunks = 1;
    const bool known = chunks != Chunks::any && !problem.gathers() && !problem.rotates() &&
                       conversion_rule_of(problem.addressing) != RuleKind::any;
    f.types = known ? types_of(f.element_type, f.format) : Types::any;
    if (f.types != Types::any) {
        f.is_short = chunks == Chunks::short_ones && try_known_chunks(chunk_bytes / f.element_bytes) ? 1 : 0;
        if (f.is_short != 0 || try_known_chunks(long_chunk_bytes / f.element_bytes)) {
            return;
        }
    }
    f.types = Types::any;
    if (!try_chunks(chunk_bytes / f.element_bytes)) {
        f.by_chunks = 0;
        divide_row(copy, 2, by_team, f);
    }
}

// Divides the rows of a launch that rotates rows into twins. If the types are known, all tensors have twins, and one
// kernel serves them all. Otherwise only Q has twins.
void choose_twins(const LayoutInput &input, Chunks chunks, const Problem &problem, const TensorLayout &tensor) {
    const bool is_query = &tensor.copy == &problem.q;
    std::uint32_t &elements = *tensor.twin_elements;
    elements = is_query ? 1 : 0;
    const std::uint32_t chunk = chunk_bytes / problem.element_bytes;
    if (!input.wide && (is_query || chunks != Chunks::any) &&
        serve_twins(problem, tensor.copy, tensor.addresses, chunk)) {
        elements = chunk;
    }
    if (elements == 0) {
        return;
    }
    const std::int64_t rotated = tensor.copy.rotation.dim;
    const std::int64_t both = 2 * std::int64_t{elements};
    CopyLayout &c = tensor.layout;
    c.row_vectors = c.run_vectors = rotated / both + (tensor.format->dim - rotated + both - 1) / both;
}

void describe_conversion(const LayoutInput &input, Chunks chunks, const Problem &problem, const TensorLayout &tensor) {
    const Copy &copy = tensor.copy;
    const Addresses &addresses = tensor.addresses;
    CopyLayout &c = tensor.layout;
    ConvertLayout &f = *tensor.format;
    const Format &format = copy.format;
    f.format = format;
    f.element_type = problem.element_type;
    f.element_bytes = problem.element_bytes;
    f.code_bits = code_bits_of(copy, problem.element_bytes);
    f.scale_bytes = static_cast<std::uint8_t>(bytes_of_scale(format.scale_type));
    f.zeroes = problem.addressing.has(KVAPPEND_FLAG_ZERO_SKIPPED) ? 1 : 0;
    f.access_log2 = static_cast<std::uint32_t>(std::countr_zero(addresses.cache | copy.cache.alignment()));
    f.dim = copy.row_bytes() / problem.element_bytes;
    choose_chunks(input, chunks, problem, copy, addresses, f);
    f.pack_log2 = bits_for(copy.cache.whole_rows() ? f.dim : copy.cache.piece_bytes * 8 / f.code_bits);
    f.piece_stride = copy.cache.piece_stride;
    f.scales = copy.scales.strides;
    f.group_stride = copy.scales.piece_stride;
    f.in_pieces = copy.cache.whole_rows() ? 0 : 1;
    f.scales_kind = scales_kind_of(copy);
    if (!format.scaled()) {
        f.format.scale_use = KVAPPEND_SCALE_MULTIPLY; // by 1
    }
    c.rows = copy.rows.strides;
    c.cache = copy.cache.strides;
    c.heads = copy.heads();
    c.runs = problem.new_rows;
    c.row_vectors = c.run_vectors = ((f.dim - 1) / f.unit + 1) << f.team_log2;
    if (tensor.twin_elements != nullptr) {
        choose_twins(input, chunks, problem, tensor);
    }
}

void describe_geometry(const LayoutInput &input, Chunks chunks, unsigned i, GeometryLayout &g) {
    const Problem &problem = *input.geometries[i].problem;
    g.samples = problem.source_samples;
    g.both = problem.k.empty() || problem.v.empty() ? 0 : 1;
    for_each_tensor(input, i, g, [&](const TensorLayout &tensor) {
        if (tensor.format != nullptr) {
            describe_conversion(input, chunks, problem, tensor);
        } else {
            describe_copy(problem, tensor.copy, tensor.addresses, input.join_rows, tensor.layout);
        }
    });
}

// Whether one kernel serves all: no types are known, or those of all are, with elements of one type.
bool agree_on_types(const LayoutInput &input, GeometryLayout *const *layouts) {
    unsigned known = 0;
    unsigned count = 0;
    bool same_elements = true;
    for (unsigned i = 0; i < input.count; ++i) {
        for_each_tensor(input, i, *layouts[i], [&](const TensorLayout &tensor) {
            const ConvertLayout &f = *tensor.format;
            const bool is_known = tensor.twin_elements == nullptr ? f.types != Types::any : *tensor.twin_elements > 1;
            known += is_known ? 1 : 0;
            same_elements = same_elements && f.element_type == input.formats[0][0].element_type;
            ++count;
        });
    }
    return known == 0 || (known == count && same_elements);
}

void describe_geometries(const LayoutInput &input, bool is_short, GeometryLayout *const *layouts) {
    const auto describe = [&](Chunks chunks) {
        for (unsigned i = 0; i < input.count; ++i) {
            describe_geometry(input, chunks, i, *layouts[i]);
        }
    };
    describe(is_short ? Chunks::short_ones : Chunks::long_ones);
    if (input.formats != nullptr && !agree_on_types(input, layouts)) {
        describe(Chunks::any);
    }
}

// How much there is to copy.
struct Work {
    std::int64_t vectors_per_multiprocessor;
    std::int64_t samples;
    std::int64_t heads;
};

Work measure(const LayoutInput &input, GeometryLayout *const *layouts) {
    float vectors = 0; // an estimate; the exact sum may not fit in 63 bits
    Work work{0, 0, 0};
    for (unsigned i = 0; i < input.count; ++i) {
        GeometryLayout &g = *layouts[i];
        work.samples = std::max(work.samples, g.samples);
        for_each_tensor(input, i, g, [&](const TensorLayout &tensor) {
            const CopyLayout &c = tensor.layout;
            vectors += static_cast<float>(g.samples * c.heads) * static_cast<float>(c.runs * c.run_vectors) *
                       static_cast<float>(input.geometries[i].layers);
            work.heads = std::max(work.heads, c.heads);
        });
    }
    work.vectors_per_multiprocessor = static_cast<std::int64_t>(
        std::min(vectors / static_cast<float>(input.multiprocessors), static_cast<float>(INT32_MAX)));
    return work;
}

// Whether the same thread can copy the same vector of K and of V.
bool alike(const CopyLayout &k, const CopyLayout &v) {
    const auto shape = [](const CopyLayout &c) {
        return std::tuple(c.rows.outer, c.rows.head, c.rows.row, c.cache.outer, c.cache.head, c.cache.row, c.heads,
                          c.runs, c.run_vectors);
    };
    return shape(k) == shape(v);
}

Loop choose_loop(const LayoutInput &input, const GeometryInput &geometry, const GeometryLayout &g, bool is_long) {
    const Problem &problem = *geometry.problem;
    const bool widest =
        g.copies[0].access_log2 == widest_access_log2 && (g.both == 0 || g.copies[1].access_log2 == widest_access_log2);
    if (input.formats != nullptr) {
        return Loop::convert;
    }
    if (input.wide || !widest || !problem.k.cache.whole_rows() || !problem.v.cache.whole_rows()) {
        return Loop::any;
    }
    if (is_long) {
        return Loop::deep;
    }
    return g.both != 0 && alike(g.copies[0], g.copies[1]) ? Loop::pair : Loop::single;
}

unsigned loads_log2_of(Loop loop) {
    return loop == Loop::deep || loop == Loop::any ? loads_in_flight_log2 : 0;
}

struct BlockCounts {
    std::int64_t x = 0;
    std::int64_t y = 0;
};

// Assigns the threads of a block to vectors first, then to runs, then to heads; or to heads before runs.
BlockCounts spread(CopyLayout &c, unsigned block_log2, unsigned loads_log2, bool heads_first) {
    const unsigned lane_bits = std::min(block_log2, bits_for(shares(c.run_vectors, loads_log2)));
    const unsigned other_bits = block_log2 - lane_bits;
    const unsigned run_bits =
        heads_first ? other_bits - std::min(other_bits, bits_for(c.heads)) : std::min(other_bits, bits_for(c.runs));
    const unsigned head_bits = other_bits - run_bits;
    const std::int64_t parts = shares(c.run_vectors, lane_bits + loads_log2);
    const bool one_run = c.runs == 1;
    // The number of parts of one run need not be a power of two.
    c.part_bits = one_run ? 31 : std::min(bits_for(parts), bits_for(most_blocks_x));
    c.part_mask = (1U << c.part_bits) - 1;
    c.lane_mask = (1U << lane_bits) - 1;
    c.run_mask = (1U << run_bits) - 1;
    c.run_shift = lane_bits;
    c.head_shift = lane_bits + run_bits;
    c.vectors_per_block = 1U << (lane_bits + loads_log2);
    c.runs_per_block = 1U << run_bits;
    c.heads_per_block = 1U << head_bits;
    c.vector_stride = std::int64_t{1} << lane_bits;
    const std::int64_t groups = shares(c.runs, run_bits);
    return {one_run ? std::min(most_blocks_x, parts) : std::min(most_blocks_x, groups << c.part_bits),
            std::min(most_blocks_yz, shares(c.heads, head_bits))};
}

// A grid may be larger than this copy needs. `grid.y` is the number of blocks for the heads of this copy.
void set_steps(CopyLayout &c, const BlockCounts &grid) {
    const bool one_run = c.runs == 1;
    const std::int64_t parts = one_run ? grid.x : std::int64_t{1} << c.part_bits;
    const std::int64_t groups = one_run ? 1 : grid.x >> c.part_bits;
    c.vector_step = parts * c.vectors_per_block;
    c.run_step = groups * c.runs_per_block;
    c.head_step = grid.y * c.heads_per_block;
}

// How many heads a thread of an append in another format converts.
std::int64_t heads_of_thread(float elements) {
    const float heads = std::min(elements / elements_for_one_head, static_cast<float>(most_blocks_yz));
    return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(heads) + 2) / 2); // a power of two
}

// Whether no thread has to go on in steps of the grid, except to other heads.
bool is_covered(const CopyLayout &c, std::int64_t samples, std::int64_t batch_step) {
    return c.vector_step >= c.run_vectors && c.run_step >= c.runs && batch_step >= samples;
}

// Whether all threads of a block that have any head have the same number of heads.
bool goes_in_step(const CopyLayout &c) {
    return c.heads_per_block == 1 || c.head_step >= c.heads || c.heads % c.head_step == 0;
}

bool is_gather(const LayoutInput &input) {
    return input.geometries[0].problem->gathers();
}

unsigned choose_block(const Work &work, bool is_long, bool all_pairs) {
    if (is_long) {
        return long_block_threads_log2;
    }
    const std::int64_t share = work.vectors_per_multiprocessor / blocks_per_multiprocessor / (all_pairs ? 2 : 1);
    const unsigned share_log2 = share > 0 ? bits_for(share + 1) - 1 : 0;
    return std::clamp(share_log2, least_block_threads_log2, block_threads_log2);
}

// Spreads all copies over a grid. A thread converts `heads` heads at one place.
BlockCounts spread_all(const LayoutInput &input, GeometryLayout *const *layouts, unsigned block_log2,
                       std::int64_t heads) {
    const bool gathers = input.formats == nullptr && is_gather(input);
    BlockCounts blocks;
    for (unsigned i = 0; i < input.count; ++i) {
        if (input.rotations != nullptr) {
            std::ranges::fill(input.rotations[i]->first_head_block, UINT32_MAX);
        }
        std::int64_t before = 0; // blocks of the tensors before this one, if they follow each other
        for_each_tensor(input, i, *layouts[i], [&](const TensorLayout &tensor) {
            CopyLayout &c = tensor.layout;
            // A block of a gather loads what is adjacent in the cache. 512 rows of 8 heads, in pages whose rows have
            // all heads, take 30 % fewer cycles than with rows before heads (simulated, Turing).
            BlockCounts own =
                spread(c, block_log2, loads_log2_of(layouts[i]->loop), gathers && c.cache.head < c.cache.row);
            own.y = (own.y - 1) / heads + 1;
            if (tensor.first_head_block != nullptr) {
                own.y = std::min(own.y, most_blocks_yz / rotated_tensors);
                *tensor.first_head_block = static_cast<std::uint32_t>(before);
                before += own.y;
            }
            c.head_step = own.y; // in blocks, until set_steps
            blocks = {std::max(blocks.x, own.x), std::max({blocks.y, own.y, before})};
        });
    }
    for (unsigned i = 0; i < input.count; ++i) {
        for_each_tensor(input, i, *layouts[i], [&](const TensorLayout &tensor) {
            CopyLayout &c = tensor.layout;
            set_steps(c, {blocks.x, input.rotations != nullptr ? c.head_step : blocks.y});
        });
    }
    return blocks;
}

// Says in each layout of a conversion how the grid covers it.
void tell_conversions(const LayoutInput &input, GeometryLayout *const *layouts, std::int64_t batch_step) {
    for (unsigned i = 0; i < input.count; ++i) {
        for_each_tensor(input, i, *layouts[i], [&](const TensorLayout &tensor) {
            if (tensor.format == nullptr) {
                return;
            }
            const bool covered = is_covered(tensor.layout, layouts[i]->samples, batch_step);
            tensor.format->covered = covered ? 1 : 0;
            tensor.format->in_step = covered && goes_in_step(tensor.layout) ? 1 : 0;
        });
    }
}

} // namespace

Grid lay_out(const LayoutInput &input, GeometryLayout *const *layouts) {
    const float elements = input.formats == nullptr ? 0 : elements_per_multiprocessor(input);
    describe_geometries(input, elements < least_long_conversion, layouts);
    const Work work = measure(input, layouts);
    const bool gathers = input.formats == nullptr && is_gather(input);
    const std::int64_t least_long = gathers ? long_gather_vectors : long_vectors;
    // A short call has a grid that covers all of it.
    const bool is_long = work.vectors_per_multiprocessor >= least_long || work.heads > most_blocks_yz ||
                         work.samples > most_blocks_yz / 2 / input.layers;
    bool all_pairs = true;
    Grid grid{};
    for (unsigned i = 0; i < input.count; ++i) {
        GeometryLayout &g = *layouts[i];
        g.loop = choose_loop(input, input.geometries[i], g, is_long);
        all_pairs = all_pairs && g.loop == Loop::pair;
        grid.apart |= g.loop == Loop::pair || input.rotations != nullptr ? 0 : g.both;
    }
    const unsigned block_log2 = choose_block(work, is_long, all_pairs);
    const std::int64_t heads = input.formats != nullptr && !is_gather(input) ? heads_of_thread(elements) : 1;
    const BlockCounts blocks = spread_all(input, layouts, block_log2, heads);
    grid.batch_step =
        static_cast<std::uint32_t>(std::min((most_blocks_yz >> grid.apart) / std::int64_t{input.layers}, work.samples));
    tell_conversions(input, layouts, grid.batch_step);
    grid.x = static_cast<std::uint32_t>(blocks.x);
    grid.y = static_cast<std::uint32_t>(blocks.y);
    grid.z = (input.layers * grid.batch_step) << grid.apart;
    grid.threads = 1U << block_log2;
    return grid;
}

bool fits_in_31_bits(const Problem &problem) {
    const Addressing &a = problem.addressing;
    const auto copy_fits = [&](const Copy &copy) {
        const std::int64_t strides[] = {copy.rows.strides.outer,  copy.rows.strides.head,    copy.rows.strides.row,
                                        copy.cache.strides.outer, copy.cache.strides.head,   copy.cache.strides.row,
                                        copy.cache.piece_stride,  copy.scales.strides.outer, copy.scales.strides.head,
                                        copy.scales.strides.row,  copy.scales.piece_stride};
        return copy.heads() <= most_index && copy.row_bytes() / problem.element_bytes <= most_index &&
               std::ranges::max(strides) <= INT32_MAX;
    };
    const std::int64_t extents[] = {problem.source_samples, problem.new_rows, a.cache_blocks};
    return std::ranges::max(extents) <= most_index && a.cache_rows < most_index && copy_fits(problem.k) &&
           copy_fits(problem.v) && copy_fits(problem.q);
}

bool runs_fit_in_31_bits(const Problem &problem) {
    const auto run_fits = [&](const Copy &copy) {
        return problem.new_rows == 0 || copy.row_bytes() / problem.element_bytes <= most_index / problem.new_rows;
    };
    return fits_in_31_bits(problem) && run_fits(problem.k) && run_fits(problem.v);
}

} // namespace kvappend
