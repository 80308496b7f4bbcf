// SPDX-License-Identifier: Apache-2.0
// The kernels that rotate rows of K, and store K and V as they are or in another format.
#pragma once

#include "convert_geometry.cuh"
#include "rotate.cuh"

namespace kvappend {

inline constexpr unsigned most_rotated_layers = 32;

// As resident_blocks_of_convert.
constexpr int resident_blocks_of_rotate = 4;

struct RotateGeometry : ConvertGeometry {
    static constexpr bool rotates = true;
    static constexpr unsigned most_layers = most_rotated_layers;

    Rotation rotation;
    RotaryTables tables;
    std::uint32_t together; // as in Rotator
};

// K is the first tensor: it is not empty if the plan rotates it.
__device__ __forceinline__ Rotator rotator_of(const RotateGeometry &g, const BlockWork<ConvertLayer> &work) {
    return {g.rotation, g.tables, work.tensor == 0, g.together != 0};
}

__device__ __forceinline__ void rotate_geometry(const RotateGeometry &g, const BlockWork<ConvertLayer> &work) {
    const ConvertLayout &f = g.formats[work.tensor];
    const Rotator rotator = rotator_of(g, work);
    const RowPlacing<Known{}> placing{{g.addressing, g.indices}};
    if (f.by_chunks == 0) {
        return convert_runs<PairConversion<std::int32_t, Rotator>, std::int32_t>(g, f, work, placing, rotator);
    }
    with_element_type(
        f.element_type, [&](auto source) __attribute__((always_inline)) {
            using Source = decltype(source);
            constexpr unsigned elements = chunk_bytes * 8 / Source::bits;
            convert_runs<ChunkConversion<Source, AnyStored, elements, Rotator>, std::int32_t>(g, f, work, placing,
                                                                                              rotator);
        });
}

template <unsigned Layers>
__global__ void __launch_bounds__(block_threads, resident_blocks_of_rotate)
    rotate_kernel(const __grid_constant__ Parameters<RotateGeometry, Layers> p) {
    convert_layers(p, rotate_geometry);
}

// The same with 64-bit indices and strides.
__global__ void __launch_bounds__(block_threads, resident_blocks_of_rotate)
    rotate_wide_kernel(const __grid_constant__ Parameters<RotateGeometry, 1> p) {
    const RotateGeometry &g = p.geometries[0];
    const BlockWork<ConvertLayer> work{p.layers[0], blockIdx.z & p.apart, blockIdx.z >> p.apart, p.batch_step,
                                       p.programmatic != 0};
    convert_runs<PairConversion<std::int64_t, Rotator>, std::int64_t>(
        g, g.formats[work.tensor], work, RowPlacing<Known{}>{{g.addressing, g.indices}}, rotator_of(g, work));
}

} // namespace kvappend
