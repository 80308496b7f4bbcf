// SPDX-License-Identifier: Apache-2.0
// The arithmetic of src/format.hpp by itself: every type's codes beside those of format_numbers.hpp, and scales beside
// the header's words.
//
// One test runs only on demand. It tries each of the 2^32 floats in each type, which takes a minute and a half:
//
//     build-tests/tests/suite/format_test '[every]'
#include "../../src/format.hpp"
#include "format_numbers.hpp"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include <cfloat>
#include <cmath>
#include <sstream>
#include <stdexcept>
#include <type_traits>

using kvappend::BF16;
using kvappend::bits_of;
using kvappend::E2M1;
using kvappend::E4M3;
using kvappend::E5M2;
using kvappend::F16;
using kvappend::F32;
using kvappend::Factor;
using kvappend::float_of;
using kvappend::Format;
using kvappend::Integer;
using kvappend::Scale;

namespace {

using Random = std::mt19937_64;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float no_number = std::numeric_limits<float>::quiet_NaN();
constexpr float least_subnormal = 0x1p-149F;

bool same(float a, float b) {
    return (std::isnan(a) && std::isnan(b)) || bits_of(a) == bits_of(b);
}

// Calls use(type, codes) for each floating-point type of 16 bits and less.
template <class Use>
void for_each_small_float(Use use) {
    use(F16{}, FloatCodes(f16_type));
    use(BF16{}, FloatCodes(bf16_type));
    use(E4M3{}, FloatCodes(e4m3_type));
    use(E5M2{}, FloatCodes(e5m2_type));
    use(E2M1{}, FloatCodes(e2m1_type));
}

template <class Use>
void for_each_integer(Use use) {
    use(Integer<8, 0, false>{}, IntegerCodes("INT8, half to even", 8, 0, false));
    use(Integer<8, 0, true>{}, IntegerCodes("INT8, half away", 8, 0, true));
    use(Integer<4, 8, false>{}, IntegerCodes("INT4, half to even", 4, 8, false));
    use(Integer<4, 8, true>{}, IntegerCodes("INT4, half away", 4, 8, true));
}

template <class Use>
void for_each_type(Use use) {
    use(F32{}, Float32Codes{});
    for_each_small_float(use);
    for_each_integer(use);
}

template <class Type, class Codes>
void check_code(const Codes &codes, float y) {
    const std::uint32_t expected = codes.code_of(y);
    const std::uint32_t found = Type::encode(y);
    if (found != expected) {
        INFO(codes.name() << " of " << y << " with the bits " << bits_of(y));
        REQUIRE(found == expected);
    }
}

void check_codes(std::span<const float> numbers) {
    for_each_type([&](auto type, const auto &codes) {
        for (const float y : numbers) {
            check_code<decltype(type)>(codes, y);
        }
    });
}

// All numbers of a type of 16 bits.
std::vector<float> numbers_of(const FloatType &type) {
    const FloatCodes codes(type);
    std::vector<float> numbers;
    for (std::uint32_t code = 0; code < 0x10000; ++code) {
        numbers.push_back(codes.number_of(code));
    }
    return numbers;
}

// Where rounding goes over from one number to the next, for every type.
std::vector<float> boundaries() {
    std::vector<float> numbers;
    for_each_type([&](auto /*type*/, const auto &codes) { add_boundaries(numbers, codes.numbers()); });
    return numbers;
}

} // namespace

// ---- elements ----

