// SPDX-License-Identifier: Apache-2.0
// How the bytes of a move are copied. This file has only templates over a Copier, so that each instance is compiled for
// the processors that support its Copier.
//
// A Copier is one way of copying bytes. Copier::choose<NonTemporal>(bytes, use) calls use(copy), where copy(to, from)
// is the best copy of that number of adjacent bytes: with non-temporal stores, which bypass the processor's caches, or
// without. Copier::choose_both<NonTemporal>(bytes, use) calls use(copy), where copy(k_to, k_from, v_to, v_from) copies
// that number of bytes of K and of V. Copier::finish<NonTemporal>() is called after the last copy of a range of rows.
#pragma once

#include "move.hpp"

#include <cstring>

namespace kvappend {

// Calls copy(to, from) for each head of a row. The strides are read before the first call, because a compiler must
// assume that a copy may change them.
template <class CopySpan>
inline void for_each_head(const Move &move, Span span, CopySpan copy) {
    const std::int64_t source_stride = move.source.strides.head;
    const std::int64_t target_stride = move.target.strides.head;
    for (std::int64_t heads = move.heads; heads > 0; --heads) {
        copy(span.to, span.from);
        span.from += source_stride;
        span.to += target_stride;
    }
}

// Calls copy(k_to, k_from, v_to, v_from) for each head of a row of K and of V, which have the same number of heads.
template <class CopyBoth>
inline void for_each_head(const Move &k, const Move &v, Span k_span, Span v_span, CopyBoth copy) {
    const std::int64_t k_source_stride = k.source.strides.head;
    const std::int64_t k_target_stride = k.target.strides.head;
    const std::int64_t v_source_stride = v.source.strides.head;
    const std::int64_t v_target_stride = v.target.strides.head;
    for (std::int64_t heads = k.heads; heads > 0; --heads) {
        copy(k_span.to, k_span.from, v_span.to, v_span.from);
        k_span.from += k_source_stride;
        k_span.to += k_target_stride;
        v_span.from += v_source_stride;
        v_span.to += v_target_stride;
    }
}

// Calls copy(to, from) for each span of a run of rows.
template <class CopySpan>
inline void for_each_span(const Move &move, Span span, std::int64_t rows, CopySpan copy) {
    const std::int64_t count = move.adjacent_rows ? 1 : rows;
    for (std::int64_t row = 0; row < count; ++row) {
        for_each_head(move, span, copy);
        span.from += move.source.strides.row;
        span.to += move.target.strides.row;
    }
}

// ---- rows in pieces ----

// The size is known at compile time, so that a compiler copies a piece by one load and one store.
template <class Copier, std::size_t Bytes>
void copy_pieces(PieceStrides strides, Span span, std::int64_t row_bytes) {
    for (std::int64_t at = 0; at < row_bytes; at += static_cast<std::int64_t>(Bytes)) {
        std::memcpy(span.to, span.from, Bytes);
        span.from += strides.source;
        span.to += strides.target;
    }
}

template <class Copier>
void copy_row_in_pieces(PieceStrides strides, Span span, std::int64_t row_bytes) {
    switch (strides.bytes) {
    case 1:
        return copy_pieces<Copier, 1>(strides, span, row_bytes);
    case 2:
        return copy_pieces<Copier, 2>(strides, span, row_bytes);
    case 4:
        return copy_pieces<Copier, 4>(strides, span, row_bytes);
    case 8:
        return copy_pieces<Copier, 8>(strides, span, row_bytes);
    case 16:
        return copy_pieces<Copier, 16>(strides, span, row_bytes);
    default:
        for (std::int64_t at = 0; at < row_bytes; at += strides.bytes) {
            std::memcpy(span.to, span.from, static_cast<std::size_t>(strides.bytes));
            span.from += strides.source;
            span.to += strides.target;
        }
    }
}

// The inner loop goes over rows, because the pieces of neighbouring rows share cache lines.
template <class Copier>
void copy_rows_in_pieces(const Move &move, Span span, std::int64_t rows) {
    const PieceStrides strides(move);
    for_each_head(move, span, [&](std::byte *to, const std::byte *from) {
        for (std::int64_t row = 0; row < rows; ++row) {
            copy_row_in_pieces<Copier>(
                strides, {from + row * move.source.strides.row, to + row * move.target.strides.row}, move.row_bytes());
        }
    });
}

// ---- the rows of K and V ----

// Chooses the copies of K and of V for each row. A loop for each pair of copies would need more registers than there
// are.
template <class Copier, bool NonTemporal>
[[gnu::noinline]] void copy_unlike(std::byte *k_to, const std::byte *k_from, std::size_t k_bytes, std::byte *v_to,
                                   const std::byte *v_from, std::size_t v_bytes) {
    Copier::template choose<NonTemporal>(k_bytes, [&](auto copy) { copy(k_to, k_from); });
    Copier::template choose<NonTemporal>(v_bytes, [&](auto copy) { copy(v_to, v_from); });
}

// Chooses the copy of a row of K and of one of V, which are paired.
template <class Copier, bool NonTemporal, class Use>
inline void choose_for_rows(const Moves &moves, Use use) {
    const std::size_t k_bytes = moves.k.span_bytes(1);
    const std::size_t v_bytes = moves.v.span_bytes(1);
    if (k_bytes == v_bytes) {
        Copier::template choose_both<NonTemporal>(k_bytes, use);
    } else {
        use([k_bytes, v_bytes](std::byte *k_to, const std::byte *k_from, std::byte *v_to, const std::byte *v_from) {
            copy_unlike<Copier, NonTemporal>(k_to, k_from, k_bytes, v_to, v_from, v_bytes);
        });
    }
}

// A row of K and one of V, which are paired.
template <class Copier, bool NonTemporal>
inline void copy_row(const Moves &moves, RowIndex from, RowIndex to) {
    const Span k = moves.k.span(from, to);
    const Span v = moves.v.span(from, to);
    choose_for_rows<Copier, NonTemporal>(moves, [&](auto copy) { for_each_head(moves.k, moves.v, k, v, copy); });
}

template <class Copier, bool NonTemporal>
void copy_run(const Move &move, RowIndex from, RowIndex to, std::int64_t rows) {
    if (move.empty()) {
        return;
    }
    const Span span = move.span(from, to);
    if (!move.whole_rows()) {
        copy_rows_in_pieces<Copier>(move, span, rows);
        return;
    }
    Copier::template choose<NonTemporal>(move.span_bytes(rows),
                                         [&](auto copy) { for_each_span(move, span, rows, copy); });
}

// A run of rows that follow each other in both tensors. The moves are passed by value: if their address were taken, the
// search for runs would have to load them from the stack.
template <class Copier, bool NonTemporal>
[[gnu::noinline]] void copy_run(Moves moves, RowIndex from, RowIndex to, std::int64_t rows) {
    const Move &k = moves.k;
    const Move &v = moves.v;
    if (moves.alike() && k.adjacent_rows && v.adjacent_rows) {
        Copier::template choose_both<NonTemporal>(
            k.span_bytes(rows), [&](auto copy) { for_each_head(k, v, k.span(from, to), v.span(from, to), copy); });
        return;
    }
    // Copies all rows of K, then all rows of V. In the cache, writing to all heads of both at once takes 50 % longer.
    copy_run<Copier, NonTemporal>(k, from, to, rows);
    copy_run<Copier, NonTemporal>(v, from, to, rows);
}

} // namespace kvappend
