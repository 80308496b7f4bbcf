// SPDX-License-Identifier: Apache-2.0
// What the header says of storage formats: codes by a search for the nearest number, and the arithmetic of scales.
#pragma once

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <vector>

// The bits of a code of a stored type, and the bytes of a scale.
unsigned reference_code_bits(std::int32_t stored_type);
std::size_t reference_scale_bytes(std::int32_t scale_type);

// Whether the bits of the elements are kept.
bool reference_keeps_bits(const kvappend_storage *storage, std::int32_t element_type);

// One row of a head.
struct StoredRow {
    std::vector<std::uint32_t> codes;  // of each element
    std::vector<std::uint32_t> scales; // of each group; the given ones if they are not computed
};

// Stores a row, given as the bits of its elements. `scales` are the bits of the given scales of each group.
StoredRow reference_store(const kvappend_storage &storage, std::int32_t element_type,
                          const std::vector<std::uint32_t> &elements, const std::vector<std::uint32_t> &scales,
                          float global_scale);

// The bits of the elements that the codes of a row stand for.
std::vector<std::uint32_t> reference_load(const kvappend_storage &storage, std::int32_t element_type,
                                          const StoredRow &row, float global_scale);

// The number of elements that share a scale.
std::int64_t reference_group(const kvappend_storage &storage, std::int64_t dim);
