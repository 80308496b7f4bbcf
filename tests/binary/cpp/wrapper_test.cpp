// SPDX-License-Identifier: Apache-2.0
// kvappend.hpp: each of its functions does what the C function does whose name is the test's tag.
#include <kvappend/kvappend.hpp>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

// That the wrapper costs nothing.
static_assert(sizeof(kvappend::plan) == sizeof(void *));
static_assert(std::is_standard_layout_v<kvappend::plan>);
static_assert(sizeof(kvappend::result<void>) == sizeof(kvappend_status));
static_assert(std::is_trivially_copyable_v<kvappend::result<void>>);
static_assert(sizeof(kvappend::descriptor) == sizeof(kvappend_descriptor));
static_assert(sizeof(kvappend::args) == sizeof(kvappend_args));

// That a plan has one owner.
static_assert(!std::is_copy_constructible_v<kvappend::plan> && !std::is_copy_assignable_v<kvappend::plan>);
static_assert(std::is_nothrow_move_constructible_v<kvappend::plan>);
static_assert(std::is_nothrow_move_assignable_v<kvappend::plan>);
static_assert(!std::is_convertible_v<kvappend_plan *, kvappend::plan>);

// What can be viewed as what.
template <class View, class From>
constexpr bool views = std::is_convertible_v<From, View>;
using ReadFloats = kvappend::tensor_view<const float>;
using WriteFloats = kvappend::tensor_view<float>;
using ReadInts = kvappend::tensor_view<const std::int32_t>;
static_assert(views<WriteFloats, std::vector<float> &> && views<ReadFloats, const std::vector<float> &>);
static_assert(views<WriteFloats, std::span<float>> && views<ReadFloats, std::span<const float, 3>>);
static_assert(views<WriteFloats, float (&)[3]> && views<ReadFloats, std::array<float, 3> &>);
static_assert(views<ReadFloats, WriteFloats> && !views<WriteFloats, ReadFloats>);
static_assert(!views<WriteFloats, const std::vector<float> &> && !views<WriteFloats, std::vector<double> &>);
static_assert(views<kvappend::array_view<const std::int32_t>, std::vector<std::int32_t> &>);

// A value that a function returns would be destroyed before the run, unless it is a view.
template <class From>
constexpr bool refused_as_temporary =
    !std::is_constructible_v<kvappend::array_view<const std::int32_t>, From> &&
    !std::is_constructible_v<ReadInts, From, kvappend::strides> && std::is_constructible_v<ReadInts, From &>;
static_assert(refused_as_temporary<std::vector<std::int32_t>> && refused_as_temporary<const std::vector<std::int32_t>>);
static_assert(refused_as_temporary<std::array<std::int32_t, 2>>);
static_assert(refused_as_temporary<const std::array<std::int32_t, 2>>);
static_assert(refused_as_temporary<std::array<const std::int32_t, 2>>);
static_assert(refused_as_temporary<std::int32_t[2]> && refused_as_temporary<const std::int32_t[2]>);
static_assert(refused_as_temporary<std::initializer_list<std::int32_t>>);
static_assert(std::is_constructible_v<ReadInts, std::span<std::int32_t>>);
static_assert(std::is_constructible_v<ReadInts, const std::span<const std::int32_t, 2>>);
static_assert(std::is_constructible_v<ReadInts, kvappend::array_view<std::int32_t>>);
// Scales may be of several types, and const.
static_assert(views<kvappend::scales_view, std::vector<float> &> && views<kvappend::scales_view, const float (&)[1]>);
static_assert(views<kvappend::scales_view, std::span<std::uint8_t>>);
static_assert(views<kvappend::scales_view, kvappend::array_view<std::uint16_t>>);
static_assert(!views<kvappend::scales_view, std::vector<float>> && !views<kvappend::scales_view, std::array<float, 1>>);

// Rotary tables may be of several types, and const.
static_assert(views<kvappend::table_view, std::vector<float> &> && views<kvappend::table_view, const float (&)[1]>);
static_assert(views<kvappend::table_view, std::span<const std::uint16_t>>);
static_assert(!views<kvappend::table_view, std::vector<float>>);

// Nor may a descriptor keep a storage that is about to end.
template <class Result>
constexpr bool has_address = requires(Result result) {
    &static_cast<Result &&>(result).value();
};
static_assert(!has_address<kvappend::result<kvappend::storage>>);
static_assert(has_address<kvappend::result<kvappend::storage> &>);

template <class Plan, class Args>
constexpr bool layer = requires(kvappend::layers &layers, Plan plan, Args args) {
    layers.add(static_cast<Plan>(plan), static_cast<Args>(args));
};
static_assert(layer<const kvappend::plan &, kvappend::args &>);
static_assert(!layer<kvappend::plan &&, kvappend::args &> && !layer<const kvappend::plan &, kvappend::args &&>);
static_assert(!layer<kvappend::plan &&, kvappend::args &&>);

struct Half {
    std::uint16_t bits;
};
enum class BFloat : std::uint16_t {
};
static_assert(kvappend::element_type<float> == KVAPPEND_ELEMENT_F32);
static_assert(kvappend::element_type<double> == KVAPPEND_ELEMENT_F64);
static_assert(kvappend::element_type<std::uint16_t> == KVAPPEND_ELEMENT_F16);
static_assert(kvappend::element_type<Half> == KVAPPEND_ELEMENT_F16);

struct Float8 {
    std::uint8_t bits;
};
enum class E5m2 : std::uint8_t {
};
static_assert(kvappend::element_type<std::int8_t> == KVAPPEND_ELEMENT_INT8);
static_assert(kvappend::element_type<std::uint8_t> == KVAPPEND_ELEMENT_UINT8);
static_assert(kvappend::element_type<std::byte> == KVAPPEND_ELEMENT_UINT8);
static_assert(kvappend::element_type<Float8> == KVAPPEND_ELEMENT_UINT8);

constexpr std::size_t samples = 2;
constexpr std::size_t dim = 4;
constexpr std::size_t rows = 3;

