// SPDX-License-Identifier: Apache-2.0
// Strides are refused if, and only if, two cache rows share an element: compared with marking every element.
#include "case.hpp"
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <vector>

namespace {

struct Shape {
    std::int64_t extents[3];
    std::int64_t strides[3];
    std::int64_t dim;
};

// Marks each element that the tensor occupies, `start` elements into the marks; false if one was marked before.
bool mark(const Shape &s, std::size_t start, std::vector<bool> &marks) {
    const bool contiguous = std::ranges::all_of(s.strides, [](std::int64_t stride) { return stride == 0; });
    for (std::int64_t b = 0; b < s.extents[0]; ++b) {
        for (std::int64_t h = 0; h < s.extents[1]; ++h) {
            for (std::int64_t l = 0; l < s.extents[2]; ++l) {
                for (std::int64_t i = 0; i < s.dim; ++i) {
                    const std::int64_t at = contiguous ? ((b * s.extents[1] + h) * s.extents[2] + l) * s.dim + i
                                                       : b * s.strides[0] + h * s.strides[1] + l * s.strides[2] + i;
                    if (marks[start + static_cast<std::size_t>(at)]) {
                        return false;
                    }
                    marks[start + static_cast<std::size_t>(at)] = true;
                }
            }
        }
    }
    return true;
}

std::int64_t draw(std::mt19937_64 &random, std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

constexpr std::size_t room = 4096;

} // namespace

TEST_CASE("a cache is refused if and only if two of its rows overlap", "[strides]") {
    auto random = seeded_random();
    int refused = 0;
    constexpr int all = 6000;
    for (int i = 0; i < all; ++i) {
        const bool is_k = draw(random, 0, 1) == 0;
        const Shape s{{draw(random, 1, 4), draw(random, 1, 4), draw(random, 1, 5)},
                      {draw(random, 0, 24), draw(random, 0, 24), draw(random, 0, 24)},
                      draw(random, 1, 5)};
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = subject().backend();
        d.batch = s.extents[0];
        d.heads = s.extents[1];
        d.cache_rows = s.extents[2];
        d.new_rows = 1;
        (is_k ? d.k_dim : d.v_dim) = s.dim;
        std::ranges::copy(s.strides, is_k ? d.k_cache_strides : d.v_cache_strides);
        std::vector<bool> marks(room);
        const bool apart = mark(s, 0, marks);
        kvappend_plan *plan = nullptr;
        const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
        const bool named = std::string(kvappend_last_error_message()).find(is_k ? "k_cache [" : "v_cache [") == 0;
        kvappend_plan_destroy(plan);
        INFO("extents " << s.extents[0] << ' ' << s.extents[1] << ' ' << s.extents[2] << ", strides " << s.strides[0]
                        << ' ' << s.strides[1] << ' ' << s.strides[2] << ", dimension " << s.dim);
        REQUIRE(status == (apart ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_CACHE_OVERLAP));
        REQUIRE((apart || named));
        refused += apart ? 0 : 1;
    }
    CHECK(refused > all / 10);
    CHECK(refused < all * 9 / 10);
}

TEST_CASE("strides too irregular to decide on are refused, and said to be that", "[strides]") {
    // Multiples of these two primes meet nowhere in range, but only trying them all would show it.
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = d.heads = 200000;
    d.new_rows = d.cache_rows = d.k_dim = 1;
    d.k_cache_strides[KVAPPEND_AXIS_BATCH] = 1000003;
    d.k_cache_strides[KVAPPEND_AXIS_HEAD] = 1000033;
    kvappend_plan *plan = nullptr;
    CHECK(kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_ERROR_CACHE_OVERLAP);
    CHECK(std::string(kvappend_last_error_message()).find("too irregular to tell") != std::string::npos);
    CHECK(plan == nullptr);
}

TEST_CASE("two caches in one pool are refused if and only if an element belongs to both", "[strides]") {
    auto random = seeded_random();
    int refused = 0;
    int accepted = 0;
    auto *const pool = static_cast<unsigned char *>(subject().allocate(room * 4));
    auto *const other = static_cast<unsigned char *>(subject().allocate(room));
    while (refused + accepted < 3000) {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = subject().backend();
        d.batch = draw(random, 1, 3);
        d.heads = draw(random, 1, 3);
        d.cache_rows = draw(random, 1, 4);
        d.new_rows = 1;
        const auto shape = [&](std::int64_t &dim, std::int64_t(&strides)[3]) {
            dim = draw(random, 1, 4);
            for (std::int64_t &stride : strides) {
                stride = draw(random, 0, 30);
            }
        };
        shape(d.k_dim, d.k_cache_strides);
        shape(d.v_dim, d.v_cache_strides);
        // Pools usually have the same strides for both.
        for (int axis = 0; axis < 3; ++axis) {
            if (draw(random, 0, 1) == 0) {
                d.v_cache_strides[axis] = d.k_cache_strides[axis];
            }
        }
        const auto of = [&](std::int64_t dim, const std::int64_t(&strides)[3]) {
            return Shape{{d.batch, d.heads, d.cache_rows}, {strides[0], strides[1], strides[2]}, dim};
        };
        const auto k_at = static_cast<std::size_t>(draw(random, 0, 40));
        const auto v_at = static_cast<std::size_t>(draw(random, 0, 40));
        std::vector<bool> alone(room);
        std::vector<bool> marks(room);
        if (!mark(of(d.k_dim, d.k_cache_strides), k_at, marks) || !mark(of(d.v_dim, d.v_cache_strides), v_at, alone)) {
            continue; // Refused already as a descriptor.
        }
        const bool apart = mark(of(d.v_dim, d.v_cache_strides), v_at, marks);
        const PlanPointer plan = make_plan(d);
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = args.v_new = args.cache_offsets = other;
        args.k_cache = pool + k_at * 4;
        args.v_cache = pool + v_at * 4;
        INFO("extents " << d.batch << ' ' << d.heads << ' ' << d.cache_rows << ", k at " << k_at << ", strides "
                        << d.k_cache_strides[0] << ' ' << d.k_cache_strides[1] << ' ' << d.k_cache_strides[2]
                        << ", dimension " << d.k_dim << ", v at " << v_at << ", strides " << d.v_cache_strides[0] << ' '
                        << d.v_cache_strides[1] << ' ' << d.v_cache_strides[2] << ", dimension " << d.v_dim);
        const kvappend_status status = kvappend_plan_can_implement(plan.get(), &args);
        REQUIRE(status == (apart ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_CACHE_OVERLAP));
        ++(apart ? accepted : refused);
    }
    CHECK(refused > 300);
    CHECK(accepted > 300);
    subject().release(pool);
    subject().release(other);
}

TEST_CASE("real pools of K and V work: by rows, by heads and by halves of a sample", "[strides]") {
    auto random = seeded_random();
    constexpr std::int64_t heads = 3, rows = 4, dim = 8;
    const struct {
        std::int64_t strides[3];
        std::size_t distance; // from K to V, in elements
    } pools[] = {{{heads * rows * 2 * dim, rows * 2 * dim, 2 * dim}, dim},
                 {{rows * heads * 2 * dim, 2 * dim, heads * 2 * dim}, dim},
                 {{2 * heads * rows * dim, rows * dim, dim}, heads * rows * dim},
                 {{rows * 2 * heads * dim, dim, 2 * heads * dim}, heads * dim}};
    for (const auto &pool : pools) {
        Case c;
        kvappend_descriptor &d = c.descriptor;
        d.batch = 2;
        d.heads = heads;
        d.new_rows = 3;
        d.cache_rows = rows;
        d.k_dim = d.v_dim = dim;
        std::ranges::copy(pool.strides, d.k_cache_strides);
        std::ranges::copy(pool.strides, d.v_cache_strides);
        c.offsets = {0, 2};
        place_apart(c, 64, 64);
        c.places[v_cache] = {c.places[k_cache].block, c.places[k_cache].start + pool.distance * 4};
        c.block_bytes[k_cache] += pool.distance * 4;
        check_case(c, random);
    }
}
