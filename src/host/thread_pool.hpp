// SPDX-License-Identifier: Apache-2.0
// The threads of a plan: they help the thread that calls a run.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include <pthread.h>
#include <sys/types.h>

namespace kvappend {

class ThreadPool {
public:
    // Returns NULL if there is no memory for the pool. The pool has fewer helpers if the system starts no more.
    static std::unique_ptr<ThreadPool> create(std::int32_t helpers) noexcept;
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;
    ~ThreadPool();

    std::int32_t helpers() const { return helpers_; }

    // Does every share of the job once, on the calling thread and on helpers that wake up in time. Returns true when
    // all shares are done. Returns false, and does nothing, if the pool is busy with the job of another caller.
    using Work = void (*)(const void *job, std::uint32_t share);
    bool share(Work work, const void *job, std::uint32_t shares);

private:
    ThreadPool() = default;
    void serve();
    bool do_share();

    std::unique_ptr<pthread_t[]> threads_;
    std::int32_t helpers_ = 0;
    // The process that has the threads. A child process does not have them and must not wait for them. The number is on
    // its own page, which Linux clears in every child, because a child in another PID namespace may have the number of
    // its parent.
    pid_t *process_ = nullptr;

    std::atomic<bool> busy_ = false;
    std::atomic<bool> ending_ = false;
    // Changes when there is a job, which wakes the helpers.
    std::atomic<std::uint32_t> wakeups_ = 0;
    // Set before unclaimed_. Only a thread that has claimed a share reads them: the job lasts until that share is done.
    Work work_ = nullptr;
    const void *job_ = nullptr;
    std::uint32_t shares_ = 0;
    std::atomic<std::uint32_t> unclaimed_ = 0;
    std::atomic<std::uint32_t> unfinished_ = 0;
};

} // namespace kvappend
