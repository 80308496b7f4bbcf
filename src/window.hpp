// SPDX-License-Identifier: Apache-2.0
// Which of a sample's new rows fall inside its cache: the rule of the plain dense append, by sample.
#pragma once

#include "host_device.hpp"

#include <cstdint>

namespace kvappend {

// New rows first <= l < end; none where first >= end.
template <class Index>
struct WindowOf {
    Index first;
    Index end;
};
using Window = WindowOf<std::int64_t>;

// The rows l of 0 <= l < new_rows for which 0 <= offset + l < cache_rows. Right for every offset. The extents are not
// negative, and so few that they can be added: elements have two bytes or more, and tensors fit in 63 bits.
template <class Index>
KVAPPEND_HOST_DEVICE constexpr WindowOf<Index> window_of(std::int64_t offset, Index new_rows, Index cache_rows) {
    // An offset beyond these bounds leaves no row, as the bounds themselves do.
    const std::int64_t least = -std::int64_t{new_rows};
    const std::int64_t most = cache_rows;
    const auto near = static_cast<Index>(offset < least ? least : offset > most ? most : offset);
    const Index room = cache_rows - near;
    return {near < 0 ? -near : Index{0}, room < new_rows ? room : new_rows};
}

} // namespace kvappend
