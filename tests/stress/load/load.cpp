// SPDX-License-Identifier: Apache-2.0
// Many threads make many calls at once, of one plan that all share and then of plans of their own; each call writes one
// row of a cache of the thread's own, and each time a cache is full every byte of it is compared.
//     load THREADS CALLS: so many calls by each of so many threads, for each of the two.
#include "../../suite/subject.hpp"

#include <kvappend/kvappend.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t heads = 2, dim = 20;
constexpr std::int64_t page_rows = 4, pages = 4, all_rows = page_rows * pages;
constexpr std::array<std::int32_t, pages> table{2, 0, 3, 1};
constexpr std::size_t row_bytes = dim * sizeof(float);
constexpr std::size_t guard = 256;
constexpr std::size_t cache_bytes = heads * all_rows * row_bytes;

struct PlanDeleter {
    void operator()(kvappend_plan *plan) const { kvappend_plan_destroy(plan); }
};
using PlanPointer = std::unique_ptr<kvappend_plan, PlanDeleter>;

bool is_paged(std::int32_t addressing) {
    return addressing >= KVAPPEND_ADDRESSING_PAGED;
}

// NULL if it fails.
PlanPointer create(std::int32_t addressing) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.addressing = addressing;
    d.batch = d.new_rows = 1;
    d.heads = heads;
    d.k_dim = d.v_dim = dim;
    d.cache_rows = is_paged(addressing) ? page_rows : all_rows;
    d.cache_blocks = is_paged(addressing) ? pages : 0;
    const bool has_table = is_paged(addressing) && addressing != KVAPPEND_ADDRESSING_SLOTS;
    d.table_entries = has_table ? pages : 0;
    kvappend_plan *plan = nullptr;
    kvappend_plan_create(&d, nullptr, &plan);
    return PlanPointer(plan);
}

// A thread's buffers, and what they must hold.
class Caller {
public:
    Caller(std::int32_t addressing, unsigned mark)
        : addressing_(addressing), mark_(mark), memory_(another_subject()),
          expected_(guard + cache_bytes + guard, 0xa5) {
        for (void **const buffer : {&k_, &v_}) {
            *buffer = memory_->allocate(expected_.size());
            memory_->upload(*buffer, expected_.data(), expected_.size());
        }
        source_ = memory_->allocate(heads * row_bytes);
        // The number of the step: a position, or a slot.
        number_ = memory_->allocate(sizeof(std::int64_t));
        table_ = memory_->allocate(sizeof table);
        indptr_ = memory_->allocate(sizeof indptr);
        memory_->upload(table_, table.data(), sizeof table);
        memory_->upload(indptr_, indptr.data(), sizeof indptr);
        args_.k_new = args_.v_new = source_;
        args_.k_cache = static_cast<std::byte *>(k_) + guard;
        args_.v_cache = static_cast<std::byte *>(v_) + guard;
        args_.cache_offsets = number_;
        args_.slots = number_;
        args_.page_table = static_cast<const std::int32_t *>(table_);
        args_.page_indptr = static_cast<const std::int32_t *>(indptr_);
        args_.k_cache_bytes = args_.v_cache_bytes = cache_bytes;
    }
    Caller(const Caller &) = delete;
    Caller &operator=(const Caller &) = delete;
    ~Caller() {
        for (void *const buffer : {k_, v_, source_, number_, table_, indptr_}) {
            memory_->release(buffer);
        }
    }

