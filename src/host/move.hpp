// SPDX-License-Identifier: Apache-2.0
// The appends of the host over each way of moving bytes that it has: templates alone, so that each is compiled for the
// processors that have that way. Moves::choose<far>(bytes, use) calls use(copy), where copy(to, from) is the best way
// to copy so many adjacent bytes, past the processor's caches if far; Moves::choose_both<far>(bytes, use) does so for
// copy(k_to, k_from, v_to, v_from); Moves::finish<far>() ends an append.
#pragma once

#include "host.hpp"
#include "runs.hpp"

#include <cstring>

namespace kvappend {

inline const std::byte *source_of(const Copy &copy, const void *source, const Run &run) {
    return static_cast<const std::byte *>(source) + run.sample * copy.rows.strides.outer +
           run.row * copy.rows.strides.row;
}

inline std::byte *target_of(const Copy &copy, void *cache, const Run &run) {
    return static_cast<std::byte *>(cache) + run.block * copy.cache.strides.outer +
           run.cache_row * copy.cache.strides.row;
}

// Rows of K and of V that can be copied in one loop.
inline bool paired(const Copy &k, const Copy &v) {
    return k.heads() == v.heads() && k.cache.whole_rows() && v.cache.whole_rows() && !k.empty() && !v.empty();
}

inline bool alike(const Copy &k, const Copy &v) {
    return paired(k, v) && k.row_bytes() == v.row_bytes();
}

// K and V of a token may lie on one page of memory, as in a fused projection. The page need not be found twice (in the
// TLB) when they are copied soon one after the other.
inline std::int64_t rows_at_once(const Problem &problem, RowRange range) {
    constexpr std::int64_t few = 8;
    const bool runs = problem.k.adjacent_rows && problem.v.adjacent_rows;
    return runs || problem.new_rows <= few ? range.end - range.first : few;
}

// Bytes that are adjacent in a run: a row of a head, or all rows of a head.
inline std::size_t stripe_bytes(const Copy &copy, std::int64_t rows) {
    return static_cast<std::size_t>((copy.adjacent_rows ? rows : 1) * copy.row_bytes());
}

// Whether the source has the heads of a row together.
inline bool by_row(const Copy &copy) {
    return copy.heads() == 1 || copy.rows.strides.head < copy.rows.strides.row;
}

// Calls one(to, from) for each stripe.
template <class CopyOne>
inline void for_each_stripe(const Copy &copy, const std::byte *from, std::byte *to, std::int64_t rows, CopyOne one) {
    const std::int64_t count = copy.adjacent_rows ? 1 : rows;
    // The source is read in the order in which it lies: writes to many places cost less than such reads.
    const bool rows_first = count == 1 || by_row(copy);
    const std::int64_t outer = rows_first ? count : copy.heads();
    const std::int64_t outer_from = rows_first ? copy.rows.strides.row : copy.rows.strides.head;
    const std::int64_t outer_to = rows_first ? copy.cache.strides.row : copy.cache.strides.head;
    const std::int64_t inner = rows_first ? copy.heads() : count;
    const std::int64_t inner_from = rows_first ? copy.rows.strides.head : copy.rows.strides.row;
    const std::int64_t inner_to = rows_first ? copy.cache.strides.head : copy.cache.strides.row;
    for (std::int64_t o = 0; o < outer; ++o, from += outer_from, to += outer_to) {
        const std::byte *source = from;
        std::byte *target = to;
        for (std::int64_t i = 0; i < inner; ++i, source += inner_from, target += inner_to) {
            one(target, source);
        }
    }
}

// A size that the compiler knows makes a piece one move.
template <class Moves, std::size_t Bytes>
void copy_pieces(const Copy &copy, const std::byte *from, std::byte *to) {
    const std::int64_t stride = copy.cache.piece_stride;
    for (const std::byte *const end = from + copy.row_bytes(); from < end; from += Bytes, to += stride) {
        std::memcpy(to, from, Bytes);
    }
}

template <class Moves>
void copy_row_in_pieces(const Copy &copy, const std::byte *from, std::byte *to) {
    switch (copy.cache.piece_bytes) {
    case 2:
        return copy_pieces<Moves, 2>(copy, from, to);
    case 4:
        return copy_pieces<Moves, 4>(copy, from, to);
    case 8:
        return copy_pieces<Moves, 8>(copy, from, to);
    case 16:
        return copy_pieces<Moves, 16>(copy, from, to);
    default:
        for (std::int64_t at = 0; at < copy.row_bytes(); at += copy.cache.piece_bytes, to += copy.cache.piece_stride) {
            std::memcpy(to, from + at, static_cast<std::size_t>(copy.cache.piece_bytes));
        }
    }
}

template <class Moves, bool Far>
void copy_tensor(const Copy &copy, const void *source, void *cache, const Run &run) {
    if (copy.empty()) {
        return;
    }
    const std::byte *from = source_of(copy, source, run);
    std::byte *to = target_of(copy, cache, run);
    if (copy.cache.whole_rows()) {
        Moves::template choose<Far>(stripe_bytes(copy, run.rows),
                                    [&](auto one) { for_each_stripe(copy, from, to, run.rows, one); });
        return;
    }
    // Row inside head: the pieces of neighbouring rows share lines of the processor's caches.
    for (std::int64_t head = 0; head < copy.heads();
         ++head, from += copy.rows.strides.head, to += copy.cache.strides.head) {
        for (std::int64_t row = 0; row < run.rows; ++row) {
            copy_row_in_pieces<Moves>(copy, from + row * copy.rows.strides.row, to + row * copy.cache.strides.row);
        }
    }
}

// A copy of a stripe of K and of one of V.
template <class CopyOne>
inline auto one_by_one(CopyOne one) {
    return [one](std::byte *k_to, const std::byte *k_from, std::byte *v_to, const std::byte *v_from) {
        one(k_to, k_from);
        one(v_to, v_from);
    };
}

// Chosen at each row, which costs less than a loop for each pair of choices: its sizes would not stay in registers.
template <class Moves, bool Far>
[[gnu::noinline]] void copy_unlike(std::byte *k_to, const std::byte *k_from, std::size_t k_bytes, std::byte *v_to,
                                   const std::byte *v_from, std::size_t v_bytes) {
    Moves::template choose<Far>(k_bytes, [&](auto one) { one(k_to, k_from); });
    Moves::template choose<Far>(v_bytes, [&](auto one) { one(v_to, v_from); });
}

template <class Moves, bool Far, class Use>
inline void choose_both(const Copy &k, const Copy &v, std::int64_t rows, Use use) {
    const std::size_t k_bytes = stripe_bytes(k, rows);
    const std::size_t v_bytes = stripe_bytes(v, rows);
    if (k_bytes == v_bytes) {
        Moves::template choose_both<Far>(k_bytes, use);
    } else {
        use([k_bytes, v_bytes](std::byte *k_to, const std::byte *k_from, std::byte *v_to, const std::byte *v_from) {
            copy_unlike<Moves, Far>(k_to, k_from, k_bytes, v_to, v_from, v_bytes);
        });
    }
}

// What it goes by is read before, as the rows might replace it for all that a compiler knows.
template <class Both>
inline void for_each_head(const Copy &k, const Copy &v, std::byte *k_to, const std::byte *k_from, std::byte *v_to,
                          const std::byte *v_from, Both both) {
    const std::int64_t k_to_next = k.cache.strides.head;
    const std::int64_t k_from_next = k.rows.strides.head;
    const std::int64_t v_to_next = v.cache.strides.head;
    const std::int64_t v_from_next = v.rows.strides.head;
    for (std::int64_t heads = k.heads(); heads > 0; --heads) {
        both(k_to, k_from, v_to, v_from);
        k_to += k_to_next;
        k_from += k_from_next;
        v_to += v_to_next;
        v_from += v_from_next;
    }
}

template <class Moves, bool Far>
void copy_run(const Problem &problem, const kvappend_args &args, const Run &run) {
    const Copy &k = problem.k;
    const Copy &v = problem.v;
    // In turns: their places lie far apart, and memory serves both at once. Alike rows that are not adjacent go tensor
    // by tensor: to write so many places at once takes half as long again where they are in the processor's caches.
    const bool stripes = alike(k, v) && (run.rows == 1 || (k.adjacent_rows && v.adjacent_rows));
    const bool unlike_rows = !alike(k, v) && paired(k, v) && run.rows > 1 && by_row(k) && by_row(v);
    if (stripes || unlike_rows) {
        const std::byte *k_from = source_of(k, args.k_new, run);
        const std::byte *v_from = source_of(v, args.v_new, run);
        std::byte *k_to = target_of(k, args.k_cache, run);
        std::byte *v_to = target_of(v, args.v_cache, run);
        const std::int64_t turns = stripes ? 1 : run.rows;
        choose_both<Moves, Far>(k, v, run.rows / turns, [&](auto both) {
            for (std::int64_t turn = 0; turn < turns; ++turn) {
                for_each_head(k, v, k_to, k_from, v_to, v_from, both);
                k_from += k.rows.strides.row;
                v_from += v.rows.strides.row;
                k_to += k.cache.strides.row;
                v_to += v.cache.strides.row;
            }
        });
        return;
    }
    copy_tensor<Moves, Far>(problem.k, args.k_new, args.k_cache, run);
    copy_tensor<Moves, Far>(problem.v, args.v_new, args.v_cache, run);
}

// Runs whose places are found before the first of them is copied: what finds places reads memory, and waits there for
// rows that are not yet written, as their addresses can look alike.
template <class Moves, bool Far>
class Batch {
public:
    Batch(const Problem &problem, const kvappend_args &args)
        : problem_(problem), args_(args), paired_(paired(problem.k, problem.v)) {}

