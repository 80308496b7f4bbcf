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
    const std::byte *rows;
    std::byte *cache;
    std::byte *scales;
    float global_scale;
};

// ---- loops over adjacent elements, which compilers vectorise ----

// The elements that are converted together. They lie on the stack as binary32, so that each loop has one type only: a
// loop for each pair of a source type and a stored type would be ten times as much code, and no faster in memory.
inline constexpr std::int64_t chunk_elements = 1024;

// A code as it lies in memory. Loads and stores are by memcpy, because nothing is known of alignment.
template <class Type>
using Code = std::conditional_t<Type::bits == 32, std::uint32_t,
                                std::conditional_t<Type::bits == 16, std::uint16_t, std::uint8_t>>;

template <class Processor, class Source>
[[gnu::flatten, gnu::noinline]] void widen(const std::byte *from, std::int64_t count, float *x) {
    for (std::int64_t i = 0; i < count; ++i) {
        Code<Source> code;
        std::memcpy(&code, from + i * static_cast<std::int64_t>(sizeof code), sizeof code);
        x[i] = Source::decode(code);
    }
}

template <class Processor>
[[gnu::flatten]] inline float largest_of(const float *x, std::int64_t count) {
    std::int32_t largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int32_t magnitude = counted_magnitude(x[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    return float_of(static_cast<std::uint32_t>(largest));
}

template <class Processor>
[[gnu::flatten]] inline void apply(const Factor &factor, float *x, std::int64_t count) {
    const float value = factor.value;
    if (factor.is_zero) {
        std::fill_n(x, count, 0.0F);
    } else if (factor.divides) {
        for (std::int64_t i = 0; i < count; ++i) {
            x[i] /= value;
        }
    } else {
        for (std::int64_t i = 0; i < count; ++i) {
            x[i] *= value;
        }
    }
}

// Codes are found in one loop and stored in another one. In one loop, GCC narrows each step of the arithmetic to bytes,
// and it takes 1.8 times as many instructions (GCC 12, E4M3).
template <class Processor, class Stored>
[[gnu::flatten, gnu::noinline]] void encode(const float *x, std::int64_t count, std::uint32_t *codes) {
    for (std::int64_t i = 0; i < count; ++i) {
        codes[i] = Stored::encode(x[i]);
    }
}

template <class Processor, class Stored>
[[gnu::flatten, gnu::noinline]] void store_codes(const std::uint32_t *codes, std::int64_t count, std::byte *to) {
    for (std::int64_t i = 0; i < count; ++i) {
        const auto code = static_cast<Code<Stored>>(codes[i]);
        std::memcpy(to + i * static_cast<std::int64_t>(sizeof code), &code, sizeof code);
    }
}

// Codes that share bytes: low[i * step] and high[i * step].
template <class Processor>
[[gnu::flatten, gnu::noinline]] void store_nibbles(const std::uint32_t *low, const std::uint32_t *high,
                                                   std::int64_t pairs, std::int64_t step, std::byte *to) {
    for (std::int64_t i = 0; i < pairs; ++i) {
        to[i] = static_cast<std::byte>(low[i * step] | high[i * step] << 4);
    }
}

// ---- rows ----

// Where a row of a head lies in its cache.
struct TargetRow {
    std::byte *codes;
    std::byte *scales;
};

template <class Processor>
class RowConverter {
public:
    RowConverter(const Conversion &conversion, std::int32_t element_type)
        : c_(conversion), f_(conversion.copy.format), element_type_(element_type),
          element_bytes_(element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2),
          dim_(conversion.copy.row_bytes() / element_bytes_), code_bits_(bits_of_stored_type(f_.type)),
          pack_(conversion.copy.cache.whole_rows() ? dim_ : conversion.copy.cache.piece_bytes * 8 / code_bits_),
          scale_bytes_(bytes_of_scale(f_.scale_type)),
          // Groups that share a given scale are one group.
          group_(!f_.scaled() || (!f_.computed() && !f_.halves && group_stride() == 0) ? dim_ : f_.group),
          step_(group_ <= chunk_elements ? chunk_elements / group_ * group_ : chunk_elements) {}

    void convert(const std::byte *from, const TargetRow &to) const {
        if (code_bits_ < 8 && (f_.halves ? group_ > chunk_elements : group_ % 2 != 0 && group_ != dim_)) {
            return convert_one_by_one(from, to);
        }
        float x[chunk_elements];
        Factor factor{1, false, false};
        for (std::int64_t at = 0; at < dim_; at += step_) {
            const std::int64_t count = std::min(step_, dim_ - at);
            widen_chunk(from, at, count, x);
            const std::int64_t in_chunk = std::min(group_, count); // of a group
            for (std::int64_t i = 0; f_.scaled() && i < count; i += in_chunk) {
                if ((at + i) % group_ == 0) {
                    factor = factor_of_group(from, at + i, x + i, in_chunk, to);
                }
                apply<Processor>(factor, x + i, in_chunk);
            }
            encode_chunk(x, at, count, to);
        }
    }

private:
    std::int64_t group_stride() const { return c_.copy.scales.piece_stride; }

    std::byte *code_at(const TargetRow &to, std::int64_t element) const {
        return to.codes + element / pack_ * c_.copy.cache.piece_stride + element % pack_ * code_bits_ / 8;
    }

    void widen_chunk(const std::byte *row, std::int64_t at, std::int64_t count, float *x) const {
        const std::byte *const from = row + at * element_bytes_;
        switch (element_type_) {
        case KVAPPEND_ELEMENT_F32:
            return widen<Processor, F32>(from, count, x);
        case KVAPPEND_ELEMENT_F16:
            return widen<Processor, F16>(from, count, x);
        default:
            return widen<Processor, BF16>(from, count, x);
        }
    }

    // The factor of the group that begins with element `first`. Its scale is read, or computed and written. `x` has the
    // first `count` elements of the group, and that is all of them unless the group is larger than a chunk.
    Factor factor_of_group(const std::byte *row, std::int64_t first, const float *x, std::int64_t count,
                           const TargetRow &to) const {
        std::byte *const scale = to.scales + first / group_ * group_stride();
        if (!f_.computed()) {
            return given_factor(scale);
        }
        float largest = largest_of<Processor>(x, count);
        for (std::int64_t at = first + count; at < first + group_; at += chunk_elements) {
            float more[chunk_elements];
            const std::int64_t in_chunk = std::min(chunk_elements, first + group_ - at);
            widen_chunk(row, at, in_chunk, more);
            largest = std::max(largest, largest_of<Processor>(more, in_chunk));
        }
        Scale computed;
        const Factor factor = compute_factor(f_, largest, c_.global_scale, computed);
        std::memcpy(scale, &computed.code, scale_bytes_);
        return factor;
    }

    Factor given_factor(const std::byte *scale) const {
        std::uint32_t code = 0;
        std::memcpy(&code, scale, scale_bytes_);
        return factor_of(f_, decode_scale(f_.scale_type, code), c_.global_scale);
    }

    // Stores the codes of adjacent elements, piece by piece, or group by group if a byte has elements of both halves.
    void encode_chunk(const float *x, std::int64_t at, std::int64_t count, const TargetRow &to) const {
        std::uint32_t codes[chunk_elements];
        const std::int64_t together = f_.halves ? group_ : pack_;
        with_stored_type(f_, [&](auto stored) {
            using Stored = decltype(stored);
            encode<Processor, Stored>(x, count, codes);
            for (std::int64_t i = 0; i < count;) {
                const std::int64_t element = at + i;
                const std::int64_t n = std::min(count - i, together - element % together);
                store_span<Stored>(codes + i, n, code_at(to, element));
                i += n;
            }
        });
    }

    template <class Stored>
    void store_span(const std::uint32_t *codes, std::int64_t count, std::byte *to) const {
        if constexpr (Stored::bits >= 8) {
            store_codes<Processor, Stored>(codes, count, to);
        } else if (f_.halves) {
            store_nibbles<Processor>(codes, codes + count / 2, count / 2, 1, to);
        } else {
            store_nibbles<Processor>(codes, codes + 1, count / 2, 2, to);
            if (count % 2 != 0) {
                to[count / 2] = static_cast<std::byte>(codes[count - 1] | Stored::encode(0) << 4);
            }
        }
    }

    // For codes that share a byte with one of another group, or with one that is far away.
    void convert_one_by_one(const std::byte *from, const TargetRow &to) const {
        Factor factor{1, false, false};
        std::int64_t group_of_factor = -1;
        const auto code = [&](std::int64_t element) {
            float x = 0;
            if (element < dim_) {
                widen_chunk(from, element, 1, &x);
                if (const std::int64_t group = element / group_; group != group_of_factor) {
                    float first = 0;
                    widen_chunk(from, group * group_, 1, &first);
                    factor = factor_of_group(from, group * group_, &first, 1, to);
                    group_of_factor = group;
                }
                x = factor.apply(x);
            }
            std::uint32_t result = 0;
            with_stored_type(f_, [&](auto stored) { result = decltype(stored)::encode(x); });
            return result;
        };
        for (std::int64_t at = 0; at < dim_; at += 2) {
            const std::int64_t begin = at - at % group_;
            const std::int64_t low = f_.halves ? begin + (at - begin) / 2 : at;
            const std::int64_t high = f_.halves ? low + group_ / 2 : at + 1;
            const std::uint32_t low_code = code(low);
            *code_at(to, at) = static_cast<std::byte>(low_code | code(high) << 4);
        }
    }

    const Conversion &c_;
    const Format &f_;
    const std::int32_t element_type_;
    const std::int64_t element_bytes_;
    const std::int64_t dim_;
    const std::int64_t code_bits_;
    const std::int64_t pack_; // elements of a piece
    const std::size_t scale_bytes_;
    const std::int64_t group_; // elements that share a factor
    const std::int64_t step_;  // elements of a chunk
};

// Rows that are stored as they are, next to others that are not.
inline void copy_bits(const Conversion &c, const std::byte *from, std::byte *to) {
    const std::int64_t bytes = c.copy.cache.piece_bytes;
    for (std::int64_t at = 0; at < c.copy.row_bytes(); at += bytes) {
        std::memcpy(to, from + at, static_cast<std::size_t>(bytes));
        to += c.copy.cache.piece_stride;
    }
}

// Calls convert(from, to) for all heads of a run of rows.
template <class Convert>
inline void for_each_row(const Conversion &c, RowIndex from, RowIndex to, std::int64_t rows, Convert convert) {
    const Strides &source = c.copy.rows.strides;
    const Strides &target = c.copy.cache.strides;
    for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t head = 0; head < c.copy.heads(); ++head) {
            convert(c.rows + from.outer * source.outer + (from.row + i) * source.row + head * source.head,
                    TargetRow{c.cache + to.outer * target.outer + (to.row + i) * target.row + head * target.head,
                              c.scales + c.copy.scale_byte(to.outer, head, to.row + i)});
        }
    }
}

