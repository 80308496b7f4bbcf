// SPDX-License-Identifier: Apache-2.0
// The launches of the kernels that convert rows, of appends or of gathers, or that rotate them.
#pragma once

#include "convert_geometry.cuh"
#include "launch_call.cuh"

namespace kvappend {

// ---- the parameters of a launch: see launch_call.cuh ----

inline void fill_layer(const Call &call, unsigned tensor, bool is_k, ConvertLayer &layer) {
    const kvappend_args &args = call.args;
    layer.rows[tensor] = call.rows(is_k);
    layer.caches[tensor] = call.cache(is_k);
    layer.scales[tensor] = static_cast<std::byte *>(is_k ? args.k_scales : args.v_scales);
    layer.global_scales[tensor] = is_k ? args.k_global_scale : args.v_global_scale;
}

inline void finish_geometry(const Problem &problem, const Indices &indices, ConvertGeometry &g) {
    g.rule = conversion_rule_of(problem.addressing);
    g.addressing = problem.addressing;
    g.indices = indices;
}

// ---- launches ----

// Calls that convert rows, or that rotate them, and other calls.
template <class Geometry>
class ConvertingRun final : public LayeredRun {
public:
    ConvertingRun(LayeredRun *others, CUstream_st *stream) : others_(others), stream_(stream), conversions_(stream) {}

    Status add(const Call &call) override {
        if (call.problem.has_query()) {
            return launch_call(call, stream_);
        }
        const bool takes = Geometry::rotates ? call.problem.rotates() : call.problem.converts_alone();
        return takes ? conversions_.add(call) : others_->add(call);
    }
    Status finish() override {
        TRY(others_->finish());
        return conversions_.finish();
    }

private:
    LayeredRun *others_;
    CUstream_st *stream_;
    CudaLayeredRun<Geometry, Geometry::most_layers> conversions_;
};

// By a kernel for the layers of a launch, or by one for a call alone.
template <class OfLayers, class OfCall = OfLayers>
Status launch_conversion(const Call &call, CUstream_st *stream) {
    return call.kernel.variant == Kernel::Variant::layers ? launch_one<OfLayers, OfLayers::most_layers>(call, stream)
                                                          : launch_one<OfCall, 1>(call, stream);
}

template <class Geometry>
LayeredRun *begin_converting_run(LayeredRunStorage::Part &storage, LayeredRun *others, CUstream_st *stream) {
    static_assert(sizeof(ConvertingRun<Geometry>) <= sizeof(LayeredRunStorage::Part));
    return new (storage.bytes) ConvertingRun<Geometry>(others, stream);
}

} // namespace kvappend