// One new row of each of two samples, in caches of three rows, one head; V is there, but its tokens lie outside.
struct Step {
    std::vector<float> k_new{1, 2, 3, 4, 5, 6, 7, 8};
    std::vector<float> v_new{-1, -2, -3, -4, -5, -6, -7, -8};
    std::vector<float> k_cache = std::vector<float>(samples * rows * dim, 9);
    std::vector<float> v_cache = std::vector<float>(samples * rows * dim, 9);
    std::vector<std::int64_t> offsets{2, 0};

    static kvappend::descriptor extents() {
        kvappend::descriptor d;
        d.batch = samples;
        d.heads = d.new_rows = 1;
        d.cache_rows = rows;
        d.k_dim = d.v_dim = dim;
        return d;
    }
    kvappend::buffers<float> buffers() {
        kvappend::buffers<float> b;
        b.k_new = k_new;
        b.v_new = std::span(v_new);
        b.k_cache = {k_cache.data(), k_cache.size()};
        b.v_cache = {v_cache, kvappend::strides{dim, 0, samples * dim}}; // [rows, B, dim]
        b.cache_offsets = offsets;
        return b;
    }
    kvappend::descriptor descriptor() {
        kvappend::descriptor d = extents();
        buffers().fill(d);
        return d;
    }
    kvappend::args args() {
        kvappend::args a;
        buffers().fill(a);
        return a;
    }

    // Whether the caches hold the first `written` samples' rows, and nothing else new.
    bool holds(std::size_t written) const {
        std::vector<float> k(k_cache.size(), 9);
        std::vector<float> v(v_cache.size(), 9);
        const std::array<std::size_t, samples> at{2, 0};
        for (std::size_t b = 0; b < written; ++b) {
            for (std::size_t i = 0; i < dim; ++i) {
                k[(b * rows + at[b]) * dim + i] = static_cast<float>(b * dim + i + 1);
                v[(at[b] * samples + b) * dim + i] = -static_cast<float>(b * dim + i + 1);
            }
        }
        return k == k_cache && v == v_cache;
    }
};

template <class Struct, class Init>
bool made_as_by(Init init) {
    const Struct ours;
    Struct theirs;
    std::memset(static_cast<void *>(&theirs), 0xff, sizeof theirs);
    return init(&theirs, sizeof theirs) == KVAPPEND_SUCCESS && std::memcmp(&ours, &theirs, sizeof ours) == 0;
}

} // namespace

template <>
inline constexpr std::int32_t kvappend::element_type<BFloat> = KVAPPEND_ELEMENT_BF16;
template <>
inline constexpr std::int32_t kvappend::element_type<E5m2> = KVAPPEND_ELEMENT_E5M2;

TEST_CASE("structs are made as the init functions make them",
          "[kvappend_descriptor_init][kvappend_preference_init][kvappend_args_init][kvappend_report_init]"
          "[kvappend_fault_init][kvappend_sku_init][kvappend_precision_guarantee_init][kvappend_storage_init]"
          "[kvappend_rotary_init]") {
    CHECK(made_as_by<kvappend::descriptor>(kvappend_descriptor_init));
    CHECK(made_as_by<kvappend::preference>(kvappend_preference_init));
    CHECK(made_as_by<kvappend::args>(kvappend_args_init));
    CHECK(made_as_by<kvappend::report>(kvappend_report_init));
    CHECK(made_as_by<kvappend::fault>(kvappend_fault_init));
    CHECK(made_as_by<kvappend::sku>(kvappend_sku_init));
    CHECK(made_as_by<kvappend::precision_guarantee>(kvappend_precision_guarantee_init));
    CHECK(made_as_by<kvappend::storage>(kvappend_storage_init));
    CHECK(made_as_by<kvappend::rotary>(kvappend_rotary_init));
}

TEST_CASE("buffers fill what a plan knows of them, and nothing else") {
    std::array<BFloat, 6> elements{};
    std::array<std::int32_t, 3> slots{};
    kvappend::buffers<BFloat, const std::int32_t> b;
    b.k_new = {elements, {1, 2, 3}};
    b.v_new = {elements, {4, 5, 6}};
    b.k_cache = {elements, {7, 8, 9}};
    b.v_cache = {elements, kvappend::strides::bshd(5, 3, 2)};
    b.slots = slots;
    kvappend::descriptor expected;
    expected.element_type = KVAPPEND_ELEMENT_BF16;
    expected.offset_type = KVAPPEND_OFFSET_INT32;
    for (int i = 0; i < 3; ++i) {
        expected.k_new_strides[i] = i + 1;
        expected.v_new_strides[i] = i + 4;
        expected.k_cache_strides[i] = i + 7;
    }
    expected.v_cache_strides[KVAPPEND_AXIS_BATCH] = 30;
    expected.v_cache_strides[KVAPPEND_AXIS_HEAD] = 2;
    expected.v_cache_strides[KVAPPEND_AXIS_ROW] = 6;
    expected.batch = 77;
    kvappend::descriptor d;
    d.batch = 77;
    d.element_type = -1;
    b.fill(d);
    CHECK(std::memcmp(&d, &expected, sizeof d) == 0);

    // The strides of rows are those of the operation.
    b.k_out = {elements, {10, 11, 12}};
    b.v_out = {elements, {13, 14, 15}};
    b.fill(d);
    CHECK(std::memcmp(&d, &expected, sizeof d) == 0);
    d.operation = expected.operation = KVAPPEND_OPERATION_GATHER;
    for (int i = 0; i < 3; ++i) {
        expected.k_new_strides[i] = i + 10;
        expected.v_new_strides[i] = i + 13;
    }
    b.fill(d);
    CHECK(std::memcmp(&d, &expected, sizeof d) == 0);
    d.operation = expected.operation = KVAPPEND_OPERATION_MOVE;
    for (int i = 0; i < 3; ++i) {
        expected.k_new_strides[i] = expected.v_new_strides[i] = 0;
    }
    b.fill(d);
    CHECK(std::memcmp(&d, &expected, sizeof d) == 0);
}

