// SPDX-License-Identifier: Apache-2.0
// The arithmetic of storage formats, for the host and for devices: how elements become codes, and how groups get their
// scales. The header defines it at kvappend_storage.
//
// Every operation is one of IEEE 754 binary32, rounded to nearest even, or one of integers. Functions for elements have
// no branches, so that compilers vectorise the loops around them.
#pragma once

#include "host_device.hpp"

#include <kvappend/kvappend.h>

#include <cfloat>
#include <cstdint>

namespace kvappend {

KVAPPEND_HOST_DEVICE inline std::uint32_t bits_of(float value) {
    return __builtin_bit_cast(std::uint32_t, value);
}
KVAPPEND_HOST_DEVICE inline float float_of(std::uint32_t bits) {
    return __builtin_bit_cast(float, bits);
}

inline constexpr std::uint32_t float_sign = 0x80000000;
inline constexpr std::uint32_t float_infinity = 0x7f800000;
inline constexpr std::uint32_t float_nan = 0x7fffffff; // the only NaN that a conversion gives, as on a GPU

KVAPPEND_HOST_DEVICE inline std::uint32_t magnitude_of(float value) {
    return bits_of(value) & ~float_sign;
}

KVAPPEND_HOST_DEVICE inline bool is_nan(float value) {
    const float itself = value;
    return value != itself;
}

// ---- types of elements and codes ----

// Each type encodes in two steps, of which a loop over several elements may have one for all of them.
// raw_code(number): the code of a number that is not NaN, plus raw_zero, modulo 2^32. Such codes can be added to a word
// of several codes, and what is too much in it be subtracted once.
// by_magnitude: raw_code takes a magnitude, and the sign is the code's first bit.
// flipped: the bits of a code that must be changed in the end.

// A floating-point type of 16 bits at most, with a sign. The greatest code is infinity in types that overflow to it,
// else the greatest finite number. NanCode is 0 if the type has no NaN.
template <unsigned Exponent, unsigned Mantissa, std::uint32_t GreatestCode, std::uint32_t NanCode, bool HasInfinity>
struct SmallFloat {
    static constexpr unsigned bits = 1 + Exponent + Mantissa;
    static constexpr std::uint32_t sign = 1U << (bits - 1);
    static constexpr unsigned shift = 23 - Mantissa; // between the mantissas
    // What the exponent of a binary32 is greater by.
    static constexpr std::uint32_t more = 127 - ((1U << (Exponent - 1)) - 1);

    static constexpr bool by_magnitude = true;
    static constexpr std::uint32_t flipped = 0;

    static KVAPPEND_HOST_DEVICE std::uint32_t encode(float value) {
        const std::uint32_t code = raw_code(float_of(magnitude_of(value))) - raw_zero;
        const std::uint32_t with_sign = code | (bits_of(value) >> (32 - bits) & sign);
        return is_nan(value) ? NanCode : with_sign;
    }

    // NaN stays NaN, with any bits.
    static KVAPPEND_HOST_DEVICE float decode(std::uint32_t code) {
        const auto magnitude = static_cast<std::int32_t>(code & (sign - 1));
        std::uint32_t result = (static_cast<std::uint32_t>(magnitude) << shift) + (more << 23);
        if constexpr (more > 0) {
            const float subnormal = static_cast<float>(magnitude) * float_of((more + 1 - Mantissa) << 23);
            result = magnitude < 1 << Mantissa ? bits_of(subnormal) : result;
            constexpr std::int32_t infinity = ((1 << Exponent) - 1) << Mantissa;
            const std::int32_t least_special = HasInfinity ? infinity : static_cast<std::int32_t>(NanCode);
            if constexpr (NanCode != 0) {
                result = magnitude >= least_special ? result | float_infinity : result;
            }
        }
        return float_of(result | (code & sign) << (32 - bits));
    }

    // What a magnitude is limited to, and the least exponent of a code that is not subnormal, as bits of a binary32.
    static constexpr auto greatest = static_cast<std::int32_t>((GreatestCode << shift) + (more << 23));
    static constexpr float greatest_number = __builtin_bit_cast(float, greatest);
    // A magnitude that is less is never rounded to more than the greatest number.
    static constexpr float overflow = __builtin_bit_cast(float, greatest + (1 << (shift - 1)));
    static constexpr auto least_normal = static_cast<std::int32_t>((more + 1) << 23);
    // The last bit of a number with an exponent that is greater by this is worth the last bit of the code.
    static constexpr auto to_last_bit = static_cast<std::int32_t>(shift << 23);

