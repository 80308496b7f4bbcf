// SPDX-License-Identifier: Apache-2.0
// Copies by non-temporal stores of 32 bytes. A file includes this after its pragma for AVX, like copy_rows.hpp.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kvappend {

// Stores whole cache lines, which the processor combines and writes without fetching the line first (write combining).
// The bytes before the first whole line and after the last one are copied by the C library. The parameter Processor
// keeps this apart for each processor.
template <class Processor>
inline void copy_non_temporal(std::byte *to, const std::byte *from, std::size_t bytes) {
    constexpr std::size_t line = 64;
    std::size_t at = std::min(-reinterpret_cast<std::uintptr_t>(to) % line, bytes);
    std::memcpy(to, from, at);
    for (; at + line <= bytes; at += line) {
        const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i_u *>(from + at));
        const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i_u *>(from + at + line / 2));
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to + at), low);
        _mm256_stream_si256(reinterpret_cast<__m256i *>(to + at + line / 2), high);
    }
    std::memcpy(to + at, from + at, bytes - at);
}

// Another thread that learns of the rows later must see them.
template <class Processor>
inline void finish_non_temporal() {
    _mm_sfence();
}

} // namespace kvappend
