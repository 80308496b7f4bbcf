// SPDX-License-Identifier: Apache-2.0
// Progress on stderr: one line with a bar that is rewritten on a terminal, else a new line every second or so. Calls
// may come often.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

class Progress {
public:
    // Each message begins with the title, unless it is empty.
    explicit Progress(const std::string &title);
    Progress(const Progress &) = delete;
    Progress &operator=(const Progress &) = delete;
    ~Progress(); // Clears the line.

    void operator()(const char *what, std::size_t done, std::size_t all);

private:
    std::string title_;
    bool terminal_;
    std::chrono::steady_clock::time_point last_;
};
