// SPDX-License-Identifier: Apache-2.0
// One plan, many threads, each with buffers and a stream of its own: a plan never changes. And plans with threads.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

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

// A plan that has threads of its own, for rows of four heads which together are more than they sleep through.
constexpr std::int64_t large_heads = 4, large_rows = 4200;
constexpr std::size_t large_bytes = large_heads * large_rows * 64 * sizeof(float);

PlanPointer make_large_plan(std::int32_t host_threads) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = 1;
    d.heads = large_heads;
    d.new_rows = d.cache_rows = large_rows;
    d.k_dim = d.v_dim = 64;
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    p.host_threads = host_threads;
    kvappend_plan *plan = nullptr;
    kvappend_plan_create(&d, &p, &plan);
    return PlanPointer(plan);
}

// What is wrong after so many appends, each of which fills both caches.
int fill_and_compare(const kvappend_plan *plan, unsigned char mark, int runs) {
    int wrong = 0;
    std::vector<unsigned char> k_new(large_bytes), v_new(large_bytes), k_cache(large_bytes), v_cache(large_bytes);
    std::int64_t offset = 0;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = k_new.data();
    args.v_new = v_new.data();
    args.k_cache = k_cache.data();
    args.v_cache = v_cache.data();
    args.cache_offsets = &offset;
    for (int run = 0; run < runs; ++run) {
        for (std::size_t i = 0; i < large_bytes; ++i) {
            k_new[i] = static_cast<unsigned char>(mark + i * 7 + i / 251 + static_cast<std::size_t>(run) * 31);
            v_new[i] = static_cast<unsigned char>(k_new[i] + 101);
        }
        wrong += kvappend_plan_run(plan, &args, nullptr, 0, nullptr) != KVAPPEND_SUCCESS;
        wrong += k_cache != k_new;
        wrong += v_cache != v_new;
    }
    return wrong;
}

bool on_host() {
    return subject().backend() == KVAPPEND_BACKEND_HOST;
}

std::set<std::string> threads_of_process() {
    std::set<std::string> numbers;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/self/task")) {
        numbers.insert(entry.path().filename());
    }
    return numbers;
}

// The number of pages that a thread was the first to touch.
std::uint64_t faults_of(const std::string &thread) {
    std::ifstream file("/proc/self/task/" + thread + "/stat");
    std::string line;
    std::getline(file, line);
    std::istringstream fields(line.substr(line.rfind(')') + 1)); // the name before it may contain any character
    const std::vector<std::string> all{std::istream_iterator<std::string>(fields), {}};
    return std::stoull(all.at(7)); // minflt
}

// Memory whose pages can be dropped, so that they are new at the next access. No page is larger than usual.
class NewPages {
public:
    explicit NewPages(std::size_t bytes)
        : bytes_(bytes),
          data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
        REQUIRE(data_ != MAP_FAILED);
        madvise(data_, bytes, MADV_NOHUGEPAGE);
    }
    NewPages(const NewPages &) = delete;
    NewPages &operator=(const NewPages &) = delete;
    ~NewPages() { munmap(data_, bytes_); }
    void renew() { REQUIRE(madvise(data_, bytes_, MADV_DONTNEED) == 0); }
    void *data() const { return data_; }

private:
    std::size_t bytes_;
    void *data_;
};

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
              for (int round = 0; round < 4; ++round) {
                  wrong += append_and_compare(make_small_plan().get(), mark);
              }
              return wrong;
          }) == 0);
}

TEST_CASE("a plan with threads of its own is run by many threads at once", "[threads]") {
    if (!on_host()) {
        SKIP("only plans of the host backend have threads");
    }
    // All but one of the eight find the plan's threads at work, and go on alone.
    for (const std::int32_t threads : {2, 3, 7}) {
        const PlanPointer plan = make_large_plan(threads);
        CHECK(on_threads([&](unsigned char mark) { return fill_and_compare(plan.get(), mark, 4); }) == 0);
    }
}

TEST_CASE("plans with threads of their own come and go at once, used or not", "[threads]") {
    if (!on_host()) {
        SKIP("only plans of the host backend have threads");
    }
    CHECK(on_threads([](unsigned char mark) {
              int wrong = 0;
              for (std::int32_t round = 0; round < 6; ++round) {
                  const PlanPointer plan = make_large_plan(2 + round % 3);
                  wrong += plan == nullptr;
                  wrong += round % 2 == 0 ? fill_and_compare(plan.get(), mark, 2) : 0;
              }
              return wrong;
          }) == 0);
}

TEST_CASE("a plan with nothing to copy starts no threads", "[threads]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("only plans of the host backend have threads");
    }
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_HOST;
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    preference.host_threads = 3;
    const std::set<std::string> before = threads_of_process();
    const PlanPointer plan = make_plan(d, &preference);
    const std::set<std::string> after = threads_of_process();
    // A thread that was joined before may still be listed, and end now.
    CHECK(std::ranges::includes(before, after));
}

