// SPDX-License-Identifier: Apache-2.0
// Each request that the library makes for memory, or for a thread, fails once: of each call the first, then the second,
// until a call meets with no failure. A call that fails says so, leaves nothing behind and takes nothing with it.
#include "../../support/hooks/hooks.hpp"
#include "threads_alive.hpp"

#include <kvappend/kvappend.h>

#include <catch2/catch_test_macros.hpp>

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace {

struct PlanDeleter {
    void operator()(kvappend_plan *plan) const { kvappend_plan_destroy(plan); }
};
using PlanPointer = std::unique_ptr<kvappend_plan, PlanDeleter>;

// A batch of ragged samples on pages, which has as many arrays of indices as there can be.
kvappend_descriptor on_pages(std::int32_t backend) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = backend;
    d.addressing = KVAPPEND_ADDRESSING_PAGED_CSR;
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.flags = KVAPPEND_FLAG_LEFT_PADS | KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_COUNT_WRITTEN;
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    d.batch = d.heads = 2;
    d.new_rows = 6;
    d.cache_rows = d.cache_blocks = d.table_entries = 4;
    d.k_dim = d.v_dim = 8;
    return d;
}

// A call of it, all of whose rows have places.
struct Call {
    explicit Call(std::int32_t backend) {
        const kvappend_descriptor d = on_pages(backend);
        kvappend_plan *made = nullptr;
        REQUIRE(kvappend_plan_create(&d, nullptr, &made) == KVAPPEND_SUCCESS);
        plan.reset(made);
        args.k_new = k_new.data();
        args.v_new = v_new.data();
        args.k_cache = k_cache.data();
        args.v_cache = v_cache.data();
        args.cache_offsets = offsets.data();
        args.lengths = lengths.data();
        args.left_pads = left_pads.data();
        args.page_table = page_table.data();
        args.page_indptr = page_indptr.data();
        args.report = &report;
    }

    PlanPointer plan;
    std::vector<float> k_new = std::vector<float>(6 * 2 * 8, 1);
    std::vector<float> v_new = std::vector<float>(6 * 2 * 8, 2);
    std::vector<float> k_cache = std::vector<float>(4 * 2 * 4 * 8);
    std::vector<float> v_cache = std::vector<float>(4 * 2 * 4 * 8);
    std::array<std::int64_t, 2> offsets{0, 1};
    std::array<std::int32_t, 3> lengths{0, 3, 6};
    std::array<std::int32_t, 2> left_pads{1, 0};
    std::array<std::int32_t, 4> page_table{3, 2, 1, 0};
    std::array<std::int32_t, 3> page_indptr{0, 2, 4};
    kvappend_report report = KVAPPEND_REPORT_INIT;
    kvappend_args args = KVAPPEND_ARGS_INIT;
};

// A plan comes about and ends; or it does not, and then there is none.
kvappend_status create_and_destroy(const kvappend_descriptor &d, const kvappend_preference *preference) {
    kvappend_descriptor other = d;
    auto *plan = reinterpret_cast<kvappend_plan *>(&other); // not NULL
    const kvappend_status status = kvappend_plan_create(&d, preference, &plan);
    const bool consistent = (status == KVAPPEND_SUCCESS) == (plan != nullptr);
    kvappend_plan_destroy(plan);
    return consistent ? status : -1;
}

// Makes the nth request of a call fail, for n from 1 until the call makes no more, and returns how many it makes.
// `kept` is for calls that start threads, of which the C library keeps memory for the next ones.
int fail_each(Request kind, const std::function<kvappend_status()> &call,
              const std::function<void(kvappend_status)> &check_failed, bool kept = false) {
    for (int nth = 1;; ++nth) {
        INFO("request " << nth);
        REQUIRE(nth < 100);
        bool happened = false;
        std::int64_t blocks = 0;
        const kvappend_status status = [&] {
            const Failing failing(kind, nth);
            const std::int64_t before = blocks_held();
            const kvappend_status told = call();
            blocks = blocks_held() - before;
            happened = failing.happened();
            return told;
        }();
        CHECK((blocks == 0 || kept));
        INFO(kvappend_status_name(status) << ": " << kvappend_last_error_message());
        if (!happened) {
            CHECK(status == KVAPPEND_SUCCESS);
            return nth - 1;
        }
        check_failed(status);
    }
}

std::vector<std::int32_t> backends() {
    std::vector<std::int32_t> all{KVAPPEND_BACKEND_HOST};
    const kvappend_descriptor d = on_pages(KVAPPEND_BACKEND_CUDA);
    kvappend_plan *plan = nullptr;
    if (kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_SUCCESS) {
        all.push_back(KVAPPEND_BACKEND_CUDA);
    }
    kvappend_plan_destroy(plan);
    return all;
}

} // namespace

