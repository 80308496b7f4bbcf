// SPDX-License-Identifier: Apache-2.0
// What vLLM's reshape_and_cache and reshape_and_cache_flash do, stated anew here, is what the same call does through
// the header.
#include "held.hpp"
#include "scenario.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <numeric>

namespace {

using std::size_t;

struct Shape {
    std::int64_t heads, dim, block_size, blocks;
    std::int64_t tokens; // of key and value, which may be padded to more than there are slots
    std::int64_t slots;

    std::int64_t row() const { return heads * dim; }
    std::int64_t cache_elements() const { return blocks * block_size * row(); }
};

constexpr Shape shapes[] = {{1, 8, 8, 3, 1, 1},       {8, 128, 16, 4, 5, 5}, {4, 64, 16, 6, 40, 33},
                            {3, 16, 32, 2, 64, 64},   {5, 80, 16, 3, 7, 4},  {2, 256, 8, 9, 16, 9},
                            {12, 24, 16, 20, 96, 96}, {1, 64, 256, 2, 3, 2}};

std::string text(const Shape &shape) {
    return "heads " + std::to_string(shape.heads) + ", dim " + std::to_string(shape.dim) + ", block_size " +
           std::to_string(shape.block_size) + ", blocks " + std::to_string(shape.blocks) + ", tokens " +
           std::to_string(shape.tokens) + ", slots " + std::to_string(shape.slots);
}

// Slots of their own for all tokens but some, and padding behind them.
std::vector<std::int64_t> draw_slot_mapping(std::mt19937_64 &random, const Shape &shape) {
    std::vector<std::int64_t> slots(static_cast<size_t>(shape.blocks * shape.block_size));
    std::iota(slots.begin(), slots.end(), 0);
    std::ranges::shuffle(slots, random);
    REQUIRE(shape.slots <= static_cast<std::int64_t>(slots.size()));
    slots.resize(static_cast<size_t>(shape.slots));
    for (auto &slot : slots) {
        if (random_between(random, 0, 7) == 0) {
            slot = -1;
        }
    }
    for (auto i = slots.size() - slots.size() / 4; i < slots.size(); ++i) {
        slots[i] = -1;
    }
    return slots;
}

// Calls place(token, block, row in it) for each token with a slot, as both functions do.
template <class Placing>
void for_each_slot(const std::vector<std::int64_t> &slot_mapping, std::int64_t block_size, Placing place) {
    for (size_t token = 0; token < slot_mapping.size(); ++token) {
        const std::int64_t slot = slot_mapping[token];
        if (slot >= 0) {
            place(static_cast<std::int64_t>(token), slot / block_size, slot % block_size);
        }
    }
}

// reshape_and_cache: key_cache [blocks, heads, dim / x, block_size, x], value_cache [blocks, heads, dim, block_size].
template <class T>
void reshape_and_cache(const Shape &s, const std::vector<T> &key, const std::vector<T> &value,
                       std::int64_t token_stride, std::vector<T> &key_cache, std::vector<T> &value_cache,
                       const std::vector<std::int64_t> &slot_mapping) {
    constexpr std::int64_t x = 16 / sizeof(T);
    for_each_slot(slot_mapping, s.block_size, [&](std::int64_t token, std::int64_t block, std::int64_t row) {
        for (std::int64_t head = 0; head < s.heads; ++head) {
            for (std::int64_t d = 0; d < s.dim; ++d) {
                const auto from = static_cast<size_t>(token * token_stride + head * s.dim + d);
                const auto piece = (block * s.heads + head) * (s.dim / x) + d / x;
                const auto k_to = static_cast<size_t>((piece * s.block_size + row) * x + d % x);
                const auto v_to = static_cast<size_t>(((block * s.heads + head) * s.dim + d) * s.block_size + row);
                key_cache[k_to] = key[from];
                value_cache[v_to] = value[from];
            }
        }
    });
}

// The strides of a cache [blocks, block_size, heads, dim], in whatever order it lies in memory.
struct Strides {
    std::int64_t block, page, head;
};

// reshape_and_cache_flash, for K or for V.
template <class T>
void reshape_and_cache_flash(const Shape &s, const std::vector<T> &source, std::vector<T> &cache, size_t start,
                             const Strides &strides, const std::vector<std::int64_t> &slot_mapping) {
    for_each_slot(slot_mapping, s.block_size, [&](std::int64_t token, std::int64_t block, std::int64_t row) {
        for (std::int64_t head = 0; head < s.heads; ++head) {
            for (std::int64_t d = 0; d < s.dim; ++d) {
                const auto to = block * strides.block + row * strides.page + head * strides.head + d;
                cache[start + static_cast<size_t>(to)] =
                    source[static_cast<size_t>(token * s.row() + head * s.dim + d)];
            }
        }
    });
}

template <class T>
kvappend_descriptor describe(const Shape &shape) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = element_type_of<T>;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.batch = 1;
    d.heads = shape.heads;
    d.new_rows = shape.slots; // The tokens behind them are padding.
    d.cache_rows = shape.block_size;
    d.cache_blocks = shape.blocks;
    d.k_dim = d.v_dim = shape.dim;
    return d;
}

