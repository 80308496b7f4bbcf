// SPDX-License-Identifier: Apache-2.0
// An append that stores rows in another format. This file has only templates over a Processor, so that each instance is
// compiled for the processors that support it: see convert_avx2.cpp.
#pragma once

#include "../format.hpp"
#include "../storage.hpp"
#include "host.hpp"
#include "runs.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace kvappend {

// K or V of one call.
struct Conversion {
    const Copy &copy;
    std::byte *rows;  // which an append only reads
    std::byte *cache; // which a gather only reads
    std::byte *scales;
    float global_scale;
};

// ---- loops over adjacent elements, which compilers vectorise ----

// The elements that are encoded together. Each loop over a block has one width of data and a constant number of steps.
// In one loop, GCC narrows each step of the arithmetic to the width of the codes, and it takes 1.8 times as many
// instructions (GCC 12, E4M3).
inline constexpr std::int64_t block_elements = 32;
// The elements whose numbers, factors and codes lie on the stack.
inline constexpr std::int64_t chunk_elements = 512;
// Elements that have the same factor in the usual groups. A block has two units.
inline constexpr std::int64_t unit_elements = 16;

// An element or a code as it lies in memory. Codes of 4 bits take a byte each until pairs are put together.
template <class Type>
using Code = std::conditional_t<Type::bits == 32, std::uint32_t,
                                std::conditional_t<Type::bits == 16, std::uint16_t, std::uint8_t>>;

// Loads and stores are by memcpy, because nothing is known of alignment. They are one by one, because a copy of several
// is stored by 16 bytes and loaded by 32 right after it, which no processor forwards (store forwarding).
template <class T>
[[gnu::always_inline]] inline T load(const std::byte *from, std::int64_t i) {
    T value;
    std::memcpy(&value, from + i * static_cast<std::int64_t>(sizeof value), sizeof value);
    return value;
}
template <class T>
[[gnu::always_inline]] inline void store(std::byte *to, std::int64_t i, T value) {
    std::memcpy(to + i * static_cast<std::int64_t>(sizeof value), &value, sizeof value);
}

// What becomes of the elements of a chunk before they are rounded: one factor for all, or one for each unit if they are
// tame, or one for each element.
//
// Elements are tame if none of them is NaN, and if the largest magnitude of each group is less than Stored::overflow
// once it is scaled. Then each scaled magnitude is less, because the largest one has the largest product or quotient,
// and rounding keeps the order. None is NaN: only infinite elements, 0 times infinity and 0 / 0 give NaN, and where
// there is one of these, the largest magnitude is scaled to infinity or NaN. So their codes need neither a limit nor a
// test for NaN.
struct Factors {
    bool divides = false;
    bool same = true;
    bool tame = false;
    bool any_zero = false;
    std::uint32_t zeros[chunk_elements];           // of groups: 1 if their codes are zero
    float values[chunk_elements + block_elements]; // A last block is encoded as a whole.
};

// How an element is scaled by its factor.
enum class Scaling {
    none,
    multiply,
    divide
};

// The loops that take most of the time. A processor may have faster ones with the same results.
template <class Processor>
struct Loops {
    template <class Source>
    [[gnu::flatten, gnu::noinline]] static void widen(const std::byte *from, std::int64_t count, float *x) {
        for (std::int64_t i = 0; i < count; ++i) {
            x[i] = Source::decode(load<Code<Source>>(from, i));
        }
    }

    template <class Stored, Scaling How, bool Tame>
    [[gnu::always_inline]] static void encode_block(const std::byte *x, const float *factors, std::byte *to) {
        std::uint32_t codes[block_elements];
        for (std::int64_t unit = 0; unit < block_elements; unit += unit_elements) {
            for (std::int64_t i = unit; i < unit + unit_elements; ++i) {
                const float number = load<float>(x, i);
                const float factor = How == Scaling::none ? 1 : factors[Tame ? unit / unit_elements : i];
                codes[i] = Stored::encode(How == Scaling::none     ? number
                                          : How == Scaling::divide ? number / factor
                                                                   : number * factor);
            }
        }
        for (std::int64_t i = 0; i < block_elements; ++i) {
            store(to, i, static_cast<Code<Stored>>(codes[i]));
        }
    }

