// SPDX-License-Identifier: Apache-2.0
// An append that rotates the rows of K, and stores them as they are or in another format. Like convert.hpp, this file
// has only templates over a Processor.
#pragma once

#include "../rotary.hpp"
#include "convert.hpp"

namespace kvappend {

// ---- loops over adjacent pairs, which compilers vectorise ----

// One element of each pair. The elements `own` and their partners lie apart.
template <class Processor, bool First>
[[gnu::flatten, gnu::noinline]] void rotate_apart(const std::byte *own, const std::byte *partner, const std::byte *cos,
                                                  const std::byte *sin, std::int64_t count, float *y) {
    for (std::int64_t i = 0; i < count; ++i) {
        const auto x = load<float>(own, i);
        const auto other = load<float>(partner, i);
        y[i] = First ? rotated_first(x, other, load<float>(cos, i), load<float>(sin, i))
                     : rotated_second(other, x, load<float>(cos, i), load<float>(sin, i));
    }
}

// Both elements of each pair, which are adjacent.
template <class Processor>
[[gnu::flatten, gnu::noinline]] void rotate_adjacent(const std::byte *x, const std::byte *cos, const std::byte *sin,
                                                     std::int64_t pairs, float *y) {
    for (std::int64_t i = 0; i < pairs; ++i) {
        const auto first = load<float>(x, 2 * i);
        const auto second = load<float>(x, 2 * i + 1);
        y[2 * i] = rotated_first(first, second, load<float>(cos, i), load<float>(sin, i));
        y[2 * i + 1] = rotated_second(first, second, load<float>(cos, i), load<float>(sin, i));
    }
}

// ---- rows ----

// Reads elements of a row of K and rotates them: they become elements again, so that what stores them is the same as
// without a rotation.
template <class Processor>
class RowRotator {
public:
    // Of chunk_elements elements.
    static constexpr std::size_t buffer_bytes = chunk_elements * sizeof(float);

    RowRotator(const Rotation &rotation, const RotaryTables &tables, std::int32_t element_type)
        : r_(&rotation), tables_(tables), element_type_(element_type),
          element_bytes_(element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2) {
        with_element_type(element_type, [&](auto element) { encode_ = encode<Processor, decltype(element)>; });
    }

    // The elements from `byte` of a row on, at most chunk_elements. They lie in the buffer.
    const std::byte *elements(const std::byte *row, std::int64_t position, std::int64_t byte, std::int64_t count,
                              std::byte *buffer) const {
        std::memcpy(buffer, row + byte, static_cast<std::size_t>(count * element_bytes_));
        const std::int64_t first = byte / element_bytes_;
        const std::int64_t begin = std::max(first, r_->first);
        const std::int64_t end = std::min(first + count, r_->first + r_->dim);
        if (begin < end) {
            r_->interleaved ? rotate_pairs(row, position, begin, end, buffer + (begin - first) * element_bytes_)
                            : rotate_halves(row, position, begin, end, buffer + (begin - first) * element_bytes_);
        }
        return buffer;
    }

private:
    // As many elements as a chunk has, and the partners of its first and its last one.
    using Numbers = float[chunk_elements + 2];

