// SPDX-License-Identifier: Apache-2.0
// Rows of K that are rotated on their way into the cache. rotary_query_test.cpp is about those of Q.
#include "every_way.hpp"
#include "random_scenario.hpp"
#include "rotating.hpp"

#include <catch2/catch_test_macros.hpp>

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

TEST_CASE("random problems that rotate K agree with the reference in every byte", "[rotary]") {
    auto random = seeded_random();
    for (int i = 0; i < 1500; ++i) {
        INFO("problem " << i);
        const Focus focus{.converts = i % 2 == 0, .rotates = true, .operation = KVAPPEND_OPERATION_APPEND};
        check_scenario(RandomScenario(random, focus).draw(), random, 2);
    }
}

TEST_CASE("problems that take a special way without a rotation agree with the reference with one", "[rotary]") {
    auto random = seeded_random();
    for (std::size_t i = 0; i < 50 * Focus::count; ++i) {
        INFO("problem " << i);
        Focus focus = Focus::of(i);
        focus.converts = i % 5 == 0;
        focus.rotates = true;
        focus.operation = KVAPPEND_OPERATION_APPEND;
        check_scenario(RandomScenario(random, focus).draw(), random, 2);
    }
}

TEST_CASE("every kernel that rotates stores the same bytes", "[rotary]") {
    auto random = seeded_random();
    for (const std::string &name : kernels_of_subject()) {
        int served = 0;
        for (int i = 0; i < 150; ++i) {
            INFO("problem " << i);
            const Focus focus{
                .converts = i % 2 == 0, .rotates = true, .wide = i % 3 == 0, .operation = KVAPPEND_OPERATION_APPEND};
            Scenario scenario = RandomScenario(random, focus).draw();
            scenario.kernel = name;
            if (kernel_serves(scenario)) {
                check_scenario(scenario, random);
                ++served;
            }
        }
        INFO(name << " served " << served << " problems");
        CHECK((served > 0 || name.find("rotate") == std::string::npos));
    }
}

namespace {

// Each addressing with each way to say how many rows a sample has. Positions are 0 to 15.
std::vector<Scenario> each_addressing() {
    std::vector<Scenario> all;
    for (const std::int32_t addressing :
         {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR,
          KVAPPEND_ADDRESSING_SLOTS}) {
        const bool slots = addressing == KVAPPEND_ADDRESSING_SLOTS;
        const bool pages = addressing == KVAPPEND_ADDRESSING_PAGED || addressing == KVAPPEND_ADDRESSING_PAGED_CSR;
        for (const std::int32_t lengths : {KVAPPEND_LENGTHS_FIXED, KVAPPEND_LENGTHS_PER_SAMPLE, KVAPPEND_LENGTHS_PACKED,
                                           KVAPPEND_LENGTHS_PER_TOKEN}) {
            if (slots && lengths != KVAPPEND_LENGTHS_FIXED) {
                continue;
            }
            Scenario scenario = appending(addressing, slots ? 1 : 2, 6, slots || pages ? 4 : 16);
            kvappend_descriptor &d = scenario.descriptor;
            d.k_dim = d.v_dim = 32;
            d.lengths = lengths;
            d.cache_blocks = slots || pages ? 9 : 0;
            d.table_entries = pages ? (addressing == KVAPPEND_ADDRESSING_PAGED ? 4 : 8) : 0;
            scenario.offsets = {3, 10};
            scenario.slots = {5, 4, 20, -1, 35, 7};
            scenario.lengths = lengths == KVAPPEND_LENGTHS_PACKED ? std::vector<std::int64_t>{0, 2, 6}
                                                                  : std::vector<std::int64_t>{6, 4};
            scenario.page_table = {8, 1, 3, 5, 0, 2, 4, 7};
            scenario.page_indptr = {0, 4, 8};
            scenario.token_samples = {0, 1, 0, 1, 1, 0};
            scenario.token_positions = {7, 2, 8, 15, 0, 3};
            all.push_back(scenario);
        }
    }
    return all;
}

void arrange(Scenario &scenario) {
    place_apart(scenario, 128, 128);
    if (scenario.descriptor.rotary != nullptr &&
        scenario.descriptor.rotary->table_stride == scenario.descriptor.rotary->dim) {
        join_tables(scenario);
    }
}

} // namespace

