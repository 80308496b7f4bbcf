// SPDX-License-Identifier: Apache-2.0
// How a copy is spread over the blocks and threads of a grid: plain C++, which needs no CUDA.
//
// A run is what is copied in one piece: one row, or all new rows of a (sample, head) if they are adjacent and placed
// one after the other. The grid's z axis counts the samples of each layer, and also K and V if each block copies one of
// them. The y axis counts groups of heads. The x axis counts groups of runs and the parts of a run. Within a block,
// bits of the thread's index give the head, the run and the vector, so no thread divides. If the grid is smaller than
// the work, each thread goes on in steps of the grid.
#pragma once

#include "../problem.hpp"

#include <bit>
#include <cstdint>

namespace kvappend {

// A power of two, so that the number of parts of a run divides it. If the work needs more blocks, threads go on in
// steps of the grid. With this limit, a 31-bit index holds the first vector of a block.
inline constexpr std::int64_t most_blocks_x = std::int64_t{1} << 21;
inline constexpr std::int64_t most_blocks_yz = 65535;

inline constexpr unsigned block_threads_log2 = 7;
inline constexpr unsigned least_block_threads_log2 = 5;
inline constexpr unsigned block_threads = 1U << block_threads_log2;
// The block size of a short call is chosen to give each multiprocessor this number of blocks, so that the call uses all
// multiprocessors.
inline constexpr std::int64_t blocks_per_multiprocessor = 4;
inline constexpr unsigned warp_lanes_log2 = 5;
inline constexpr unsigned warp_lanes = 1U << warp_lanes_log2;
inline constexpr unsigned all_lanes = 0xffffffff;
// Loads that a thread has in flight before it stores, in a long call.
inline constexpr unsigned loads_in_flight_log2 = 2;
inline constexpr int loads_in_flight = 1 << loads_in_flight_log2;
inline constexpr unsigned widest_access_log2 = 4;

// The least bits with 2^bits >= n, for n >= 1.
constexpr unsigned bits_for(std::int64_t n) {
    return static_cast<unsigned>(std::bit_width(static_cast<std::uint64_t>(n) - 1));
}

// The copy of K, or that of V. "Vectors" are units of 1 << access_log2 bytes. The fields that every thread of a
// decoding step reads come first.
struct CopyLayout {
    // How block indices, and the bits of a thread's index, become the vector, the run and the head where it starts.
    std::uint32_t lane_mask, run_mask;
    std::uint32_t run_shift, head_shift;
    std::uint32_t part_mask, part_bits; // of a block's x index
    std::uint32_t vectors_per_block, runs_per_block, heads_per_block;
    std::uint32_t joined_rows; // 1 if a run is more than one row
    std::uint32_t access_log2;
    std::int64_t run_vectors;
    std::int64_t runs; // of a head
    std::int64_t heads;
    Strides rows;  // of the new rows
    Strides cache; // of the cache
    std::int64_t row_vectors;
    // The steps of a thread when the grid is smaller than the work, and the step between its vectors in flight.
    std::int64_t vector_step, run_step, head_step;
    std::int64_t vector_stride;
    // A row of the cache lies in pieces of 1 << piece_log2 vectors. If the row is whole, a piece is at least a
    // run.
    std::int64_t piece_stride;
    std::uint32_t piece_log2;
};

// Which loop a kernel runs for a geometry.
enum class Loop : std::uint32_t {
    pair,   // short call: a thread copies one vector of 16 bytes of K and the same one of V
    single, // short call: one vector of 16 bytes of K or of V
    deep,   // long call: loads_in_flight vectors of 16 bytes
    any,    // accesses of any width, rows in pieces
    convert // a thread converts one chunk, or its part of a unit: see ConvertLayout
};

// The addressings for which the rule is compiled separately, in kernels of their own for calls of one layer. In a
// decoding step pages and slots are 12 to 16 % faster than `any`, which serves all addressings (simulated, 8 samples).
// Tokens and ends are 10 to 22 % faster, and one kernel for each rule another 5 % (H200, 1 to 4096 rows).
enum class RuleKind : std::uint32_t {
    pages,  // PAGED, plain samples, pages of a power of two
    slots,  // SLOTS, no count, pages of a power of two
    tokens, // PAGED_CSR, plain tokens, pages of a power of two
    ends,   // PAGED_CSR, plain ends, pages of a power of two
    any,
    dense // DENSE, plain samples
};

inline RuleKind rule_kind_of(const Addressing &a) {
    if (a.plain_dense()) {
        return RuleKind::dense;
    }
    if (a.period_log2 < 0) {
        return RuleKind::any;
    }
    const bool narrow_table = a.table_stride <= INT32_MAX && a.table_entries <= INT32_MAX && a.wide_indices == 0 &&
                              a.reserved_page == static_cast<std::int32_t>(a.reserved_page);
    if (narrow_table && a.plain_tokens()) {
        return RuleKind::tokens;
    }
    if (narrow_table && a.plain_ends()) {
        return RuleKind::ends;
    }
    if (!a.plain_samples()) {
        return RuleKind::any;
    }
    if (a.kind == KVAPPEND_ADDRESSING_PAGED && narrow_table) {
        return RuleKind::pages;
    }
    return a.kind == KVAPPEND_ADDRESSING_SLOTS ? RuleKind::slots : RuleKind::any;
}

// The same for conversions, which know only rules whose places need one index before a page table: an offset or a slot.
inline RuleKind conversion_rule_of(const Addressing &a) {
    const RuleKind rule = rule_kind_of(a);
    return rule == RuleKind::tokens || rule == RuleKind::ends ? RuleKind::any : rule;
}

// The types of codes for which conversions are compiled separately, from elements of each type. F16 and BF16 are so for
// elements of F32 alone.
enum class Types : std::uint32_t {
    any,
    e4m3,
    int8,
    e2m1,
    f16,
    bf16
};

// The bytes of a chunk of elements: of any type, or of a known type in a short call; and of a known type in a long
// call. Measured on an H200 with bf16 stored as E4M3, INT8 and E2M1 (bench/cuda): with 16 bytes instead of 8, decode of
// 64 samples takes 9 to 11 % less time; with 32 instead of 16, a prompt of 4096 rows takes 16 to 20 % less. With 64
// bytes of f32, Q8_0 takes 1.7 times as long.
inline constexpr int chunk_bytes = 16;
inline constexpr int long_chunk_bytes = 32;

// What the kernels know of the scales of rows before they know their places.
enum class ScalesKind : std::uint32_t {
    none,
    plain, // GIVEN, binary32 without a global scale, and independent of the place
    any
};

// How the rows of a tensor are converted. A chunk is what a thread converts at once: adjacent elements if they
// can be loaded and stored together, or a pair of elements. A unit is what a team of threads converts together:
// a group if its threads have to find the scale or the elements of a byte lie apart, else a chunk. The team's threads
// are neighbours in a warp, and each takes every 2^team_log2-th chunk of the unit. In a CopyLayout for conversions, a
// vector is the part of one thread: each unit has 2^team_log2 of them.
struct ConvertLayout {
    Format format;
    std::int32_t element_type;
    // `any` for gathers, and with a rotation. Unless they are `any`, each thread of a team has one chunk of its unit,
    // of chunk_bytes or long_chunk_bytes, and the addressing is of a known RuleKind. All formats of a launch are `any`,
    // or none is.
    Types types;
    ScalesKind scales_kind;
    std::uint8_t by_chunks; // 1: chunks; 0: pairs
    std::uint8_t is_short;  // 1: known types have chunks of chunk_bytes
    std::uint8_t covered;   // 1: no thread has to go on in steps of the grid, except to other heads
    // 1: the threads of a warp that convert anything convert the same number of parts
    std::uint8_t in_step;
    std::uint8_t in_pieces; // 1: a row is more than one piece
    std::uint8_t zeroes;    // 1: a gather sets rows without a place to zero
    std::uint8_t scale_bytes;
    std::uint32_t team_log2;
    std::uint32_t element_bytes;
    std::uint32_t code_bits;
    std::uint32_t access_log2; // of stores of chunks
    std::uint32_t pack_log2;   // of the elements of a piece; if the row is whole, a piece is at least a row
    std::int64_t dim;          // elements of a row
    std::int64_t unit;         // elements of a unit
    std::int64_t piece_stride;
    Strides scales;
    std::int64_t group_stride;
};

// The tensors of a launch that rotates rows: K, V and Q.
inline constexpr unsigned query_tensor = 2;
inline constexpr unsigned rotated_tensors = 3;

// How a launch that rotates rows is spread.
//
// A part of a row may be two chunks, which are called twins. With HALF, the elements of one form pairs with those of
// the other. With INTERLEAVED, the two are adjacent. Chunks that are not rotated are twins, too. A thread reads both
// elements of each pair before it stores one of them, so Q may be rotated in place.
struct RotateLayout {
    // The elements of each of two twins; 1: any tensor; 0: a thread has the parts of a ConvertLayout instead.
    std::uint32_t twin_elements[rotated_tensors];
    // The first block of each tensor on the grid's y axis. K, V and Q have consecutive blocks there, so that each has
    // only those that its heads need. A tensor that does not exist has UINT32_MAX.
    std::uint32_t first_head_block[rotated_tensors];
};

struct QueryLayout {
    CopyLayout copy;
    ConvertLayout format;
};

// What all or some of the layers of a call have in common.
struct GeometryLayout {
    CopyLayout copies[2]; // the second one only where both K and V are copied
    std::uint32_t both;   // 1 if both are copied, else 0
    Loop loop;
    std::int64_t samples; // of the source
};

// The addresses of the new rows and of the cache, combined by OR over the layers of a geometry.
struct Addresses {
    std::uintptr_t rows;
    std::uintptr_t cache;
};

// What is known of a geometry before its layout.
struct GeometryInput {
    const Problem *problem;
    Addresses addresses[MovedTensors::most]; // of K, V and Q; of a move, those of its tensors, as `cache`
    unsigned layers;
};

struct Grid {
    std::uint32_t x;
    std::uint32_t y;
    std::uint32_t z;
    std::uint32_t threads;
    // z counts batch_step samples for each layer. It counts K and V separately if `apart` is 1.
    std::uint32_t batch_step;
    std::uint32_t apart;
};

struct LayoutInput {
    const GeometryInput *geometries;
    unsigned count;
    unsigned layers; // of all geometries
    std::int32_t multiprocessors;
    bool join_rows; // the kernel places adjacent rows as one run
    bool wide;      // the kernel has 64-bit indices, and no loop but `any`
    // NULL unless the kernel converts; then formats[i] points to the layouts of K and V, or of one of them, of geometry
    // i, and lay_out fills them.
    ConvertLayout *const *formats = nullptr;
    // NULL unless the kernel rotates rows; lay_out fills them. Only a launch of one geometry may have Q.
    RotateLayout *const *rotations = nullptr;
    QueryLayout *query = nullptr;
};

// Fills *layouts[i], which is zero, for each geometry, and returns the grid for all of them.
Grid lay_out(const LayoutInput &input, GeometryLayout *const *layouts);

// Whether a kernel with 31-bit indices serves the problem. A dense kernel joins rows to runs, whose lengths must fit,
// too (runs_fit_in_31_bits).
bool fits_in_31_bits(const Problem &problem);
bool runs_fit_in_31_bits(const Problem &problem);

} // namespace kvappend
