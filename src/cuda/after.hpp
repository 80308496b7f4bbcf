// SPDX-License-Identifier: Apache-2.0
// What follows a copy on a device, in one launch: the report, the trap, and advanced offsets.
#pragma once

#include "../backend.hpp"

namespace kvappend {

// Loads the kernel where runs of the problem will need it.
Status load_after(const Problem &problem);

Status launch_after(const Call &call, Backend::After work, CUstream_st *stream);

} // namespace kvappend
