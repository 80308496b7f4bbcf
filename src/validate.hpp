// SPDX-License-Identifier: Apache-2.0
// Checks the contents of a call's arrays of indices on the host. It is not part of a run.
#pragma once

#include "backend.hpp"

namespace kvappend {

// Returns the status of the first fault, and fills `fault`. The arguments have been checked.
Status validate(const Problem &problem, const Backend &backend, const kvappend_args &args, CUstream_st *stream,
                kvappend_fault &fault);

} // namespace kvappend