TEST_CASE("buffers fill the strides of a cache in bytes if it has a storage") {
    std::array<std::uint16_t, 6> elements{};
    kvappend::buffers<std::uint16_t, std::int64_t, std::int32_t, float, std::uint8_t> b;
    b.k_new = {elements, {1, 2, 3}};
    b.k_cache = {kvappend::array_view<float>(), {4, 5, 6}};
    b.v_cache = {kvappend::array_view<std::uint8_t>(), {7, 8, 9}};
    kvappend::storage storage;
    kvappend::descriptor d;
    d.k_storage = d.v_storage = &storage;
    const auto strides = [&d] {
        return std::vector<std::int64_t>{d.k_new_strides[0],   d.k_cache_strides[0], d.k_cache_strides[1],
                                         d.k_cache_strides[2], d.v_cache_strides[0], d.v_cache_strides[2]};
    };
    b.fill(d);
    CHECK(strides() == std::vector<std::int64_t>{1, 4, 5, 6, 7, 9});
    storage.type = KVAPPEND_STORED_F32;
    b.fill(d);
    CHECK(strides() == std::vector<std::int64_t>{1, 16, 20, 24, 7, 9});
    CHECK(d.k_storage == &storage);
}

TEST_CASE("buffers fill the strides of Q, in bytes if it has a storage") {
    kvappend::buffers<std::uint16_t, std::int64_t, std::int32_t, std::uint16_t, std::uint16_t, float> b;
    b.q = {kvappend::array_view<std::uint16_t>(), {1, 2, 3}};
    b.q_out = {kvappend::array_view<float>(), {4, 5, 6}};
    kvappend::storage f32;
    f32.type = KVAPPEND_STORED_F32;
    kvappend::rotary expected;
    kvappend::rotary r;
    r.dim = expected.dim = 64;
    r.q_storage = expected.q_storage = &f32;
    for (int i = 0; i < 3; ++i) {
        expected.q_strides[i] = i + 1;
        expected.q_out_strides[i] = 4 * (i + 4);
    }
    b.fill(r);
    CHECK(std::memcmp(&r, &expected, sizeof r) == 0);
    r.q_storage = nullptr;
    b.fill(r);
    CHECK(r.q_out_strides[KVAPPEND_AXIS_ROW] == 6);
}

TEST_CASE("buffers fill the types of their indices and 8-bit elements") {
    kvappend::descriptor d;
    kvappend::buffers<std::int8_t>{}.fill(d);
    CHECK(d.element_type == KVAPPEND_ELEMENT_INT8);
    CHECK(d.offset_type == KVAPPEND_OFFSET_INT64);
    CHECK(d.index_type == KVAPPEND_INDEX_INT32);
    kvappend::buffers<E5m2, std::int32_t, std::int64_t>{}.fill(d);
    CHECK(d.element_type == KVAPPEND_ELEMENT_E5M2);
    CHECK(d.offset_type == KVAPPEND_OFFSET_INT32);
    CHECK(d.index_type == KVAPPEND_INDEX_INT64);
}

TEST_CASE("buffers fill the arguments of a run") {
    std::array<double, 4> k{};
    std::array<double, 3> v{};
    std::array<std::int64_t, 5> offsets{};
    std::array<std::int32_t, 6> indices{};
    std::array<std::uint8_t, 3> bytes{};
    std::array<std::uint16_t, 4> halves{};
    kvappend::report report;
    kvappend::buffers<double> b;
    b.k_new = k;
    b.v_new = v;
    b.k_cache = k;
    b.v_cache = kvappend::array_view<double>::unchecked(v.data());
    b.k_out = std::span(k).first(2);
    b.v_out = v;
    b.cache_offsets = offsets;
    b.slots = std::span(offsets).first(4);
    b.from_slots = std::span(offsets).last(2);
    b.lengths = indices;
    b.left_pads = std::span(indices).first(1);
    b.batch_index = std::span(indices).first(2);
    b.page_table = std::span(indices).first(3);
    b.page_indptr = std::span(indices).first(4);
    b.token_samples = std::span(indices).first(5);
    b.token_positions = std::span(offsets).first(3);
    b.token_count = std::span(indices).first(1);
    const std::array<float, 2> floats{};
    b.k_scales = floats;
    b.v_scales = std::span(bytes);
    b.k_global_scale = floats;
    b.v_global_scale = std::span(floats).first(1);
    b.rotary_cos = floats;
    b.rotary_sin = {halves.data() + 1, 3};
    b.positions = std::span(offsets).last(1);
    b.q = k;
    b.q_out = v;
    b.q_scales = std::span(bytes).first(2);
    b.report = &report;
    kvappend_args expected = KVAPPEND_ARGS_INIT;
    expected.k_new = expected.k_cache = k.data();
    expected.k_new_bytes = expected.k_cache_bytes = 32;
    expected.v_new = expected.v_cache = v.data();
    expected.v_new_bytes = 24;
    expected.k_out = k.data();
    expected.k_out_bytes = 16;
    expected.v_out = v.data();
    expected.v_out_bytes = 24;
    expected.cache_offsets = offsets.data();
    expected.cache_offsets_bytes = 40;
    expected.slots = offsets.data();
    expected.slots_bytes = 32;
    expected.from_slots = offsets.data() + 3;
    expected.from_slots_bytes = 16;
    expected.lengths = expected.left_pads = expected.batch_index = indices.data();
    expected.page_table = expected.page_indptr = indices.data();
    expected.lengths_bytes = 24;
    expected.left_pads_bytes = 4;
    expected.batch_index_bytes = 8;
    expected.page_table_bytes = 12;
    expected.page_indptr_bytes = 16;
    expected.token_samples = expected.token_count = indices.data();
    expected.token_samples_bytes = 20;
    expected.token_count_bytes = 4;
    expected.token_positions = offsets.data();
    expected.token_positions_bytes = 24;
    expected.k_scales = const_cast<float *>(floats.data());
    expected.k_scales_bytes = 8;
    expected.v_scales = bytes.data();
    expected.v_scales_bytes = 3;
    expected.k_global_scale = expected.v_global_scale = floats.data();
    expected.k_global_scale_bytes = 8;
    expected.v_global_scale_bytes = 4;
    expected.rotary_cos = floats.data(), expected.rotary_cos_bytes = 8;
    expected.rotary_sin = halves.data() + 1, expected.rotary_sin_bytes = 6;
    expected.positions = offsets.data() + 4, expected.positions_bytes = 8;
    expected.q = k.data(), expected.q_bytes = 32;
    expected.q_out = v.data(), expected.q_out_bytes = 24;
    expected.q_scales = bytes.data(), expected.q_scales_bytes = 2;
    expected.report = &report;
    expected.report_bytes = sizeof report;
    kvappend::args a;
    b.fill(a);
    CHECK(std::memcmp(&a, &expected, sizeof a) == 0);
    kvappend::buffers<double>{}.fill(a);
    CHECK(std::memcmp(&a, &static_cast<const kvappend_args &>(kvappend::args()), sizeof a) == 0);
}

