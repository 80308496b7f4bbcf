// SPDX-License-Identifier: Apache-2.0
#include "overlap.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <numeric>

namespace kvappend {

namespace {

// Sums of up to eight 63-bit numbers do not fit in 64 bits.
__extension__ using Wide = __int128;

// One summand of a distance: stride times a factor that may be any whole number from least to most.
struct Summand {
    std::int64_t stride;
    std::int64_t least;
    std::int64_t most;
};
constexpr std::size_t most_summands = 8;

Wide divide_down(Wide a, Wide b) {
    return a / b - (a % b != 0 && a < 0 ? 1 : 0);
}
Wide divide_up(Wide a, Wide b) {
    return -divide_down(-a, b);
}

// A depth-first search, largest stride first. Each level tries only those factors from which the smaller strides can
// still reach the window. If strides nest (each is at least what the smaller ones span, as in every layout in use), two
// or three factors remain at each level, and the search stays far below its limit of steps.
class Search {
public:
    explicit Search(std::span<const Summand> summands) : summands_(summands) {
        for (std::size_t level = summands.size(); level-- > 0;) {
            const Summand &s = summands[level];
            const Rest &smaller = rests_[level + 1];
            rests_[level] = {smaller.least + Wide{s.stride} * s.least, smaller.most + Wide{s.stride} * s.most,
                             std::gcd(smaller.divisor, s.stride)};
        }
    }

    Reach run(std::size_t level, Wide low, Wide high) {
        if (level == summands_.size()) {
            return low <= 0 && 0 <= high ? Reach::yes : Reach::no;
        }
        if (--steps_left_ < 0) {
            return Reach::unknown;
        }
        const Wide divisor = rests_[level].divisor;
        if (divide_up(low, divisor) * divisor > high) {
            return Reach::no;
        }
        const Summand &s = summands_[level];
        const Rest &smaller = rests_[level + 1];
        const Wide first = std::max(Wide{s.least}, divide_up(low - smaller.most, s.stride));
        const Wide last = std::min(Wide{s.most}, divide_down(high - smaller.least, s.stride));
        for (Wide factor = first; factor <= last; ++factor) {
            const Reach reach = run(level + 1, low - factor * s.stride, high - factor * s.stride);
            if (reach != Reach::no) {
                return reach;
            }
        }
        return Reach::no;
    }

private:
    // The sums of the summands from a level on: their bounds, and their common divisor.
    struct Rest {
        Wide least;
        Wide most;
        std::int64_t divisor;
    };

    std::span<const Summand> summands_;
    std::array<Rest, most_summands + 1> rests_{};
    int steps_left_ = 1 << 16;
};

// Whether some choice of factors gives a sum from low to high. Reorders the summands. Strides must not be negative.
Reach reaches(std::span<Summand> summands, Wide low, Wide high) {
    if (std::ranges::any_of(summands, [](const Summand &s) { return s.least > s.most; })) {
        return Reach::no;
    }
    std::ranges::sort(summands, std::ranges::greater{}, &Summand::stride);
    // A stride of 0 adds nothing, whatever its factor.
    const auto zeros = std::ranges::find(summands, 0, &Summand::stride);
    return Search({summands.begin(), zeros}).run(0, low, high);
}

// The distances of the pieces of tensor b from those of tensor a, as sums.
std::span<Summand> distances(const Pieces &a, const Pieces &b, std::array<Summand, most_summands> &summands) {
    std::size_t count = 0;
    for (const Axis &axis : a.axes) {
        if (axis.extent > 1) {
            summands[count++] = {axis.stride, 0, axis.extent - 1};
        }
    }
    for (const Axis &axis : b.axes) {
        if (axis.extent <= 1) {
            continue;
        }
        // Equal strides are combined into one summand, which keeps the search short. They occur when K and V share one
        // pool.
        const std::int64_t least = 1 - axis.extent;
        const auto same = std::find_if(summands.begin(), summands.begin() + count,
                                       [&](const Summand &s) { return s.stride == axis.stride; });
        if (same != summands.begin() + count) {
            same->least = least;
        } else {
            summands[count++] = {axis.stride, least, 0};
        }
    }
    return std::span(summands).first(count);
}

// The greatest common divisor of all strides of at least `least` bytes. Steps along these axes do not change a place
// modulo the divisor.
std::int64_t divisor_from(const Pieces &pieces, std::int64_t least) {
    std::int64_t divisor = 0;
    for (const Axis &axis : pieces.axes) {
        divisor = axis.extent > 1 && axis.stride >= least ? std::gcd(divisor, axis.stride) : divisor;
    }
    return divisor;
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

Reach pieces_overlap(const Pieces &pieces) {
    // The distance between two pieces is a sum over the axes. Either piece may be the first one, so the factor of the
    // first axis in which they differ is taken as positive. The loop tries each axis as that first axis.
    for (std::size_t first = 0; first < pieces.axes.size(); ++first) {
        std::array<Summand, 4> summands{};
        std::size_t count = 0;
        for (std::size_t i = first; i < pieces.axes.size(); ++i) {
            const std::int64_t most = pieces.axes[i].extent - 1;
            summands[count++] = {pieces.axes[i].stride, i == first ? 1 : -most, most};
        }
        const Reach reach = reaches(std::span(summands).first(count), 1 - pieces.bytes, pieces.bytes - 1);
        if (reach != Reach::no) {
            return reach;
        }
    }
    return Reach::no;
}

Interleaving::Interleaving(const Tensor &a, const Tensor &b) : a_(a), b_(b) {
    for (const Pieces *const pieces : {&a_, &b_}) {
        for (const Axis &axis : pieces->axes) {
            if (axis.extent > 1 && axis.stride != 0) {
                find_period(axis.stride);
            }
        }
    }
}

void Interleaving::find_period(std::int64_t least_stride) {
    const Period period{std::gcd(divisor_from(a_, least_stride), divisor_from(b_, least_stride)),
                        bytes_below(a_, least_stride), bytes_below(b_, least_stride)};
    const auto end = periods_.begin() + count_;
    const bool known = std::any_of(periods_.begin(), end, [&](const Period &other) {
        return other.bytes == period.bytes && other.a_bytes <= period.a_bytes && other.b_bytes <= period.b_bytes;
    });
    if (period.a_bytes <= period.bytes - period.b_bytes && !known) {
        periods_[count_++] = period;
    }
}

bool Interleaving::apart(std::int64_t distance) const {
    return std::any_of(periods_.begin(), periods_.begin() + count_, [distance](const Period &period) {
        const std::int64_t rest = distance % period.bytes;
        const std::int64_t begin = rest < 0 ? rest + period.bytes : rest;
        return begin >= period.a_bytes && begin <= period.bytes - period.b_bytes;
    });
}

Reach Interleaving::overlap(std::int64_t distance) const {
    if (apart(distance)) {
        return Reach::no;
    }
    std::array<Summand, most_summands> summands{};
    return reaches(distances(a_, b_, summands), Wide{distance} - (a_.bytes - 1), Wide{distance} + (b_.bytes - 1));
}

} // namespace kvappend
