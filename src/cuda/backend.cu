// SPDX-License-Identifier: Apache-2.0
// The CUDA backend.
#include "after.hpp"
#include "device.hpp"
#include "launch.hpp"

#include <new>

namespace kvappend {

namespace {

const CudaState &cuda_state(const BackendState &state) {
    return static_cast<const CudaState &>(state);
}

class CudaBackend final : public Backend {
public:
    std::span<const NamedKernel> kernels() const override { return copy_kernels(); }

    Status open(std::unique_ptr<BackendState> &state) const override {
        auto *const opened = new (std::nothrow) CudaState;
        state.reset(opened);
        return opened != nullptr ? open_device(*opened)
                                 : fail(KVAPPEND_ERROR_OUT_OF_MEMORY, "plan: there is no memory for its %zu bytes",
                                        sizeof(CudaState));
    }

    bool supports(const NamedKernel &kernel, const BackendState & /*state*/, const Problem &problem) const override {
        return kvappend::supports(kernel, problem);
    }

    Status prepare(const Problem &problem, const NamedKernel &kernel, std::int32_t /*host_threads*/,
                   BackendState &state) const override {
        TRY(load_copy_kernels(kernel, problem, static_cast<CudaState &>(state)));
        return load_after(problem);
    }

    Status check_stream(const BackendState &state, CUstream_st * /*stream*/) const override {
        return check_device(cuda_state(state));
    }

    Status run(const Append &append, CUstream_st *stream) const override { return launch_copy(append, stream); }

    Status after(const Append &append, After work, CUstream_st *stream) const override {
        return launch_after(append, work, stream);
    }

    LayeredRun *begin(LayeredRunStorage &storage, bool all_dense, CUstream_st *stream) const override {
        return begin_layers(storage, all_dense, stream);
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
