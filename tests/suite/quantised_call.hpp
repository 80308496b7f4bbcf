// SPDX-License-Identifier: Apache-2.0
// What tests need that state another project's quantised cache anew: codes by a search for the nearest number, new rows
// with many ties, and a call whose caches and computed scales lie in one pool of bytes.
#pragma once

#include "held.hpp"
#include "scenario.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

using std::size_t;
using Bytes = std::vector<unsigned char>;

// ---- codes ----

// The nearest code of a floating-point type with a sign, at most the greatest finite one. `numbers` are those of the
// codes from 0 on.
class NearestCode {
public:
    NearestCode(int exponent_bits, int mantissa_bits, int count) {
        const int bias = (1 << (exponent_bits - 1)) - 1;
        for (int code = 0; code < count; ++code) {
            const int exponent = code >> mantissa_bits;
            const int mantissa = code & ((1 << mantissa_bits) - 1);
            numbers_.push_back(exponent == 0
                                   ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                   : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits));
        }
    }

    // Of a number that is not NaN, without its sign. Ties go to the even code.
    unsigned operator()(float number) const {
        const double magnitude = std::fabs(number);
        const auto above = std::ranges::lower_bound(numbers_, magnitude);
        if (above == numbers_.end()) {
            return static_cast<unsigned>(numbers_.size()) - 1;
        }
        const auto code = static_cast<unsigned>(above - numbers_.begin());
        if (*above == magnitude) {
            return code;
        }
        const double to_above = *above - magnitude;
        const double to_below = magnitude - *(above - 1);
        return to_above < to_below || (to_above == to_below && code % 2 == 0) ? code : code - 1;
    }

    float number(unsigned code) const { return static_cast<float>(numbers_[code]); }

private:
    std::vector<double> numbers_;
};

inline const NearestCode nearest_e4m3(4, 3, 0x7f);
inline const NearestCode nearest_e5m2(5, 2, 0x7c);
inline const NearestCode nearest_e2m1(2, 1, 8);
inline const NearestCode nearest_f16(5, 10, 0x7c00);

// __nv_cvt_float_to_fp8 of CUDA with __NV_SATFINITE, which is also the constructor of __nv_fp8_e4m3.
inline unsigned char fp8(const NearestCode &nearest, float number) {
    const unsigned sign = std::signbit(number) ? 0x80 : 0;
    return static_cast<unsigned char>(std::isnan(number) ? 0x7f : sign | nearest(number));
}

inline unsigned char e4m3(float number) {
    return fp8(nearest_e4m3, number);
}

inline unsigned e2m1(float number) {
    return (std::signbit(number) ? 8U : 0U) | nearest_e2m1(number);
}

template <class T>
void put(Bytes &pool, size_t at, T value) {
    std::memcpy(pool.data() + at, &value, sizeof value);
}

// ---- new rows ----

// New rows [tokens, heads, dim], or [samples, heads, rows, dim].
struct Rows {
    std::int32_t element_type;
    std::int64_t heads, dim;
    std::vector<float> numbers;
    Bytes bytes; // the same as elements

    const float *row(std::int64_t token, std::int64_t head = 0) const {
        return numbers.data() + (token * heads + head) * dim;
    }
};

// The number that an element has, if it is to be `number`.
inline float representable(std::int32_t element_type, float number) {
    if (element_type == KVAPPEND_ELEMENT_F16 && !std::isnan(number)) {
        return std::copysign(nearest_f16.number(nearest_f16(number)), number);
    }
    const std::uint32_t kept = element_type == KVAPPEND_ELEMENT_BF16 ? 0xffff0000 : 0xffffffff;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(number) & kept);
}

inline Bytes as_elements(std::int32_t element_type, const std::vector<float> &numbers) {
    const size_t width = element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2;
    Bytes bytes(numbers.size() * width);
    for (size_t i = 0; i < numbers.size(); ++i) {
        const auto bits = std::bit_cast<std::uint32_t>(numbers[i]);
        if (width == 4) {
            put(bytes, i * width, bits);
        } else if (element_type == KVAPPEND_ELEMENT_BF16) {
            put(bytes, i * width, static_cast<std::uint16_t>(bits >> 16));
        } else {
            const unsigned magnitude = std::isnan(numbers[i]) ? 0x7e01 : nearest_f16(numbers[i]);
            put(bytes, i * width, static_cast<std::uint16_t>(magnitude | (bits >> 16 & 0x8000)));
        }
    }
    return bytes;
}

// What a test wants of its rows.
struct Wish {
    std::int32_t element_type = KVAPPEND_ELEMENT_BF16;
    std::int64_t group = 0; // which has a magnitude of its own; 0: the row
    float greatest = 448;   // of the stored type
    std::pair<int, int> exponents = {-30, 20};
    bool tiny_groups = true;    // far below all of these
    bool negative_zeros = true; // in groups of zeros
    bool nans = false;
};

