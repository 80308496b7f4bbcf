// SPDX-License-Identifier: Apache-2.0
// The kernels that copy bits, of appends or of gathers, and the parameters of their launches.
#pragma once

#include "parameters.cuh"
#include "place_dense.cuh"
#include "place_rows.cuh"

namespace kvappend {

inline constexpr unsigned most_layers = 80;

template <class Way>
struct DenseGeometry : GeometryLayout {
    using Layer = kvappend::Layer;
    static constexpr bool joins_rows = true;
    static constexpr bool converts = false;
    static constexpr bool gathers = Way::gathers;

    Way way;
    DensePlacing placing;
};

template <class Way>
struct RowsGeometry : GeometryLayout {
    using Layer = kvappend::Layer;
    static constexpr bool joins_rows = false;
    static constexpr bool converts = false;
    static constexpr bool gathers = Way::gathers;

    Way way;
    RuleKind rule;
    Addressing addressing;
    Indices indices;
};

template <class Way>
__device__ __forceinline__ void copy_geometry(const DenseGeometry<Way> &g, BlockWork<Layer> &work,
                                              unsigned own_tensor) {
    copy_by_loop<true>(g, work, own_tensor, g.way, g.placing);
}

template <RuleKind Rule, class Way>
__device__ __forceinline__ void copy_by_rule(const RowsGeometry<Way> &g, BlockWork<Layer> &work, unsigned own_tensor) {
    constexpr Known facts = known_of(Rule);
    copy_by_loop<Rule == RuleKind::any>(g, work, own_tensor, g.way, RowPlacing<facts>{{g.addressing, g.indices}});
}

template <class Way>
__device__ __forceinline__ void copy_geometry(const RowsGeometry<Way> &g, BlockWork<Layer> &work, unsigned own_tensor) {
    switch (g.rule) {
    case RuleKind::pages:
        return copy_by_rule<RuleKind::pages>(g, work, own_tensor);
    case RuleKind::slots:
        return copy_by_rule<RuleKind::slots>(g, work, own_tensor);
    case RuleKind::tokens:
        return copy_by_rule<RuleKind::tokens>(g, work, own_tensor);
    case RuleKind::ends:
        return copy_by_rule<RuleKind::ends>(g, work, own_tensor);
    default:
        return copy_by_rule<RuleKind::any>(g, work, own_tensor);
    }
}

// Copies the rows of all layers of a launch, with 31-bit indices.
template <class Geometry, unsigned Layers>
__device__ __forceinline__ void copy_layers(const Parameters<Geometry, Layers> &p) {
    const unsigned part = blockIdx.z >> p.apart;
    const unsigned layer = Layers == 1 ? 0 : part / p.batch_step;
    const Geometry &g = p.geometries[Layers == 1 ? 0 : p.geometry_of[layer]];
    const unsigned own_tensor = blockIdx.z & p.apart;
    BlockWork<Layer> work{p.layers[layer], 0, part - layer * p.batch_step, p.batch_step, p.programmatic != 0};
    if constexpr (Layers > 1) {
        // One of two geometries may have fewer samples, may have K or V alone, or may copy K and V by the same blocks.
        const unsigned last_tensor = g.loop == Loop::pair ? 0 : g.both;
        if (own_tensor > last_tensor || work.sample >= g.samples) {
            return;
        }
    }
    copy_geometry(g, work, own_tensor);
}

// The number of blocks on a multiprocessor at once (`__launch_bounds__`). It bounds the registers of a thread, with
// which ptxas spills none (tests/binary/kernels). The pointer to a layer takes two more registers, and a gather holds
// both ends of a spot while it loads.
template <class Geometry, unsigned Layers>
constexpr int resident_blocks = Layers == 1 && !Geometry::gathers ? 8 : 7;

// 64-bit indices, and those that the rule loads, take more registers than eight blocks leave.
constexpr int resident_blocks_of_wide = 7;

template <class Geometry, unsigned Layers>
__global__ void __launch_bounds__(block_threads, resident_blocks<Geometry, Layers>)
    copy_kernel(const __grid_constant__ Parameters<Geometry, Layers> p) {
    copy_layers(p);
}

// The rule of all addressings takes more registers than eight blocks leave.
template <class Way, RuleKind Rule>
constexpr int resident_blocks_of_rule = Rule == RuleKind::any ? 7 : resident_blocks<RowsGeometry<Way>, 1>;

// The same for one layer, with a kernel for each rule. A kernel with less code misses the instruction cache less often.
template <class Way, RuleKind Rule>
__global__ void __launch_bounds__(block_threads, (resident_blocks_of_rule<Way, Rule>))
    copy_rule_kernel(const __grid_constant__ Parameters<RowsGeometry<Way>, 1> p) {
    BlockWork<Layer> work{p.layers[0], 0, blockIdx.z >> p.apart, p.batch_step, p.programmatic != 0};
    copy_by_rule<Rule>(p.geometries[0], work, blockIdx.z & p.apart);
}

// The same with 64-bit indices and strides. It is a separate kernel, because an address from 31-bit indices takes a
// fraction of the instructions.
template <class Way>
__global__ void __launch_bounds__(block_threads, resident_blocks_of_wide)
    copy_wide_kernel(const __grid_constant__ Parameters<RowsGeometry<Way>, 1> p) {
    const RowsGeometry<Way> &g = p.geometries[0];
    const BlockWork<Layer> work{p.layers[0], blockIdx.z & p.apart, blockIdx.z >> p.apart, p.batch_step,
                                p.programmatic != 0};
    copy_runs<1, loads_in_flight, AnyAccess, std::int64_t>(g, work, g.way,
                                                           RowPlacing<known_any>{{g.addressing, g.indices}});
}

} // namespace kvappend
