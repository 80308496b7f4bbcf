// SPDX-License-Identifier: Apache-2.0
// Whether rows that lie at strided places can share memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvappend {

enum class Reach {
    no,
    yes,
    unknown // The strides are so irregular that the search was given up.
};

// An axis of a tensor of rows: how many entries, and the bytes from one to the next.
struct Axis {
    std::int64_t extent;
    std::int64_t stride;
};

// Whether two different rows of row_bytes bytes share a byte. At most four axes.
Reach rows_overlap(std::span<const Axis> axes, std::int64_t row_bytes);

// Whether a row of tensor a and a row of tensor b share a byte, the first row of b lying `distance` bytes after the
// first row of a. At most four axes each. The rows of each tensor do not overlap among themselves.
Reach rows_overlap(std::span<const Axis> a, std::int64_t a_row_bytes, std::span<const Axis> b, std::int64_t b_row_bytes,
                   std::int64_t distance);

// How the rows of two tensors can lie between each other without a search, found once for all distances.
class Interleaving {
public:
    Interleaving() = default;
    Interleaving(std::span<const Axis> a, std::int64_t a_row_bytes, std::span<const Axis> b, std::int64_t b_row_bytes);

    // True only if no row of tensor a shares a byte with a row of tensor b, whose first row lies `distance` bytes after
    // that of a. Where it is false they may still be apart.
    bool apart(std::int64_t distance) const;

private:
    // Modulo so many bytes all of a falls into the first a_bytes, and all of b into b_bytes from the distance on.
    struct Period {
        std::int64_t bytes;
        std::int64_t a_bytes;
        std::int64_t b_bytes;
    };
    std::array<Period, 8> periods_{};
    std::size_t count_ = 0;
};

} // namespace kvappend
