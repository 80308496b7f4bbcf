// SPDX-License-Identifier: Apache-2.0
// The kernels that store rows in another format, and the parameters of their launches.
#pragma once

#include "convert_chunks.cuh"
#include "convert_pairs.cuh"
#include "parameters.cuh"
#include "place_rows.cuh"

namespace kvappend {

inline constexpr unsigned most_converted_layers = 36;

struct ConvertGeometry : GeometryLayout {
    using Layer = ConvertLayer;
    static constexpr bool joins_rows = false;
    static constexpr bool converts = true;

    ConvertLayout formats[2];
    RuleKind rule;
    Addressing addressing;
    Indices indices;
};

// The placings for which the rule is compiled separately, as one placing, so that what follows it is compiled once. The
// only index that they load before a place is an offset or a slot.
class ChosenPlacing {
public:
    __device__ __forceinline__ explicit ChosenPlacing(const ConvertGeometry &g) : g_(g) {}

private:
    template <class Use>
    __device__ __forceinline__ auto with_placing(Use use) const {
        switch (g_.rule) {
        case RuleKind::pages:
            return use(RowPlacing<known_pages>{{g_.addressing, g_.indices}});
        case RuleKind::slots:
            return use(RowPlacing<known_slots>{{g_.addressing, g_.indices}});
        default:
            return use(RowPlacing<known_dense>{{g_.addressing, g_.indices}});
        }
    }

    const ConvertGeometry &g_;

public:
    __device__ __forceinline__ DeviceLoad::Number load(std::int32_t sample, std::int32_t run) const {
        return with_placing([&](auto placing) { return placing.load(sample, run).number; });
    }
    __device__ __forceinline__ Spot<std::int32_t> spot(const CopyLayout &c, std::int32_t sample, std::int32_t run,
                                                       DeviceLoad::Number number) const {
        Loaded<DeviceLoad> loaded{};
        loaded.sample = sample;
        loaded.number = number;
        return with_placing([&](auto placing) { return placing.spot(c, sample, run, loaded); });
    }
};

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
    with_source_type(
        f.element_type, [&](auto source) __attribute__((always_inline)) {
            constexpr unsigned elements = chunk_bytes * 8 / decltype(source)::bits;
            convert_runs<ChunkConversion<decltype(source), AnyStored, elements>, std::int32_t>(g, f, work, any);
        });
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