void append(const kvappend_descriptor &d, const kvappend_args &args) {
    const PlanPointer plan = make_plan(d);
    CHECK(told(kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), nullptr)) ==
          "KVAPPEND_SUCCESS");
    REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
}

} // namespace

TEMPLATE_TEST_CASE("vLLM's reshape_and_cache", "[semantics]", std::uint16_t, std::uint32_t) {
    auto random = seeded_random();
    // The tokens of key and value lie behind each other, or are slices of a projection of three times the width.
    const std::int64_t width = GENERATE(1, 3);
    for (const Shape &shape : shapes) {
        INFO(text(shape) << ", width " << width);
        const std::int64_t token_stride = width * shape.row();
        const auto key = random_elements<TestType>(random, shape.tokens * token_stride);
        const auto value = random_elements<TestType>(random, shape.tokens * token_stride);
        auto key_cache = random_elements<TestType>(random, shape.cache_elements());
        auto value_cache = random_elements<TestType>(random, shape.cache_elements());
        const auto slot_mapping = draw_slot_mapping(random, shape);
        const Held<TestType> held_key(key);
        const Held<TestType> held_value(value);
        const Held<TestType> held_key_cache(key_cache);
        const Held<TestType> held_value_cache(value_cache);
        const Held<std::int64_t> held_slots(slot_mapping);

        kvappend_descriptor d = describe<TestType>(shape);
        d.k_pack = 16 / sizeof(TestType);
        d.v_pack = 1;
        if (width != 1) {
            for (auto *const strides : {&d.k_new_strides, &d.v_new_strides}) {
                (*strides)[KVAPPEND_AXIS_HEAD] = shape.dim;
                (*strides)[KVAPPEND_AXIS_ROW] = token_stride;
            }
        }
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = held_key.data(), args.k_new_bytes = held_key.bytes();
        args.v_new = held_value.data(), args.v_new_bytes = held_value.bytes();
        args.k_cache = held_key_cache.data(), args.k_cache_bytes = held_key_cache.bytes();
        args.v_cache = held_value_cache.data(), args.v_cache_bytes = held_value_cache.bytes();
        args.slots = held_slots.data(), args.slots_bytes = held_slots.bytes();
        append(d, args);

        reshape_and_cache(shape, key, value, token_stride, key_cache, value_cache, slot_mapping);
        CHECK(held_key_cache.holds(key_cache));
        CHECK(held_value_cache.holds(value_cache));
        CHECK(held_key.holds(key));
        CHECK(held_value.holds(value));
        CHECK(held_slots.holds(slot_mapping));
    }
}

TEMPLATE_TEST_CASE("vLLM's reshape_and_cache_flash", "[semantics]", std::uint16_t, std::uint32_t) {
    auto random = seeded_random();
    // In memory [block_size, heads, dim] or [heads, block_size, dim] for each block; and a tensor of K and one of V
    // that are halves of [2, blocks, ...], or one [blocks, 2, ...] for both.
    const bool hnd = GENERATE(false, true);
    const bool interleaved = GENERATE(false, true);
    for (const Shape &shape : shapes) {
        INFO(text(shape) << ", HND " << hnd << ", interleaved " << interleaved);
        const std::int64_t block = shape.block_size * shape.row();
        const Strides strides{interleaved ? 2 * block : block, hnd ? shape.dim : shape.row(),
                              hnd ? shape.block_size * shape.dim : shape.dim};
        const auto v_start = static_cast<size_t>(interleaved ? block : shape.cache_elements());
        const auto key = random_elements<TestType>(random, shape.tokens * shape.row());
        const auto value = random_elements<TestType>(random, shape.tokens * shape.row());
        auto cache = random_elements<TestType>(random, 2 * shape.cache_elements());
        const auto slot_mapping = draw_slot_mapping(random, shape);
        const Held<TestType> held_key(key);
        const Held<TestType> held_value(value);
        const Held<TestType> held_cache(cache);
        const Held<std::int64_t> held_slots(slot_mapping);

        kvappend_descriptor d = describe<TestType>(shape);
        for (auto *const array : {&d.k_cache_strides, &d.v_cache_strides}) {
            (*array)[KVAPPEND_AXIS_BATCH] = strides.block;
            (*array)[KVAPPEND_AXIS_HEAD] = strides.head;
            (*array)[KVAPPEND_AXIS_ROW] = strides.page;
        }
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = held_key.data(), args.k_new_bytes = held_key.bytes();
        args.v_new = held_value.data(), args.v_new_bytes = held_value.bytes();
        args.k_cache = held_cache.data(), args.k_cache_bytes = held_cache.bytes();
        args.v_cache = held_cache.data() + v_start;
        args.slots = held_slots.data(), args.slots_bytes = held_slots.bytes();
        append(d, args);

        reshape_and_cache_flash(shape, key, cache, 0, strides, slot_mapping);
        reshape_and_cache_flash(shape, value, cache, v_start, strides, slot_mapping);
        CHECK(held_cache.holds(cache));
        CHECK(held_key.holds(key));
        CHECK(held_value.holds(value));
        CHECK(held_slots.holds(slot_mapping));
    }
}