TEST_CASE("codes that are known from elsewhere", "[format]") {
    CHECK(F16::encode(65504) == 0x7bff);
    CHECK(F16::encode(0x1.ffdffep15F) == 0x7bff);
    CHECK(F16::encode(65520) == 0x7c00);
    CHECK(F16::encode(-0x1p-24F) == 0x8001);
    CHECK(F16::encode(0x1p-25F) == 0);
    CHECK(BF16::encode(1.0F) == 0x3f80);
    CHECK(BF16::encode(float_of(0x3f808000)) == 0x3f80);
    CHECK(BF16::encode(float_of(0x3f818000)) == 0x3f82);
    CHECK(BF16::encode(-FLT_MAX) == 0xff80);
    CHECK(E4M3::encode(448) == 0x7e);
    CHECK(E4M3::encode(1e9F) == 0x7e);
    CHECK(E4M3::encode(-infinity) == 0xfe);
    CHECK(E4M3::encode(-no_number) == 0x7f);
    CHECK(E4M3::encode(17) == 0x58);
    CHECK(E4M3::encode(19) == 0x5a);
    CHECK(E4M3::encode(0x1p-9F) == 1);
    CHECK(E5M2::encode(infinity) == 0x7b);
    CHECK(E5M2::encode(1.0F) == 0x3c);
    CHECK(E5M2::encode(no_number) == 0x7f);
    CHECK(E2M1::encode(5) == 6);
    CHECK(E2M1::encode(-7) == 0xf);
    CHECK(E2M1::encode(0.25F) == 0);
    CHECK(E2M1::encode(0.75F) == 2);
    CHECK(E2M1::encode(-0.1F) == 8);
    CHECK(E2M1::encode(no_number) == 0);
    CHECK(Integer<8, 0, false>::encode(2.5F) == 2);
    CHECK(Integer<8, 0, true>::encode(2.5F) == 3);
    CHECK(Integer<8, 0, true>::encode(-2.5F) == 0xfd);
    CHECK(Integer<8, 0, false>::encode(-1000) == 0x80);
    CHECK(Integer<8, 0, false>::encode(1000) == 0x7f);
    CHECK(Integer<4, 8, false>::encode(-8) == 0);
    CHECK(Integer<4, 8, false>::encode(7) == 15);
    CHECK(Integer<4, 8, true>::encode(no_number) == 8);
    // The greatest float that is less than 0.5 is nearer to 0, though adding 0.5 to it gives 1.
    CHECK(Integer<8, 0, true>::encode(0x1.fffffep-2F) == 0);
    CHECK(F32::encode(-no_number) == 0x7fffffff);
    CHECK(F32::encode(-0.0F) == 0x80000000);
    CHECK(E4M3::decode(0x7e) == 448);
    CHECK(E5M2::decode(0x7b) == 57344);
    CHECK(E2M1::decode(0xf) == -6);
}

TEST_CASE("every number of F16 and BF16 has the nearest code in every type", "[format]") {
    check_codes(numbers_of(f16_type));
    check_codes(numbers_of(bf16_type));
}

TEST_CASE("the numbers around every boundary between two codes have the nearest code", "[format]") {
    check_codes(boundaries());
}

TEST_CASE("powers of two, subnormal numbers, infinities and NaN have the nearest code", "[format]") {
    check_codes(special_numbers());
}

TEST_CASE("random numbers have the nearest code", "[format]") {
    Random random(Catch::getSeed());
    std::vector<float> numbers(1000000);
    std::ranges::generate(numbers, [&] { return random_number(random); });
    check_codes(numbers);
}

TEST_CASE("each float has the nearest code", "[.every]") {
    // The nearest code of a larger number is never that of a smaller one. Therefore, if the first and the last number
    // of a block have one code, it is the code of all numbers between them.
    constexpr std::uint32_t block = 1U << 10;
    for_each_type([&](auto type, const auto &codes) {
        using Type = decltype(type);
        std::uint32_t first = 0;
        do {
            const std::uint32_t expected = codes.code_of(float_of(first));
            bool all = expected == codes.code_of(float_of(first + block - 1));
            for (std::uint32_t i = 0; i < block; ++i) {
                all &= Type::encode(float_of(first + i)) == expected;
            }
            for (std::uint32_t i = 0; !all && i < block; ++i) {
                check_code<Type>(codes, float_of(first + i));
            }
            first += block;
        } while (first != 0);
    });
}

