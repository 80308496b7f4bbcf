// SPDX-License-Identifier: Apache-2.0
#include "reference_format.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// A floating-point type, by its definition.
struct Definition {
    int exponent_bits;
    int mantissa_bits;
    bool has_infinity; // the greatest exponent is for infinity and NaN
    std::uint32_t nan; // the code of NaN; 0 if there is none
    bool overflows;    // to infinity
    int bias() const { return (1 << (exponent_bits - 1)) - 1; }
    std::uint32_t sign() const { return 1U << (exponent_bits + mantissa_bits); }

    // The number that a code without a sign stands for.
    double number(std::uint32_t code) const {
        const auto exponent = static_cast<int>(code >> mantissa_bits);
        const double mantissa = code & ((1U << mantissa_bits) - 1);
        if (has_infinity && exponent == (1 << exponent_bits) - 1) {
            return mantissa == 0 ? infinity : std::nan("");
        }
        return exponent == 0 ? std::ldexp(mantissa, 1 - bias() - mantissa_bits)
                             : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias() - mantissa_bits);
    }
};

Definition definition_of(std::int32_t stored_type) {
    switch (stored_type) {
    case KVAPPEND_STORED_F32:
        return {8, 23, true, 0x7fffffff, true};
    case KVAPPEND_STORED_F16:
        return {5, 10, true, 0x7fff, true};
    case KVAPPEND_STORED_BF16:
        return {8, 7, true, 0x7fff, true};
    case KVAPPEND_STORED_E4M3:
        return {4, 3, false, 0x7f, false};
    case KVAPPEND_STORED_E5M2:
        return {5, 2, true, 0x7f, false};
    default:
        return {2, 1, false, 0, false};
    }
}

// The numbers of a type in the order of their codes, which rise, up to the greatest finite one.
const std::vector<double> &finite_numbers(std::int32_t stored_type) {
    static std::map<std::int32_t, std::vector<double>> known;
    std::vector<double> &numbers = known[stored_type];
    if (numbers.empty()) {
        const Definition d = definition_of(stored_type);
        for (std::uint32_t code = 0; code < d.sign(); ++code) {
            const double number = d.number(code);
            if (std::isfinite(number) && (d.nan == 0 || code != d.nan)) {
                numbers.push_back(number);
            }
        }
    }
    return numbers;
}

// The code of the nearest finite number that is not negative; of two as near the even code.
std::uint32_t nearest_code(std::int32_t stored_type, double magnitude) {
    const std::vector<double> &numbers = finite_numbers(stored_type);
    const auto above = std::ranges::lower_bound(numbers, magnitude);
    if (above == numbers.end()) {
        return static_cast<std::uint32_t>(numbers.size() - 1);
    }
    const auto code = static_cast<std::uint32_t>(above - numbers.begin());
    if (code == 0 || *above == magnitude) {
        return code;
    }
    const long double to_above = static_cast<long double>(*above) - magnitude;
    const long double to_below = magnitude - static_cast<long double>(above[-1]);
    return to_below < to_above || (to_below == to_above && code % 2 == 1) ? code - 1 : code;
}

std::uint32_t float_code(std::int32_t stored_type, float y) {
    const Definition d = definition_of(stored_type);
    if (std::isnan(y)) {
        return d.nan;
    }
    if (stored_type == KVAPPEND_STORED_F32) {
        return std::bit_cast<std::uint32_t>(y);
    }
    const double magnitude = std::fabs(static_cast<double>(y));
    std::uint32_t code = nearest_code(stored_type, magnitude);
    const std::vector<double> &numbers = finite_numbers(stored_type);
    // The number after the greatest would have the same distance as that before it.
    const double overflow = numbers.back() + (numbers.back() - numbers[numbers.size() - 2]) / 2;
    if (d.overflows && magnitude >= overflow) {
        code = static_cast<std::uint32_t>(numbers.size()); // infinity
    }
    return std::signbit(y) ? code | d.sign() : code;
}

std::uint32_t integer_code(const kvappend_storage &storage, float y) {
    const bool int8 = storage.type == KVAPPEND_STORED_INT8;
    const double least = int8 ? -128 : -8;
    const double greatest = int8 ? 127 : 7;
    double number = 0;
    if (!std::isnan(y)) {
        const double rounded = storage.rounding == KVAPPEND_ROUNDING_HALF_AWAY ? std::round(static_cast<double>(y))
                                                                               : std::nearbyint(static_cast<double>(y));
        number = std::clamp(rounded, least, greatest);
    }
    return int8 ? static_cast<std::uint8_t>(static_cast<std::int8_t>(number)) : static_cast<std::uint32_t>(number + 8);
}

