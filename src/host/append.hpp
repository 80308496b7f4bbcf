// SPDX-License-Identifier: Apache-2.0
// The appends of the host over each way of moving bytes that it has: templates alone, so that each is compiled for the
// processors that have that way. Moves::choose<far>(bytes, use) calls use(copy), where copy(to, from) is the best way
// to copy so many adjacent bytes, past the processor's caches if far; Moves::choose_both<far>(bytes, use) does so for
// copy(k_to, k_from, v_to, v_from); Moves::finish<far>() ends an append.
#pragma once

#include "run.hpp"

#include <cstring>

namespace kvappend {

// Bytes that are adjacent in a run: a row of a head, or all rows of a head.
inline std::size_t stripe_bytes(const TensorCopy &copy, std::int64_t rows) {
    return static_cast<std::size_t>((copy.adjacent_rows ? rows : 1) * copy.row_bytes);
}

// Whether the source has the heads of a row together.
inline bool by_row(const TensorCopy &copy) {
    return copy.heads == 1 || copy.from.head < copy.from.row;
}

// Calls one(to, from) for each stripe.
template <class Copy>
inline void for_each_stripe(const TensorCopy &copy, const std::byte *from, std::byte *to, std::int64_t rows, Copy one) {
    const std::int64_t count = copy.adjacent_rows ? 1 : rows;
    // The source is read in the order in which it lies: writes to many places cost less than such reads.
    const bool rows_first = count == 1 || by_row(copy);
    const std::int64_t outer = rows_first ? count : copy.heads;
    const std::int64_t outer_from = rows_first ? copy.from.row : copy.from.head;
    const std::int64_t outer_to = rows_first ? copy.to.row : copy.to.head;
    const std::int64_t inner = rows_first ? copy.heads : count;
    const std::int64_t inner_from = rows_first ? copy.from.head : copy.from.row;
    const std::int64_t inner_to = rows_first ? copy.to.head : copy.to.row;
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
void copy_pieces(const TensorCopy &copy, const std::byte *from, std::byte *to) {
    const std::int64_t stride = copy.piece_stride;
    for (const std::byte *const end = from + copy.row_bytes; from < end; from += Bytes, to += stride) {
        std::memcpy(to, from, Bytes);
    }
}

template <class Moves>
void copy_row_in_pieces(const TensorCopy &copy, const std::byte *from, std::byte *to) {
    switch (copy.piece_bytes) {
    case 2:
        return copy_pieces<Moves, 2>(copy, from, to);
    case 4:
        return copy_pieces<Moves, 4>(copy, from, to);
    case 8:
        return copy_pieces<Moves, 8>(copy, from, to);
    case 16:
        return copy_pieces<Moves, 16>(copy, from, to);
    default:
        for (std::int64_t at = 0; at < copy.row_bytes; at += copy.piece_bytes, to += copy.piece_stride) {
            std::memcpy(to, from + at, static_cast<std::size_t>(copy.piece_bytes));
        }
    }
}

template <class Moves, bool Far>
void copy_tensor(const TensorCopy &copy, const void *source, void *cache, const Run &run) {
    if (copy.empty()) {
        return;
    }
    const std::byte *from = source_of(copy, source, run);
    std::byte *to = target_of(copy, cache, run);
    if (copy.whole_rows()) {
        Moves::template choose<Far>(stripe_bytes(copy, run.rows),
                                    [&](auto one) { for_each_stripe(copy, from, to, run.rows, one); });
        return;
    }
    // Row inside head: the pieces of neighbouring rows share lines of the processor's caches.
    for (std::int64_t head = 0; head < copy.heads; ++head, from += copy.from.head, to += copy.to.head) {
        for (std::int64_t row = 0; row < run.rows; ++row) {
            copy_row_in_pieces<Moves>(copy, from + row * copy.from.row, to + row * copy.to.row);
        }
    }
}

// A copy of a stripe of K and of one of V.
template <class Copy>
inline auto one_by_one(Copy one) {
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
inline void choose_both(const TensorCopy &k, const TensorCopy &v, std::int64_t rows, Use use) {
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
inline void for_each_head(const TensorCopy &k, const TensorCopy &v, std::byte *k_to, const std::byte *k_from,
                          std::byte *v_to, const std::byte *v_from, Both both) {
    const std::int64_t k_to_next = k.to.head;
    const std::int64_t k_from_next = k.from.head;
    const std::int64_t v_to_next = v.to.head;
    const std::int64_t v_from_next = v.from.head;
    for (std::int64_t heads = k.heads; heads > 0; --heads) {
        both(k_to, k_from, v_to, v_from);
        k_to += k_to_next;
        k_from += k_from_next;
        v_to += v_to_next;
        v_from += v_from_next;
    }
}

template <class Moves, bool Far>
void copy_run(const Problem &problem, const kvappend_args &args, const Run &run) {
    const TensorCopy &k = problem.k;
    const TensorCopy &v = problem.v;
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
                k_from += k.from.row;
                v_from += v.from.row;
                k_to += k.to.row;
                v_to += v.to.row;
            }
        });
        return;
    }
    copy_tensor<Moves, Far>(problem.k, args.k_new, args.k_cache, run);
    copy_tensor<Moves, Far>(problem.v, args.v_new, args.v_cache, run);
}

// The sample of a row. Most ranges begin with the first, for which there is nothing to divide.
inline std::int64_t sample_of(std::int64_t row, std::int64_t rows_each) {
    return row == 0 ? 0 : row / rows_each;
}

