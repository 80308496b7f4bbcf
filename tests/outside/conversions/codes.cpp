// SPDX-License-Identifier: Apache-2.0
// The arithmetic of src/format.hpp as a filter, for programs in other languages.
//
// codes encode TYPE    reads floats, and writes their codes as numbers of 32 bits
// codes decode TYPE    reads codes as numbers of 32 bits, and writes floats
// codes round TYPE     reads scales as floats, and writes their codes as numbers of 32 bits
#include "../../../src/format.hpp"

#include <cstdio>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace {

using kvappend::bits_of;
using kvappend::float_of;

using Function = std::function<std::uint32_t(std::uint32_t)>;

template <class Type>
std::uint32_t encode(std::uint32_t number) {
    return Type::encode(float_of(number));
}
template <class Type>
std::uint32_t decode(std::uint32_t code) {
    return bits_of(Type::decode(code));
}

template <std::int32_t ScaleType, bool PowerOfTwo>
std::uint32_t round(std::uint32_t number) {
    kvappend::Format format{};
    format.scale_type = ScaleType;
    format.power_of_two = PowerOfTwo;
    return kvappend::round_scale(format, float_of(number)).code;
}

const std::map<std::string, Function> functions{
    {"encode F32", encode<kvappend::F32>},
    {"encode F16", encode<kvappend::F16>},
    {"encode BF16", encode<kvappend::BF16>},
    {"encode E4M3", encode<kvappend::E4M3>},
    {"encode E5M2", encode<kvappend::E5M2>},
    {"encode E2M1", encode<kvappend::E2M1>},
    {"encode INT8", encode<kvappend::Integer<8, 0, false>>},
    {"encode INT8 half away", encode<kvappend::Integer<8, 0, true>>},
    {"encode INT4", encode<kvappend::Integer<4, 8, false>>},
    {"encode INT4 half away", encode<kvappend::Integer<4, 8, true>>},
    {"decode F16", decode<kvappend::F16>},
    {"decode BF16", decode<kvappend::BF16>},
    {"decode E4M3", decode<kvappend::E4M3>},
    {"decode E5M2", decode<kvappend::E5M2>},
    {"decode E2M1", decode<kvappend::E2M1>},
    {"decode UE8M0", [](std::uint32_t code) { return bits_of(kvappend::decode_scale(KVAPPEND_SCALE_UE8M0, code)); }},
    {"round F32", round<KVAPPEND_SCALE_F32, false>},
    {"round F16", round<KVAPPEND_SCALE_F16, false>},
    {"round E4M3", round<KVAPPEND_SCALE_E4M3, false>},
    {"round UE8M0", round<KVAPPEND_SCALE_UE8M0, true>},
    {"round F32 power of two", round<KVAPPEND_SCALE_F32, true>},
};

} // namespace

int main(int argc, char **argv) {
    std::string name;
    for (int i = 1; i < argc; ++i) {
        name += (i > 1 ? " " : "") + std::string(argv[i]);
    }
    const auto function = functions.find(name);
    if (function == functions.end()) {
        std::fprintf(stderr, "codes: unknown function: %s\n", name.c_str());
        return 2;
    }
    std::vector<std::uint32_t> numbers(1U << 16);
    while (const std::size_t count = std::fread(numbers.data(), sizeof numbers[0], numbers.size(), stdin)) {
        for (std::uint32_t &number : std::span(numbers).first(count)) {
            number = function->second(number);
        }
        if (std::fwrite(numbers.data(), sizeof numbers[0], count, stdout) != count) {
            return 1;
        }
    }
    return std::fflush(stdout) == 0 ? 0 : 1;
}
