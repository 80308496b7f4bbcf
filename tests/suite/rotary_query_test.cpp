// SPDX-License-Identifier: Apache-2.0
// Rows of Q that are rotated in the run that appends K.
#include "every_way.hpp"
#include "rotating.hpp"

#include <catch2/catch_test_macros.hpp>

#include <array>
#include <bit>
#include <limits>
#include <tuple>
#include <utility>

namespace {

constexpr std::int32_t styles[] = {KVAPPEND_ROTARY_HALF, KVAPPEND_ROTARY_INTERLEAVED};
constexpr std::int32_t element_types[] = {KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16};

void query(kvappend_rotary &rotary, std::int64_t heads, std::int64_t dim, std::int64_t first = 0) {
    rotary.q_heads = heads;
    rotary.q_dim = dim;
    rotary.q_first = first;
}

// E4M3 with one given scale for everything.
kvappend_storage e4m3() {
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    storage.type = KVAPPEND_STORED_E4M3;
    storage.scaling = KVAPPEND_SCALING_GIVEN;
    return storage;
}

} // namespace

// ---- what is stored ----

namespace {

using Bytes = std::vector<unsigned char>;

// The rows of one sample at the positions 0, 1, ..., and what is stored of them in steps: each step is an append of its
// own that rotates or converts.
class Steps {
public:
    static constexpr std::int64_t rows = 5;

    Steps(std::mt19937_64 &random, const kvappend_descriptor &d)
        : d_(d), cos_(tables(random, d)), sin_(tables(random, d)), scale_(std::vector<float>(1, 0.4F)) {}

    kvappend_args args() const {
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.rotary_cos = cos_.data(), args.rotary_sin = sin_.data();
        args.k_scales = args.v_scales = scale_.data(), args.q_scales = scale_.data();
        return args;
    }

