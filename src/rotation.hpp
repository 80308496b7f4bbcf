// SPDX-License-Identifier: Apache-2.0
// Rotary embedding: a checked kvappend_rotary, and its arithmetic for the host and for devices. The header defines both
// at kvappend_rotary.
#pragma once

#include "host_device.hpp"

#include <cstddef>
#include <cstdint>

namespace kvappend {

// How rows are rotated.
struct Rotation {
    std::int64_t dim; // elements that are rotated; 0 if rows are not rotated
    std::int64_t first;
    std::int64_t table_rows;
    std::int64_t table_stride; // bytes
    std::int32_t table_type;   // KVAPPEND_ELEMENT_*
    std::uint32_t table_bytes; // of an element of the tables
    bool interleaved;          // else by halves
    std::uint32_t alignment;   // the widest power of two, 16 at most, that divides the stride and half a row of a table

    // The bytes from the tables to the number of a pair.
    KVAPPEND_HOST_DEVICE std::uint64_t table_byte(std::int64_t position, std::int64_t pair) const {
        return static_cast<std::uint64_t>(position) * static_cast<std::uint64_t>(table_stride) +
               static_cast<std::uint64_t>(pair) * table_bytes;
    }
};

// The tables of a run; NULL if rows are not rotated.
struct RotaryTables {
    const std::byte *cos;
    const std::byte *sin;

    bool operator==(const RotaryTables &) const = default;
};

// The first and the second element of a pair, rotated. The compilers round the products, because nothing is contracted:
// see format.hpp.
KVAPPEND_HOST_DEVICE inline float rotated_first(float first, float second, float cos, float sin) {
    return first * cos - second * sin;
}
KVAPPEND_HOST_DEVICE inline float rotated_second(float first, float second, float cos, float sin) {
    return second * cos + first * sin;
}

} // namespace kvappend