    static constexpr std::uint32_t raw_zero =
        more == 0 ? 0 : static_cast<std::uint32_t>(to_last_bit + (least_normal >> shift));

    static KVAPPEND_HOST_DEVICE std::uint32_t raw_code(float number) {
        const auto magnitude = static_cast<std::int32_t>(bits_of(number));
        if constexpr (more == 0) {
            // The upper half of a binary32.
            return (bits_of(number) + (1U << (shift - 1)) - 1 + (bits_of(number) >> shift & 1)) >> shift;
        }
        const std::int32_t limited = magnitude < greatest ? magnitude : greatest;
        const std::int32_t own_exponent = limited >> 23;
        constexpr std::int32_t least_exponent = least_normal >> 23;
        const std::int32_t exponent = own_exponent > least_exponent ? own_exponent : least_exponent;
        // The sum is rounded to a code. Its bits have the code's mantissa with its leading 1 on top of those of what is
        // added.
        const float rounds = float_of(static_cast<std::uint32_t>(exponent * (1 << 23) + to_last_bit));
        const float sum = float_of(static_cast<std::uint32_t>(limited)) + rounds;
        return bits_of(sum) + static_cast<std::uint32_t>(exponent) * ((1U << Mantissa) - (1U << 23));
    }
};

using F16 = SmallFloat<5, 10, 0x7c00, 0x7fff, true>;
using BF16 = SmallFloat<8, 7, 0x7f80, 0x7fff, true>;
using E4M3 = SmallFloat<4, 3, 0x7e, 0x7f, false>;
using E5M2 = SmallFloat<5, 2, 0x7b, 0x7f, true>;
using E2M1 = SmallFloat<2, 1, 0x7, 0, false>;

struct F32 {
    static constexpr unsigned bits = 32;

    static KVAPPEND_HOST_DEVICE std::uint32_t encode(float value) { return is_nan(value) ? float_nan : bits_of(value); }
    static KVAPPEND_HOST_DEVICE float decode(std::uint32_t code) { return float_of(code); }

    static constexpr bool by_magnitude = false;
    static constexpr std::uint32_t raw_zero = 0;
    static constexpr std::uint32_t flipped = 0;
    static KVAPPEND_HOST_DEVICE std::uint32_t raw_code(float number) { return bits_of(number); }
};

// An integer, stored as a number without a sign that is `Zero` for 0.
template <unsigned Bits, std::int32_t Zero, bool HalfAway>
struct Integer {
    static constexpr unsigned bits = Bits;
    static constexpr float least = -static_cast<float>(1 << (Bits - 1));
    static constexpr float greatest = static_cast<float>((1 << (Bits - 1)) - 1);
    static constexpr float greatest_number = greatest;
    static constexpr float overflow = greatest + 0.5F; // A magnitude that is less is never rounded to more.

    static KVAPPEND_HOST_DEVICE std::uint32_t encode(float value) {
        return (raw_code(is_nan(value) ? 0.0F : value) - raw_zero) ^ flipped;
    }
    static KVAPPEND_HOST_DEVICE float decode(std::uint32_t code) {
        return static_cast<float>(static_cast<std::int32_t>(code ^ flipped) - (1 << (Bits - 1)));
    }

    // Added before the fraction is cut off. With 0.5 itself, the float before 0.5 would become 1.
    static constexpr std::uint32_t before_half = 0x3effffff;

    static constexpr bool by_magnitude = false;
    // The least code is 0 until the first bit of it is flipped.
    static constexpr std::uint32_t flipped = Zero == 0 ? 1U << (Bits - 1) : 0;
    static constexpr float rounds = 0x1.8p23F; // Its last bit is worth 1, so a sum with it is rounded to an integer.
    static constexpr std::uint32_t raw_zero =
        (HalfAway ? 0 : __builtin_bit_cast(std::uint32_t, rounds)) - (1U << (Bits - 1));

