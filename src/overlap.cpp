// SPDX-License-Identifier: Apache-2.0
#include "overlap.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

namespace kvappend {

namespace {

// A step takes about 10 ns. If rows nest, a check takes fewer than 60 steps at any distance.
constexpr int creation_steps = 1 << 16;
constexpr int run_steps = 1 << 8;

using Level = Sums::Level;
using Summand = Sums::Summand;

// A depth-first search, largest stride first. Each level tries only those factors from which the smaller strides can
// still reach the window. If strides nest (each is at least what the smaller ones span, as in every layout in use), two
// or three factors remain at each level, and the search stays far below its limit of steps. All numbers are relative to
// the sum so far.
Reach search(const Level *level, std::uint64_t low, std::uint64_t high, int &steps_left) {
    if (low > level->span) {
        return Reach::no;
    }
    // 0 and the span are sums: the least and the greatest.
    if (low == 0 || high >= level->span) {
        return Reach::yes;
    }
    if (--steps_left < 0) {
        return Reach::unknown;
    }
    if (high - high % level->divisor < low) {
        return Reach::no;
    }
    const std::uint64_t rest = level[1].span;
    const std::uint64_t first = low > rest ? (low - rest - 1) / level->stride + 1 : 0;
    const std::uint64_t last = std::min(level->most, high / level->stride);
    for (std::uint64_t factor = first; factor <= last; ++factor) {
        const std::uint64_t sum = factor * level->stride;
        const Reach reach = search(level + 1, low - std::min(low, sum), high - sum, steps_left);
        if (reach != Reach::no) {
            return reach;
        }
    }
    return Reach::no;
}

// The bytes that a piece and the axes with strides smaller than `least` span.
std::int64_t bytes_below(const Pieces &pieces, std::int64_t least) {
    std::int64_t bytes = pieces.bytes;
    for (const Axis &axis : pieces.axes) {
        bytes += axis.extent > 1 && axis.stride < least ? (axis.extent - 1) * axis.stride : 0;
    }
    return bytes;
}

} // namespace

Pieces::Pieces(const Tensor &tensor)
    : axes{{{tensor.outer, tensor.strides.outer},
            {tensor.heads, tensor.strides.head},
            {tensor.rows, tensor.strides.row},
            {tensor.row_bytes / tensor.piece_bytes, tensor.piece_stride}}},
      bytes(tensor.piece_bytes) {}

Sums::Sums(std::span<Summand> summands) {
    std::ranges::sort(summands, std::ranges::greater{}, &Summand::stride);
    for (const Summand &s : summands) {
        if (s.stride == 0 || s.most == 0) {
            continue;
        }
        // Equal strides occur when K and V share one pool. One level for them keeps the search short.
        const bool known = count_ > 0 && levels_[count_ - 1].stride == s.stride;
        count_ += known ? 0 : 1;
        Level &level = levels_[count_ - 1];
        level.stride = s.stride;
        level.most += s.most;
    }
    for (std::size_t i = count_; i-- > 0;) {
        Level &level = levels_[i];
        const Level &smaller = levels_[i + 1];
        level.span = level.stride * level.most + smaller.span;
        level.divisor = std::gcd(level.stride, smaller.divisor);
    }
}

Reach Sums::reach(std::uint64_t low, std::uint64_t high, int &steps_left) const {
    return search(levels_.data(), low, high, steps_left);
}

Reach pieces_overlap(const Pieces &pieces) {
    // The distance between two pieces is a sum over the axes. Either piece may be the first one, so the factor of the
    // first axis in which they differ is taken as positive. The loop tries each axis as that first axis.
    int steps_left = creation_steps;
    for (std::size_t first = 0; first < pieces.axes.size(); ++first) {
        if (pieces.axes[first].extent <= 1) {
            continue;
        }
        // A factor from -most to most is a factor from 0 to 2 * most, minus most.
        std::array<Summand, 4> summands{};
        const auto stride = static_cast<std::uint64_t>(pieces.axes[first].stride);
        summands[first] = {stride, static_cast<std::uint64_t>(pieces.axes[first].extent) - 2};
        const auto within = static_cast<std::uint64_t>(pieces.bytes) - 1; // the greatest distance that overlaps
        std::uint64_t high = within;
        for (std::size_t i = first + 1; i < pieces.axes.size(); ++i) {
            const auto most = static_cast<std::uint64_t>(pieces.axes[i].extent) - 1;
            summands[i] = {static_cast<std::uint64_t>(pieces.axes[i].stride), 2 * most};
            high += summands[i].stride * most;
        }
        if (high < stride) {
            continue;
        }
        high -= stride;
        const Reach reach = Sums(summands).reach(high - std::min(high, 2 * within), high, steps_left);
        if (reach != Reach::no) {
            return reach;
        }
    }
    return Reach::no;
}

Interleaving::Interleaving(const Tensor &a, const Tensor &b)
    : b_bytes_(static_cast<std::uint64_t>(b.bytes)), a_piece_(static_cast<std::uint64_t>(a.piece_bytes)),
      b_piece_(static_cast<std::uint64_t>(b.piece_bytes)) {
    const Pieces pieces[] = {Pieces(a), Pieces(b)};
    std::array<Summand, Sums::most_summands> summands{};
    Summand *next = summands.data();
    for (const Pieces &p : pieces) {
        for (const Axis &axis : p.axes) {
            *next++ = {static_cast<std::uint64_t>(axis.stride), static_cast<std::uint64_t>(axis.extent) - 1};
        }
    }
    sums_ = Sums(summands);
    find_periods(pieces[0], pieces[1]);
}

void Interleaving::find_periods(const Pieces &a, const Pieces &b) {
    // Steps along the larger strides do not change a place modulo their common divisor.
    std::int64_t divisor = 0;
    for (const Level &level : sums_.levels()) {
        const auto stride = static_cast<std::int64_t>(level.stride);
        divisor = std::gcd(divisor, stride);
        const Period period{divisor, bytes_below(a, stride), bytes_below(b, stride)};
        if (period.a_bytes > period.bytes - period.b_bytes) {
            continue;
        }
        // With the same divisor, this period leaves more room than the one before.
        const bool replaces = period_count_ > 0 && periods_[period_count_ - 1].bytes == divisor;
        period_count_ += replaces ? 0 : 1;
        periods_[period_count_ - 1] = period;
    }
}

bool Interleaving::Period::apart(std::int64_t distance) const {
    const std::int64_t rest = distance % bytes;
    const std::int64_t begin = rest < 0 ? rest + bytes : rest;
    return begin >= a_bytes && begin <= bytes - b_bytes;
}

Reach Interleaving::overlap(std::int64_t distance) const {
    const auto end = periods_.begin() + period_count_;
    if (std::any_of(periods_.begin(), end, [distance](const Period &period) { return period.apart(distance); })) {
        return Reach::no;
    }
    // Two pieces overlap if the one of a begins less than b_piece_ bytes after that of b, or less than a_piece_ bytes
    // before it.
    const std::uint64_t high = b_bytes_ + static_cast<std::uint64_t>(distance) - 1;
    int steps_left = run_steps;
    return sums_.reach(high - std::min(high, a_piece_ + b_piece_ - 2), high, steps_left);
}

} // namespace kvappend
