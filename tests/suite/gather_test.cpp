// SPDX-License-Identifier: Apache-2.0
// What is particular to gathers: which fields and buffers they refuse, and that they only read the caches. That they
// read what an append has written is in the random tests.
#include "check_scenario.hpp"
#include "held.hpp"
#include "random_scenario.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sys/mman.h>

#include <array>
#include <string>

namespace {

kvappend_descriptor describe() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.operation = KVAPPEND_OPERATION_GATHER;
    d.batch = 2;
    d.heads = 2;
    d.new_rows = 3;
    d.cache_rows = 8;
    d.k_dim = d.v_dim = 4;
    return d;
}

void check_refused(const kvappend_descriptor &d, kvappend_status expected, const std::string &words) {
    kvappend_plan *plan = nullptr;
    const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
    kvappend_plan_destroy(plan);
    const std::string message = told(status);
    CHECK(message.starts_with(kvappend_status_name(expected)));
    INFO(message);
    CHECK(message.find(words) != std::string::npos);
}

} // namespace

TEST_CASE("an unknown operation is refused", "[gather]") {
    for (const std::int32_t operation : {-1, 3, 1 << 20}) {
        kvappend_descriptor d = describe();
        d.operation = operation;
        check_refused(d, KVAPPEND_ERROR_OPERATION, "descriptor.operation is " + std::to_string(operation));
    }
    kvappend_descriptor d = describe();
    d.reserved = 1;
    check_refused(d, KVAPPEND_ERROR_CONFLICT, "descriptor.reserved is 1");
}

TEST_CASE("flags without a meaning for an operation are refused with it", "[gather]") {
    kvappend_descriptor d = describe();
    d.flags = KVAPPEND_FLAG_ADVANCE;
    check_refused(d, KVAPPEND_ERROR_CONFLICT,
                  "descriptor.flags & KVAPPEND_FLAG_ADVANCE is 16 and descriptor.operation is 1");
    d.operation = KVAPPEND_OPERATION_APPEND;
    d.flags = KVAPPEND_FLAG_ZERO_SKIPPED;
    check_refused(d, KVAPPEND_ERROR_CONFLICT,
                  "descriptor.flags & KVAPPEND_FLAG_ZERO_SKIPPED is 8192 and descriptor.operation is 0");
}

TEST_CASE("outputs whose rows share memory are refused", "[gather]") {
    kvappend_descriptor d = describe();
    d.k_new_strides[0] = 12;
    d.k_new_strides[1] = 0; // one row for both heads
    d.k_new_strides[2] = 4;
    check_refused(d, KVAPPEND_ERROR_OVERLAP, "k_out [2, 2, 3, 4] with strides {12, 0, 4}: two of its rows share");
    d = describe();
    d.v_new_strides[0] = 24;
    d.v_new_strides[1] = 12;
    d.v_new_strides[2] = 3;
    check_refused(d, KVAPPEND_ERROR_OVERLAP, "v_out [2, 2, 3, 4] with strides {24, 12, 3}: two of its rows share");
}

TEST_CASE("the buffers of a gather are checked as all buffers are, and those of an append are ignored", "[gather]") {
    const kvappend_descriptor d = describe();
    const PlanPointer plan = make_plan(d);
    alignas(16) std::array<float, 1024> memory{};
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = reinterpret_cast<const void *>(1);
    args.k_out = memory.data();
    args.v_out = memory.data() + 48;
    args.k_cache = memory.data() + 256;
    args.v_cache = memory.data() + 512;
    args.cache_offsets = memory.data() + 900;
    const auto check = [&](kvappend_status expected, const std::string &words) {
        const std::string message = told(kvappend_plan_can_implement(plan.get(), &args));
        INFO(message);
        CHECK(message.starts_with(kvappend_status_name(expected)));
        CHECK(message.find(words) != std::string::npos);
    };
    check(KVAPPEND_SUCCESS, "");
    args.v_out = nullptr;
    check(KVAPPEND_ERROR_NULL_BUFFER, "args.v_out is NULL: expected a buffer of 192 bytes");
    args.v_out = memory.data() + 47;
    check(KVAPPEND_ERROR_OVERLAP, "args.k_out is");
    args.v_out = memory.data() + 500; // up to the begin of v_cache and beyond
    check(KVAPPEND_ERROR_ALIAS, "args.v_cache [");
    args.v_out = memory.data() + 48;
    args.v_out_bytes = 191;
    check(KVAPPEND_ERROR_BUFFER_TOO_SMALL, "args.v_out_bytes is 191: expected at least 192");
    args.v_out_bytes = 192;
    args.cache_offsets = memory.data() + 46;
    check(KVAPPEND_ERROR_ALIAS, "args.cache_offsets [");
    args.cache_offsets = memory.data() + 900;
    args.v_cache = args.k_cache; // Two caches that are only read may be one.
    check(KVAPPEND_SUCCESS, "");
}

