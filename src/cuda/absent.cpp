// SPDX-License-Identifier: Apache-2.0
// The CUDA backend of a library that is built without CUDA: no kernels, and a clear refusal.
#include "../kernel.hpp"

namespace kvappend {

namespace {

Status open(Target & /*target*/) {
    return fail(
        KVAPPEND_ERROR_UNSUPPORTED,
        "descriptor.backend is KVAPPEND_BACKEND_CUDA: expected KVAPPEND_BACKEND_HOST, as this library was built "
        "without CUDA");
}

// No plan comes about that could call the others.
constexpr Backend backend{{}, open, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};

} // namespace

const Backend &cuda_backend() {
    return backend;
}

} // namespace kvappend
