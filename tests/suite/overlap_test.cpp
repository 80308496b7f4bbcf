// SPDX-License-Identifier: Apache-2.0
// Strides are refused if, and only if, two cache rows share an element: compared with marking every element.
#include "check_scenario.hpp"
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <array>
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
    bool apart = true;
    for (std::int64_t b = 0; b < s.extents[0]; ++b) {
        for (std::int64_t h = 0; h < s.extents[1]; ++h) {
            for (std::int64_t l = 0; l < s.extents[2]; ++l) {
                for (std::int64_t i = 0; i < s.dim; ++i) {
                    const std::int64_t at = contiguous ? ((b * s.extents[1] + h) * s.extents[2] + l) * s.dim + i
                                                       : b * s.strides[0] + h * s.strides[1] + l * s.strides[2] + i;
                    const std::size_t marked = start + static_cast<std::size_t>(at);
                    apart = apart && !marks[marked];
                    marks[marked] = true;
                }
            }
        }
    }
    return apart;
}

// The descriptor of one cache, the strides and the dimension of which are `unit` times those of the shape.
kvappend_descriptor describe(const Shape &s, bool is_k, std::int64_t unit, std::int32_t element_type) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = element_type;
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
    REQUIRE(status == (apart ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_OVERLAP));
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

std::int64_t draw(std::mt19937_64 &random, std::int64_t low, std::int64_t high);

// An element of 4 bytes or of 1.
std::int32_t draw_element(std::mt19937_64 &random) {
    return draw(random, 0, 1) == 0 ? KVAPPEND_ELEMENT_F32 : KVAPPEND_ELEMENT_INT8;
}

std::int64_t draw(std::mt19937_64 &random, std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

constexpr std::size_t room = 4096;

void *place(std::uintptr_t at) {
    return reinterpret_cast<void *>(at); // No buffer is read.
}

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
        // Rows of single bytes may share one byte alone.
        for (const std::int32_t type : {KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_INT8}) {
            check_creation(describe(s, is_k, 1, type), is_k, apart);
            // Everything 2^50 times as large lies in the same way, and needs no memory to ask for.
            check_creation(describe(s, is_k, std::int64_t{1} << 50, type), is_k, apart);
        }
        refused += apart ? 0 : 1;
    }
    CHECK(refused > all / 10);
    CHECK(refused < all * 9 / 10);
}

