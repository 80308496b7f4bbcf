// SPDX-License-Identifier: Apache-2.0
// The element types that a cache can store, and the way to and from the decoder's float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

struct Element {
    std::string_view name;
    std::int32_t type; // KVAPPEND_ELEMENT_*
    std::size_t width; // in bytes
    // Rounds to the nearest value of the type, ties to even, and stores the bits.
    void (*narrow)(std::span<const float> from, std::byte *to);
    // Every value of the types is a float, but for f64, which only holds what narrow() made of a float.
    void (*widen)(const std::byte *from, std::span<float> to);
};

// Throws std::invalid_argument for a name that is none.
const Element &element_named(std::string_view name);
