// SPDX-License-Identifier: Apache-2.0
// Strides are refused if, and only if, two cache rows share an element: compared with marking every element.
#include "check_scenario.hpp"
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <string>
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

// The descriptor of one cache, the strides and the dimension of which are `unit` times those of the shape.
kvappend_descriptor describe(const Shape &s, bool is_k, std::int64_t unit) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = s.extents[0];
    d.heads = s.extents[1];
    d.cache_rows = s.extents[2];
    d.new_rows = 1;
    (is_k ? d.k_dim : d.v_dim) = s.dim * unit;
    std::ranges::transform(s.strides, is_k ? d.k_cache_strides : d.v_cache_strides,
                           [unit](std::int64_t stride) { return stride * unit; });
    return d;
}

// The plan must come about, or else be refused because of this cache.
void check_creation(const kvappend_descriptor &d, bool is_k, bool apart) {
    std::size_t marker = 0;
    auto *plan = reinterpret_cast<kvappend_plan *>(&marker); // must become a plan, or NULL
    const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
    const std::string message = told(status);
    const auto &strides = is_k ? d.k_cache_strides : d.v_cache_strides;
    INFO("extents " << d.batch << ' ' << d.heads << ' ' << d.cache_rows << ", strides " << strides[0] << ' '
                    << strides[1] << ' ' << strides[2] << ", dimension " << (is_k ? d.k_dim : d.v_dim) << ": "
                    << message);
    REQUIRE(status == (apart ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_CACHE_OVERLAP));
    if (apart) {
        kvappend_plan_destroy(plan);
    } else {
        REQUIRE(plan == nullptr);
        const std::string strides_text = '{' + std::to_string(strides[0]) + ", " + std::to_string(strides[1]) + ", " +
                                         std::to_string(strides[2]) + '}';
        REQUIRE(message.find(std::string(": ") + (is_k ? "k" : "v") + "_cache [") != std::string::npos);
        REQUIRE(message.find("with strides " + strides_text + ": two of its rows share memory") != std::string::npos);
    }
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
        const Shape s{{draw(random, 1, 4), draw(random, 1, 4), draw(random, 1, 4)},
                      {draw(random, 0, 24), draw(random, 0, 24), draw(random, 0, 24)},
                      draw(random, 1, 5)};
        std::vector<bool> marks(room);
        const bool apart = mark(s, 0, marks);
        check_creation(describe(s, is_k, 1), is_k, apart);
        // Everything 2^50 times as large lies in the same way, and needs no memory to ask for.
        check_creation(describe(s, is_k, std::int64_t{1} << 50), is_k, apart);
        refused += apart ? 0 : 1;
    }
    CHECK(refused > all / 10);
    CHECK(refused < all * 9 / 10);
}

TEST_CASE("strides of a cache without rows may be any", "[strides]") {
    for (int axis = 0; axis < 3; ++axis) {
        Shape s{{2, 2, 2}, {1, 1, 1}, 4};
        check_creation(describe(s, true, 1), true, false);
        s.extents[axis] = 0;
        check_creation(describe(s, true, 1), true, true);
    }
}

TEST_CASE("strides too irregular to decide on are refused, and said to be that", "[strides]") {
    // Multiples of these two primes meet nowhere in range, but only trying them all would show it.
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = d.heads = 200000;
    d.new_rows = d.cache_rows = d.k_dim = 1;
    d.k_cache_strides[KVAPPEND_AXIS_BATCH] = 1000003;
    d.k_cache_strides[KVAPPEND_AXIS_HEAD] = 1000033;
    auto *plan = reinterpret_cast<kvappend_plan *>(&d); // must become NULL
    CHECK(kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_ERROR_CACHE_OVERLAP);
    CHECK(std::string(kvappend_last_error_message()).find("too irregular to tell") != std::string::npos);
    CHECK(plan == nullptr);
}

TEST_CASE("two caches with strides too irregular to decide on are refused, and said to be that", "[strides]") {
    // Multiples i and j of these primes differ by 1 only from j = 233334 on, but only trying them all would show it.
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.heads = 200000;
    d.batch = d.new_rows = d.cache_rows = d.k_dim = d.v_dim = 1;
    d.k_cache_strides[KVAPPEND_AXIS_HEAD] = 1000003;
    d.v_cache_strides[KVAPPEND_AXIS_HEAD] = 1000033;
    const PlanPointer plan = make_plan(d);
    const auto place = [](std::uintptr_t at) { return reinterpret_cast<void *>(at); }; // No buffer is read.
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = args.cache_offsets = place(4096);
    args.k_cache = place(std::uintptr_t{1} << 60);
    args.v_cache = place((std::uintptr_t{1} << 60) + 4);
    const std::string message = told(kvappend_plan_can_implement(plan.get(), &args));
    CHECK(message.starts_with("KVAPPEND_ERROR_CACHE_OVERLAP: args.k_cache is 0x1000000000000000 "));
    CHECK(message.find("too irregular to tell") != std::string::npos);
}

