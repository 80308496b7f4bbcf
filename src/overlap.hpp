// SPDX-License-Identifier: Apache-2.0
// Whether rows that lie at strided places can share memory.
#pragma once

#include "tensor.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvappend {

enum class Reach {
    no,
    yes,
    unknown // The strides are too irregular: the search reached its limit of steps.
};

// An axis of a tensor: the number of entries, and the bytes from one to the next.
struct Axis {
    std::int64_t extent;
    std::int64_t stride;
};

// The pieces of all rows of a tensor. A piece is `bytes` adjacent bytes, and the axes say where pieces begin.
struct Pieces {
    std::array<Axis, 4> axes;
    std::int64_t bytes;

    Pieces() = default;
    explicit Pieces(const Tensor &tensor);
};

// Whether two different pieces of one tensor share a byte.
Reach pieces_overlap(const Pieces &pieces);

// Two tensors whose memory may be interleaved. The pieces of each do not overlap among themselves.
class Interleaving {
public:
    Interleaving() = default;
    Interleaving(const Tensor &a, const Tensor &b);

    // Whether a piece of tensor a and a piece of tensor b share a byte, where the first piece of b lies `distance`
    // bytes after the first piece of a.
    Reach overlap(std::int64_t distance) const;

private:
    bool apart(std::int64_t distance) const;

    // Modulo `bytes`, all of a lies in the first a_bytes, and all of b in the b_bytes that begin at the distance.
    // Periods do not depend on the distance. They are found once, and most calls then need no search.
    struct Period {
        std::int64_t bytes;
        std::int64_t a_bytes;
        std::int64_t b_bytes;
    };
    void find_period(std::int64_t least_stride);

    Pieces a_;
    Pieces b_;
    std::array<Period, 8> periods_{};
    std::size_t count_ = 0;
};

} // namespace kvappend
