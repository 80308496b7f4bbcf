// SPDX-License-Identifier: Apache-2.0
#include "buffers.hpp"

#include <algorithm>
#include <cinttypes>
#include <new>

namespace kvappend {

namespace {

// The memory from a buffer's first to its last element.
struct Range {
    std::uintptr_t begin;
    std::uintptr_t end;
};

Range range_of(const void *pointer, std::int64_t bytes) {
    const auto begin = reinterpret_cast<std::uintptr_t>(pointer);
    return {begin, begin + static_cast<std::uintptr_t>(bytes)};
}

bool meet(const Range &a, const Range &b) {
    return a.begin < b.end && b.begin < a.end;
}

// Whether a buffer is given, aligned and large enough.
bool fits(const NeededBuffer &needed, const GivenBuffer &buffer, Range &range) {
    range = range_of(buffer.pointer, needed.bytes);
    // A size of 0 means unknown; 0 - 1 is the greatest size, which passes. The second comparison finds both NULL and an
    // end beyond the greatest address.
    return buffer.bytes - 1 >= static_cast<std::size_t>(needed.bytes) - 1 &&
           range.begin - 1 < ~static_cast<std::uintptr_t>(needed.bytes) && (range.begin & (needed.alignment - 1)) == 0;
}

// The error of a buffer that does not fit.
Status misfit_error(const NeededBuffer &needed, const GivenBuffer &buffer) {
    const char *const name = text(needed.name);
    if (buffer.pointer == nullptr) {
        return fail(KVAPPEND_ERROR_NULL_BUFFER, "args.%s is NULL: expected a buffer of %" PRId64 " bytes", name,
                    needed.bytes);
    }
    if (reinterpret_cast<std::uintptr_t>(buffer.pointer) % needed.alignment != 0) {
        return fail(KVAPPEND_ERROR_MISALIGNED, "args.%s is %p: expected an address that is a multiple of %" PRIu32,
                    name, buffer.pointer, needed.alignment);
    }
    if (buffer.bytes != 0 && buffer.bytes < static_cast<std::size_t>(needed.bytes)) {
        return fail(KVAPPEND_ERROR_BUFFER_TOO_SMALL,
                    "args.%s_bytes is %zu: expected at least %" PRId64 ", or 0 where the size is unknown", name,
                    buffer.bytes, needed.bytes);
    }
    return fail(KVAPPEND_ERROR_BUFFER_TOO_SMALL,
                "args.%s is %p: expected an address with %" PRId64 " bytes before the end of the address space", name,
                buffer.pointer, needed.bytes);
}

Status alias_error(const NeededBuffer &a, const Range &range_of_a, const NeededBuffer &b, const Range &range_of_b,
                   Reach reach) {
    return fail(KVAPPEND_ERROR_ALIAS,
                "args.%s [0x%" PRIxPTR ", 0x%" PRIxPTR ") and args.%s [0x%" PRIxPTR ", 0x%" PRIxPTR ")%s", text(a.name),
                range_of_a.begin, range_of_a.end, text(b.name), range_of_b.begin, range_of_b.end,
                reach == Reach::yes ? " share memory: expected buffers apart from each other"
                                    : ": their strides are too irregular to tell whether they share memory; expected "
                                      "buffers apart from each other");
}

Status targets_error(BufferName k, BufferName v, const kvappend_args &args, Reach reach) {
    return fail(KVAPPEND_ERROR_OVERLAP, "args.%s is %p and args.%s is %p: %s; expected tensors that share no element",
                text(k), given(args, k).pointer, text(v), given(args, v).pointer,
                reach == Reach::yes ? "a row of one shares memory with a row of the other"
                                    : "their strides are too irregular to tell whether they share memory");
}

} // namespace

const char *text(BufferName name) {
    static constexpr std::array<const char *, buffer_count> names = {
        "k_new",      "v_new",       "k_cache",        "v_cache",         "cache_offsets",
        "slots",      "from_slots",  "lengths",        "left_pads",       "batch_index",
        "page_table", "page_indptr", "token_samples",  "token_positions", "token_count",
        "k_scales",   "v_scales",    "k_global_scale", "v_global_scale",  "report",
        "k_out",      "v_out",       "rotary_cos",     "rotary_sin",      "positions",
        "q",          "q_out",       "q_scales"};
    return names[static_cast<std::size_t>(name)];
}

void NeededBuffers::add(const NeededBuffer &buffer) {
    if (buffer.bytes <= 0) {
        return;
    }
    const bool is_target = buffer.use == BufferUse::target;
    const bool is_written = buffer.use != BufferUse::read;
    const std::size_t before = is_target ? targets_ : is_written ? written_ : count_;
    const auto place = buffers_.begin() + before;
    std::copy_backward(place, buffers_.begin() + count_, buffers_.begin() + count_ + 1);
    *place = buffer;
    ++count_;
    written_ += std::size_t{is_written};
    targets_ += std::size_t{is_target};
    used_ |= 1U << static_cast<unsigned>(buffer.name);
}

Status NeededBuffers::make_room(std::size_t interleavings) {
    pairs_.reset(new (std::nothrow) Pair[interleavings]);
    return pairs_ != nullptr ? KVAPPEND_SUCCESS
                             : fail(KVAPPEND_ERROR_OUT_OF_MEMORY,
                                    "plan: there is no memory for the layouts of its buffers, which take %zu bytes",
                                    interleavings * sizeof(Pair));
}

void NeededBuffers::add_interleaving(BufferName a, BufferName b, const Interleaving &interleaving) {
    pairs_[pair_count_++] = {a, b, interleaving};
}

Status NeededBuffers::check(const kvappend_args &args) const {
    const NeededBuffer *needed = buffers_.data();
    const NeededBuffer *const targets_end = needed + targets_;
    const NeededBuffer *const end = needed + count_;
    Range targets[2] = {{0, 0}, {0, 0}}; // An empty range meets no other.
    for (Range *target = targets; needed != targets_end; ++needed, ++target) {
        if (!fits(*needed, given(args, needed->name), *target)) {
            return misfit_error(*needed, given(args, needed->name));
        }
    }
    const Range k = targets[0];
    const Range v = targets[1];
    // Most runs write nothing but the targets.
    bool may_share = written_ > targets_;
    for (; needed != end; ++needed) {
        Range range;
        if (!fits(*needed, given(args, needed->name), range)) {
            return misfit_error(*needed, given(args, needed->name));
        }
        may_share |= meet(range, k) || meet(range, v);
    }
    if (may_share) {
        TRY(check_apart(args));
    }
    const BufferName k_name = buffers_[0].name;
    const BufferName v_name = buffers_[1].name;
    const Reach reach = meet(k, v) ? share(k_name, v_name, args) : Reach::no;
    return reach == Reach::no ? KVAPPEND_SUCCESS : targets_error(k_name, v_name, args, reach);
}

Reach NeededBuffers::share(BufferName a, BufferName b, const kvappend_args &args) const {
    if (in_place_ && std::min(a, b) == BufferName::q && std::max(a, b) == BufferName::q_out && args.q == args.q_out) {
        return Reach::no;
    }
    const Pair *const begin_pairs = pairs_.get();
    const Pair *const end = begin_pairs + pair_count_;
    const Pair *const pair =
        std::find_if(begin_pairs, end, [=](const Pair &p) { return (p.a == a && p.b == b) || (p.a == b && p.b == a); });
    const auto begin = [&](BufferName name) { return reinterpret_cast<std::uintptr_t>(given(args, name).pointer); };
    return pair == end ? Reach::yes
                       : pair->interleaving.overlap(static_cast<std::int64_t>(begin(pair->b) - begin(pair->a)));
}

Status NeededBuffers::check_apart(const kvappend_args &args) const {
    const auto range_at = [&](std::size_t i) {
        return range_of(given(args, buffers_[i].name).pointer, buffers_[i].bytes);
    };
    for (std::size_t w = 0; w < written_; ++w) {
        for (std::size_t other = std::max(w + 1, targets_); other < count_; ++other) {
            if (!meet(range_at(w), range_at(other))) {
                continue;
            }
            const Reach reach = share(buffers_[other].name, buffers_[w].name, args);
            if (reach != Reach::no) {
                return alias_error(buffers_[other], range_at(other), buffers_[w], range_at(w), reach);
            }
        }
    }
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