TEST_CASE("each addressing, with each style, type and layout of the tables, and each format", "[rotary]") {
    auto random = seeded_random();
    const std::int32_t stored[] = {KVAPPEND_STORED_AS_IS, KVAPPEND_STORED_F32,  KVAPPEND_STORED_F16,
                                   KVAPPEND_STORED_BF16,  KVAPPEND_STORED_E4M3, KVAPPEND_STORED_E5M2,
                                   KVAPPEND_STORED_INT8,  KVAPPEND_STORED_INT4, KVAPPEND_STORED_E2M1};
    std::size_t turn = 0;
    for (Scenario scenario : each_addressing()) {
        for (const std::int32_t style : {KVAPPEND_ROTARY_HALF, KVAPPEND_ROTARY_INTERLEAVED}) {
            for (const std::int32_t table : {KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16}) {
                for (const auto &[dim, first] : {std::pair(32, 0), {16, 8}, {6, 1}, {2, 30}}) {
                    kvappend_descriptor &d = scenario.descriptor;
                    kvappend_rotary rotary = halves(dim, turn % 4 == 0 ? 11 : 16);
                    rotary.style = style;
                    rotary.table_type = table;
                    rotary.first = first;
                    rotary.table_stride = turn % 3 == 0 ? 0 : turn % 3 == 1 ? dim : dim / 2 + 3;
                    scenario.rotate(rotary);
                    d.element_type =
                        std::array{KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16}[turn % 3];
                    d.offset_type = turn % 2 == 0 ? KVAPPEND_OFFSET_INT64 : KVAPPEND_OFFSET_INT32;
                    d.flags = 0;
                    if (d.addressing == KVAPPEND_ADDRESSING_SLOTS || turn % 5 == 0) {
                        d.flags = KVAPPEND_FLAG_POSITIONS;
                        scenario.positions.clear();
                        const bool tokens = d.batch == 1 || d.lengths >= KVAPPEND_LENGTHS_PACKED;
                        for (std::int64_t i = 0; i < (tokens ? 6 : 12); ++i) {
                            scenario.positions.push_back(random_between(random, -1, rotary.table_rows));
                        }
                    }
                    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
                    storage.type = stored[turn % std::size(stored)];
                    scenario.store_k(storage);
                    scenario.tame = turn % 2 == 0;
                    check_every_way(scenario, random, arrange);
                    ++turn;
                }
            }
        }
    }
}

TEST_CASE("a quarter turn exchanges the elements of each pair", "[rotary]") {
    Dense problem(4, 1, 1);
    CHECK(problem.run({1, 2, 3, 4}, {0, 0}, {1, 1}) == std::vector<float>{-3, -4, 1, 2});
    problem.rotary.style = KVAPPEND_ROTARY_INTERLEAVED;
    CHECK(problem.run({1, 2, 3, 4}, {0, 0}, {1, 1}) == std::vector<float>{-2, 1, -4, 3});
    problem.rotary.dim = 2;
    problem.rotary.first = 1;
    CHECK(problem.run({1, 2, 3, 4}, {0}, {1}) == std::vector<float>{1, -3, 2, 4});
}

TEST_CASE("each product is rounded by itself", "[rotary]") {
    // 1 + 2^-12 squared is halfway to 1 + 2^-11, which it is rounded to. A fused operation would keep the difference.
    constexpr float a = 1 + 0x1p-12F;
    constexpr float b = 1 + 0x1p-11F;
    for (const std::int32_t style : {KVAPPEND_ROTARY_HALF, KVAPPEND_ROTARY_INTERLEAVED}) {
        // As many pairs as a vector has, and some more.
        for (const std::size_t pairs : {1U, 19U, 64U}) {
            Dense problem(static_cast<std::int64_t>(2 * pairs), 1, 1);
            problem.rotary.style = style;
            std::vector<float> k(2 * pairs, a);
            for (std::size_t pair = 0; pair < pairs; ++pair) {
                k[style == KVAPPEND_ROTARY_HALF ? pair + pairs : 2 * pair + 1] = b;
            }
            const std::vector<float> found =
                problem.run(k, std::vector<float>(pairs, a), std::vector<float>(pairs, 1.0F));
            for (std::size_t pair = 0; pair < pairs; ++pair) {
                CHECK(found[style == KVAPPEND_ROTARY_HALF ? pair : 2 * pair] == 0);
            }
        }
    }
}

TEST_CASE("the bits of what is not rotated stay, and a NaN that is rotated becomes the one of its type", "[rotary]") {
    Dense problem(4, 1, 1);
    problem.rotary.dim = 2;
    problem.rotary.first = 1;
    const auto nan = [](std::uint32_t bits) { return std::bit_cast<float>(bits); };
    const std::vector<float> found = problem.run({nan(0xff800001), nan(0xffc12345), 1, nan(0x7fa00000)}, {1}, {0});
    CHECK(std::bit_cast<std::uint32_t>(found[0]) == 0xff800001);
    CHECK(std::bit_cast<std::uint32_t>(found[1]) == 0x7fffffff);
    CHECK(std::bit_cast<std::uint32_t>(found[2]) == 0x7fffffff); // NaN * 0 is NaN
    CHECK(std::bit_cast<std::uint32_t>(found[3]) == 0x7fa00000);
}

