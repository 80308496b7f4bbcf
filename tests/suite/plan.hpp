// SPDX-License-Identifier: Apache-2.0
// A plan that ends with its scope, and statuses that read well in a failed test.
#pragma once

#include "subject.hpp"

#include <kvappend/kvappend.h>

#include <catch2/catch_test_macros.hpp>

#include <memory>
#include <string>

struct PlanDeleter {
    void operator()(kvappend_plan *plan) const { kvappend_plan_destroy(plan); }
};
using PlanPointer = std::unique_ptr<kvappend_plan, PlanDeleter>;

// The status' name and, of a failure, the message: compare with "KVAPPEND_SUCCESS".
inline std::string told(kvappend_status status) {
    const std::string name = kvappend_status_name(status);
    return status == KVAPPEND_SUCCESS ? name : name + ": " + kvappend_last_error_message();
}

// A plan whose creation must succeed.
inline PlanPointer make_plan(const kvappend_descriptor &descriptor, const kvappend_preference *preference = nullptr) {
    kvappend_plan *plan = nullptr;
    REQUIRE(told(kvappend_plan_create(&descriptor, preference, &plan)) == "KVAPPEND_SUCCESS");
    REQUIRE(plan != nullptr);
    return PlanPointer(plan);
}
