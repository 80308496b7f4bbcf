// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include "validate.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstring>

namespace kvappend {

namespace {

Status check(const kvappend_preference &preference, const Backend &backend) {
    constexpr std::int32_t most_threads = 1024;
    if (preference.host_threads < 0 || preference.host_threads > most_threads) {
        return fail(KVAPPEND_ERROR_HOST_THREADS, "preference.host_threads is %" PRId32 ": expected 0 to %" PRId32,
                    preference.host_threads, most_threads);
    }
    if (preference.host_threads > 1 && backend.hire == nullptr) {
        return fail(KVAPPEND_ERROR_CONFLICT,
                    "preference.host_threads is %" PRId32 " and descriptor.backend is not KVAPPEND_BACKEND_HOST: "
                    "expected 0 or 1",
                    preference.host_threads);
    }
    if (preference.reserved != 0) {
        return fail(KVAPPEND_ERROR_CONFLICT, "preference.reserved is %" PRId32 ": expected 0", preference.reserved);
    }
    return KVAPPEND_SUCCESS;
}

Status choose(const Backend &backend, const Target &target, const Problem &problem, const char *wanted,
              const Kernel *&chosen) {
    const auto runs = [&](const Kernel &kernel) { return target.architecture >= kernel.architecture; };
    const auto kernels = backend.kernels;
    if (std::ranges::none_of(kernels, runs)) {
        const auto least = std::ranges::min(kernels, {}, &Kernel::architecture).architecture;
        return fail(KVAPPEND_ERROR_UNSUPPORTED,
                    "device %d has compute capability %d.%d: expected %d.%d or more, which the kernels of this library "
                    "need",
                    target.device, target.architecture / 10, target.architecture % 10, least / 10, least % 10);
    }
    const auto serves = [&](const Kernel &kernel) { return runs(kernel) && kernel.supports(kernel, problem); };
    if (wanted == nullptr) {
        chosen = &*std::ranges::find_if(kernels, serves);
        return KVAPPEND_SUCCESS;
    }
    const auto named =
        std::ranges::find_if(kernels, [wanted](const Kernel &kernel) { return std::strcmp(kernel.name, wanted) == 0; });
    if (named == kernels.end()) {
        return fail(
            KVAPPEND_ERROR_KERNEL,
            "preference.kernel_name is \"%.64s\": expected a kernel of the descriptor's backend, by a name that "
            "kvappend_kernel_name gives",
            wanted);
    }
    if (!serves(*named)) {
        return fail(KVAPPEND_ERROR_KERNEL,
                    "preference.kernel_name is \"%s\": expected a kernel that serves this problem, whose strides and "
                    "row bytes allow accesses of at most %u bytes%s",
                    wanted, std::max(problem.k.alignment, problem.v.alignment),
                    problem.plain() ? "" : ", and which is no plain dense append");
    }
    chosen = &*named;
    return KVAPPEND_SUCCESS;
}

} // namespace

Plan::~Plan() {
    if (target_.crew != nullptr) {
        backend_->dismiss(target_);
    }
}

Status Plan::create(const kvappend_descriptor &descriptor, const kvappend_preference &preference, Plan &plan) {
    if (const Status status = Problem::create(descriptor, plan.problem_); status != KVAPPEND_SUCCESS) {
        return status;
    }
    plan.backend_ = descriptor.backend == KVAPPEND_BACKEND_CUDA ? &cuda_backend() : &host_backend();
    if (const Status status = check(preference, *plan.backend_); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = plan.backend_->open(plan.target_); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = choose(*plan.backend_, plan.target_, plan.problem_, preference.kernel_name, plan.kernel_);
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = plan.kernel_->load(); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = plan.backend_->prepare(plan.problem_, plan.target_); status != KVAPPEND_SUCCESS) {
        return status;
    }
    const std::int32_t helpers = std::max(preference.host_threads - 1, 0);
    return helpers > 0 && !plan.problem_.empty() ? plan.backend_->hire(helpers, plan.target_) : KVAPPEND_SUCCESS;
}

Status Plan::admit(const kvappend_args &args, const void *workspace, std::size_t workspace_bytes,
                   CUstream_st *stream) const {
    if (workspace == nullptr && workspace_bytes != 0) {
        return fail(KVAPPEND_ERROR_WORKSPACE,
                    "workspace is NULL and workspace_bytes is %zu: expected memory of that size, or 0 bytes",
                    workspace_bytes);
    }
    if (const Status status = problem_.check(args); status != KVAPPEND_SUCCESS) {
        return status;
    }
    return backend_->enter(target_, stream);
}

Status Plan::validate(const kvappend_args &args, const void *workspace, std::size_t workspace_bytes,
                      CUstream_st *stream, kvappend_fault &fault) const {
    if (const Status status = admit(args, workspace, workspace_bytes, stream); status != KVAPPEND_SUCCESS) {
        return status;
    }
    return problem_.empty() ? KVAPPEND_SUCCESS : kvappend::validate(problem_, *backend_, args, stream, fault);
}

Status Plan::run(const kvappend_args &args, const void *workspace, std::size_t workspace_bytes,
                 CUstream_st *stream) const {
    if (const Status status = admit(args, workspace, workspace_bytes, stream); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (problem_.empty()) {
        return KVAPPEND_SUCCESS;
    }
    if (!problem_.addressing.settles()) {
        return kernel_->launch(problem_, target_, args, stream);
    }
    if (const Status status = backend_->admit(problem_, args); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = kernel_->launch(problem_, target_, args, stream); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = backend_->count(problem_, args, stream); status != KVAPPEND_SUCCESS) {
        return status;
    }
    return backend_->advance(problem_, args, stream);
}

Status Plan::run_all(const Backend &backend, Appends &appends, CUstream_st *stream) {
    const auto for_each_settling = [&](auto act) {
        for (std::size_t i = 0; i < appends.count(); ++i) {
            const LayerAppend append = appends.at(i);
            if (!append.problem->empty() && append.problem->addressing.settles()) {
                if (const Status status = act(append); status != KVAPPEND_SUCCESS) {
                    return fail_in_layer(status, i);
                }
            }
        }
        return Status{KVAPPEND_SUCCESS};
    };
    if (const Status status =
            for_each_settling([&](const LayerAppend &a) { return backend.admit(*a.problem, *a.args); });
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status = backend.launch_all(appends, stream); status != KVAPPEND_SUCCESS) {
        return status;
    }
    if (const Status status =
            for_each_settling([&](const LayerAppend &a) { return backend.count(*a.problem, *a.args, stream); });
        status != KVAPPEND_SUCCESS) {
        return status;
    }
    return for_each_settling([&](const LayerAppend &a) { return backend.advance(*a.problem, *a.args, stream); });
}

const Kernel *kernel_at(std::size_t index) {
    for (const Backend *backend : {&cuda_backend(), &host_backend()}) {
        if (index < backend->kernels.size()) {
            return &backend->kernels[index];
        }
        index -= backend->kernels.size();
    }
    return nullptr;
}

} // namespace kvappend
