// SPDX-License-Identifier: Apache-2.0
// A problem with the kernel chosen for it. Never changes after its creation, so threads may share it.
#pragma once

#include "kernel.hpp"

#include <cstddef>

namespace kvappend {

class Plan {
public:
    Plan() = default;
    Plan(const Plan &) = delete;
    Plan &operator=(const Plan &) = delete;
    ~Plan();

    // Checks, chooses and loads. The plan is unusable if this fails.
    static Status create(const kvappend_descriptor &descriptor, const kvappend_preference &preference, Plan &plan);

    Status can_implement(const kvappend_args &args) const { return problem_.check(args); }
    Status run(const kvappend_args &args, const void *workspace, std::size_t workspace_bytes,
               CUstream_st *stream) const;

    // Several plans of one backend at once, each append of which `admit` has let pass.
    static Status run_all(const Backend &backend, Appends &appends, CUstream_st *stream);

    // What run, run_all and validate refuse alike.
    Status admit(const kvappend_args &args, const void *workspace, std::size_t workspace_bytes,
                 CUstream_st *stream) const;

    Status validate(const kvappend_args &args, const void *workspace, std::size_t workspace_bytes, CUstream_st *stream,
                    kvappend_fault &fault) const;

    // The copy works in place: no kernel of any backend needs scratch memory.
    static constexpr std::size_t needed_workspace = 0;

    const Problem &problem() const { return problem_; }
    const Target &target() const { return target_; }
    const Kernel &kernel() const { return *kernel_; }
    const Backend &backend() const { return *backend_; }

private:
    Problem problem_{};
    Target target_{};
    const Backend *backend_ = nullptr;
    const Kernel *kernel_ = nullptr;
};

// The kernels of all backends as one table; NULL past its end.
const Kernel *kernel_at(std::size_t index);

} // namespace kvappend
