// SPDX-License-Identifier: Apache-2.0
// Moves of rows within the caches.
#include "check_scenario.hpp"
#include "held.hpp"
#include "random_move.hpp"
#include "subject.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace {

// A move with six slots, on pages of 2 rows.
Scenario moving(std::vector<std::int64_t> from, std::vector<std::int64_t> to) {
    Scenario scenario;
    kvappend_descriptor &d = scenario.descriptor;
    d.operation = KVAPPEND_OPERATION_MOVE;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.element_type = KVAPPEND_ELEMENT_BF16;
    d.batch = 1;
    d.heads = 2;
    d.new_rows = static_cast<std::int64_t>(from.size());
    d.cache_blocks = 3;
    d.cache_rows = 2;
    d.k_dim = 8;
    d.v_dim = 5;
    scenario.from_slots = std::move(from);
    scenario.slots = std::move(to);
    place_apart(scenario, 64, 64);
    return scenario;
}

// The same with several samples. Sample b has the rows lengths[b] <= t < lengths[b + 1].
Scenario moving(std::vector<std::int64_t> from, std::vector<std::int64_t> to, std::vector<std::int64_t> lengths) {
    Scenario scenario = moving(std::move(from), std::move(to));
    scenario.descriptor.lengths = KVAPPEND_LENGTHS_PACKED;
    scenario.descriptor.batch = static_cast<std::int64_t>(lengths.size()) - 1;
    scenario.lengths = std::move(lengths);
    place_apart(scenario, 64, 64);
    return scenario;
}

void check_refused(const kvappend_descriptor &given, kvappend_status expected, const std::string &words) {
    kvappend_descriptor d = given;
    d.backend = subject().backend();
    kvappend_plan *plan = nullptr;
    const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
    kvappend_plan_destroy(plan);
    const std::string message = told(status);
    INFO(message);
    CHECK(message.starts_with(kvappend_status_name(expected)));
    CHECK(message.find(words) != std::string::npos);
}

// Returns the message of validate for a scenario, and sets the fault.
std::string validated(const Scenario &scenario, kvappend_fault &fault) {
    kvappend_descriptor d = scenario.descriptor;
    d.backend = subject().backend();
    const PlanPointer plan = make_plan(d);
    const Held<std::int64_t> slots(scenario.slots);
    const Held<std::int64_t> from_slots(scenario.from_slots);
    const std::vector<std::int32_t> narrow(scenario.lengths.begin(), scenario.lengths.end());
    const Held<std::int32_t> lengths(narrow);
    const Held<unsigned char> k(std::vector<unsigned char>(256));
    const Held<unsigned char> v(std::vector<unsigned char>(256));
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_cache = k.data();
    args.v_cache = v.data();
    args.slots = slots.data();
    args.from_slots = from_slots.data();
    args.lengths = lengths.data();
    return told(kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), &fault));
}

} // namespace

TEST_CASE("rows of a sample are moved one after the other", "[move]") {
    auto random = seeded_random();
    check_scenario(moving({0}, {5}), random);
    check_scenario(moving({0, 1, 2, 3, 4}, {1, 2, 3, 4, 5}), random);             // row 0 goes everywhere
    check_scenario(moving({1, 2, 3, 4, 5}, {0, 1, 2, 3, 4}), random);             // a shift
    check_scenario(moving({0, 1, 5}, {5, 0, 1}), random);                         // a swap
    check_scenario(moving({2, 2, 2, 2, 2}, {0, 1, 2, 3, 4}), random);             // one row to several places
    check_scenario(moving({0, 1, 2, 3, 4, 5}, {3, 3, 3, 3, 3, 3}), random);       // several rows to one place
    check_scenario(moving({0, 1, 0, 1, 0, 1, 2}, {1, 0, 1, 0, 2, 2, 0}), random); // back and forth
    check_scenario(moving({-1, 3, 6, 0, 4}, {0, -1, 1, 6, 5}), random);
}

