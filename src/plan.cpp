// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include "storage.hpp"
#include "validate.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstring>

namespace kvappend {

namespace {

Status check_preference(const kvappend_preference &preference, std::int32_t backend) {
    constexpr std::int32_t most_threads = 1024;
    if (preference.host_threads < 0 || preference.host_threads > most_threads) {
        return fail(KVAPPEND_ERROR_HOST_THREADS, "preference.host_threads is %" PRId32 ": expected 0 to %" PRId32,
                    preference.host_threads, most_threads);
    }
    if (preference.host_threads > 1 && backend != KVAPPEND_BACKEND_HOST) {
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

Status check_architecture(std::span<const NamedKernel> kernels, const BackendState &state) {
    const std::int32_t architecture = state.architecture();
    const std::int32_t least = std::ranges::min(kernels, {}, &NamedKernel::architecture).architecture;
    if (architecture >= least) {
        return KVAPPEND_SUCCESS;
    }
    return fail(
        KVAPPEND_ERROR_UNSUPPORTED,
        "device %d has compute capability %d.%d: expected %d.%d or more, which the kernels of this library need",
        state.device(), architecture / 10, architecture % 10, least / 10, least % 10);
}

// Why a kernel does not serve a problem on this machine, as the end of a message.
const char *lack_of(const NamedKernel &kernel, const Problem &problem) {
    if (kernel.operation != problem.operation) {
        return problem.gathers() ? "; this problem is a gather"
               : problem.moves() ? "; this problem is a move"
                                 : "; this problem is an append";
    }
    if ((kernel.family == Kernel::Family::rotate) != problem.rotates()) {
        return problem.rotates() ? "; this problem rotates rows" : "; this problem does not rotate rows";
    }
    if ((kernel.family == Kernel::Family::convert) != problem.converts_alone()) {
        return problem.converts() ? "; this problem has a cache in another format"
                                  : "; this problem copies the bits of its rows";
    }
    if (kernel.family == Kernel::Family::dense && !problem.plain_dense()) {
        return "; this problem is not a plain dense one";
    }
    if (kernel.variant == Kernel::Variant::layers && problem.has_query()) {
        return "; this problem rotates Q, which has a launch of its own";
    }
    return kernel.variant == Kernel::Variant::avx    ? "; this machine has no AVX"
           : kernel.variant == Kernel::Variant::avx2 ? "; this machine has no AVX2"
                                                     : "";
}

Status choose_named(const Backend &backend, const BackendState &state, const Problem &problem, const char *wanted,
                    const NamedKernel *&chosen) {
    const auto kernels = backend.kernels();
    const auto named = std::ranges::find_if(
        kernels, [wanted](const NamedKernel &kernel) { return std::strcmp(kernel.name.data(), wanted) == 0; });
    if (named == kernels.end()) {
        return fail(
            KVAPPEND_ERROR_KERNEL,
            "preference.kernel_name is \"%.64s\": expected the name of a kernel of the descriptor's backend, as "
            "kvappend_kernel_name gives it",
            wanted);
    }
    if (state.architecture() < named->architecture || !backend.supports(*named, state, problem)) {
        return fail(KVAPPEND_ERROR_KERNEL,
                    "preference.kernel_name is \"%s\": expected a kernel that serves this problem on this machine%s",
                    wanted, lack_of(*named, problem));
    }
    chosen = &*named;
    return KVAPPEND_SUCCESS;
}

// Chooses the kernel named `wanted`, or without a name the first kernel that serves the problem.
Status choose(const Backend &backend, const BackendState &state, const Problem &problem, const char *wanted,
              const NamedKernel *&chosen) {
    const auto kernels = backend.kernels();
    TRY(check_architecture(kernels, state));
    if (wanted != nullptr) {
        return choose_named(backend, state, problem, wanted, chosen);
    }
    chosen = &*std::ranges::find_if(kernels, [&](const NamedKernel &kernel) {
        return state.architecture() >= kernel.architecture && backend.supports(kernel, state, problem);
    });
    return KVAPPEND_SUCCESS;
}

} // namespace

Status Plan::create(const kvappend_descriptor &descriptor, const kvappend_preference &preference, Plan &plan) {
    TRY(Problem::create(descriptor, plan.problem_));
    TRY(check_preference(preference, descriptor.backend));
    plan.backend_ = descriptor.backend == KVAPPEND_BACKEND_CUDA ? &cuda_backend() : &host_backend();
    TRY(plan.backend_->open(plan.state_));
    TRY(choose(*plan.backend_, *plan.state_, plan.problem_, preference.kernel_name, plan.kernel_));
    return plan.backend_->prepare(plan.problem_, *plan.kernel_, preference.host_threads, *plan.state_);
}

Status Plan::check(const kvappend_args &args, const RunContext &context) const {
    if (context.workspace == nullptr && context.workspace_bytes != 0) {
        return fail(KVAPPEND_ERROR_WORKSPACE,
                    "workspace is NULL and workspace_bytes is %zu: expected memory of that size, or 0 bytes",
                    context.workspace_bytes);
    }
    TRY(problem_.check(args));
    return backend_->check_stream(*state_, context.stream);
}

Status Plan::validate(const kvappend_args &args, const RunContext &context, kvappend_fault &fault) const {
    TRY(check(args, context));
    return problem_.empty() ? KVAPPEND_SUCCESS : kvappend::validate(problem_, *backend_, args, context.stream, fault);
}

Status Plan::run(const kvappend_args &args, const RunContext &context) const {
    TRY(check(args, context));
    if (problem_.empty()) {
        return KVAPPEND_SUCCESS;
    }
    if (!problem_.addressing.has_more_than_copies()) {
        return backend_->run(call(args), context.stream);
    }
    TRY(backend_->before(call(args)));
    TRY(backend_->run(call(args), context.stream));
    return backend_->after(call(args), {counts(), resets(), advances()}, context.stream);
}

void Plan::describe(kvappend_sku &sku) const {
    const auto vector_bytes = [this](const Copy &copy) {
        return copy.empty() ? 0 : static_cast<std::int32_t>(std::min(copy.alignment, kernel_->access_bytes));
    };
    sku.operation = static_cast<std::int32_t>(problem_.operation);
    sku.addressing = problem_.addressing.kind;
    sku.backend = problem_.backend;
    sku.element_type = problem_.element_type;
    sku.architecture = state_->architecture();
    sku.device = state_->device();
    sku.k_vector_bytes = vector_bytes(problem_.k);
    sku.v_vector_bytes = vector_bytes(problem_.v);
    sku.kernel_name = kernel_->name.data();
}

void Plan::guarantee(kvappend_precision_guarantee &g) const {
    g.k_bit_exact = problem_.k.converts() || problem_.k.rotates() ? 0 : 1;
    g.v_bit_exact = problem_.v.converts() ? 0 : 1;
    g.deterministic = 1;
    g.same_on_all_backends = 1;
    const auto error = [this](const Copy &copy) {
        const bool by_element = problem_.gathers() || !copy.converts();
        const std::int32_t type = by_element ? stored_type_of(problem_.element_type) : copy.format.type;
        return copy.converts() || copy.rotates() ? error_of(type) : 0;
    };
    g.k_error = error(problem_.k);
    g.v_error = error(problem_.v);
}

const char *Plan::kernel_name(std::size_t index) {
    for (const Backend *const backend : {&cuda_backend(), &host_backend()}) {
        const auto kernels = backend->kernels();
        if (index < kernels.size()) {
            return kernels[index].name.data();
        }
        index -= kernels.size();
    }
    return nullptr;
}

} // namespace kvappend
