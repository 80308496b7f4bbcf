// SPDX-License-Identifier: Apache-2.0
// When host memory runs out a plan is refused, or a validation, and nothing is thrown. The library allocates by the
// nothrow operators new alone, which are replaced here for the whole executable.
#include "validated.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <new>

namespace {

// How many more requests will be met, and the bytes of the greatest that there was.
std::atomic<int> remaining = INT_MAX;
std::atomic<std::size_t> greatest = 0;

bool refuses(std::size_t bytes) {
    greatest = std::max(greatest.load(), bytes);
    return remaining != INT_MAX && remaining-- <= 0;
}

// While it lives only so many requests are met.
class Limit {
public:
    explicit Limit(int requests) { remaining = requests; }
    Limit(const Limit &) = delete;
    Limit &operator=(const Limit &) = delete;
    ~Limit() { remaining = INT_MAX; }
};

} // namespace

void *operator new(std::size_t bytes, const std::nothrow_t & /*tag*/) noexcept {
    if (refuses(bytes)) {
        return nullptr;
    }
    try {
        return ::operator new(bytes);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

void *operator new[](std::size_t bytes, const std::nothrow_t & /*tag*/) noexcept {
    if (refuses(bytes)) {
        return nullptr;
    }
    try {
        return ::operator new[](bytes);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

TEST_CASE("a plan for which there is no memory is refused", "[arguments]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    auto *plan = reinterpret_cast<kvappend_plan *>(&d);
    const kvappend_status status = [&] {
        const Limit none(0);
        return kvappend_plan_create(&d, nullptr, &plan);
    }();
    CHECK(told(status).starts_with("KVAPPEND_ERROR_OUT_OF_MEMORY: plan: there is no memory for its "));
    CHECK(plan == nullptr);
    CHECK(make_plan(d) != nullptr);
}

TEST_CASE("a plan for whose layouts there is no memory is refused", "[arguments]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = d.heads = d.new_rows = d.cache_rows = d.k_dim = 1;
    kvappend_plan *plan = nullptr;
    const kvappend_status status = [&] {
        const Limit limit(1);
        return kvappend_plan_create(&d, nullptr, &plan);
    }();
    CHECK(told(status).starts_with("KVAPPEND_ERROR_OUT_OF_MEMORY: plan: there is no memory for the layouts of its "));
    CHECK(plan == nullptr);
    CHECK(make_plan(d) != nullptr);
}

TEST_CASE("a plan for whose threads there is no memory is refused", "[arguments]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("only plans of the host backend have threads");
    }
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = d.heads = d.new_rows = d.cache_rows = d.k_dim = 1;
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    p.host_threads = 3;
    // The plan, the layouts of its buffers and what its backend keeps are allocated before.
    for (const int requests : {3, 4}) {
        INFO(requests << " requests are met");
        kvappend_plan *plan = nullptr;
        const kvappend_status status = [&] {
            const Limit limit(requests);
            return kvappend_plan_create(&d, &p, &plan);
        }();
        CHECK(told(status).starts_with(
            "KVAPPEND_ERROR_OUT_OF_MEMORY: preference.host_threads is 3: there is no memory "));
        CHECK(plan == nullptr);
    }
    CHECK(make_plan(d, &p) != nullptr);
}

TEST_CASE("a validation for which there is no memory is refused", "[validate]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.addressing = KVAPPEND_ADDRESSING_PAGED_CSR;
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.flags = KVAPPEND_FLAG_LEFT_PADS;
    d.batch = d.heads = 2;
    d.new_rows = 64;
    d.cache_rows = d.cache_blocks = 8;
    d.table_entries = 8;
    d.k_dim = 1;
    // The second sample has the places of the first, of which no failing call must tell.
    const Validated call(d, {.offsets = {0, 0},
                             .lengths = {0, 32, 64},
                             .left_pads = {1, 0},
                             .page_table = {0, 1, 2, 3, 0, 1, 2, 3},
                             .page_indptr = {0, 4, 8}});
    greatest = 0;
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    CHECK(call.validate(&fault) == KVAPPEND_ERROR_DUPLICATE);
    CHECK(fault.other_row == 0);
    // The 63 rows are what takes the most, as all but one of them have a place.
    CHECK(greatest <= 64 * 40);
    const kvappend_fault none = KVAPPEND_FAULT_INIT;
    int requests = 0;
    for (kvappend_status status = KVAPPEND_ERROR_OUT_OF_MEMORY; status == KVAPPEND_ERROR_OUT_OF_MEMORY;) {
        INFO(requests << " requests are met");
        REQUIRE(requests < 100);
        status = [&] {
            const Limit limit(requests);
            return call.validate(&fault);
        }();
        const std::string found = told(status);
        INFO(found);
        if (status == KVAPPEND_ERROR_OUT_OF_MEMORY) {
            CHECK(found.find("there is no host memory for ") != std::string::npos);
            CHECK(std::memcmp(&fault, &none, sizeof fault) == 0);
            ++requests;
        } else {
            CHECK(status == KVAPPEND_ERROR_DUPLICATE);
        }
        CHECK(call.untouched());
    }
    CHECK(requests >= 2);
}