TEST_CASE("every code stands for its number", "[format]") {
    for_each_small_float([](auto type, const auto &codes) {
        using Type = decltype(type);
        CHECK(Type::bits == static_cast<unsigned>(codes.bits()));
        for (std::uint32_t code = 0; code < 1U << codes.bits(); ++code) {
            const float expected = codes.number_of(code);
            const float found = Type::decode(code);
            if (std::isnan(expected) ? !std::isnan(found) : bits_of(found) != bits_of(expected)) {
                INFO(codes.name() << ", code " << code);
                REQUIRE(bits_of(found) == bits_of(expected));
            }
        }
    });
    CHECK(F32::bits == 32);
    for (const float y : special_numbers()) {
        CHECK(bits_of(F32::decode(bits_of(y))) == bits_of(y));
    }
}

TEST_CASE("the number of a code has that code", "[format]") {
    for_each_small_float([](auto type, const auto &codes) {
        using Type = decltype(type);
        std::size_t others = 0;
        for (std::uint32_t code = 0; code < 1U << codes.bits(); ++code) {
            const float number = Type::decode(code);
            const std::uint32_t again = Type::encode(number);
            others += again != code ? 1 : 0;
            // Not infinity, where it is not a number that conversions give; and one NaN stands for all.
            if (!std::isinf(number) && !same(Type::decode(again), number)) {
                INFO(codes.name() << ", code " << code);
                REQUIRE(bits_of(Type::decode(again)) == bits_of(number));
            }
        }
        // All NaN but one: of F16 and BF16, of the sign in E4M3, and of E5M2, whose infinities are no results either.
        const std::size_t expected = codes.bits() == 4                ? 0
                                     : codes.name() == e4m3_type.name ? 1
                                     : codes.name() == e5m2_type.name ? 5 + 2
                                     : codes.name() == f16_type.name  ? 2 * 0x3ff - 1
                                                                      : 2 * 0x7f - 1;
        CHECK(others == expected);
    });
    for_each_integer([](auto type, const auto &codes) {
        for (const double number : codes.numbers()) {
            CHECK(decltype(type)::encode(static_cast<float>(number)) == codes.code_of(static_cast<float>(number)));
        }
    });
}

TEST_CASE("a format has the type of its codes", "[format]") {
    const auto check = [](std::int32_t stored_type, bool half_away, auto expected_type, const auto &codes) {
        Format format{};
        format.type = stored_type;
        format.half_away = half_away;
        int calls = 0;
        kvappend::with_stored_type(format, [&](auto type) {
            ++calls;
            CHECK(std::is_same_v<decltype(type), decltype(expected_type)>);
            CHECK(decltype(type)::bits == static_cast<unsigned>(codes.bits()));
            for (const float y : {0.3F, 0.5F, 1.5F, -2.5F, 1e3F, no_number}) {
                CHECK(decltype(type)::encode(y) == codes.code_of(y));
            }
        });
        CHECK(calls == 1);
    };
    check(KVAPPEND_STORED_F32, false, F32{}, Float32Codes{});
    check(KVAPPEND_STORED_F16, false, F16{}, FloatCodes(f16_type));
    check(KVAPPEND_STORED_BF16, false, BF16{}, FloatCodes(bf16_type));
    check(KVAPPEND_STORED_E4M3, false, E4M3{}, FloatCodes(e4m3_type));
    check(KVAPPEND_STORED_E5M2, false, E5M2{}, FloatCodes(e5m2_type));
    check(KVAPPEND_STORED_E2M1, false, E2M1{}, FloatCodes(e2m1_type));
    check(KVAPPEND_STORED_INT8, false, Integer<8, 0, false>{}, IntegerCodes("INT8", 8, 0, false));
    check(KVAPPEND_STORED_INT8, true, Integer<8, 0, true>{}, IntegerCodes("INT8", 8, 0, true));
    check(KVAPPEND_STORED_INT4, false, Integer<4, 8, false>{}, IntegerCodes("INT4", 4, 8, false));
    check(KVAPPEND_STORED_INT4, true, Integer<4, 8, true>{}, IntegerCodes("INT4", 4, 8, true));
}

