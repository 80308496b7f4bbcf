// SPDX-License-Identifier: Apache-2.0
// A problem with the kernel chosen for it. A plan never changes after its creation, so threads may share it.
#pragma once

#include "backend.hpp"

#include <cstddef>
#include <memory>

namespace kvappend {

// The arguments of a call other than its buffers.
struct RunContext {
    const void *workspace;
    std::size_t workspace_bytes;
    CUstream_st *stream;
};

class Plan {
public:
    Plan() = default;
    Plan(const Plan &) = delete;
    Plan &operator=(const Plan &) = delete;

    // Checks the descriptor, chooses a kernel and loads it. The plan is unusable if this fails.
    static Status create(const kvappend_descriptor &descriptor, const kvappend_preference &preference, Plan &plan);

    Status can_implement(const kvappend_args &args) const { return problem_.check(args); }
    Status run(const kvappend_args &args, const RunContext &context) const;
    Status validate(const kvappend_args &args, const RunContext &context, kvappend_fault &fault) const;

    // Refuses what run and validate refuse.
    Status check(const kvappend_args &args, const RunContext &context) const;

    // The copy works in place: no kernel of any backend needs scratch memory.
    static constexpr std::size_t needed_workspace = 0;

    // What a run does after its copy.
    bool counts() const { return !problem_.empty() && problem_.addressing.skip_policy != KVAPPEND_SKIP_SILENTLY; }
    bool reports() const { return counts() && problem_.addressing.skip_policy == KVAPPEND_SKIP_REPORT; }
    bool resets() const { return reports() && problem_.addressing.has(KVAPPEND_FLAG_RESET_REPORT); }
    bool advances() const { return !problem_.empty() && problem_.addressing.has(KVAPPEND_FLAG_ADVANCE); }

    const Problem &problem() const { return problem_; }
    const Backend &backend() const { return *backend_; }

    void describe(kvappend_sku &sku) const;
    void guarantee(kvappend_precision_guarantee &guarantee) const;
    // The name of an entry of the table of all backends' kernels; NULL past its end.
    static const char *kernel_name(std::size_t index);

    Call call(const kvappend_args &args) const { return {problem_, *kernel_, *state_, args}; }

private:
    Problem problem_{};
    const Backend *backend_ = nullptr;
    const NamedKernel *kernel_ = nullptr;
    std::unique_ptr<BackendState> state_;
};

} // namespace kvappend
