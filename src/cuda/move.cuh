// SPDX-License-Identifier: Apache-2.0
// How a thread moves its vectors from one tensor to another. A move has two sides, and does not depend on which of them
// is the cache.
#pragma once

#include "layout.hpp"
#include "load.cuh"

#include <cstddef>
#include <cstdint>

namespace kvappend {

// The pointers of a layer: K and V, or the one of them that is copied.
struct Layer {
    std::byte *rows[2]; // An append only reads them, and a gather only reads the caches.
    std::byte *caches[2];
};

// A run in the tensors of a move: their bases, the bytes from there to the run, and which of its vectors are moved. The
// rows of a side lie in pieces or are whole.
template <class Byte, class Index, bool InPieces>
struct Side {
    static constexpr bool in_pieces = InPieces;

    Byte *const *bases;
    std::uint64_t start;
    Index begin;
    Index end;
};

// Accesses of 16 bytes, in rows that are whole.
struct WidestAccess {
    using Widest = uint4;

    // Calls use(type) with a value of the type of an access.
    template <class Use>
    static __device__ __forceinline__ void with_type(const CopyLayout & /*c*/, Use use) {
        use(Widest{});
    }
    // The bytes from a run's first vector to its vector i.
    template <bool InPieces, class Index>
    static __device__ __forceinline__ std::uint64_t byte_of(const CopyLayout & /*c*/, Index i) {
        return static_cast<std::uint64_t>(std::int64_t{i}) * sizeof(Widest);
    }
};

// Accesses of 16, 8, 4, 2 or 1 bytes, as wide as bases, strides and row bytes allow, in rows that may lie in pieces.
struct AnyAccess {
    using Widest = uint4;

    template <class Use>
    static __device__ __forceinline__ void with_type(const CopyLayout &c, Use use) {
        switch (c.access_log2) {
        case 4:
            return use(uint4{});
        case 3:
            return use(uint2{});
        case 2:
            return use(unsigned{});
        case 1:
            return use(static_cast<unsigned short>(0));
        default:
            return use(static_cast<unsigned char>(0));
        }
    }
    template <bool InPieces, class Index>
    static __device__ __forceinline__ std::uint64_t byte_of(const CopyLayout &c, Index i) {
        if constexpr (InPieces) {
            const Index piece = i >> c.piece_log2;
            return product(piece, c.piece_stride) + byte_of<false>(c, i - (piece << c.piece_log2));
        }
        return static_cast<std::uint64_t>(std::int64_t{i}) << c.access_log2;
    }
};

// Moves `Loads` vectors of each of `Tensors` tensors: i, i + vector_stride and so on.
template <unsigned Tensors, int Loads, class Access, class Index>
class Move {
public:
    __device__ __forceinline__ explicit Move(const CopyLayout &c) : c_(c) {}

    template <class Source>
    __device__ __forceinline__ void load(const Source &source, Index i) {
        Access::with_type(c_, [&](auto type) {
            using Type = decltype(type);
#pragma unroll
            for (int n = 0; n < Loads; ++n) {
                const Index at = i + n * static_cast<Index>(c_.vector_stride);
                if (n > 0 && at >= source.end) {
                    break;
                }
#pragma unroll
                for (unsigned k = 0; k < Tensors; ++k) {
                    const std::byte *const from =
                        source.bases[k] + source.start + Access::template byte_of<Source::in_pieces>(c_, at);
                    const Type vector = load_global(reinterpret_cast<const Type *>(from));
                    __builtin_memcpy(&held_[n][k], &vector, sizeof vector);
                }
            }
        });
    }

    // Loads the vectors that the source has. The others become zero.
    template <class Source>
    __device__ __forceinline__ void load_or_zero(const Source &source, Index i) {
        Access::with_type(c_, [&](auto type) {
            using Type = decltype(type);
#pragma unroll
            for (int n = 0; n < Loads; ++n) {
                const Index at = i + n * static_cast<Index>(c_.vector_stride);
                const std::uint64_t byte = source.start + Access::template byte_of<Source::in_pieces>(c_, at);
#pragma unroll
                for (unsigned k = 0; k < Tensors; ++k) {
                    Type vector{};
                    if (at >= source.begin && at < source.end) {
                        vector = load_global(reinterpret_cast<const Type *>(source.bases[k] + byte));
                    }
                    __builtin_memcpy(&held_[n][k], &vector, sizeof vector);
                }
            }
        });
    }

    template <class Target>
    __device__ __forceinline__ void store(const Target &target, Index i) const {
        Access::with_type(c_, [&](auto type) {
            using Type = decltype(type);
#pragma unroll
            for (int n = 0; n < Loads; ++n) {
                const Index at = i + n * static_cast<Index>(c_.vector_stride);
                if (at < target.begin || at >= target.end) {
                    continue;
                }
                const std::uint64_t byte = target.start + Access::template byte_of<Target::in_pieces>(c_, at);
#pragma unroll
                for (unsigned k = 0; k < Tensors; ++k) {
                    Type vector;
                    __builtin_memcpy(&vector, &held_[n][k], sizeof vector);
                    store_global(reinterpret_cast<Type *>(target.bases[k] + byte), vector);
                }
            }
        });
    }

private:
    const CopyLayout &c_;
    typename Access::Widest held_[std::size_t{Loads}][Tensors];
};

} // namespace kvappend