    // What an append stores of rows that are rotated from element `first` on, as they are.
    Bytes rotated(std::int64_t heads, std::int64_t dim, std::int64_t first, const Bytes &from) const {
        kvappend_rotary rotary = *d_.rotary;
        rotary.first = first;
        rotary.q_heads = 0;
        kvappend_descriptor d = rows_of(heads, dim);
        d.rotary = &rotary;
        return appended(d, from);
    }
    Bytes stored(std::int64_t heads, std::int64_t dim, const kvappend_storage *storage, const Bytes &from) const {
        kvappend_descriptor d = rows_of(heads, dim);
        d.k_storage = storage;
        return appended(d, from);
    }

private:
    static std::vector<float> tables(std::mt19937_64 &random, const kvappend_descriptor &d) {
        std::vector<float> all(static_cast<std::size_t>(rows * d.rotary->dim / 2));
        std::ranges::generate(all, [&] { return std::uniform_real_distribution<float>(-1, 1)(random); });
        return all;
    }
    kvappend_descriptor rows_of(std::int64_t heads, std::int64_t dim) const {
        kvappend_descriptor d = d_;
        d.heads = heads, d.k_dim = dim, d.v_dim = 0;
        d.rotary = nullptr, d.k_storage = d.v_storage = nullptr;
        return d;
    }
    Bytes appended(const kvappend_descriptor &d, const Bytes &from) const {
        const Held<unsigned char> k_new(from);
        const Held<unsigned char> k_cache{Bytes(from.size())};
        kvappend_args a = args();
        a.k_new = k_new.data(), a.k_cache = k_cache.data();
        const PlanPointer plan = make_plan(d);
        REQUIRE(told(kvappend_plan_run(plan.get(), &a, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
        Bytes found(from.size());
        subject().download(found.data(), k_cache.data(), k_cache.bytes());
        return found;
    }

    kvappend_descriptor d_;
    Held<float> cos_;
    Held<float> sin_;
    Held<float> scale_;
};

} // namespace

TEST_CASE("one run stores of K, V and Q what runs store that rotate, append and convert one after the other",
          "[rotary]") {
    auto random = seeded_random();
    const kvappend_storage scaled = e4m3();
    for (const std::int32_t style : styles) {
        for (const std::int32_t type : element_types) {
            for (const kvappend_storage *const storage : {static_cast<const kvappend_storage *>(nullptr), &scaled}) {
                Dense problem(40, Steps::rows, Steps::rows);
                problem.rotary = halves(24, Steps::rows);
                problem.rotary.style = style;
                problem.rotary.first = 7;
                query(problem.rotary, 6, 72, 40);
                problem.rotary.q_storage = storage;
                kvappend_descriptor &d = problem.d;
                d.element_type = type;
                d.heads = 2;
                d.v_dim = 16;
                d.k_storage = d.v_storage = storage;
                const Steps steps(random, d);
                const auto any = [&](std::int64_t heads, std::int64_t dim) {
                    const auto bytes = static_cast<std::int64_t>(element_bytes(type));
                    return random_elements<unsigned char>(random, heads * Steps::rows * dim * bytes);
                };
                const Bytes k = any(2, 40);
                const Bytes v = any(2, 16);
                const Bytes q = any(6, 72);
                const Held<unsigned char> k_new(k);
                const Held<unsigned char> v_new(v);
                const Held<unsigned char> q_rows(q);
                const Held<unsigned char> k_cache{Bytes(k.size())};
                const Held<unsigned char> v_cache{Bytes(v.size())};
                const Held<unsigned char> q_out{Bytes(q.size())};
                kvappend_args args = steps.args();
                args.k_new = k_new.data(), args.v_new = v_new.data(), args.q = q_rows.data();
                args.k_cache = k_cache.data(), args.v_cache = v_cache.data(), args.q_out = q_out.data();
                const PlanPointer plan = make_plan(d);
                REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) ==
                        "KVAPPEND_SUCCESS");
                CHECK(k_cache.holds(steps.stored(2, 40, storage, steps.rotated(2, 40, 7, k))));
                CHECK(v_cache.holds(steps.stored(2, 16, storage, v)));
                CHECK(q_out.holds(steps.stored(6, 72, storage, steps.rotated(6, 72, 40, q))));
                CHECK(q_rows.holds(q));
            }
        }
    }
}

TEST_CASE("rows of Q are rotated in place, and rows of K and of Q into codes, however long they are", "[rotary]") {
    auto random = seeded_random();
    kvappend_storage given = e4m3();
    kvappend_storage computed = e4m3();
    computed.scaling = KVAPPEND_SCALING_COMPUTED;
    const std::array<std::int64_t, 4> strides = {2 * 8 * 12, 8 * 12, 12, 4};
    std::ranges::copy(strides, computed.scale_strides);
    for (const std::int32_t style : styles) {
        for (const std::int32_t type : element_types) {
            for (const auto &[dim, first] :
                 {std::pair(64, 0), {514, 1}, {1026, 0}, {1026, 7}, {1538, 1}, {2050, 513}}) {
                INFO("style " << style << ", type " << type << ", dim " << dim << ", first " << first);
                Scenario scenario = appending(KVAPPEND_ADDRESSING_DENSE, 2, 3, 8);
                scenario.descriptor.element_type = type;
                scenario.descriptor.k_dim = first + dim + 3;
                scenario.offsets = {4, 0};
                scenario.tame = true;
                kvappend_rotary rotary = halves(dim, 6); // The last row of sample 0 is beyond it.
                rotary.style = style;
                rotary.first = first;
                query(rotary, 2, first + dim + 3, first);
                scenario.rotate(rotary);
                place_apart(scenario, 64, 64);
                check_scenario(scenario, random);
                share_block(scenario, q_out, q_rows, 0);
                check_scenario(scenario, random);
                // Where the parts of a long row begin and end depends on its groups.
                given.group = computed.group = rotary.q_dim % 6 == 0 ? rotary.q_dim / 3 : 0;
                rotary.q_storage = &given;
                scenario.rotate(rotary);
                scenario.store_k(computed);
                place_apart(scenario, 64, 64);
                check_scenario(scenario, random);
            }
        }
    }
}

// ---- which rows are rotated ----

namespace {

// Rows of Q with the elements 1 and 2 that are turned by a quarter, beside one head of K.
class QuarterTurns {
public:
    explicit QuarterTurns(std::int64_t rows, std::int64_t table_rows)
        : problem_(2, rows, table_rows), args_(KVAPPEND_ARGS_INIT), k_(std::vector<float>(64)),
          cos_(std::vector<float>(64, 0)), sin_(std::vector<float>(64, 1)), report_(std::vector<kvappend_report>(1)) {
        query(problem_.rotary, 1, 2);
        for (std::int64_t row = 0; row < rows; ++row) {
            q_.insert(q_.end(), {1, 2});
        }
        args_.k_new = k_.data();
        args_.rotary_cos = cos_.data(), args_.rotary_sin = sin_.data();
        args_.report = report_.data();
    }

    kvappend_descriptor &d() { return problem_.d; }
    kvappend_args &args() { return args_; }

