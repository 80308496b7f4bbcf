// SPDX-License-Identifier: Apache-2.0
// An append that rotates the rows of K and of Q, and stores them as they are or in another format. Like convert.hpp,
// this file has only templates over a Processor.
#pragma once

#include "../rotary.hpp"
#include "convert.hpp"

namespace kvappend {

// ---- loops over adjacent pairs, which compilers vectorise ----

// They round their results to elements of F32. That changes NaN alone, and types of 16 bits know one NaN only.

// The first and the second elements of pairs lie apart.
template <class Processor>
[[gnu::flatten, gnu::noinline]] void rotate_apart(const std::byte *firsts, const std::byte *seconds,
                                                  const std::byte *cos, const std::byte *sin, std::int64_t count,
                                                  std::byte *first_y, std::byte *second_y) {
    for (std::int64_t i = 0; i < count; ++i) {
        const auto first = load<float>(firsts, i);
        const auto second = load<float>(seconds, i);
        store(first_y, i, F32::encode(rotated_first(first, second, load<float>(cos, i), load<float>(sin, i))));
        store(second_y, i, F32::encode(rotated_second(first, second, load<float>(cos, i), load<float>(sin, i))));
    }
}

// The elements of each pair are adjacent.
template <class Processor>
[[gnu::flatten, gnu::noinline]] void rotate_adjacent(const std::byte *x, const std::byte *cos, const std::byte *sin,
                                                     std::int64_t pairs, std::byte *y) {
    for (std::int64_t i = 0; i < pairs; ++i) {
        const auto first = load<float>(x, 2 * i);
        const auto second = load<float>(x, 2 * i + 1);
        store(y, 2 * i, F32::encode(rotated_first(first, second, load<float>(cos, i), load<float>(sin, i))));
        store(y, 2 * i + 1, F32::encode(rotated_second(first, second, load<float>(cos, i), load<float>(sin, i))));
    }
}

// ---- rows ----

// Reads elements of a row of K or of Q and rotates them: they become elements again, so that what stores them is the
// same as without a rotation.
template <class Processor>
class RowRotator {
public:
    // The most pairs that one call of rotate() takes.
    static constexpr std::int64_t most_pairs = chunk_elements / 2;
    // Of chunk_elements elements.
    static constexpr std::size_t buffer_bytes = chunk_elements * sizeof(float);

    RowRotator(const Rotation &rotation, const RotaryTables &tables, std::int32_t element_type)
        : r_(&rotation), tables_(tables), element_type_(element_type),
          element_bytes_(element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2) {
        with_element_type(element_type, [&](auto element) { encode_ = encode<Processor, decltype(element)>; });
    }

    const Rotation &rotation() const { return *r_; }
    std::int64_t element_bytes() const { return element_bytes_; }

    // Rotates pairs of a row, at most most_pairs, from number `pair` on. The first elements go to `firsts`, and the
    // second ones to `seconds`. INTERLEAVED: all go to `firsts`.
    void rotate(const std::byte *row, std::int64_t position, std::int64_t pair, std::int64_t pairs, std::byte *firsts,
                std::byte *seconds) const {
        float x[2 * most_pairs];
        std::byte y[2 * most_pairs * sizeof(float)];
        float cos_numbers[most_pairs];
        float sin_numbers[most_pairs];
        const std::byte *const cos = entries(tables_.cos, position, pair, pairs, cos_numbers);
        const std::byte *const sin = entries(tables_.sin, position, pair, pairs, sin_numbers);
        const bool rounds = element_type_ != KVAPPEND_ELEMENT_F32;
        std::byte *const first_y = rounds ? y : firsts;
        std::byte *const second_y = rounds ? y + most_pairs * sizeof(float) : seconds;
        const std::int64_t first = r_->first + (r_->interleaved ? 2 * pair : pair);
        if (r_->interleaved) {
            rotate_adjacent<Processor>(numbers(row, first, 2 * pairs, x), cos, sin, pairs, first_y);
        } else {
            rotate_apart<Processor>(numbers(row, first, pairs, x),
                                    numbers(row, first + r_->dim / 2, pairs, x + most_pairs), cos, sin, pairs, first_y,
                                    second_y);
        }
        if (rounds) {
            round(first_y, r_->interleaved ? 2 * pairs : pairs, firsts);
        }
        if (rounds && !r_->interleaved) {
            round(second_y, pairs, seconds);
        }
    }

