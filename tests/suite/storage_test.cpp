// SPDX-License-Identifier: Apache-2.0
// The fields of kvappend_storage: what is refused and how, presets, guarantees, and the buffers of scales.
#include "held.hpp"
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <array>
#include <cfloat>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace {

// Rows of 32 F16 elements of two heads, in two caches of 8 rows.
kvappend_descriptor ordinary(const kvappend_storage *k, const kvappend_storage *v = nullptr) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = 2;
    d.heads = 2;
    d.new_rows = 1;
    d.cache_rows = 8;
    d.k_dim = d.v_dim = 32;
    d.k_storage = k;
    d.v_storage = v;
    return d;
}

kvappend_storage of_type(std::int32_t type) {
    kvappend_storage s = KVAPPEND_STORAGE_INIT;
    s.type = type;
    return s;
}

// Codes of E4M3 with a scale for each group of 8, in a contiguous tensor.
kvappend_storage computed() {
    kvappend_storage s = of_type(KVAPPEND_STORED_E4M3);
    s.scaling = KVAPPEND_SCALING_COMPUTED;
    s.group = 8;
    const std::array<std::int64_t, 4> strides = {2 * 8 * 16, 8 * 16, 16, 4};
    std::ranges::copy(strides, s.scale_strides);
    return s;
}

kvappend_storage given() {
    kvappend_storage s = computed();
    s.scaling = KVAPPEND_SCALING_GIVEN;
    return s;
}

using Change = std::function<void(kvappend_storage &, kvappend_descriptor &)>;

// Refuses the change, both for K and for V, with a message that names all the words.
void check_refused(kvappend_storage storage, const Change &change, kvappend_status expected,
                   const std::vector<std::string> &words) {
    for (const bool is_k : {true, false}) {
        kvappend_storage changed = storage;
        kvappend_descriptor d = ordinary(is_k ? &changed : nullptr, is_k ? nullptr : &changed);
        change(changed, d);
        kvappend_plan *plan = nullptr;
        const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
        const PlanPointer owner(plan);
        const std::string message = kvappend_last_error_message();
        INFO(kvappend_status_name(status) << ": " << message);
        CHECK(status == expected);
        CHECK(message.find(is_k ? "descriptor.k_storage->" : "descriptor.v_storage->") != std::string::npos);
        CHECK(message.find("expected ") != std::string::npos);
        for (const std::string &word : words) {
            INFO("lacks " << word);
            CHECK(message.find(word) != std::string::npos);
        }
    }
}

void check_accepted(kvappend_storage storage, const Change &change) {
    kvappend_descriptor d = ordinary(&storage);
    change(storage, d);
    make_plan(d);
}

} // namespace

TEST_CASE("a value that is not a constant of its field is refused by name", "[format]") {
    const struct {
        const char *name;
        std::int32_t kvappend_storage::*field;
        std::int32_t greatest;
    } fields[] = {{"type", &kvappend_storage::type, KVAPPEND_STORED_E2M1},
                  {"scaling", &kvappend_storage::scaling, KVAPPEND_SCALING_COMPUTED},
                  {"scale_use", &kvappend_storage::scale_use, KVAPPEND_SCALE_UNROUNDED_RECIPROCAL},
                  {"scale_type", &kvappend_storage::scale_type, KVAPPEND_SCALE_UE8M0},
                  {"scale_rounding", &kvappend_storage::scale_rounding, KVAPPEND_SCALE_POWER_OF_TWO},
                  {"scale_order", &kvappend_storage::scale_order, KVAPPEND_SCALE_BY_FOUR_ROWS},
                  {"rounding", &kvappend_storage::rounding, KVAPPEND_ROUNDING_HALF_AWAY},
                  {"nibbles", &kvappend_storage::nibbles, KVAPPEND_NIBBLES_HALVES},
                  {"global_scale", &kvappend_storage::global_scale, 1},
                  {"reserved", &kvappend_storage::reserved, 0}};
    for (const auto &field : fields) {
        for (const std::int32_t value : {field.greatest + 1, -1, INT32_MIN, INT32_MAX}) {
            check_refused(computed(), [&](auto &s, auto &) { s.*field.field = value; }, KVAPPEND_ERROR_STORAGE,
                          {std::string("->") + field.name + " is " + std::to_string(value)});
        }
    }
}

