// SPDX-License-Identifier: Apache-2.0
// What the dense append means: where each row goes, which rows are skipped, and that bits and all other bytes stay.
#include "check_scenario.hpp"
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cstring>
#include <limits>

namespace {

constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

Scenario dense(std::int64_t heads, std::int64_t new_rows, std::int64_t cache_rows, std::int64_t k_dim,
               std::int64_t v_dim, std::vector<std::int64_t> offsets) {
    Scenario scenario;
    scenario.descriptor.batch = static_cast<std::int64_t>(offsets.size());
    scenario.descriptor.heads = heads;
    scenario.descriptor.new_rows = new_rows;
    scenario.descriptor.cache_rows = cache_rows;
    scenario.descriptor.k_dim = k_dim;
    scenario.descriptor.v_dim = v_dim;
    scenario.offsets = std::move(offsets);
    return scenario;
}

} // namespace

TEST_CASE("every element type, d_k unlike d_v, samples at positions of their own", "[dense]") {
    auto random = seeded_random();
    const std::int32_t type =
        GENERATE(KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F64, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16);
    const std::int32_t offset_type = GENERATE(KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32);
    Scenario scenario = dense(4, 3, 16, 24, 16, {0, 5, 13, 7});
    scenario.descriptor.element_type = type;
    scenario.descriptor.offset_type = offset_type;
    place_apart(scenario, 64, 64);
    check_scenario(scenario, random, 2);
}

TEST_CASE("one token of one sample, the commonest call", "[dense]") {
    auto random = seeded_random();
    Scenario scenario = dense(8, 1, 64, 128, 128, {17});
    scenario.descriptor.element_type = KVAPPEND_ELEMENT_BF16;
    place_apart(scenario, 256, 256);
    check_scenario(scenario, random, 3);
}

TEST_CASE("rows before the first and after the last are skipped, the others written", "[dense]") {
    auto random = seeded_random();
    // Rows -3..3, -6..0 and -7..-1 at the lower end; 3..9, 9..15 and 10..16 at the upper; then far outside.
    Scenario scenario = dense(2, 7, 10, 8, 4, {-3, -6, -7, 3, 9, 10, -8, 11, 0, -1000000, 1000000});
    place_apart(scenario, 128, 128);
    check_scenario(scenario, random);
}

TEST_CASE("more new rows than the cache holds, at both ends", "[dense]") {
    auto random = seeded_random();
    Scenario scenario = dense(3, 9, 4, 8, 8, {0, -2, -5, -8, -9, 1, 3, 4});
    place_apart(scenario, 128, 128);
    check_scenario(scenario, random);
}

TEST_CASE("offsets for which a sum would overflow only skip", "[dense]") {
    auto random = seeded_random();
    Scenario scenario =
        dense(2, 5, 6, 4, 12,
              {least, least + 1, least + 4, least + 5, least + 6, most, most - 1, most - 4, most - 5, most - 6, 2});
    place_apart(scenario, 128, 128);
    check_scenario(scenario, random);

    SECTION("also where the rows are strided") {
        scenario.descriptor.k_new_strides[KVAPPEND_AXIS_BATCH] = 5 * 2 * 4;
        scenario.descriptor.k_new_strides[KVAPPEND_AXIS_HEAD] = 4;
        scenario.descriptor.k_new_strides[KVAPPEND_AXIS_ROW] = 2 * 4;
        place_apart(scenario, 128, 128);
        check_scenario(scenario, random);
    }
    SECTION("also the extremes of int32") {
        scenario.descriptor.offset_type = KVAPPEND_OFFSET_INT32;
        scenario.offsets = {
            std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max(), -1, -5, 5, 6};
        scenario.descriptor.batch = static_cast<std::int64_t>(scenario.offsets.size());
        place_apart(scenario, 128, 128);
        check_scenario(scenario, random);
    }
}

TEST_CASE("any extent may be 0: success, and nothing happens", "[dense]") {
    auto random = seeded_random();
    const int zero = GENERATE(0, 1, 2, 3, 4, 5, 6);
    Scenario scenario = dense(2, 3, 8, 16, 8, {1, 4});
    std::int64_t *const extents[] = {&scenario.descriptor.batch,    &scenario.descriptor.heads,
                                     &scenario.descriptor.new_rows, &scenario.descriptor.cache_rows,
                                     &scenario.descriptor.k_dim,    &scenario.descriptor.v_dim};
    if (zero < 6) {
        *extents[zero] = 0;
    } else {
        scenario.descriptor.k_dim = scenario.descriptor.v_dim = 0;
    }
    if (scenario.descriptor.batch == 0) {
        scenario.offsets.clear();
    }
    place_apart(scenario, 64, 64);
    check_scenario(scenario, random);
}

TEST_CASE("a cache may have any number of rows where there is nothing to copy", "[dense]") {
    kvappend_descriptor d = dense(0, 3, most, 16, 8, {}).descriptor;
    d.backend = subject().backend();
    CHECK(make_plan(d) != nullptr);
}

