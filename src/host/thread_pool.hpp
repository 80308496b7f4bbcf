// SPDX-License-Identifier: Apache-2.0
// The threads that a plan has besides its callers'.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include <pthread.h>
#include <sys/types.h>

namespace kvappend {

class ThreadPool {
public:
    // NULL where there is no memory for it. It has fewer helpers where the system starts no more.
    static std::unique_ptr<ThreadPool> create(std::int32_t helpers) noexcept;
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;
    ~ThreadPool();

    std::int32_t helpers() const { return helpers_; }

    // Does every share of the job once, on the calling thread and on helpers that come in time, and returns when all
    // are done. Where the helpers are at another caller's job it does nothing, and says so.
    using Work = void (*)(const void *job, std::uint32_t share);
    bool share(Work work, const void *job, std::uint32_t shares);

private:
    ThreadPool() = default;
    void serve();
    bool do_share();

    std::unique_ptr<pthread_t[]> threads_;
    std::int32_t helpers_ = 0;
    // Who has the threads: a child process has none, and must not wait for them. The number stands on a page of its
    // own, which the kernel makes zero in every child; for in another namespace a child may have its parent's number.
    pid_t *process_ = nullptr;

    std::atomic<bool> busy_ = false;
    std::atomic<bool> ending_ = false;
    // Changes when there is something to do, for helpers that sleep.
    std::atomic<std::uint32_t> wakeups_ = 0;
    // Set before unclaimed_, and read by those who have claimed a share only: the job lasts until that is done.
    Work work_ = nullptr;
    const void *job_ = nullptr;
    std::uint32_t shares_ = 0;
    std::atomic<std::uint32_t> unclaimed_ = 0;
    std::atomic<std::uint32_t> unfinished_ = 0;
};

} // namespace kvappend
