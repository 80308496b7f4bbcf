// SPDX-License-Identifier: Apache-2.0
// What may happen to the process of a plan: signals in the middle of runs, fork, and plans that end while other threads
// run theirs. The bodies are for every backend.
#include "../../suite/plan.hpp"
#include "threads_alive.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

// What getpid says instead of the truth, if not 0.
pid_t pretended = 0;

} // namespace

// In the place of the C library's, for the library under test, too.
extern "C" pid_t getpid() noexcept {
    return pretended != 0 ? pretended : static_cast<pid_t>(syscall(SYS_getpid));
}

namespace {

// An append that fills both caches of one sample.
class Filling {
public:
    explicit Filling(std::int64_t rows, std::int32_t host_threads = 0)
        : elements_(static_cast<std::size_t>(heads * rows * dim)), memory_(another_subject()) {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = subject().backend();
        d.batch = 1;
        d.heads = heads;
        d.new_rows = d.cache_rows = rows;
        d.k_dim = d.v_dim = dim;
        kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
        p.host_threads = host_threads;
        plan_ = make_plan(d, &p);
        for (void **const buffer : {&new_, &k_, &v_}) {
            *buffer = memory_->allocate(elements_ * sizeof(float));
        }
        offsets_ = memory_->allocate(sizeof(std::int64_t));
        args_.k_new = args_.v_new = new_;
        args_.k_cache = k_;
        args_.v_cache = v_;
        args_.cache_offsets = offsets_;
        set(1);
    }
    Filling(const Filling &) = delete;
    Filling &operator=(const Filling &) = delete;
    ~Filling() {
        for (void *const buffer : {new_, k_, v_, offsets_}) {
            memory_->release(buffer);
        }
    }

    // New rows, by a mark.
    void set(int mark) {
        expected_.resize(elements_);
        for (std::size_t i = 0; i < elements_; ++i) {
            expected_[i] = static_cast<float>(i % 4099) + static_cast<float>(mark) * 0.25F;
        }
        memory_->upload(new_, expected_.data(), elements_ * sizeof(float));
    }
    kvappend_status run() const { return kvappend_plan_run(plan_.get(), &args_, nullptr, 0, memory_->stream()); }
    // Whether both caches hold the rows that were set last.
    bool complete() const {
        memory_->synchronize();
        std::vector<float> found(elements_);
        bool same = true;
        for (const void *const cache : {k_, v_}) {
            memory_->download(found.data(), cache, elements_ * sizeof(float));
            same = same && found == expected_;
        }
        return same;
    }
    PlanPointer &plan() { return plan_; }

private:
    static constexpr std::int64_t heads = 2, dim = 64;

