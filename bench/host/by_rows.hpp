// SPDX-License-Identifier: Apache-2.0
// What people write by hand: a loop that copies row by row.
#pragma once

#include "workload.hpp"

#include <cstddef>

// An append of new rows to caches, or a gather from caches.
void copy_by_rows(const Workload &workload, const Indices &indices, const std::byte *source, std::byte *target);
