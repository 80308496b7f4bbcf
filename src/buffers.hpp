// SPDX-License-Identifier: Apache-2.0
// The buffers of a run: which ones a plan needs, how many bytes of each, and whether the arguments provide them.
#pragma once

#include "overlap.hpp"
#include "status.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

namespace kvappend {

// In the order of kvappend_args, which consists of a pointer and a size for each.
enum class BufferName : std::uint8_t {
    k_new,
    v_new,
    k_cache,
    v_cache,
    cache_offsets,
    slots,
    from_slots,
    lengths,
    left_pads,
    batch_index,
    page_table,
    page_indptr,
    token_samples,
    token_positions,
    token_count,
    k_scales,
    v_scales,
    k_global_scale,
    v_global_scale,
    report,
    k_out,
    v_out,
    rotary_cos,
    rotary_sin,
    positions,
    q,
    q_out,
    q_scales,
};
inline constexpr std::size_t buffer_count = 28;

constexpr bool is_index(BufferName name) {
    return (name >= BufferName::cache_offsets && name <= BufferName::token_count) || name == BufferName::positions;
}

// The name of a buffer as text, such as "page_table".
const char *text(BufferName name);

struct GivenBuffer {
    const void *pointer;
    std::size_t bytes;
};

constexpr std::size_t place_in_args(BufferName name) {
    return offsetof(kvappend_args, k_new) + static_cast<std::size_t>(name) * sizeof(GivenBuffer);
}
static_assert(place_in_args(BufferName::v_cache) == offsetof(kvappend_args, v_cache));
static_assert(place_in_args(BufferName::page_table) == offsetof(kvappend_args, page_table));
static_assert(place_in_args(BufferName::q_scales) + sizeof(GivenBuffer) == sizeof(kvappend_args));

inline GivenBuffer given(const kvappend_args &args, BufferName name) {
    GivenBuffer buffer;
    std::memcpy(&buffer, reinterpret_cast<const std::byte *>(&args) + place_in_args(name), sizeof buffer);
    return buffer;
}

inline void give(kvappend_args &args, BufferName name, const void *pointer) {
    std::memcpy(reinterpret_cast<std::byte *>(&args) + place_in_args(name), &pointer, sizeof pointer);
}

// What a run does with a buffer. Targets are the tensors of K and of V to which a run moves rows.
enum class BufferUse : std::uint8_t {
    read,
    written,
    target
};

struct NeededBuffer {
    BufferName name;
    BufferUse use;
    std::uint32_t alignment; // a power of two
    std::int64_t bytes;      // from the first to the last element; more than 0
};

// The buffers that a plan needs. They are determined once for a plan, so that a run checks no others.
class NeededBuffers {
public:
    // Ignores a buffer of which no byte is needed.
    void add(const NeededBuffer &buffer);
    std::span<const NeededBuffer> all() const { return {buffers_.data(), count_}; }
    bool has(BufferName name) const { return (used_ >> static_cast<unsigned>(name) & 1U) != 0; }

    // Adds two buffers that may be interleaved: they share memory only if an element belongs to both. In every other
    // pair, each buffer counts as the whole range from its first to its last element. There must be room for the pair.
    Status make_room(std::size_t interleavings);
    void add_interleaving(BufferName a, BufferName b, const Interleaving &interleaving);
    // q_out may be q.
    void allow_in_place() { in_place_ = true; }

    // Checks that each buffer is given, aligned and large enough, and that no buffer that is written shares memory with
    // another.
    Status check(const kvappend_args &args) const;

private:
    struct Pair {
        BufferName a;
        BufferName b;
        Interleaving interleaving;
    };

    Status check_apart(const kvappend_args &args) const;
    // Whether two buffers whose ranges meet share memory.
    Reach share(BufferName a, BufferName b, const kvappend_args &args) const;

    std::unique_ptr<Pair[]> pairs_;
    std::size_t pair_count_ = 0;
    // The targets come first, then the other buffers that are written.
    std::array<NeededBuffer, buffer_count> buffers_{};
    std::size_t count_ = 0;
    std::size_t written_ = 0;
    std::size_t targets_ = 0;
    std::uint32_t used_ = 0;
    bool in_place_ = false;
};

} // namespace kvappend
