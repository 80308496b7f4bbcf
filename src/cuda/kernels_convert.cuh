// SPDX-License-Identifier: Apache-2.0
// The kernels that store rows in another format, and the parameters of their launches.
#pragma once

#include "convert.cuh"
#include "parameters.cuh"
#include "place_rows.cuh"

namespace kvappend {

inline constexpr unsigned most_converted_layers = 36;

struct ConvertGeometry : GeometryLayout {
    using Layer = ConvertLayer;
    static constexpr bool joins_rows = false;
    static constexpr bool converts = true;

    ConvertLayout formats[2];
    Addressing addressing;
    Indices indices;
};

template <class Index>
__device__ __forceinline__ void convert_geometry(const ConvertGeometry &g, const BlockWork<ConvertLayer> &work) {
    const RowPlacing<Known{}> placing{{g.addressing, g.indices}};
    const ConvertLayout &f = g.formats[work.tensor];
    if (f.is_wide != 0) {
        convert_runs<WideChunk<Index>, Index>(g, f, work, placing);
    } else {
        convert_runs<PairChunk<Index>, Index>(g, f, work, placing);
    }
}

// The number of blocks on a multiprocessor at once (`__launch_bounds__`), with which ptxas spills no register
// (tests/binary/kernels).
constexpr int resident_blocks_of_convert = 5;

template <unsigned Layers>
__global__ void __launch_bounds__(block_threads, resident_blocks_of_convert)
    convert_kernel(const __grid_constant__ Parameters<ConvertGeometry, Layers> p) {
    const unsigned part = blockIdx.z >> p.apart;
    const unsigned layer = Layers == 1 ? 0 : part / p.batch_step;
    const ConvertGeometry &g = p.geometries[Layers == 1 ? 0 : p.geometry_of[layer]];
    const BlockWork<ConvertLayer> work{p.layers[layer], blockIdx.z & p.apart, part - layer * p.batch_step, p.batch_step,
                                       p.programmatic != 0};
    // One of two geometries may have fewer samples, or may have K or V alone.
    if (Layers > 1 && (work.tensor > g.both || work.sample >= g.samples)) {
        return;
    }
    convert_geometry<std::int32_t>(g, work);
}

// The same with 64-bit indices and strides.
__global__ void __launch_bounds__(block_threads, resident_blocks_of_convert)
    convert_wide_kernel(const __grid_constant__ Parameters<ConvertGeometry, 1> p) {
    convert_geometry<std::int64_t>(
        p.geometries[0], {p.layers[0], blockIdx.z & p.apart, blockIdx.z >> p.apart, p.batch_step, p.programmatic != 0});
}

} // namespace kvappend
