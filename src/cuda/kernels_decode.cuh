// SPDX-License-Identifier: Apache-2.0
// The kernels that read rows in another format.
#pragma once

#include "convert_geometry.cuh"
#include "decode.cuh"

namespace kvappend {

struct DecodeGeometry : ConvertGeometry {};

__device__ __forceinline__ void decode_geometry(const DecodeGeometry &g, const BlockWork<ConvertLayer> &work) {
    const ConvertLayout &f = g.formats[work.tensor];
    const RowPlacing<known_any> any{{g.addressing, g.indices}};
    if (f.by_chunks == 0) {
        return convert_runs<PairDecoding<std::int32_t>, std::int32_t>(g, f, work, any);
    }
    with_element_type(
        f.element_type, [&](auto element) __attribute__((always_inline)) {
            using Decoding = ChunkDecoding<decltype(element)>;
            if (g.rule != RuleKind::any) {
                convert_runs<Decoding, std::int32_t>(g, f, work, ChosenPlacing(g));
            } else {
                convert_runs<Decoding, std::int32_t>(g, f, work, any);
            }
        });
}

template <unsigned Layers>
__global__ void __launch_bounds__(block_threads, resident_blocks_of_convert)
    decode_kernel(const __grid_constant__ Parameters<DecodeGeometry, Layers> p) {
    convert_layers(p, decode_geometry);
}

// The same with 64-bit indices and strides.
__global__ void __launch_bounds__(block_threads, resident_blocks_of_convert)
    decode_wide_kernel(const __grid_constant__ Parameters<DecodeGeometry, 1> p) {
    const DecodeGeometry &g = p.geometries[0];
    const BlockWork<ConvertLayer> work{p.layers[0], blockIdx.z & p.apart, blockIdx.z >> p.apart, p.batch_step,
                                       p.programmatic != 0};
    convert_runs<PairDecoding<std::int64_t>, std::int64_t>(g, g.formats[work.tensor], work,
                                                           RowPlacing<known_any>{{g.addressing, g.indices}});
}

} // namespace kvappend
