// SPDX-License-Identifier: Apache-2.0
// Conversions for any processor.
#if !defined(__clang__)
#pragma GCC optimize("O3") // At -O2, GCC vectorises hardly any loop.
#endif

#include "convert.hpp"

namespace kvappend {

namespace {

struct AnyProcessor : Loops<AnyProcessor> {
    static void copy(std::byte *to, const std::byte *from, std::size_t bytes) { std::memcpy(to, from, bytes); }
};

} // namespace

constexpr CopyRows plain_convert{convert_append<AnyProcessor>, convert_append<AnyProcessor>};

} // namespace kvappend