// The plain dense append: the rows of a sample follow each other.
template <class Visit>
void for_each_dense_run(const Problem &problem, const kvappend_args &args, RowRange range, Visit visit) {
    const std::int64_t new_rows = problem.new_rows;
    const std::int64_t most = rows_at_once(problem, range);
    for (std::int64_t sample = sample_of(range.first, new_rows); sample * new_rows < range.end; ++sample) {
        const std::int64_t offset = wide_index(problem.addressing, args.cache_offsets, sample);
        const Window window = window_of(offset, new_rows, problem.addressing.cache_rows);
        const std::int64_t first = std::max(window.first, range.first - sample * new_rows);
        const std::int64_t end = std::min(window.end, range.end - sample * new_rows);
        for (std::int64_t row = first; row < end; row += most) {
            visit({sample, row, sample, row + offset, std::min(most, end - row)});
        }
    }
}

// The same for a step of decoding, in which each sample has one row.
template <class Moves, bool Far>
void append_step(const Problem &problem, const kvappend_args &args, RowRange range) {
    const TensorCopy &k = problem.k;
    const TensorCopy &v = problem.v;
    choose_both<Moves, Far>(k, v, 1, [&](auto both) {
        const auto rows = static_cast<std::uint64_t>(problem.addressing.cache_rows);
        for (std::int64_t sample = range.first; sample < range.end; ++sample) {
            const std::int64_t offset = wide_index(problem.addressing, args.cache_offsets, sample);
            if (static_cast<std::uint64_t>(offset) < rows) {
                const Run run{sample, 0, sample, offset, 1};
                for_each_head(k, v, target_of(k, args.k_cache, run), source_of(k, args.k_new, run),
                              target_of(v, args.v_cache, run), source_of(v, args.v_new, run), both);
            }
        }
    });
}

template <class Visit>
void runs_of_sample(const Problem &problem, const Indices &indices, std::int64_t source, std::int64_t sample,
                    RowRange range, Visit visit) {
    const Addressing &a = problem.addressing;
    const std::int64_t most = rows_at_once(problem, range);
    const Loaded at = load_sample(a, indices, sample, load_on_host);
    const SampleRows rows = rows_of_sample(a, at);
    const std::int64_t end = std::min(range.end, rows.begin + rows.count);
    std::int64_t row = std::max(range.first, rows.begin);
    while (row < end) {
        const Place place = find_place(a, indices, sample, row, at, load_on_host);
        std::int64_t stretch = std::min(stretch_of(a, rows, place), end - row);
        if (place.found()) {
            stretch = std::min(stretch, most);
            visit({source, row, place.block, place.row, stretch});
        }
        row += stretch;
    }
}

template <class Visit>
void runs_of_slots(const Addressing &a, const Indices &indices, RowRange range, Visit visit) {
    std::int64_t rows = 1;
    for (std::int64_t row = range.first; row < range.end; row += rows, rows = 1) {
        const Place place = find_place(a, indices, 0, row, load_on_host);
        if (!place.found()) {
            continue;
        }
        const std::int64_t most = std::min(range.end - row, a.cache_rows - place.row);
        for (auto slot = static_cast<std::int64_t>(place.position) + 1;
             rows < most && slot != a.reserved_slot && wide_index(a, indices.slots, row + rows) == slot; ++slot) {
            ++rows;
        }
        visit({0, row, place.block, place.row, rows});
    }
}

template <class Visit>
void for_each_run(const Problem &problem, const kvappend_args &args, RowRange range, Visit visit) {
    const Addressing &a = problem.addressing;
    const Indices indices = indices_of(problem.buffers, args);
    if (a.kind == KVAPPEND_ADDRESSING_SLOTS) {
        runs_of_slots(a, indices, range, visit);
        return;
    }
    if (a.lengths == KVAPPEND_LENGTHS_PACKED) {
        const std::int64_t first = find_sample(a, indices, range.first, load_on_host);
        for (std::int64_t sample = std::max<std::int64_t>(first, 0);
             sample < a.batch && load_on_host(indices.lengths + sample) < range.end; ++sample) {
            runs_of_sample(problem, indices, 0, sample, range, visit);
        }
        return;
    }
    for (std::int64_t sample = sample_of(range.first, a.new_rows); sample * a.new_rows < range.end; ++sample) {
        const std::int64_t before = sample * a.new_rows;
        runs_of_sample(problem, indices, sample, sample, {range.first - before, range.end - before}, visit);
    }
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
        const TensorCopy &k = problem_.k;
        const TensorCopy &v = problem_.v;
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

// Flattened, so that all that a loop goes by stays in registers: a load from the stack that needs two stores waits
// until they, and with them all rows before, have reached the processor's caches.
template <class Moves, bool Far>
[[gnu::flatten]] void append_dense(const Problem &problem, const kvappend_args &args, RowRange range) {
    if (problem.new_rows == 1 && paired(problem.k, problem.v)) {
        append_step<Moves, Far>(problem, args, range);
    } else {
        for_each_dense_run(problem, args, range, [&](const Run &run) { copy_run<Moves, Far>(problem, args, run); });
    }
    Moves::template finish<Far>();
}

template <class Moves, bool Far>
[[gnu::flatten]] void append_rows(const Problem &problem, const kvappend_args &args, RowRange range) {
    Batch<Moves, Far> batch(problem, args);
    for_each_run(problem, args, range, [&](const Run &run) { batch.add(run); });
    batch.copy();
    Moves::template finish<Far>();
}

} // namespace kvappend
