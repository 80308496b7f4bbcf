// SPDX-License-Identifier: Apache-2.0
// The numbers of each stored type, made from the definition of the type, and the code of any number, found by a search
// for the nearest. This is written from the header's words at kvappend_storage. A double holds each of these numbers,
// and each middle of two adjacent ones, exactly.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

inline constexpr std::uint32_t code_sign_of_float = 0x80000000;
inline constexpr std::uint32_t code_nan_of_float = 0x7fffffff; // all bits but the sign

// The index of the number that is nearest to y, in ascending numbers. Halfway between two, takes_upper(i) says whether
// number i + 1 is taken instead of number i.
template <class TakesUpper>
std::size_t nearest(const std::vector<double> &numbers, double y, TakesUpper takes_upper) {
    const auto above = std::ranges::upper_bound(numbers, y);
    if (above == numbers.begin()) {
        return 0;
    }
    const auto index = static_cast<std::size_t>(above - numbers.begin()) - 1;
    if (above == numbers.end()) {
        return index;
    }
    const double middle = (numbers[index] + numbers[index + 1]) / 2;
    return y > middle || (y == middle && takes_upper(index)) ? index + 1 : index;
}

// ---- types ----

struct FloatType {
    std::string name;
    int exponent_bits;
    int mantissa_bits;
    int bias;
    std::uint32_t greatest; // the code of the greatest finite number
    bool has_infinity;      // its code is greatest + 1
    bool overflows;         // to infinity
    std::uint32_t nan;      // the NaN that a conversion gives; 0 in a type without NaN
};

inline const FloatType f16_type{"F16", 5, 10, 15, 0x7bff, true, true, 0x7fff};
inline const FloatType bf16_type{"BF16", 8, 7, 127, 0x7f7f, true, true, 0x7fff};
inline const FloatType e4m3_type{"E4M3", 4, 3, 7, 0x7e, false, false, 0x7f};
inline const FloatType e5m2_type{"E5M2", 5, 2, 15, 0x7b, true, false, 0x7f};
inline const FloatType e2m1_type{"E2M1", 2, 1, 1, 0x7, false, false, 0};

// The codes of a type of 16 bits at most.
class FloatCodes {
public:
    explicit FloatCodes(FloatType type) : type_(std::move(type)) {
        // Infinity is the number that the type would have next.
        for (std::uint32_t code = 0; code <= type_.greatest + (type_.overflows ? 1 : 0); ++code) {
            magnitudes_.push_back(magnitude(code));
        }
    }

    const std::string &name() const { return type_.name; }
    int bits() const { return 1 + type_.exponent_bits + type_.mantissa_bits; }
    // The magnitudes of all numbers. Past the greatest one comes what infinity stands for in types that overflow.
    const std::vector<double> &numbers() const { return magnitudes_; }

    std::uint32_t code_of(float y) const {
        if (std::isnan(y)) {
            return type_.nan;
        }
        // To even: an odd code leaves the middle to the next one.
        const auto code = static_cast<std::uint32_t>(
            nearest(magnitudes_, std::fabs(static_cast<double>(y)), [](std::size_t i) { return i % 2 == 1; }));
        return std::signbit(y) ? code | sign() : code;
    }

    float number_of(std::uint32_t code) const {
        const std::uint32_t rest = code & (sign() - 1);
        double number = magnitude(rest);
        if (rest > type_.greatest) {
            number = type_.has_infinity && rest == type_.greatest + 1 ? std::numeric_limits<double>::infinity()
                                                                      : std::numeric_limits<double>::quiet_NaN();
        }
        return static_cast<float>(rest == code ? number : -number);
    }

private:
    std::uint32_t sign() const { return 1U << (bits() - 1); }

    double magnitude(std::uint32_t code) const {
        const auto one = 1U << type_.mantissa_bits;
        const auto exponent = static_cast<int>(code / one);
        const auto mantissa = static_cast<double>(code % one);
        return exponent == 0 ? std::ldexp(mantissa, 1 - type_.bias - type_.mantissa_bits)
                             : std::ldexp(one + mantissa, exponent - type_.bias - type_.mantissa_bits);
    }