    // NaN is more than any number, or it does not count.
    template <bool NanCounts = true>
    [[gnu::always_inline]] static float largest_of(const std::byte *x, std::int64_t count) {
        std::int32_t largest = 0;
#if !defined(__clang__)
#pragma GCC unroll 1 // GCC does not vectorise the 16 steps of a loop that it has unrolled.
#endif
        for (std::int64_t i = 0; i < count; ++i) {
            const float number = load<float>(x, i);
            const std::int32_t magnitude =
                NanCounts ? static_cast<std::int32_t>(magnitude_of(number)) : counted_magnitude(number);
            largest = magnitude > largest ? magnitude : largest;
        }
        return float_of(static_cast<std::uint32_t>(largest));
    }

    static void copy(std::byte *to, const std::byte *from, std::size_t bytes) {
        std::memcpy(to, from, bytes);
    }
};

// Finds the codes of elements of a chunk, whose factors begin at `at`. Each block of codes begins `stride` bytes after
// the one before.
using Encode = void (*)(const std::byte *x, std::int64_t count, const Factors &factors, std::int64_t at, std::byte *to,
                        std::int64_t stride);

template <class Processor, class Stored>
[[gnu::flatten, gnu::noinline]] void encode(const std::byte *x, std::int64_t count, const Factors &factors,
                                            std::int64_t at, std::byte *to, std::int64_t stride) {
    constexpr std::int64_t float_bytes = sizeof(float);
    const std::int64_t blocks = count / block_elements;
    const auto encode_blocks = [&]<Scaling How, bool Tame>(std::integral_constant<Scaling, How>,
                                                           std::bool_constant<Tame>) {
        constexpr std::int64_t elements_of_value = Tame ? unit_elements : 1;
        const float *values = factors.values + (factors.same ? 0 : at / elements_of_value);
        const std::int64_t step = factors.same ? 0 : block_elements / elements_of_value;
        for (std::int64_t block = 0; block < blocks; ++block, values += step) {
            Processor::template encode_block<Stored, How, Tame>(x + block * block_elements * float_bytes, values,
                                                                to + block * stride);
        }
    };
    const auto encode_scaled = [&](auto how) {
        factors.tame ? encode_blocks(how, std::true_type{}) : encode_blocks(how, std::false_type{});
    };
    if constexpr (Stored::bits > 8) { // These types have no scales.
        encode_blocks(std::integral_constant<Scaling, Scaling::none>{}, std::false_type{});
    } else if (factors.divides) {
        encode_scaled(std::integral_constant<Scaling, Scaling::divide>{});
    } else {
        encode_scaled(std::integral_constant<Scaling, Scaling::multiply>{});
    }
    const std::int64_t encoded = blocks * block_elements;
    if (const std::int64_t rest = count - encoded; rest > 0) {
        std::byte padded[block_elements * sizeof(float)]{};
        std::byte codes[block_elements * sizeof(float)];
        std::memcpy(padded, x + encoded * float_bytes, static_cast<std::size_t>(rest * float_bytes));
        encode<Processor, Stored>(padded, block_elements, factors, at + encoded, codes, stride);
        std::memcpy(to + blocks * stride, codes, static_cast<std::size_t>(rest) * sizeof(Code<Stored>));
    }
}

// Calls use(group) with the number of elements of a group, which is a constant for the usual groups. A loop with a
// constant number of steps needs no code for a rest.
template <class Use>
[[gnu::always_inline]] inline void with_group(std::int64_t group, Use use) {
    switch (group) {
    case 1:
        return use(std::integral_constant<std::int64_t, 1>{});
    case 2:
        return use(std::integral_constant<std::int64_t, 2>{});
    case 16:
        return use(std::integral_constant<std::int64_t, 16>{});
    case 32:
        return use(std::integral_constant<std::int64_t, 32>{});
    default:
        return use(group);
    }
}

