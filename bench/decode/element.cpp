// SPDX-License-Identifier: Apache-2.0
#include "element.hpp"

#include <kvappend/kvappend.h>

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace {

// Drops the lowest `count` bits, rounding to nearest, ties to even. A carry out of the mantissa raises the exponent,
// which is what rounding up to the next power of two means, and at the top gives infinity.
std::uint32_t round_off(std::uint32_t bits, unsigned count) {
    return (bits + ((1u << (count - 1)) - 1u) + ((bits >> count) & 1u)) >> count;
}

std::uint16_t to_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40u : round_off(bits, 16));
}

float from_bf16(std::uint16_t bits) {
    return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

std::uint32_t f16_magnitude(std::uint32_t bits) {
    if (bits > 0x7f800000u) { // A NaN keeps the top of its payload and becomes quiet.
        return 0x7e00u | ((bits >> 13) & 0x03ffu);
    }
    if (bits >= 0x47800000u) { // 2^16 and above; rounding takes care of what lies just below.
        return 0x7c00u;
    }
    if (bits >= 0x38800000u) { // 2^-14 and above: normal in both types.
        return round_off(bits - ((127u - 15u) << 23), 13);
    }
    const std::uint32_t exponent = bits >> 23;
    if (exponent < 127 - 25) { // Below half of the least subnormal.
        return 0;
    }
    return round_off((bits & 0x007fffffu) | 0x00800000u, 126 - exponent);
}

std::uint16_t to_f16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>(((bits >> 16) & 0x8000u) | f16_magnitude(bits & 0x7fffffffu));
}

float from_f16(std::uint16_t bits) {
    const std::uint32_t sign = (bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    if (magnitude < 0x0400u) { // Subnormal: a multiple of 2^-24, which a float holds exactly.
        return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24f));
    }
    const std::uint32_t bias = magnitude < 0x7c00u ? 127 - 15 : 255 - 31;
    return std::bit_cast<float>(sign | ((magnitude << 13) + (bias << 23)));
}

template <class To, class From>
To convert(From value) {
    return static_cast<To>(value);
}

template <auto ToStored>
void narrow(std::span<const float> from, std::byte *to) {
    for (const float value : from) {
        const auto stored = ToStored(value);
        std::memcpy(to, &stored, sizeof stored);
        to += sizeof stored;
    }
}

template <class Stored, float (*FromStored)(Stored)>
void widen(const std::byte *from, std::span<float> to) {
    for (float &value : to) {
        Stored stored;
        std::memcpy(&stored, from, sizeof stored);
        value = FromStored(stored);
        from += sizeof stored;
    }
}

constexpr Element elements[] = {
    {"f32", KVAPPEND_ELEMENT_F32, 4, narrow<convert<float, float>>, widen<float, convert<float, float>>},
    {"f64", KVAPPEND_ELEMENT_F64, 8, narrow<convert<double, float>>, widen<double, convert<float, double>>},
    {"f16", KVAPPEND_ELEMENT_F16, 2, narrow<to_f16>, widen<std::uint16_t, from_f16>},
    {"bf16", KVAPPEND_ELEMENT_BF16, 2, narrow<to_bf16>, widen<std::uint16_t, from_bf16>},
};

} // namespace

const Element &element_named(std::string_view name) {
    for (const Element &element : elements) {
        if (element.name == name) {
            return element;
        }
    }
    throw std::invalid_argument("no such element type: " + std::string(name));
}