TEST_CASE("samples of a move are moved each in its own order", "[move]") {
    auto random = seeded_random();
    check_scenario(moving({0, 1, 4, 2}, {1, 0, 5, 3}, {0, 2, 2, 3, 4}), random);
    check_scenario(moving({0, 0, 0, 0, 0}, {1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}), random); // all read one place
    check_scenario(moving({0, 2, 4, 1}, {1, 3, 5, 0}, {1, 2, 3}), random); // two rows belong to no sample
}

TEST_CASE("random moves agree with the reference in every byte", "[move][random]") {
    auto random = seeded_random();
    for (int i = 0; i < 800; ++i) {
        RandomMove draw(random);
        check_scenario(draw.draw(i % 2 == 0), random, 2);
    }
}

TEST_CASE("every kernel for moves agrees with the reference", "[move][random]") {
    auto random = seeded_random();
    for (const std::string &name : kernels_of_subject()) {
        for (int i = 0; i < 50 && name.find("_move") != std::string::npos; ++i) {
            RandomMove draw(random);
            Scenario scenario = draw.draw(i % 2 == 0);
            scenario.kernel = name;
            check_scenario(scenario, random);
        }
    }
}

TEST_CASE("random moves of several layers agree with the reference", "[move][random]") {
    auto random = seeded_random();
    for (int i = 0; i < 100; ++i) {
        std::vector<ScenarioLayer> layers;
        const bool converts = i % 2 == 0;
        const int count = 1 + i % 7;
        for (int layer = 0; layer < count; ++layer) {
            RandomMove draw(random);
            ScenarioLayer next{draw.draw(converts)};
            if (layer > 0 && layer % 3 != 0) { // This layer shares the plan and indices of an earlier one.
                next.shares_with = layer - 1;
                while (layers[static_cast<std::size_t>(next.shares_with)].shares_with >= 0) {
                    next.shares_with = layers[static_cast<std::size_t>(next.shares_with)].shares_with;
                }
                next.scenario = layers[static_cast<std::size_t>(next.shares_with)].scenario;
            }
            layers.push_back(next);
        }
        check_layers(layers, random);
    }
}

TEST_CASE("more layers than a launch takes", "[move]") {
    auto random = seeded_random();
    std::vector<ScenarioLayer> layers(85, {moving({0, 1, 5}, {5, 0, 1}), 0});
    layers[0].shares_with = -1;
    check_layers(layers, random);
}

TEST_CASE("more samples of a move than a grid has rows of blocks", "[move][large]") {
    constexpr std::int64_t samples = 66000;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.operation = KVAPPEND_OPERATION_MOVE;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.element_type = KVAPPEND_ELEMENT_UINT8;
    d.batch = d.new_rows = samples;
    d.heads = d.k_dim = d.cache_rows = 1;
    d.cache_blocks = 2 * samples;
    auto random = seeded_random();
    std::vector<unsigned char> expected = random_elements<unsigned char>(random, 2 * samples);
    std::vector<std::int64_t> from_slots;
    std::vector<std::int64_t> slots;
    std::vector<std::int32_t> lengths{0};
    const Held<unsigned char> cache(expected);
    for (std::int64_t b = 0; b < samples; ++b) {
        from_slots.push_back(2 * b);
        slots.push_back(2 * b + 1);
        lengths.push_back(static_cast<std::int32_t>(b) + 1);
        expected[static_cast<std::size_t>(2 * b + 1)] = expected[static_cast<std::size_t>(2 * b)];
    }
    const Held<std::int64_t> held_from(from_slots);
    const Held<std::int64_t> held_slots(slots);
    const Held<std::int32_t> held_lengths(lengths);
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_cache = cache.data();
    args.slots = held_slots.data();
    args.from_slots = held_from.data();
    args.lengths = held_lengths.data();
    const PlanPointer plan = make_plan(d);
    REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    CHECK(cache.holds(expected));
}

