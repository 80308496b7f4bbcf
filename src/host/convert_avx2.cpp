// SPDX-License-Identifier: Apache-2.0
// Conversions by AVX2. The compiler vectorises the loops of convert.hpp. Only code after the pragma may use AVX2: see
// move_avx.cpp.
#include "../format.hpp"
#include "../places.hpp"
#include "../storage.hpp"
#include "host.hpp"
#include "runs.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#pragma GCC optimize("O3") // At -O2, GCC vectorises hardly any loop.
#endif

#include "convert.hpp"

namespace kvappend {

namespace {

struct Avx2Processor {};

} // namespace

constexpr CopyRows avx2_convert{convert_append<Avx2Processor>, convert_append<Avx2Processor>};

} // namespace kvappend

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
