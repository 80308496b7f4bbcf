// SPDX-License-Identifier: Apache-2.0
// How lines are moved by 16 bytes at a time although the tensors' bases are not aligned to as much. Rows and strides
// must be multiples of it, so that all lines of a tensor are off by the same.
//
// A thread stores an aligned vector of the cache, and makes it of the two aligned ones of the source that hold its
// bytes, or of the one that does. Where these lie in part outside the line, as may be at its ends, the bytes go element
// by element, each by a thread of its own: nothing outside a tensor is read.
#pragma once

#include "../host_device.hpp"
#include "copy.cuh"

namespace kvappend {

// How far the cache's first aligned address is behind the beginning of its line, and the source's byte for it behind an
// aligned address.
struct Misalignment {
    std::uint32_t ahead;
    std::uint32_t skew;

    KVAPPEND_HOST_DEVICE Misalignment(std::uintptr_t from, std::uintptr_t to)
        : ahead((0u - static_cast<std::uint32_t>(to)) % 16), skew((static_cast<std::uint32_t>(from) + ahead) % 16) {}
    Misalignment() = default;

    // Counted from the first aligned address on, how many vectors need bytes from before the line, and how many from
    // behind it; the last of these is that which itself goes beyond the line.
    std::uint32_t narrow_first() const { return skew > ahead ? 1 : 0; }
    std::uint32_t narrow_last() const { return skew == 0 ? (ahead != 0 ? 1 : 0) : ahead > skew ? 2 : 1; }
};

struct Shifted {
    // It pays in long calls. Their elements cost more than they bring in short ones.
    static constexpr bool long_only = true;
    // Each needs the registers of two.
    static constexpr int loads_in_flight = 2;
    static constexpr int blocks_resident = 6;
    // Elements have two bytes or more.
    using Element = unsigned short;
    static constexpr std::uint32_t elements = 16 / sizeof(Element); // in a vector
    // A row must have a vector between those that go by elements.
    static constexpr std::int64_t least_vectors = 4;

    // Items are the vectors in the middle of a line, then the elements of what is left at both ends.
    template <unsigned Tensors, int Loads, class Index>
    class Moves {
    public:
        __device__ __forceinline__ Moves(const TensorLines &t, const BlockWork &work) : t_(t), work_(work) {
#pragma unroll
            for (unsigned k = 0; k < Tensors; ++k) {
                misaligned_[k] = Misalignment(reinterpret_cast<std::uintptr_t>(work.layer.from[work.tensor + k]),
                                              reinterpret_cast<std::uintptr_t>(work.layer.to[work.tensor + k]));
            }
        }

        __device__ __forceinline__ void load(std::uint64_t start, Index i) {
#pragma unroll
            for (int n = 0; n < Loads; ++n) {
                const Index item = i + n * static_cast<Index>(t_.vector_step);
                if (item < wide_items()) {
#pragma unroll
                    for (unsigned k = 0; k < Tensors; ++k) {
                        const auto *const vectors = reinterpret_cast<const uint4 *>(
                            work_.layer.from[work_.tensor + k] + start + byte_of(k, item) - misaligned_[k].skew);
                        low_[n][k] = load_global(vectors);
                        if (misaligned_[k].skew != 0) {
                            high_[n][k] = load_global(vectors + 1);
                        }
                    }
                } else if (item < static_cast<Index>(t_.line_items)) {
#pragma unroll
                    for (unsigned k = 0; k < Tensors; ++k) {
                        element_[n][k] = load_global(reinterpret_cast<const Element *>(
                            work_.layer.from[work_.tensor + k] + start +
                            element_byte_of(k, item, 0, static_cast<Index>(t_.line_vectors))));
                    }
                }
            }
        }

        static __device__ __forceinline__ Index items_end(const TensorLines &t, const Aim<Index> & /*aim*/) {
            return static_cast<Index>(t.line_items);
        }

