// SPDX-License-Identifier: Apache-2.0
// The kernels that rotate rows of K and of Q before they store them.
#include "kernels_rotate.cuh"
#include "launch_convert.cuh"

namespace kvappend {

static void add_tensors(const Call &call, QueryLayer &layer, GeometryInput &input) {
    add_tensors<ConvertLayer>(call, layer, input);
    const kvappend_args &args = call.args;
    const auto bytes = [](const void *pointer) { return static_cast<std::byte *>(const_cast<void *>(pointer)); };
    layer.q = bytes(args.q);
    layer.q_out = bytes(args.q_out);
    layer.q_scales = bytes(args.q_scales);
    input.addresses[query_tensor] = {reinterpret_cast<std::uintptr_t>(args.q),
                                     reinterpret_cast<std::uintptr_t>(args.q_out)};
}

// The kernel for the rows of a call, or for the layers of several calls.
template <class Geometry, unsigned Layers>
static auto *kernel_for(std::int32_t element_type, bool twins) {
    if (!twins) {
        return rotate_kernel<Geometry, Layers>;
    }
    switch (element_type) {
    case KVAPPEND_ELEMENT_F16:
        return rotate_known_kernel<F16, Geometry, Layers>;
    case KVAPPEND_ELEMENT_BF16:
        return rotate_known_kernel<BF16, Geometry, Layers>;
    default:
        return rotate_known_kernel<F32, Geometry, Layers>;
    }
}

template <class Geometry, unsigned Layers>
static auto *kernel_of(const Parameters<Geometry, Layers> &p, bool wide) {
    const Geometry &first = p.geometries[0]; // If K has twins, all tensors of all geometries have.
    const bool twins = first.rotate.twin_elements[0] > 0;
    if constexpr (Layers == 1) {
        return wide ? rotate_wide_kernel : kernel_for<Geometry, 1>(first.formats[0].element_type, twins);
    }
    return kernel_for<Geometry, Layers>(first.formats[0].element_type, twins);
}

static void finish_rotation(const Problem &problem, const RotaryTables &tables, bool wide, RotateGeometry &g) {
    // The other rules are those of narrow addressings.
    g.rule = wide ? RuleKind::any : g.rule;
    const Rotation &rotation = problem.k.rotation;
    g.rotation = rotation;
    g.tables = tables;
    const auto addresses = reinterpret_cast<std::uintptr_t>(tables.cos) | reinterpret_cast<std::uintptr_t>(tables.sin);
    constexpr std::uint32_t widest = 1U << widest_access_log2;
    g.together = addresses % widest == 0 && rotation.alignment == widest ? 1 : 0;
}

static void finish_rotation(const Problem &problem, const RotaryTables &tables, bool wide, QueryGeometry &g) {
    finish_rotation(problem, tables, wide, static_cast<RotateGeometry &>(g));
    g.query_first = problem.q.rotation.first;
}

namespace {

using enum Kernel::Variant;

const void *code_of(const NamedKernel &kernel) {
    return kernel.variant == wide     ? address_of(rotate_wide_kernel)
           : kernel.variant == layers ? address_of(rotate_kernel<RotateGeometry, most_rotated_layers>)
                                      : address_of(rotate_kernel<QueryGeometry, 1>);
}

} // namespace

Status load_rotate_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state) {
    TRY(load_kernel(code_of(kernel), &state.code_architecture));
    TRY(load_kernel(address_of(rotate_kernel<RotateGeometry, most_rotated_layers>)));
    TRY(load_kernel(address_of(kernel_for<QueryGeometry, 1>(problem.element_type, true))));
    return load_kernel(address_of(kernel_for<RotateGeometry, most_rotated_layers>(problem.element_type, true)));
}

Status launch_rotate(const Call &call, CUstream_st *stream) {
    return launch_conversion<RotateGeometry, QueryGeometry>(call, stream);
}

LayeredRun *begin_rotations(LayeredRunStorage::Part &storage, LayeredRun *others, CUstream_st *stream) {
    return begin_converting_run<RotateGeometry>(storage, others, stream);
}

} // namespace kvappend
