// SPDX-License-Identifier: Apache-2.0
// A run of several plans, such as those of all layers. The caller passes over its calls several times, because
// nothing may be allocated to hold them. It checks all, calls `begin`, adds all and calls `finish`. If
// `has_more_than_copies`, it then calls `after`: in one pass to count rows, and in a second pass to advance offsets.
// Therefore nothing is written unless all calls are valid, and all rows are counted by the offsets that placed them.
#pragma once

#include "plan.hpp"

namespace kvappend {

class Layers {
public:
    Layers(const Plan &first, const RunContext &context)
        : first_(first), context_(context), kind_{.all_dense = true,
                                                  .some_convert = false,
                                                  .some_rotate = false,
                                                  .operation = first.problem().operation} {}

    // Refuses what a run of one plan refuses, and plans of different backends or operations.
    Status check(const Plan &plan, const kvappend_args &args);

    void begin() { run_ = first_.backend().begin(storage_, kind_, context_.stream); }
    Status add(const Plan &plan, const kvappend_args &args);
    Status finish() { return run_->finish(); }

    bool has_more_than_copies() const { return has_more_than_copies_; }
    Status after(const Plan &plan, const kvappend_args &args, Backend::After work) const {
        return plan.backend().after(plan.call(args), work, context_.stream);
    }

private:
    const Plan &first_;
    const RunContext &context_;
    LayersKind kind_;
    bool has_more_than_copies_ = false;
    LayeredRun *run_ = nullptr;
    LayeredRunStorage storage_; // of *run_
};

} // namespace kvappend
