// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

namespace {

bool is_terminal() {
    const char *const kind = std::getenv("TERM");
    return isatty(STDERR_FILENO) == 1 && kind != nullptr && std::strcmp(kind, "dumb") != 0;
}

} // namespace

Progress::Progress() : terminal_(is_terminal()), last_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
    if (terminal_) {
        std::fputs("\r\033[K", stderr);
    }
}

void Progress::operator()(const char *what, std::size_t done, std::size_t all) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < (terminal_ ? std::chrono::milliseconds(50) : std::chrono::milliseconds(1000))) {
        return;
    }
    last_ = now;
    std::fprintf(stderr, terminal_ ? "\r\033[K%s %zu of %zu" : "%s %zu of %zu\n", what, done, all);
    std::fflush(stderr);
}
