// SPDX-License-Identifier: Apache-2.0
// Progress on stderr: one line that is rewritten on a terminal, else a new line every second or so. Calls may come
// often.
#pragma once

#include <chrono>
#include <cstddef>

class Progress {
public:
    Progress();
    Progress(const Progress &) = delete;
    Progress &operator=(const Progress &) = delete;
    ~Progress(); // Clears the line.

    void operator()(const char *what, std::size_t done, std::size_t all);

private:
    bool terminal_;
    std::chrono::steady_clock::time_point last_;
};
