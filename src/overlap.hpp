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

    explicit Pieces(const Tensor &tensor);
};

// The sums of multiples of strides. They are below 2^64, because each tensor spans less than 2^63 bytes.
class Sums {
public:
    // A stride, and the greatest factor that it has in a sum. The least factor is 0.
    struct Summand {
        std::uint64_t stride;
        std::uint64_t most;
    };
    static constexpr std::size_t most_summands = 8;

    // A stride and its greatest factor. The span is the greatest sum of this stride and all smaller ones. The divisor
    // is the greatest common divisor of these strides.
    struct Level {
        std::uint64_t stride;
        std::uint64_t most;
        std::uint64_t span;
        std::uint64_t divisor;
    };

    Sums() = default;
    // Reorders the summands.
    explicit Sums(std::span<Summand> summands);

    // The largest stride first, each stride once.
    std::span<const Level> levels() const { return {levels_.data(), count_}; }

    // Whether a sum lies from low to high. Subtracts the steps of its search from steps_left.
    Reach reach(std::uint64_t low, std::uint64_t high, int &steps_left) const;

private:
    std::array<Level, most_summands + 1> levels_{}; // The level after the last one is 0.
    std::size_t count_ = 0;
};

// Whether two different pieces of one tensor share a byte. It may take a millisecond, so only the creation of a plan
// calls it.
Reach pieces_overlap(const Pieces &pieces);

// Two tensors whose memory may be interleaved. Pieces of one tensor may overlap each other, as repeated rows do.
class Interleaving {
public:
    Interleaving() = default;
    Interleaving(const Tensor &a, const Tensor &b);

    // Whether a piece of tensor a and a piece of tensor b share a byte. It takes microseconds at most, so a run calls
    // it. Tensor b begins `distance` bytes after tensor a, and the ranges of both overlap.
    Reach overlap(std::int64_t distance) const;

private:
    // Modulo `bytes`, all of a lies in the first a_bytes, and all of b in the b_bytes that begin at the distance.
    // Periods do not depend on the distance. They are found once, and most calls then need no search.
    struct Period {
        std::int64_t bytes;
        std::int64_t a_bytes;
        std::int64_t b_bytes;

        bool apart(std::int64_t distance) const;
    };
    void find_periods(const Pieces &a, const Pieces &b);

    // A sum is the distance from the first piece of a to a piece of a, plus the distance from a piece of b to the last
    // piece of b.
    Sums sums_;
    std::uint64_t b_bytes_ = 0;
    std::uint64_t a_piece_ = 0;
    std::uint64_t b_piece_ = 0;
    std::array<Period, Sums::most_summands> periods_{};
    std::size_t period_count_ = 0;
};

} // namespace kvappend
