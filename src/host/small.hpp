// SPDX-License-Identifier: Apache-2.0
// Few bytes without a call, which takes longer than the copy: by fixed sizes that the compiler turns into single moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kvappend {

inline constexpr std::size_t most_small = 64;

// 16 bytes of anything.
struct alignas(16) Sixteen {
    std::uint64_t words[2];
};

// From sizeof(Part) to twice that: the first bytes and the last ones, which may meet.
template <class Part>
inline void copy_both_ends(std::byte *to, const std::byte *from, std::size_t bytes) {
    Part first;
    Part last;
    std::memcpy(&first, from, sizeof first);
    std::memcpy(&last, from + bytes - sizeof last, sizeof last);
    std::memcpy(to, &first, sizeof first);
    std::memcpy(to + bytes - sizeof last, &last, sizeof last);
}

// An even number, as each element has two bytes or more; at most most_small.
inline void copy_small(std::byte *to, const std::byte *from, std::size_t bytes) {
    if (bytes > 32) {
        copy_both_ends<Sixteen>(to, from, 32);
        copy_both_ends<Sixteen>(to + bytes - 32, from + bytes - 32, 32);
    } else if (bytes >= 16) {
        copy_both_ends<Sixteen>(to, from, bytes);
    } else if (bytes >= 8) {
        copy_both_ends<std::uint64_t>(to, from, bytes);
    } else if (bytes >= 4) {
        copy_both_ends<std::uint32_t>(to, from, bytes);
    } else if (bytes >= 2) {
        copy_both_ends<std::uint16_t>(to, from, bytes);
    }
}

} // namespace kvappend
