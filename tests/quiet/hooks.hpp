// SPDX-License-Identifier: Apache-2.0
// Counts what a run must not do. The hooks take the place of the C library's functions in the whole process.
#pragma once

#include <cstdint>

// Allocations, frees and locks by the calling thread so far.
std::uint64_t disturbances();