TEST_CASE("payloads of NaNs, infinities, denormals and the sign of zero survive", "[dense]") {
    const std::uint16_t f16[] = {0x7e01, 0xfe55, 0x7c01, 0xfc01, 0x8000, 0x0000, 0x7c00, 0xfc00, 0x0001, 0x83ff};
    const std::uint32_t f32[] = {0x7fc00001, 0xffdeadbe, 0x7f800001, 0xffbfffff, 0x80000000,
                                 0x00000000, 0x7f800000, 0xff800000, 0x00000001, 0x807fffff};
    const std::uint64_t f64[] = {0x7ff8000000000001, 0xfffdeadbeefcafe1, 0x7ff0000000000001, 0xfff7ffffffffffff,
                                 0x8000000000000000, 0x0000000000000000, 0x7ff0000000000000, 0xfff0000000000000,
                                 0x0000000000000001, 0x800fffffffffffff};
    constexpr std::int64_t dim = 10;
    const struct {
        std::int32_t type;
        const void *bits;
        std::size_t bytes;
    } patterns[] = {{KVAPPEND_ELEMENT_F16, f16, sizeof f16},
                    {KVAPPEND_ELEMENT_BF16, f16, sizeof f16},
                    {KVAPPEND_ELEMENT_F32, f32, sizeof f32},
                    {KVAPPEND_ELEMENT_F64, f64, sizeof f64}};
    for (const auto &pattern : patterns) {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = subject().backend();
        d.element_type = pattern.type;
        d.batch = d.heads = d.new_rows = 1;
        d.cache_rows = 3;
        d.k_dim = dim;
        const PlanPointer plan = make_plan(d);
        void *const source = subject().allocate(pattern.bytes);
        auto *const cache = static_cast<unsigned char *>(subject().allocate(3 * pattern.bytes));
        void *const offsets = subject().allocate(sizeof(std::int64_t));
        const std::int64_t offset = 1;
        subject().upload(source, pattern.bits, pattern.bytes);
        subject().upload(offsets, &offset, sizeof offset);
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = source;
        args.k_cache = cache;
        args.cache_offsets = offsets;
        REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
        std::vector<unsigned char> found(pattern.bytes);
        subject().download(found.data(), cache + pattern.bytes, found.size());
        CHECK(std::memcmp(found.data(), pattern.bits, pattern.bytes) == 0);
        subject().release(source);
        subject().release(cache);
        subject().release(offsets);
    }
}

TEST_CASE("a cache filled step by step holds the whole sequence", "[dense]") {
    // A prefill of 5 rows, then single rows, as a runtime does it.
    auto random = seeded_random();
    constexpr std::int64_t batch = 3, heads = 2, rows = 12, dim = 8, prefill = 5;
    constexpr std::size_t row_bytes = dim * sizeof(float);
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = batch;
    d.heads = heads;
    d.cache_rows = rows;
    d.k_dim = d.v_dim = dim;
    d.new_rows = prefill;
    const PlanPointer first = make_plan(d);
    d.new_rows = 1;
    const PlanPointer next = make_plan(d);

    std::vector<unsigned char> sequence(batch * heads * rows * row_bytes);
    for (auto &byte : sequence) {
        byte = static_cast<unsigned char>(random());
    }
    void *const source = subject().allocate(batch * heads * prefill * row_bytes);
    void *const k = subject().allocate(sequence.size());
    void *const v = subject().allocate(sequence.size());
    void *const offsets = subject().allocate(batch * sizeof(std::int64_t));
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = source;
    args.k_cache = k;
    args.v_cache = v;
    args.cache_offsets = offsets;
    for (std::int64_t row = 0; row < rows;) {
        const std::int64_t count = row == 0 ? prefill : 1;
        std::vector<unsigned char> step;
        for (std::int64_t bh = 0; bh < batch * heads; ++bh) {
            const auto *const begin = sequence.data() + static_cast<std::size_t>(bh * rows + row) * row_bytes;
            step.insert(step.end(), begin, begin + static_cast<std::size_t>(count) * row_bytes);
        }
        const std::vector<std::int64_t> at(batch, row);
        subject().upload(source, step.data(), step.size());
        subject().upload(offsets, at.data(), at.size() * sizeof at[0]);
        REQUIRE(told(kvappend_plan_run((row == 0 ? first : next).get(), &args, nullptr, 0, subject().stream())) ==
                "KVAPPEND_SUCCESS");
        subject().synchronize();
        row += count;
    }
    for (void *const cache : {k, v}) {
        std::vector<unsigned char> found(sequence.size());
        subject().download(found.data(), cache, found.size());
        CHECK(found == sequence);
    }
    for (void *const pointer : {source, k, v, offsets}) {
        subject().release(pointer);
    }
}
