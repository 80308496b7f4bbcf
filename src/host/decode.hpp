// SPDX-License-Identifier: Apache-2.0
// A gather from a cache that has another format: the codes become elements again. Like convert.hpp, this file has only
// templates over a Processor.
#pragma once

#include "convert.hpp"

namespace kvappend {

template <class Processor, class Stored>
[[gnu::flatten, gnu::noinline]] void decode_codes(const std::byte *codes, std::int64_t count, float *x) {
    for (std::int64_t i = 0; i < count; ++i) {
        x[i] = Stored::decode(load<Code<Stored>>(codes, i));
    }
}

template <class Processor>
[[gnu::flatten, gnu::noinline]] void scale_numbers(float *x, const float *factors, std::int64_t count, bool divides) {
    if (divides) {
        for (std::int64_t i = 0; i < count; ++i) {
            x[i] /= factors[i];
        }
        return;
    }
    for (std::int64_t i = 0; i < count; ++i) {
        x[i] *= factors[i];
    }
}

// The low and the high half of each byte.
template <class Processor>
[[gnu::flatten, gnu::noinline]] void load_nibbles(const std::byte *bytes, std::int64_t count, std::int64_t step,
                                                  std::byte *low, std::byte *high) {
    for (std::int64_t i = 0; i < count; ++i) {
        low[i * step] = bytes[i] & std::byte{15};
        high[i * step] = bytes[i] >> 4;
    }
}

template <class Processor>
class RowDecoder {
public:
    RowDecoder(const Conversion &conversion, std::int32_t element_type, std::int64_t rows_of_run)
        : c_(conversion), f_(conversion.copy.format), element_bytes_(element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2),
          code_bits_(bits_of_stored_type(f_.type)), shape_(conversion.copy, element_bytes_, code_bits_, rows_of_run) {
        const Tensor &cache = conversion.copy.cache;
        piece_bytes_ = cache.whole_rows() ? (shape_.dim * code_bits_ + 7) / 8 : cache.piece_bytes;
        with_stored_type(f_, [&](auto stored) { decode_ = decode_codes<Processor, decltype(stored)>; });
        with_element_type(element_type, [&](auto element) { encode_ = encode<Processor, decltype(element)>; });
    }

    const RowShape<Processor> &shape() const { return shape_; }

    void decode(const CacheRow &from, std::byte *to) const {
        if (f_.halves) {
            return decode_halves(from, to);
        }
        std::byte codes[chunk_elements * sizeof(float)];
        for (std::int64_t first = 0; first < shape_.dim; first += chunk_elements) {
            const std::int64_t count = std::min(chunk_elements, shape_.dim - first);
            const std::int64_t bytes = (count * code_bits_ + 7) / 8;
            if (code_bits_ >= 8) {
                store_elements(from, first, count, load_bytes(from, first * code_bits_ / 8, bytes, codes), to);
                continue;
            }
            std::byte pairs[chunk_elements / 2];
            const std::byte *const loaded = load_bytes(from, first / 2, bytes, pairs);
            load_nibbles<Processor>(loaded, bytes, 2, codes, codes + 1);
            store_elements(from, first, count, codes, to);
        }
    }

private:
    // A byte has an element of the first half of a group and one of the second half.
    void decode_halves(const CacheRow &from, std::byte *to) const {
        const std::int64_t half = shape_.group / 2;
        std::byte pairs[chunk_elements];
        std::byte low[chunk_elements];
        std::byte high[chunk_elements];
        for (std::int64_t begin = 0; begin < shape_.dim; begin += shape_.group) {
            for (std::int64_t j = 0; j < half; j += chunk_elements) {
                const std::int64_t n = std::min(chunk_elements, half - j);
                load_nibbles<Processor>(load_bytes(from, begin / 2 + j, n, pairs), n, 1, low, high);
                store_elements(from, begin + j, n, low, to);
                store_elements(from, begin + half + j, n, high, to);
            }
        }
    }

    // Returns a pointer to bytes of a row. If the row is in pieces, the bytes are first copied to `to`.
    const std::byte *load_bytes(const CacheRow &from, std::int64_t byte, std::int64_t bytes, std::byte *to) const {
        if (c_.copy.cache.whole_rows()) {
            return from.codes + byte;
        }
        const std::byte *piece = from.codes + byte / piece_bytes_ * c_.copy.cache.piece_stride;
        std::int64_t in_piece = byte % piece_bytes_;
        for (std::int64_t i = 0; i < bytes; piece += c_.copy.cache.piece_stride, in_piece = 0) {
            const std::int64_t n = std::min(bytes - i, piece_bytes_ - in_piece);
            Processor::copy(to + i, piece + in_piece, static_cast<std::size_t>(n));
            i += n;
        }
        return to;
    }