std::uint32_t code_of(const kvappend_storage &storage, float y) {
    return storage.type == KVAPPEND_STORED_INT8 || storage.type == KVAPPEND_STORED_INT4 ? integer_code(storage, y)
                                                                                        : float_code(storage.type, y);
}

// The element as a binary32, exactly.
float element_value(std::int32_t element_type, std::uint32_t bits) {
    if (element_type == KVAPPEND_ELEMENT_F32) {
        return std::bit_cast<float>(bits);
    }
    const Definition d =
        definition_of(element_type == KVAPPEND_ELEMENT_F16 ? KVAPPEND_STORED_F16 : KVAPPEND_STORED_BF16);
    const auto number = static_cast<float>(d.number(bits & (d.sign() - 1)));
    return (bits & d.sign()) != 0 ? -number : number;
}

// The number that a code stands for, as a binary32.
float code_value(const kvappend_storage &storage, std::uint32_t code) {
    switch (storage.type) {
    case KVAPPEND_STORED_F32:
        return std::bit_cast<float>(code);
    case KVAPPEND_STORED_INT8:
        return static_cast<float>(static_cast<std::int8_t>(code));
    case KVAPPEND_STORED_INT4:
        return static_cast<float>(static_cast<int>(code) - 8);
    default: {
        const Definition d = definition_of(storage.type);
        const std::uint32_t magnitude = code & (d.sign() - 1);
        if (!d.has_infinity && d.nan != 0 && magnitude == d.nan) {
            return std::numeric_limits<float>::quiet_NaN();
        }
        const auto number = static_cast<float>(d.number(magnitude));
        return (code & d.sign()) != 0 ? -number : number;
    }
    }
}

std::int32_t stored_type_of_element(std::int32_t element_type) {
    return element_type == KVAPPEND_ELEMENT_F32   ? KVAPPEND_STORED_F32
           : element_type == KVAPPEND_ELEMENT_F16 ? KVAPPEND_STORED_F16
                                                  : KVAPPEND_STORED_BF16;
}

// The operations of binary32. An operation in binary64 that is then rounded gives the same: binary64 has more than
// twice the precision.
float product(float a, float b) {
    return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
}
float quotient(float a, float b) {
    return static_cast<float>(static_cast<double>(a) / static_cast<double>(b));
}

float larger(float a, float b) {
    return a > b ? a : b; // b if a is NaN
}

float scale_value(std::int32_t scale_type, std::uint32_t bits) {
    switch (scale_type) {
    case KVAPPEND_SCALE_F32:
        return std::bit_cast<float>(bits);
    case KVAPPEND_SCALE_F16:
        return element_value(KVAPPEND_ELEMENT_F16, bits);
    case KVAPPEND_SCALE_UE8M0:
        return bits == 255 ? std::numeric_limits<float>::quiet_NaN()
                           : static_cast<float>(std::ldexp(1, static_cast<int>(bits) - 127));
    default: {
        if ((bits & 0x7f) == 0x7f) {
            return std::numeric_limits<float>::quiet_NaN();
        }
        const auto number = static_cast<float>(definition_of(KVAPPEND_STORED_E4M3).number(bits & 0x7f));
        return (bits & 0x80) != 0 ? -number : number;
    }
    }
}

// The bits of a computed scale in its type.
std::uint32_t rounded_scale(const kvappend_storage &storage, float scale) {
    if (storage.scale_rounding == KVAPPEND_SCALE_POWER_OF_TWO) {
        int exponent = -127;
        while (exponent < 127 && std::ldexp(1, exponent) < static_cast<double>(scale)) {
            ++exponent;
        }
        return storage.scale_type == KVAPPEND_SCALE_UE8M0
                   ? static_cast<std::uint32_t>(exponent + 127)
                   : std::bit_cast<std::uint32_t>(static_cast<float>(std::ldexp(1, exponent)));
    }
    switch (storage.scale_type) {
    case KVAPPEND_SCALE_F32:
        return std::bit_cast<std::uint32_t>(std::min(scale, std::numeric_limits<float>::max()));
    case KVAPPEND_SCALE_F16:
        return nearest_code(KVAPPEND_STORED_F16, static_cast<double>(scale));
    default:
        return nearest_code(KVAPPEND_STORED_E4M3, static_cast<double>(scale));
    }
}

float greatest_number(std::int32_t stored_type) {
    switch (stored_type) {
    case KVAPPEND_STORED_INT8:
        return 127;
    case KVAPPEND_STORED_INT4:
        return 7;
    default:
        return static_cast<float>(finite_numbers(stored_type).back());
    }
}