TEST_CASE("a move then a gather gives what a gather then the same moves give", "[move][random]") {
    auto random = seeded_random();
    kvappend_storage int8 = KVAPPEND_STORAGE_INIT;
    REQUIRE(kvappend_storage_preset(KVAPPEND_PRESET_INT8_ROW, &int8, sizeof int8) == KVAPPEND_SUCCESS);
    std::ranges::copy(std::array<std::int64_t, 4>{16, 4, 8, 0}, int8.scale_strides);
    for (int i = 0; i < 50; ++i) {
        Scenario scenario = moving(std::vector<std::int64_t>(9), std::vector<std::int64_t>(9));
        for (std::size_t t = 0; t < 9; ++t) {
            scenario.from_slots[t] = std::uniform_int_distribution<std::int64_t>(0, 5)(random);
            scenario.slots[t] = std::uniform_int_distribution<std::int64_t>(0, 5)(random);
        }
        kvappend_descriptor d = scenario.descriptor;
        d.backend = subject().backend();
        d.v_dim = 0;
        d.k_storage = i % 2 == 0 ? &int8 : nullptr;
        const PlanPointer move = make_plan(d);
        d.operation = KVAPPEND_OPERATION_GATHER;
        d.new_rows = 6;
        const PlanPointer gather = make_plan(d);
        const Held<unsigned char> cache(random_elements<unsigned char>(random, 192));
        std::vector<float> scales(12);
        std::ranges::generate(scales, [&] { return std::uniform_real_distribution<float>(0.5F, 2)(random); });
        const Held<float> moved_scales(scales);
        const Held<std::int64_t> all(std::vector<std::int64_t>{0, 1, 2, 3, 4, 5});
        const Held<std::int64_t> slots(scenario.slots);
        const Held<std::int64_t> from_slots(scenario.from_slots);
        const Held<unsigned char> out(std::vector<unsigned char>(192));
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_cache = cache.data();
        args.k_scales = moved_scales.data();
        args.k_out = out.data();
        args.slots = all.data();
        const auto gathered = [&] {
            REQUIRE(told(kvappend_plan_run(gather.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
            subject().synchronize();
            std::vector<unsigned char> rows(192);
            subject().download(rows.data(), out.data(), rows.size());
            return rows;
        };
        std::vector<unsigned char> expected = gathered();
        for (std::size_t t = 0; t < 9; ++t) {
            const std::vector<unsigned char> row(expected.begin() + 32 * scenario.from_slots[t],
                                                 expected.begin() + 32 * (scenario.from_slots[t] + 1));
            std::ranges::copy(row, expected.begin() + 32 * scenario.slots[t]);
        }
        kvappend_args moving_args = args;
        moving_args.slots = slots.data();
        moving_args.from_slots = from_slots.data();
        REQUIRE(told(kvappend_plan_run(move.get(), &moving_args, nullptr, 0, subject().stream())) ==
                "KVAPPEND_SUCCESS");
        CHECK(gathered() == expected);
    }
}

TEST_CASE("a move with nothing to move needs no buffer", "[move]") {
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    d.backend = subject().backend();
    const kvappend_args args = KVAPPEND_ARGS_INIT;
    const auto check = [&](kvappend_descriptor empty) {
        CHECK(told(kvappend_plan_run(make_plan(empty).get(), &args, nullptr, 0, subject().stream())) ==
              "KVAPPEND_SUCCESS");
    };
    kvappend_descriptor empty = d;
    empty.new_rows = 0;
    check(empty);
    empty = d;
    empty.heads = 0;
    check(empty);
    empty = d;
    empty.k_dim = empty.v_dim = 0;
    check(empty);
    empty = d;
    empty.lengths = KVAPPEND_LENGTHS_PACKED;
    empty.batch = 0;
    check(empty);
}

TEST_CASE("stored rows may be wider than the elements, as far as the bytes of a move can be counted", "[move]") {
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    d.backend = subject().backend();
    kvappend_storage f32 = KVAPPEND_STORAGE_INIT;
    f32.type = KVAPPEND_STORED_F32;
    d.k_storage = &f32;
    d.offset_type = KVAPPEND_OFFSET_INT32;
    d.heads = d.cache_blocks = d.cache_rows = 1;
    d.k_dim = 2;
    d.v_dim = 0;
    d.new_rows = std::int64_t{1} << 60; // 2^63 bytes of stored rows
    make_plan(d);
    d.k_dim = 4;
    check_refused(d, KVAPPEND_ERROR_OVERFLOW, "rows of k_cache [1, 1, 1152921504606846976, 4]");
}

TEST_CASE("threads share a large move", "[move][large]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("only the host backend has threads");
    }
    auto random = seeded_random();
    for (const std::int64_t heads : {1, 3}) {
        Scenario scenario;
        kvappend_descriptor &d = scenario.descriptor;
        d.operation = KVAPPEND_OPERATION_MOVE;
        d.addressing = KVAPPEND_ADDRESSING_SLOTS;
        d.batch = 1;
        d.heads = heads;
        d.new_rows = 64;
        d.cache_blocks = 40;
        d.cache_rows = 1;
        d.k_dim = 16411; // no number of threads divides it
        d.v_dim = 16384;
        d.k_pack = 0;
        d.v_pack = 64;
        for (std::int64_t t = 0; t < d.new_rows; ++t) {
            scenario.from_slots.push_back(std::uniform_int_distribution<std::int64_t>(0, 39)(random));
            scenario.slots.push_back(std::uniform_int_distribution<std::int64_t>(0, 39)(random));
        }
        scenario.host_threads = 3;
        place_apart(scenario, 64, 64);
        check_scenario(scenario, random);
    }
}

TEST_CASE("what has no meaning for a move is refused", "[move]") {
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    d.k_new_strides[1] = 8;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.operation is 2 and descriptor.k_new_strides[1] is 8");
    d.k_new_strides[1] = 0;
    d.v_new_strides[2] = 5;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.operation is 2 and descriptor.v_new_strides[2] is 5");
    d.v_new_strides[2] = 0;
    d.addressing = KVAPPEND_ADDRESSING_DENSE;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.addressing is KVAPPEND_ADDRESSING_DENSE");
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.batch = 2;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.batch is 2 and descriptor.addressing is 4");
    d.batch = 1;
    d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.lengths is 1");
    d.lengths = KVAPPEND_LENGTHS_FIXED;
    d.flags = KVAPPEND_FLAG_ADVANCE;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.flags & KVAPPEND_FLAG_ADVANCE is 16");
    d.flags = KVAPPEND_FLAG_ZERO_SKIPPED;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.flags & KVAPPEND_FLAG_ZERO_SKIPPED is 8192");
    d.flags = 0;
    d.operation = KVAPPEND_OPERATION_APPEND;
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.lengths is 2 and descriptor.addressing is");
}

TEST_CASE("scales that only some rows share are refused in a move", "[move]") {
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    storage.type = KVAPPEND_STORED_E4M3;
    storage.scaling = KVAPPEND_SCALING_GIVEN;
    storage.scale_strides[0] = 4; // a scale for each page
    d.k_storage = &storage;
    check_refused(d, KVAPPEND_ERROR_OVERLAP, "descriptor.k_storage->scale_strides: two scales share memory");
    storage.scale_strides[0] = 0;
    storage.scale_strides[2] = 4; // a scale for each row of a page, which all pages share
    check_refused(d, KVAPPEND_ERROR_OVERLAP, "descriptor.k_storage->scale_strides: two scales share memory");
}

TEST_CASE("the buffers of a move are checked, and those of other operations are ignored", "[move]") {
    const Scenario scenario = moving({0}, {1});
    kvappend_descriptor d = scenario.descriptor;
    d.backend = subject().backend();
    const PlanPointer plan = make_plan(d);
    alignas(16) std::array<unsigned char, 1024> memory{};
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = args.k_out = args.v_out = reinterpret_cast<void *>(1);
    args.k_cache = memory.data();
    args.v_cache = memory.data() + 256;
    args.slots = memory.data() + 512;
    args.from_slots = memory.data() + 520;
    const auto check = [&](const std::string &words) {
        const std::string message = told(kvappend_plan_can_implement(plan.get(), &args));
        INFO(message);
        CHECK(message.find(words) != std::string::npos);
    };
    check("KVAPPEND_SUCCESS");
    args.from_slots = args.slots;
    check("KVAPPEND_SUCCESS"); // both are only read
    args.from_slots = nullptr;
    check("KVAPPEND_ERROR_NULL_BUFFER: args.from_slots is NULL: expected a buffer of 8 bytes");
    args.from_slots = memory.data() + 516;
    check("KVAPPEND_ERROR_MISALIGNED: args.from_slots");
    args.from_slots = memory.data() + 184;
    check("KVAPPEND_ERROR_ALIAS: args.from_slots");
    args.from_slots = memory.data() + 192;
    check("KVAPPEND_SUCCESS"); // The 192 bytes of K end here.
    args.from_slots = memory.data() + 520;
    args.v_cache = memory.data() + 96;
    check("KVAPPEND_ERROR_OVERLAP: args.k_cache");
}

TEST_CASE("scales that a move moves share no memory with another buffer", "[move]") {
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    d.backend = subject().backend();
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    storage.type = KVAPPEND_STORED_E4M3;
    storage.scaling = KVAPPEND_SCALING_GIVEN;
    storage.scale_strides[0] = 8;
    storage.scale_strides[2] = 4;
    d.k_storage = d.v_storage = &storage;
    const PlanPointer plan = make_plan(d);
    alignas(16) std::array<unsigned char, 1024> memory{};
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_cache = memory.data();
    args.v_cache = memory.data() + 256;
    args.slots = args.from_slots = memory.data() + 512;
    args.k_scales = memory.data() + 528;
    args.v_scales = memory.data() + 552;
    CHECK(told(kvappend_plan_can_implement(plan.get(), &args)) == "KVAPPEND_SUCCESS");
    args.v_scales = args.k_scales;
    CHECK(told(kvappend_plan_can_implement(plan.get(), &args)).starts_with("KVAPPEND_ERROR_ALIAS: args.v_scales"));
    args.v_scales = nullptr;
    CHECK(
        told(kvappend_plan_can_implement(plan.get(), &args)).starts_with("KVAPPEND_ERROR_NULL_BUFFER: args.v_scales"));
}

TEST_CASE("layers of moves and of other operations are refused together", "[move]") {
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    d.backend = subject().backend();
    const PlanPointer move = make_plan(d);
    d.operation = KVAPPEND_OPERATION_GATHER;
    const PlanPointer gather = make_plan(d);
    const kvappend_plan *const plans[] = {gather.get(), move.get()};
    alignas(16) std::array<unsigned char, 1024> memory{};
    kvappend_args given = KVAPPEND_ARGS_INIT;
    given.k_cache = memory.data();
    given.v_cache = memory.data() + 256;
    given.slots = given.from_slots = memory.data() + 512;
    given.k_out = memory.data() + 600;
    given.v_out = memory.data() + 700;
    const kvappend_args *const both[] = {&given, &given};
    CHECK(told(kvappend_plan_run_layers(plans, both, 2, nullptr, 0, nullptr)) ==
          "KVAPPEND_ERROR_OPERATION: layer 1: the plan's operation is 2: expected 1, that of the first layer's plan");
}

TEST_CASE("validate finds a place that one sample of a move writes and another one uses", "[move]") {
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    CHECK(validated(moving({0, 1, 1}, {1, 0, 0}), fault) == "KVAPPEND_SUCCESS"); // one sample
    CHECK(validated(moving({0, 0}, {1, 2}, {0, 1, 2}), fault) == "KVAPPEND_SUCCESS");
    CHECK(validated(moving({0, 3}, {1, 3}, {0, 1, 2}), fault) == "KVAPPEND_SUCCESS");
    // Sample 1 reads what sample 0 writes.
    CHECK(validated(moving({0, 5, 1}, {1, 5, 2}, {0, 2, 3}), fault) ==
          "KVAPPEND_ERROR_DUPLICATE: row 0 of sample 0 and row 0 of sample 1 both use row 1 of block 0 of the cache, "
          "and one of them writes it: expected samples that write no place of another");
    CHECK(fault.sample == 1);
    CHECK(fault.row == 0);
    CHECK(fault.position == 1);
    CHECK(fault.other_sample == 0);
    CHECK(fault.other_row == 0);
    // Sample 0 also reads the place that it writes.
    CHECK(validated(moving({0, 1, 1}, {1, 4, 2}, {0, 2, 3}), fault).starts_with("KVAPPEND_ERROR_DUPLICATE"));
    // Sample 1 writes what sample 0 reads.
    CHECK(validated(moving({4, 2}, {1, 4}, {0, 1, 2}), fault).starts_with("KVAPPEND_ERROR_DUPLICATE"));
    // Sample 1 writes what sample 0 writes.
    CHECK(validated(moving({4, 2}, {1, 1}, {0, 1, 2}), fault).starts_with("KVAPPEND_ERROR_DUPLICATE"));
    // A row that is skipped uses no place.
    CHECK(validated(moving({-1, 2}, {1, 1}, {0, 1, 2}), fault) == "KVAPPEND_SUCCESS");
    CHECK(validated(moving({6, 2}, {1, 1}, {0, 1, 2}), fault) ==
          "KVAPPEND_ERROR_SKIPPED: row 0 of sample 0 has the position 6, above the cache: expected a place for every "
          "row");
    CHECK(validated(moving({0, 2}, {1, 7}, {0, 1, 2}), fault).starts_with("KVAPPEND_ERROR_SKIPPED: row 0 of sample 1"));
    CHECK(validated(moving({0, 2}, {1, 3}, {0, 2, 1}), fault).starts_with("KVAPPEND_ERROR_INDEX_ORDER: args.lengths"));
}

TEST_CASE("validate accepts the samples of random moves", "[move][random]") {
    auto random = seeded_random();
    for (int i = 0; i < 100; ++i) {
        RandomMove draw(random);
        const kvappend_status status = check_validate(draw.draw(i % 2 == 0), random);
        CHECK((status == KVAPPEND_SUCCESS || status == KVAPPEND_ERROR_SKIPPED || status == KVAPPEND_ERROR_INDEX_ORDER ||
               status == KVAPPEND_ERROR_INDEX_RANGE));
    }
}

TEST_CASE("a move that traps is refused before it moves a row", "[move]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a device is lost by a trap");
    }
    kvappend_descriptor d = moving({0, 1}, {1, 6}).descriptor;
    d.skip_policy = KVAPPEND_SKIP_TRAP;
    const PlanPointer plan = make_plan(d);
    std::vector<unsigned char> k(192);
    std::iota(k.begin(), k.end(), static_cast<unsigned char>(0));
    const std::vector<unsigned char> before = k;
    std::vector<unsigned char> v(120);
    const std::vector<std::int64_t> slots{1, 6};
    const std::vector<std::int64_t> from_slots{0, 1};
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_cache = k.data();
    args.v_cache = v.data();
    args.slots = slots.data();
    args.from_slots = from_slots.data();
    CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr)).starts_with("KVAPPEND_ERROR_SKIPPED: row 1"));
    CHECK(k == before);
}

