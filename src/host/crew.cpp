// SPDX-License-Identifier: Apache-2.0
#include "crew.hpp"

#include <csignal>
#include <new>

#include <sys/mman.h>
#include <unistd.h>

namespace kvappend {

std::unique_ptr<Crew> Crew::create(std::int32_t helpers) noexcept {
    auto crew = std::unique_ptr<Crew>(new (std::nothrow) Crew);
    if (crew == nullptr) {
        return nullptr;
    }
    crew->threads_.reset(new (std::nothrow) pthread_t[static_cast<std::size_t>(helpers)]);
    if (crew->threads_ == nullptr) {
        return nullptr;
    }
    void *const page = mmap(nullptr, sizeof(pid_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return nullptr;
    }
    // A kernel before 4.14 does not know this; then the number has to do.
    madvise(page, sizeof(pid_t), MADV_WIPEONFORK);
    crew->process_ = static_cast<pid_t *>(page);
    *crew->process_ = getpid();
    // Helpers inherit the mask: signals are for the threads of the program.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const auto serve = [](void *self) -> void * {
        static_cast<Crew *>(self)->serve();
        return nullptr;
    };
    while (crew->helpers_ < helpers &&
           pthread_create(&crew->threads_[static_cast<std::size_t>(crew->helpers_)], nullptr, serve, crew.get()) == 0) {
        ++crew->helpers_;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return crew;
}

Crew::~Crew() {
    const bool own = process_ != nullptr && *process_ == getpid();
    if (process_ != nullptr) {
        munmap(process_, sizeof(pid_t));
    }
    if (!own) {
        return;
    }
    over_ = true;
    ++calls_;
    calls_.notify_all();
    for (std::int32_t i = 0; i < helpers_; ++i) {
        pthread_join(threads_[static_cast<std::size_t>(i)], nullptr);
    }
}

bool Crew::share(Work work, const void *job, std::uint32_t shares) {
    if (taken_.exchange(true)) {
        return false;
    }
    work_ = work;
    job_ = job;
    shares_ = shares;
    unfinished_ = shares;
    unclaimed_ = shares;
    ++calls_;
    calls_.notify_all();
    while (do_share()) {
    }
    // What is left has been claimed by helpers that are at it: one that has not come is not waited for.
    for (std::uint32_t left = unfinished_; left != 0; left = unfinished_) {
        unfinished_.wait(left);
    }
    taken_ = false;
    return true;
}

void Crew::serve() {
    while (!over_) {
        const std::uint32_t call = calls_;
        while (do_share()) {
        }
        if (!over_) {
            calls_.wait(call);
        }
    }
}

// Claims a share and does it; false where there is none.
bool Crew::do_share() {
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
