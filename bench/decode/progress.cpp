// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <cstdio>

#include <unistd.h>

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1), last_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
    if (terminal_) {
        std::fputs("\r\033[K", stderr);
    }
}

void Progress::operator()(const char *what, std::size_t done, std::size_t all) {
    if (terminal_) {
        std::fprintf(stderr, "\r\033[K%s %zu of %zu", what, done, all);
        std::fflush(stderr);
        return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ >= std::chrono::seconds(1)) {
        std::fprintf(stderr, "%s %zu of %zu\n", what, done, all);
        last_ = now;
    }
}
