// SPDX-License-Identifier: Apache-2.0
// The kernels that store rows in another format.
#pragma once

#include "convert_chunks.cuh"
#include "convert_geometry.cuh"
#include "convert_pairs.cuh"

namespace kvappend {

__device__ __forceinline__ void convert_geometry(const ConvertGeometry &g, const BlockWork<ConvertLayer> &work) {
    const ConvertLayout &f = g.formats[work.tensor];
    const auto known = [&](auto source, auto stored) __attribute__((always_inline)) {
        using Source = decltype(source);
        using Stored = decltype(stored);
        if (f.is_short != 0) {
            convert_runs<ChunkConversion<Source, Stored, short_chunk>, std::int32_t>(g, f, work, ChosenPlacing(g));
        } else {
            convert_runs<ChunkConversion<Source, Stored, long_chunk>, std::int32_t>(g, f, work, ChosenPlacing(g));
        }
    };
    switch (f.types) {
    case Types::bf16_e4m3:
        return known(BF16{}, E4M3{});
    case Types::bf16_int8:
        return known(BF16{}, Int8{});
    case Types::bf16_e2m1:
        return known(BF16{}, E2M1{});
    case Types::f16_e4m3:
        return known(F16{}, E4M3{});
    case Types::f16_int8:
        return known(F16{}, Int8{});
    case Types::f16_e2m1:
        return known(F16{}, E2M1{});
    case Types::f32_f16:
        return known(F32{}, F16{});
    case Types::f32_bf16:
        return known(F32{}, BF16{});
    case Types::f32_e4m3:
        return known(F32{}, E4M3{});
    case Types::f32_int8:
        return known(F32{}, Int8{});
    case Types::f32_int8_away:
        return known(F32{}, Int8Away{});
    case Types::f32_e2m1:
        return known(F32{}, E2M1{});
    case Types::any:
        break;
    }
    const RowPlacing<Known{}> any{{g.addressing, g.indices}};
    if (f.by_chunks == 0) {
        return convert_runs<PairConversion<std::int32_t>, std::int32_t>(g, f, work, any);
    }
    with_element_type(
        f.element_type, [&](auto source) __attribute__((always_inline)) {
            constexpr unsigned elements = chunk_bytes * 8 / decltype(source)::bits;
            convert_runs<ChunkConversion<decltype(source), AnyStored, elements>, std::int32_t>(g, f, work, any);
        });
}

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
    convert_geometry(g, work);
}

// The same with 64-bit indices and strides.
__global__ void __launch_bounds__(block_threads, resident_blocks_of_convert)
    convert_wide_kernel(const __grid_constant__ Parameters<ConvertGeometry, 1> p) {
    const ConvertGeometry &g = p.geometries[0];
    const BlockWork<ConvertLayer> work{p.layers[0], blockIdx.z & p.apart, blockIdx.z >> p.apart, p.batch_step,
                                       p.programmatic != 0};
    convert_runs<PairConversion<std::int64_t>, std::int64_t>(g, g.formats[work.tensor], work,
                                                             RowPlacing<Known{}>{{g.addressing, g.indices}});
}

} // namespace kvappend