// A number with few bits in its significand, so that many lie halfway between two codes.
inline float draw_number(std::mt19937_64 &random, float greatest, std::int64_t most_bits) {
    const float number = std::uniform_real_distribution<float>(-greatest, greatest)(random);
    const std::int64_t bits = random_between(random, 2, most_bits);
    const std::uint32_t kept = ~std::uint32_t{0} << (24 - bits);
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(number) & kept);
}

// A given scale. With 7 as a factor, elements that are ties after the division are none after a multiplication by the
// rounded reciprocal.
inline float draw_scale(std::mt19937_64 &random) {
    const float factor = random_between(random, 0, 1) == 0 ? 7 : std::uniform_real_distribution<float>(4, 8)(random);
    return std::ldexp(factor, static_cast<int>(random_between(random, -8, 2)));
}

// Groups of very different magnitudes. In every second of them, a computed scale is a power of two, or 7 times that.
inline void draw_group(std::mt19937_64 &random, const Wish &wish, std::int64_t significand_bits, float *group,
                       std::int64_t count) {
    const std::int64_t kind = random_between(random, 0, 9);
    const float factor = kind % 4 == 0 ? 7 : 1;
    const bool is_zero = kind == 1;
    const bool is_tiny = kind == 2 && wish.tiny_groups;
    const auto exponent =
        static_cast<int>(is_tiny ? random_between(random, -140, -31)
                                 : random_between(random, wish.exponents.first, wish.exponents.second));
    for (std::int64_t i = 0; i < count; ++i) {
        const float number =
            i == 0 && kind % 2 == 0 ? wish.greatest : draw_number(random, wish.greatest, significand_bits);
        const float element = std::ldexp(number * factor, exponent);
        group[i] =
            representable(wish.element_type, is_zero ? std::copysign(0.0F, wish.negative_zeros ? number : 1) : element);
        if (wish.nans && random_between(random, 0, 40) == 0) {
            group[i] = std::copysign(std::numeric_limits<float>::quiet_NaN(), number);
        }
    }
}

inline Rows draw_rows(std::mt19937_64 &random, std::int64_t tokens, std::int64_t heads, std::int64_t dim,
                      const Wish &wish) {
    Rows rows{wish.element_type, heads, dim, std::vector<float>(static_cast<size_t>(tokens * heads * dim)), {}};
    const std::int64_t group = wish.group == 0 ? dim : wish.group;
    const std::int64_t bits = wish.element_type == KVAPPEND_ELEMENT_F32   ? 24
                              : wish.element_type == KVAPPEND_ELEMENT_F16 ? 11
                                                                          : 8;
    for (auto at = rows.numbers.begin(); at != rows.numbers.end(); at += group) {
        draw_group(random, wish, bits, &*at, group);
    }
    rows.bytes = as_elements(rows.element_type, rows.numbers);
    return rows;
}

inline float largest_magnitude(const float *numbers, std::int64_t count) {
    float largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        largest = std::fmax(largest, std::fabs(numbers[i])); // which ignores NaN
    }
    return largest;
}

// ---- the call through the header ----

inline kvappend_storage preset(std::int32_t number) {
    kvappend_storage storage;
    REQUIRE(told(kvappend_storage_preset(number, &storage, sizeof storage)) == "KVAPPEND_SUCCESS");
    return storage;
}

template <class T, size_t Count>
void set(T (&array)[Count], std::initializer_list<std::int64_t> values) {
    REQUIRE(values.size() == Count);
    std::ranges::copy(values, array);
}

// K or V of a call. The cache, and scales that are computed, lie in the test's one pool of bytes.
struct Side {
    const Rows *rows = nullptr; // NULL: there is none
    std::int32_t preset = 0;    // 0: stored as the rows come
    size_t cache = 0;           // where they begin in the pool
    size_t scales = 0;
    std::vector<float> given_scales = {};
    float global_scale = 1;
};

// One call. A descriptor that is made of the sides, which a test completes with strides.
class Call {
public:
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    kvappend_storage k_storage = KVAPPEND_STORAGE_INIT;
    kvappend_storage v_storage = KVAPPEND_STORAGE_INIT;

    Call(const Side &k, const Side &v, std::int64_t cache_blocks, std::int64_t cache_rows,
         std::vector<std::int64_t> slots)
        : k_(k), v_(v), indices_(std::move(slots)) {
        d.backend = subject().backend();
        d.addressing = KVAPPEND_ADDRESSING_SLOTS;
        d.batch = 1;
        d.new_rows = static_cast<std::int64_t>(indices_.size());
        d.cache_blocks = cache_blocks;
        d.cache_rows = cache_rows;
        describe(k, d.k_dim, k_storage, d.k_storage);
        describe(v, d.v_dim, v_storage, d.v_storage);
    }
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;
    ~Call() = default;

