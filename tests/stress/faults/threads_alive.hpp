// SPDX-License-Identifier: Apache-2.0
// How many threads the process has. One that was joined stays on the system's list for a moment yet.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <thread>

inline std::int64_t threads_alive() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {});
}

// Waits for threads that are ending; those that do not end make it false.
inline bool only_threads_alive(std::int64_t expected) {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds{10};
    while (threads_alive() > expected && std::chrono::steady_clock::now() < give_up) {
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
    return threads_alive() == expected;
}
