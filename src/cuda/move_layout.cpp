// SPDX-License-Identifier: Apache-2.0
#include "move_layout.hpp"

#include <algorithm>
#include <bit>

namespace kvappend {

namespace {

constexpr std::int64_t most_blocks_x = std::int64_t{1} << 21;
constexpr std::int64_t most_blocks_y = 65535;

// The smallest number of bits with 2^bits >= n, for n >= 1.
unsigned bits_for(std::int64_t n) {
    return static_cast<unsigned>(std::bit_width(static_cast<std::uint64_t>(n) - 1));
}

void describe_tensor(const MovedTensor &tensor, std::uintptr_t address, MoveLayout &m) {
    m.access_log2 = static_cast<std::uint32_t>(std::countr_zero(address | tensor.alignment));
    m.strides = tensor.strides;
    m.row_vectors = tensor.row_bytes >> m.access_log2;
    m.columns = tensor.heads * m.row_vectors;
    m.piece_stride = tensor.piece_stride;
    m.piece_log2 = bits_for(tensor.piece_bytes >> m.access_log2);
    m.together_log2 = tensor.together_log2;
}

} // namespace

Grid lay_out_moves(const GeometryInput *geometries, unsigned count, unsigned layers,
                   MoveGeometryLayout *const *layouts) {
    std::int64_t columns = 1;
    std::int64_t samples = 1;
    std::uint32_t tensors = 1;
    for (unsigned i = 0; i < count; ++i) {
        const Problem &problem = *geometries[i].problem;
        MoveGeometryLayout &g = *layouts[i];
        g.samples = problem.addressing.samples;
        g.tensor_count = 0;
        for (const MovedTensor &tensor : problem.moved.all()) {
            MoveLayout &m = g.tensors[g.tensor_count];
            describe_tensor(tensor, geometries[i].addresses[g.tensor_count++].cache, m);
            columns = std::max(columns, m.columns);
        }
        samples = std::max(samples, g.samples);
        tensors = std::max(tensors, g.tensor_count);
    }
    const unsigned block_log2 = std::clamp(bits_for(columns), least_block_threads_log2, block_threads_log2);
    Grid grid{};
    grid.x = static_cast<std::uint32_t>(std::min(most_blocks_x, ((columns - 1) >> block_log2) + 1));
    grid.y = static_cast<std::uint32_t>(std::min(most_blocks_y, samples));
    grid.z = ((layers - 1) << moved_tensors_log2) + tensors;
    grid.threads = 1U << block_log2;
    return grid;
}

} // namespace kvappend