    // Elements as binary32, perhaps in x.
    static const std::byte *widened(std::int32_t type, const std::byte *from, std::int64_t count, float *x) {
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

    const std::byte *numbers(const std::byte *row, std::int64_t first, std::int64_t count, float *x) const {
        return widened(element_type_, row + first * element_bytes_, count, x);
    }
    const std::byte *entries(const std::byte *table, std::int64_t position, std::int64_t pair, std::int64_t count,
                             float *x) const {
        return widened(r_->table_type, table + r_->table_byte(position, pair), count, x);
    }

    void round(const float *y, std::int64_t count, std::byte *to) const {
        Factors factors; // The types of elements have no scales, so this one is not read.
        encode_(reinterpret_cast<const std::byte *>(y), count, factors, 0, to, block_elements * element_bytes_);
    }

    void rotate_halves(const std::byte *row, std::int64_t position, std::int64_t begin, std::int64_t end,
                       std::byte *to) const {
        const std::int64_t middle = r_->first + r_->dim / 2;
        if (begin < middle) {
            rotate_half<true>(row, position, begin, std::min(end, middle), to);
        }
        if (const std::int64_t second = std::max(begin, middle); second < end) {
            rotate_half<false>(row, position, second, end, to + (second - begin) * element_bytes_);
        }
    }

    template <bool First>
    void rotate_half(const std::byte *row, std::int64_t position, std::int64_t begin, std::int64_t end,
                     std::byte *to) const {
        Numbers own;
        Numbers partner;
        Numbers cos;
        Numbers sin;
        Numbers y;
        const std::int64_t half = r_->dim / 2;
        const std::int64_t pair = begin - r_->first - (First ? 0 : half);
        const std::int64_t count = end - begin;
        rotate_apart<Processor, First>(numbers(row, begin, count, own),
                                       numbers(row, First ? begin + half : begin - half, count, partner),
                                       entries(tables_.cos, position, pair, count, cos),
                                       entries(tables_.sin, position, pair, count, sin), count, y);
        round(y, count, to);
    }

    // A chunk may begin with the second element of a pair, or end with the first one.
    void rotate_pairs(const std::byte *row, std::int64_t position, std::int64_t begin, std::int64_t end,
                      std::byte *to) const {
        Numbers x;
        Numbers cos;
        Numbers sin;
        Numbers y;
        const std::int64_t pair = (begin - r_->first) / 2;
        const std::int64_t pairs = (end - r_->first + 1) / 2 - pair;
        const std::int64_t first = r_->first + 2 * pair;
        rotate_adjacent<Processor>(numbers(row, first, 2 * pairs, x), entries(tables_.cos, position, pair, pairs, cos),
                                   entries(tables_.sin, position, pair, pairs, sin), pairs, y);
        round(y + (begin - first), end - begin, to);
    }

    const Rotation *r_;
    RotaryTables tables_;
    std::int32_t element_type_;
    std::int64_t element_bytes_;
    Encode encode_ = nullptr;
};

// Stores a rotated row as it is.
template <class Processor, bool NonTemporal>
inline void store_rotated(const Conversion &c, const RowRotator<Processor> &rotator, std::int64_t element_bytes,
                          const std::byte *row, std::int64_t position, std::byte *to) {
    const Tensor &cache = c.copy.cache;
    std::byte buffer[RowRotator<Processor>::buffer_bytes];
    const std::int64_t step = chunk_elements * element_bytes;
    for (std::int64_t byte = 0; byte < c.copy.row_bytes(); byte += step) {
        const std::int64_t bytes = std::min(step, c.copy.row_bytes() - byte);
        rotator.elements(row, position, byte, bytes / element_bytes, buffer);
        if (!cache.whole_rows()) {
            store_pieces<Processor>(buffer, byte, bytes, cache.piece_bytes, cache.piece_stride, to);
        } else if (NonTemporal) {
            Processor::copy_non_temporal(to + byte, buffer, static_cast<std::size_t>(bytes));
        } else {
            std::memcpy(to + byte, buffer, static_cast<std::size_t>(bytes));
        }
    }
}

template <class Processor, bool NonTemporal>
inline void rotate_run(const Conversion &c, const Problem &problem, const RowRotator<Processor> &rotator,
                       const Run &run) {
    if (!c.copy.converts()) {
        return for_each_row(c, run.source, run.cache, run.rows, 1, 1,
                            [&](const std::byte *row, const CacheRow &target, std::int64_t i) {
                                store_rotated<Processor, NonTemporal>(c, rotator, problem.element_bytes, row,
                                                                      run.rotation + i, target.codes);
                            });
    }
    const RowConverter<Processor, RowRotator<Processor>> converter(c, problem.element_type, run.rows, NonTemporal,
                                                                   rotator);
    for_each_row(c, run.source, run.cache, run.rows, 1, 1,
                 [&](const std::byte *row, const CacheRow &target, std::int64_t i) {
                     converter.convert(row, target, run.rotation + i);
                 });
}

// ---- calls ----

template <class Processor, bool NonTemporal>
void rotate_append(const Problem &problem, const kvappend_args &args, const Part &part) {
    const Conversion k =
        conversion_of<Processor>(problem.k, args.k_new, args.k_cache, args.k_scales, args.k_global_scale);
    const Conversion v =
        conversion_of<Processor>(problem.v, args.v_new, args.v_cache, args.v_scales, args.v_global_scale);
    const Indices indices = indices_of(problem.buffers, args);
    const RowRotator<Processor> rotator(problem.k.rotation, tables_of(problem.k.rotation, args), problem.element_type);
    for_each_run(Rule<>{problem.addressing, indices}, part.rows, [&](const Run &run) {
        rotate_run<Processor, NonTemporal>(k, problem, rotator, run);
        if (!v.copy.empty()) {
            convert_run<Processor, NonTemporal>(v, problem.element_type, run.source, run.cache, run.rows);
        }
    });
    if constexpr (NonTemporal) {
        Processor::finish_non_temporal();
    }
}

} // namespace kvappend
