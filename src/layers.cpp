// SPDX-License-Identifier: Apache-2.0
#include "layers.hpp"

#include <cinttypes>

namespace kvappend {

Status Layers::check(const Plan &plan, const kvappend_args &args) {
    if (&plan.backend() != &first_.backend()) {
        return fail(KVAPPEND_ERROR_BACKEND,
                    "the plan's backend is %" PRId32 ": expected %" PRId32 ", that of the first layer's plan",
                    plan.problem().backend, first_.problem().backend);
    }
    if (plan.problem().operation != first_.problem().operation) {
        return fail(KVAPPEND_ERROR_OPERATION, "the plan's operation is %d: expected %d, that of the first layer's plan",
                    static_cast<int>(plan.problem().operation), static_cast<int>(first_.problem().operation));
    }
    TRY(plan.check(args, context_));
    kind_.all_dense = kind_.all_dense && plan.problem().plain_dense();
    kind_.some_convert = kind_.some_convert || plan.problem().converts();
    kind_.some_rotate = kind_.some_rotate || plan.problem().rotates();
    if (plan.problem().empty() || !plan.problem().addressing.has_more_than_copies()) {
        return KVAPPEND_SUCCESS;
    }
    has_more_than_copies_ = true;
    return plan.backend().before(plan.call(args));
}

Status Layers::add(const Plan &plan, const kvappend_args &args) {
    return plan.problem().empty() ? KVAPPEND_SUCCESS : run_->add(plan.call(args));
}

} // namespace kvappend