// What becomes of an element of a group with the scale s.
float scaled(const kvappend_storage &storage, float x, float s, float global_scale) {
    const float all = storage.global_scale != 0 ? product(s, global_scale) : s;
    if (all == 0 || s == 0) {
        return 0;
    }
    switch (storage.scale_use) {
    case KVAPPEND_SCALE_DIVIDE:
        return quotient(x, all);
    case KVAPPEND_SCALE_MULTIPLY:
        return product(x, all);
    default:
        return product(x, quotient(1, all));
    }
}

float computed_scale(const kvappend_storage &storage, float largest, float global_scale) {
    float greatest = greatest_number(storage.type);
    if (storage.global_scale != 0) {
        greatest = product(greatest, global_scale);
    }
    return larger(quotient(larger(largest, storage.amax_floor), greatest), storage.scale_floor);
}

} // namespace

unsigned reference_code_bits(std::int32_t stored_type) {
    switch (stored_type) {
    case KVAPPEND_STORED_F32:
        return 32;
    case KVAPPEND_STORED_F16:
    case KVAPPEND_STORED_BF16:
        return 16;
    case KVAPPEND_STORED_INT4:
    case KVAPPEND_STORED_E2M1:
        return 4;
    default:
        return 8;
    }
}

std::size_t reference_scale_bytes(std::int32_t scale_type) {
    return scale_type == KVAPPEND_SCALE_F32 ? 4 : scale_type == KVAPPEND_SCALE_F16 ? 2 : 1;
}

bool reference_keeps_bits(const kvappend_storage *storage, std::int32_t element_type) {
    return storage == nullptr || storage->type == KVAPPEND_STORED_AS_IS ||
           (storage->type == KVAPPEND_STORED_F32 && element_type == KVAPPEND_ELEMENT_F32) ||
           (storage->type == KVAPPEND_STORED_F16 && element_type == KVAPPEND_ELEMENT_F16) ||
           (storage->type == KVAPPEND_STORED_BF16 && element_type == KVAPPEND_ELEMENT_BF16);
}

std::int64_t reference_group(const kvappend_storage &storage, std::int64_t dim) {
    return storage.group == 0 ? dim : storage.group;
}

StoredRow reference_store(const kvappend_storage &storage, std::int32_t element_type,
                          const std::vector<std::uint32_t> &elements, const std::vector<std::uint32_t> &scales,
                          float global_scale) {
    StoredRow row;
    row.scales = scales;
    const auto group = static_cast<std::size_t>(reference_group(storage, static_cast<std::int64_t>(elements.size())));
    float unrounded = 0;
    for (std::size_t i = 0; i < elements.size(); ++i) {
        if (storage.scaling == KVAPPEND_SCALING_COMPUTED && i % group == 0) {
            float largest = 0;
            for (std::size_t j = i; j < i + group; ++j) {
                const float magnitude = std::fabs(element_value(element_type, elements[j]));
                largest = magnitude > largest ? magnitude : largest;
            }
            unrounded = computed_scale(storage, largest, global_scale);
            row.scales.push_back(rounded_scale(storage, unrounded));
        }
        float y = element_value(element_type, elements[i]);
        if (storage.scaling != KVAPPEND_SCALING_NONE) {
            const float s = storage.scale_use == KVAPPEND_SCALE_UNROUNDED_RECIPROCAL
                                ? unrounded
                                : scale_value(storage.scale_type, row.scales[i / group]);
            y = scaled(storage, y, s, global_scale);
        }
        row.codes.push_back(code_of(storage, y));
    }
    return row;
}

std::vector<std::uint32_t> reference_load(const kvappend_storage &storage, std::int32_t element_type,
                                          const StoredRow &row, float global_scale) {
    std::vector<std::uint32_t> elements;
    const auto group = static_cast<std::size_t>(reference_group(storage, static_cast<std::int64_t>(row.codes.size())));
    for (std::size_t i = 0; i < row.codes.size(); ++i) {
        float x = code_value(storage, row.codes[i]);
        if (storage.scaling != KVAPPEND_SCALING_NONE) {
            const float s = scale_value(storage.scale_type, row.scales[i / group]);
            const float all = storage.global_scale != 0 ? product(s, global_scale) : s;
            if (all == 0 || s == 0) {
                x = 0;
            } else {
                x = storage.scale_use == KVAPPEND_SCALE_MULTIPLY ? quotient(x, all) : product(x, all);
            }
        }
        elements.push_back(float_code(stored_type_of_element(element_type), x));
    }
    return elements;
}