TEST_CASE("floors that are not finite, and groups that do not divide the row, are refused", "[format]") {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const float floor : {nan, infinity, -infinity, -1.0F, -FLT_MIN}) {
        check_refused(computed(), [&](auto &s, auto &) { s.amax_floor = floor; }, KVAPPEND_ERROR_STORAGE,
                      {"amax_floor"});
        check_refused(computed(), [&](auto &s, auto &) { s.scale_floor = floor; }, KVAPPEND_ERROR_STORAGE,
                      {"scale_floor"});
    }
    for (const std::int64_t group : {-1, 3, 5, 33, 64}) {
        check_refused(computed(), [&](auto &s, auto &) { s.group = group; }, KVAPPEND_ERROR_STORAGE,
                      {"group is " + std::to_string(group), "dimension is 32"});
    }
}

TEST_CASE("fields that have no meaning together are refused", "[format]") {
    const auto conflict = [](const kvappend_storage &storage, const Change &change,
                             const std::vector<std::string> &words) {
        check_refused(storage, change, KVAPPEND_ERROR_CONFLICT, words);
    };
    SECTION("types of 16 bits and more have no scales") {
        for (const std::int32_t type :
             {KVAPPEND_STORED_AS_IS, KVAPPEND_STORED_F32, KVAPPEND_STORED_F16, KVAPPEND_STORED_BF16}) {
            conflict(computed(), [&](auto &s, auto &) { s.type = type; }, {"scaling is 2", "type"});
        }
    }
    SECTION("fields of scales without scales") {
        const auto none = of_type(KVAPPEND_STORED_E2M1);
        conflict(none, [](auto &s, auto &) { s.scale_use = 1; }, {"scale_use", "scaling"});
        conflict(none, [](auto &s, auto &) { s.scale_type = 1; }, {"scale_type", "scaling"});
        conflict(none, [](auto &s, auto &) { s.scale_order = 1; }, {"scale_order", "scaling"});
        conflict(none, [](auto &s, auto &) { s.global_scale = 1; }, {"global_scale", "scaling"});
        conflict(none, [](auto &s, auto &) { s.group = 8; }, {"group", "scaling"});
        conflict(none, [](auto &s, auto &) { s.nibbles = 1; }, {"nibbles", "scaling"});
        for (const int axis : {0, 1, 2, 3}) {
            conflict(none, [&](auto &s, auto &) { s.scale_strides[axis] = 4; },
                     {"scale_strides[" + std::to_string(axis), "scaling"});
        }
    }
    SECTION("fields of computed scales with given ones") {
        conflict(given(), [](auto &s, auto &) { s.scale_rounding = 1; }, {"scale_rounding", "scaling"});
        conflict(given(), [](auto &s, auto &) { s.amax_floor = 1; }, {"amax_floor", "scaling"});
        conflict(given(), [](auto &s, auto &) { s.scale_floor = 1; }, {"scale_floor", "scaling"});
        conflict(given(), [](auto &s, auto &) { s.scale_use = KVAPPEND_SCALE_UNROUNDED_RECIPROCAL; },
                 {"scale_use", "scaling"});
    }
    SECTION("computed scales are not multiplied with") {
        conflict(computed(), [](auto &s, auto &) { s.scale_use = KVAPPEND_SCALE_MULTIPLY; }, {"scale_use", "scaling"});
    }
    SECTION("rounding of floating-point codes, and nibbles of bytes") {
        conflict(computed(), [](auto &s, auto &) { s.rounding = 1; }, {"rounding", "type"});
        conflict(computed(), [](auto &s, auto &) { s.nibbles = 1; }, {"nibbles", "type"});
    }
    SECTION("powers of two and the types of scales") {
        const auto power = [](std::int32_t type, std::int32_t rounding) {
            return [=](auto &s, auto &) {
                s.scale_type = type;
                s.scale_rounding = rounding;
            };
        };
        conflict(computed(), power(KVAPPEND_SCALE_F16, 1), {"scale_rounding", "scale_type"});
        conflict(computed(), power(KVAPPEND_SCALE_E4M3, 1), {"scale_rounding", "scale_type"});
        conflict(computed(), power(KVAPPEND_SCALE_UE8M0, 0), {"scale_rounding", "scale_type"});
        check_accepted(computed(), power(KVAPPEND_SCALE_UE8M0, 1));
        check_accepted(computed(), power(KVAPPEND_SCALE_F32, 1));
    }
    SECTION("the order by four rows") {
        const auto by_four = [](auto &s) {
            s.scale_order = KVAPPEND_SCALE_BY_FOUR_ROWS;
            s.scale_type = KVAPPEND_SCALE_E4M3;
            s.scale_strides[2] = s.scale_strides[3] = 0;
        };
        check_accepted(computed(), [&](auto &s, auto &) { by_four(s); });
        conflict(computed(), [&](auto &s, auto &) { by_four(s), s.scale_type = KVAPPEND_SCALE_F16; }, {"scale_order"});
        conflict(computed(), [&](auto &s, auto &d) { by_four(s), d.cache_rows = 6; }, {"scale_order", "cache_rows"});
        conflict(computed(), [&](auto &s, auto &) { by_four(s), s.scale_strides[2] = 4; }, {"scale_strides"});
        conflict(computed(), [&](auto &s, auto &) { by_four(s), s.scale_strides[3] = 4; }, {"scale_strides[3]"});
    }
    SECTION("groups of an odd number of elements") {
        conflict(computed(), [](auto &s, auto &) { s.group = 1; }, {"group is 1", "scaling"});
        check_accepted(given(), [](auto &s, auto &) { s.group = 1; });
        const auto halves = [](auto &s, auto &) {
            s.type = KVAPPEND_STORED_INT4;
            s.nibbles = KVAPPEND_NIBBLES_HALVES;
            s.group = 1;
        };
        conflict(given(), halves, {"nibbles", "group"});
    }
    SECTION("halves of groups that lie in two pieces") {
        const auto halves = [](std::int64_t pack) {
            return [pack](auto &s, auto &d) {
                s.type = KVAPPEND_STORED_E2M1;
                s.nibbles = KVAPPEND_NIBBLES_HALVES;
                d.k_pack = d.v_pack = pack;
            };
        };
        conflict(computed(), halves(4), {"nibbles", "pack"});
        check_accepted(computed(), halves(16));
    }
}

