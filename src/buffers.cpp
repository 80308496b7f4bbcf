// SPDX-License-Identifier: Apache-2.0
#include "buffers.hpp"

#include <cinttypes>

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

bool are_both_caches(BufferName a, BufferName b) {
    return (a == BufferName::k_cache && b == BufferName::v_cache) ||
           (a == BufferName::v_cache && b == BufferName::k_cache);
}

// What is wrong with a buffer by itself.
Status explain(const NeededBuffer &needed, const GivenBuffer &buffer) {
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

Status explain(const NeededBuffer &a, const Range &range_of_a, const NeededBuffer &b, const Range &range_of_b) {
    return fail(KVAPPEND_ERROR_ALIAS,
                "args.%s [0x%" PRIxPTR ", 0x%" PRIxPTR ") and args.%s [0x%" PRIxPTR ", 0x%" PRIxPTR
                ") share memory: expected buffers apart from each other",
                text(a.name), range_of_a.begin, range_of_a.end, text(b.name), range_of_b.begin, range_of_b.end);
}

} // namespace

const char *text(BufferName name) {
    static constexpr std::array<const char *, buffer_count> names = {
        "k_new",   "v_new",     "k_cache",     "v_cache",    "cache_offsets", "slots",
        "lengths", "left_pads", "batch_index", "page_table", "page_indptr",   "report"};
    return names[static_cast<std::size_t>(name)];
}

Status NeededBuffers::check(const kvappend_args &args) const {
    std::array<Range, buffer_count> ranges;
    for (std::size_t i = 0; i < count_; ++i) {
        const NeededBuffer &needed = buffers_[i];
        const GivenBuffer buffer = given(args, needed.name);
        const Range range = range_of(buffer.pointer, needed.bytes);
        // A size of 0 is unknown, and less one it is the largest of all.
        const bool fits = buffer.bytes - 1 >= static_cast<std::size_t>(needed.bytes) - 1 && range.begin < range.end;
        if (range.begin == 0 || (range.begin & (needed.alignment - 1)) != 0 || !fits) {
            return explain(needed, buffer);
        }
        ranges[i] = range;
    }
    for (std::size_t w = 0; w < count_; ++w) {
        for (std::size_t other = 0; buffers_[w].written && other < count_; ++other) {
            if (meet(ranges[w], ranges[other]) && w != other &&
                !are_both_caches(buffers_[w].name, buffers_[other].name)) {
                return explain(buffers_[other], ranges[other], buffers_[w], ranges[w]);
            }
        }
    }
    return KVAPPEND_SUCCESS;
}

} // namespace kvappend