TEST_CASE("a layer of a move that traps is refused before any layer moves a row", "[move]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a device is lost by a trap");
    }
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    d.skip_policy = KVAPPEND_SKIP_TRAP;
    d.v_dim = 0;
    const PlanPointer plan = make_plan(d);
    std::vector<unsigned char> k(192);
    std::iota(k.begin(), k.end(), static_cast<unsigned char>(0));
    const std::vector<unsigned char> before = k;
    const std::int64_t zero = 0;
    const std::int64_t one = 1;
    const std::int64_t bad = 6;
    kvappend_args first = KVAPPEND_ARGS_INIT;
    first.k_cache = k.data();
    first.slots = &one;
    first.from_slots = &zero;
    kvappend_args second = first;
    second.from_slots = &bad;
    const kvappend_plan *const plans[] = {plan.get(), plan.get()};
    const kvappend_args *const args[] = {&first, &second};
    CHECK(told(kvappend_plan_run_layers(plans, args, 2, nullptr, 0, nullptr))
              .starts_with("KVAPPEND_ERROR_SKIPPED: layer 1: row 0 of sample 0 has the position 6"));
    CHECK(k == before);
}

TEST_CASE("validate finds from_slots of 64 bits that are declared as 32 bits", "[move]") {
    kvappend_descriptor d = moving({0, 1}, {1, 2}).descriptor;
    d.backend = subject().backend();
    d.offset_type = KVAPPEND_OFFSET_INT32;
    const PlanPointer plan = make_plan(d);
    const Held<unsigned char> k(std::vector<unsigned char>(256));
    const Held<std::int32_t> slots(std::vector<std::int32_t>{1, 2});
    const Held<std::int64_t> from_slots(std::vector<std::int64_t>{0, 1});
    kvappend_args args = KVAPPEND_ARGS_INIT;
    const Held<unsigned char> v(std::vector<unsigned char>(256));
    args.k_cache = k.data();
    args.v_cache = v.data();
    args.slots = slots.data();
    args.from_slots = from_slots.data();
    args.from_slots_bytes = from_slots.bytes();
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    const std::string message = told(kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), &fault));
    INFO(message);
    CHECK(message.starts_with("KVAPPEND_ERROR_INDEX_WIDTH: args.from_slots_bytes is 16"));
    CHECK(message.ends_with("descriptor.offset_type for 64-bit numbers"));
}