TEST_CASE("a row has the bits of Transformers' apply_rotary_pos_emb", "[rotary]") {
    auto random = seeded_random();
    constexpr std::int64_t dim = 96;
    constexpr std::int64_t rows = 40;
    Dense problem(dim, rows, rows);
    // cos and sin are [positions, dim] there, and both halves are the same.
    problem.rotary.table_stride = dim;
    std::vector<float> k(dim * rows);
    std::ranges::generate(k, [&] { return std::uniform_real_distribution<float>(-4, 4)(random); });
    std::vector<float> cos(dim * rows);
    std::vector<float> sin(dim * rows);
    std::vector<float> expected(dim * rows);
    for (std::size_t p = 0; p < rows; ++p) {
        for (std::size_t i = 0; i < dim; ++i) {
            const float angle =
                static_cast<float>(p) * std::pow(10000.0F, -static_cast<float>(i % (dim / 2)) * 2 / dim);
            cos[p * dim + i] = std::cos(angle);
            sin[p * dim + i] = std::sin(angle);
        }
        for (std::size_t i = 0; i < dim; ++i) {
            const float *const row = k.data() + p * dim;
            const float rotate_half = i < dim / 2 ? -row[i + dim / 2] : row[i - dim / 2];
            const volatile float kept = row[i] * cos[p * dim + i];
            const volatile float turned = rotate_half * sin[p * dim + i];
            expected[p * dim + i] = kept + turned;
        }
    }
    CHECK(problem.run(k, cos, sin) == expected);
}

TEST_CASE("an append that rotates and converts stores what two appends store", "[rotary]") {
    auto random = seeded_random();
    constexpr std::int64_t rows = 7;
    constexpr std::int64_t heads = 3;
    constexpr std::int64_t dim = 64;
    for (const std::int32_t type : {KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16}) {
        for (const std::int32_t preset : {KVAPPEND_PRESET_BF16, KVAPPEND_PRESET_E4M3_ROW, KVAPPEND_PRESET_INT8_ROW,
                                          KVAPPEND_PRESET_NVFP4, KVAPPEND_PRESET_Q8_0}) {
            kvappend_storage storage = KVAPPEND_STORAGE_INIT;
            REQUIRE(kvappend_storage_preset(preset, &storage, sizeof storage) == KVAPPEND_SUCCESS);
            if (storage.scaling != KVAPPEND_SCALING_NONE) {
                storage.scale_strides[3] = 4;
                storage.scale_strides[2] = 4 * dim;
                storage.scale_strides[1] = 4 * dim * rows;
            }
            Dense problem(dim, rows, rows);
            kvappend_descriptor &d = problem.d;
            d.element_type = type;
            d.heads = heads;
            const std::size_t bytes = heads * rows * dim * element_bytes(type);
            std::vector<unsigned char> image = random_elements<unsigned char>(random, static_cast<std::int64_t>(bytes));
            const Held<unsigned char> k_new(image);
            const std::vector<float> numbers = [&] {
                std::vector<float> all(rows * dim / 2);
                std::ranges::generate(all, [&] { return std::uniform_real_distribution<float>(-1, 1)(random); });
                return all;
            }();
            const Held<float> cos(numbers);
            const Held<float> sin(std::vector<float>(numbers.rbegin(), numbers.rend()));
            const Held<float> global{std::vector<float>(1, 0.5F)};
            const Held<unsigned char> rotated{std::vector<unsigned char>(bytes)};
            const auto run = [&](const Held<unsigned char> &from, void *cache, void *scales) {
                kvappend_args args = KVAPPEND_ARGS_INIT;
                args.k_new = from.data(), args.k_cache = cache, args.k_scales = scales;
                args.rotary_cos = cos.data(), args.rotary_sin = sin.data(), args.k_global_scale = global.data();
                const PlanPointer plan = make_plan(d);
                REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) ==
                        "KVAPPEND_SUCCESS");
                subject().synchronize();
            };
            const Held<unsigned char> once{std::vector<unsigned char>(2 * bytes)};
            const Held<unsigned char> twice{std::vector<unsigned char>(2 * bytes)};
            const Held<float> once_scales{std::vector<float>(heads * rows * dim)};
            const Held<float> twice_scales{std::vector<float>(heads * rows * dim)};
            run(k_new, rotated.data(), nullptr);
            d.k_storage = &storage;
            run(k_new, once.data(), once_scales.data());
            d.rotary = nullptr;
            run(rotated, twice.data(), twice_scales.data());
            std::vector<unsigned char> expected(2 * bytes);
            subject().download(expected.data(), twice.data(), twice.bytes());
            std::vector<float> expected_scales(heads * rows * dim);
            subject().download(expected_scales.data(), twice_scales.data(), twice_scales.bytes());
            CHECK(once.holds(expected));
            CHECK(once_scales.holds(expected_scales));
        }
    }
}