    // Writes the elements from `first` on. In `codes`, no two codes share a byte.
    void store_elements(const CacheRow &from, std::int64_t first, std::int64_t count, const std::byte *codes,
                        std::byte *to) const {
        float x[chunk_elements];
        decode_(codes, count, x);
        if (f_.scaled()) {
            float factors[chunk_elements];
            find_factors(from.scales, first, count, x, factors);
            scale_numbers<Processor>(x, factors, count, f_.scale_use == KVAPPEND_SCALE_MULTIPLY);
        }
        Factors none; // The types of elements have no scales.
        encode_(reinterpret_cast<const std::byte *>(x), count, none, 0, to + first * element_bytes_,
                block_elements * element_bytes_);
    }

    // Finds the factors of the elements from `first` on. A group whose scale is zero becomes zeros, whatever its codes.
    void find_factors(const std::byte *scales, std::int64_t first, std::int64_t count, float *x, float *factors) const {
        const std::byte *scale = scales + first / shape_.group * shape_.group_stride;
        std::int64_t end = shape_.group - first % shape_.group; // of a group
        for (std::int64_t i = 0; i < count; end += shape_.group, scale += shape_.group_stride) {
            std::uint32_t code = 0;
            std::memcpy(&code, scale, bytes_of_scale(f_.scale_type));
            const Factor factor = decoding_factor_of(f_, decode_scale(f_.scale_type, code), c_.global_scale);
            const std::int64_t n = std::min(end, count) - i;
            fill<Processor>(factors + i, n, factor.is_zero ? 1 : factor.value);
            if (factor.is_zero) {
                fill<Processor>(x + i, n, 0);
            }
            i += n;
        }
    }

    const Conversion &c_;
    const Format &f_;
    const std::int64_t element_bytes_;
    const std::int64_t code_bits_;
    const RowShape<Processor> shape_;
    void (*decode_)(const std::byte *codes, std::int64_t count, float *x) = nullptr;
    Encode encode_ = nullptr;
    std::int64_t piece_bytes_ = 0;
};

// Copies a row that is stored as it is, in a call whose other cache has another format.
template <class Processor>
inline void gather_bits(const Conversion &c, const std::byte *from, std::byte *to) {
    const std::int64_t bytes = c.copy.cache.piece_bytes;
    for (std::int64_t at = 0; at < c.copy.row_bytes(); at += bytes) {
        std::memcpy(to + at, from, static_cast<std::size_t>(bytes));
        from += c.copy.cache.piece_stride;
    }
}

template <class Processor>
inline void decode_run(const Conversion &c, std::int32_t element_type, RowIndex out, RowIndex cache,
                       std::int64_t rows) {
    if (!c.copy.converts()) {
        return for_each_row(c, out, cache, rows, 1, 1, [&](std::byte *row, const CacheRow &from, std::int64_t /*i*/) {
            gather_bits<Processor>(c, from.codes, row);
        });
    }
    const RowDecoder<Processor> decoder(c, element_type, rows);
    for_each_row(c, out, cache, rows, decoder.shape().rows, decoder.shape().heads,
                 [&](std::byte *row, const CacheRow &from, std::int64_t /*i*/) { decoder.decode(from, row); });
}

template <class Processor>
void convert_gather(const Problem &problem, const kvappend_args &args, const Part &part) {
    const Conversion k =
        conversion_of<Processor>(problem.k, args.k_out, args.k_cache, args.k_scales, args.k_global_scale);
    const Conversion v =
        conversion_of<Processor>(problem.v, args.v_out, args.v_cache, args.v_scales, args.v_global_scale);
    const Indices indices = indices_of(problem.buffers, args);
    const Rule<> rule{problem.addressing, indices};
    const auto decode = [&](const Run &run) {
        for (const Conversion *const conversion : {&k, &v}) {
            if (!conversion->copy.empty()) {
                decode_run<Processor>(*conversion, problem.element_type, run.source, run.cache, run.rows);
            }
        }
    };
    if (problem.addressing.has(KVAPPEND_FLAG_ZERO_SKIPPED)) {
        for_each_run_and_gap(rule, part.rows, decode,
                             [&](RowRange rows) { zero_rows(problem, args, rows, part.head); });
    } else {
        for_each_run(rule, part.rows, decode);
    }
}

} // namespace kvappend