    // Runs it, and says of each row of q_out whether it is turned ('t'), left as it is ('.') or anything else ('?').
    std::string rows(const std::string &told_by_run = "KVAPPEND_SUCCESS") {
        const Held<float> q(q_);
        const Held<float> q_out(std::vector<float>(q_.size(), 7));
        const Held<float> k_cache(std::vector<float>(64));
        args_.q = q.data(), args_.q_out = q_out.data(), args_.k_cache = k_cache.data();
        const PlanPointer plan = make_plan(d());
        CHECK(told(kvappend_plan_run(plan.get(), &args_, nullptr, 0, subject().stream())) == told_by_run);
        CHECK(q.holds(q_));
        std::vector<float> found(q_.size());
        subject().download(found.data(), q_out.data(), q_out.bytes());
        std::string rows;
        for (std::size_t i = 0; i < found.size(); i += 2) {
            const std::pair row(found[i], found[i + 1]);
            rows += row == std::pair(-2.0F, 1.0F) ? 't' : row == std::pair(7.0F, 7.0F) ? '.' : '?';
        }
        CHECK(q_out.holds(found)); // and nothing around it
        return rows;
    }
    kvappend_report report() const {
        kvappend_report found;
        subject().download(&found, report_.data(), sizeof found);
        return found;
    }

private:
    Dense problem_;
    kvappend_args args_;
    Held<float> k_;
    Held<float> cos_;
    Held<float> sin_;
    Held<kvappend_report> report_;
    std::vector<float> q_;
};

} // namespace

TEST_CASE("Q is rotated in rows that have a place", "[rotary]") {
    CHECK(QuarterTurns(3, 3).rows() == "ttt");
    SECTION("not where the tables lack the position") {
        CHECK(QuarterTurns(3, 2).rows() == "tt.");
        QuarterTurns turns(4, 4);
        const Held<std::int64_t> positions{{0, -1, 4, 3}};
        turns.d().flags |= KVAPPEND_FLAG_POSITIONS;
        turns.args().positions = positions.data();
        CHECK(turns.rows() == "t..t");
    }
    SECTION("not where the cache lacks it") {
        QuarterTurns turns(4, 9);
        turns.d().cache_rows = 2;
        turns.d().flags = 0;
        const Held<std::int64_t> below{{-1}};
        turns.args().cache_offsets = below.data();
        CHECK(turns.rows() == ".tt.");
    }
    SECTION("not in padding") {
        QuarterTurns turns(4, 9);
        const Held<std::int32_t> pads{{3}};
        turns.d().flags |= KVAPPEND_FLAG_LEFT_PADS;
        turns.args().left_pads = pads.data();
        CHECK(turns.rows() == "...t");
    }
    SECTION("not without a slot") {
        QuarterTurns turns(4, 9);
        const Held<std::int64_t> slots{{2, -1, 4, 0}};
        const Held<std::int64_t> positions{{8, 0, 0, 9}};
        turns.d().addressing = KVAPPEND_ADDRESSING_SLOTS;
        turns.d().cache_blocks = 1;
        turns.d().flags = KVAPPEND_FLAG_POSITIONS;
        turns.args().slots = slots.data();
        turns.args().positions = positions.data();
        CHECK(turns.rows() == "t...");
    }
}

TEST_CASE("Q is rotated in rows of a ring that later rows replace, if the tables have their positions", "[rotary]") {
    const auto ring = [](std::int64_t table_rows, const std::vector<std::int64_t> &values) {
        QuarterTurns turns(5, table_rows);
        const Held<std::int64_t> positions(values);
        turns.d().addressing = KVAPPEND_ADDRESSING_RING;
        turns.d().cache_rows = 2;
        turns.d().flags |= values.empty() ? 0 : KVAPPEND_FLAG_POSITIONS;
        turns.args().positions = positions.data();
        return turns.rows();
    };
    CHECK(ring(5, {}) == "ttttt");
    CHECK(ring(4, {}) == "tttt.");
    CHECK(ring(2, {}) == "tt...");
    CHECK(ring(5, {0, 9, -1, 4, 5}) == "t..t.");
}

TEST_CASE("a report counts no row of Q", "[rotary]") {
    QuarterTurns turns(5, 4);
    turns.d().addressing = KVAPPEND_ADDRESSING_RING;
    turns.d().cache_rows = 2;
    turns.d().skip_policy = KVAPPEND_SKIP_REPORT;
    turns.d().flags |= KVAPPEND_FLAG_COUNT_WRITTEN;
    CHECK(turns.rows() == "tttt.");
    CHECK(turns.report().rows_written == 1);
    CHECK(turns.report().rows_replaced == 3);
    CHECK(turns.report().rows_above == 1);
    CHECK(turns.report().rows_below + turns.report().rows_padding == 0);
}

TEST_CASE("on the host a trap leaves Q as it is", "[rotary]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a trap would end the program");
    }
    QuarterTurns turns(3, 2);
    turns.d().skip_policy = KVAPPEND_SKIP_TRAP;
    CHECK(turns.rows("KVAPPEND_ERROR_SKIPPED: row 2 of sample 0 has the position 2, above the rotary tables: expected "
                     "a place for every row, as descriptor.skip_policy is KVAPPEND_SKIP_TRAP") == "...");
}

