// SPDX-License-Identifier: Apache-2.0
#include "rotary.hpp"

#include <cmath>
#include <cstdint>

Rotary::Rotary(std::string_view style, std::size_t dim, std::size_t positions) : pairs_(style == "none" ? 0 : dim / 2) {
    description_.style = style == "interleaved" ? KVAPPEND_ROTARY_INTERLEAVED : KVAPPEND_ROTARY_HALF;
    description_.table_type = KVAPPEND_ELEMENT_F32;
    description_.dim = static_cast<std::int64_t>(dim);
    description_.table_rows = static_cast<std::int64_t>(positions);
    for (std::size_t position = 0; position < positions; ++position) {
        for (std::size_t pair = 0; pair < pairs_; ++pair) {
            const float exponent = -2.0f * static_cast<float>(pair) / static_cast<float>(dim);
            const float angle = static_cast<float>(position) * std::pow(10000.0f, exponent);
            cos_.push_back(std::cos(angle));
            sin_.push_back(std::sin(angle));
        }
    }
}

void Rotary::rotate(std::span<float> head, std::size_t position) const {
    const bool interleaved = description_.style == KVAPPEND_ROTARY_INTERLEAVED;
    for (std::size_t pair = 0; pair < pairs_; ++pair) {
        float &first = head[interleaved ? 2 * pair : pair];
        float &second = head[interleaved ? 2 * pair + 1 : pair + pairs_];
        const float cos = cos_[position * pairs_ + pair];
        const float sin = sin_[position * pairs_ + pair];
        const float rotated = first * cos - second * sin;
        second = second * cos + first * sin;
        first = rotated;
    }
}
