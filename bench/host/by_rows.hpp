// SPDX-License-Identifier: Apache-2.0
// What people write by hand: a loop that copies row by row.
#pragma once

#include "problem.hpp"

#include <cstddef>

void append_by_rows(const Problem &problem, const Indices &indices, const std::byte *fresh, std::byte *cache);
