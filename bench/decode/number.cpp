// SPDX-License-Identifier: Apache-2.0
#include "number.hpp"

#include <kvappend/kvappend.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace {

constexpr Number f32{8, 23, FLT_MAX, true, true};
constexpr Number f16{5, 10, 65504, true, true};
constexpr Number bf16{8, 7, 0x1.fep127, true, true};
constexpr Number e4m3{4, 3, 448, false, true};
constexpr Number e5m2{5, 2, 57344, false, true};
constexpr Number e2m1{2, 1, 6, false, false};
constexpr Number int8{0, 7, 127, false, false};

} // namespace

float Number::decode(std::uint32_t code) const {
    if (exponent_bits == 0) {
        return static_cast<float>(static_cast<std::int8_t>(code));
    }
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const auto last_bit = static_cast<int>(mantissa_bits);
    const auto exponent = static_cast<int>(code >> mantissa_bits & ((1U << exponent_bits) - 1));
    const std::uint32_t mantissa = code & ((1U << mantissa_bits) - 1);
    double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - last_bit)
                                     : std::ldexp(mantissa + (1U << mantissa_bits), exponent - bias - last_bit);
    if (magnitude > greatest) {
        magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
    }
    const bool negative = (code >> (bits() - 1) & 1) != 0;
    return static_cast<float>(negative ? -magnitude : magnitude);
}

float Number::round(float value) const {
    if (std::isnan(value)) {
        return has_nan ? value : 0;
    }
    if (exponent_bits == 0) {
        return std::clamp(std::round(value), -128.0F, 127.0F);
    }
    const double magnitude = std::fabs(static_cast<double>(value));
    double rounded = magnitude;
    if (std::isfinite(value)) {
        const int least_exponent = 2 - (1 << (exponent_bits - 1));
        const int exponent = magnitude == 0 ? least_exponent : std::max(std::ilogb(magnitude), least_exponent);
        const double step = std::ldexp(1.0, exponent - static_cast<int>(mantissa_bits)); // to the next number
        rounded = std::nearbyint(magnitude / step) * step;
    }
    if (rounded > greatest) {
        rounded = overflows ? std::numeric_limits<double>::infinity() : greatest;
    }
    return std::copysign(static_cast<float>(rounded), value);
}

const Number &number_of_stored_type(std::int32_t stored_type) {
    switch (stored_type) {
    case KVAPPEND_STORED_F16:
        return f16;
    case KVAPPEND_STORED_BF16:
        return bf16;
    case KVAPPEND_STORED_E4M3:
        return e4m3;
    case KVAPPEND_STORED_E5M2:
        return e5m2;
    case KVAPPEND_STORED_INT8:
        return int8;
    case KVAPPEND_STORED_E2M1:
        return e2m1;
    default:
        throw std::invalid_argument("no type of codes that this program knows: " + std::to_string(stored_type));
    }
}

const Number &number_of_scale_type(std::int32_t scale_type) {
    switch (scale_type) {
    case KVAPPEND_SCALE_F32:
        return f32;
    case KVAPPEND_SCALE_F16:
        return f16;
    case KVAPPEND_SCALE_E4M3:
        return e4m3;
    default:
        throw std::invalid_argument("no type of scales that this program knows: " + std::to_string(scale_type));
    }
}
