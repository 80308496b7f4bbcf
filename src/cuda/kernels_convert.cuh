// SPDX-License-Identifier: Apache-2.0
// The kernels that store rows in another format.
#pragma once

#include "convert_chunks.cuh"
#include "convert_geometry.cuh"
#include "convert_pairs.cuh"

namespace kvappend {

// Rows of elements of a type, which are stored in a type that is known, too.
template <class Source>
__device__ __forceinline__ void convert_known(const ConvertGeometry &g, const BlockWork<ConvertLayer> &work) {
    const ConvertLayout &f = g.formats[work.tensor];
    const auto to = [&](auto stored) __attribute__((always_inline)) {
        using Stored = decltype(stored);
        constexpr unsigned elements = chunk_bytes * 8 / Source::bits;
        constexpr unsigned more_elements = long_chunk_bytes * 8 / Source::bits;
        if (f.is_short != 0) {
            convert_runs<ChunkConversion<Source, Stored, elements>, std::int32_t>(g, f, work, ChosenPlacing(g));
        } else {
            convert_runs<ChunkConversion<Source, Stored, more_elements>, std::int32_t>(g, f, work, ChosenPlacing(g));
        }
    };
    switch (f.types) {
    case Types::e4m3:
        return to(E4M3{});
    case Types::int8:
        return to(Int8{});
    case Types::e2m1:
        return to(E2M1{});
    default:
        break;
    }
    if constexpr (Source::bits == 32) {
        if (f.types == Types::f16) {
            to(F16{});
        } else {
            to(BF16{});
        }
    }
}

__device__ __forceinline__ void convert_any(const ConvertGeometry &g, const BlockWork<ConvertLayer> &work) {
    const ConvertLayout &f = g.formats[work.tensor];
    const RowPlacing<known_any> any{{g.addressing, g.indices}};
    if (f.by_chunks == 0) {
        return convert_runs<PairConversion<std::int32_t>, std::int32_t>(g, f, work, any);
    }
    with_element_type(
        f.element_type, [&](auto source) __attribute__((always_inline)) {
            constexpr unsigned elements = chunk_bytes * 8 / decltype(source)::bits;
            convert_runs<ChunkConversion<decltype(source), AnyStored, elements>, std::int32_t>(g, f, work, any);
        });
}

// Those of f32 convert half as many elements at once, and need fewer registers. With 8 blocks instead of 5 on a
// multiprocessor, Q8_0 takes 29 % less time for a prompt of 4096 rows (H200, bench/cuda).
template <class Source, unsigned Layers>
constexpr int resident_blocks_of_known = Source::bits == 32 ? (Layers == 1 ? 8 : 7) : 5;

template <class Source, unsigned Layers>
__global__ void __launch_bounds__(block_threads, (resident_blocks_of_known<Source, Layers>))
    convert_known_kernel(const __grid_constant__ Parameters<ConvertGeometry, Layers> p) {
    convert_layers(p, convert_known<Source>);
}

// Rows of any types.
template <unsigned Layers>
__global__ void __launch_bounds__(block_threads, resident_blocks_of_convert)
    convert_kernel(const __grid_constant__ Parameters<ConvertGeometry, Layers> p) {
    convert_layers(p, convert_any);
}

// The same with 64-bit indices and strides.
__global__ void __launch_bounds__(block_threads, resident_blocks_of_convert)
    convert_wide_kernel(const __grid_constant__ Parameters<ConvertGeometry, 1> p) {
    const ConvertGeometry &g = p.geometries[0];
    const BlockWork<ConvertLayer> work{p.layers[0], blockIdx.z & p.apart, blockIdx.z >> p.apart, p.batch_step,
                                       p.programmatic != 0};
    convert_runs<PairConversion<std::int64_t>, std::int64_t>(g, g.formats[work.tensor], work,
                                                             RowPlacing<known_any>{{g.addressing, g.indices}});
}

} // namespace kvappend