TEST_CASE("the magnitude of an element counts unless it is NaN", "[format]") {
    std::vector<float> numbers = special_numbers();
    add_around(numbers, 448);
    for (const float y : numbers) {
        CHECK(kvappend::magnitude_of(y) == bits_of(std::fabs(y)));
        CHECK(static_cast<std::uint32_t>(kvappend::counted_magnitude(y)) ==
              (std::isnan(y) ? 0 : bits_of(std::fabs(y))));
    }
}

// ---- scales, by the header's words ----

namespace {

// An operation of binary32: that of a double, rounded once more. The 53 bits of a double are more than twice the 24 of
// a float, and then the result of +, -, * and / is the same as that of one rounding (Figueroa, 1995).
float product(float a, float b) {
    return static_cast<float>(static_cast<double>(a) * static_cast<double>(b));
}
float quotient(float a, float b) {
    return static_cast<float>(static_cast<double>(a) / static_cast<double>(b));
}

// The larger number, where NaN counts as less than any number.
float larger(float a, float b) {
    return std::isnan(a) ? b : std::isnan(b) ? a : std::max(a, b);
}

float greatest_number(std::int32_t type) {
    switch (type) {
    case KVAPPEND_STORED_E4M3:
        return 448;
    case KVAPPEND_STORED_E5M2:
        return 57344;
    case KVAPPEND_STORED_INT8:
        return 127;
    case KVAPPEND_STORED_INT4:
        return 7;
    case KVAPPEND_STORED_E2M1:
        return 6;
    default:
        throw std::logic_error("a type without computed scales");
    }
}

float expected_unrounded(const Format &f, float largest, float global) {
    const float greatest = f.has_global_scale ? product(greatest_number(f.type), global) : greatest_number(f.type);
    const float scale = larger(quotient(larger(largest, f.amax_floor), greatest), f.scale_floor);
    return scale == 0 ? 0 : scale; // A scale is never negative, so that of zero is no -0.
}

// The types of scales, and how scales are rounded to them.
class ScaleTypes {
public:
    ScaleTypes() {
        for (int exponent = -127; exponent <= 127; ++exponent) {
            powers_.push_back(std::ldexp(1.0, exponent));
        }
    }

    Scale round(const Format &f, float scale) const {
        if (f.power_of_two) {
            const auto up = std::ranges::lower_bound(powers_, static_cast<double>(scale));
            const auto index = std::min<std::ptrdiff_t>(up - powers_.begin(), std::ssize(powers_) - 1);
            const auto value = static_cast<float>(powers_[static_cast<std::size_t>(index)]);
            return {value, f.scale_type == KVAPPEND_SCALE_UE8M0 ? static_cast<std::uint32_t>(index) : bits_of(value)};
        }
        switch (f.scale_type) {
        case KVAPPEND_SCALE_F16: {
            const std::uint32_t code = finite_f16_.code_of(scale);
            return {finite_f16_.number_of(code), code};
        }
        case KVAPPEND_SCALE_E4M3: {
            const std::uint32_t code = e4m3_.code_of(scale);
            return {e4m3_.number_of(code), code};
        }
        default: {
            const float value = std::min(scale, FLT_MAX);
            return {value, bits_of(value)};
        }
        }
    }

    float decode(std::int32_t scale_type, std::uint32_t code) const {
        switch (scale_type) {
        case KVAPPEND_SCALE_F16:
            return f16_.number_of(code);
        case KVAPPEND_SCALE_E4M3:
            return e4m3_.number_of(code);
        case KVAPPEND_SCALE_UE8M0:
            return code == 255 ? no_number : static_cast<float>(powers_[code]);
        default:
            return std::bit_cast<float>(code);
        }
    }

private:
    static FloatType without_overflow(FloatType type) {
        type.overflows = false;
        return type;
    }