    std::size_t elements_;
    std::unique_ptr<Memory> memory_;
    PlanPointer plan_;
    std::vector<float> expected_;
    void *new_ = nullptr;
    void *k_ = nullptr;
    void *v_ = nullptr;
    void *offsets_ = nullptr;
    kvappend_args args_ = KVAPPEND_ARGS_INIT;
};

// Rows enough that a plan's threads share them.
constexpr std::int64_t many_rows = 8400;

bool on_host() {
    return subject().backend() == KVAPPEND_BACKEND_HOST;
}

// Whether a child process that does this says that all is well, and ends in time.
bool child_says_well(const std::function<bool()> &act) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(60);
        _exit(act() ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct Interruption {
    const Filling *run = nullptr;
    std::atomic<int> count = 0;
    std::atomic<int> wrong = 0;
};
Interruption interruption;

// While it lives, a timer interrupts the process again and again, and the handler makes a run.
class Interrupted {
public:
    Interrupted(const Filling &run, suseconds_t microseconds) {
        interruption.run = &run;
        interruption.count = interruption.wrong = 0;
        struct sigaction action {};
        action.sa_handler = [](int) {
            ++interruption.count;
            interruption.wrong += interruption.run->run() != KVAPPEND_SUCCESS ? 1 : 0;
        };
        sigaction(SIGALRM, &action, &before_);
        set_timer(microseconds);
    }
    Interrupted(const Interrupted &) = delete;
    Interrupted &operator=(const Interrupted &) = delete;
    ~Interrupted() {
        set_timer(0);
        sigaction(SIGALRM, &before_, nullptr);
    }

private:
    static void set_timer(suseconds_t microseconds) {
        const itimerval timer{{0, microseconds}, {0, microseconds}};
        setitimer(ITIMER_REAL, &timer, nullptr);
    }
    struct sigaction before_ {};
};

} // namespace

TEST_CASE("signals interrupt runs, and their handler makes runs of its own", "[process]") {
    if (!on_host()) {
        SKIP("CUDA's calls must not be made in a handler");
    }
    for (const std::int32_t threads : {1, 3}) {
        INFO(threads << " threads");
        Filling filling(many_rows, threads);
        Filling small(1);
        int rounds = 0;
        {
            const Interrupted interrupted(small, 100);
            for (; rounds < 20 || (interruption.count < 50 && rounds < 5000); ++rounds) {
                filling.set(rounds);
                REQUIRE(filling.run() == KVAPPEND_SUCCESS);
                REQUIRE(filling.complete());
            }
        }
        CHECK(interruption.count >= 50);
        CHECK(interruption.wrong == 0);
        CHECK(small.complete());
    }
}

TEST_CASE("a handler may run the plan whose run it interrupts", "[process]") {
    if (!on_host()) {
        SKIP("CUDA's calls must not be made in a handler");
    }
    for (const std::int32_t threads : {1, 3}) {
        INFO(threads << " threads");
        // The same rows once more, so that it does not matter who writes them.
        Filling filling(many_rows, threads);
        {
            const Interrupted interrupted(filling, 30000); // several times as long as a run
            for (int rounds = 0; interruption.count < 10 && rounds < 5000; ++rounds) {
                REQUIRE(filling.run() == KVAPPEND_SUCCESS);
            }
        }
        CHECK(interruption.count >= 10);
        CHECK(interruption.wrong == 0);
        CHECK(filling.complete());
        filling.set(7);
        CHECK(filling.run() == KVAPPEND_SUCCESS);
        CHECK(filling.complete());
    }
}

namespace {

// Memory that cannot be written until a handler of SIGSEGV makes it writable, part by part. Programs do this to track
// writes.
class Tracked {
public:
    explicit Tracked(std::size_t bytes)
        : bytes_(bytes), begin_(static_cast<unsigned char *>(
                             mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
        REQUIRE(begin_ != MAP_FAILED);
        tracked = this;
        struct sigaction action {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = [](int, siginfo_t *info, void *) { tracked->open_at(info->si_addr); };
        REQUIRE(sigaction(SIGSEGV, &action, &before_) == 0);
    }
    Tracked(const Tracked &) = delete;
    Tracked &operator=(const Tracked &) = delete;
    ~Tracked() {
        sigaction(SIGSEGV, &before_, nullptr);
        munmap(begin_, bytes_);
    }

    void protect() { REQUIRE(mprotect(begin_, bytes_, PROT_READ) == 0); }
    unsigned char *begin() const { return begin_; }
    // The number of faults in threads other than the one that made this.
    int others() const { return others_; }

private:
    static Tracked *tracked;
    static constexpr std::size_t part = std::size_t{64} << 10;

    void open_at(const void *address) {
        const auto *const at = static_cast<const unsigned char *>(address);
        if (at < begin_ || at >= begin_ + bytes_) {
            _exit(2); // not a fault that this test makes
        }
        others_ += syscall(SYS_gettid) != maker_ ? 1 : 0;
        const std::size_t start = static_cast<std::size_t>(at - begin_) / part * part;
        mprotect(begin_ + start, std::min(part, bytes_ - start), PROT_READ | PROT_WRITE);
    }

    std::size_t bytes_;
    unsigned char *begin_;
    long maker_ = syscall(SYS_gettid);
    std::atomic<int> others_ = 0;
    struct sigaction before_ {};
};
Tracked *Tracked::tracked = nullptr;

} // namespace

TEST_CASE("a program handles the faults of a plan's threads at pages that it has protected", "[process]") {
    if (!on_host()) {
        SKIP("only plans of the host backend have threads");
    }
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = 1;
    d.heads = 2;
    d.new_rows = d.cache_rows = many_rows;
    d.k_dim = 256;
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    p.host_threads = 4;
    const PlanPointer plan = make_plan(d, &p);
    std::vector<float> rows(static_cast<std::size_t>(d.heads * d.new_rows * d.k_dim));
    const std::size_t bytes = rows.size() * sizeof(float);
    Tracked cache(bytes);
    const std::int64_t offset = 0;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = rows.data();
    args.k_cache = cache.begin();
    args.cache_offsets = const_cast<std::int64_t *>(&offset);
    // Until a thread of the plan has taken a share.
    for (int round = 0; cache.others() == 0 && round < 5000; ++round) {
        for (std::size_t i = 0; i < rows.size(); ++i) {
            rows[i] = static_cast<float>(i % 4099) + static_cast<float>(round % 7) * 0.25F;
        }
        cache.protect();
        REQUIRE(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr) == KVAPPEND_SUCCESS);
        REQUIRE(std::memcmp(cache.begin(), rows.data(), bytes) == 0);
    }
    CHECK(cache.others() > 0);
}

TEST_CASE("signals of faults that a program has blocked stay blocked while a plan starts threads", "[process]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("only plans of the host backend have threads");
    }
    sigset_t bus;
    sigset_t before;
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &bus, &before) == 0);
    // A signal that is pending would end the program as soon as it is not blocked.
    REQUIRE(raise(SIGBUS) == 0);
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = d.heads = d.new_rows = d.cache_rows = d.k_dim = 1;
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    p.host_threads = 2;
    CHECK(make_plan(d, &p) != nullptr);
    sigset_t pending;
    REQUIRE(sigpending(&pending) == 0);
    CHECK(sigismember(&pending, SIGBUS) == 1);
    int taken = 0;
    REQUIRE(sigwait(&bus, &taken) == 0);
    CHECK(taken == SIGBUS);
    REQUIRE(pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
}

