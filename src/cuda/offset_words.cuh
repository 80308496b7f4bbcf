// SPDX-License-Identifier: Apache-2.0
// A sample's offset as its words. They are put together only when it is used, and nothing waits for their loads before.
#pragma once

#include "load.cuh"

#include <cstdint>

namespace kvappend {

struct OffsetWords {
    std::uint32_t low;
    std::uint32_t high; // the low one again, where offsets have 32 bits

    // `wide` is 1 where offsets have 64 bits, else 0.
    static __device__ __forceinline__ OffsetWords load(const void *offsets, std::uint32_t wide, std::int64_t sample) {
        const auto *const words = static_cast<const unsigned *>(offsets) + (sample << wide);
        return {load_global(words), load_global(words + wide)};
    }

    __device__ __forceinline__ std::int64_t joined(std::uint32_t wide) const {
        const auto signed_high = static_cast<std::int64_t>(static_cast<std::int32_t>(high));
        return (wide != 0 ? signed_high : signed_high >> 32) << 32 | low;
    }
};

} // namespace kvappend
