// SPDX-License-Identifier: Apache-2.0
// What people write by hand: a loop that copies row by row.
#pragma once

#include "workload.hpp"

#include <cstddef>

void append_by_rows(const Workload &workload, const Indices &indices, const std::byte *fresh, std::byte *cache);
