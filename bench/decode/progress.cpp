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

Progress::Progress(const std::string &title)
    : title_(title.empty() ? title : title + ": "), terminal_(is_terminal()), last_(std::chrono::steady_clock::now()) {}

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
    constexpr std::size_t width = 24;
    const std::string bar(width * done / all, '#');
    std::fprintf(stderr, terminal_ ? "\r\033[K[%-*s] %3zu%%  %s%s" : "[%-*s] %3zu%%  %s%s\n", static_cast<int>(width),
                 bar.c_str(), 100 * done / all, title_.c_str(), what);
    std::fflush(stderr);
}
