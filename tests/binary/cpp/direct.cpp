// SPDX-License-Identifier: Apache-2.0
// The calls of wrapped.cpp, written against the C header.
#include <kvappend/kvappend.h>

#include <cstddef>

extern "C" kvappend_status run(kvappend_plan *const &plan, const kvappend_args &args, CUstream_st *stream) {
    return kvappend_plan_run(plan, &args, nullptr, 0, stream);
}

extern "C" kvappend_status can_implement(kvappend_plan *const &plan, const kvappend_args &args) {
    return kvappend_plan_can_implement(plan, &args);
}

extern "C" kvappend_status validate(kvappend_plan *const &plan, const kvappend_args &args, kvappend_fault &fault) {
    return kvappend_plan_validate(plan, &args, nullptr, 0, nullptr, &fault);
}

extern "C" bool step(kvappend_plan *const &plan, const float *rows, std::size_t count, CUstream_st *stream) {
    const void *const k_new = count == 0 ? nullptr : rows;
    const std::size_t k_new_bytes = count * sizeof *rows;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = k_new;
    args.k_new_bytes = k_new_bytes;
    return kvappend_plan_run(plan, &args, nullptr, 0, stream) == KVAPPEND_SUCCESS;
}