TEST_CASE("a large run on the host, also by threads, stores what small runs store", "[rotary]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a device has no other way for large runs");
    }
    auto random = seeded_random();
    constexpr std::int64_t dim = 512;
    constexpr std::int64_t rows = 4096; // 8 MiB
    constexpr std::int64_t few = 512;
    kvappend_storage f16 = KVAPPEND_STORAGE_INIT;
    f16.type = KVAPPEND_STORED_F16;
    std::vector<float> k_new(dim * rows);
    std::vector<float> table(dim * rows);
    for (std::vector<float> *const numbers : {&k_new, &table}) {
        std::ranges::generate(*numbers, [&] { return std::uniform_real_distribution<float>(-1, 1)(random); });
    }
    for (const kvappend_storage *const storage :
         {static_cast<const kvappend_storage *>(nullptr), &std::as_const(f16)}) {
        for (const std::int32_t threads : {1, 3}) {
            // Rotates rows of Q in place, too.
            const auto run = [&](std::int64_t first, std::int64_t count, std::vector<float> &cache,
                                 std::vector<float> &q) {
                Dense problem(dim, count, rows);
                problem.rotary.q_heads = 1;
                problem.rotary.q_dim = dim;
                problem.rotary.table_stride = dim;
                problem.d.cache_rows = rows;
                problem.d.flags = 0;
                problem.d.k_storage = storage;
                kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
                preference.host_threads = threads;
                kvappend_args args = KVAPPEND_ARGS_INIT;
                args.k_new = k_new.data() + first * dim, args.k_cache = cache.data(), args.cache_offsets = &first;
                args.q = args.q_out = q.data() + first * dim;
                args.rotary_cos = table.data(), args.rotary_sin = table.data() + dim / 2;
                const PlanPointer plan = make_plan(problem.d, &preference);
                REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
            };
            std::vector<float> at_once(dim * rows);
            std::vector<float> by_parts(dim * rows);
            std::vector<float> q_at_once = k_new;
            std::vector<float> q_by_parts = k_new;
            run(0, rows, at_once, q_at_once);
            for (std::int64_t first = 0; first < rows; first += few) {
                run(first, few, by_parts, q_by_parts);
            }
            CHECK(std::memcmp(at_once.data(), by_parts.data(), at_once.size() * sizeof(float)) == 0);
            CHECK(q_at_once == q_by_parts);
            CHECK((storage != nullptr || q_at_once == at_once));
        }
    }
}

TEST_CASE("the rotated part and the latent part of a row of MLA are K and V of one tensor", "[rotary]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_SLOTS, 1, 5, 64);
    kvappend_descriptor &d = scenario.descriptor;
    d.heads = 1;
    d.cache_blocks = 3;
    d.k_dim = 64;
    d.v_dim = 512;
    d.flags = KVAPPEND_FLAG_POSITIONS;
    for (std::int64_t(*const strides)[3] :
         {&d.k_new_strides, &d.v_new_strides, &d.k_cache_strides, &d.v_cache_strides}) {
        (*strides)[0] = 64 * 576;
        (*strides)[1] = (*strides)[2] = 576;
    }
    scenario.slots = {3, 130, -1, 64, 5};
    scenario.positions = {0, 900, 7, 1023, 1024};
    kvappend_rotary rotary = halves(64, 1024);
    rotary.style = KVAPPEND_ROTARY_INTERLEAVED;
    rotary.table_stride = 64;
    scenario.rotate(rotary);
    scenario.tame = true;
    place_apart(scenario, 64, 64);
    share_block(scenario, k_new, v_new, 512);
    share_block(scenario, k_cache, v_cache, 512);
    join_tables(scenario);
    check_scenario(scenario, random);
}

// ---- what is refused ----

