// SPDX-License-Identifier: Apache-2.0
// Which of a sample's new rows fall inside its cache: the rule of the plain dense append, by sample.
#pragma once

#include "host_device.hpp"

#include <cstdint>

namespace kvappend {

// New rows first <= l < end; none where first >= end.
struct Window {
    std::int64_t first;
    std::int64_t end;
};

// The rows l of 0 <= l < new_rows for which 0 <= offset + l < cache_rows. Right for every offset: no sum is formed that
// could leave its range. The extents are not negative.
KVAPPEND_HOST_DEVICE constexpr Window window_of(std::int64_t offset, std::int64_t new_rows, std::int64_t cache_rows) {
    if (offset >= 0) {
        const std::int64_t room = offset < cache_rows ? cache_rows - offset : 0;
        return {0, room < new_rows ? room : new_rows};
    }
    if (offset <= -new_rows) {
        return {new_rows, new_rows};
    }
    const std::int64_t first = -offset;
    const std::int64_t kept = new_rows - first;
    return {first, first + (kept < cache_rows ? kept : cache_rows)};
}

} // namespace kvappend