TEST_CASE("elements that cannot be converted are refused", "[format]") {
    for (const std::int32_t element : {KVAPPEND_ELEMENT_F64, KVAPPEND_ELEMENT_E4M3, KVAPPEND_ELEMENT_E5M2,
                                       KVAPPEND_ELEMENT_INT8, KVAPPEND_ELEMENT_UINT8}) {
        check_refused(computed(), [&](auto &, auto &d) { d.element_type = element; }, KVAPPEND_ERROR_CONFLICT,
                      {"type is 4", "descriptor.element_type"});
        check_accepted(of_type(KVAPPEND_STORED_AS_IS), [&](auto &, auto &d) { d.element_type = element; });
    }
}

TEST_CASE("strides of scales that cannot be are refused", "[format]") {
    const auto stride = [](int axis, std::int64_t bytes) {
        return [=](auto &s, auto &) { s.scale_strides[axis] = bytes; };
    };
    for (const int axis : {0, 1, 2, 3}) {
        check_refused(computed(), stride(axis, -4), KVAPPEND_ERROR_STRIDE, {"scale_strides", "is -4"});
        check_refused(computed(), stride(axis, 18), KVAPPEND_ERROR_STRIDE, {"scale_strides", "is 18", "4"});
        check_refused(computed(), stride(axis, 0), KVAPPEND_ERROR_STRIDE, {"scale_strides", "is 0"});
        check_accepted(given(), stride(axis, 0));
    }
    check_refused(computed(), stride(2, 12), KVAPPEND_ERROR_OVERLAP, {"scale_strides"});
    check_accepted(given(), stride(2, 12));
}