    FloatType type_;
    std::vector<double> magnitudes_;
};

class IntegerCodes {
public:
    IntegerCodes(std::string name, int bits, int zero, bool half_away)
        : name_(std::move(name)), bits_(bits), zero_(zero), half_away_(half_away) {
        for (int number = -(1 << (bits - 1)); number < 1 << (bits - 1); ++number) {
            numbers_.push_back(number);
        }
    }

    const std::string &name() const { return name_; }
    int bits() const { return bits_; }
    const std::vector<double> &numbers() const { return numbers_; }

    std::uint32_t code_of(float y) const {
        const auto takes_upper = [&](std::size_t i) {
            const double lower = numbers_[i];
            return half_away_ ? lower >= 0 : std::fmod(lower, 2) != 0;
        };
        const double number = std::isnan(y) ? 0 : numbers_[nearest(numbers_, static_cast<double>(y), takes_upper)];
        return static_cast<std::uint32_t>(static_cast<int>(number) + zero_) & ((1U << bits_) - 1);
    }

private:
    std::string name_;
    int bits_;
    int zero_; // the code of 0
    bool half_away_;
    std::vector<double> numbers_;
};

class Float32Codes {
public:
    std::string name() const { return "F32"; }
    int bits() const { return 32; }
    std::vector<double> numbers() const { return {}; }
    std::uint32_t code_of(float y) const { return std::isnan(y) ? code_nan_of_float : std::bit_cast<std::uint32_t>(y); }
};

// ---- numbers to try ----

// Adds y, the numbers next to it, and the negatives of these three.
inline void add_around(std::vector<float> &to, float y) {
    const float infinity = std::numeric_limits<float>::infinity();
    for (const float near : {y, std::nextafterf(y, -infinity), std::nextafterf(y, infinity)}) {
        to.insert(to.end(), {near, -near});
    }
}

// Adds all numbers, and where rounding goes over from one to the next.
inline void add_boundaries(std::vector<float> &to, const std::vector<double> &numbers) {
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        // What infinity stands for in BF16 is beyond a float.
        if (numbers[i] <= static_cast<double>(std::numeric_limits<float>::max())) {
            add_around(to, static_cast<float>(numbers[i]));
        }
        if (i + 1 < numbers.size()) {
            add_around(to, static_cast<float>((numbers[i] + numbers[i + 1]) / 2));
        }
    }
}

// Powers of two, subnormal numbers, infinities, and NaN with all kinds of payloads.
inline std::vector<float> special_numbers() {
    std::vector<float> numbers;
    for (int exponent = -149; exponent < 128; ++exponent) {
        add_around(numbers, std::ldexp(1.0F, exponent));
    }
    const std::uint32_t magnitudes[] = {0,          1,          2,          3,          5,          0x2aaaaa,
                                        0x3fffff,   0x400001,   0x7ffffe,   0x7fffff,   0x7f7ffffe, 0x7f7fffff,
                                        0x7f800000, 0x7f800001, 0x7f801000, 0x7fbfffff, 0x7fc00000, 0x7fc00001,
                                        0x7fd55555, 0x7fffe000, 0x7ffffffe, 0x7fffffff};
    for (const std::uint32_t magnitude : magnitudes) {
        numbers.push_back(std::bit_cast<float>(magnitude));
        numbers.push_back(std::bit_cast<float>(magnitude | code_sign_of_float));
    }
    return numbers;
}

// One in two has any bits. The exponents of the others are those at which small types have numbers.
template <class Random>
float random_number(Random &random) {
    const auto bits = static_cast<std::uint32_t>(random());
    if (bits % 2 == 0) {
        return std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    }
    constexpr std::uint32_t least = 127 - 26;
    constexpr std::uint32_t count = 26 + 18;
    const std::uint32_t exponent = least + bits / 2 % count;
    return std::bit_cast<float>((static_cast<std::uint32_t>(random()) & 0x807fffff) | exponent << 23);
}