    std::vector<double> powers_;
    FloatCodes f16_{f16_type};
    FloatCodes finite_f16_{without_overflow(f16_type)};
    FloatCodes e4m3_{e4m3_type};
};

// What an element x becomes before it is rounded, if s is the scale of its group.
float expected_element(const Format &f, float x, float scale, float global) {
    const float s = f.has_global_scale ? product(scale, global) : scale;
    if (scale == 0 || s == 0) {
        return 0;
    }
    switch (f.scale_use) {
    case KVAPPEND_SCALE_DIVIDE:
        return quotient(x, s);
    case KVAPPEND_SCALE_MULTIPLY:
        return product(x, s);
    default:
        return product(x, quotient(1, s));
    }
}

struct ScaleKind {
    std::int32_t type;
    bool power_of_two;
};
// All for which scales can be computed.
constexpr ScaleKind scale_kinds[] = {{KVAPPEND_SCALE_F32, false},
                                     {KVAPPEND_SCALE_F16, false},
                                     {KVAPPEND_SCALE_E4M3, false},
                                     {KVAPPEND_SCALE_F32, true},
                                     {KVAPPEND_SCALE_UE8M0, true}};
constexpr std::int32_t scaled_types[] = {KVAPPEND_STORED_E4M3, KVAPPEND_STORED_E5M2, KVAPPEND_STORED_INT8,
                                         KVAPPEND_STORED_INT4, KVAPPEND_STORED_E2M1};

const std::vector<float> global_scales{1,         0.37F,     3e-5F,    2688.0F,    1e30F,     1e-30F,
                                       0x1p-140F, FLT_MAX,   infinity, no_number,  0,         -0.0F,
                                       -1,        -infinity, -1e-30F,  -no_number, 0x1p-149F, 0x1p-126F};
const std::vector<float> elements{0,      -0.0F, 1,         -1,     0.3F,  -2.5F,    6,         448,      -57344,
                                  1e-20F, -1e9F, 0x1p-149F, 1e-40F, 1e38F, -FLT_MAX, -infinity, infinity, no_number};

std::string text_of(float number) {
    std::ostringstream text;
    text << number;
    return text.str();
}

Format format_of(std::int32_t type, ScaleKind scale) {
    Format f{};
    f.type = type;
    f.scaling = KVAPPEND_SCALING_COMPUTED;
    f.scale_type = scale.type;
    f.power_of_two = scale.power_of_two;
    return f;
}

void check_factor(const Format &f, const Factor &factor, float x, float scale, float global) {
    const float expected = expected_element(f, x, scale, global);
    if (!same(factor.apply(x), expected)) {
        INFO("use " << f.scale_use << ", element " << x << ", scale " << scale << ", global scale "
                    << (f.has_global_scale ? text_of(global) : "none"));
        REQUIRE(factor.apply(x) == expected);
    }
}

} // namespace

TEST_CASE("a scale is rounded to its type", "[format][scales]") {
    const ScaleTypes types;
    std::vector<float> scales = boundaries();
    const std::vector<float> special = special_numbers();
    scales.insert(scales.end(), special.begin(), special.end());
    Random random(Catch::getSeed());
    for (int i = 0; i < 200000; ++i) {
        scales.push_back(random_number(random));
    }
    for (const ScaleKind kind : scale_kinds) {
        const Format f = format_of(KVAPPEND_STORED_E4M3, kind);
        for (const float any : scales) {
            const float scale = std::isnan(any) ? infinity : std::fabs(any);
            const Scale expected = types.round(f, scale);
            const Scale found = kvappend::round_scale(f, scale);
            if (found.code != expected.code || bits_of(found.value) != bits_of(expected.value)) {
                INFO("type " << kind.type << (kind.power_of_two ? ", power of two" : "") << ", scale " << scale);
                CHECK(found.code == expected.code);
                REQUIRE(bits_of(found.value) == bits_of(expected.value));
            }
        }
    }
}

