// SPDX-License-Identifier: Apache-2.0
// The host backend's table.
#include "host.hpp"

#include <cstring>

namespace kvappend {

namespace {

Status open(Target &target) {
    target = {};
    return KVAPPEND_SUCCESS;
}

Status enter(const Target & /*target*/, CUstream_st *stream) {
    if (stream != nullptr) {
        return fail(KVAPPEND_ERROR_STREAM, "stream is %p: expected NULL, as the plan's backend is the host",
                    static_cast<const void *>(stream));
    }
    return KVAPPEND_SUCCESS;
}

Status load() {
    return KVAPPEND_SUCCESS;
}

constexpr Kernel kernels[] = {
    {"host_dense", 0, 0, [](const Kernel &, const Problem &problem) { return problem.plain(); }, load,
     host_append_dense},
    {"host_rows", 0, 0, [](const Kernel &, const Problem &) { return true; }, load, host_append_rows}};
Status fetch(void *to, const void *from, std::size_t bytes, CUstream_st * /*stream*/) {
    std::memcpy(to, from, bytes);
    return KVAPPEND_SUCCESS;
}

Status launch_all(Appends &appends, CUstream_st *stream) {
    for (std::size_t i = 0; i < appends.count(); ++i) {
        const auto [problem, target, kernel, args] = appends.at(i);
        if (const Status status =
                problem->empty() ? KVAPPEND_SUCCESS : kernel->launch(*problem, *target, *args, stream);
            status != KVAPPEND_SUCCESS) {
            return status;
        }
    }
    return KVAPPEND_SUCCESS;
}

constexpr Backend backend{kernels,     open,       [](const Problem &) -> Status { return KVAPPEND_SUCCESS; },
                          enter,       launch_all, host_admit,
                          host_settle, fetch};

} // namespace

const Backend &host_backend() {
    return backend;
}

} // namespace kvappend