TEST_CASE("a plan says how wide the accesses of a move are, with the heads of a row merged", "[move]") {
    if (subject().backend() != KVAPPEND_BACKEND_CUDA) {
        SKIP("the host has no widths");
    }
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.k_dim = d.v_dim = 4; // 8 bytes, and 16 with both heads
    std::ranges::copy(std::array<std::int64_t, 3>{16, 4, 8}, d.k_cache_strides);
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    REQUIRE(kvappend_plan_get_sku(make_plan(d).get(), &sku) == KVAPPEND_SUCCESS);
    CHECK(sku.k_vector_bytes == 16);
    CHECK(sku.v_vector_bytes == 8);
}

TEST_CASE("a plan says that it moves, and keeps all bits", "[move]") {
    kvappend_descriptor d = moving({0}, {1}).descriptor;
    d.backend = subject().backend();
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    storage.type = KVAPPEND_STORED_E4M3;
    d.k_storage = &storage;
    const PlanPointer plan = make_plan(d);
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    REQUIRE(kvappend_plan_get_sku(plan.get(), &sku) == KVAPPEND_SUCCESS);
    CHECK(sku.operation == KVAPPEND_OPERATION_MOVE);
    CHECK(std::string(sku.kernel_name).find("_move_rows") != std::string::npos);
    kvappend_precision_guarantee guarantee = KVAPPEND_PRECISION_GUARANTEE_INIT;
    REQUIRE(kvappend_plan_get_precision_guarantee(plan.get(), &guarantee) == KVAPPEND_SUCCESS);
    CHECK(guarantee.k_bit_exact == 1);
    CHECK(guarantee.v_bit_exact == 1);
    CHECK(guarantee.k_error == 0);
}
