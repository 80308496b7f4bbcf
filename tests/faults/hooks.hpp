// SPDX-License-Identifier: Apache-2.0
// Makes requests for memory and for threads fail. The hooks take the place of the C library's functions in the whole
// process, and so stand between it and the library under test, too.
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

// Blocks of memory that the calling thread has got, less those that it has given back.
std::int64_t blocks_held();