TEST_CASE("an array without elements is none, and copies of views keep what they are") {
    std::vector<float> empty;
    empty.reserve(1);
    CHECK(kvappend::array_view<float>(empty).pointer() == nullptr);
    float one = 0;
    auto unchecked = kvappend::array_view<float>::unchecked(&one);
    kvappend::tensor_view<float> tensor{unchecked, {1, 2, 3}};
    kvappend::tensor_view<float> same(tensor);
    const kvappend::tensor_view<const float> read_only = same;
    CHECK(read_only.pointer() == &one);
    CHECK(read_only.bytes() == 0);
    CHECK(read_only.strides().row == 3);
    const kvappend::array_view<const float> without_strides = read_only;
    CHECK(without_strides.pointer() == &one);
}

TEST_CASE("a plan is created, runs, and reports", "[kvappend_plan_create][kvappend_plan_run]") {
    Step step;
    auto created = kvappend::plan::create(step.descriptor());
    REQUIRE(created);
    CHECK(created.has_value());
    CHECK(created.status() == KVAPPEND_SUCCESS);
    CHECK(std::string(created.message()).empty());
    REQUIRE(created->get() != nullptr);
    const kvappend::plan plan = *std::move(created);
    CHECK(plan.run(step.args()).status() == KVAPPEND_SUCCESS);
    CHECK(step.holds(2));
}

TEST_CASE("rows are read from const caches", "[kvappend_plan_create][kvappend_plan_run]") {
    Step step;
    CHECK(kvappend::plan::create(step.descriptor()).value().run(step.args()));
    const Step &appended = step;
    std::vector<float> k_out(samples * dim, 7);
    std::vector<float> v_out(samples * (dim + 1), 7);
    const std::array<std::int64_t, samples> offsets{2, rows}; // the row of sample 1 has no place
    kvappend::buffers<float, const std::int64_t, std::int32_t, const float> b;
    b.k_out = k_out;
    b.v_out = {v_out, kvappend::strides{dim + 1, 0, 0}};
    b.k_cache = appended.k_cache;
    b.v_cache = {appended.v_cache, kvappend::strides{dim, 0, samples * dim}};
    b.cache_offsets = offsets;
    kvappend::descriptor d = Step::extents();
    d.operation = KVAPPEND_OPERATION_GATHER;
    b.fill(d);
    kvappend::args a;
    b.fill(a);
    CHECK(kvappend::plan::create(d).value().run(a));
    CHECK(k_out == std::vector<float>{1, 2, 3, 4, 7, 7, 7, 7});
    CHECK(v_out == std::vector<float>{-1, -2, -3, -4, 7, 7, 7, 7, 7, 7});
    d.flags = KVAPPEND_FLAG_ZERO_SKIPPED;
    CHECK(kvappend::plan::create(d).value().run(a));
    CHECK(k_out == std::vector<float>{1, 2, 3, 4, 0, 0, 0, 0});
    CHECK(v_out == std::vector<float>{-1, -2, -3, -4, 7, 0, 0, 0, 0, 7});
    CHECK(step.holds(2));
    d.operation = 3;
    CHECK(kvappend::plan::create(d).status() == KVAPPEND_ERROR_OPERATION);
}

namespace {

// Caches of five rows, from 10 on and from 20 on, each row of one head with one element of K and two of V.
struct Moved {
    std::vector<float> k_cache{10, 11, 12, 13, 14};
    std::vector<float> v_cache{20, -20, 21, -21, 22, -22, 23, -23, 24, -24};

    static kvappend::descriptor extents(std::int64_t moved, std::int64_t moved_samples) {
        kvappend::descriptor d;
        d.operation = KVAPPEND_OPERATION_MOVE;
        d.addressing = KVAPPEND_ADDRESSING_SLOTS;
        d.lengths = KVAPPEND_LENGTHS_PACKED;
        d.batch = moved_samples;
        d.new_rows = moved;
        d.heads = d.cache_blocks = d.k_dim = 1;
        d.cache_rows = 5;
        d.v_dim = 2;
        return d;
    }
    kvappend::buffers<float> buffers(const std::vector<std::int64_t> &from, const std::vector<std::int64_t> &to,
                                     const std::vector<std::int32_t> &lengths) {
        kvappend::buffers<float> b;
        b.k_cache = k_cache;
        b.v_cache = v_cache;
        b.from_slots = from;
        b.slots = to;
        b.lengths = lengths;
        return b;
    }
    kvappend::result<void> run(const std::vector<std::int64_t> &from, const std::vector<std::int64_t> &to,
                               const std::vector<std::int32_t> &lengths) {
        kvappend::descriptor d =
            extents(static_cast<std::int64_t>(to.size()), static_cast<std::int64_t>(lengths.size()) - 1);
        kvappend::args a;
        buffers(from, to, lengths).fill(d);
        buffers(from, to, lengths).fill(a);
        return kvappend::plan::create(d).value().run(a);
    }
    // Whether each row of the caches is the one that was in this row of them.
    bool holds(const std::vector<int> &rows_before) const {
        std::vector<float> k;
        std::vector<float> v;
        for (const int row : rows_before) {
            k.push_back(static_cast<float>(10 + row));
            v.push_back(static_cast<float>(20 + row));
            v.push_back(static_cast<float>(-20 - row));
        }
        return k == k_cache && v == v_cache;
    }
};

} // namespace

