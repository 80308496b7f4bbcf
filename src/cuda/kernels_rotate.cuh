// SPDX-License-Identifier: Apache-2.0
// The kernels that rotate rows of K and of Q, and store them and those of V as they are or in another format.
#pragma once

#include "convert_geometry.cuh"
#include "rotate_twins.cuh"

namespace kvappend {

inline constexpr unsigned most_rotated_layers = 32;

// As resident_blocks_of_convert.
constexpr int resident_blocks_of_rotate = 4;

struct RotateGeometry : ConvertGeometry {
    static constexpr bool rotates = true;
    static constexpr unsigned most_layers = most_rotated_layers;

    RotateLayout rotate;
    Rotation rotation;
    RotaryTables tables;
    std::uint32_t together; // as in Rotator
};

// The pointers of a layer with Q.
struct QueryLayer : ConvertLayer {
    std::byte *q; // which is only read, unless it is q_out
    std::byte *q_out;
    std::byte *q_scales;
};

// The geometry of a launch for one call, which may have Q.
struct QueryGeometry : RotateGeometry {
    using Layer = QueryLayer;

    QueryLayout query;
    std::int64_t query_first; // the first element of Q that is rotated
};

// ---- the tensor of a block ----

__device__ __forceinline__ ConvertPointers pointers_of(const BlockWork<QueryLayer> &work) {
    if (work.tensor == query_tensor) {
        return {work.layer.q, work.layer.q_out, work.layer.q_scales, nullptr};
    }
    return pointers_of<QueryLayer>(work);
}
__device__ __forceinline__ const CopyLayout &copy_of(const QueryGeometry &g, const BlockWork<QueryLayer> &work) {
    return work.tensor == query_tensor ? g.query.copy : g.copies[work.tensor];
}
__device__ __forceinline__ const ConvertLayout &format_of(const QueryGeometry &g, const BlockWork<QueryLayer> &work) {
    return work.tensor == query_tensor ? g.query.format : g.formats[work.tensor];
}
__device__ __forceinline__ const ConvertLayout &format_of(const RotateGeometry &g,
                                                          const BlockWork<ConvertLayer> &work) {
    return g.formats[work.tensor];
}
template <class Layer>
__device__ __forceinline__ unsigned head_block_of(const RotateGeometry &g, const BlockWork<Layer> &work) {
    return blockIdx.y - g.rotate.first_head_block[work.tensor];
}

__device__ __forceinline__ unsigned tensor_of_block(const RotateGeometry &g) {
    return blockIdx.y >= g.rotate.first_head_block[query_tensor] ? query_tensor
           : blockIdx.y >= g.rotate.first_head_block[1]          ? 1
                                                                 : 0;
}

// K is the first tensor: it is not empty if the plan rotates it.
__device__ __forceinline__ Rotator rotator_of(const RotateGeometry &g, const BlockWork<ConvertLayer> &work) {
    return {g.rotation, g.tables, g.rotation.first, work.tensor == 0, g.together != 0};
}
__device__ __forceinline__ Rotator rotator_of(const QueryGeometry &g, const BlockWork<QueryLayer> &work) {
    const bool is_query = work.tensor == query_tensor;
    return {g.rotation, g.tables, is_query ? g.query_first : g.rotation.first, work.tensor != 1, g.together != 0};
}

// ---- places ----

KVAPPEND_HOST_DEVICE constexpr Known rotating(Known known) {
    known.never_rotates = false;
    return known;
}

// The places of rows of K and V in the cache, or of rows of Q in q_out. As in ChosenPlacing, what follows the rule is
// compiled once. Only an offset or a slot is loaded before a place, so an addressing of which nothing is known loads
// its indices later.
class RotatePlacing {
public:
    __device__ __forceinline__ RotatePlacing(const RotateGeometry &g, bool is_query) : g_(g), is_query_(is_query) {}

private:
    using AnyRule = Rule<>;

    template <class Use>
    __device__ __forceinline__ auto with_rule(Use use) const {
        switch (g_.rule) {
        case RuleKind::pages:
            return use(Rule<rotating(known_pages)>{g_.addressing, g_.indices});
        case RuleKind::slots:
            return use(Rule<rotating(known_slots)>{g_.addressing, g_.indices});
        case RuleKind::dense:
            return use(Rule<rotating(known_dense)>{g_.addressing, g_.indices});
        default:
            return use(AnyRule{g_.addressing, g_.indices});
        }
    }

    const RotateGeometry &g_;
    const bool is_query_;

public:
    template <class Index>
    __device__ __forceinline__ DeviceLoad::Number load(Index sample, Index run) const {
        return with_rule([&](auto rule) __attribute__((always_inline))->DeviceLoad::Number {
            if constexpr (std::is_same_v<decltype(rule), AnyRule>) {
                return {};
            } else {
                return load_row(rule, sample, run, DeviceLoad{}).number;
            }
        });
    }

