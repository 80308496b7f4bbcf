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

using enum Kernel::Family;
using enum Kernel::Variant;

constexpr std::int32_t least_architecture = 75;

constexpr NamedKernel table_entry(Kernel::Family family, Kernel::Variant variant) {
    return NamedKernel({KVAPPEND_BACKEND_CUDA, family, variant, 1U << widest_access_log2, least_architecture});
}

// The kernels for several layers serve one as well, but not as fast.
constexpr NamedKernel table[] = {table_entry(dense, plain),  table_entry(rows, plain),    table_entry(rows, wide),
                                 table_entry(dense, layers), table_entry(rows, layers),   table_entry(convert, plain),
                                 table_entry(convert, wide), table_entry(convert, layers)};

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
        if ((kernel.family == convert) != problem.converts()) {
            return false;
        }
        if (kernel.family == dense) {
            return problem.plain_dense() && runs_fit_in_31_bits(problem);
        }
        return kernel.variant == wide || fits_in_31_bits(problem);
    }

    Status prepare(const Problem &problem, const NamedKernel &kernel, std::int32_t /*host_threads*/,
                   BackendState &state) const override {
        auto &cuda_state = static_cast<CudaState &>(state);
        cuda_state.fits_in_31_bits = fits_in_31_bits(problem);
        cuda_state.runs_fit_in_31_bits = runs_fit_in_31_bits(problem);
        TRY(kernel.family == convert ? load_convert_kernels(kernel, cuda_state)
                                     : load_copy_kernels(kernel, problem, cuda_state));
        return load_after(problem);
    }

    Status check_stream(const BackendState &state, CUstream_st * /*stream*/) const override {
        return check_device(cuda_state(state));
    }

    Status run(const Append &append, CUstream_st *stream) const override { return launch_append(append, stream); }

    Status after(const Append &append, After work, CUstream_st *stream) const override {
        return launch_after(append, work, stream);
    }

    LayeredRun *begin(LayeredRunStorage &storage, LayersKind kind, CUstream_st *stream) const override {
        LayeredRun *const copies = begin_copies(storage.copies, kind.all_dense, stream);
        return kind.some_convert ? begin_conversions(storage.conversions, copies, stream) : copies;
    }

    Status fetch(void *to, const void *from, std::size_t bytes, CUstream_st *stream) const override {
        return fetch_from_device(to, from, bytes, stream);
    }
};

} // namespace

const Backend &cuda_backend() {
    static constexpr CudaBackend backend;
    return backend;
}

} // namespace kvappend
