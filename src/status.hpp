// SPDX-License-Identifier: Apache-2.0
// How a failure is reported: by a status that is returned, and by a message that is kept for the thread that failed.
#pragma once

#include <kvappend/kvappend.h>

#include <cstddef>

namespace kvappend {

using Status = kvappend_status;

// Keeps the message as this thread's last error and returns the status. Allocates nothing, because the failure may be a
// lack of memory. A message that is too long is truncated.
[[gnu::cold, gnu::format(printf, 2, 3)]] Status fail(Status status, const char *format, ...) noexcept;

// Puts the layer's number in front of this thread's last error and returns the status.
Status fail_in_layer(Status status, std::size_t layer) noexcept;

// This thread's last error; "" before the first.
const char *last_error_message() noexcept;

} // namespace kvappend

// Returns from the calling function with the status of a call that failed.
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if (const ::kvappend::Status try_status = (call); try_status != KVAPPEND_SUCCESS) {                            \
            return try_status;                                                                                         \
        }                                                                                                              \
    } while (false)
