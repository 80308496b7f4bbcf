// SPDX-License-Identifier: Apache-2.0
#include "thread_pool.hpp"

#include <csignal>
#include <new>

#include <sys/mman.h>
#include <unistd.h>

namespace kvappend {

std::unique_ptr<ThreadPool> ThreadPool::create(std::int32_t helpers) noexcept {
    auto pool = std::unique_ptr<ThreadPool>(new (std::nothrow) ThreadPool);
    if (pool == nullptr) {
        return nullptr;
    }
    pool->threads_.reset(new (std::nothrow) pthread_t[static_cast<std::size_t>(helpers)]);
    if (pool->threads_ == nullptr) {
        return nullptr;
    }
    void *const page = mmap(nullptr, sizeof(pid_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return nullptr;
    }
    // Linux before 4.14 does not support this. Then only the number of the process is compared.
    madvise(page, sizeof(pid_t), MADV_WIPEONFORK);
    pool->process_ = static_cast<pid_t *>(page);
    *pool->process_ = getpid();
    // Helpers inherit this mask, so signals go to the threads of the program. Signals that an instruction raises stay
    // unblocked. If a thread blocks such a signal and raises it, the system ends the process, even if the program has a
    // handler for it. Programs handle SIGSEGV, for example, to track writes to protected pages.
    sigset_t blocked;
    sigset_t before;
    sigfillset(&blocked);
    for (const int raised : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) {
        sigdelset(&blocked, raised);
    }
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    const auto serve = [](void *self) -> void * {
        static_cast<ThreadPool *>(self)->serve();
        return nullptr;
    };
    while (pool->helpers_ < helpers &&
           pthread_create(&pool->threads_[static_cast<std::size_t>(pool->helpers_)], nullptr, serve, pool.get()) == 0) {
        ++pool->helpers_;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return pool;
}

ThreadPool::~ThreadPool() {
    const bool own = process_ != nullptr && *process_ == getpid();
    if (process_ != nullptr) {
        munmap(process_, sizeof(pid_t));
    }
    if (!own) {
        return;
    }
    ending_ = true;
    ++wakeups_;
    wakeups_.notify_all();
    for (std::int32_t i = 0; i < helpers_; ++i) {
        pthread_join(threads_[static_cast<std::size_t>(i)], nullptr);
    }
}

bool ThreadPool::share(Work work, const void *job, std::uint32_t shares) {
    if (busy_.exchange(true)) {
        return false;
    }
    work_ = work;
    job_ = job;
    shares_ = shares;
    unfinished_ = shares;
    unclaimed_ = shares;
    ++wakeups_;
    wakeups_.notify_all();
    while (do_share()) {
    }
    // Helpers have claimed the other shares and are doing them. This thread does not wait for a helper that has not
    // woken up.
    for (std::uint32_t left = unfinished_; left != 0; left = unfinished_) {
        unfinished_.wait(left);
    }
    busy_ = false;
    return true;
}

void ThreadPool::serve() {
    while (!ending_) {
        const std::uint32_t call = wakeups_;
        while (do_share()) {
        }
        if (!ending_) {
            wakeups_.wait(call);
        }
    }
}

// Claims a share and does it. Returns false if no share is left.
bool ThreadPool::do_share() {
    std::uint32_t left = unclaimed_;
    do {
        if (left == 0) {
            return false;
        }
    } while (!unclaimed_.compare_exchange_weak(left, left - 1));
    work_(job_, shares_ - left);
    if (unfinished_.fetch_sub(1) == 1) {
        unfinished_.notify_all();
    }
    return true;
}

} // namespace kvappend