// Finds the largest magnitude of each group. Returns whether there is a NaN, which does not count.
template <class Processor>
[[gnu::flatten, gnu::noinline]] bool find_largest(const std::byte *x, std::int64_t groups, std::int64_t group,
                                                  float *largest) {
    bool any_nan = false;
    with_group(group, [&](auto size) {
        for (std::int64_t g = 0; g < groups; ++g, x += size * static_cast<std::int64_t>(sizeof(float))) {
            largest[g] = Processor::largest_of(x, size);
            if (is_nan(largest[g])) {
                largest[g] = Loops<Processor>::template largest_of<false>(x, size);
                any_nan = true;
            }
        }
    });
    return any_nan;
}

// Groups whose scales are computed together. The arrays are not initialised.
struct Groups {
    std::int64_t count;
    std::byte *scales;
    std::int64_t stride; // bytes from a scale to the next one
    bool any_nan;
    float overflow; // of their type
    float largest[chunk_elements];
    float factors[chunk_elements];
};

// Computes the factors, and stores the scales. Each loop has simple steps, and the type of scales is known to the
// compiler, which vectorises them. A global scale of 1 changes nothing.
template <class Processor, std::int32_t ScaleType, bool PowerOfTwo>
[[gnu::flatten, gnu::noinline]] void compute_factors(const Format &format, float global, Groups &groups,
                                                     Factors &factors) {
    using ScaleCode =
        std::conditional_t<ScaleType == KVAPPEND_SCALE_F32, std::uint32_t,
                           std::conditional_t<ScaleType == KVAPPEND_SCALE_F16, std::uint16_t, std::uint8_t>>;
    Format f = format;
    f.scale_type = ScaleType;
    f.power_of_two = PowerOfTwo;
    f.has_global_scale = true;
    const float greatest = greatest_with(f, global);
    const bool keeps = f.scale_use == KVAPPEND_SCALE_UNROUNDED_RECIPROCAL;
    const bool divides = f.scale_use == KVAPPEND_SCALE_DIVIDE;
    f.scale_use = divides ? KVAPPEND_SCALE_DIVIDE : KVAPPEND_SCALE_RECIPROCAL; // all that matters below
    const std::int64_t stride = groups.stride; // A store of bytes might change what is not local.
    const auto compute = [&](auto count) {
        float used[chunk_elements];
        std::uint32_t codes[chunk_elements];
        for (std::int64_t g = 0; g < count; ++g) {
            const float unrounded = scale_of_group(f, groups.largest[g], greatest);
            const Scale scale = round_scale(f, unrounded);
            codes[g] = scale.code;
            used[g] = keeps ? unrounded : scale.value;
        }
        std::byte *to = groups.scales;
        for (std::int64_t g = 0; g < count; ++g, to += stride) {
            store(to, 0, static_cast<ScaleCode>(codes[g]));
        }
        std::uint32_t any_wild = groups.any_nan ? 1 : 0;
        std::uint32_t any_zero = 0;
        for (std::int64_t g = 0; g < count; ++g) {
            const Factor factor = factor_of(f, used[g], global);
            const float most = divides ? groups.largest[g] / factor.value : groups.largest[g] * factor.value;
            any_wild |= magnitude_of(most) < bits_of(groups.overflow) ? 0U : 1U;
            groups.factors[g] = factor.value;
        }
        for (std::int64_t g = 0; g < count; ++g) {
            factors.zeros[g] = factor_of(f, used[g], global).is_zero ? 1 : 0;
            any_zero |= factors.zeros[g];
        }
        factors.tame = any_wild == 0;
        factors.any_zero = any_zero != 0;
    };
    // One group needs no loops.
    groups.count == 1 ? compute(std::integral_constant<std::int64_t, 1>{}) : compute(groups.count);
}

using ComputeFactors = void (*)(const Format &format, float global, Groups &groups, Factors &factors);

