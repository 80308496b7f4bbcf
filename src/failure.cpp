// SPDX-License-Identifier: Apache-2.0
#include "failure.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstring>

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

Status fail_in_layer(Status status, std::size_t layer) noexcept {
    char sentence[sizeof last_sentence];
    std::memcpy(sentence, last_sentence, sizeof sentence);
    return fail(status, "layer %zu: %s", layer, sentence);
}

const char *last_failure() noexcept {
    return last_sentence;
}

} // namespace kvappend
