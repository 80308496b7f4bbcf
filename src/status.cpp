// SPDX-License-Identifier: Apache-2.0
#include "status.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace kvappend {

namespace {

// A plain array has no destructor, so a thread may end after the library has been unloaded.
thread_local char last_message[512];

} // namespace

Status fail(Status status, const char *format, ...) noexcept {
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(last_message, sizeof last_message, format, values);
    va_end(values);
    return status;
}

Status fail_in_layer(Status status, std::size_t layer) noexcept {
    char message[sizeof last_message];
    std::memcpy(message, last_message, sizeof message);
    return fail(status, "layer %zu: %s", layer, message);
}

const char *last_error_message() noexcept {
    return last_message;
}

} // namespace kvappend