TEST_CASE("layers with different operations are refused", "[gather]") {
    kvappend_descriptor d = describe();
    const PlanPointer gather = make_plan(d);
    d.operation = KVAPPEND_OPERATION_APPEND;
    const PlanPointer append = make_plan(d);
    alignas(16) std::array<float, 1024> memory{};
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.k_out = memory.data();
    args.v_new = args.v_out = memory.data() + 48;
    args.k_cache = memory.data() + 256;
    args.v_cache = memory.data() + 512;
    args.cache_offsets = memory.data() + 900;
    const kvappend_plan *const plans[] = {gather.get(), append.get()};
    const kvappend_args *const all[] = {&args, &args};
    const std::string message = told(kvappend_plan_run_layers(plans, all, 2, nullptr, 0, nullptr));
    CHECK(message == "KVAPPEND_ERROR_OPERATION: layer 1: the plan's operation is 0: expected 1, that of the first "
                     "layer's plan");
}

TEST_CASE("a gather may read a place twice, and validate accepts that", "[gather]") {
    auto random = seeded_random();
    Scenario scenario;
    kvappend_descriptor &d = scenario.descriptor;
    d.operation = KVAPPEND_OPERATION_GATHER;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.batch = 1;
    d.heads = 3;
    d.new_rows = 6;
    d.cache_blocks = 4;
    d.cache_rows = 4;
    d.k_dim = 8;
    d.v_dim = 5;
    scenario.slots = {5, 5, 0, 15, 5, 0};
    place_apart(scenario, 64, 64);
    check_scenario(scenario, random);
    CHECK(check_validate(scenario, random) == KVAPPEND_SUCCESS);
    scenario.slots[2] = 16;
    CHECK(check_validate(scenario, random) == KVAPPEND_ERROR_SKIPPED);
}

TEST_CASE("a gather with nothing to read leaves its outputs as they are", "[gather]") {
    kvappend_descriptor d = describe();
    d.flags = KVAPPEND_FLAG_ZERO_SKIPPED;
    const std::vector<float> before(48, 7);
    const Held<float> out(before);
    const Held<std::int64_t> indices(std::vector<std::int64_t>{0, 0});
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_out = args.v_out = out.data();
    args.k_cache = args.v_cache = out.data();
    args.cache_offsets = indices.data();
    args.lengths = indices.data();
    const auto check = [&] {
        const PlanPointer plan = make_plan(d);
        CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        CHECK(out.holds(before));
    };
    d.cache_rows = 0;
    check();
    d.cache_rows = 8;
    d.batch = 0;
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    check();
}

TEST_CASE("validate looks at the scales that a gather reads", "[gather]") {
    kvappend_descriptor d = describe();
    d.batch = d.heads = 1;
    d.v_dim = 0;
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    REQUIRE(kvappend_storage_preset(KVAPPEND_PRESET_INT8_ROW, &storage, sizeof storage) == KVAPPEND_SUCCESS);
    storage.scale_strides[2] = storage.scale_strides[1] = storage.scale_strides[0] = 4;
    d.k_storage = &storage;
    const PlanPointer plan = make_plan(d);
    const Held<float> out(std::vector<float>(12));
    const Held<unsigned char> cache(std::vector<unsigned char>(32));
    const Held<std::int64_t> offsets(std::vector<std::int64_t>{2});
    const float nan = std::numeric_limits<float>::quiet_NaN();
    // The rows 2 to 4 are read, and a scale of 0 is that of a row of zeros.
    const Held<float> scales(std::vector<float>{nan, -1, 0, 1, 2, nan, 1, 1});
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_out = out.data();
    args.k_cache = cache.data();
    args.k_scales = scales.data();
    args.cache_offsets = offsets.data();
    const auto validate = [&](kvappend_fault &fault) {
        return kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), &fault);
    };
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    CHECK(told(validate(fault)) == "KVAPPEND_SUCCESS");
    const Held<float> bad(std::vector<float>{1, 1, 1, 1, -1, 1, 1, 1});
    args.k_scales = bad.data();
    CHECK(told(validate(fault)).starts_with("KVAPPEND_ERROR_SCALE: args.k_scales[4] is -1"));
    CHECK(fault.index == 4);
}

TEST_CASE("a cache may be memory that can only be read", "[gather]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("the memory of devices has no such protection");
    }
    auto random = seeded_random();
    constexpr std::size_t bytes = 1 << 16;
    void *const mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(mapped != MAP_FAILED);
    const auto cache = random_elements<unsigned char>(random, bytes);
    std::ranges::copy(cache, static_cast<unsigned char *>(mapped));
    REQUIRE(mprotect(mapped, bytes, PROT_READ) == 0);
    kvappend_descriptor d = describe();
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    for (const bool converts : {false, true}) {
        storage.type = KVAPPEND_STORED_E4M3;
        d.k_storage = converts ? &storage : nullptr;
        const PlanPointer plan = make_plan(d);
        std::vector<float> k_out(48);
        std::vector<float> v_out(48);
        std::vector<std::int64_t> offsets{1, 4};
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_out = k_out.data();
        args.v_out = v_out.data();
        args.k_cache = mapped;
        args.v_cache = static_cast<unsigned char *>(mapped) + bytes / 2;
        args.cache_offsets = offsets.data();
        CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
        CHECK(std::memcmp(v_out.data(), cache.data() + bytes / 2 + 16, 16) == 0); // row 1 of sample 0
    }
    munmap(mapped, bytes);
}

TEST_CASE("a gather after an append of random problems gives what the reference makes of both", "[gather]") {
    auto random = seeded_random();
    for (int i = 0; i < 300; ++i) {
        const Focus focus{.converts = i % 2 == 0, .operation = KVAPPEND_OPERATION_APPEND};
        check_round_trip(RandomScenario(random, focus).draw(), random);
    }
}
