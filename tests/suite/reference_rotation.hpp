// SPDX-License-Identifier: Apache-2.0
// What the header says of rotary embedding: the tables, and the arithmetic of a pair.
#pragma once

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <vector>

// The bytes from a table to the number of a pair for a position.
std::size_t reference_table_byte(const kvappend_rotary &rotary, std::int64_t position, std::int64_t pair);

// Rotates a row, given as the bits of its elements, from an element on by the bits of the numbers of each pair.
void reference_rotate(const kvappend_rotary &rotary, std::int64_t begin, std::int32_t element_type,
                      const std::vector<std::uint32_t> &cos, const std::vector<std::uint32_t> &sin,
                      std::vector<std::uint32_t> &elements);