template <class Processor>
ComputeFactors choose_compute_factors(const Format &f) {
    switch (f.scale_type) {
    case KVAPPEND_SCALE_F16:
        return compute_factors<Processor, KVAPPEND_SCALE_F16, false>;
    case KVAPPEND_SCALE_E4M3:
        return compute_factors<Processor, KVAPPEND_SCALE_E4M3, false>;
    case KVAPPEND_SCALE_UE8M0:
        return compute_factors<Processor, KVAPPEND_SCALE_UE8M0, true>;
    default:
        return f.power_of_two ? compute_factors<Processor, KVAPPEND_SCALE_F32, true>
                              : compute_factors<Processor, KVAPPEND_SCALE_F32, false>;
    }
}

template <class Processor>
[[gnu::flatten]] inline void fill(float *to, std::int64_t count, float value) {
    for (std::int64_t i = 0; i < count; ++i) {
        to[i] = value;
    }
}

// Repeats the value of each group for its elements.
template <class Processor>
[[gnu::flatten, gnu::noinline]] void spread(const float *values, std::int64_t groups, std::int64_t group, float *to) {
    with_group(group, [&](auto size) {
        for (std::int64_t g = 0; g < groups; ++g) {
            fill<Processor>(to + g * size, size, values[g]);
        }
    });
}

// Puts pairs of codes together: low[i * step] and high[i * step].
template <class Processor>
[[gnu::flatten, gnu::noinline]] void store_nibbles(const std::byte *low, const std::byte *high, std::int64_t pairs,
                                                   std::int64_t step, std::byte *to) {
    for (std::int64_t i = 0; i < pairs; ++i) {
        to[i] = low[i * step] | high[i * step] << 4;
    }
}

// ---- rows ----

// Where a row lies in its cache.
struct CacheRow {
    std::byte *codes;
    std::byte *scales;
};

// What is converted as one row: rows of adjacent heads and of adjacent tokens become one wider row, unless each is
// rotated.
template <class Processor>
struct RowShape {
    std::int64_t heads = 1;
    std::int64_t rows = 1;
    std::int64_t dim;
    std::int64_t group;        // elements that share a factor
    std::int64_t group_stride; // bytes from a scale to the next one

    RowShape(const Copy &copy, std::int64_t element_bytes, std::int64_t code_bits, std::int64_t rows_of_run)
        : dim(copy.row_bytes() / element_bytes), group(copy.format.scaled() ? copy.format.group : dim),
          group_stride(copy.scales.piece_stride) {
        const Strides &source = copy.rows.strides;
        const Strides &target = copy.cache.strides;
        const Strides &scale = copy.scales.strides;
        const auto is_adjacent = [&](std::int64_t from, std::int64_t to, std::int64_t scales) {
            const std::int64_t code_bytes = dim * code_bits / 8;
            const std::int64_t cache_bytes =
                copy.cache.whole_rows() ? code_bytes : code_bytes / copy.cache.piece_bytes * copy.cache.piece_stride;
            return !copy.rotates() && from == dim * element_bytes && to == cache_bytes &&
                   (!copy.format.scaled() || group == dim || scales == dim / group * group_stride);
        };
        const auto merge = [&](std::int64_t count, std::int64_t scales) {
            group_stride = copy.format.scaled() && group == dim ? scales : group_stride;
            dim *= count;
            group = copy.format.scaled() ? group : dim;
            return count;
        };
        if (copy.heads() > 1 && is_adjacent(source.head, target.head, scale.head)) {
            heads = merge(copy.heads(), scale.head);
        }
        if (rows_of_run > 1 && !copy.format.by_four_rows && is_adjacent(source.row, target.row, scale.row)) {
            rows = merge(rows_of_run, scale.row);
        }
        // Groups that share a given scale are one group.
        if (copy.format.scaled() && !copy.format.computed() && group_stride == 0 && !copy.format.halves) {
            group = dim;
        }
    }
};

