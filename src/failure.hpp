// SPDX-License-Identifier: Apache-2.0
// How a failure travels: a status that is returned, and a sentence that is kept for the thread that failed.
#pragma once

#include <kvappend/kvappend.h>

#include <cstddef>

namespace kvappend {

using Status = kvappend_status;

// Keeps the sentence as this thread's last failure and gives the status back. Allocates nothing, because memory may be
// what is missing; a sentence that is too long is cut.
[[gnu::cold, gnu::format(printf, 2, 3)]] Status fail(Status status, const char *format, ...) noexcept;

// Says of this thread's last failure in which of several layers it was, and gives its status back.
Status fail_in_layer(Status status, std::size_t layer) noexcept;

// This thread's last failure; "" before the first.
const char *last_failure() noexcept;

} // namespace kvappend
