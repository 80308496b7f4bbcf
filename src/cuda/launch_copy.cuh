// SPDX-License-Identifier: Apache-2.0
// The launches of the kernels that copy bits, of appends or of gathers.
#pragma once

#include "kernels_copy.cuh"
#include "launch_call.cuh"

#include <type_traits>

namespace kvappend {

// ---- the parameters of a launch: see launch_call.cuh ----

inline void fill_layer(const Call &call, unsigned tensor, bool is_k, Layer &layer) {
    layer.rows[tensor] = call.rows(is_k);
    layer.caches[tensor] = call.cache(is_k);
}

inline void set_way(const Problem & /*problem*/, AppendRows & /*way*/) {}
inline void set_way(const Problem &problem, GatherRows &way) {
    way.zeroes = problem.addressing.has(KVAPPEND_FLAG_ZERO_SKIPPED);
}

template <class Way>
void finish_geometry(const Problem &problem, const Indices &indices, DenseGeometry<Way> &g) {
    const Addressing &a = problem.addressing;
    g.placing = {indices.offsets, a.wide_offsets, static_cast<std::int32_t>(a.offset_mask), a.new_rows, a.cache_rows};
    set_way(problem, g.way);
}

template <class Way>
void finish_geometry(const Problem &problem, const Indices &indices, RowsGeometry<Way> &g) {
    g.rule = g.loop == Loop::any ? RuleKind::any : rule_kind_of(problem.addressing);
    g.addressing = problem.addressing;
    g.indices = indices;
    set_way(problem, g.way);
}

template <class Way, unsigned Layers>
auto *kernel_of(const Parameters<DenseGeometry<Way>, Layers> & /*p*/, bool /*wide*/) {
    return copy_kernel<DenseGeometry<Way>, Layers>;
}

template <class Way>
auto *kernel_of_rule(RuleKind rule) {
    switch (rule) {
    case RuleKind::pages:
        return copy_rule_kernel<Way, RuleKind::pages>;
    case RuleKind::slots:
        return copy_rule_kernel<Way, RuleKind::slots>;
    case RuleKind::tokens:
        return copy_rule_kernel<Way, RuleKind::tokens>;
    case RuleKind::ends:
        return copy_rule_kernel<Way, RuleKind::ends>;
    default:
        return copy_rule_kernel<Way, RuleKind::any>;
    }
}

template <class Way, unsigned Layers>
auto *kernel_of(const Parameters<RowsGeometry<Way>, Layers> &p, bool wide) {
    if constexpr (Layers == 1) {
        return wide ? copy_wide_kernel<Way> : kernel_of_rule<Way>(p.geometries[0].rule);
    } else {
        return copy_kernel<RowsGeometry<Way>, Layers>;
    }
}

// ---- launches ----

template <class Way>
class CopyLaunches {
    using Dense = DenseGeometry<Way>;
    using Rows = RowsGeometry<Way>;
    using DenseRun = CudaLayeredRun<Dense, most_layers>;
    using RowsRun = CudaLayeredRun<Rows, most_layers>;
    static_assert(sizeof(DenseRun) <= sizeof(LayeredRunStorage::Part) &&
                  sizeof(RowsRun) <= sizeof(LayeredRunStorage::Part));

    static const void *code_of(const NamedKernel &kernel) {
        const bool several = kernel.variant == Kernel::Variant::layers;
        if (kernel.family == Kernel::Family::dense) {
            return several ? address_of(copy_kernel<Dense, most_layers>) : address_of(copy_kernel<Dense, 1>);
        }
        if (kernel.variant == Kernel::Variant::wide) {
            return address_of(copy_wide_kernel<Way>);
        }
        return several ? address_of(copy_kernel<Rows, most_layers>) : address_of(kernel_of_rule<Way>(RuleKind::any));
    }

public:
    // The first launch of a kernel would load it, and that breaks a capture. Therefore the kernels for several layers
    // are loaded here, too. Which of them a call launches depends on the other plans of the call.
    static Status load(const NamedKernel &kernel, const Problem &problem, CudaState &state) {
        TRY(load_kernel(code_of(kernel), &state.code_architecture));
        TRY(load_kernel(address_of(kernel_of_rule<Way>(rule_kind_of(problem.addressing)))));
        TRY(load_kernel(address_of(copy_kernel<Rows, most_layers>)));
        return problem.plain_dense() ? load_kernel(address_of(copy_kernel<Dense, most_layers>)) : KVAPPEND_SUCCESS;
    }

    static Status launch(const Call &call, CUstream_st *stream) {
        const bool several = call.kernel.variant == Kernel::Variant::layers;
        if (call.kernel.family == Kernel::Family::dense) {
            return several ? launch_one<Dense, most_layers>(call, stream) : launch_one<Dense, 1>(call, stream);
        }
        return several ? launch_one<Rows, most_layers>(call, stream) : launch_one<Rows, 1>(call, stream);
    }

    static LayeredRun *begin(LayeredRunStorage::Part &storage, bool all_dense, CUstream_st *stream) {
        if (all_dense) {
            return new (storage.bytes) DenseRun(stream);
        }
        return new (storage.bytes) RowsRun(stream);
    }
};

} // namespace kvappend