        template <class Placing>
        __device__ __forceinline__ void store(const Placing & /*placing*/, const Aim<Index> &aim, std::uint64_t start,
                                              Index i) {
            if (aim.begin >= aim.end) {
                return;
            }
            const auto first = static_cast<Index>(t_.narrow_first);
            const auto last = static_cast<Index>(t_.narrow_last);
            const bool whole = aim.end - aim.begin == static_cast<Index>(t_.line_vectors);
#pragma unroll
            for (int n = 0; n < Loads; ++n) {
                const Index item = i + n * static_cast<Index>(t_.vector_step);
                if (item < wide_items()) {
                    if (item < aim.begin || item >= aim.end - first - last) {
                        continue;
                    }
#pragma unroll
                    for (unsigned k = 0; k < Tensors; ++k) {
                        __stwb(
                            reinterpret_cast<uint4 *>(work_.layer.to[work_.tensor + k] + aim.shift + byte_of(k, item)),
                            joined(low_[n][k], high_[n][k], misaligned_[k].skew));
                    }
                } else if (item < static_cast<Index>(t_.line_items)) {
#pragma unroll
                    for (unsigned k = 0; k < Tensors; ++k) {
                        const std::uint64_t at = element_byte_of(k, item, aim.begin, aim.end);
                        if (!whole) {
                            element_[n][k] = load_global(
                                reinterpret_cast<const Element *>(work_.layer.from[work_.tensor + k] + start + at));
                        }
                        __stwb(reinterpret_cast<Element *>(work_.layer.to[work_.tensor + k] + aim.shift + at),
                               element_[n][k]);
                    }
                }
            }
        }

    private:
        __device__ __forceinline__ Index wide_items() const {
            return static_cast<Index>(t_.line_vectors) - static_cast<Index>(t_.narrow_first + t_.narrow_last);
        }
        // Where in the line the aligned vector of the cache is that is item `item`.
        __device__ __forceinline__ std::uint64_t byte_of(unsigned k, Index item) const {
            const Index vector = item + static_cast<Index>(t_.narrow_first);
            return static_cast<std::uint64_t>(std::int64_t{vector}) * 16 + misaligned_[k].ahead;
        }
        // The same of an element, if the line's vectors begin <= i < end are copied.
        __device__ __forceinline__ std::uint64_t element_byte_of(unsigned k, Index item, Index begin, Index end) const {
            const Index byte = (item - wide_items()) * static_cast<Index>(sizeof(Element));
            const bool at_first =
                byte < 16 * static_cast<Index>(t_.narrow_first) + static_cast<Index>(misaligned_[k].ahead);
            const Index vector = at_first ? begin : end - static_cast<Index>(t_.narrow_first + t_.narrow_last);
            return static_cast<std::uint64_t>(std::int64_t{vector}) * 16 + static_cast<std::uint64_t>(byte);
        }

        // The bytes from `skew` on.
        static __device__ __forceinline__ uint4 joined(const uint4 &low, const uint4 &high, std::uint32_t skew) {
            if (skew == 0) {
                return low;
            }
            unsigned words[] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (unsigned i = 0; i < 6; ++i) {
                words[i] = (skew & 8) != 0 ? words[i + 2] : words[i];
            }
#pragma unroll
            for (unsigned i = 0; i < 5; ++i) {
                words[i] = (skew & 4) != 0 ? words[i + 1] : words[i];
            }
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) {
                const std::uint64_t both = std::uint64_t{words[i + 1]} << 32 | words[i];
                words[i] = static_cast<unsigned>(both >> (skew % 4 * 8));
            }
            return {words[0], words[1], words[2], words[3]};
        }

        const TensorLines &t_;
        const BlockWork &work_;
        Misalignment misaligned_[Tensors];
        uint4 low_[std::size_t{Loads}][Tensors]{};
        uint4 high_[std::size_t{Loads}][Tensors]{};
        Element element_[std::size_t{Loads}][Tensors]{};
    };
};

// The kernel for it.
template <class Placing, unsigned Layers>
__global__ void __launch_bounds__(block_threads, Shifted::blocks_resident)
    append_shifted(const __grid_constant__ Parameters<Placing, Layers> p) {
    copy<Shifted>(p);
}

} // namespace kvappend
