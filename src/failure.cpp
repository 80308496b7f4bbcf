// SPDX-License-Identifier: Apache-2.0
#include "failure.hpp"

#include <cstdarg>
#include <cstdio>

namespace kvappend {

namespace {

// A plain array has no destructor, so a thread may end after the library was unloaded.
thread_local char last_sentence[512];

} // namespace

Status fail(Status status, const char *format, ...) noexcept {
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(last_sentence, sizeof last_sentence, format, values);
    va_end(values);
    return status;
}

const char *last_failure() noexcept {
    return last_sentence;
}

} // namespace kvappend