TEST_CASE("in a child process a plan can be asked and destroyed, and on the host run", "[process]") {
    Filling filling(64);
    CHECK(child_says_well([&] {
        kvappend_sku sku = KVAPPEND_SKU_INIT;
        bool well = kvappend_plan_get_sku(filling.plan().get(), &sku) == KVAPPEND_SUCCESS;
        if (on_host()) {
            filling.set(5);
            well = well && filling.run() == KVAPPEND_SUCCESS && filling.complete();
        }
        return well && kvappend_plan_destroy(filling.plan().release()) == KVAPPEND_SUCCESS;
    }));
    CHECK(filling.run() == KVAPPEND_SUCCESS);
    CHECK(filling.complete());
}

TEST_CASE("a child process destroys a plan without its threads, even if its number is its parent's", "[process]") {
    if (!on_host()) {
        SKIP("only plans of the host backend have threads");
    }
    // As that of the first process in a new namespace within another one.
    for (const pid_t number : {0, 1}) {
        INFO("the number of all processes is " << number << ", if not 0");
        pretended = number;
        Filling filling(many_rows, 4);
        CHECK(filling.run() == KVAPPEND_SUCCESS);
        CHECK(child_says_well([&] {
            filling.set(3);
            bool well = filling.run() == KVAPPEND_SUCCESS && filling.complete();
            filling.plan().reset();
            // A plan that is made there has threads there.
            Filling own(many_rows, 4);
            well = well && only_threads_alive(4) && own.run() == KVAPPEND_SUCCESS && own.complete();
            own.plan().reset();
            return well && only_threads_alive(1);
        }));
        CHECK(only_threads_alive(4));
        filling.set(2);
        CHECK(filling.run() == KVAPPEND_SUCCESS);
        CHECK(filling.complete());
        filling.plan().reset();
        CHECK(only_threads_alive(1));
        pretended = 0;
    }
}

TEST_CASE("plans end while another thread runs a different one", "[process]") {
    std::atomic<bool> over = false;
    std::atomic<int> wrong = 0;
    std::thread other([&] {
        Filling filling(64, on_host() ? 2 : 0);
        for (int mark = 0; !over; ++mark) {
            filling.set(mark);
            wrong += filling.run() != KVAPPEND_SUCCESS || !filling.complete() ? 1 : 0;
        }
    });
    for (int i = 0; i < 30; ++i) {
        Filling filling(i % 7 + 1, on_host() ? i % 4 : 0);
        CHECK(filling.run() == KVAPPEND_SUCCESS);
        CHECK(filling.complete());
    }
    over = true;
    other.join();
    CHECK(wrong == 0);
}