TEST_CASE("rows are moved within caches", "[kvappend_plan_create][kvappend_plan_run]") {
    Moved chain;
    CHECK(chain.run({0, 1, 2}, {1, 2, 3}, {0, 3}));
    CHECK(chain.holds({0, 0, 0, 0, 4}));
    Moved padded;
    CHECK(padded.run({0, -1, 2}, {-1, 1, 3}, {0, 3}));
    CHECK(padded.holds({0, 1, 2, 2, 4}));
    Moved of_two_samples; // one sample swaps rows 0 and 1 by way of row 4
    CHECK(of_two_samples.run({0, 1, 4, 2}, {4, 0, 1, 3}, {0, 3, 4}));
    CHECK(of_two_samples.holds({1, 0, 2, 2, 0}));
    Moved outside; // rows outside every sample are padding
    CHECK(outside.run({0, 1}, {2, 3}, {1, 2}));
    CHECK(outside.holds({0, 1, 2, 1, 4}));
    Moved none;
    CHECK(none.run({0}, {}, {0, 0}));
    CHECK(none.holds({0, 1, 2, 3, 4}));
}

TEST_CASE("what is not a move is refused", "[kvappend_plan_create][kvappend_plan_run][kvappend_plan_validate]") {
    Moved moved;
    const std::vector<std::int64_t> from{0, 1};
    const std::vector<std::int64_t> to{1, 2};
    const std::vector<std::int32_t> lengths{0, 1, 2};
    const kvappend::buffers<float> b = moved.buffers(from, to, lengths);
    kvappend::descriptor d = Moved::extents(2, 2);
    b.fill(d);
    kvappend::args a;
    b.fill(a);
    const kvappend::plan move = kvappend::plan::create(d).value();
    kvappend::fault fault; // Sample 1 reads what sample 0 writes.
    CHECK(move.validate(a, &fault).status() == KVAPPEND_ERROR_DUPLICATE);
    CHECK(fault.sample == 1);
    CHECK(fault.position == 1);
    a.from_slots = nullptr;
    CHECK(move.run(a).status() == KVAPPEND_ERROR_NULL_BUFFER);
    CHECK(std::string(kvappend::last_error_message()).rfind("args.from_slots", 0) == 0);
    b.fill(a);
    d.batch = 1;
    d.lengths = KVAPPEND_LENGTHS_FIXED;
    d.operation = KVAPPEND_OPERATION_APPEND;
    const kvappend::plan append = kvappend::plan::create(d).value();
    CHECK(append.run(a).status() == KVAPPEND_ERROR_NULL_BUFFER);
    kvappend::layers layers;
    layers.add(move, a);
    layers.add(append, a);
    CHECK(layers.run().status() == KVAPPEND_ERROR_OPERATION);
    CHECK(moved.holds({0, 1, 2, 3, 4}));
}

TEST_CASE("a preference counts", "[kvappend_plan_create]") {
    Step step;
    kvappend::preference preference;
    preference.kernel_name = "host_rows";
    const kvappend::plan plan = kvappend::plan::create(step.descriptor(), preference).value();
    CHECK(std::string(plan.get_sku().value().kernel_name) == "host_rows");
    preference.kernel_name = "none";
    CHECK(kvappend::plan::create(step.descriptor(), &preference).status() == KVAPPEND_ERROR_KERNEL);
}

TEST_CASE("a failure is a status, a message, and an exception for who asks",
          "[kvappend_plan_create][kvappend_status_name][kvappend_last_error_message]") {
    kvappend::descriptor d = Step::extents();
    d.batch = -1;
    const std::string message = "descriptor.batch is -1: expected 0 or more";
    auto created = kvappend::plan::create(d);
    CHECK_FALSE(created);
    CHECK_FALSE(*created);
    CHECK(created.status() == KVAPPEND_ERROR_EXTENT);
    CHECK(created.message() == message);
    CHECK(kvappend::last_error_message() == message);
    CHECK(std::string(kvappend::status_name(created.status())) == "KVAPPEND_ERROR_EXTENT");
    const kvappend::error kept = created.error();
    CHECK(kept.status() == KVAPPEND_ERROR_EXTENT);
    try {
        kvappend::plan plan = std::move(created).value();
        FAIL("no exception, but " << plan.get());
    } catch (const kvappend::error &thrown) {
        CHECK(thrown.status() == KVAPPEND_ERROR_EXTENT);
        CHECK(thrown.what() == "KVAPPEND_ERROR_EXTENT: " + message);
    }
    const kvappend::plan none;
    CHECK_THROWS_AS(none.run(kvappend::args()).value(), kvappend::error);
    CHECK_THROWS_AS(none.workspace_size().value(), kvappend::error);
    CHECK(std::string(kept.what()) == "KVAPPEND_ERROR_EXTENT: " + message);
}

TEST_CASE("a value may be had without a copy") {
    Step step;
    auto created = kvappend::plan::create(step.descriptor());
    const kvappend::plan &in_place = created.value();
    CHECK(&in_place == &*created);
    const auto &constant = created;
    CHECK(&constant.value() == &*constant);
    CHECK(constant->get() == created->get());
}

TEST_CASE("a plan has one owner, and ends with it", "[kvappend_plan_destroy]") {
    Step step;
    kvappend::plan first = kvappend::plan::create(step.descriptor()).value();
    kvappend_plan *const there = first.get();
    kvappend::plan second = std::move(first);
    CHECK_FALSE(first); // NOLINT(bugprone-use-after-move, clang-analyzer-cplusplus.Move): moved from is empty
    CHECK(second.get() == there);
    first = std::move(second);
    CHECK(first.get() == there);
    first = kvappend::plan::create(step.descriptor()).value(); // and the address sanitizer sees that `there` is gone
    CHECK(first);
    kvappend_plan *const raw = first.release();
    CHECK_FALSE(first);
    const kvappend::plan adopted(raw);
    CHECK(adopted.run(step.args()));
    second = kvappend::plan::create(step.descriptor()).value();
    second.reset();
    CHECK_FALSE(second);
    CHECK(second.run(step.args()).status() == KVAPPEND_ERROR_NULL_ARGUMENT);
}

TEST_CASE("no workspace is needed", "[kvappend_plan_workspace_size]") {
    Step step;
    CHECK(kvappend::plan::create(step.descriptor())->workspace_size().value() == 0);
    CHECK(kvappend::plan().workspace_size().status() == KVAPPEND_ERROR_NULL_ARGUMENT);
}

