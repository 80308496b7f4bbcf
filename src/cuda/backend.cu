// SPDX-License-Identifier: Apache-2.0
// The CUDA backend.
#include "after.hpp"
#include "device.hpp"
#include "launch.hpp"
#include "layout.hpp"

#include <new>

namespace kvappend {

namespace {

const CudaState &cuda_state(const BackendState &state) {
    return static_cast<const CudaState &>(state);
}

using enum Operation;
using enum Kernel::Family;
using enum Kernel::Variant;

constexpr std::int32_t least_architecture = 75;

constexpr NamedKernel table_entry(Operation operation, Kernel::Family family, Kernel::Variant variant) {
    return NamedKernel(
        {KVAPPEND_BACKEND_CUDA, operation, family, variant, 1U << widest_access_log2, least_architecture});
}

// The kernels for several layers serve one as well, but not as fast.
constexpr NamedKernel table[] = {
    table_entry(append, dense, plain),    table_entry(append, rows, plain),     table_entry(append, rows, wide),
    table_entry(append, dense, layers),   table_entry(append, rows, layers),    table_entry(append, convert, plain),
    table_entry(append, convert, wide),   table_entry(append, convert, layers), table_entry(gather, dense, plain),
    table_entry(gather, rows, plain),     table_entry(gather, rows, wide),      table_entry(gather, dense, layers),
    table_entry(gather, rows, layers),    table_entry(gather, convert, plain),  table_entry(gather, convert, wide),
    table_entry(gather, convert, layers), table_entry(move, rows, plain),       table_entry(move, rows, layers),
    table_entry(append, rotate, plain),   table_entry(append, rotate, wide),    table_entry(append, rotate, layers)};

Status load_kernels(const NamedKernel &kernel, const Problem &problem, CudaState &state) {
    if (kernel.operation == move) {
        return load_move_kernels(kernel, state);
    }
    if (kernel.family == rotate) {
        return load_rotate_kernels(kernel, problem, state);
    }
    const bool gathers = kernel.operation == gather;
    if (kernel.family == convert) {
        return gathers ? load_decode_kernels(kernel, state) : load_convert_kernels(kernel, problem, state);
    }
    return gathers ? load_gather_kernels(kernel, problem, state) : load_copy_kernels(kernel, problem, state);
}

class CudaBackend final : public Backend {
public:
    std::span<const NamedKernel> kernels() const override { return table; }

    Status open(std::unique_ptr<BackendState> &state) const override {
        auto *const opened = new (std::nothrow) CudaState;
        state.reset(opened);
        return opened != nullptr ? open_device(*opened)
                                 : fail(KVAPPEND_ERROR_OUT_OF_MEMORY, "plan: there is no memory for its %zu bytes",
                                        sizeof(CudaState));
    }

    bool supports(const NamedKernel &kernel, const BackendState & /*state*/, const Problem &problem) const override {
        if (kernel.operation != problem.operation || (kernel.family == convert) != problem.converts_alone() ||
            (kernel.family == rotate) != problem.rotates()) {
            return false;
        }
        if (kernel.family == dense) {
            return problem.plain_dense() && runs_fit_in_31_bits(problem);
        }
        if (kernel.variant == layers && problem.has_query()) {
            return false;
        }
        return kernel.variant == wide || problem.moves() || fits_in_31_bits(problem);
    }

    Status prepare(const Problem &problem, const NamedKernel &kernel, std::int32_t /*host_threads*/,
                   BackendState &state) const override {
        auto &cuda_state = static_cast<CudaState &>(state);
        // The kernels of moves have 64-bit indices.
        cuda_state.fits_in_31_bits = problem.moves() || fits_in_31_bits(problem);
        cuda_state.runs_fit_in_31_bits = runs_fit_in_31_bits(problem);
        TRY(load_kernels(kernel, problem, cuda_state));
        return load_after(problem);
    }

    Status check_stream(const BackendState &state, CUstream_st * /*stream*/) const override {
        return check_device(cuda_state(state));
    }

    Status run(const Call &call, CUstream_st *stream) const override { return launch_call(call, stream); }

    Status after(const Call &call, After work, CUstream_st *stream) const override {
        return launch_after(call, work, stream);
    }

    LayeredRun *begin(LayeredRunStorage &storage, LayersKind kind, CUstream_st *stream) const override {
        if (kind.operation == move) {
            return begin_moves(storage.copies, stream);
        }
        if (kind.operation == gather) {
            LayeredRun *const gathers = begin_gathers(storage.copies, kind.all_dense, stream);
            return kind.some_convert ? begin_decodings(storage.conversions, gathers, stream) : gathers;
        }
        LayeredRun *const copies = begin_copies(storage.copies, kind.all_dense, stream);
        LayeredRun *const others = kind.some_convert ? begin_conversions(storage.conversions, copies, stream) : copies;
        return kind.some_rotate ? begin_rotations(storage.rotations, others, stream) : others;
    }

    Status fetch(void *to, const void *from, std::size_t bytes, CUstream_st *stream) const override {
        return fetch_from_device(to, from, bytes, stream);
    }
};

} // namespace

Status launch_call(const Call &call, CUstream_st *stream) {
    if (call.problem.moves()) {
        return launch_move(call, stream);
    }
    if (call.kernel.family == rotate) {
        return launch_rotate(call, stream);
    }
    const bool converts = call.kernel.family == convert;
    if (call.problem.gathers()) {
        return converts ? launch_decode(call, stream) : launch_gather(call, stream);
    }
    return converts ? launch_convert(call, stream) : launch_copy(call, stream);
}

const Backend &cuda_backend() {
    static constexpr CudaBackend backend;
    return backend;
}

} // namespace kvappend
