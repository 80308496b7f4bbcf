// SPDX-License-Identifier: Apache-2.0
// The threads of a plan: what is written does not depend on them, whoever runs the plan, and in a child process too.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t batch = 4;
constexpr std::int64_t heads = 8;
constexpr std::int64_t new_rows = 64;
constexpr std::int64_t cache_rows = 80;
constexpr std::int64_t dim = 128;

// A dense append of two mebibytes. With `nhd`, the heads of a row are adjacent, and rows are shared rather than heads.
kvappend_descriptor append(bool nhd) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = batch;
    d.heads = heads;
    d.new_rows = new_rows;
    d.cache_rows = cache_rows;
    d.k_dim = d.v_dim = dim;
    if (nhd) {
        for (std::int64_t *const strides : {d.k_cache_strides, d.v_cache_strides}) {
            strides[KVAPPEND_AXIS_BATCH] = cache_rows * heads * dim;
            strides[KVAPPEND_AXIS_HEAD] = dim;
            strides[KVAPPEND_AXIS_ROW] = heads * dim;
        }
    }
    return d;
}

PlanPointer plan_with(bool nhd, std::int32_t threads) {
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    preference.host_threads = threads;
    return make_plan(append(nhd), &preference);
}

// Runs the plan and says whether each element of the caches is right. Uses none of Catch2, for threads and children.
bool runs_well(const kvappend_plan &plan, bool nhd, std::uint32_t mark) {
    std::vector<std::uint32_t> rows(batch * heads * new_rows * dim);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        rows[i] = mark + static_cast<std::uint32_t>(i);
    }
    std::vector<std::uint32_t> k(batch * heads * cache_rows * dim);
    std::vector<std::uint32_t> v = k;
    const std::int64_t offsets[batch] = {0, -5, 3, 40};
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = rows.data();
    args.k_cache = k.data();
    args.v_cache = v.data();
    args.cache_offsets = offsets;
    std::vector<std::uint32_t> expected(k.size());
    for (std::int64_t b = 0; b < batch; ++b) {
        for (std::int64_t h = 0; h < heads; ++h) {
            for (std::int64_t l = 0; l < new_rows; ++l) {
                const std::int64_t position = offsets[b] + l;
                if (position < 0 || position >= cache_rows) {
                    continue;
                }
                const std::int64_t to =
                    nhd ? (b * cache_rows + position) * heads + h : (b * heads + h) * cache_rows + position;
                const std::int64_t from = (b * heads + h) * new_rows + l;
                for (std::int64_t i = 0; i < dim; ++i) {
                    expected[static_cast<std::size_t>(to * dim + i)] = rows[static_cast<std::size_t>(from * dim + i)];
                }
            }
        }
    }
    return kvappend_plan_run(&plan, &args, nullptr, 0, nullptr) == KVAPPEND_SUCCESS && k == expected && v == expected;
}

} // namespace

TEST_CASE("what is written does not depend on a plan's threads", "[host_threads]") {
    for (const bool nhd : {false, true}) {
        for (const std::int32_t threads : {0, 1, 2, 5}) {
            CHECK(runs_well(*plan_with(nhd, threads), nhd, 1));
        }
    }
}

TEST_CASE("many threads run one plan that has threads", "[host_threads]") {
    const PlanPointer plan = plan_with(false, 3);
    std::atomic<int> wrong = 0;
    std::vector<std::thread> callers;
    for (std::uint32_t caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&, caller] {
            for (std::uint32_t run = 0; run < 8; ++run) {
                wrong += runs_well(*plan, false, caller * 1000 + run) ? 0 : 1;
            }
        });
    }
    for (std::thread &caller : callers) {
        caller.join();
    }
    CHECK(wrong == 0);
}

TEST_CASE("plans with threads come and go without a run", "[host_threads]") {
    for (int i = 0; i < 50; ++i) {
        CHECK(plan_with(false, 4) != nullptr);
    }
}

TEST_CASE("a child process runs and destroys its parent's plan", "[host_threads]") {
    PlanPointer plan = plan_with(false, 3);
    CHECK(runs_well(*plan, false, 1));
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(60); // A child that waits for threads it does not have would wait for ever.
        const bool well = runs_well(*plan, false, 2);
        plan.reset();
        _exit(well ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    CHECK(runs_well(*plan, false, 3));
}

TEST_CASE("numbers of threads that are none are refused", "[host_threads]") {
    const kvappend_descriptor d = append(false);
    for (const std::int32_t threads : {-1, 1025, INT32_MIN, INT32_MAX}) {
        kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
        preference.host_threads = threads;
        kvappend_plan *plan = nullptr;
        CHECK(kvappend_plan_create(&d, &preference, &plan) == KVAPPEND_ERROR_HOST_THREADS);
        CHECK(plan == nullptr);
    }
}