template <class Processor>
inline void convert_run(const Conversion &c, std::int32_t element_type, RowIndex from, RowIndex to, std::int64_t rows) {
    if (!c.copy.converts()) {
        return for_each_row(c, from, to, rows,
                            [&](const std::byte *row, const TargetRow &target) { copy_bits(c, row, target.codes); });
    }
    const RowConverter<Processor> converter(c, element_type);
    for_each_row(c, from, to, rows,
                 [&](const std::byte *row, const TargetRow &target) { converter.convert(row, target); });
}

// ---- calls ----

// The parameter Processor keeps these apart for each processor.
template <class Processor>
inline Conversion conversion_of(const Copy &copy, const void *rows, void *cache, void *scales,
                                const float *global_scale) {
    Conversion c{copy, static_cast<const std::byte *>(rows), static_cast<std::byte *>(cache),
                 static_cast<std::byte *>(scales), 1};
    if (!copy.empty() && copy.format.has_global_scale) {
        std::memcpy(&c.global_scale, global_scale, sizeof c.global_scale);
    }
    return c;
}

template <class Processor>
void convert_append(const Problem &problem, const kvappend_args &args, const Part &part) {
    const Conversion k =
        conversion_of<Processor>(problem.k, args.k_new, args.k_cache, args.k_scales, args.k_global_scale);
    const Conversion v =
        conversion_of<Processor>(problem.v, args.v_new, args.v_cache, args.v_scales, args.v_global_scale);
    const Indices indices = indices_of(problem.buffers, args);
    for_each_run(Rule<>{problem.addressing, indices}, part.rows, [&](const Run &run) {
        for (const Conversion *const conversion : {&k, &v}) {
            if (!conversion->copy.empty()) {
                convert_run<Processor>(*conversion, problem.element_type, run.source, run.cache, run.rows);
            }
        }
    });
}

} // namespace kvappend
