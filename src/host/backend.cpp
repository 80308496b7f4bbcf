// SPDX-License-Identifier: Apache-2.0
// The host backend's table.
#include "crew.hpp"
#include "host.hpp"

#include <cinttypes>
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

bool any(const Kernel & /*kernel*/, const Problem & /*problem*/) {
    return true;
}

bool plain(const Kernel & /*kernel*/, const Problem &problem) {
    return problem.plain();
}

template <const Append &Append>
Status launch(const Problem &problem, const Target &target, const kvappend_args &args, CUstream_st * /*stream*/) {
    return host_launch(Append, problem, target, args);
}

constexpr Kernel kernels[] = {
#if defined(__x86_64__)
    {"host_dense_avx", 0, 0,
     [](const Kernel &, const Problem &problem) { return problem.plain() && __builtin_cpu_supports("avx"); }, load,
     launch<avx_dense>},
#endif
    {"host_dense", 0, 0, plain, load, launch<plain_dense>},
#if defined(__x86_64__)
    {"host_rows_avx", 0, 0, [](const Kernel &, const Problem &) { return __builtin_cpu_supports("avx") != 0; }, load,
     launch<avx_rows>},
#endif
    {"host_rows", 0, 0, any, load, launch<plain_rows>}};

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

Status hire(std::int32_t helpers, Target &target) {
    std::unique_ptr<Crew> crew = Crew::create(helpers);
    if (crew == nullptr) {
        return fail(KVAPPEND_ERROR_OUT_OF_MEMORY,
                    "preference.host_threads is %" PRId32 ": there is no memory to keep account of them", helpers + 1);
    }
    if (crew->helpers() < helpers) {
        return fail(KVAPPEND_ERROR_HOST_THREADS,
                    "preference.host_threads is %" PRId32 ": expected at most %" PRId32
                    ", as the system starts no more",
                    helpers + 1, crew->helpers() + 1);
    }
    target.crew = crew.release();
    return KVAPPEND_SUCCESS;
}

void dismiss(Target &target) {
    delete target.crew;
}

constexpr Backend backend{
    kernels,    open,         [](const Problem &, Target &) -> Status { return KVAPPEND_SUCCESS; },
    enter,      launch_all,   host_admit,
    host_count, host_advance, fetch,
    hire,       dismiss};

} // namespace

const Backend &host_backend() {
    return backend;
}

} // namespace kvappend