TEST_CASE("each of a plan's threads copies rows, and goes on to do so", "[threads]") {
    if (!on_host()) {
        SKIP("only plans of the host backend have threads");
    }
    const std::set<std::string> others = threads_of_process();
    const PlanPointer plan = make_large_plan(3);
    REQUIRE(plan != nullptr);
    std::vector<std::string> helpers;
    for (const std::string &thread : threads_of_process()) {
        if (!others.contains(thread)) {
            helpers.push_back(thread);
        }
    }
    REQUIRE(helpers.size() == 2);
    const std::vector<unsigned char> source(large_bytes);
    NewPages k(large_bytes);
    NewPages v(large_bytes);
    std::int64_t offset = 0;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = source.data();
    args.k_cache = k.data();
    args.v_cache = v.data();
    args.cache_offsets = &offset;
    // A thread that has copied a share has touched more pages than this. A thread that wakes up too late finds no share
    // left. Many runs give each thread many chances.
    constexpr std::uint64_t pages = 60;
    constexpr int most_runs = 2000;
    for (int round = 0; round < 3; ++round) {
        std::vector<std::uint64_t> before;
        for (const std::string &thread : helpers) {
            before.push_back(faults_of(thread));
        }
        const auto all_copied = [&] {
            bool all = true;
            for (std::size_t i = 0; i < helpers.size(); ++i) {
                all = all && faults_of(helpers[i]) >= before[i] + pages;
            }
            return all;
        };
        int runs = 0;
        do {
            k.renew();
            v.renew();
            REQUIRE(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr) == KVAPPEND_SUCCESS);
        } while (!all_copied() && ++runs < most_runs);
        CHECK(runs < most_runs);
    }
}

TEST_CASE("a child process has a plan without its threads", "[threads]") {
    if (!on_host()) {
        SKIP("only plans of the host backend have threads");
    }
    PlanPointer plan = make_large_plan(3);
    REQUIRE(fill_and_compare(plan.get(), 1, 2) == 0);
    // While another thread is at a run, so that the child finds the plan's threads idle or at work.
    std::atomic<bool> over = false;
    std::atomic<int> wrong = 0;
    std::thread other([&] {
        while (!over) {
            wrong += fill_and_compare(plan.get(), 2, 1);
        }
    });
    for (int i = 0; i < 8; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(120); // Ends a child that waits for threads which it does not have.
            const int found = fill_and_compare(plan.get(), 3, 2);
            plan.reset();
            _exit(found == 0 ? 0 : 1);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    }
    over = true;
    other.join();
    CHECK(wrong == 0);
    CHECK(fill_and_compare(plan.get(), 4, 2) == 0);
}

TEST_CASE("a plan's threads take no signals", "[threads]") {
    if (!on_host()) {
        SKIP("only plans of the host backend have threads");
    }
    static std::atomic<int> handled;
    handled = 0;
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = [](int) { ++handled; };
    REQUIRE(sigaction(SIGUSR1, &action, &before) == 0);
    const PlanPointer plan = make_large_plan(5);
    // With this thread's closed to it, the signal goes to any other that is open to it, and else it waits.
    sigset_t usr1;
    sigset_t open;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &usr1, &open) == 0);
    REQUIRE(kill(getpid(), SIGUSR1) == 0);
    CHECK(fill_and_compare(plan.get(), 5, 3) == 0);
    CHECK(handled == 0);
    REQUIRE(pthread_sigmask(SIG_SETMASK, &open, nullptr) == 0);
    CHECK(handled == 1);
    sigaction(SIGUSR1, &before, nullptr);
}

TEST_CASE("a plan whose threads cannot be started is refused", "[threads]") {
    if (!on_host()) {
        SKIP("only plans of the host backend have threads");
    }
    pthread_attr_t usual;
    pthread_attr_t endless;
    REQUIRE(pthread_getattr_default_np(&usual) == 0);
    REQUIRE(pthread_getattr_default_np(&endless) == 0);
    // No address space has room for such a stack.
    REQUIRE(pthread_attr_setstacksize(&endless, std::size_t{1} << 62) == 0);
    REQUIRE(pthread_setattr_default_np(&endless) == 0);
    pthread_attr_t taken;
    std::size_t bytes = 0;
    REQUIRE(pthread_getattr_default_np(&taken) == 0);
    REQUIRE(pthread_attr_getstacksize(&taken, &bytes) == 0);
    if (bytes != std::size_t{1} << 62) {
        REQUIRE(pthread_setattr_default_np(&usual) == 0);
        SKIP("musl takes 8 MiB at most");
    }
    const PlanPointer plan = make_large_plan(2);
    const std::string message = kvappend_last_error_message();
    REQUIRE(pthread_setattr_default_np(&usual) == 0);
    CHECK(plan == nullptr);
    CHECK(message == "preference.host_threads is 2: expected at most 1, as the system starts no more");
    CHECK(fill_and_compare(make_large_plan(2).get(), 6, 1) == 0);
}
