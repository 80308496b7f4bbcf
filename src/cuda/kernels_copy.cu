// SPDX-License-Identifier: Apache-2.0
// The table of the copy kernels, and how appends become the parameters and the grid of a launch.
#include "device.hpp"
#include "kernels_copy.cuh"
#include "launch.hpp"

#include <algorithm>
#include <array>
#include <new>

namespace kvappend {

namespace {

using enum Kernel::Family;
using enum Kernel::Variant;

constexpr std::int32_t least_architecture = 75;

constexpr NamedKernel table_entry(Kernel::Family family, Kernel::Variant variant) {
    return NamedKernel({KVAPPEND_BACKEND_CUDA, family, variant, 1U << widest_access_log2, least_architecture});
}

// The kernels for several layers serve one as well, but not as fast.
constexpr NamedKernel kernels[] = {table_entry(dense, plain), table_entry(rows, plain), table_entry(rows, wide),
                                   table_entry(dense, layers), table_entry(rows, layers)};

// A launch to which appends are added one by one.
template <class Geometry, unsigned Layers>
class Launch {
    using P = Parameters<Geometry, Layers>;
    static_assert(sizeof(P) <= 4096);
    static constexpr bool is_dense = std::is_same_v<Geometry, DenseGeometry>;

public:
    // Returns false if there is no room for the append, or for its geometry.
    bool add(const Append &append) {
        const unsigned geometry = find_geometry(append);
        if (layers_ == Layers || geometry == P::most_geometries) {
            return false;
        }
        geometries_ = std::max(geometries_, geometry + 1);
        add_layer(append, inputs_[geometry]);
        p_.geometry_of[layers_++] = static_cast<std::uint8_t>(geometry);
        return true;
    }

    bool empty() const { return layers_ == 0; }

    // `wide`: for the kernel with 64-bit indices.
    Status perform(const CudaState &state, bool wide, CUstream_st *stream) {
        const Grid grid = lay_out_geometries(state, wide);
        p_.batch_step = grid.batch_step;
        p_.apart = grid.apart;
        p_.programmatic = programmatic_ && state.code_architecture >= 90 ? 1 : 0;
        return launch(grid, wide, stream);
    }

private:
    unsigned find_geometry(const Append &append) {
        // Constructed in place. A copy would load two pointers at once that were stored one by one. Store forwarding
        // fails for such a load: it waits until both stores have left the store buffer.
        Indices &tried = *new (&indices_[geometries_]) Indices{indices_of(append.problem.buffers, append.args)};
        unsigned geometry = 0;
        while (geometry < geometries_ &&
               (inputs_[geometry].problem != &append.problem || indices_[geometry] != tried)) {
            ++geometry;
        }
        if (geometry == geometries_) {
            inputs_[geometry] = {&append.problem, {0, 0}, 0};
        }
        return geometry;
    }

    void add_layer(const Append &append, GeometryInput &input) {
        Layer &layer = p_.layers[layers_];
        unsigned tensor = 0;
        const auto add = [&](const Copy &copy, const void *from, void *to) {
            if (!copy.empty()) {
                layer.rows[tensor] = static_cast<const std::byte *>(from);
                layer.caches[tensor] = static_cast<std::byte *>(to);
                input.addresses[tensor++] |=
                    reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to);
            }
        };
        add(append.problem.k, append.args.k_new, append.args.k_cache);
        add(append.problem.v, append.args.v_new, append.args.v_cache);
        ++input.layers;
        programmatic_ = programmatic_ && append.problem.addressing.has(KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH);
    }

    Grid lay_out_geometries(const CudaState &state, bool wide) {
        std::array<GeometryLayout *, P::most_geometries> layouts;
        std::ranges::transform(p_.geometries, layouts.begin(), [](Geometry &g) { return &g; });
        const Grid grid =
            lay_out({inputs_.data(), geometries_, layers_, state.multiprocessors, is_dense, wide}, layouts.data());
        for (unsigned i = 0; i < geometries_; ++i) {
            set_placing(inputs_[i].problem->addressing, indices_[i], p_.geometries[i]);
        }
        return grid;
    }

    static void set_placing(const Addressing &a, const Indices &indices, DenseGeometry &g) {
        g.placing = {indices.offsets, a.wide_offsets, static_cast<std::int32_t>(a.offset_mask), a.new_rows,
                     a.cache_rows};
    }
    static void set_placing(const Addressing &a, const Indices &indices, RowsGeometry &g) {
        g.rule = g.loop == Loop::any ? RuleKind::any : rule_kind_of(a);
        g.addressing = a;
        g.indices = indices;
    }

