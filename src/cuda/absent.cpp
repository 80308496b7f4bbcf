// SPDX-License-Identifier: Apache-2.0
// The CUDA backend of a library that is built without CUDA: no kernels, and a clear error.
#include "../backend.hpp"

namespace kvappend {

namespace {

Status absent() {
    return fail(
        KVAPPEND_ERROR_UNSUPPORTED,
        "descriptor.backend is KVAPPEND_BACKEND_CUDA: expected KVAPPEND_BACKEND_HOST, as this library was built "
        "without CUDA");
}

// `open` fails, so no plan exists for which the other functions could be called.
class AbsentBackend final : public Backend {
public:
    std::span<const NamedKernel> kernels() const override { return {}; }
    Status open(std::unique_ptr<BackendState> & /*state*/) const override { return absent(); }
    bool supports(const NamedKernel & /*kernel*/, const BackendState & /*state*/,
                  const Problem & /*problem*/) const override {
        return false;
    }
    Status prepare(const Problem & /*problem*/, const NamedKernel & /*kernel*/, std::int32_t /*host_threads*/,
                   BackendState & /*state*/) const override {
        return absent();
    }
    Status check_stream(const BackendState & /*state*/, CUstream_st * /*stream*/) const override { return absent(); }
    Status run(const Call & /*call*/, CUstream_st * /*stream*/) const override { return absent(); }
    Status after(const Call & /*call*/, After /*work*/, CUstream_st * /*stream*/) const override { return absent(); }
    LayeredRun *begin(LayeredRunStorage & /*storage*/, LayersKind /*kind*/, CUstream_st * /*stream*/) const override {
        return nullptr;
    }
    Status fetch(void * /*to*/, const void * /*from*/, std::size_t /*bytes*/, CUstream_st * /*stream*/) const override {
        return absent();
    }
};

} // namespace

const Backend &cuda_backend() {
    static constexpr AbsentBackend backend;
    return backend;
}

} // namespace kvappend