// Stores bytes of a row, from `byte` on, piece by piece.
template <class Processor>
inline void store_pieces(const std::byte *from, std::int64_t byte, std::int64_t bytes, std::int64_t piece_bytes,
                         std::int64_t piece_stride, std::byte *row) {
    std::byte *piece = row + byte / piece_bytes * piece_stride;
    std::int64_t in_piece = byte % piece_bytes;
    for (std::int64_t i = 0; i < bytes; piece += piece_stride, in_piece = 0) {
        const std::int64_t n = std::min(bytes - i, piece_bytes - in_piece);
        Processor::copy(piece + in_piece, from + i, static_cast<std::size_t>(n));
        i += n;
    }
}

// Elements as binary32, perhaps in x.
template <class Processor>
inline const std::byte *widened(std::int32_t type, const std::byte *from, std::int64_t count, float *x) {
    switch (type) {
    case KVAPPEND_ELEMENT_F32:
        return from;
    case KVAPPEND_ELEMENT_F16:
        Processor::template widen<F16>(from, count, x);
        break;
    default:
        Processor::template widen<BF16>(from, count, x);
    }
    return reinterpret_cast<const std::byte *>(x);
}

// Reads elements of a row as they are: see RowRotator.
template <class Processor>
struct PlainReader {
    static constexpr std::size_t buffer_bytes = 1;

    static const std::byte *elements(const std::byte *row, std::int64_t /*position*/, std::int64_t byte,
                                     std::int64_t /*count*/, std::byte * /*buffer*/) {
        return row + byte;
    }
};

template <class Processor, class Reader = PlainReader<Processor>>
class RowConverter {
public:
    RowConverter(const Conversion &conversion, std::int32_t element_type, std::int64_t rows_of_run, bool non_temporal,
                 const Reader &reader = {})
        : reader_(reader), c_(conversion), f_(conversion.copy.format), element_type_(element_type),
          element_bytes_(element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2), code_bits_(bits_of_stored_type(f_.type)),
          shape_(conversion.copy, element_bytes_, code_bits_, rows_of_run), scale_bytes_(bytes_of_scale(f_.scale_type)),
          step_(step_of(f_, shape_)), non_temporal_(non_temporal && code_bits_ > 8),
          compute_factors_(choose_compute_factors<Processor>(f_)) {
        const bool whole_rows = conversion.copy.cache.whole_rows();
        piece_bytes_ = whole_rows ? (shape_.dim * code_bits_ + 7) / 8 : conversion.copy.cache.piece_bytes;
        is_piece_a_block_ = code_bits_ == 8 && piece_bytes_ == block_elements;
        with_stored_type(f_, [&](auto stored) {
            encode_ = encode<Processor, decltype(stored)>;
            zero_code_ = static_cast<std::byte>(decltype(stored)::encode(0));
            if constexpr (decltype(stored)::bits <= 8) {
                overflow_ = decltype(stored)::overflow;
            }
        });
    }

    const RowShape<Processor> &shape() const { return shape_; }

    void convert(const std::byte *from, const CacheRow &to, std::int64_t position = 0) const {
        float x[chunk_elements];
        std::byte elements[Reader::buffer_bytes];
        Factors factors;
        if (!f_.scaled()) {
            fill<Processor>(factors.values, block_elements, 1);
        }
        for (std::int64_t first = 0; first < shape_.dim; first += step_) {
            const std::int64_t count = std::min(step_, shape_.dim - first);
            Chunk chunk{from, position, first, nullptr, x, elements};
            chunk.numbers = count <= chunk_elements ? read(chunk, first, count) : nullptr;
            if (f_.scaled()) {
                find_factors(chunk, count, to, factors);
            }
            if (f_.halves) {
                convert_halves(chunk, count, factors, to);
                continue;
            }
            for (std::int64_t at = 0; at < count; at += chunk_elements) {
                convert_span(chunk, at, std::min(chunk_elements, count - at), factors, to);
            }
        }
    }

private:
    // The elements whose factors are found together: one group, or those of a chunk. Maxima need whole groups, and so
    // do halves. Given scales may have groups of odd sizes, of which a byte has elements of two, so a chunk cuts them.
    static std::int64_t step_of(const Format &f, const RowShape<Processor> &shape) {
        const bool whole_groups = f.computed() || f.halves;
        if (shape.group == shape.dim || (whole_groups && shape.group > chunk_elements)) {
            return shape.group;
        }
        return whole_groups ? chunk_elements / shape.group * shape.group : chunk_elements;
    }