TEST_CASE("scales that are known from elsewhere", "[format][scales]") {
    const auto round = [](ScaleKind kind, float scale) {
        return kvappend::round_scale(format_of(KVAPPEND_STORED_E4M3, kind), scale);
    };
    CHECK(round({KVAPPEND_SCALE_F32, false}, infinity).value == FLT_MAX);
    CHECK(round({KVAPPEND_SCALE_F32, false}, least_subnormal).code == 1);
    CHECK(round({KVAPPEND_SCALE_F16, false}, 1e9F).code == 0x7bff);
    CHECK(round({KVAPPEND_SCALE_F16, false}, 0x1p-25F).code == 0);
    CHECK(round({KVAPPEND_SCALE_F16, false}, 0x1.000002p-25F).code == 1);
    CHECK(round({KVAPPEND_SCALE_E4M3, false}, infinity).value == 448);
    CHECK(round({KVAPPEND_SCALE_E4M3, false}, 0x1p-10F).value == 0);
    CHECK(round({KVAPPEND_SCALE_UE8M0, true}, 1).code == 127);
    CHECK(round({KVAPPEND_SCALE_UE8M0, true}, 1.0001F).code == 128);
    CHECK(round({KVAPPEND_SCALE_UE8M0, true}, 0).value == 0x1p-127F);
    CHECK(round({KVAPPEND_SCALE_UE8M0, true}, infinity).value == 0x1p127F);
    CHECK(round({KVAPPEND_SCALE_F32, true}, 0x1p-127F).code == 0x400000);
    CHECK(round({KVAPPEND_SCALE_F32, true}, float_of(0x400001)).value == 0x1p-126F);
    CHECK(round({KVAPPEND_SCALE_F32, true}, 3).value == 4);
}

TEST_CASE("the code of a scale stands for its number", "[format][scales]") {
    const ScaleTypes types;
    const auto check = [&](std::int32_t type, std::uint32_t code) {
        if (!same(kvappend::decode_scale(type, code), types.decode(type, code))) {
            INFO("type " << type << ", code " << code);
            REQUIRE(kvappend::decode_scale(type, code) == types.decode(type, code));
        }
    };
    for (std::uint32_t code = 0; code < 0x10000; ++code) {
        check(KVAPPEND_SCALE_F16, code);
    }
    for (std::uint32_t code = 0; code < 0x100; ++code) {
        check(KVAPPEND_SCALE_E4M3, code);
        check(KVAPPEND_SCALE_UE8M0, code);
    }
    for (const float scale : special_numbers()) {
        check(KVAPPEND_SCALE_F32, bits_of(scale));
    }
}

TEST_CASE("a scale of any value has its effect on any element", "[format][scales]") {
    std::vector<float> scales = elements;
    scales.insert(scales.end(), {0.37F, -0.37F, 1e-30F, 1e30F, 0x1p-126F, 0x1p-127F, 0x1p127F, 65504});
    for (const std::int32_t use : {KVAPPEND_SCALE_DIVIDE, KVAPPEND_SCALE_RECIPROCAL, KVAPPEND_SCALE_MULTIPLY,
                                   KVAPPEND_SCALE_UNROUNDED_RECIPROCAL}) {
        for (const bool has_global_scale : {false, true}) {
            Format f{};
            f.scaling = KVAPPEND_SCALING_GIVEN;
            f.scale_use = use;
            f.has_global_scale = has_global_scale;
            for (const float scale : scales) {
                for (const float global : global_scales) {
                    const Factor factor = kvappend::factor_of(f, scale, global);
                    for (const float x : elements) {
                        check_factor(f, factor, x, scale, global);
                    }
                }
            }
        }
    }
}

