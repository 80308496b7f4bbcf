// SPDX-License-Identifier: Apache-2.0
// The codes of E4M3, E5M2 and E2M1, and the powers of two of UE8M0, beside NVIDIA's conversions of floats, as their
// headers have them for the host. They saturate, too.
#include "../../../src/format.hpp"
#include "../../suite/format_numbers.hpp"

#include <cuda_fp4.h>
#include <cuda_fp8.h>

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

namespace {

// The numbers around the boundaries of all types, special ones, and random ones.
std::vector<float> numbers_to_try() {
    std::vector<float> numbers = special_numbers();
    for (const FloatType &type : {f16_type, bf16_type, e4m3_type, e5m2_type, e2m1_type}) {
        add_boundaries(numbers, FloatCodes(type).numbers());
    }
    std::mt19937_64 random(Catch::getSeed());
    for (int i = 0; i < 1000000; ++i) {
        numbers.push_back(random_number(random));
    }
    return numbers;
}

template <class Found, class Expected>
void compare(Found found, Expected expected) {
    for (const float y : numbers_to_try()) {
        if (found(y) != expected(y)) {
            INFO(y << " with the bits " << kvappend::bits_of(y));
            REQUIRE(found(y) == expected(y));
        }
    }
}

std::uint32_t to_fp8(float y, __nv_fp8_interpretation_t type) {
    return __nv_cvt_float_to_fp8(y, __NV_SATFINITE, type);
}

} // namespace

TEST_CASE("E4M3 has NVIDIA's codes") {
    compare(kvappend::E4M3::encode, [](float y) { return to_fp8(y, __NV_E4M3); });
}

TEST_CASE("E5M2 has NVIDIA's codes") {
    compare(kvappend::E5M2::encode, [](float y) { return to_fp8(y, __NV_E5M2); });
}

TEST_CASE("E2M1 has NVIDIA's codes, except that NaN becomes 0") {
    compare(kvappend::E2M1::encode, [](float y) -> std::uint32_t {
        return std::isnan(y) ? 0 : __nv_cvt_float_to_fp4(y, __NV_E2M1, cudaRoundNearest);
    });
}

TEST_CASE("powers of two are rounded up as by NVIDIA") {
    const auto up = [](float y) -> std::uint32_t { return std::isnan(y) ? 255 : kvappend::exponent_up(std::fabs(y)); };
    compare(up, [](float y) -> std::uint32_t { return __nv_cvt_float_to_e8m0(y, __NV_SATFINITE, cudaRoundPosInf); });
}

TEST_CASE("codes stand for NVIDIA's numbers") {
    const FloatCodes f16(f16_type);
    const auto number = [&](__half_raw raw) { return f16.number_of(raw.x); };
    for (std::uint32_t code = 0; code < 256; ++code) {
        const auto storage = static_cast<unsigned char>(code);
        const float e4m3 = number(__nv_cvt_fp8_to_halfraw(storage, __NV_E4M3));
        const float e5m2 = number(__nv_cvt_fp8_to_halfraw(storage, __NV_E5M2));
        CHECK((kvappend::E4M3::decode(code) == e4m3 || std::isnan(e4m3)));
        CHECK(std::isnan(kvappend::E4M3::decode(code)) == std::isnan(e4m3));
        CHECK((kvappend::E5M2::decode(code) == e5m2 || std::isnan(e5m2)));
        CHECK(std::isnan(kvappend::E5M2::decode(code)) == std::isnan(e5m2));
        if (code < 16) {
            CHECK(kvappend::E2M1::decode(code) == number(__nv_cvt_fp4_to_halfraw(storage, __NV_E2M1)));
        }
    }
}