    struct Chunk {
        const std::byte *row;
        std::int64_t position;
        std::int64_t first;
        const std::byte *numbers; // all elements as binary32, or NULL if there are too many
        float *x;                 // a place for numbers
        std::byte *elements;      // a place for those of the reader
    };

    const std::byte *read(const Chunk &chunk, std::int64_t first, std::int64_t count) const {
        const std::byte *const from =
            reader_.elements(chunk.row, chunk.position, first * element_bytes_, count, chunk.elements);
        return widened<Processor>(element_type_, from, count, chunk.x);
    }

    const std::byte *numbers(const Chunk &chunk, std::int64_t at, std::int64_t count) const {
        return chunk.numbers != nullptr ? chunk.numbers + at * static_cast<std::int64_t>(sizeof(float))
                                        : read(chunk, chunk.first + at, count);
    }

    void find_factors(const Chunk &chunk, std::int64_t count, const CacheRow &to, Factors &factors) const {
        const std::int64_t first_group = chunk.first / shape_.group;
        std::byte *const scales = to.scales + first_group * shape_.group_stride;
        factors.divides = f_.scale_use == KVAPPEND_SCALE_DIVIDE;
        factors.same = count <= shape_.group - chunk.first % shape_.group;
        if (f_.computed()) {
            return compute_factors(chunk, count, scales, factors);
        }
        if (factors.same) {
            const Factor factor = given_factor(scales);
            factors.any_zero = factor.is_zero;
            factors.zeros[0] = factor.is_zero ? 1 : 0;
            return fill<Processor>(factors.values, block_elements, factor.value);
        }
        load_factors(chunk, count, scales, factors);
        fill<Processor>(factors.values + count, block_elements, 1);
    }

    void compute_factors(const Chunk &chunk, std::int64_t count, std::byte *scales, Factors &factors) const {
        Groups g;
        g.count = factors.same ? 1 : count / shape_.group;
        g.scales = scales;
        g.stride = shape_.group_stride;
        g.overflow = overflow_;
        g.any_nan = chunk.numbers != nullptr ? find_largest<Processor>(chunk.numbers, g.count, shape_.group, g.largest)
                                             : find_largest_of_one(chunk, count, g.largest[0]);
        compute_factors_(f_, c_.global_scale, g, factors);
        if (factors.same) {
            return fill<Processor>(factors.values, block_elements, g.factors[0]);
        }
        factors.tame = factors.tame && shape_.group % unit_elements == 0;
        const std::int64_t elements_of_value = factors.tame ? unit_elements : 1;
        spread<Processor>(g.factors, g.count, shape_.group / elements_of_value, factors.values);
        fill<Processor>(factors.values + count / elements_of_value, block_elements, 1);
    }

    void load_factors(const Chunk &chunk, std::int64_t count, const std::byte *scale, Factors &factors) const {
        std::int64_t end = shape_.group - chunk.first % shape_.group; // of a group
        std::int64_t g = 0;
        factors.any_zero = false;
        for (std::int64_t i = 0; i < count; end += shape_.group, scale += shape_.group_stride) {
            const Factor factor = given_factor(scale);
            const std::int64_t n = std::min(end, count) - i;
            fill<Processor>(factors.values + i, n, factor.value);
            factors.zeros[g++] = factor.is_zero ? 1 : 0;
            factors.any_zero |= factor.is_zero;
            i += n;
        }
    }

    // Does what find_largest does, for one group that is larger than what is converted together.
    bool find_largest_of_one(const Chunk &chunk, std::int64_t count, float &largest) const {
        bool any_nan = false;
        largest = 0;
        for (std::int64_t at = 0; at < count; at += chunk_elements) {
            const std::int64_t n = std::min(chunk_elements, count - at);
            float of_span;
            any_nan |= find_largest<Processor>(numbers(chunk, at, n), 1, n, &of_span);
            largest = std::max(largest, of_span);
        }
        return any_nan;
    }