    template <class Index>
    __device__ __forceinline__ Spot<Index> spot(const CopyLayout &c, Index sample, Index run,
                                                DeviceLoad::Number number) const {
        const RotatedPlace place = with_rule([&](auto rule) __attribute__((always_inline))->RotatedPlace {
            if constexpr (std::is_same_v<decltype(rule), AnyRule>) {
                return place_of(rule, sample, run, DeviceLoad{});
            } else {
                Loaded<DeviceLoad> loaded{};
                loaded.sample = sample;
                loaded.number = number;
                return place_of(rule, sample, run, loaded, DeviceLoad{});
            }
        });
        const auto vectors = static_cast<Index>(c.run_vectors);
        if (is_query_) {
            return {sample, run, place.rotation, 0, place.rotated ? vectors : Index{0}};
        }
        return {static_cast<Index>(place.block), place.row, place.rotation, 0, place.placed() ? vectors : Index{0}};
    }
};

// ---- kernels ----

// All tensors have twins, with elements of the type Source.
template <class Source, class Geometry, class Layer>
__device__ __forceinline__ void rotate_known(const Geometry &g, const BlockWork<Layer> &work) {
    convert_runs<TwinConversion<Source>, std::int32_t>(
        g, format_of(g, work), work, RotatePlacing(g, work.tensor == query_tensor), rotator_of(g, work));
}

template <class Geometry, class Layer>
__device__ __forceinline__ void rotate_any(const Geometry &g, const BlockWork<Layer> &work) {
    const ConvertLayout &f = format_of(g, work);
    const Rotator rotator = rotator_of(g, work);
    const RotatePlacing placing(g, work.tensor == query_tensor);
    if constexpr (std::is_same_v<Layer, QueryLayer>) {
        if (g.rotate.twin_elements[work.tensor] == 1) {
            return convert_runs<ElementTwins<std::int32_t>, std::int32_t>(g, f, work, placing, rotator);
        }
    }
    if (g.rotate.twin_elements[work.tensor] == 0 && f.by_chunks == 0) {
        return convert_runs<PairConversion<std::int32_t, Rotator>, std::int32_t>(g, f, work, placing, rotator);
    }
    with_element_type(
        f.element_type, [&](auto source) __attribute__((always_inline)) {
            using Source = decltype(source);
            constexpr unsigned elements = chunk_bytes * 8 / Source::bits;
            if constexpr (std::is_same_v<Layer, QueryLayer>) {
                if (g.rotate.twin_elements[work.tensor] > 1) {
                    return convert_runs<TwinConversion<Source>, std::int32_t>(g, f, work, placing, rotator);
                }
            }
            convert_runs<ChunkConversion<Source, AnyStored, elements, Rotator>, std::int32_t>(g, f, work, placing,
                                                                                              rotator);
        });
}

// Calls rotate(geometry, work) for what a block of a launch rotates.
template <class Geometry, unsigned Layers, class Rotate>
__device__ __forceinline__ void rotate_layers(const Parameters<Geometry, Layers> &p, Rotate rotate) {
    const unsigned layer = Layers == 1 ? 0 : blockIdx.z / p.batch_step;
    const Geometry &g = p.geometries[Layers == 1 ? 0 : p.geometry_of[layer]];
    const BlockWork<typename Geometry::Layer> work{
        p.layers[layer], tensor_of_block(g), blockIdx.z - layer * p.batch_step, p.batch_step, p.programmatic != 0};
    // One of two geometries may have fewer samples, or fewer blocks for heads.
    const CopyLayout &c = copy_of(g, work);
    if (Layers > 1 &&
        (work.sample >= g.samples || std::int64_t{head_block_of(g, work)} * c.heads_per_block >= c.head_step)) {
        return;
    }
    rotate(g, work);
}

template <class Source, class Geometry, unsigned Layers>
__global__ void __launch_bounds__(block_threads, resident_blocks_of_rotate)
    rotate_known_kernel(const __grid_constant__ Parameters<Geometry, Layers> p) {
    rotate_layers(p, rotate_known<Source, Geometry, typename Geometry::Layer>);
}

template <class Geometry, unsigned Layers>
__global__ void __launch_bounds__(block_threads, resident_blocks_of_rotate)
    rotate_kernel(const __grid_constant__ Parameters<Geometry, Layers> p) {
    rotate_layers(p, rotate_any<Geometry, typename Geometry::Layer>);
}

// The same with 64-bit indices and strides.
__global__ void __launch_bounds__(block_threads, resident_blocks_of_rotate)
    rotate_wide_kernel(const __grid_constant__ Parameters<QueryGeometry, 1> p) {
    rotate_layers(
        p, [](const QueryGeometry &g, const BlockWork<QueryLayer> &work) __attribute__((always_inline)) {
            const ConvertLayout &f = format_of(g, work);
            const Rotator rotator = rotator_of(g, work);
            const RotatePlacing placing(g, work.tensor == query_tensor);
            if (work.tensor == query_tensor) {
                convert_runs<ElementTwins<std::int64_t>, std::int64_t>(g, f, work, placing, rotator);
            } else {
                convert_runs<PairConversion<std::int64_t, Rotator>, std::int64_t>(g, f, work, placing, rotator);
            }
        });
}

} // namespace kvappend