TEST_CASE("the hooks notice, and refuse, what they are for", "[memory]") {
    const Failing second(Request::memory, 2);
    void *const first = ::operator new(8, std::nothrow);
    void *const none = ::operator new(8, std::nothrow);
    void *const third = ::operator new(8, std::nothrow);
    const bool happened = second.happened();
    const bool right = first != nullptr && none == nullptr && third != nullptr;
    for (void *const block : {first, none, third}) {
        ::operator delete(block);
    }
    CHECK(happened);
    CHECK(right);
}

TEST_CASE("plan creation survives each failing request for memory", "[memory]") {
    for (const std::int32_t backend : backends()) {
        INFO("backend " << backend);
        const kvappend_descriptor d = on_pages(backend);
        const int requests = fail_each(
            Request::memory, [&] { return create_and_destroy(d, nullptr); },
            [](kvappend_status status) {
                CHECK(status == KVAPPEND_ERROR_OUT_OF_MEMORY);
                CHECK(std::string(kvappend_last_error_message()).find("no memory") != std::string::npos);
            });
        CHECK(requests >= 1);
    }
}

TEST_CASE("creation of a plan with threads survives each failing request for memory or a thread", "[memory]") {
    const kvappend_descriptor d = on_pages(KVAPPEND_BACKEND_HOST);
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    p.host_threads = 6;
    const std::int64_t alone = threads_alive();
    const auto create = [&] { return create_and_destroy(d, &p); };
    // Some of the memory is that of the C library for a new thread; without it there is one thread less.
    const int requests = fail_each(
        Request::memory, create,
        [&](kvappend_status status) {
            CHECK((status == KVAPPEND_ERROR_OUT_OF_MEMORY || status == KVAPPEND_ERROR_HOST_THREADS));
            CHECK(only_threads_alive(alone));
        },
        true);
    CHECK(requests >= 3);
    int begun = 0;
    const int threads = fail_each(
        Request::thread, create,
        [&](kvappend_status status) {
            CHECK(status == KVAPPEND_ERROR_HOST_THREADS);
            CHECK(std::string(kvappend_last_error_message()) == "preference.host_threads is 6: expected at most " +
                                                                    std::to_string(++begun) +
                                                                    ", as the system starts no more");
            CHECK(only_threads_alive(alone));
        },
        true);
    CHECK(threads == 5);
    CHECK(only_threads_alive(alone));
}

TEST_CASE("validation survives each failing request for memory, and writes nothing", "[memory]") {
    for (const std::int32_t backend : backends()) {
        INFO("backend " << backend);
        Call call(backend);
        kvappend_fault fault = KVAPPEND_FAULT_INIT;
        const int requests = fail_each(
            Request::memory,
            [&] {
                const kvappend_status status =
                    kvappend_plan_validate(call.plan.get(), &call.args, nullptr, 0, nullptr, &fault);
                // A runtime in which nothing happens brings no indices: whatever is found in memory is then a finding.
                return backend == KVAPPEND_BACKEND_CUDA && status != KVAPPEND_ERROR_OUT_OF_MEMORY ? KVAPPEND_SUCCESS
                                                                                                  : status;
            },
            [&](kvappend_status status) {
                const kvappend_fault none = KVAPPEND_FAULT_INIT;
                CHECK(status == KVAPPEND_ERROR_OUT_OF_MEMORY);
                CHECK(std::memcmp(&fault, &none, sizeof fault) == 0);
            });
        CHECK(requests >= 5);
        CHECK(call.k_cache == std::vector<float>(call.k_cache.size()));
    }
}

TEST_CASE("no other call asks for memory, the first failure of a thread excepted", "[memory]") {
    for (const std::int32_t backend : backends()) {
        INFO("backend " << backend);
        Call call(backend);
        kvappend_plan_run(nullptr, nullptr, nullptr, 0, nullptr);
        const std::vector<const kvappend_plan *> plans(90, call.plan.get());
        const std::vector<const kvappend_args *> args(90, &call.args);
        kvappend_args small = call.args;
        small.k_cache_bytes = 1;
        const std::vector<std::function<kvappend_status()>> calls = {
            [&] { return kvappend_plan_run(call.plan.get(), &call.args, nullptr, 0, nullptr); },
            [&] { return kvappend_plan_run_layers(plans.data(), args.data(), plans.size(), nullptr, 0, nullptr); },
            [&] { return kvappend_plan_can_implement(call.plan.get(), &call.args); },
            [&] {
                kvappend_sku sku = KVAPPEND_SKU_INIT;
                return kvappend_plan_get_sku(call.plan.get(), &sku);
            },
            [&] {
                const bool refused =
                    kvappend_plan_run(call.plan.get(), &small, nullptr, 0, nullptr) == KVAPPEND_ERROR_BUFFER_TOO_SMALL;
                return refused ? KVAPPEND_SUCCESS : -1;
            }};
        for (const auto &make : calls) {
            CHECK(fail_each(Request::memory, make, [](kvappend_status) {}) == 0);
        }
    }
}