    Factor given_factor(const std::byte *scale) const {
        std::uint32_t code = 0;
        std::memcpy(&code, scale, scale_bytes_);
        return factor_of(f_, decode_scale(f_.scale_type, code), c_.global_scale);
    }

    // Writes the codes of elements from `at` on, each in its bytes.
    void encode_span(const Chunk &chunk, std::int64_t at, std::int64_t count, const Factors &factors,
                     std::byte *codes) const {
        encode_(numbers(chunk, at, count), count, factors, at, codes, block_elements * ((code_bits_ + 7) / 8));
        if (f_.scaled() && factors.any_zero) { // All codes with scales take a byte.
            for (std::int64_t i = 0; i < count; ++i) {
                const std::int64_t g = (chunk.first + at + i) / shape_.group - chunk.first / shape_.group;
                codes[i] = factors.zeros[g] != 0 ? zero_code_ : codes[i];
            }
        }
    }

    void convert_span(const Chunk &chunk, std::int64_t at, std::int64_t count, const Factors &factors,
                      const CacheRow &to) const {
        const std::int64_t byte = (chunk.first + at) * code_bits_ / 8;
        const std::int64_t bytes = (count * code_bits_ + 7) / 8;
        const bool whole = code_bits_ >= 8 && c_.copy.cache.whole_rows();
        if (whole && !non_temporal_) {
            return encode_span(chunk, at, count, factors, to.codes + byte);
        }
        if (is_piece_a_block_ && !factors.any_zero && byte % block_elements == 0) {
            const std::int64_t stride = c_.copy.cache.piece_stride;
            std::byte *const piece = to.codes + byte / block_elements * stride;
            return encode_(numbers(chunk, at, count), count, factors, at, piece, stride);
        }
        std::byte codes[chunk_elements * sizeof(float)];
        encode_span(chunk, at, count, factors, codes);
        if (whole) {
            return Processor::copy_non_temporal(to.codes + byte, codes, static_cast<std::size_t>(bytes));
        }
        if (code_bits_ >= 8) {
            return store_bytes(codes, byte, bytes, to);
        }
        std::byte pairs[chunk_elements / 2];
        codes[count] = zero_code_; // of the last high half of a row that has an odd number of elements
        store_nibbles<Processor>(codes, codes + 1, bytes, 2, pairs);
        store_bytes(pairs, byte, bytes, to);
    }

    // A byte has an element of the first half of a group and one of the second half.
    void convert_halves(const Chunk &chunk, std::int64_t count, const Factors &factors, const CacheRow &to) const {
        const std::int64_t half = shape_.group / 2;
        std::byte low[chunk_elements];
        std::byte high[chunk_elements];
        std::byte pairs[chunk_elements];
        for (std::int64_t begin = 0; begin < count; begin += shape_.group) {
            for (std::int64_t j = 0; j < half; j += chunk_elements) {
                const std::int64_t n = std::min(chunk_elements, half - j);
                encode_span(chunk, begin + j, n, factors, low);
                encode_span(chunk, begin + half + j, n, factors, high);
                store_nibbles<Processor>(low, high, n, 1, pairs);
                store_bytes(pairs, (chunk.first + begin) / 2 + j, n, to);
            }
        }
    }

    void store_bytes(const std::byte *from, std::int64_t byte, std::int64_t bytes, const CacheRow &to) const {
        store_pieces<Processor>(from, byte, bytes, piece_bytes_, c_.copy.cache.piece_stride, to.codes);
    }

    const Reader reader_;
    const Conversion &c_;
    const Format &f_;
    const std::int32_t element_type_;
    const std::int64_t element_bytes_;
    const std::int64_t code_bits_;
    const RowShape<Processor> shape_;
    const std::size_t scale_bytes_;
    const std::int64_t step_; // elements whose factors are found together
    const bool non_temporal_;
    ComputeFactors compute_factors_;
    Encode encode_ = nullptr;
    std::int64_t piece_bytes_ = 0;
    bool is_piece_a_block_ = false;
    std::byte zero_code_{};
    float overflow_ = 0;
};