    // The elements from `byte` of a row on, at most chunk_elements. They lie in the buffer.
    const std::byte *elements(const std::byte *row, std::int64_t position, std::int64_t byte, std::int64_t count,
                              std::byte *buffer) const {
        std::memcpy(buffer, row + byte, static_cast<std::size_t>(count * element_bytes_));
        const std::int64_t first = byte / element_bytes_ - r_->first; // counted from the first rotated element
        const std::int64_t begin = std::max<std::int64_t>(first, 0);
        const std::int64_t end = std::min(first + count, r_->dim);
        const std::int64_t half = r_->dim / 2;
        const auto at = [&](std::int64_t i) { return buffer + (i - first) * element_bytes_; };
        if (begin == 0 && end == r_->dim) {
            rotate(row, position, 0, half, at(0), at(half));
            return buffer;
        }
        // A part of a long row may have one element of a pair without the other.
        for (std::int64_t i = begin; i < end;) {
            const bool is_first = i < half;
            const std::int64_t pair = r_->interleaved ? i / 2 : is_first ? i : i - half;
            const std::int64_t skipped = r_->interleaved ? i % 2 : 0; // elements of the first pair
            const std::int64_t most = r_->interleaved ? 2 * most_pairs - skipped : most_pairs;
            const std::int64_t n = std::min({most, end - i, !r_->interleaved && is_first ? half - i : end - i});
            std::byte firsts[buffer_bytes];
            std::byte seconds[buffer_bytes / 2];
            rotate(row, position, pair, r_->interleaved ? (skipped + n + 1) / 2 : n, firsts, seconds);
            const std::byte *const from = r_->interleaved ? firsts + skipped * element_bytes_
                                          : is_first      ? firsts
                                                          : seconds;
            std::memcpy(at(i), from, static_cast<std::size_t>(n * element_bytes_));
            i += n;
        }
        return buffer;
    }

private:
    const std::byte *numbers(const std::byte *row, std::int64_t first, std::int64_t count, float *x) const {
        return widened<Processor>(element_type_, row + first * element_bytes_, count, x);
    }
    const std::byte *entries(const std::byte *table, std::int64_t position, std::int64_t pair, std::int64_t count,
                             float *x) const {
        return widened<Processor>(r_->table_type, table + r_->table_byte(position, pair), count, x);
    }

    void round(const std::byte *y, std::int64_t count, std::byte *to) const {
        Factors factors; // The types of elements have no scales, so this one is not read.
        encode_(y, count, factors, 0, to, block_elements * element_bytes_);
    }

    const Rotation *r_;
    RotaryTables tables_;
    std::int32_t element_type_;
    std::int64_t element_bytes_;
    Encode encode_ = nullptr;
};

// Stores a rotated row as it is. If the row lies at `to`, it is rotated in place: both elements of a pair are read
// before one of them is stored.
template <class Processor, bool NonTemporal>
inline void store_rotated(const Conversion &c, const RowRotator<Processor> &rotator, const std::byte *row,
                          std::int64_t position, std::byte *to) {
    const Tensor &cache = c.copy.cache;
    const Rotation &r = rotator.rotation();
    const std::int64_t element_bytes = rotator.element_bytes();
    const auto put = [&](const std::byte *from, std::int64_t element, std::int64_t count) {
        const std::int64_t byte = element * element_bytes;
        const std::int64_t bytes = count * element_bytes;
        if (!cache.whole_rows()) {
            store_pieces<Processor>(from, byte, bytes, cache.piece_bytes, cache.piece_stride, to);
        } else if (NonTemporal) {
            Processor::copy_non_temporal(to + byte, from, static_cast<std::size_t>(bytes));
        } else {
            std::memmove(to + byte, from, static_cast<std::size_t>(bytes));
        }
    };
    constexpr std::int64_t most_pairs = RowRotator<Processor>::most_pairs;
    std::byte firsts[RowRotator<Processor>::buffer_bytes];
    std::byte seconds[RowRotator<Processor>::buffer_bytes / 2];
    const std::int64_t half = r.dim / 2;
    for (std::int64_t pair = 0; pair < half; pair += most_pairs) {
        const std::int64_t pairs = std::min(most_pairs, half - pair);
        rotator.rotate(row, position, pair, pairs, firsts, seconds);
        if (r.interleaved) {
            put(firsts, r.first + 2 * pair, 2 * pairs);
        } else {
            put(firsts, r.first + pair, pairs);
            put(seconds, r.first + half + pair, pairs);
        }
    }
    const std::int64_t end = r.first + r.dim;
    const std::int64_t dim = c.copy.row_bytes() / element_bytes;
    if (row != to && r.first > 0) {
        put(row, 0, r.first);
    }
    if (row != to && end < dim) {
        put(row + end * element_bytes, end, dim - end);
    }
}

template <class Processor, bool NonTemporal>
inline void rotate_run(const Conversion &c, std::int32_t element_type, const RowRotator<Processor> &rotator,
                       const Run &run, RowIndex to) {
    if (!c.copy.converts()) {
        return for_each_row(c, run.source, to, run.rows, 1, 1,
                            [&](const std::byte *row, const CacheRow &target, std::int64_t i) {
                                store_rotated<Processor, NonTemporal>(c, rotator, row, run.rotation + i, target.codes);
                            });
    }
    const RowConverter<Processor, RowRotator<Processor>> converter(c, element_type, run.rows, NonTemporal, rotator);
    for_each_row(c, run.source, to, run.rows, 1, 1, [&](const std::byte *row, const CacheRow &target, std::int64_t i) {
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
    const Conversion q =
        conversion_of<Processor>(problem.q, args.q, args.q_out, const_cast<void *>(args.q_scales), nullptr);
    const Indices indices = indices_of(problem.buffers, args);
    const RotaryTables tables = tables_of(problem.k.rotation, args);
    const std::int32_t type = problem.element_type;
    const RowRotator<Processor> k_rotator(problem.k.rotation, tables, type);
    const RowRotator<Processor> q_rotator(problem.q.rotation, tables, type);
    for_each_run(Rule<>{problem.addressing, indices}, part.rows, [&](const Run &run) {
        if (problem.has_query()) {
            rotate_run<Processor, NonTemporal>(q, type, q_rotator, run, run.source);
        }
        if (run.replaced) {
            return;
        }
        rotate_run<Processor, NonTemporal>(k, type, k_rotator, run, run.cache);
        if (!v.copy.empty()) {
            convert_run<Processor, NonTemporal>(v, type, run.source, run.cache, run.rows);
        }
    });
    if constexpr (NonTemporal) {
        Processor::finish_non_temporal();
    }
}

} // namespace kvappend