TEST_CASE("the strides of a cache with a format count bytes", "[format]") {
    kvappend_storage f32 = of_type(KVAPPEND_STORED_F32);
    kvappend_descriptor d = ordinary(&f32);
    const std::array<std::int64_t, 3> bytes = {8 * 2 * 128, 128, 256};
    std::ranges::copy(bytes, d.k_cache_strides);
    make_plan(d);
    kvappend_plan *plan = nullptr;
    d.k_cache_strides[KVAPPEND_AXIS_ROW] = 255;
    CHECK(kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_ERROR_STRIDE);
    CHECK(std::string(kvappend_last_error_message()).find("multiple of 4 bytes") != std::string::npos);
    d.k_cache_strides[KVAPPEND_AXIS_ROW] = 124;
    CHECK(kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_ERROR_OVERLAP);
    // Elements of F16 stored as F16 are copied as they are, by strides in bytes.
    f32.type = KVAPPEND_STORED_F16;
    d.k_cache_strides[KVAPPEND_AXIS_ROW] = 256;
    CHECK(make_plan(d) != nullptr);
    d.k_pack = 3;
    CHECK(kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_ERROR_PACK);
    f32.type = KVAPPEND_STORED_E2M1;
    d.k_pack = 1;
    CHECK(kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_ERROR_PACK);
    CHECK(std::string(kvappend_last_error_message()).find("whole bytes") != std::string::npos);
}

namespace {

// Buffers of the ordinary problem. K is stored with scales, V as it is.
struct Buffers {
    Held<std::uint16_t> rows{std::vector<std::uint16_t>(2 * 2 * 32, 0x3c00)}; // 1
    Held<std::uint8_t> k_cache{std::vector<std::uint8_t>(2 * 2 * 8 * 32)};
    Held<std::uint16_t> v_cache{std::vector<std::uint16_t>(2 * 2 * 8 * 32)};
    Held<float> scales{std::vector<float>(2 * 2 * 8 * 4, 0.5F)};
    Held<float> global{std::vector<float>{2}};
    Held<std::int64_t> offsets{{3, 4}};