TEST_CASE("a field of a rotation that is out of its range is refused by name", "[rotary]") {
    const struct {
        std::int64_t style, table_type, dim, first, table_rows, table_stride;
        const char *message;
    } cases[] = {
        {2, 0, 8, 0, 1, 0, "style is 2: expected a KVAPPEND_ROTARY_* constant"},
        {-1, 0, 8, 0, 1, 0, "style is -1: expected a KVAPPEND_ROTARY_* constant"},
        {0, KVAPPEND_ELEMENT_F64, 8, 0, 1, 0, "table_type is 1: expected KVAPPEND_ELEMENT_F32, F16 or BF16"},
        {0, 8, 8, 0, 1, 0, "table_type is 8: expected KVAPPEND_ELEMENT_F32, F16 or BF16"},
        {0, 0, 0, 0, 1, 0, "dim is 0: expected an even number from 2 to descriptor.k_dim"},
        {0, 0, -2, 0, 1, 0, "dim is -2: expected an even number from 2 to descriptor.k_dim"},
        {0, 0, 7, 0, 1, 0, "dim is 7: expected an even number from 2 to descriptor.k_dim"},
        {0, 0, 10, 0, 1, 0, "dim is 10: expected an even number from 2 to descriptor.k_dim"},
        {0, 0, 6, 3, 1, 0, "first is 3: expected 0 to descriptor.k_dim - dim"},
        {0, 0, 6, -1, 1, 0, "first is -1: expected 0 to descriptor.k_dim - dim"},
        {0, 0, 8, 0, -1, 0, "table_rows is -1: expected 0 or more"},
        {0, 0, 8, 0, 1, -1, "table_stride is -1: expected 0 or more elements"},
    };
    Dense problem(8, 2, 1);
    for (const auto &c : cases) {
        kvappend_rotary &r = problem.rotary;
        r.style = static_cast<std::int32_t>(c.style), r.table_type = static_cast<std::int32_t>(c.table_type);
        r.dim = c.dim, r.first = c.first, r.table_rows = c.table_rows, r.table_stride = c.table_stride;
        CHECK(refused(problem.d) == std::string("KVAPPEND_ERROR_ROTARY: descriptor.rotary->") + c.message);
    }
    problem.rotary = halves(8, most64 / 16);
    problem.rotary.table_stride = 4;
    CHECK(refused(problem.d) == "KVAPPEND_SUCCESS");
    for (const auto &[rows, stride] :
         {std::pair(most64 / 16 + 2, std::int64_t{4}), {most64, most64}, {1, most64 / 4 + 1}, {2, most64 / 4}}) {
        problem.rotary.table_rows = rows;
        problem.rotary.table_stride = stride;
        CHECK(refused(problem.d) == "KVAPPEND_ERROR_OVERFLOW: descriptor.rotary->table_rows is " +
                                        std::to_string(rows) + " and table_stride is " + std::to_string(stride) +
                                        ": the bytes of a table do not fit in 63 bits; expected at most "
                                        "9223372036854775807");
    }
}

TEST_CASE("what does not go with a rotation is refused", "[rotary]") {
    const auto check = [](auto change, const std::string &message) {
        Dense problem(8, 2, 4);
        change(problem.d);
        CHECK(refused(problem.d) == (message.empty() ? "KVAPPEND_SUCCESS" : "KVAPPEND_ERROR_CONFLICT: " + message));
    };
    const auto slots = [](kvappend_descriptor &d) {
        d.addressing = KVAPPEND_ADDRESSING_SLOTS;
        d.cache_blocks = 1;
        d.flags = 0;
    };
    check([](kvappend_descriptor &) {}, "");
    check([](kvappend_descriptor &d) { d.flags |= KVAPPEND_FLAG_POSITIONS; }, "");
    check([](kvappend_descriptor &d) { d.operation = KVAPPEND_OPERATION_GATHER; },
          "descriptor.rotary is not NULL and descriptor.operation is 1: expected KVAPPEND_OPERATION_APPEND with a "
          "rotation, because other operations store no new rows");
    check(
        [&](kvappend_descriptor &d) {
            slots(d);
            d.operation = KVAPPEND_OPERATION_MOVE;
        },
        "descriptor.rotary is not NULL and descriptor.operation is 2: expected KVAPPEND_OPERATION_APPEND with a "
        "rotation, because other operations store no new rows");
    check([](kvappend_descriptor &d) { d.element_type = KVAPPEND_ELEMENT_F64; },
          "descriptor.rotary is not NULL and descriptor.element_type is 1: expected KVAPPEND_ELEMENT_F32, F16 or "
          "BF16 with a rotation");
    check([](kvappend_descriptor &d) { d.element_type = KVAPPEND_ELEMENT_E4M3; },
          "descriptor.rotary is not NULL and descriptor.element_type is 4: expected KVAPPEND_ELEMENT_F32, F16 or "
          "BF16 with a rotation");
    check(slots, "descriptor.rotary is not NULL and descriptor.flags is 0x0: expected KVAPPEND_FLAG_POSITIONS in the "
                 "flags, because a slot of KVAPPEND_ADDRESSING_SLOTS is not a position");
    check(
        [&](kvappend_descriptor &d) {
            slots(d);
            d.flags = KVAPPEND_FLAG_POSITIONS;
        },
        "");
    check(
        [](kvappend_descriptor &d) {
            d.rotary = nullptr;
            d.flags |= KVAPPEND_FLAG_POSITIONS;
        },
        "descriptor.flags & KVAPPEND_FLAG_POSITIONS is 16384 and descriptor.rotary is 0: expected "
        "KVAPPEND_FLAG_POSITIONS with a rotation only");
    Dense problem(8, 2, 4);
    problem.rotary.struct_size = 12;
    CHECK(refused(problem.d).starts_with("KVAPPEND_ERROR_STRUCT_SIZE: descriptor.rotary.struct_size is 12"));
    problem.rotary.struct_size = offsetof(kvappend_rotary, table_rows); // of an older header: no positions
    CHECK(refused(problem.d) == "KVAPPEND_SUCCESS");
}