TEST_CASE("arguments are checked without a run", "[kvappend_plan_can_implement]") {
    Step step;
    const kvappend::plan plan = kvappend::plan::create(step.descriptor()).value();
    kvappend::args a = step.args();
    CHECK(plan.can_implement(a));
    a.k_cache_bytes -= 1;
    CHECK(plan.can_implement(a).status() == KVAPPEND_ERROR_BUFFER_TOO_SMALL);
    CHECK(step.holds(0));
}

TEST_CASE("stream and workspace come to the library", "[kvappend_plan_run][kvappend_plan_validate]"
                                                      "[kvappend_plan_run_layers]") {
    Step step;
    const kvappend::plan plan = kvappend::plan::create(step.descriptor()).value();
    const kvappend::args a = step.args();
    auto *const stream = reinterpret_cast<CUstream_st *>(&step);
    kvappend::layers layers;
    layers.add(plan, a);
    CHECK(plan.run(a, stream).status() == KVAPPEND_ERROR_STREAM);
    CHECK(plan.run(a, nullptr, nullptr, 1).status() == KVAPPEND_ERROR_WORKSPACE);
    CHECK(plan.validate(a, nullptr, stream).status() == KVAPPEND_ERROR_STREAM);
    CHECK(plan.validate(a, nullptr, nullptr, nullptr, 1).status() == KVAPPEND_ERROR_WORKSPACE);
    CHECK(layers.run(stream).status() == KVAPPEND_ERROR_STREAM);
    CHECK(layers.run(nullptr, nullptr, 1).status() == KVAPPEND_ERROR_WORKSPACE);
    CHECK(step.holds(0));
    CHECK(plan.run(a, nullptr, &step, sizeof step));
    CHECK(step.holds(2));
}

TEST_CASE("validation says where the fault is", "[kvappend_plan_validate]") {
    Step step;
    const kvappend::plan plan = kvappend::plan::create(step.descriptor()).value();
    kvappend::fault fault;
    CHECK(plan.validate(step.args(), &fault));
    step.offsets[1] = rows;
    CHECK(plan.validate(step.args(), &fault).status() == KVAPPEND_ERROR_SKIPPED);
    CHECK(fault.sample == 1);
    CHECK(fault.position == rows);
}

TEST_CASE("layers are appended as one", "[kvappend_plan_run_layers]") {
    std::array<Step, 2> steps;
    const kvappend::plan plan = kvappend::plan::create(steps[0].descriptor()).value();
    std::array<kvappend::args, 2> args{steps[0].args(), steps[1].args()};
    kvappend::layers layers;
    CHECK(layers.run());
    for (const kvappend::args &a : args) {
        layers.add(plan, a);
    }
    CHECK(layers.size() == 2);
    args[1].k_new = nullptr;
    const auto refused = layers.run();
    CHECK(refused.status() == KVAPPEND_ERROR_NULL_BUFFER);
    CHECK(std::string(refused.message()).rfind("layer 1: ", 0) == 0);
    CHECK(steps[0].holds(0));
    args[1] = steps[1].args();
    CHECK(layers.run());
    CHECK(steps[0].holds(2));
    CHECK(steps[1].holds(2));

    kvappend::descriptor d = steps[1].descriptor();
    d.operation = KVAPPEND_OPERATION_GATHER;
    const kvappend::plan gather = kvappend::plan::create(d).value();
    layers.add(gather, args[1]);
    CHECK(layers.run().status() == KVAPPEND_ERROR_OPERATION);
}

TEST_CASE("layers that share their offsets advance them once", "[kvappend_plan_run_layers]") {
    std::array<Step, 3> steps;
    kvappend::descriptor d = steps[0].descriptor();
    d.flags = KVAPPEND_FLAG_ADVANCE;
    const kvappend::plan plan = kvappend::plan::create(d).value();
    std::array<kvappend::args, 3> args;
    kvappend::layers layers;
    for (std::size_t i = 0; i < steps.size(); ++i) {
        kvappend::buffers<float> b = steps[i].buffers();
        b.cache_offsets = steps[0].offsets;
        b.fill(args[i]);
        layers.add(plan, args[i]);
    }
    CHECK(layers.run());
    CHECK(steps[0].offsets == std::vector<std::int64_t>{3, 1});
    for (const Step &step : steps) {
        CHECK(step.holds(2));
    }
}

TEST_CASE("tokens with positions of their own, by indices of 64 bits", "[kvappend_plan_run]") {
    const std::array<std::uint8_t, 4> k_new{1, 2, 3, 4};
    std::array<std::uint8_t, samples * rows> k_cache{};
    const std::array<std::int64_t, 4> token_samples{1, 0, -1, 0};
    const std::array<std::int32_t, 4> token_positions{2, 0, 1, 1};
    const std::array<std::int64_t, 1> token_count{3};
    kvappend::buffers<std::uint8_t, const std::int32_t, std::int64_t> b;
    b.k_new = k_new;
    b.k_cache = k_cache;
    b.token_samples = token_samples;
    b.token_positions = token_positions;
    b.token_count = token_count;
    kvappend::descriptor d;
    d.batch = samples;
    d.heads = d.k_dim = 1;
    d.new_rows = k_new.size();
    d.cache_rows = rows;
    d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
    d.flags = KVAPPEND_FLAG_TOKEN_COUNT;
    b.fill(d);
    kvappend::args a;
    b.fill(a);
    CHECK(kvappend::plan::create(d).value().run(a));
    CHECK(k_cache == std::array<std::uint8_t, samples * rows>{2, 0, 0, 0, 0, 1});
}

namespace {

// Two caches of two rows. The new row of sample 0 goes to row 1, that of sample 1 to row 0.
constexpr std::array<std::int64_t, 2> stored_at{1, 0};

kvappend::descriptor stored_extents(std::int64_t k_dim, std::int64_t v_dim) {
    kvappend::descriptor d;
    d.batch = d.cache_rows = 2;
    d.heads = d.new_rows = 1;
    d.k_dim = k_dim;
    d.v_dim = v_dim;
    return d;
}

template <class Cache>
using StoredBuffers = kvappend::buffers<float, const std::int64_t, std::int32_t, Cache>;

template <class Buffers>
void run_stored(const kvappend::descriptor &d, const Buffers &b) {
    kvappend::args a;
    b.fill(a);
    const auto done = kvappend::plan::create(d).value().run(a);
    INFO(done.message());
    CHECK(done);
}

using Bytes = std::vector<std::uint8_t>;

} // namespace