namespace {

// Two caches in one pool: where each begins, in elements, and whether no element belongs to both.
struct Pool {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    std::size_t k_at;
    std::size_t v_at;
    bool apart;
};

// None if the descriptor alone would be refused.
std::optional<Pool> draw_pool(std::mt19937_64 &random) {
    Pool pool{};
    kvappend_descriptor &d = pool.d;
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
    pool.k_at = static_cast<std::size_t>(draw(random, 0, 40));
    pool.v_at = static_cast<std::size_t>(draw(random, 0, 40));
    std::vector<bool> alone(room);
    std::vector<bool> marks(room);
    if (!mark(of(d.k_dim, d.k_cache_strides), pool.k_at, marks) ||
        !mark(of(d.v_dim, d.v_cache_strides), pool.v_at, alone)) {
        return std::nullopt;
    }
    pool.apart = mark(of(d.v_dim, d.v_cache_strides), pool.v_at, marks);
    return pool;
}

// What can_implement says of everything 2^50 times as large, which lies in the same way. No memory is needed, as
// can_implement reads no buffer; the new tensors are one row, repeated, far below the caches.
kvappend_status status_when_large(const Pool &pool) {
    constexpr std::int64_t unit = std::int64_t{1} << 50;
    kvappend_descriptor d = pool.d;
    d.k_dim *= unit;
    d.v_dim *= unit;
    for (int axis = 0; axis < 3; ++axis) {
        d.k_cache_strides[axis] *= unit;
        d.v_cache_strides[axis] *= unit;
    }
    d.k_new_strides[KVAPPEND_AXIS_ROW] = d.v_new_strides[KVAPPEND_AXIS_ROW] = 1;
    const PlanPointer plan = make_plan(d);
    const auto place = [](std::size_t at) {
        return reinterpret_cast<void *>((std::uintptr_t{1} << 62) + at * 4 * unit);
    };
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = args.cache_offsets = reinterpret_cast<void *>(std::uintptr_t{64});
    args.k_cache = place(pool.k_at);
    args.v_cache = place(pool.v_at);
    return kvappend_plan_can_implement(plan.get(), &args);
}

} // namespace

TEST_CASE("two caches in one pool are refused if and only if an element belongs to both", "[strides]") {
    auto random = seeded_random();
    int refused = 0;
    int accepted = 0;
    auto *const memory = static_cast<unsigned char *>(subject().allocate(room * 4));
    auto *const other = static_cast<unsigned char *>(subject().allocate(room));
    while (refused + accepted < 3000) {
        const std::optional<Pool> pool = draw_pool(random);
        if (!pool) {
            continue;
        }
        const kvappend_descriptor &d = pool->d;
        const PlanPointer plan = make_plan(d);
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = args.v_new = args.cache_offsets = other;
        args.k_cache = memory + pool->k_at * 4;
        args.v_cache = memory + pool->v_at * 4;
        INFO("extents " << d.batch << ' ' << d.heads << ' ' << d.cache_rows << ", k at " << pool->k_at << ", strides "
                        << d.k_cache_strides[0] << ' ' << d.k_cache_strides[1] << ' ' << d.k_cache_strides[2]
                        << ", dimension " << d.k_dim << ", v at " << pool->v_at << ", strides " << d.v_cache_strides[0]
                        << ' ' << d.v_cache_strides[1] << ' ' << d.v_cache_strides[2] << ", dimension " << d.v_dim);
        const kvappend_status status = kvappend_plan_can_implement(plan.get(), &args);
        REQUIRE(status == (pool->apart ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_CACHE_OVERLAP));
        REQUIRE((pool->apart || told(status).find("too irregular") == std::string::npos));
        REQUIRE(status_when_large(*pool) == status);
        ++(pool->apart ? accepted : refused);
    }
    CHECK(refused > 300);
    CHECK(accepted > 300);
    subject().release(memory);
    subject().release(other);
}

