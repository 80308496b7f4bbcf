// SPDX-License-Identifier: Apache-2.0
#include "reference_rotation.hpp"

#include "reference_format.hpp"
#include "scenario.hpp"

#include <bit>
#include <cmath>

namespace {

// The storage whose codes are the elements of a type.
kvappend_storage codes_of(std::int32_t element_type) {
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    storage.type = element_type == KVAPPEND_ELEMENT_F32   ? KVAPPEND_STORED_F32
                   : element_type == KVAPPEND_ELEMENT_F16 ? KVAPPEND_STORED_F16
                                                          : KVAPPEND_STORED_BF16;
    return storage;
}

float number_of(std::int32_t element_type, std::uint32_t bits) {
    if (element_type == KVAPPEND_ELEMENT_F32) {
        return std::bit_cast<float>(bits);
    }
    return std::bit_cast<float>(reference_load(codes_of(element_type), KVAPPEND_ELEMENT_F32, {{bits}, {}}, 1).at(0));
}

std::uint32_t rounded(std::int32_t element_type, float number) {
    if (element_type == KVAPPEND_ELEMENT_F32) {
        return std::isnan(number) ? 0x7fffffff : std::bit_cast<std::uint32_t>(number);
    }
    return reference_store(codes_of(element_type), KVAPPEND_ELEMENT_F32, {std::bit_cast<std::uint32_t>(number)}, {}, 1)
        .codes.at(0);
}

// Binary64 has enough bits for the second rounding to give the result of a single one. No compiler can contract these.
float product(float a, float b) {
    return static_cast<float>(static_cast<double>(a) * b);
}
float sum(float a, float b) {
    return static_cast<float>(static_cast<double>(a) + b);
}

} // namespace

std::size_t reference_table_byte(const kvappend_rotary &r, std::int64_t position, std::int64_t pair) {
    const std::int64_t stride = r.table_stride == 0 ? r.dim / 2 : r.table_stride;
    return static_cast<std::size_t>(position * stride + pair) * element_bytes(r.table_type);
}

void reference_rotate(const kvappend_rotary &r, std::int64_t begin, std::int32_t element_type,
                      const std::vector<std::uint32_t> &cos, const std::vector<std::uint32_t> &sin,
                      std::vector<std::uint32_t> &elements) {
    for (std::int64_t pair = 0; pair < r.dim / 2; ++pair) {
        const bool halves = r.style == KVAPPEND_ROTARY_HALF;
        std::uint32_t &first = elements.at(static_cast<std::size_t>(begin + (halves ? pair : 2 * pair)));
        std::uint32_t &second =
            elements.at(static_cast<std::size_t>(begin + (halves ? pair + r.dim / 2 : 2 * pair + 1)));
        const float x1 = number_of(element_type, first);
        const float x2 = number_of(element_type, second);
        const float c = number_of(r.table_type, cos.at(static_cast<std::size_t>(pair)));
        const float s = number_of(r.table_type, sin.at(static_cast<std::size_t>(pair)));
        first = rounded(element_type, sum(product(x1, c), -product(x2, s)));
        second = rounded(element_type, sum(product(x2, c), product(x1, s)));
    }
}