TEST_CASE("rows are stored in E4M3 with given scales", "[kvappend_storage_preset][kvappend_plan_run]") {
    const std::array<float, 8> k_new{2, -3, 896, 0.5F, 1000, 0, -0.0F, 2.125F};
    const std::array<float, 4> v_new{4, -6, 2, 1};
    const std::array<float, 1> k_scale{2};
    const std::array<float, 2> v_scales{4, 2}; // of the two samples
    Bytes k_cache(16, 0xee);
    Bytes v_cache(8, 0xee);
    const kvappend::storage k_storage = kvappend::storage_preset(KVAPPEND_PRESET_E4M3_DIVIDE).value();
    kvappend::storage v_storage = k_storage;
    v_storage.scale_strides[KVAPPEND_AXIS_BATCH] = sizeof(float);
    StoredBuffers<std::uint8_t> b;
    b.k_new = k_new;
    b.v_new = v_new;
    b.k_cache = k_cache;
    b.v_cache = v_cache;
    b.k_scales = k_scale;
    b.v_scales = v_scales;
    b.cache_offsets = stored_at;
    kvappend::descriptor d = stored_extents(4, 2);
    d.k_storage = &k_storage;
    d.v_storage = &v_storage;
    b.fill(d);
    run_stored(d, b);
    CHECK(k_cache == Bytes{0xee, 0xee, 0xee, 0xee, 0x38, 0xbc, 0x7e, 0x28,   // 1, -1.5, 448, 0.25
                           0x7e, 0x00, 0x80, 0x38, 0xee, 0xee, 0xee, 0xee}); // 500, 0, -0, 1.0625
    CHECK(v_cache == Bytes{0xee, 0xee, 0x38, 0xbc, 0x38, 0x30, 0xee, 0xee}); // 1, -1.5; 1, 0.5

    const auto guarantee = kvappend::plan::create(d)->get_precision_guarantee();
    CHECK(guarantee->k_bit_exact == 0);
    CHECK(guarantee->same_on_all_backends == 1);
    CHECK(guarantee->v_error == 0.0625F);

    // A gather gives each code times its scale.
    std::array<float, 8> k_out{};
    std::array<float, 4> v_out{};
    StoredBuffers<const std::uint8_t> from;
    from.k_out = k_out;
    from.v_out = v_out;
    from.k_cache = std::as_const(k_cache);
    from.v_cache = std::as_const(v_cache);
    from.k_scales = k_scale;
    from.v_scales = v_scales;
    from.cache_offsets = stored_at;
    d.operation = KVAPPEND_OPERATION_GATHER;
    from.fill(d);
    run_stored(d, from);
    CHECK(k_out == std::array<float, 8>{2, -3, 896, 0.5F, 896, 0, -0.0F, 2});
    CHECK(std::signbit(k_out[6]));
    CHECK(v_out == std::array<float, 4>{4, -6, 2, 1});
}

TEST_CASE("rows are stored in INT8, each with its scale after it", "[kvappend_storage_preset][kvappend_plan_run]") {
    const std::array<float, 8> k_new{127, -63.5F, 1, 0.5F, 254, 1, -3, 5};
    Bytes k_cache(32, 0xee); // rows of four codes and a float
    kvappend::storage storage = kvappend::storage_preset(KVAPPEND_PRESET_INT8_ROW).value();
    storage.scale_strides[KVAPPEND_AXIS_BATCH] = 16;
    storage.scale_strides[KVAPPEND_AXIS_ROW] = 8;
    StoredBuffers<std::uint8_t> b;
    b.k_new = k_new;
    b.k_cache = {k_cache, kvappend::strides{16, 0, 8}};
    b.k_scales = {k_cache.data() + 4, k_cache.size() - 4};
    b.cache_offsets = stored_at;
    kvappend::descriptor d = stored_extents(4, 0);
    d.k_storage = &storage;
    b.fill(d);
    run_stored(d, b);
    CHECK(k_cache == Bytes{0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee,   // row 0 of sample 0
                           0x7f, 0xc0, 0x01, 0x01, 0x00, 0x00, 0x80, 0x3f,   // 127, -64, 1, 1; 1.0F
                           0x7f, 0x01, 0xfe, 0x03, 0x00, 0x00, 0x00, 0x40,   // 127, 1, -2, 3; 2.0F
                           0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee}); // row 1 of sample 1

    std::array<float, 8> k_out{};
    b.k_out = k_out;
    d.operation = KVAPPEND_OPERATION_GATHER;
    b.fill(d);
    run_stored(d, b);
    CHECK(k_out == std::array<float, 8>{127, -64, 1, 1, 254, 2, -4, 6});

    // A move takes the scale of the row along.
    const std::array<std::int64_t, 1> from{2};
    const std::array<std::int64_t, 1> to{0};
    b.from_slots = from;
    b.slots = to;
    d.operation = KVAPPEND_OPERATION_MOVE;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.cache_blocks = 2;
    d.batch = 1;
    b.fill(d);
    run_stored(d, b);
    CHECK(k_cache == Bytes{0x7f, 0x01, 0xfe, 0x03, 0x00, 0x00, 0x00, 0x40, 0x7f, 0xc0, 0x01,
                           0x01, 0x00, 0x00, 0x80, 0x3f, 0x7f, 0x01, 0xfe, 0x03, 0x00, 0x00,
                           0x00, 0x40, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee});
}