TEST_CASE("an element in both caches is found over distances that do not fit in 63 bits", "[strides]") {
    // Each cache spans more than 2^62 bytes. The last row of the lower one lies on the first row of the upper one, or
    // an element beside it.
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = d.heads = d.cache_rows = 2;
    d.new_rows = d.k_dim = d.v_dim = 1;
    for (int axis = 0; axis < 3; ++axis) {
        d.k_cache_strides[axis] = std::int64_t{1} << (60 - axis);
        d.v_cache_strides[axis] = (std::int64_t{1} << (60 - axis)) - 1;
    }
    const PlanPointer plan = make_plan(d);
    const auto span = [](const std::int64_t(&strides)[3]) {
        return 4 * static_cast<std::uintptr_t>(strides[0] + strides[1] + strides[2]);
    };
    const auto place = [](std::uintptr_t at) { return reinterpret_cast<void *>(at); }; // No buffer is read.
    constexpr std::uintptr_t low = std::uintptr_t{1} << 20;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = args.cache_offsets = place(4096);
    for (const bool k_is_lower : {true, false}) {
        for (const int beside : {-1, 0, 1}) {
            const std::uintptr_t high = low + span(k_is_lower ? d.k_cache_strides : d.v_cache_strides) +
                                        4 * static_cast<std::uintptr_t>(beside);
            args.k_cache = place(k_is_lower ? low : high);
            args.v_cache = place(k_is_lower ? high : low);
            INFO((k_is_lower ? "K below, " : "V below, ") << beside << " elements beside");
            CHECK(kvappend_plan_can_implement(plan.get(), &args) ==
                  (beside == 0 ? KVAPPEND_ERROR_CACHE_OVERLAP : KVAPPEND_SUCCESS));
        }
    }
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
        Scenario scenario;
        kvappend_descriptor &d = scenario.descriptor;
        d.batch = 2;
        d.heads = heads;
        d.new_rows = 3;
        d.cache_rows = rows;
        d.k_dim = d.v_dim = dim;
        std::ranges::copy(pool.strides, d.k_cache_strides);
        std::ranges::copy(pool.strides, d.v_cache_strides);
        scenario.offsets = {0, 2};
        place_apart(scenario, 64, 64);
        scenario.locations[v_cache] = {scenario.locations[k_cache].block,
                                       scenario.locations[k_cache].start + pool.distance * 4};
        scenario.block_bytes[k_cache] += pool.distance * 4;
        check_scenario(scenario, random);
    }
}

TEST_CASE("caches that meet at a distance of nearly 2^63 bytes overlap", "[strides]") {
    // The last row of the one lies 2^63 - 32 bytes behind its first, and the other cache begins 8 bytes behind it.
    constexpr std::int64_t far = std::numeric_limits<std::int64_t>::max() / 8 - 3;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_F64;
    d.batch = d.heads = d.new_rows = 1;
    d.cache_rows = 2;
    const bool k_is_far = GENERATE(true, false);
    d.k_dim = k_is_far ? 2 : 128;
    d.v_dim = k_is_far ? 128 : 2;
    (k_is_far ? d.k_cache_strides : d.v_cache_strides)[KVAPPEND_AXIS_ROW] = far;
    const PlanPointer plan = make_plan(d);
    // Nothing is read or written at these addresses.
    constexpr std::uintptr_t base = 1 << 20;
    void *const near_cache = reinterpret_cast<void *>(base);
    void *const cache_at_its_end = reinterpret_cast<void *>(base + std::uintptr_t{far} * 8 + 8);
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = args.cache_offsets = reinterpret_cast<void *>(std::uintptr_t{3} << 62);
    args.k_cache = k_is_far ? near_cache : cache_at_its_end;
    args.v_cache = k_is_far ? cache_at_its_end : near_cache;
    CHECK(kvappend_plan_can_implement(plan.get(), &args) == KVAPPEND_ERROR_CACHE_OVERLAP);
    // One row further on they are apart.
    void *const apart = reinterpret_cast<void *>(base + std::uintptr_t{far} * 8 + 16);
    (k_is_far ? args.v_cache : args.k_cache) = apart;
    CHECK(told(kvappend_plan_can_implement(plan.get(), &args)) == "KVAPPEND_SUCCESS");
}

TEST_CASE("caches that a common divisor of their strides keeps apart are told apart at once", "[strides]") {
    // All rows of K begin at even elements, and all those of V at odd ones, in an order too irregular to search.
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = d.heads = d.cache_rows = 400;
    d.new_rows = 1;
    d.k_dim = d.v_dim = 1;
    const std::int64_t k[] = {2 * 160000, 2 * 400, 2};
    const std::int64_t v[] = {2 * 160400, 2 * 401, 2};
    std::ranges::copy(k, d.k_cache_strides);
    std::ranges::copy(v, d.v_cache_strides);
    const PlanPointer plan = make_plan(d);
    constexpr std::uintptr_t base = std::uintptr_t{1} << 40;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = args.cache_offsets = reinterpret_cast<void *>(base / 2);
    args.k_cache = reinterpret_cast<void *>(base);
    args.v_cache = reinterpret_cast<void *>(base + 4);
    CHECK(told(kvappend_plan_can_implement(plan.get(), &args)) == "KVAPPEND_SUCCESS");
    args.v_cache = reinterpret_cast<void *>(base + 8);
    CHECK(kvappend_plan_can_implement(plan.get(), &args) == KVAPPEND_ERROR_CACHE_OVERLAP);
}
