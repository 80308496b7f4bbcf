// SPDX-License-Identifier: Apache-2.0
// The types of codes and of scales, by their definition. It is written for readers, not for speed.
#pragma once

#include <cstddef>
#include <cstdint>

// A floating-point type with a sign, or an integer of 8 bits if there is no exponent.
struct Number {
    unsigned exponent_bits;
    unsigned mantissa_bits;
    double greatest; // finite one
    bool overflows;  // to infinity; else what is too large becomes the greatest number
    bool has_nan;    // else NaN becomes 0

    std::size_t bits() const { return 1 + exponent_bits + mantissa_bits; }
    // The number that a code stands for.
    float decode(std::uint32_t code) const;
    // The nearest number of the type. Of two as near, an integer is the one away from zero, and any other is even.
    float round(float value) const;
};

const Number &number_of_stored_type(std::int32_t stored_type); // KVAPPEND_STORED_*
const Number &number_of_scale_type(std::int32_t scale_type);   // KVAPPEND_SCALE_F32, ...