TEST_CASE("rows are stored in NVFP4", "[kvappend_storage_preset][kvappend_plan_run]") {
    const std::array<float, 32> k_new{0,  1,  2,      3,    4,     6,     8,     12,
                                      -1, -2, -3,     -4,   -6,    -8,    -12,   0.5F, // by 4 * 0.5
                                      6,  5,  -0.25F, 2.5F, 1.75F, -3.5F, 0.75F, NAN}; // by 2 * 0.5
    const std::array<float, 1> global_scale{0.5F};
    Bytes k_cache(32, 0xee);
    Bytes k_scales(4, 0xee);
    kvappend::storage storage = kvappend::storage_preset(KVAPPEND_PRESET_NVFP4).value();
    storage.scale_strides[KVAPPEND_AXIS_BATCH] = 2;
    storage.scale_strides[KVAPPEND_AXIS_ROW] = 1;
    StoredBuffers<std::uint8_t> b;
    b.k_new = k_new;
    b.k_cache = k_cache;
    b.k_scales = k_scales;
    b.k_global_scale = global_scale;
    b.cache_offsets = stored_at;
    kvappend::descriptor d = stored_extents(16, 0);
    d.k_storage = &storage;
    b.fill(d);
    run_stored(d, b);
    CHECK(k_cache == Bytes{0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0x10, 0x32, 0x54,
                           0x76, 0xa9, 0xcb, 0xed, 0x0f, 0x67, 0x48, 0xe4, 0x02, 0x00, 0x00,
                           0x00, 0x00, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee});
    CHECK(k_scales == Bytes{0xee, 0x48, 0x40, 0xee}); // 4 and 2
}

TEST_CASE("rows of K and of Q are rotated by one table", "[kvappend_plan_run]") {
    const std::array<float, 8> k_new{1, 2, 3, 4, 1, 2, 3, 4};
    const std::array<float, 8> table{1, 1, 0, 0, 0, 0, 1, 1}; // [positions, cos | sin]
    const std::array<std::int32_t, 2> positions{0, 1};
    const std::array<std::int32_t, 2> slots{1, 0};
    std::vector<float> k_cache(8);
    kvappend::rotary rotary;
    rotary.dim = rotary.table_stride = 4;
    rotary.table_rows = 2;
    kvappend::buffers<float, const std::int32_t> b;
    b.k_new = k_new;
    b.k_cache = k_cache;
    b.slots = slots;
    b.positions = positions;
    b.rotary_cos = table;
    b.rotary_sin = {table.data() + 2, table.size() - 2};
    kvappend::descriptor d;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.flags = KVAPPEND_FLAG_POSITIONS;
    d.batch = d.heads = d.cache_blocks = 1;
    d.new_rows = d.cache_rows = 2;
    d.k_dim = 4;
    d.rotary = &rotary;
    b.fill(d);
    CHECK(d.rotary == &rotary);
    kvappend::args a;
    b.fill(a);
    const kvappend::plan plan = kvappend::plan::create(d).value();
    plan.run(a).value();
    CHECK(k_cache == std::vector<float>{-3, -4, 1, 2, 1, 2, 3, 4});
    CHECK(plan.get_precision_guarantee()->k_bit_exact == 0);

    // Q as [H, T, D], in place.
    std::vector<float> q{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    rotary.q_heads = 2, rotary.q_dim = 4;
    b.q = {q, kvappend::strides{16, 8, 4}};
    b.q_out = {q, kvappend::strides{16, 8, 4}};
    b.fill(rotary);
    b.fill(a);
    kvappend::plan::create(d).value().run(a).value();
    CHECK(q == std::vector<float>{1, 2, 3, 4, -7, -8, 5, 6, 9, 10, 11, 12, -15, -16, 13, 14});
}

TEST_CASE("a preset that does not exist is refused", "[kvappend_storage_preset]") {
    const auto none = kvappend::storage_preset(0);
    CHECK(none.status() == KVAPPEND_ERROR_STORAGE);
    CHECK(none->struct_size == sizeof(kvappend_storage));
}

TEST_CASE("what was chosen", "[kvappend_plan_get_sku][kvappend_plan_get_precision_guarantee][kvappend_kernel_name]") {
    Step step;
    const kvappend::plan plan = kvappend::plan::create(step.descriptor()).value();
    const kvappend::sku sku = plan.get_sku().value();
    CHECK(sku.operation == KVAPPEND_OPERATION_APPEND);
    CHECK(sku.addressing == KVAPPEND_ADDRESSING_DENSE);
    CHECK(sku.element_type == KVAPPEND_ELEMENT_F32);
    CHECK(sku.device == 0);
    const auto guarantee = plan.get_precision_guarantee();
    CHECK(guarantee->k_bit_exact == 1);
    CHECK(guarantee->v_bit_exact == 1);
    CHECK(guarantee->deterministic == 1);
    CHECK(guarantee->same_on_all_backends == 1);
    CHECK(guarantee->k_error == 0);
    std::vector<std::string> names;
    while (const char *const name = kvappend::kernel_name(names.size())) {
        names.emplace_back(name);
    }
    CHECK(std::find(names.begin(), names.end(), sku.kernel_name) != names.end());
    kvappend::descriptor d = step.descriptor();
    d.addressing = KVAPPEND_ADDRESSING_RING;
    d.operation = KVAPPEND_OPERATION_GATHER;
    const kvappend::sku of_gather = kvappend::plan::create(d)->get_sku().value();
    CHECK(of_gather.operation == KVAPPEND_OPERATION_GATHER);
    CHECK(of_gather.addressing == KVAPPEND_ADDRESSING_RING);
    CHECK(kvappend::plan().get_sku().status() == KVAPPEND_ERROR_NULL_ARGUMENT);
    CHECK(kvappend::plan().get_precision_guarantee().status() == KVAPPEND_ERROR_NULL_ARGUMENT);
}

TEST_CASE("the version and the table are the library's", "[kvappend_version][kvappend_get_api]") {
    CHECK(kvappend::version() == KVAPPEND_VERSION);
    const kvappend_api *const api = kvappend::get_api().value();
    CHECK(api->version == KVAPPEND_VERSION);
    CHECK(api->plan_run == kvappend_plan_run);
    const auto other = kvappend::get_api(KVAPPEND_ABI_VERSION + 1);
    CHECK(other.status() == KVAPPEND_ERROR_ABI_VERSION);
    CHECK(*other == nullptr);
}

TEST_CASE("a message is the thread's that failed") {
    CHECK_FALSE(kvappend::plan().workspace_size());
    const std::string mine = kvappend::last_error_message();
    std::thread([] {
        CHECK(std::string(kvappend::last_error_message()).empty());
        CHECK_FALSE(kvappend::get_api(0));
    }).join();
    CHECK(kvappend::last_error_message() == mine);
}