TEST_CASE("scales are computed with every floor and every global scale", "[format][scales]") {
    const ScaleTypes types;
    Random random(Catch::getSeed());
    const auto of = [&](const std::vector<float> &values) { return values[random() % values.size()]; };
    const std::vector<float> floors{0, 0, 0, -0.0F, least_subnormal, FLT_MIN, 1e-6F, 1e-4F, 0.75F, 448, FLT_MAX};
    const auto largest = [&] {
        const float any = random() % 4 == 0 ? of(elements) : random_number(random);
        return std::isnan(any) ? 0 : std::fabs(any);
    };
    for (int i = 0; i < 500000; ++i) {
        Format f =
            format_of(scaled_types[random() % std::size(scaled_types)], scale_kinds[random() % std::size(scale_kinds)]);
        f.scale_use = std::vector<std::int32_t>{KVAPPEND_SCALE_DIVIDE, KVAPPEND_SCALE_RECIPROCAL,
                                                KVAPPEND_SCALE_UNROUNDED_RECIPROCAL}[random() % 3];
        f.has_global_scale = random() % 2 == 0;
        f.amax_floor = of(floors);
        f.scale_floor = of(floors);
        const float most = largest();
        const float global = random() % 4 == 0 ? random_number(random) : of(global_scales);

        const float unrounded = expected_unrounded(f, most, global);
        const Scale expected = types.round(f, unrounded);
        Scale found{no_number, 0};
        const Factor factor = kvappend::compute_factor(f, most, global, found);
        if (!same(kvappend::scale_of_group(f, most, kvappend::greatest_with(f, global)), unrounded) ||
            found.code != expected.code || bits_of(found.value) != bits_of(expected.value)) {
            INFO("type " << f.type << ", scale type " << f.scale_type << (f.power_of_two ? ", power of two" : "")
                         << ", floors " << f.amax_floor << " and " << f.scale_floor << ", largest " << most
                         << ", global scale " << (f.has_global_scale ? text_of(global) : "none"));
            CHECK(bits_of(kvappend::scale_of_group(f, most, kvappend::greatest_with(f, global))) == bits_of(unrounded));
            CHECK(found.value == expected.value);
            REQUIRE(found.code == expected.code);
        }
        const bool is_unrounded = f.scale_use == KVAPPEND_SCALE_UNROUNDED_RECIPROCAL;
        for (const float x : {of(elements), most, random_number(random)}) {
            check_factor(f, factor, x, is_unrounded ? unrounded : expected.value, global);
        }
    }
}

TEST_CASE("a group of zeros has the least scale, and the codes of 0", "[format][scales]") {
    for (const float zero : {0.0F, -0.0F}) {
        for (const ScaleKind kind : scale_kinds) {
            Format f = format_of(KVAPPEND_STORED_INT8, kind);
            f.amax_floor = f.scale_floor = zero;
            Scale scale{no_number, 0};
            const Factor factor = kvappend::compute_factor(f, 0, 1, scale);
            CHECK(bits_of(scale.value) == (kind.power_of_two ? 0x400000 : 0));
            CHECK(scale.code == (kind.power_of_two && kind.type == KVAPPEND_SCALE_F32 ? 0x400000 : 0));
            CHECK(bits_of(factor.apply(0)) == 0);
        }
    }
}

TEST_CASE("a format knows whether it has scales", "[format][scales]") {
    for (const std::int32_t scaling : {KVAPPEND_SCALING_NONE, KVAPPEND_SCALING_GIVEN, KVAPPEND_SCALING_COMPUTED}) {
        Format f{};
        f.scaling = scaling;
        CHECK(f.scaled() == (scaling == KVAPPEND_SCALING_GIVEN || scaling == KVAPPEND_SCALING_COMPUTED));
        CHECK(f.computed() == (scaling == KVAPPEND_SCALING_COMPUTED));
    }
}
