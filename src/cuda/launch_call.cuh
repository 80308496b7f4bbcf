// SPDX-License-Identifier: Apache-2.0
// How calls become the parameters and the grid of a launch.
//
// A geometry is what some layers of a launch have in common. For each type of geometry there are these functions:
// add_tensors(call, layer, input) fills the pointers of a layer, and adds them to the addresses of the input. The one
// here, for K and V, calls fill_layer(call, tensor, is_k, layer), which fills the pointers of K or of V;
// finish_geometry(problem, indices, geometry) fills what lay_out does not, but for a rotation;
// finish_rotation(problem, tables, wide, geometry) fills a rotation, if the geometry has one;
// kernel_of(parameters, wide) returns the kernel that takes these parameters.
#pragma once

#include "../rotary.hpp"
#include "device.hpp"
#include "move_layout.hpp"
#include "parameters.cuh"

#include <algorithm>
#include <array>
#include <new>
#include <type_traits>

namespace kvappend {

template <class Layer>
void add_tensors(const Call &call, Layer &layer, GeometryInput &input) {
    unsigned tensor = 0;
    const auto add = [&](const Copy &copy, bool is_k) {
        if (!copy.empty()) {
            fill_layer(call, tensor, is_k, layer);
            input.addresses[tensor].rows |= reinterpret_cast<std::uintptr_t>(call.rows(is_k));
            input.addresses[tensor].cache |= reinterpret_cast<std::uintptr_t>(call.cache(is_k));
            ++tensor;
        }
    };
    add(call.problem.k, true);
    add(call.problem.v, false);
}

// What the layers of a geometry share besides the plan.
struct SharedArrays {
    Indices indices;
    RotaryTables tables;

    bool operator==(const SharedArrays &) const = default;
};

// A launch to which calls are added one by one.
template <class Geometry, unsigned Layers>
class Launch {
    using P = Parameters<Geometry, Layers>;
    static_assert(sizeof(P) <= 4096);

public:
    // Returns false if there is no room for the call, or for its geometry.
    bool add(const Call &call) {
        const unsigned geometry = find_geometry(call);
        if (layers_ == Layers || geometry == P::most_geometries) {
            return false;
        }
        geometries_ = std::max(geometries_, geometry + 1);
        add_tensors(call, p_.layers[layers_], inputs_[geometry]);
        ++inputs_[geometry].layers;
        programmatic_ = programmatic_ && call.problem.addressing.has(KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH);
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
    unsigned find_geometry(const Call &call) {
        // Constructed in place. A copy would load two pointers at once that were stored one by one. Store forwarding
        // fails for such a load: it waits until both stores have left the store buffer.
        SharedArrays &tried = *new (&arrays_[geometries_]) SharedArrays{indices_of(call.problem.buffers, call.args),
                                                                        tables_of(call.problem.k.rotation, call.args)};
        unsigned geometry = 0;
        while (geometry < geometries_ && (inputs_[geometry].problem != &call.problem || arrays_[geometry] != tried)) {
            ++geometry;
        }
        if (geometry == geometries_) {
            inputs_[geometry] = {&call.problem, {}, 0};
        }
        return geometry;
    }

    Grid lay_out_all(const CudaState &state, bool wide) {
        if constexpr (std::is_base_of_v<MoveGeometryLayout, Geometry>) {
            std::array<MoveGeometryLayout *, P::most_geometries> layouts;
            std::ranges::transform(p_.geometries, layouts.begin(), [](Geometry &g) { return &g; });
            return lay_out_moves(inputs_.data(), geometries_, layers_, state.multiprocessors, layouts.data());
        } else {
            std::array<GeometryLayout *, P::most_geometries> layouts;
            std::ranges::transform(p_.geometries, layouts.begin(), [](Geometry &g) { return &g; });
            LayoutInput input{inputs_.data(), geometries_, layers_, state.multiprocessors, Geometry::joins_rows, wide};
            std::array<ConvertLayout *, P::most_geometries> formats;
            if constexpr (Geometry::converts) {
                std::ranges::transform(p_.geometries, formats.begin(), [](Geometry &g) { return g.formats; });
                input.formats = formats.data();
            }
            std::array<RotateLayout *, P::most_geometries> rotations;
            if constexpr (requires(Geometry g) { g.rotate; }) {
                std::ranges::transform(p_.geometries, rotations.begin(), [](Geometry &g) { return &g.rotate; });
                input.rotations = rotations.data();
            }
            if constexpr (requires(Geometry g) { g.query; }) {
                input.query = &p_.geometries[0].query;
            }
            return lay_out(input, layouts.data());
        }
    }

    Grid lay_out_geometries(const CudaState &state, bool wide) {
        const Grid grid = lay_out_all(state, wide);
        for (unsigned i = 0; i < geometries_; ++i) {
            finish_geometry(*inputs_[i].problem, arrays_[i].indices, p_.geometries[i]);
            if constexpr (requires(Geometry g) { g.rotation; }) {
                finish_rotation(*inputs_[i].problem, arrays_[i].tables, wide, p_.geometries[i]);
            }
        }
        return grid;
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
        return launched(cudaLaunchKernelEx(&config, kernel_of(p_, wide), p_));
    }

    P p_{};
    // The last entry is for a geometry for which there is no room.
    std::array<GeometryInput, P::most_geometries + 1> inputs_{};
    std::array<SharedArrays, P::most_geometries + 1> arrays_{};
    unsigned geometries_ = 0;
    unsigned layers_ = 0;
    bool programmatic_ = true;
};

inline const CudaState &cuda_state(const Call &call) {
    return static_cast<const CudaState &>(call.state);
}

template <class Geometry, unsigned Layers>
Status launch_one(const Call &call, CUstream_st *stream) {
    Launch<Geometry, Layers> launch;
    launch.add(call);
    return launch.perform(cuda_state(call), call.kernel.variant == Kernel::Variant::wide, stream);
}

// Up to `Layers` calls in a launch. A call whose problem does not fit in 31 bits has a launch of its own.
template <class Geometry, unsigned Layers>
class CudaLayeredRun final : public LayeredRun {
public:
    explicit CudaLayeredRun(CUstream_st *stream) : stream_(stream) {}

    Status add(const Call &call) override {
        state_ = &cuda_state(call);
        if (Geometry::joins_rows ? !state_->runs_fit_in_31_bits : !state_->fits_in_31_bits) {
            return launch_call(call, stream_);
        }
        if (launch_.add(call)) {
            return KVAPPEND_SUCCESS;
        }
        TRY(finish());
        new (&launch_) Launch<Geometry, Layers>;
        launch_.add(call);
        return KVAPPEND_SUCCESS;
    }

    Status finish() override { return launch_.empty() ? KVAPPEND_SUCCESS : launch_.perform(*state_, false, stream_); }

private:
    CUstream_st *stream_;
    const CudaState *state_ = nullptr;
    Launch<Geometry, Layers> launch_;
};

template <class Function>
const void *address_of(Function *function) {
    return reinterpret_cast<const void *>(function);
}

} // namespace kvappend
