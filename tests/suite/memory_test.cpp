// SPDX-License-Identifier: Apache-2.0
// When host memory runs out a plan is refused, and nothing is thrown. The library allocates by the nothrow operator new
// alone, which is replaced here for the whole executable.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <new>

namespace {

std::atomic<bool> exhausted = false;

} // namespace

void *operator new(std::size_t bytes, const std::nothrow_t & /*tag*/) noexcept {
    if (exhausted) {
        return nullptr;
    }
    try {
        return ::operator new(bytes);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

TEST_CASE("a plan for which there is no memory is refused", "[arguments]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    auto *plan = reinterpret_cast<kvappend_plan *>(&d);
    exhausted = true;
    const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
    exhausted = false;
    CHECK(told(status).starts_with("KVAPPEND_ERROR_OUT_OF_MEMORY: plan: there is no memory for its "));
    CHECK(plan == nullptr);
    CHECK(make_plan(d) != nullptr);
}