TEST_CASE("without K to append, nothing is done for Q, and its buffers may be NULL", "[rotary]") {
    for (std::int64_t kvappend_descriptor::*const extent :
         {&kvappend_descriptor::heads, &kvappend_descriptor::cache_rows}) {
        QuarterTurns turns(3, 3);
        turns.d().*extent = 0;
        CHECK(turns.rows() == "...");
        const PlanPointer plan = make_plan(turns.d());
        const kvappend_args none = KVAPPEND_ARGS_INIT;
        CHECK(told(kvappend_plan_run(plan.get(), &none, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    }
}

TEST_CASE("Q in place is rotated once, even if lengths give a row to two samples", "[rotary]") {
    Dense problem(2, 4, 4);
    problem.d.batch = 3;
    problem.d.lengths = KVAPPEND_LENGTHS_PACKED;
    query(problem.rotary, 1, 2);
    const Held<float> k(std::vector<float>(8));
    const Held<float> cache(std::vector<float>(24));
    const Held<float> cos(std::vector<float>(4));
    const Held<float> sin(std::vector<float>(4, 1));
    const Held<float> q(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8});
    const Held<std::int32_t> lengths(std::vector<std::int32_t>{0, 3, 1, 4});
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = k.data(), args.k_cache = cache.data(), args.lengths = lengths.data();
    args.rotary_cos = cos.data(), args.rotary_sin = sin.data(), args.q = args.q_out = q.data();
    const PlanPointer plan = make_plan(problem.d);
    REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    CHECK(q.holds({-2, 1, -4, 3, -6, 5, -8, 7})); // x1 * 0 - x2 * 1 and x2 * 0 + x1 * 1
}

TEST_CASE("layers with Q beside layers without", "[rotary]") {
    auto random = seeded_random();
    std::vector<ScenarioLayer> layers;
    for (const std::int64_t heads : {0, 3, 0, 1}) {
        Scenario scenario = appending(KVAPPEND_ADDRESSING_DENSE, 2, 3, 4);
        scenario.offsets = {0, 2};
        kvappend_rotary rotary = halves(8, 4);
        query(rotary, heads, 10, 1);
        scenario.rotate(rotary);
        place_apart(scenario, 64, 64);
        layers.push_back({scenario});
        layers.push_back({scenario, static_cast<int>(layers.size()) - 1});
        if (heads == 1) { // in place, beside a layer of the same plan that is not
            share_block(layers.back().scenario, q_out, q_rows, 0);
        }
    }
    check_layers(layers, random, 2);
}

// ---- what is refused ----

namespace {

// Two heads of Q of 8 elements.
struct WithQuery : Dense {
    WithQuery() : Dense(8, 2, 4) { query(rotary, 2, 8); }

    std::string refused() const { return ::refused(d); }
};

} // namespace

TEST_CASE("a field of Q that is out of its range is refused by name, unless there is no Q", "[rotary]") {
    const struct {
        std::int64_t heads, dim, first;
        const char *message;
    } cases[] = {
        {-1, 8, 0, "q_heads is -1: expected 0 or more"},       {2, 7, 0, "q_dim is 7: expected at least dim"},
        {2, -8, 0, "q_dim is -8: expected at least dim"},      {2, 8, 1, "q_first is 1: expected 0 to q_dim - dim"},
        {2, 10, 3, "q_first is 3: expected 0 to q_dim - dim"}, {2, 10, -1, "q_first is -1: expected 0 to q_dim - dim"}};
    for (const auto &c : cases) {
        WithQuery problem;
        query(problem.rotary, c.heads, c.dim, c.first);
        CHECK(problem.refused() == std::string("KVAPPEND_ERROR_ROTARY: descriptor.rotary->") + c.message);
        problem.rotary.q_heads = 0;
        CHECK(problem.refused() == "KVAPPEND_SUCCESS");
    }
    WithQuery problem;
    query(problem.rotary, 2, 10, 2);
    CHECK(problem.refused() == "KVAPPEND_SUCCESS");
    problem.rotary.q_strides[KVAPPEND_AXIS_HEAD] = -1;
    CHECK(problem.refused() == "KVAPPEND_ERROR_STRIDE: descriptor.rotary->q_strides[KVAPPEND_AXIS_HEAD] is -1: "
                               "expected 0 or more elements");
    problem.rotary.q_strides[KVAPPEND_AXIS_HEAD] = 0;
    problem.rotary.q_out_strides[KVAPPEND_AXIS_ROW] = -1;
    CHECK(problem.refused() == "KVAPPEND_ERROR_STRIDE: descriptor.rotary->q_out_strides[KVAPPEND_AXIS_ROW] is -1: "
                               "expected 0 or more elements");
    query(problem.rotary, 0, -1, -1); // A field that is ignored may even point to no struct.
    problem.rotary.q_storage = reinterpret_cast<const kvappend_storage *>(std::uintptr_t{8});
    CHECK(problem.refused() == "KVAPPEND_SUCCESS");
}

TEST_CASE("rows of Q that do not fit in 63 bits are refused", "[rotary]") {
    WithQuery problem;
    query(problem.rotary, most64 / 64 + 1, 8);
    CHECK(problem.refused().starts_with("KVAPPEND_ERROR_OVERFLOW: q [1, 144115188075855872, 2, 8]"));
    query(problem.rotary, 2, most64);
    CHECK(problem.refused().starts_with("KVAPPEND_ERROR_OVERFLOW: q [1, 2, 2, 9223372036854775807]"));
    query(problem.rotary, 2, 8);
    problem.rotary.q_out_strides[KVAPPEND_AXIS_HEAD] = most64;
    CHECK(problem.refused().starts_with("KVAPPEND_ERROR_OVERFLOW: q_out [1, 2, 2, 8]"));
}

TEST_CASE("a storage of Q has codes of whole bytes, and scales that are given and the same for all rows", "[rotary]") {
    const auto check = [](auto change, const std::string &message) {
        WithQuery problem;
        kvappend_storage storage = e4m3();
        change(storage);
        problem.rotary.q_storage = &storage;
        CHECK(problem.refused() == message);
        // Only Q has these limits.
        if (message.starts_with("KVAPPEND_ERROR_CONFLICT")) {
            problem.rotary.q_heads = 0;
            CHECK(problem.refused() == "KVAPPEND_SUCCESS");
        }
    };
    const std::string conflict = "KVAPPEND_ERROR_CONFLICT: descriptor.rotary->q_storage->";
    const std::string storage = "KVAPPEND_ERROR_STORAGE: descriptor.rotary->q_storage->";
    using Storage = kvappend_storage;
    check([](Storage &) {}, "KVAPPEND_SUCCESS");
    check([](Storage &s) { s.group = 2, s.scale_strides[1] = 16, s.scale_strides[3] = 4; }, "KVAPPEND_SUCCESS");
    check([](Storage &s) { s.type = KVAPPEND_STORED_INT4; },
          conflict + "type is 7: expected codes of 8 bits or more in a storage of Q");
    check([](Storage &s) { s.type = KVAPPEND_STORED_E2M1; },
          conflict + "type is 8: expected codes of 8 bits or more in a storage of Q");
    check([](Storage &s) { s.scaling = KVAPPEND_SCALING_COMPUTED; },
          conflict + "scaling is 2: expected KVAPPEND_SCALING_NONE or KVAPPEND_SCALING_GIVEN in a storage of Q");
    check(
        [](Storage &s) {
            s.scale_type = KVAPPEND_SCALE_E4M3;
            s.scale_order = KVAPPEND_SCALE_BY_FOUR_ROWS;
        },
        conflict + "scale_order is 1: expected KVAPPEND_SCALE_LINEAR in a storage of Q");
    check([](Storage &s) { s.global_scale = 1; }, conflict + "global_scale is 1: expected 0 in a storage of Q");
    for (const int axis : {0, 2}) {
        check([&](Storage &s) { s.scale_strides[axis] = 4; },
              conflict + "scale_strides[" + std::to_string(axis) +
                  "] is 4: expected 0, because all rows have the same scales in a storage of Q");
    }
    // All else is as in the storages of K and V.
    check([](Storage &s) { s.type = 99; }, storage + "type is 99: expected a KVAPPEND_STORED_* constant");
    check([](Storage &s) { s.scaling = 3; }, storage + "scaling is 3: expected a KVAPPEND_SCALING_* constant");
    check([](Storage &s) { s.scale_order = 2; },
          storage + "scale_order is 2: expected a constant of enum kvappend_scale_order");
    check([](Storage &s) { s.global_scale = 2; }, storage + "global_scale is 2: expected 0 or 1");
    check([](Storage &s) { s.group = 3; },
          storage + "group is 3 and the dimension is 8: expected 0 or a divisor of the dimension");
    check([](Storage &s) { s.scale_strides[3] = 2; },
          "KVAPPEND_ERROR_STRIDE: descriptor.rotary->q_storage->scale_strides[3] is 2: expected 0 or more bytes, and a "
          "multiple of 4");
    check([](Storage &s) { s.scale_strides[1] = -4; },
          "KVAPPEND_ERROR_STRIDE: descriptor.rotary->q_storage->scale_strides[KVAPPEND_AXIS_HEAD] is -4: expected 0 or "
          "more bytes");
    check([](Storage &s) { s.struct_size = 12; },
          "KVAPPEND_ERROR_STRUCT_SIZE: descriptor.rotary->q_storage.struct_size is 12: expected a multiple of 8 from 8 "
          "to 4096, as the struct's _INIT macro or init function sets it");
    WithQuery problem;
    kvappend_storage f16 = KVAPPEND_STORAGE_INIT;
    f16.type = KVAPPEND_STORED_F16;
    problem.rotary.q_storage = &f16;
    problem.rotary.q_out_strides[KVAPPEND_AXIS_ROW] = 17;
    CHECK(problem.refused() == "KVAPPEND_ERROR_STRIDE: descriptor.rotary->q_out_strides[KVAPPEND_AXIS_ROW] is 17: "
                               "expected a multiple of 2 bytes, because it counts bytes");
}

TEST_CASE("rows of q_out that share memory are refused, and rows of q are not", "[rotary]") {
    WithQuery problem;
    const auto set = [](std::int64_t(&strides)[3], std::int64_t head, std::int64_t row) {
        strides[KVAPPEND_AXIS_HEAD] = head;
        strides[KVAPPEND_AXIS_ROW] = row;
    };
    set(problem.rotary.q_strides, 0, 4);
    CHECK(problem.refused() == "KVAPPEND_SUCCESS");
    set(problem.rotary.q_out_strides, 8, 16);
    CHECK(problem.refused() == "KVAPPEND_SUCCESS");
    set(problem.rotary.q_out_strides, 7, 16);
    CHECK(problem.refused() == "KVAPPEND_ERROR_OVERLAP: q_out [1, 2, 2, 8] with strides {0, 7, 16}: two of its rows "
                               "share memory; expected rows that share no element");
}

namespace {

// The buffers of a problem with Q and a scale for each of its heads, in one pool with room for all of them.
struct Pool {
    Held<float> elements{std::vector<float>(400, 0.5F)};
    kvappend_args args = KVAPPEND_ARGS_INIT;

    Pool() {
        args.k_new = at(0), args.k_new_bytes = 64;
        args.k_cache = at(16), args.k_cache_bytes = 64;
        args.q = at(32), args.q_bytes = 128;
        args.q_out = at(64), args.q_out_bytes = 128;
        args.q_scales = at(100), args.q_scales_bytes = 8;
        args.rotary_cos = at(200), args.rotary_sin = at(300);
    }
    float *at(std::size_t element) const { return elements.data() + element; }

    template <class Change>
    void check(const WithQuery &problem, Change change, const std::string &begin) const {
        kvappend_args changed = args;
        change(changed);
        const PlanPointer plan = make_plan(problem.d);
        const std::string message = told(kvappend_plan_can_implement(plan.get(), &changed));
        INFO(message);
        CHECK(message.starts_with(begin));
    }
};

} // namespace

TEST_CASE("strides of q_out are not checked if there is no K to append", "[rotary]") {
    WithQuery problem;
    query(problem.rotary, 2, 8);
    problem.rotary.q_out_strides[KVAPPEND_AXIS_ROW] = 1;
    CHECK(problem.refused().starts_with("KVAPPEND_ERROR_OVERLAP: q_out"));
    problem.d.cache_rows = 0;
    CHECK(problem.refused() == "KVAPPEND_SUCCESS");
}

TEST_CASE("the buffers of Q are checked as all buffers are", "[rotary]") {
    const Pool pool;
    WithQuery problem;
    kvappend_storage storage = e4m3();
    storage.scale_strides[KVAPPEND_AXIS_HEAD] = 4;
    problem.rotary.q_storage = &storage;
    const auto check = [&](auto change, const std::string &begin) { pool.check(problem, change, begin); };
    using Args = kvappend_args;
    check([](Args &) {}, "KVAPPEND_SUCCESS");
    check([](Args &a) { a.q = nullptr; }, "KVAPPEND_ERROR_NULL_BUFFER: args.q is NULL: expected a buffer of 128 bytes");
    check([](Args &a) { a.q_out = nullptr; },
          "KVAPPEND_ERROR_NULL_BUFFER: args.q_out is NULL: expected a buffer of 32 bytes");
    check([](Args &a) { a.q_scales = nullptr; },
          "KVAPPEND_ERROR_NULL_BUFFER: args.q_scales is NULL: expected a buffer of 8 bytes");
    check([](Args &a) { a.q_bytes = 127; },
          "KVAPPEND_ERROR_BUFFER_TOO_SMALL: args.q_bytes is 127: expected at least 128");
    check([](Args &a) { a.q_out_bytes = 31; },
          "KVAPPEND_ERROR_BUFFER_TOO_SMALL: args.q_out_bytes is 31: expected at least 32");
    check([](Args &a) { a.q_scales_bytes = 7; },
          "KVAPPEND_ERROR_BUFFER_TOO_SMALL: args.q_scales_bytes is 7: expected at least 8");
    check([](Args &a) { a.q = static_cast<const char *>(a.q) + 2; }, "KVAPPEND_ERROR_MISALIGNED: args.q is ");
    check([](Args &a) { a.q_out = static_cast<char *>(a.q_out) + 1; }, "KVAPPEND_SUCCESS"); // of codes of one byte
    check([](Args &a) { a.q_scales = static_cast<const char *>(a.q_scales) + 2; },
          "KVAPPEND_ERROR_MISALIGNED: args.q_scales is ");
    check([](Args &a) { a.q_scales = a.rotary_cos; }, "KVAPPEND_SUCCESS"); // A run writes neither.
    check([](Args &a) { a.q_scales = a.q_out; }, "KVAPPEND_ERROR_ALIAS: args.q_scales ");
    check([](Args &a) { a.q_scales = a.k_cache; }, "KVAPPEND_ERROR_ALIAS: args.q_scales ");
    check([](Args &a) { a.q_out = const_cast<void *>(a.q); }, "KVAPPEND_ERROR_ALIAS: args.q ");
    problem.rotary.q_storage = nullptr;
    check([](Args &a) { a.q_scales = nullptr; }, "KVAPPEND_SUCCESS");
    check([](Args &a) { a.q_out = static_cast<char *>(a.q_out) + 2; }, "KVAPPEND_ERROR_MISALIGNED: args.q_out is ");
    problem.rotary.q_heads = 0;
    check([](Args &a) { a.q = a.q_out = a.k_cache; }, "KVAPPEND_SUCCESS");
}

TEST_CASE("q_out shares no memory with other buffers, unless Q is rotated in place", "[rotary]") {
    const Pool pool;
    WithQuery problem;
    const auto q_out_at = [&](const void *element, const std::string &begin) {
        pool.check(
            problem, [&](kvappend_args &a) { a.q_out = const_cast<void *>(element), a.q_out_bytes = 0; }, begin);
    };
    const void *const q = pool.at(32);
    q_out_at(q, "KVAPPEND_SUCCESS");
    q_out_at(pool.at(33), "KVAPPEND_ERROR_ALIAS: args.q [");
    q_out_at(pool.at(31), "KVAPPEND_ERROR_ALIAS: args.q");
    q_out_at(pool.at(63), "KVAPPEND_ERROR_ALIAS: args.q [");
    q_out_at(pool.at(0), "KVAPPEND_ERROR_ALIAS: args.");
    q_out_at(pool.at(17), "KVAPPEND_ERROR_ALIAS: args.");
    q_out_at(pool.at(169), "KVAPPEND_ERROR_ALIAS: args.rotary_cos [");
    q_out_at(pool.at(168), "KVAPPEND_SUCCESS");
    // K is given a tensor that lies elsewhere, so that q_out reaches into k_new alone.
    pool.check(
        problem,
        [&](kvappend_args &a) {
            a.k_cache = pool.at(220);
            a.q_out = pool.at(15);
        },
        "KVAPPEND_ERROR_ALIAS: args.k_new [");
    pool.check(
        problem, [](kvappend_args &a) { a.q = a.k_new, a.q_bytes = 0; }, "KVAPPEND_ERROR_ALIAS: args.q [");
    pool.check(
        problem,
        [&](kvappend_args &a) {
            a.k_cache = pool.at(220);
            a.q = a.k_new;
        },
        "KVAPPEND_SUCCESS"); // A run writes neither.

    SECTION("in place, too, it shares none with a third") {
        pool.check(
            problem, [](kvappend_args &a) { a.q = a.q_out = const_cast<void *>(a.rotary_cos); },
            "KVAPPEND_ERROR_ALIAS: args.rotary_cos [");
        pool.check(
            problem, [](kvappend_args &a) { a.q = a.q_out = a.k_cache; }, "KVAPPEND_ERROR_ALIAS: args.q");
    }
    SECTION("strides lay out the same tensor if they differ where an axis has one entry") {
        for (const auto &[head, row, fits] : {std::tuple(16, 8, true), {8, 16, false}, {17, 8, false}}) {
            problem.rotary.q_out_strides[KVAPPEND_AXIS_BATCH] = 100;
            problem.rotary.q_out_strides[KVAPPEND_AXIS_HEAD] = head;
            problem.rotary.q_out_strides[KVAPPEND_AXIS_ROW] = row;
            q_out_at(q, fits ? "KVAPPEND_SUCCESS" : "KVAPPEND_ERROR_ALIAS: args.q [");
        }
    }
    SECTION("a storage of the type of the elements keeps their bits") {
        kvappend_storage storage = KVAPPEND_STORAGE_INIT;
        problem.rotary.q_storage = &storage;
        for (const auto &[type, fits] :
             {std::pair(KVAPPEND_STORED_AS_IS, true), {KVAPPEND_STORED_F32, true}, {KVAPPEND_STORED_F16, false}}) {
            storage.type = type;
            q_out_at(q, fits ? "KVAPPEND_SUCCESS" : "KVAPPEND_ERROR_ALIAS: args.q [");
        }
        // Even if narrower codes begin where the elements of their rows do.
        problem.rotary.q_out_strides[KVAPPEND_AXIS_HEAD] = 64;
        problem.rotary.q_out_strides[KVAPPEND_AXIS_ROW] = 32;
        q_out_at(q, "KVAPPEND_ERROR_ALIAS: args.q [");
    }
    SECTION("they may be interleaved, with K too, as parts of one projection") {
        kvappend_descriptor &d = problem.d;
        for (std::int64_t(*const strides)[3] :
             {&problem.rotary.q_strides, &problem.rotary.q_out_strides, &d.k_new_strides, &d.k_cache_strides}) {
            (*strides)[KVAPPEND_AXIS_HEAD] = 8;
            (*strides)[KVAPPEND_AXIS_ROW] = 48;
        }
        const auto check = [&](std::size_t out, const std::string &begin) {
            pool.check(
                problem,
                [&](kvappend_args &a) {
                    a = KVAPPEND_ARGS_INIT;
                    a.rotary_cos = a.rotary_sin = pool.at(300);
                    a.q = pool.at(0), a.k_new = pool.at(16), a.k_cache = pool.at(24), a.q_out = pool.at(out);
                },
                begin);
        };
        check(32, "KVAPPEND_SUCCESS");
        check(0, "KVAPPEND_SUCCESS");
        check(31, "KVAPPEND_ERROR_ALIAS: args.q_out");
        check(33, "KVAPPEND_ERROR_ALIAS: args.");
        check(8, "KVAPPEND_ERROR_ALIAS: args.");
    }
}

TEST_CASE("validate looks at the scales of Q if a row is rotated", "[rotary]") {
    Pool pool;
    WithQuery problem;
    kvappend_storage storage = e4m3();
    storage.scale_strides[KVAPPEND_AXIS_HEAD] = 4;
    problem.rotary.q_storage = &storage;
    std::vector<float> elements(400, 0.5F);
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    const auto validate = [&](float scale) {
        elements[101] = scale;
        pool.elements.set(elements);
        const PlanPointer plan = make_plan(problem.d);
        return told(kvappend_plan_validate(plan.get(), &pool.args, nullptr, 0, subject().stream(), &fault));
    };
    CHECK(validate(0.5F) == "KVAPPEND_SUCCESS");
    for (const float bad :
         {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        CHECK(validate(bad).starts_with("KVAPPEND_ERROR_SCALE: args.q_scales[1] is "));
        CHECK(fault.array == std::string("q_scales"));
        CHECK(fault.index == 1);
        CHECK(fault.value == static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(bad)));
    }
    const Held<std::int32_t> pads{{2}}; // A row that is not there reads no scale.
    problem.d.flags |= KVAPPEND_FLAG_LEFT_PADS;
    pool.args.left_pads = pads.data();
    CHECK(validate(0.0F) == "KVAPPEND_SUCCESS");
    pool.args.left_pads = nullptr;
    problem.d.flags &= ~KVAPPEND_FLAG_LEFT_PADS;
    storage.scale_strides[KVAPPEND_AXIS_HEAD] = 0; // The first scale serves both heads.
    CHECK(validate(0.0F) == "KVAPPEND_SUCCESS");
}