    kvappend_args args() const {
        kvappend_args a = KVAPPEND_ARGS_INIT;
        a.k_new = a.v_new = rows.data();
        a.k_cache = k_cache.data();
        a.v_cache = v_cache.data();
        a.k_scales = scales.data();
        a.k_scales_bytes = scales.bytes();
        a.k_global_scale = global.data();
        a.cache_offsets = offsets.data();
        return a;
    }
};

std::string refused(const PlanPointer &plan, const kvappend_args &args) {
    return told(kvappend_plan_can_implement(plan.get(), &args));
}

bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("the buffers of scales are checked as all buffers are", "[format]") {
    const Buffers buffers;
    for (kvappend_storage storage : {computed(), given()}) {
        storage.global_scale = 1;
        const PlanPointer plan = make_plan(ordinary(&storage));
        kvappend_args args = buffers.args();
        CHECK(refused(plan, args) == "KVAPPEND_SUCCESS");
        args.k_scales = nullptr;
        CHECK(contains(refused(plan, args), "NULL_BUFFER: args.k_scales is NULL: expected a buffer of 512 bytes"));
        args = buffers.args();
        args.k_scales_bytes = 508;
        CHECK(contains(refused(plan, args), "BUFFER_TOO_SMALL: args.k_scales_bytes is 508"));
        args = buffers.args();
        args.k_scales = reinterpret_cast<std::byte *>(args.k_scales) + 2;
        CHECK(contains(refused(plan, args), "MISALIGNED: args.k_scales"));
        args = buffers.args();
        args.k_global_scale = nullptr;
        CHECK(contains(refused(plan, args), "NULL_BUFFER: args.k_global_scale is NULL: expected a buffer of 4 bytes"));
        args = buffers.args();
        args.k_scales = args.k_cache;
        args.k_scales_bytes = 0;
        CHECK(contains(refused(plan, args), "KVAPPEND_ERROR_ALIAS: args."));
        args = buffers.args();
        args.k_global_scale = static_cast<const float *>(args.k_cache);
        CHECK(contains(refused(plan, args), "KVAPPEND_ERROR_ALIAS: args."));
        // Computed scales are written, and given ones are read.
        args = buffers.args();
        args.cache_offsets = args.k_scales;
        CHECK(contains(refused(plan, args), "KVAPPEND_ERROR_ALIAS") == (storage.scaling == KVAPPEND_SCALING_COMPUTED));
    }
}

TEST_CASE("scales within a cache's rows are refused if one byte belongs to both", "[format]") {
    // Each row has 32 codes and 16 bytes of scales after them.
    kvappend_storage storage = computed();
    const std::array<std::int64_t, 4> strides = {2 * 8 * 48, 8 * 48, 48, 4};
    std::ranges::copy(strides, storage.scale_strides);
    kvappend_descriptor d = ordinary(&storage);
    std::copy_n(strides.begin(), 3, d.k_cache_strides);
    const PlanPointer plan = make_plan(d);
    const Buffers buffers;
    const Held<std::uint8_t> pool(std::vector<std::uint8_t>(2 * 2 * 8 * 48));
    kvappend_args args = buffers.args();
    args.k_cache = pool.data();
    args.k_scales_bytes = 0;
    for (const auto &[distance, fits] : {std::pair(32, true), {28, false}, {36, false}, {0, false}}) {
        INFO(distance);
        args.k_scales = pool.data() + distance;
        CHECK((told(kvappend_plan_can_implement(plan.get(), &args)) == "KVAPPEND_SUCCESS") == fits);
    }
}

TEST_CASE("validate looks at the scales that the rows of a call use", "[format]") {
    kvappend_storage storage = given();
    storage.global_scale = 1;
    const PlanPointer plan = make_plan(ordinary(&storage));
    Buffers buffers;
    const kvappend_args args = buffers.args();
    const auto validate = [&] {
        kvappend_fault fault = KVAPPEND_FAULT_INIT;
        const kvappend_status status =
            kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), &fault);
        return std::pair(status, fault);
    };
    CHECK(validate().first == KVAPPEND_SUCCESS);
    const std::vector<float> good(2 * 2 * 8 * 4, 0.5F);
    for (const float bad : {0.0F, -0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, &bad, 4);
        // Row 4 of sample 1, head 1, group 2: it is used. Row 5 is not.
        const std::size_t used = ((1 * 2 + 1) * 8 + 4) * 4 + 2;
        std::vector<float> scales = good;
        scales[used] = bad;
        buffers.scales.set(scales);
        const auto [status, fault] = validate();
        CHECK(status == KVAPPEND_ERROR_SCALE);
        CHECK(fault.array == std::string("k_scales"));
        CHECK(fault.index == static_cast<std::int64_t>(used));
        CHECK(fault.value == bits);
        scales = good;
        scales[used + 4] = bad;
        buffers.scales.set(scales);
        CHECK(validate().first == KVAPPEND_SUCCESS);
        buffers.scales.set(good);
        buffers.global.set({bad});
        const auto [global_status, global_fault] = validate();
        CHECK(global_status == KVAPPEND_ERROR_SCALE);
        CHECK(global_fault.array == std::string("k_global_scale"));
        CHECK(global_fault.value == bits);
        buffers.global.set({2});
    }
}

