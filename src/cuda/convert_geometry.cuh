// SPDX-License-Identifier: Apache-2.0
// What the layers of a launch that converts rows have in common.
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
    static constexpr bool rotates = false;
    static constexpr unsigned most_layers = most_converted_layers;

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

// The number of blocks on a multiprocessor at once (`__launch_bounds__`), with which ptxas spills no register
// (tests/binary/kernels).
constexpr int resident_blocks_of_convert = 5;

// Calls convert(geometry, work) for what a block of a launch converts.
template <class Geometry, unsigned Layers, class Convert>
__device__ __forceinline__ void convert_layers(const Parameters<Geometry, Layers> &p, Convert convert) {
    const unsigned part = blockIdx.z >> p.apart;
    const unsigned layer = Layers == 1 ? 0 : part / p.batch_step;
    const Geometry &g = p.geometries[Layers == 1 ? 0 : p.geometry_of[layer]];
    const BlockWork<ConvertLayer> work{p.layers[layer], blockIdx.z & p.apart, part - layer * p.batch_step, p.batch_step,
                                       p.programmatic != 0};
    // One of two geometries may have fewer samples, or may have K or V alone.
    if (Layers > 1 && (work.tensor > g.both || work.sample >= g.samples)) {
        return;
    }
    convert(g, work);
}

} // namespace kvappend
