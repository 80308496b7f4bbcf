// SPDX-License-Identifier: Apache-2.0
// The quotients of conversions on a device, which come from a reciprocal, are those of a division.
#include "../../src/cuda/convert_chunks.cuh"
#include "draw.hpp"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <random>

namespace {

using Random = std::mt19937_64;

float with_exponent(Draw<Random> &draw, int least, int most) {
    const float mantissa = 1 + static_cast<float>(draw.between(0, (1 << 23) - 1)) * 0x1p-23F;
    const float number = std::ldexp(mantissa, static_cast<int>(draw.between(least, most)));
    return draw.one_in(2) ? number : -number;
}

} // namespace

TEST_CASE("a quotient by a reciprocal is that of a division, with its sign", "[quotient]") {
    Random random(Catch::getSeed());
    Draw<Random> draw(random);
    int exact = 0;
    for (int i = 0; i < 1'000'000; ++i) {
        const float divisor = std::fabs(with_exponent(draw, -64, 63));
        const float element =
            draw.one_in(50) ? std::copysign(0.0F, with_exponent(draw, 0, 0)) : with_exponent(draw, -126, 63);
        const auto factor = kvappend::ChunkFactor::of(KVAPPEND_SCALE_DIVIDE, divisor);
        const float quotient = factor.quotient(element);
        const float expected = element / divisor;
        CAPTURE(element, divisor, quotient, expected);
        REQUIRE(factor.usable);
        if (std::isinf(expected)) {
            continue; // Some become NaN, and are then divided.
        }
        REQUIRE(std::signbit(quotient) == std::signbit(element));
        if (element == 0 || std::fabs(expected) >= 0x1p-36F) {
            REQUIRE(kvappend::bits_of(quotient) == kvappend::bits_of(expected));
            ++exact;
        } else {
            REQUIRE(std::fabs(quotient) <= 0x1p-36F);
        }
    }
    CHECK(exact >= 100'000);
}