    // What went wrong.
    std::int64_t call(const kvappend_plan *plan, std::int64_t step) {
        std::array<unsigned char, heads * row_bytes> rows{};
        std::uint32_t word = (mark_ + 1) * 2654435761U + static_cast<std::uint32_t>(step) * 40503U;
        for (std::size_t i = 0; i < rows.size(); i += sizeof word, word = word * 1664525U + 1013904223U) {
            std::memcpy(&rows[i], &word, sizeof word);
        }
        const std::int64_t position = step % all_rows;
        const auto page = static_cast<std::int64_t>(table[static_cast<std::size_t>(position / page_rows)]);
        const std::int64_t row = position % page_rows;
        for (std::int64_t head = 0; head < heads; ++head) {
            const std::int64_t at =
                is_paged(addressing_) ? (page * heads + head) * page_rows + row : head * all_rows + position;
            std::memcpy(&expected_[guard + static_cast<std::size_t>(at) * row_bytes],
                        &rows[static_cast<std::size_t>(head) * row_bytes], row_bytes);
        }
        // A ring goes round by itself.
        const std::int64_t number = addressing_ == KVAPPEND_ADDRESSING_RING    ? step
                                    : addressing_ == KVAPPEND_ADDRESSING_SLOTS ? page * page_rows + row
                                                                               : position;
        memory_->upload(source_, rows.data(), rows.size());
        memory_->upload(number_, &number, sizeof number);
        const kvappend_status status = kvappend_plan_run(plan, &args_, nullptr, 0, memory_->stream());
        return (status != KVAPPEND_SUCCESS ? 1 : 0) + (position == all_rows - 1 ? compare() : 0);
    }

    std::int64_t compare() {
        memory_->synchronize();
        std::vector<unsigned char> &found = found_;
        found.resize(expected_.size());
        std::int64_t wrong = 0;
        for (const void *const cache : {k_, v_}) {
            memory_->download(found.data(), cache, found.size());
            wrong += found != expected_ ? 1 : 0;
        }
        return wrong;
    }

private:
    static constexpr std::array<std::int32_t, 2> indptr{0, pages};

    const std::int32_t addressing_;
    const unsigned mark_;
    const std::unique_ptr<Memory> memory_;
    std::vector<unsigned char> expected_;
    std::vector<unsigned char> found_;
    void *k_ = nullptr;
    void *v_ = nullptr;
    void *source_ = nullptr;
    void *number_ = nullptr;
    void *table_ = nullptr;
    void *indptr_ = nullptr;
    kvappend_args args_ = KVAPPEND_ARGS_INIT;
};

bool load(const char *name, int threads, std::int64_t calls, const std::function<std::int64_t(unsigned)> &work) {
    const auto begin = std::chrono::steady_clock::now();
    std::atomic<std::int64_t> wrong = 0;
    std::vector<std::thread> all;
    for (int i = 0; i < threads; ++i) {
        all.emplace_back([&wrong, &work, i] {
            try {
                wrong += work(static_cast<unsigned>(i));
            } catch (const std::exception &error) {
                std::fprintf(stderr, "%s\n", error.what());
                ++wrong;
            }
        });
    }
    for (std::thread &thread : all) {
        thread.join();
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::printf("%d threads, %s: %lld calls in %.1f s, %lld wrong\n", threads, name,
                static_cast<long long>(calls) * threads, seconds, static_cast<long long>(wrong));
    return wrong == 0;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fputs("usage: load THREADS CALLS\n", stderr);
        return 2;
    }
    const int threads = std::atoi(argv[1]);
    const std::int64_t calls = std::atoll(argv[2]);
    constexpr std::int32_t addressings = KVAPPEND_ADDRESSING_SLOTS + 1;
    bool good = true;
    for (const std::int32_t addressing : {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_PAGED}) {
        const PlanPointer shared = create(addressing);
        good = load(addressing == KVAPPEND_ADDRESSING_DENSE ? "one dense plan" : "one paged plan", threads, calls,
                    [&](unsigned mark) {
                        Caller caller(addressing, mark);
                        std::int64_t wrong = 0;
                        for (std::int64_t step = 0; step < calls; ++step) {
                            wrong += caller.call(shared.get(), step);
                        }
                        return wrong + caller.compare();
                    }) &&
               good;
    }
    // Of every addressing, and a new one now and then.
    good = load("own plans", threads, calls,
                [&](unsigned mark) {
                    const std::int32_t addressing = static_cast<std::int32_t>(mark) % addressings;
                    Caller caller(addressing, mark);
                    PlanPointer plan;
                    std::int64_t wrong = 0;
                    for (std::int64_t step = 0; step < calls; ++step) {
                        if (step % 1000 == 0) {
                            plan = create(addressing);
                        }
                        wrong += caller.call(plan.get(), step);
                    }
                    return wrong + caller.compare();
                }) &&
           good;
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
