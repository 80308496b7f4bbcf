// SPDX-License-Identifier: Apache-2.0
// Counts a thread's requests for memory, its frees and its locks, and makes requests for memory and for threads fail.
// The hooks replace functions of the C library in the whole process, so the library under test calls them, too.
#pragma once

#include <cstdint>

enum class Request : std::uint8_t {
    memory,
    thread,
};

// While it lives, the nth such request of the calling thread, counted from 1, fails; all others are met.
class Failing {
public:
    Failing(Request kind, int nth);
    Failing(const Failing &) = delete;
    Failing &operator=(const Failing &) = delete;
    ~Failing();

    // Whether there was an nth request.
    bool happened() const;

private:
    Request kind_;
};

// Blocks of memory that the calling thread has got, less those that it has freed.
std::int64_t blocks_held();

// Requests for memory and for threads, frees and locks by the calling thread so far.
std::uint64_t hooked_calls();