    static KVAPPEND_HOST_DEVICE std::uint32_t raw_code(float number) {
        const float at_least = number > least ? number : least;
        const float limited = at_least < greatest ? at_least : greatest;
        if constexpr (HalfAway) {
            const float half = float_of(before_half | (bits_of(limited) & float_sign));
            return static_cast<std::uint32_t>(static_cast<std::int32_t>(limited + half));
        } else {
            return bits_of(limited + rounds);
        }
    }
};

using Int8 = Integer<8, 0, false>;
using Int8Away = Integer<8, 0, true>;
using Int4 = Integer<4, 8, false>;
using Int4Away = Integer<4, 8, true>;

// The greatest number that a code of COMPUTED scales stands for.
KVAPPEND_HOST_DEVICE constexpr float greatest_of(std::int32_t stored_type) {
    switch (stored_type) {
    case KVAPPEND_STORED_E4M3:
        return 448;
    case KVAPPEND_STORED_E5M2:
        return 57344;
    case KVAPPEND_STORED_INT8:
        return 127;
    case KVAPPEND_STORED_INT4:
        return 7;
    default:
        return 6; // E2M1
    }
}

// ---- scales ----

// How the elements of K or of V are stored: a checked kvappend_storage, apart from strides.
struct Format {
    std::int32_t type; // KVAPPEND_STORED_*
    std::int32_t scaling;
    std::int32_t scale_use;
    std::int32_t scale_type;
    bool power_of_two;
    bool by_four_rows;
    bool half_away;
    bool halves;
    bool has_global_scale;
    float amax_floor;
    float scale_floor;
    std::int64_t group; // the number of elements that share a scale; 0 without scales

    KVAPPEND_HOST_DEVICE bool scaled() const { return scaling != KVAPPEND_SCALING_NONE; }
    KVAPPEND_HOST_DEVICE bool computed() const { return scaling == KVAPPEND_SCALING_COMPUTED; }
};

// A scale as it is stored, and the number that it stands for.
struct Scale {
    float value;
    std::uint32_t code;
};

// What becomes of an element before it is rounded to the stored type.
struct Factor {
    float value;
    bool divides;
    bool is_zero;