    Status launch(const Grid &grid, bool wide, CUstream_st *stream) const {
        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(grid.x, grid.y, grid.z);
        config.blockDim = dim3(grid.threads);
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = p_.programmatic;
        auto *kernel = copy_kernel<Geometry, Layers>;
        if constexpr (!is_dense && Layers == 1) {
            kernel = wide ? copy_wide_kernel : kernel;
        }
        return launched(cudaLaunchKernelEx(&config, kernel, p_));
    }

    P p_{};
    // The last entry is for a geometry for which there is no room.
    std::array<GeometryInput, P::most_geometries + 1> inputs_{};
    std::array<Indices, P::most_geometries + 1> indices_{};
    unsigned geometries_ = 0;
    unsigned layers_ = 0;
    bool programmatic_ = true;
};

const CudaState &cuda_state(const Append &append) {
    return static_cast<const CudaState &>(append.state);
}

template <class Geometry, unsigned Layers>
Status launch_one(const Append &append, CUstream_st *stream) {
    Launch<Geometry, Layers> launch;
    launch.add(append);
    return launch.perform(cuda_state(append), append.kernel.variant == wide, stream);
}

// Up to most_layers appends in a launch. An append whose problem does not fit in 31 bits has a launch of its own.
template <class Geometry>
class CudaLayeredRun final : public LayeredRun {
public:
    explicit CudaLayeredRun(CUstream_st *stream) : stream_(stream) {}

    Status add(const Append &append) override {
        state_ = &cuda_state(append);
        if (std::is_same_v<Geometry, DenseGeometry> ? !state_->runs_fit_in_31_bits : !state_->fits_in_31_bits) {
            return launch_copy(append, stream_);
        }
        if (launch_.add(append)) {
            return KVAPPEND_SUCCESS;
        }
        TRY(finish());
        new (&launch_) Launch<Geometry, most_layers>;
        launch_.add(append);
        return KVAPPEND_SUCCESS;
    }

    Status finish() override { return launch_.empty() ? KVAPPEND_SUCCESS : launch_.perform(*state_, false, stream_); }

private:
    CUstream_st *stream_;
    const CudaState *state_ = nullptr;
    Launch<Geometry, most_layers> launch_;
};
static_assert(sizeof(CudaLayeredRun<DenseGeometry>) <= sizeof(LayeredRunStorage));
static_assert(sizeof(CudaLayeredRun<RowsGeometry>) <= sizeof(LayeredRunStorage));

template <class Function>
const void *address_of(Function *function) {
    return reinterpret_cast<const void *>(function);
}

const void *code_of(const NamedKernel &kernel) {
    if (kernel.family == dense) {
        return kernel.variant == layers ? address_of(copy_kernel<DenseGeometry, most_layers>)
                                        : address_of(copy_kernel<DenseGeometry, 1>);
    }
    switch (kernel.variant) {
    case wide:
        return address_of(copy_wide_kernel);
    case layers:
        return address_of(copy_kernel<RowsGeometry, most_layers>);
    default:
        return address_of(copy_kernel<RowsGeometry, 1>);
    }
}

} // namespace

std::span<const NamedKernel> copy_kernels() {
    return kernels;
}

bool supports(const NamedKernel &kernel, const Problem &problem) {
    if (kernel.family == dense) {
        return problem.plain_dense() && runs_fit_in_31_bits(problem);
    }
    return kernel.variant == wide || fits_in_31_bits(problem);
}

// The first launch of a kernel would load it, and that breaks a capture. Therefore the kernels for several layers are
// loaded here, too. Which of them a call launches depends on the other plans of the call.
Status load_copy_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state) {
    state.fits_in_31_bits = fits_in_31_bits(problem);
    state.runs_fit_in_31_bits = runs_fit_in_31_bits(problem);
    TRY(load_kernel(code_of(kernel), &state.code_architecture));
    TRY(load_kernel(address_of(copy_kernel<RowsGeometry, most_layers>)));
    return problem.plain_dense() ? load_kernel(address_of(copy_kernel<DenseGeometry, most_layers>)) : KVAPPEND_SUCCESS;
}

Status launch_copy(const Append &append, CUstream_st *stream) {
    const bool several = append.kernel.variant == layers;
    if (append.kernel.family == dense) {
        return several ? launch_one<DenseGeometry, most_layers>(append, stream)
                       : launch_one<DenseGeometry, 1>(append, stream);
    }
    return several ? launch_one<RowsGeometry, most_layers>(append, stream)
                   : launch_one<RowsGeometry, 1>(append, stream);
}

LayeredRun *begin_layers(LayeredRunStorage &storage, bool all_dense, CUstream_st *stream) {
    if (all_dense) {
        return new (storage.bytes) CudaLayeredRun<DenseGeometry>(stream);
    }
    return new (storage.bytes) CudaLayeredRun<RowsGeometry>(stream);
}

} // namespace kvappend