    // The strides of both caches, for caches with strides in one unit.
    void set_strides(std::initializer_list<std::int64_t> strides) {
        set(d.k_cache_strides, strides);
        set(d.v_cache_strides, strides);
    }
    void set_scale_strides(std::initializer_list<std::int64_t> strides) {
        set(k_storage.scale_strides, strides);
        set(v_storage.scale_strides, strides);
    }

    // Runs the call on the pool `before`, and requires each byte to be as in `expected`.
    void check(const Bytes &before, const Bytes &expected, kvappend_status validation = KVAPPEND_SUCCESS) const {
        const Held<unsigned char> pool(before);
        const Held<unsigned char> k_rows(k_.rows->bytes);
        const Held<unsigned char> v_rows(v_.rows == nullptr ? Bytes() : v_.rows->bytes);
        const Held<float> k_given(k_.given_scales);
        const Held<float> v_given(v_.given_scales);
        const Held<float> k_global(std::vector<float>{k_.global_scale});
        const Held<float> v_global(std::vector<float>{v_.global_scale});
        const Held<std::int64_t> indices(indices_);
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = k_rows.data(), args.k_new_bytes = k_rows.bytes();
        args.v_new = v_rows.data(), args.v_new_bytes = v_rows.bytes();
        args.k_cache = pool.data() + k_.cache, args.k_cache_bytes = before.size() - k_.cache;
        args.v_cache = pool.data() + v_.cache, args.v_cache_bytes = before.size() - v_.cache;
        args.k_scales = scales(k_, pool, k_given);
        args.v_scales = scales(v_, pool, v_given);
        args.k_global_scale = k_global.data(), args.k_global_scale_bytes = k_global.bytes();
        args.v_global_scale = v_global.data(), args.v_global_scale_bytes = v_global.bytes();
        args.slots = args.cache_offsets = indices.data();
        args.slots_bytes = args.cache_offsets_bytes = indices.bytes();
        const PlanPointer plan = make_plan(d);
        CHECK(kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), nullptr) == validation);
        REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        CHECK(pool.holds(expected));
        CHECK(k_rows.holds(k_.rows->bytes));
        CHECK(k_given.holds(k_.given_scales));
        CHECK(v_given.holds(v_.given_scales));
        CHECK(indices.holds(indices_));
        CHECK(expected != before);
    }

private:
    void describe(const Side &side, std::int64_t &dim, kvappend_storage &storage, const kvappend_storage *&used) {
        if (side.rows == nullptr) {
            return;
        }
        d.element_type = side.rows->element_type;
        d.heads = side.rows->heads;
        dim = side.rows->dim;
        if (side.preset != 0) {
            storage = preset(side.preset);
            used = &storage;
        }
    }
    static void *scales(const Side &side, const Held<unsigned char> &pool, const Held<float> &given) {
        return side.given_scales.empty() ? static_cast<void *>(pool.data() + side.scales) : given.data();
    }

    const Side &k_;
    const Side &v_;
    std::vector<std::int64_t> indices_; // slots, or offsets
};

// ---- pages ----

struct Shape {
    std::int64_t heads, dim, block_size, blocks, tokens;

    std::int64_t rows() const { return blocks * block_size; }
};

// Slots of their own for all tokens, of which some are padding.
inline std::vector<std::int64_t> draw_slots(std::mt19937_64 &random, const Shape &shape) {
    std::vector<std::int64_t> slots(static_cast<size_t>(shape.rows()));
    std::iota(slots.begin(), slots.end(), 0);
    std::ranges::shuffle(slots, random);
    REQUIRE(shape.tokens <= shape.rows());
    slots.resize(static_cast<size_t>(shape.tokens));
    for (size_t i = 1; i < slots.size(); ++i) {
        if (random_between(random, 0, 7) == 0) {
            slots[i] = -1;
        }
    }
    return slots;
}

// Calls place(token, block, row of the block, head) for each token with a slot.
template <class Place>
void for_each_place(const Shape &shape, const std::vector<std::int64_t> &slots, Place place) {
    for (std::int64_t token = 0; token < shape.tokens; ++token) {
        const std::int64_t slot = slots[static_cast<size_t>(token)];
        for (std::int64_t head = 0; slot >= 0 && head < shape.heads; ++head) {
            place(token, slot / shape.block_size, slot % shape.block_size, head);
        }
    }
}

inline Bytes draw_pool(std::mt19937_64 &random, std::int64_t bytes) {
    return random_elements<unsigned char>(random, bytes);
}

inline size_t at(std::int64_t byte) {
    return static_cast<size_t>(byte);
}
