// SPDX-License-Identifier: Apache-2.0
// Conversions for any processor.
#if !defined(__clang__)
#pragma GCC optimize("O3") // At -O2, GCC vectorises hardly any loop.
#endif

#include "decode.hpp"
#include "rotate.hpp"

namespace kvappend {

namespace {

struct AnyProcessor : Loops<AnyProcessor> {
    static void copy_non_temporal(std::byte *to, const std::byte *from, std::size_t bytes) { copy(to, from, bytes); }
};

} // namespace

constexpr CopyRows plain_conversions[3] = {{convert_append<AnyProcessor, false>, convert_append<AnyProcessor, false>},
                                           {convert_gather<AnyProcessor>, convert_gather<AnyProcessor>},
                                           {rotate_append<AnyProcessor, false>, rotate_append<AnyProcessor, false>}};

} // namespace kvappend