TEST_CASE("positions that do not fit in 63 bits are refused", "[rotary]") {
    Dense problem(2, 1, 4);
    kvappend_descriptor &d = problem.d;
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.flags |= KVAPPEND_FLAG_POSITIONS;
    d.batch = std::int64_t{1} << 20;
    d.new_rows = std::int64_t{1} << 40;
    CHECK(refused(d).starts_with("KVAPPEND_ERROR_OVERFLOW"));
    CHECK(refused(d).find("the bytes of positions do not fit in 63 bits") != std::string::npos);
}

TEST_CASE("the tables and positions are checked as all buffers are", "[rotary]") {
    Dense problem(8, 2, 4);
    problem.rotary.table_stride = 6;
    problem.d.flags |= KVAPPEND_FLAG_POSITIONS;
    const PlanPointer plan = make_plan(problem.d);
    const Held<float> k_new{std::vector<float>(16)};
    const Held<float> k_cache{std::vector<float>(16)};
    const Held<float> cos{std::vector<float>(22)}; // 3 * 6 + 4
    const Held<float> sin{std::vector<float>(22)};
    const Held<std::int64_t> positions{std::vector<std::int64_t>(2)};
    kvappend_args good = KVAPPEND_ARGS_INIT;
    good.k_new = k_new.data(), good.k_cache = k_cache.data(), good.k_cache_bytes = k_cache.bytes();
    good.rotary_cos = cos.data(), good.rotary_cos_bytes = cos.bytes();
    good.rotary_sin = sin.data(), good.rotary_sin_bytes = sin.bytes();
    good.positions = positions.data(), good.positions_bytes = positions.bytes();
    const auto check = [&](auto change, const std::string &begin) {
        kvappend_args args = good;
        change(args);
        const std::string message = told(kvappend_plan_can_implement(plan.get(), &args));
        INFO(message);
        CHECK(message.starts_with(begin));
    };
    check([](kvappend_args &) {}, "KVAPPEND_SUCCESS");
    check([](kvappend_args &a) { a.rotary_cos = nullptr; },
          "KVAPPEND_ERROR_NULL_BUFFER: args.rotary_cos is NULL: expected a buffer of 88 bytes");
    check([](kvappend_args &a) { a.rotary_sin = nullptr; },
          "KVAPPEND_ERROR_NULL_BUFFER: args.rotary_sin is NULL: expected a buffer of 88 bytes");
    check([](kvappend_args &a) { a.positions = nullptr; },
          "KVAPPEND_ERROR_NULL_BUFFER: args.positions is NULL: expected a buffer of 16 bytes");
    check([](kvappend_args &a) { a.rotary_cos_bytes = 87; },
          "KVAPPEND_ERROR_BUFFER_TOO_SMALL: args.rotary_cos_bytes is 87: expected at least 88");
    check([](kvappend_args &a) { a.rotary_sin_bytes = 87; },
          "KVAPPEND_ERROR_BUFFER_TOO_SMALL: args.rotary_sin_bytes is 87: expected at least 88");
    check([](kvappend_args &a) { a.positions_bytes = 8; },
          "KVAPPEND_ERROR_BUFFER_TOO_SMALL: args.positions_bytes is 8: expected at least 16");
    check([](kvappend_args &a) { a.rotary_cos = static_cast<const char *>(a.rotary_cos) + 2; },
          "KVAPPEND_ERROR_MISALIGNED: args.rotary_cos is ");
    check([](kvappend_args &a) { a.rotary_sin = static_cast<const char *>(a.rotary_sin) + 2; },
          "KVAPPEND_ERROR_MISALIGNED: args.rotary_sin is ");
    check([](kvappend_args &a) { a.positions = static_cast<const char *>(a.positions) + 4; },
          "KVAPPEND_ERROR_MISALIGNED: args.positions is ");
    // A run writes none of them, so they may share memory with each other, but not with the cache.
    check([](kvappend_args &a) { a.rotary_sin = a.rotary_cos; }, "KVAPPEND_SUCCESS");
    check(
        [](kvappend_args &a) {
            a.rotary_cos = a.k_cache;
            a.rotary_cos_bytes = 0;
        },
        "KVAPPEND_ERROR_ALIAS: args.rotary_cos ");
    check(
        [](kvappend_args &a) {
            a.rotary_sin = a.k_cache;
            a.rotary_sin_bytes = 0;
        },
        "KVAPPEND_ERROR_ALIAS: args.rotary_sin ");
    check([](kvappend_args &a) { a.positions = a.k_cache; }, "KVAPPEND_ERROR_ALIAS: args.positions ");
}

TEST_CASE("without rows in the tables there are no tables, and no row has a place", "[rotary]") {
    Dense problem(8, 2, 0);
    problem.rotary.table_stride = 1; // less than a row, so that no sum of the two happens to be 0
    problem.d.skip_policy = KVAPPEND_SKIP_REPORT;
    const PlanPointer plan = make_plan(problem.d);
    const Held<float> k_new{std::vector<float>(16)};
    const Held<float> k_cache{std::vector<float>(16, 1)};
    const Held<kvappend_report> report{std::vector<kvappend_report>(1)};
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = k_new.data(), args.k_cache = k_cache.data(), args.report = report.data();
    CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    CHECK(k_cache.holds(std::vector<float>(16, 1)));
    kvappend_report found;
    subject().download(&found, report.data(), sizeof found);
    CHECK(found.rows_above == 2);
}

