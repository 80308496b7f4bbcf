// SPDX-License-Identifier: Apache-2.0
// The kernels that store rows in another format, for appends.
#include "kernels_convert.cuh"
#include "launch_append.cuh"

namespace kvappend {

// ---- the parameters of a launch: see launch_append.cuh ----

static void fill_layer(const Append &append, unsigned tensor, bool is_k, ConvertLayer &layer) {
    const kvappend_args &args = append.args;
    layer.rows[tensor] = static_cast<const std::byte *>(is_k ? args.k_new : args.v_new);
    layer.caches[tensor] = static_cast<std::byte *>(is_k ? args.k_cache : args.v_cache);
    layer.scales[tensor] = static_cast<std::byte *>(is_k ? args.k_scales : args.v_scales);
    layer.global_scales[tensor] = is_k ? args.k_global_scale : args.v_global_scale;
}

static void finish_geometry(const Problem &problem, const Indices &indices, ConvertGeometry &g) {
    g.rule = rule_kind_of(problem.addressing);
    g.addressing = problem.addressing;
    g.indices = indices;
}

template <unsigned Layers>
static auto *kernel_of(const Parameters<ConvertGeometry, Layers> & /*p*/, bool wide) {
    if constexpr (Layers == 1) {
        return wide ? convert_wide_kernel : convert_kernel<1>;
    }
    return convert_kernel<Layers>;
}

namespace {

using enum Kernel::Variant;

// Appends that store rows in another format, and appends that copy bits.
class ConvertingRun final : public LayeredRun {
public:
    ConvertingRun(LayeredRun *copies, CUstream_st *stream) : copies_(copies), conversions_(stream) {}

    Status add(const Append &append) override {
        return append.problem.converts() ? conversions_.add(append) : copies_->add(append);
    }
    Status finish() override {
        TRY(copies_->finish());
        return conversions_.finish();
    }

private:
    LayeredRun *copies_;
    CudaLayeredRun<ConvertGeometry, most_converted_layers> conversions_;
};
static_assert(sizeof(ConvertingRun) <= sizeof(LayeredRunStorage::Part));

const void *code_of(const NamedKernel &kernel) {
    return kernel.variant == wide     ? address_of(convert_wide_kernel)
           : kernel.variant == layers ? address_of(convert_kernel<most_converted_layers>)
                                      : address_of(convert_kernel<1>);
}

} // namespace

Status load_convert_kernels(const NamedKernel &kernel, CudaState &state) {
    TRY(load_kernel(code_of(kernel), &state.code_architecture));
    return load_kernel(address_of(convert_kernel<most_converted_layers>));
}

Status launch_convert(const Append &append, CUstream_st *stream) {
    return append.kernel.variant == layers ? launch_one<ConvertGeometry, most_converted_layers>(append, stream)
                                           : launch_one<ConvertGeometry, 1>(append, stream);
}

LayeredRun *begin_conversions(LayeredRunStorage::Part &storage, LayeredRun *copies, CUstream_st *stream) {
    return new (storage.bytes) ConvertingRun(copies, stream);
}

} // namespace kvappend
