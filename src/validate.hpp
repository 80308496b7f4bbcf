// SPDX-License-Identifier: Apache-2.0
// The contents of a call's index arrays, checked on the host: off the hot path.
#pragma once

#include "kernel.hpp"

namespace kvappend {

// Returns the status of the first fault, and fills `fault`. The arguments have been checked.
Status validate(const Problem &problem, const Backend &backend, const kvappend_args &args, CUstream_st *stream,
                kvappend_fault &fault);

} // namespace kvappend