// ---- rows that the tables do not have ----

namespace {

// Rows of 2 elements at the positions 0, 1, ..., or at those of an array.
struct Positions {
    Dense problem;
    Held<float> k_new;
    Held<float> k_cache;
    Held<float> table{std::vector<float>(4)};
    Held<std::int64_t> positions;
    kvappend_args args = KVAPPEND_ARGS_INIT;

    Positions(std::int64_t rows, const std::vector<std::int64_t> &values)
        : problem(2, rows, 4), k_new(std::vector<float>(static_cast<std::size_t>(2 * rows), 1)),
          k_cache(std::vector<float>(static_cast<std::size_t>(2 * rows), 7)), positions(values) {
        problem.d.flags |= values.empty() ? 0 : KVAPPEND_FLAG_POSITIONS;
        args.k_new = k_new.data(), args.k_cache = k_cache.data();
        args.rotary_cos = args.rotary_sin = table.data();
        args.positions = positions.data(), args.positions_bytes = positions.bytes();
    }

    std::string validated(kvappend_fault &fault) const {
        const PlanPointer plan = make_plan(problem.d);
        return told(kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), &fault));
    }
};

} // namespace

TEST_CASE("validate finds the first row whose position the tables do not have", "[rotary]") {
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    CHECK(Positions(4, {}).validated(fault) == "KVAPPEND_SUCCESS");
    CHECK(Positions(6, {}).validated(fault) ==
          "KVAPPEND_ERROR_SKIPPED: row 4 of sample 0 has the position 4, above the rotary tables: expected a place for "
          "every row");
    CHECK(fault.row == 4);
    CHECK(fault.position == 4);
    CHECK(Positions(3, {3, 0, 0}).validated(fault) == "KVAPPEND_SUCCESS");
    CHECK(Positions(3, {3, 4, -1}).validated(fault) ==
          "KVAPPEND_ERROR_SKIPPED: row 1 of sample 0 has the position 4, above the rotary tables: expected a place for "
          "every row");
    CHECK(Positions(3, {3, -5, 9}).validated(fault) ==
          "KVAPPEND_ERROR_SKIPPED: row 1 of sample 0 has the position -5, below the rotary tables: expected a place "
          "for every row");
    CHECK(fault.row == 1);
    CHECK(fault.position == -5);
}

TEST_CASE("validate takes a page for good whose rows the tables do not have", "[rotary]") {
    Positions p(4, {0, 1, 2, 99});
    p.problem.d.addressing = KVAPPEND_ADDRESSING_PAGED;
    p.problem.d.cache_blocks = p.problem.d.table_entries = 1;
    const Held<std::int32_t> page_table{std::vector<std::int32_t>(1)};
    p.args.page_table = page_table.data();
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    CHECK(p.validated(fault).starts_with("KVAPPEND_ERROR_SKIPPED: row 3 of sample 0 has the position 99, above the "
                                         "rotary tables"));
}

TEST_CASE("validate finds positions of 64 bits that are declared as 32-bit ones", "[rotary]") {
    Positions p(3, {1, 2, 3});
    p.problem.d.offset_type = KVAPPEND_OFFSET_INT32;
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    const std::string message = p.validated(fault);
    INFO(message);
    CHECK(message.starts_with("KVAPPEND_ERROR_INDEX_WIDTH: args.positions_bytes is 24"));
    CHECK(message.ends_with("descriptor.offset_type for 64-bit numbers"));
}

TEST_CASE("on the host a trap refuses a run with a row that the tables do not have", "[rotary]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a trap would end the program");
    }
    Positions p(3, {3, 4, 0});
    p.problem.d.skip_policy = KVAPPEND_SKIP_TRAP;
    const PlanPointer plan = make_plan(p.problem.d);
    CHECK(told(kvappend_plan_run(plan.get(), &p.args, nullptr, 0, nullptr)) ==
          "KVAPPEND_ERROR_SKIPPED: row 1 of sample 0 has the position 4, above the rotary tables: expected a place for "
          "every row, as descriptor.skip_policy is KVAPPEND_SKIP_TRAP");
    CHECK(p.k_cache.holds(std::vector<float>(6, 7)));
}

// ---- several layers, and what a plan tells ----