// Rows that are stored as they are, next to others that are not.
template <class Processor>
inline void copy_bits(const Conversion &c, const std::byte *from, std::byte *to) {
    const std::int64_t bytes = c.copy.cache.piece_bytes;
    for (std::int64_t at = 0; at < c.copy.row_bytes(); at += bytes) {
        std::memcpy(to, from + at, static_cast<std::size_t>(bytes));
        to += c.copy.cache.piece_stride;
    }
}

// Calls convert(from, to, i) for a run of rows, in steps of rows and of heads. i is the number of the row in the run.
template <class Convert>
inline void for_each_row(const Conversion &c, RowIndex from, RowIndex to, std::int64_t rows, std::int64_t row_step,
                         std::int64_t head_step, Convert convert) {
    const Strides &source = c.copy.rows.strides;
    const Strides &target = c.copy.cache.strides;
    for (std::int64_t i = 0; i < rows; i += row_step) {
        for (std::int64_t head = 0; head < c.copy.heads(); head += head_step) {
            convert(c.rows + from.outer * source.outer + (from.row + i) * source.row + head * source.head,
                    CacheRow{c.cache + to.outer * target.outer + (to.row + i) * target.row + head * target.head,
                             c.scales + c.copy.scale_byte(to.outer, head, to.row + i)},
                    i);
        }
    }
}

template <class Processor, bool NonTemporal>
inline void convert_run(const Conversion &c, std::int32_t element_type, RowIndex from, RowIndex to, std::int64_t rows) {
    if (!c.copy.converts()) {
        return for_each_row(c, from, to, rows, 1, 1,
                            [&](const std::byte *row, const CacheRow &target, std::int64_t /*i*/) {
                                copy_bits<Processor>(c, row, target.codes);
                            });
    }
    const RowConverter<Processor> converter(c, element_type, rows, NonTemporal);
    for_each_row(
        c, from, to, rows, converter.shape().rows, converter.shape().heads,
        [&](const std::byte *row, const CacheRow &target, std::int64_t /*i*/) { converter.convert(row, target); });
}

// ---- calls ----

// The parameter Processor keeps these apart for each processor.
template <class Processor>
inline Conversion conversion_of(const Copy &copy, const void *rows, void *cache, void *scales,
                                const float *global_scale) {
    Conversion c{copy, static_cast<std::byte *>(const_cast<void *>(rows)), static_cast<std::byte *>(cache),
                 static_cast<std::byte *>(scales), 1};
    if (!copy.empty() && copy.format.has_global_scale) {
        std::memcpy(&c.global_scale, global_scale, sizeof c.global_scale);
    }
    return c;
}

// A large run casts whole rows in the processor's cache and then bypasses it, as copies do: prefill of 4096 tokens from
// binary32 to F16 takes 35 % less time. Conversions to codes of 8 bits compute for longer than they wait for memory,
// and gain nothing.
template <class Processor, bool NonTemporal>
void convert_append(const Problem &problem, const kvappend_args &args, const Part &part) {
    const Conversion k =
        conversion_of<Processor>(problem.k, args.k_new, args.k_cache, args.k_scales, args.k_global_scale);
    const Conversion v =
        conversion_of<Processor>(problem.v, args.v_new, args.v_cache, args.v_scales, args.v_global_scale);
    const Indices indices = indices_of(problem.buffers, args);
    for_each_run(Rule<>{problem.addressing, indices}, part.rows, [&](const Run &run) {
        for (const Conversion *const conversion : {&k, &v}) {
            if (!conversion->copy.empty()) {
                convert_run<Processor, NonTemporal>(*conversion, problem.element_type, run.source, run.cache, run.rows);
            }
        }
    });
    if constexpr (NonTemporal) {
        Processor::finish_non_temporal();
    }
}

} // namespace kvappend