TEST_CASE("strides of a cache without rows may be any", "[strides]") {
    for (int axis = 0; axis < 3; ++axis) {
        Shape s{{2, 2, 2}, {1, 1, 1}, 4};
        check_creation(describe(s, true, 1, KVAPPEND_ELEMENT_F32), true, false);
        s.extents[axis] = 0;
        check_creation(describe(s, true, 1, KVAPPEND_ELEMENT_F32), true, true);
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
    CHECK(kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_ERROR_OVERLAP);
    CHECK(std::string(kvappend_last_error_message()).find("too irregular to tell") != std::string::npos);
    CHECK(plan == nullptr);
}

TEST_CASE("the limit of steps is one for the whole cache", "[strides]") {
    // No rows meet. The check needs two steps a head for rows of different samples, and one step a head for rows of one
    // sample. With 30000 heads, neither number of steps exceeds the limit, but their sum does.
    for (const std::int64_t heads : {20000, 30000}) {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = subject().backend();
        d.batch = 2;
        d.heads = d.cache_rows = heads;
        d.new_rows = d.k_dim = 1;
        d.k_cache_strides[KVAPPEND_AXIS_BATCH] = 499;
        d.k_cache_strides[KVAPPEND_AXIS_HEAD] = 1000003;
        d.k_cache_strides[KVAPPEND_AXIS_ROW] = 1000033;
        kvappend_plan *plan = nullptr;
        const std::string message = told(kvappend_plan_create(&d, nullptr, &plan));
        CHECK((heads == 20000) == (message == "KVAPPEND_SUCCESS"));
        CHECK((heads == 30000) == (message.find("too irregular to tell") != std::string::npos));
        kvappend_plan_destroy(plan);
    }
}

namespace {

// Arguments whose tensors are far from each other, 2^58 bytes from one to the next.
kvappend_args far_apart() {
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.cache_offsets = place(4096);
    args.k_new = place(std::uintptr_t{1} << 58);
    args.v_new = place(std::uintptr_t{2} << 58);
    args.k_cache = place(std::uintptr_t{3} << 58);
    args.v_cache = place(std::uintptr_t{4} << 58);
    return args;
}

} // namespace

TEST_CASE("two tensors with strides that are too irregular are refused, and the message says so", "[strides]") {
    // Multiples i and j of these primes differ by 1 only from j = 233334 on, but only trying them all would show it.
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.heads = 200000;
    d.batch = d.new_rows = d.cache_rows = d.k_dim = d.v_dim = 1;
    d.k_new_strides[KVAPPEND_AXIS_HEAD] = d.v_new_strides[KVAPPEND_AXIS_HEAD] = 1000003;
    d.k_cache_strides[KVAPPEND_AXIS_HEAD] = 1000003;
    d.v_cache_strides[KVAPPEND_AXIS_HEAD] = 1000033;
    const PlanPointer plan = make_plan(d);
    kvappend_args args = far_apart();
    args.v_cache = static_cast<char *>(args.k_cache) + 4;
    std::string message = told(kvappend_plan_can_implement(plan.get(), &args));
    CHECK(message.starts_with("KVAPPEND_ERROR_OVERLAP: args.k_cache is 0xc00000000000000 "));
    CHECK(message.find("too irregular to tell") != std::string::npos);
    for (const char *const name : {"k_new", "v_new"}) {
        args = far_apart();
        (*name == 'k' ? args.k_new : args.v_new) = static_cast<char *>(args.v_cache) - 4;
        message = told(kvappend_plan_can_implement(plan.get(), &args));
        CHECK(message.starts_with(std::string("KVAPPEND_ERROR_ALIAS: args.") + name + " [0xffffffffffffffc, "));
        CHECK(message.find(") and args.v_cache [0x1000000000000000, ") != std::string::npos);
        CHECK(message.find("too irregular to tell") != std::string::npos);
    }
}

TEST_CASE("strides just below the limit of a creation are accepted, and strides above the limit of a run are refused",
          "[strides]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.addressing = KVAPPEND_ADDRESSING_PAGED;
    d.batch = d.new_rows = d.table_entries = 1;
    SECTION("at creation") {
        d.cache_blocks = 26;
        d.heads = 1523;
        d.cache_rows = 3221;
        d.k_dim = d.v_dim = 2;
        d.k_pack = d.v_pack = 1;
        d.k_piece_stride = d.v_piece_stride = 305921;
        constexpr std::int64_t strides[] = {7609467, 5019915, 6717570};
        std::ranges::copy(strides, d.k_cache_strides);
        std::ranges::copy(strides, d.v_cache_strides);
        make_plan(d);
    }
    SECTION("at a run") {
        d.cache_blocks = 179;
        d.heads = 72;
        d.cache_rows = 277;
        d.k_dim = d.v_dim = 1;
        std::ranges::copy(std::to_array<std::int64_t>({8, 373119, 1347}), d.k_cache_strides);
        std::ranges::copy(std::to_array<std::int64_t>({1339, 12, 224945}), d.v_cache_strides);
        const PlanPointer plan = make_plan(d);
        kvappend_args args = far_apart();
        args.page_table = static_cast<const std::int32_t *>(place(8192));
        args.v_cache = static_cast<char *>(args.k_cache) + 8200;
        const std::string message = told(kvappend_plan_can_implement(plan.get(), &args));
        CHECK(message.starts_with("KVAPPEND_ERROR_OVERLAP: "));
        CHECK(message.find("too irregular to tell") != std::string::npos);
    }
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
    d.element_type = draw_element(random);
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
    const auto place = [&d](std::size_t at) {
        return reinterpret_cast<void *>((std::uintptr_t{1} << 62) + at * element_bytes(d.element_type) * unit);
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
        args.k_cache = memory + pool->k_at * element_bytes(d.element_type);
        args.v_cache = memory + pool->v_at * element_bytes(d.element_type);
        INFO("extents " << d.batch << ' ' << d.heads << ' ' << d.cache_rows << ", k at " << pool->k_at << ", strides "
                        << d.k_cache_strides[0] << ' ' << d.k_cache_strides[1] << ' ' << d.k_cache_strides[2]
                        << ", dimension " << d.k_dim << ", v at " << pool->v_at << ", strides " << d.v_cache_strides[0]
                        << ' ' << d.v_cache_strides[1] << ' ' << d.v_cache_strides[2] << ", dimension " << d.v_dim);
        const kvappend_status status = kvappend_plan_can_implement(plan.get(), &args);
        REQUIRE(status == (pool->apart ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_OVERLAP));
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
                  (beside == 0 ? KVAPPEND_ERROR_OVERLAP : KVAPPEND_SUCCESS));
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
    // The last row of one cache lies 2^63 - 32 bytes after its first row, and the other cache begins 8 bytes after the
    // start of that last row.
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
    CHECK(kvappend_plan_can_implement(plan.get(), &args) == KVAPPEND_ERROR_OVERLAP);
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
    CHECK(kvappend_plan_can_implement(plan.get(), &args) == KVAPPEND_ERROR_OVERLAP);
}

namespace {

// New rows and a cache that may be interleaved, of K or of V each, and whether no element belongs to both.
struct Neighbours {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    bool k_rows;
    bool k_cache;
    std::size_t rows_at;
    std::size_t cache_at;
    bool apart;
};

// None if the descriptor alone would be refused.
std::optional<Neighbours> draw_neighbours(std::mt19937_64 &random) {
    Neighbours n{};
    kvappend_descriptor &d = n.d;
    d.backend = subject().backend();
    d.element_type = draw_element(random);
    d.batch = draw(random, 1, 3);
    d.heads = draw(random, 1, 3);
    d.new_rows = draw(random, 1, 3);
    d.cache_rows = draw(random, 1, 4);
    d.k_dim = draw(random, 1, 4);
    d.v_dim = draw(random, 1, 4);
    n.k_rows = draw(random, 0, 1) == 0;
    n.k_cache = draw(random, 0, 1) == 0;
    auto &rows_strides = n.k_rows ? d.k_new_strides : d.v_new_strides;
    auto &cache_strides = n.k_cache ? d.k_cache_strides : d.v_cache_strides;
    for (int axis = 0; axis < 3; ++axis) {
        cache_strides[axis] = draw(random, 0, 30);
        const std::int64_t kind = draw(random, 0, 3); // Rows are often repeated, or a part of the cache's memory.
        rows_strides[axis] = kind == 0 ? 0 : kind == 1 ? draw(random, 0, 30) : cache_strides[axis];
    }
    const auto shape = [&](std::int64_t rows, bool is_k, const std::int64_t(&strides)[3]) {
        return Shape{{d.batch, d.heads, rows}, {strides[0], strides[1], strides[2]}, is_k ? d.k_dim : d.v_dim};
    };
    n.rows_at = static_cast<std::size_t>(draw(random, 0, 60));
    n.cache_at = static_cast<std::size_t>(draw(random, 0, 60));
    std::vector<bool> rows(room);
    std::vector<bool> cache(room);
    mark(shape(d.new_rows, n.k_rows, rows_strides), n.rows_at, rows);
    if (!mark(shape(d.cache_rows, n.k_cache, cache_strides), n.cache_at, cache)) {
        return std::nullopt;
    }
    n.apart = true;
    for (std::size_t i = 0; i < room; ++i) {
        n.apart = n.apart && !(rows[i] && cache[i]);
    }
    return n;
}

// The result of can_implement if everything is `unit` times as large.
kvappend_status status_of(const Neighbours &n, std::int64_t unit) {
    kvappend_descriptor d = n.d;
    d.k_dim *= unit;
    d.v_dim *= unit;
    for (int axis = 0; axis < 3; ++axis) {
        for (auto *const strides : {&d.k_new_strides, &d.v_new_strides, &d.k_cache_strides, &d.v_cache_strides}) {
            (*strides)[axis] *= unit;
        }
    }
    const PlanPointer plan = make_plan(d);
    kvappend_args args = far_apart();
    const auto at = [&](std::size_t elements) {
        return place((std::uintptr_t{5} << 58) +
                     elements * element_bytes(d.element_type) * static_cast<std::uintptr_t>(unit));
    };
    (n.k_rows ? args.k_new : args.v_new) = at(n.rows_at);
    (n.k_cache ? args.k_cache : args.v_cache) = at(n.cache_at);
    return kvappend_plan_can_implement(plan.get(), &args);
}

} // namespace

TEST_CASE("new rows in the memory of a cache are refused if and only if an element belongs to both", "[strides]") {
    auto random = seeded_random();
    int refused = 0;
    int accepted = 0;
    while (refused + accepted < 4000) {
        const std::optional<Neighbours> n = draw_neighbours(random);
        if (!n) {
            continue;
        }
        const kvappend_descriptor &d = n->d;
        const auto &rows = n->k_rows ? d.k_new_strides : d.v_new_strides;
        const auto &cache = n->k_cache ? d.k_cache_strides : d.v_cache_strides;
        INFO((n->k_rows ? "K" : "V") << " rows at " << n->rows_at << ", " << (n->k_cache ? "K" : "V") << " cache at "
                                     << n->cache_at << ", extents " << d.batch << ' ' << d.heads << ' ' << d.new_rows
                                     << ' ' << d.cache_rows << ", dimensions " << d.k_dim << ' ' << d.v_dim
                                     << ", strides " << rows[0] << ' ' << rows[1] << ' ' << rows[2] << " and "
                                     << cache[0] << ' ' << cache[1] << ' ' << cache[2]);
        for (const std::int64_t unit : {std::int64_t{1}, std::int64_t{1} << 46}) {
            const kvappend_status status = status_of(*n, unit);
            REQUIRE(status == (n->apart ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_ALIAS));
            REQUIRE((n->apart || told(status).find("too irregular") == std::string::npos));
        }
        ++(n->apart ? accepted : refused);
    }
    CHECK(refused > 400);
    CHECK(accepted > 400);
}

TEST_CASE("rows move within the memory of their caches", "[strides]") {
    // Rows 2 and 3 of each head of [H, 4, D] go to rows 0 and 1, which are the cache.
    auto random = seeded_random();
    constexpr std::int64_t dim = 8;
    Scenario scenario;
    kvappend_descriptor &d = scenario.descriptor;
    d.batch = 1;
    d.heads = d.new_rows = d.cache_rows = 2;
    d.k_dim = d.v_dim = dim;
    for (auto *const strides : {&d.k_new_strides, &d.v_new_strides, &d.k_cache_strides, &d.v_cache_strides}) {
        std::ranges::copy(std::to_array<std::int64_t>({8 * dim, 4 * dim, dim}), *strides);
    }
    scenario.offsets = {0};
    place_apart(scenario, 64, 64);
    share_block(scenario, k_new, k_cache, 2 * dim);
    share_block(scenario, v_new, v_cache, 2 * dim);
    check_scenario(scenario, random);
}

TEST_CASE("one element that belongs to two tensors is found at each end of them", "[strides]") {
    // Rows of 3 elements with strides that have no common divisor.
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = d.heads = d.new_rows = d.cache_rows = 3;
    d.k_dim = d.v_dim = 3;
    std::ranges::copy(std::to_array<std::int64_t>({101, 31, 7}), d.k_new_strides);
    std::ranges::copy(std::to_array<std::int64_t>({103, 37, 11}), d.v_new_strides);
    std::ranges::copy(std::to_array<std::int64_t>({107, 29, 5}), d.k_cache_strides);
    std::ranges::copy(std::to_array<std::int64_t>({109, 23, 4}), d.v_cache_strides);
    const PlanPointer plan = make_plan(d);
    const auto bytes = [](const std::int64_t(&s)[3]) { return 4 * (2 * (s[0] + s[1] + s[2]) + 3); };
    const auto check = [&](auto a, std::int64_t a_bytes, auto b, std::int64_t b_bytes, kvappend_status refusal) {
        for (const std::int64_t beside : {-1, 0}) {
            for (const std::int64_t shift : {a_bytes + 4 * beside, -b_bytes - 4 * beside}) {
                kvappend_args args = far_apart();
                const auto begin = reinterpret_cast<std::uintptr_t>(args.*a);
                args.*b = place(begin + static_cast<std::uintptr_t>(shift));
                INFO("shift " << shift);
                CHECK(kvappend_plan_can_implement(plan.get(), &args) == (beside == 0 ? KVAPPEND_SUCCESS : refusal));
            }
        }
    };
    using Args = kvappend_args;
    for (const bool k : {true, false}) {
        const std::int64_t cache = bytes(k ? d.k_cache_strides : d.v_cache_strides);
        const auto to = k ? &Args::k_cache : &Args::v_cache;
        check(&Args::k_new, bytes(d.k_new_strides), to, cache, KVAPPEND_ERROR_ALIAS);
        check(&Args::v_new, bytes(d.v_new_strides), to, cache, KVAPPEND_ERROR_ALIAS);
    }
    check(&Args::k_cache, bytes(d.k_cache_strides), &Args::v_cache, bytes(d.v_cache_strides), KVAPPEND_ERROR_OVERLAP);
}

namespace {

// K and V in one memory, as programs lay them out.
struct Layout {
    const char *name;
    std::int64_t strides[2][3]; // of K and V
    std::int64_t dims[2];
    std::int64_t packs[2];
    std::int64_t piece_strides[2];
    std::int64_t distance; // from K to V, in elements
};

constexpr std::int64_t h = 8, r = 16, dim = 128, x = 8, page = h * r * dim;
constexpr Layout layouts[] = {
    {"[2, N, H, R, D]", {{page, r *dim, dim}, {page, r *dim, dim}}, {dim, dim}, {}, {}, 100000 * page},
    {"[N, 2, H, R, D]", {{2 * page, r *dim, dim}, {2 * page, r *dim, dim}}, {dim, dim}, {}, {}, page},
    {"[N, 2, R, H, D]", {{2 * page, dim, h *dim}, {2 * page, dim, h *dim}}, {dim, dim}, {}, {}, page},
    {"[N, R, 2, H, D]", {{2 * page, dim, 2 * h *dim}, {2 * page, dim, 2 * h *dim}}, {dim, dim}, {}, {}, h *dim},
    {"[N, R, H, 2 * D]", {{2 * page, 2 * dim, 2 * h *dim}, {2 * page, 2 * dim, 2 * h *dim}}, {dim, dim}, {}, {}, dim},
    {"[N, H, R, 2 * D]", {{2 * page, 2 * r *dim, 2 * dim}, {2 * page, 2 * r *dim, 2 * dim}}, {dim, dim}, {}, {}, dim},
    {"[N, H, R, 2 * D] with a page of 1 MiB",
     {{1 << 19, 2 * r *dim, 2 * dim}, {1 << 19, 2 * r *dim, 2 * dim}},
     {dim, dim},
     {},
     {},
     dim},
    {"K of 512 and V of 64 in one row",
     {{h * r * 576, r * 576, 576}, {h * r * 576, r * 576, 576}},
     {512, 64},
     {},
     {},
     512},
    {"K [N, H, D/x, R, x] and V [N, H, D, R] in one page",
     {{2 * page, r *dim, x}, {2 * page, r *dim, 1}},
     {dim, dim},
     {x, 1},
     {r * x, r},
     page},
    {"K [N, H, R, D] and V [N, R, H, D] in one page",
     {{2 * page, r *dim, dim}, {2 * page, dim, h *dim}},
     {dim, dim},
     {},
     {},
     page},
    {"pages of 4 layers", {{8 * page, r *dim, dim}, {8 * page, r *dim, dim}}, {dim, dim}, {}, {}, page},
    {"a row of queries, K and V",
     {{r * 48 * dim, dim, 48 * dim}, {r * 48 * dim, dim, 48 * dim}},
     {dim, dim},
     {},
     {},
     h *dim},
};

} // namespace

TEST_CASE("layouts in use are decided within the limit of a run, at any distance", "[strides]") {
    auto random = seeded_random();
    for (const Layout &layout : layouts) {
        INFO(layout.name);
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = subject().backend();
        d.element_type = KVAPPEND_ELEMENT_BF16;
        d.addressing = KVAPPEND_ADDRESSING_PAGED;
        d.batch = d.new_rows = d.table_entries = 1;
        d.cache_blocks = 100000;
        d.heads = h;
        d.cache_rows = r;
        d.k_dim = layout.dims[0];
        d.v_dim = layout.dims[1];
        d.k_pack = layout.packs[0];
        d.v_pack = layout.packs[1];
        d.k_piece_stride = layout.piece_strides[0];
        d.v_piece_stride = layout.piece_strides[1];
        std::ranges::copy(layout.strides[0], d.k_cache_strides);
        std::ranges::copy(layout.strides[1], d.v_cache_strides);
        const PlanPointer plan = make_plan(d);
        kvappend_args args = far_apart();
        args.page_table = static_cast<const std::int32_t *>(place(8192));
        const auto message_at = [&](std::int64_t distance) {
            args.v_cache =
                place(reinterpret_cast<std::uintptr_t>(args.k_cache) + static_cast<std::uintptr_t>(distance) * 2);
            return told(kvappend_plan_can_implement(plan.get(), &args));
        };
        CHECK(message_at(layout.distance) == "KVAPPEND_SUCCESS");
        for (int i = 0; i < 200; ++i) {
            const std::int64_t distance = draw(random, -4 * page, 4 * page);
            INFO("distance " << distance);
            REQUIRE(message_at(distance).find("too irregular") == std::string::npos);
        }
    }
}

TEST_CASE("two caches that share one byte overlap, and those that meet do not", "[strides]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_INT8;
    d.batch = d.heads = d.new_rows = d.cache_rows = 1;
    d.k_dim = 4;
    d.v_dim = 3;
    const PlanPointer plan = make_plan(d);
    // can_implement reads no buffer.
    const auto at = [](std::uintptr_t address) { return reinterpret_cast<void *>(address); };
    constexpr std::uintptr_t k = 0x10000;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = at(0x20000);
    args.v_new = at(0x30000);
    args.cache_offsets = at(0x40000);
    args.k_cache = at(k);
    for (const std::uintptr_t v : {k - 4, k - 3, k + 4, k + 5}) {
        args.v_cache = at(v);
        CHECK(told(kvappend_plan_can_implement(plan.get(), &args)) == "KVAPPEND_SUCCESS");
    }
    for (const std::uintptr_t v : {k - 2, k - 1, k, k + 1, k + 2, k + 3}) {
        args.v_cache = at(v);
        CHECK(kvappend_plan_can_implement(plan.get(), &args) == KVAPPEND_ERROR_OVERLAP);
    }
}