    void add(const Run &run) {
        if (!paired_ || run.rows != 1) {
            copy();
            copy_run<Moves, Far>(problem_, args_, run);
            return;
        }
        runs_[count_++] = run;
        if (count_ == most) {
            copy();
        }
    }

    void copy() {
        const Copy &k = problem_.k;
        const Copy &v = problem_.v;
        if (count_ == 0) {
            return;
        }
        const Run *const end = runs_ + count_;
        count_ = 0;
        choose_both<Moves, Far>(k, v, 1, [&](auto both) {
            for (const Run *run = runs_; run != end; ++run) {
                for_each_head(k, v, target_of(k, args_.k_cache, *run), source_of(k, args_.k_new, *run),
                              target_of(v, args_.v_cache, *run), source_of(v, args_.v_new, *run), both);
            }
        });
    }

private:
    static constexpr std::size_t most = 16;
    const Problem &problem_;
    const kvappend_args &args_;
    const bool paired_;
    std::size_t count_ = 0;
    Run runs_[most];
};

// What the dense kernels know.
inline constexpr Known dense_known{.kind = KVAPPEND_ADDRESSING_DENSE, .plain_samples = true};

// Flattened, so that all that a loop depends on stays in registers. A load from the stack that needs two stores waits
// until they, and with them all rows before, have reached the processor's caches (store forwarding fails).
template <class Moves, bool Far, Known Facts = Known{}>
[[gnu::flatten]] void copy_rows(const Problem &problem, const kvappend_args &args, RowRange range) {
    const Indices indices = indices_of(problem.buffers, args);
    Batch<Moves, Far> batch(problem, args);
    for_each_run(Rule<Facts>{problem.addressing, indices}, range, rows_at_once(problem, range),
                 [&](const Run &run) { batch.add(run); });
    batch.copy();
    Moves::template finish<Far>();
}

} // namespace kvappend