TEST_CASE("layers that rotate, with the same tables or their own, beside layers that do not", "[rotary]") {
    auto random = seeded_random();
    for (int turn = 0; turn < 6; ++turn) {
        std::vector<ScenarioLayer> layers;
        for (int n = 0; n < 4; ++n) {
            const Focus focus{.converts = n == 3, .rotates = n < 2, .operation = KVAPPEND_OPERATION_APPEND};
            layers.push_back({RandomScenario(random, focus).draw()});
        }
        // More than one launch has room for.
        for (int n = 0; n < 70; ++n) {
            const int with = turn < 3 ? n % 4 : static_cast<int>(random_between(random, 0, 3));
            if ((layers[static_cast<std::size_t>(with)].scenario.descriptor.flags & KVAPPEND_FLAG_ADVANCE) == 0) {
                layers.push_back({layers[static_cast<std::size_t>(with)].scenario, with});
            }
        }
        check_layers(layers, random);
    }
}

TEST_CASE("layers that rotate, of two geometries with different numbers of samples and tensors", "[rotary]") {
    auto random = seeded_random();
    const auto layer = [](std::int64_t batch, std::int64_t v_dim) {
        Scenario scenario = appending(KVAPPEND_ADDRESSING_DENSE, batch, 2, 3);
        scenario.descriptor.heads = batch;
        scenario.descriptor.v_dim = v_dim;
        scenario.offsets.assign(static_cast<std::size_t>(batch), 1);
        scenario.rotate(halves(8, 3));
        place_apart(scenario, 0, 0); // A sample that a layer does not have has no offset.
        return ScenarioLayer{scenario};
    };
    check_layers({layer(1, 5), layer(3, 0)}, random);
    check_layers({layer(4, 0), layer(2, 8)}, random);
}

TEST_CASE("tables that are less aligned than their strides", "[rotary]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_DENSE, 2, 2, 4);
    scenario.descriptor.k_dim = 64;
    scenario.offsets = {0, 2};
    scenario.rotate(halves(64, 4));
    for (const std::size_t table : {rotary_cos_index, rotary_sin_index}) {
        place_apart(scenario, 64, 64);
        scenario.locations[table].start += 4;
        check_scenario(scenario, random);
    }
}

TEST_CASE("a plan tells its kernel and that K does not keep its bits", "[rotary]") {
    const auto guarantee_of = [](std::int32_t element_type, std::int32_t stored) {
        Dense problem(8, 2, 4);
        kvappend_storage storage = KVAPPEND_STORAGE_INIT;
        storage.type = stored;
        problem.d.element_type = element_type;
        problem.d.v_dim = 8;
        problem.d.k_storage = &storage;
        const PlanPointer plan = make_plan(problem.d);
        kvappend_sku sku = KVAPPEND_SKU_INIT;
        REQUIRE(kvappend_plan_get_sku(plan.get(), &sku) == KVAPPEND_SUCCESS);
        const bool cuda = subject().backend() == KVAPPEND_BACKEND_CUDA;
        CHECK(std::string(sku.kernel_name).starts_with(cuda ? "cuda_rotate_b16" : "host_rotate"));
        kvappend_precision_guarantee g = KVAPPEND_PRECISION_GUARANTEE_INIT;
        REQUIRE(kvappend_plan_get_precision_guarantee(plan.get(), &g) == KVAPPEND_SUCCESS);
        CHECK(g.k_bit_exact == 0);
        CHECK(g.v_bit_exact == 1);
        CHECK(g.v_error == 0);
        CHECK(g.deterministic == 1);
        CHECK(g.same_on_all_backends == 1);
        return g.k_error;
    };
    CHECK(guarantee_of(KVAPPEND_ELEMENT_F32, KVAPPEND_STORED_AS_IS) == 0);
    CHECK(guarantee_of(KVAPPEND_ELEMENT_F16, KVAPPEND_STORED_AS_IS) == 0x1p-11F);
    CHECK(guarantee_of(KVAPPEND_ELEMENT_BF16, KVAPPEND_STORED_BF16) == 0x1p-8F);
    CHECK(guarantee_of(KVAPPEND_ELEMENT_F16, KVAPPEND_STORED_E4M3) == 0.0625F);
}

TEST_CASE("a kernel that rotates refuses a problem that does not, and the other way round", "[rotary]") {
    Dense problem(8, 2, 4);
    const bool cuda = subject().backend() == KVAPPEND_BACKEND_CUDA;
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    const auto message = [&](const char *kernel) {
        preference.kernel_name = kernel;
        kvappend_plan *plan = nullptr;
        std::string text = told(kvappend_plan_create(&problem.d, &preference, &plan));
        kvappend_plan_destroy(plan);
        return text;
    };
    for (const char *const name : {"rows", "dense", "convert"}) {
        const std::string kernel = (cuda ? "cuda_" : "host_") + std::string(name) + (cuda ? "_b16" : "");
        CHECK(message(kernel.c_str()).ends_with("; this problem rotates rows"));
    }
    CHECK(message(cuda ? "cuda_rotate_b16" : "host_rotate") == "KVAPPEND_SUCCESS");
    problem.d.rotary = nullptr;
    CHECK(message(cuda ? "cuda_rotate_b16" : "host_rotate").ends_with("; this problem does not rotate rows"));
}
