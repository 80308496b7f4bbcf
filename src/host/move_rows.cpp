// SPDX-License-Identifier: Apache-2.0
// Moves rows within the caches. The rows of a sample are moved one after the other. Each thread moves a part of every
// row. Therefore each byte is moved in order.
#include "../places.hpp"
#include "host.hpp"

#include <cstring>

namespace kvappend {

namespace {

// One of `count` equal parts.
struct Share {
    std::int64_t index;
    std::int64_t count;

    std::int64_t begin_of(std::int64_t all) const { return all / count * index + std::min(index, all % count); }
};

struct Range {
    std::int64_t begin;
    std::int64_t end;
};

// A share of each row. Several heads are divided by head. The only head is divided by piece, if it has several pieces.
// The only piece is divided by byte.
class TensorShare {
public:
    TensorShare(const MovedTensor &tensor, const kvappend_args &args, Share share)
        : tensor_(tensor), base_(static_cast<std::byte *>(const_cast<void *>(given(args, tensor.name).pointer))),
          heads_{0, tensor.heads}, pieces_{0, tensor.row_bytes / tensor.piece_bytes}, bytes_{0, tensor.piece_bytes} {
        Range &divided = heads_.end > 1 ? heads_ : pieces_.end > 1 ? pieces_ : bytes_;
        const std::int64_t all = divided.end;
        divided = {share.begin_of(all), Share{share.index + 1, share.count}.begin_of(all)};
    }

    // Two different rows do not share memory.
    void move(const MovedRow &row) const {
        const std::byte *const from = base_ + tensor_.byte_of(row.from);
        std::byte *const to = base_ + tensor_.byte_of(row.to);
        for (std::int64_t head = heads_.begin; head < heads_.end; ++head) {
            for (std::int64_t piece = pieces_.begin; piece < pieces_.end; ++piece) {
                const std::int64_t at = head * tensor_.strides.head + piece * tensor_.piece_stride + bytes_.begin;
                std::memcpy(to + at, from + at, static_cast<std::size_t>(bytes_.end - bytes_.begin));
            }
        }
    }

private:
    const MovedTensor &tensor_;
    std::byte *base_;
    Range heads_;
    Range pieces_;
    Range bytes_;
};

// Calls visit(row) for each row that is moved to another place, in order.
template <class Visit>
void for_each_moved_row(const Problem &problem, const kvappend_args &args, Visit visit) {
    const Indices indices = indices_of(problem.buffers, args);
    const Rule<Known{.kind = KVAPPEND_ADDRESSING_SLOTS}> rule{problem.addressing, indices};
    for (std::int64_t sample = 0; sample < problem.addressing.samples; ++sample) {
        const SampleRows rows = moves_of_sample(rule, sample, HostLoad{});
        for (std::int64_t row = rows.begin; row < rows.begin + rows.count; ++row) {
            const MovedRow moved = places_of_move(rule, row, HostLoad{});
            const bool stays = moved.from.block == moved.to.block && moved.from.row == moved.to.row;
            if (moved.placed() && !stays) {
                visit(moved);
            }
        }
    }
}

void move_share(const Problem &problem, const kvappend_args &args, Share share) {
    for (const MovedTensor &tensor : problem.moved.all()) {
        const TensorShare part(tensor, args, share);
        for_each_moved_row(problem, args, [&part](const MovedRow &row) { part.move(row); });
    }
}

struct MoveJob {
    const Problem &problem;
    const kvappend_args &args;
    std::int64_t shares;

    static void do_share(const void *job, std::uint32_t share) {
        const MoveJob &j = *static_cast<const MoveJob *>(job);
        move_share(j.problem, j.args, {share, j.shares});
    }
};

} // namespace

void move_all_rows(const HostState &state, const Problem &problem, const kvappend_args &args) {
    if (state.threads != nullptr && problem.bytes >= large_bytes) {
        const MoveJob job{problem, args, std::int64_t{state.threads->helpers()} + 1};
        if (state.threads->share(MoveJob::do_share, &job, static_cast<std::uint32_t>(job.shares))) {
            return;
        }
    }
    move_share(problem, args, {0, 1});
}

} // namespace kvappend
