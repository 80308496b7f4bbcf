// SPDX-License-Identifier: Apache-2.0
// One plan, many threads, each with buffers and a stream of its own: a plan never changes.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t batch = 3, heads = 2, cache_rows = 32, dim = 20;
constexpr std::size_t row_bytes = dim * sizeof(float);
constexpr std::size_t new_bytes = batch * heads * row_bytes;
constexpr std::size_t cache_bytes = batch * heads * cache_rows * row_bytes;

// Fills a cache row by row through the shared plan, fails a call in between, and compares the whole cache at the end.
// Catch2's macros are for one thread only, so this counts what went wrong.
int append_and_compare(const kvappend_plan *plan, unsigned char mark) {
    int wrong = 0;
    const auto memory = another_subject();
    std::vector<unsigned char> expected(cache_bytes);
    auto *const source = memory->allocate(new_bytes);
    auto *const k = memory->allocate(cache_bytes);
    auto *const v = memory->allocate(cache_bytes);
    auto *const offsets = memory->allocate(batch * sizeof(std::int64_t));
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = source;
    args.k_cache = k;
    args.v_cache = v;
    args.cache_offsets = offsets;
    for (std::int64_t step = 0; step < cache_rows; ++step) {
        std::vector<unsigned char> rows(new_bytes);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            rows[i] = static_cast<unsigned char>(mark + i * 7 + static_cast<std::size_t>(step) * 31);
        }
        std::vector<std::int64_t> at;
        for (std::int64_t b = 0; b < batch; ++b) {
            at.push_back((step + b * 5) % cache_rows);
            for (std::int64_t h = 0; h < heads; ++h) {
                std::memcpy(expected.data() +
                                static_cast<std::size_t>((b * heads + h) * cache_rows + at.back()) * row_bytes,
                            rows.data() + static_cast<std::size_t>(b * heads + h) * row_bytes, row_bytes);
            }
        }
        memory->upload(source, rows.data(), rows.size());
        memory->upload(offsets, at.data(), at.size() * sizeof at[0]);
        wrong += kvappend_plan_run(plan, &args, nullptr, 0, memory->stream()) != KVAPPEND_SUCCESS;

        kvappend_args bad = args;
        bad.k_cache_bytes = mark + 1u;
        wrong += kvappend_plan_run(plan, &bad, nullptr, 0, memory->stream()) != KVAPPEND_ERROR_BUFFER_TOO_SMALL;
        const std::string number = "is " + std::to_string(mark + 1u) + ":";
        wrong += std::string(kvappend_last_error_message()).find(number) == std::string::npos;
    }
    memory->synchronize();
    std::vector<unsigned char> found(cache_bytes);
    for (auto *const cache : {k, v}) {
        memory->download(found.data(), cache, found.size());
        wrong += found != expected;
    }
    for (auto *const pointer : {source, k, v, offsets}) {
        memory->release(pointer);
    }
    return wrong;
}

// NULL if it fails, which each run then does as well.
PlanPointer make_small_plan() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = batch;
    d.heads = heads;
    d.new_rows = 1;
    d.cache_rows = cache_rows;
    d.k_dim = d.v_dim = dim;
    kvappend_plan *plan = nullptr;
    kvappend_plan_create(&d, nullptr, &plan);
    return PlanPointer(plan);
}

// The sum of what eight threads count at once; each is given a mark of its own.
template <class Count>
int on_threads(Count count) {
    std::atomic<int> sum = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&, i] { sum += count(static_cast<unsigned char>(i * 16)); });
    }
    for (auto &thread : threads) {
        thread.join();
    }
    return sum;
}

} // namespace

TEST_CASE("many threads run one plan at once", "[threads]") {
    const PlanPointer plan = make_small_plan();
    CHECK(on_threads([&](unsigned char mark) { return append_and_compare(plan.get(), mark); }) == 0);
}

TEST_CASE("threads create, run and destroy plans of their own at once", "[threads]") {
    CHECK(on_threads([](unsigned char mark) {
              int wrong = 0;
              for (int turn = 0; turn < 4; ++turn) {
                  wrong += append_and_compare(make_small_plan().get(), mark);
              }
              return wrong;
          }) == 0);
}