TEST_CASE("every preset makes a plan, and an unknown one is refused", "[format]") {
    for (std::int32_t preset = KVAPPEND_PRESET_F16; preset <= KVAPPEND_PRESET_Q4_0; ++preset) {
        INFO("preset " << preset);
        kvappend_storage s = KVAPPEND_STORAGE_INIT;
        REQUIRE(told(kvappend_storage_preset(preset, &s, sizeof s)) == "KVAPPEND_SUCCESS");
        CHECK(s.struct_size == sizeof s);
        CHECK(s.type != KVAPPEND_STORED_AS_IS);
        for (const std::int64_t stride : s.scale_strides) {
            CHECK(stride == 0);
        }
        kvappend_descriptor d = ordinary(&s, &s);
        d.element_type = KVAPPEND_ELEMENT_F32;
        d.k_dim = d.v_dim = 640;
        if (s.scaling == KVAPPEND_SCALING_COMPUTED) {
            const std::int64_t groups = s.group == 0 ? 1 : 640 / s.group;
            const bool by_four = s.scale_order == KVAPPEND_SCALE_BY_FOUR_ROWS;
            const std::array<std::int64_t, 4> strides = {16 * 8 * groups, 8 * 8 * groups, by_four ? 0 : 4 * groups,
                                                         by_four ? 0 : 4};
            std::ranges::copy(strides, s.scale_strides);
        }
        CHECK(make_plan(d) != nullptr);
    }
    for (const std::int32_t preset : {0, -1, KVAPPEND_PRESET_Q4_0 + 1, INT32_MAX}) {
        kvappend_storage s = KVAPPEND_STORAGE_INIT;
        CHECK(kvappend_storage_preset(preset, &s, sizeof s) == KVAPPEND_ERROR_STORAGE);
        CHECK(contains(kvappend_last_error_message(), "preset is " + std::to_string(preset)));
    }
    kvappend_storage s = KVAPPEND_STORAGE_INIT;
    CHECK(kvappend_storage_preset(KVAPPEND_PRESET_F16, nullptr, sizeof s) == KVAPPEND_ERROR_NULL_ARGUMENT);
    CHECK(kvappend_storage_preset(KVAPPEND_PRESET_F16, &s, 7) == KVAPPEND_ERROR_STRUCT_SIZE);
}

TEST_CASE("a plan tells what it guarantees of K and of V", "[format]") {
    const auto guarantee_of = [](std::int32_t k, std::int32_t v) {
        const kvappend_storage k_storage = of_type(k);
        const kvappend_storage v_storage = of_type(v);
        kvappend_precision_guarantee g = KVAPPEND_PRECISION_GUARANTEE_INIT;
        REQUIRE(kvappend_plan_get_precision_guarantee(make_plan(ordinary(&k_storage, &v_storage)).get(), &g) ==
                KVAPPEND_SUCCESS);
        CHECK(g.deterministic == 1);
        CHECK(g.same_on_all_backends == 1);
        return g;
    };
    const auto mixed = guarantee_of(KVAPPEND_STORED_E4M3, KVAPPEND_STORED_AS_IS);
    CHECK(mixed.k_bit_exact == 0);
    CHECK(mixed.k_error == 0.0625F);
    CHECK(mixed.v_bit_exact == 1);
    CHECK(mixed.v_error == 0);
    CHECK(guarantee_of(KVAPPEND_STORED_F16, KVAPPEND_STORED_E5M2).k_bit_exact == 1);
    CHECK(guarantee_of(KVAPPEND_STORED_F16, KVAPPEND_STORED_E5M2).v_error == 0.125F);
    CHECK(guarantee_of(KVAPPEND_STORED_F32, KVAPPEND_STORED_BF16).k_error == 0);
    CHECK(guarantee_of(KVAPPEND_STORED_F32, KVAPPEND_STORED_BF16).k_bit_exact == 0);
    CHECK(guarantee_of(KVAPPEND_STORED_F32, KVAPPEND_STORED_BF16).v_error == 0x1p-8F);
    CHECK(guarantee_of(KVAPPEND_STORED_E2M1, KVAPPEND_STORED_INT8).k_error == 0.25F);
    CHECK(guarantee_of(KVAPPEND_STORED_INT4, KVAPPEND_STORED_INT8).v_error == 0.5F);
}