    KVAPPEND_HOST_DEVICE float apply(float element) const {
        const float result = divides ? element / value : element * value;
        return is_zero ? 0.0F : result;
    }
};

// The least power of two that is at least `scale`, from 2^-127 to 2^127, as an exponent with the bias 127.
KVAPPEND_HOST_DEVICE inline std::uint32_t exponent_up(float scale) {
    const std::uint32_t bits = bits_of(scale);
    constexpr std::uint32_t two_to_minus_127 = 0x00400000;
    if (bits <= two_to_minus_127) {
        return 0;
    }
    const std::uint32_t exponent = (bits + 0x7fffff) >> 23;
    return exponent < 254 ? exponent : 254;
}

KVAPPEND_HOST_DEVICE inline float power_of_two(std::uint32_t exponent) {
    return float_of(exponent == 0 ? 0x00400000 : exponent << 23);
}

KVAPPEND_HOST_DEVICE inline float decode_scale(std::int32_t scale_type, std::uint32_t code) {
    switch (scale_type) {
    case KVAPPEND_SCALE_F16:
        return F16::decode(code);
    case KVAPPEND_SCALE_E4M3:
        return E4M3::decode(code);
    case KVAPPEND_SCALE_UE8M0:
        return code == 255 ? float_of(float_nan) : power_of_two(code);
    default:
        return float_of(code);
    }
}

// Rounds a scale that is neither negative nor NaN to its stored type, at most to the greatest finite number.
KVAPPEND_HOST_DEVICE inline Scale round_scale(const Format &f, float scale) {
    if (f.power_of_two) {
        const std::uint32_t exponent = exponent_up(scale);
        const float value = power_of_two(exponent);
        return {value, f.scale_type == KVAPPEND_SCALE_UE8M0 ? exponent : bits_of(value)};
    }
    switch (f.scale_type) {
    case KVAPPEND_SCALE_F16: {
        constexpr std::uint32_t greatest = 0x7bff;
        const std::uint32_t rounded = F16::encode(scale);
        const std::uint32_t code = rounded < greatest ? rounded : greatest;
        return {F16::decode(code), code};
    }
    case KVAPPEND_SCALE_E4M3: {
        const std::uint32_t code = E4M3::encode(scale);
        return {E4M3::decode(code), code};
    }
    default: {
        const float value = scale < FLT_MAX ? scale : FLT_MAX;
        return {value, bits_of(value)};
    }
    }
}

// A number with the global scale, if there is one.
KVAPPEND_HOST_DEVICE inline float with_global(const Format &f, float number, float global) {
    return f.has_global_scale ? number * global : number;
}

// What the largest magnitude of a group is divided by.
KVAPPEND_HOST_DEVICE inline float greatest_with(const Format &f, float global) {
    return with_global(f, greatest_of(f.type), global);
}

// The scale that the largest magnitude of a group asks for. NaN counts as less than any number.
KVAPPEND_HOST_DEVICE inline float scale_of_group(const Format &f, float largest, float greatest) {
    const auto larger = [](float a, float b) { return a > b ? a : b; };
    // The sum is 0 where the floor is -0, because a scale has no sign.
    return larger(larger(largest, f.amax_floor) / greatest, f.scale_floor) + 0.0F;
}

KVAPPEND_HOST_DEVICE inline Factor factor_of(const Format &f, float scale, float global) {
    const float product = with_global(f, scale, global);
    const bool reciprocal =
        f.scale_use == KVAPPEND_SCALE_RECIPROCAL || f.scale_use == KVAPPEND_SCALE_UNROUNDED_RECIPROCAL;
    return {reciprocal ? 1 / product : product, f.scale_use == KVAPPEND_SCALE_DIVIDE, product == 0 || scale == 0};
}

// What becomes of the number that a code stands for, so that it is an element again.
KVAPPEND_HOST_DEVICE inline Factor decoding_factor_of(const Format &f, float scale, float global) {
    const float product = with_global(f, scale, global);
    return {product, f.scale_use == KVAPPEND_SCALE_MULTIPLY, product == 0 || scale == 0};
}

// The scale to store for a group whose elements have at most the magnitude `largest`. Returns the one that is used.
KVAPPEND_HOST_DEVICE inline float compute_scale(const Format &f, float largest, float greatest, Scale &scale) {
    const float unrounded = scale_of_group(f, largest, greatest);
    scale = round_scale(f, unrounded);
    return f.scale_use == KVAPPEND_SCALE_UNROUNDED_RECIPROCAL ? unrounded : scale.value;
}

KVAPPEND_HOST_DEVICE inline Factor compute_factor(const Format &f, float largest, float global, Scale &scale) {
    return factor_of(f, compute_scale(f, largest, greatest_with(f, global), scale), global);
}

// The magnitude that counts for the largest one of a group, as bits: 0 for NaN. As numbers with a sign, the bits have
// the order of the magnitudes, and a loop that looks for the largest one can be vectorised.
KVAPPEND_HOST_DEVICE inline std::int32_t counted_magnitude(float element) {
    return is_nan(element) ? 0 : static_cast<std::int32_t>(magnitude_of(element));
}

// ---- choosing a type ----

// Calls use(type) with the type of elements that are converted. Inlined by force, because a kernel has no stack.
template <class Use>
[[gnu::always_inline]] KVAPPEND_HOST_DEVICE inline void with_element_type(std::int32_t element_type, Use use) {
    switch (element_type) {
    case KVAPPEND_ELEMENT_F16:
        return use(F16{});
    case KVAPPEND_ELEMENT_BF16:
        return use(BF16{});
    default:
        return use(F32{});
    }
}

// Calls use(type) with the type of codes of a format.
template <class Use>
KVAPPEND_HOST_DEVICE void with_stored_type(const Format &f, Use use) {
    switch (f.type) {
    case KVAPPEND_STORED_F32:
        return use(F32{});
    case KVAPPEND_STORED_F16:
        return use(F16{});
    case KVAPPEND_STORED_BF16:
        return use(BF16{});
    case KVAPPEND_STORED_E4M3:
        return use(E4M3{});
    case KVAPPEND_STORED_E5M2:
        return use(E5M2{});
    case KVAPPEND_STORED_INT8:
        return f.half_away ? use(Int8Away{}) : use(Int8{});
    case KVAPPEND_STORED_INT4:
        return f.half_away ? use(Int4Away{}) : use(Int4{});
    default:
        return use(E2M1{});
    }
}

} // namespace kvappend
