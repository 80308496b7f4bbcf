// SPDX-License-Identifier: Apache-2.0
// Random shapes, strides, alignments and offsets, with every kernel of the table, against the reference.
#include "case.hpp"
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <limits>

namespace {

class Draw {
public:
    explicit Draw(std::mt19937_64 &random) : random_(random) {}

    std::int64_t between(std::int64_t low, std::int64_t high) {
        return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
    }
    bool one_in(std::int64_t n) { return between(1, n) == 1; }
    template <class T>
    T of(std::initializer_list<T> choices) {
        return choices.begin()[between(0, static_cast<std::int64_t>(choices.size()) - 1)];
    }

    // Any order of the axes from outer to inner, with gaps or without; gaps are multiples of `unit` elements.
    void strides(std::int64_t (&out)[3], const std::int64_t (&extents)[3], std::int64_t dim, bool source) {
        if (one_in(4)) {
            std::ranges::fill(out, 0);
            return;
        }
        std::array<int, 3> order{0, 1, 2};
        std::ranges::shuffle(order, random_);
        const std::int64_t unit = of<std::int64_t>({1, 1, 2, 8, 16});
        std::int64_t step = dim;
        for (const int axis : order) {
            if (one_in(3)) {
                step += unit * between(1, 3);
            }
            out[axis] = step;
            step *= std::max<std::int64_t>(extents[axis], 1);
        }
        if (source && one_in(6)) {
            // One entry for the whole axis, as in a broadcast; the others are at least dim, so not all are zero.
            out[between(0, 2)] = 0;
        }
    }

    std::int64_t offset(std::int64_t new_rows, std::int64_t cache_rows, bool narrow) {
        switch (between(0, 7)) {
        case 0:
            return between(-new_rows - 2, 1);
        case 1:
            return between(std::max<std::int64_t>(cache_rows - new_rows, 0) - 1, cache_rows + 2);
        case 2:
            return narrow ? std::numeric_limits<std::int32_t>::min() + between(0, 4)
                          : std::numeric_limits<std::int64_t>::min() + between(0, 4);
        case 3:
            return narrow ? std::numeric_limits<std::int32_t>::max() - between(0, 4)
                          : std::numeric_limits<std::int64_t>::max() - between(0, 4);
        default:
            return between(0, std::max<std::int64_t>(cache_rows - 1, 0));
        }
    }

private:
    std::mt19937_64 &random_;
};

Case draw_case(std::mt19937_64 &random) {
    Draw draw(random);
    Case c;
    kvappend_descriptor &d = c.descriptor;
    d.element_type = draw.of({KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F64, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16});
    d.offset_type = draw.of({KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32});
    d.batch = draw.between(1, 4);
    d.heads = draw.of<std::int64_t>({1, 2, 3, 4, 8, 9});
    d.new_rows = draw.of<std::int64_t>({1, 1, 1, 2, 4, 5, 17, 40});
    d.cache_rows = draw.between(1, 24);
    const auto dim = [&] { return draw.of<std::int64_t>({0, 1, 2, 3, 5, 8, 16, 23, 40, 64, 80, 128, 192}); };
    d.k_dim = dim();
    d.v_dim = draw.one_in(2) ? d.k_dim : dim();
    for (std::int64_t *const extent : {&d.batch, &d.heads, &d.new_rows, &d.cache_rows}) {
        if (draw.one_in(60)) {
            *extent = 0;
        }
    }
    const std::int64_t fresh[3] = {d.batch, d.heads, d.new_rows};
    const std::int64_t held[3] = {d.batch, d.heads, d.cache_rows};
    draw.strides(d.k_new_strides, fresh, d.k_dim, true);
    draw.strides(d.v_new_strides, fresh, d.v_dim, true);
    draw.strides(d.k_cache_strides, held, d.k_dim, false);
    draw.strides(d.v_cache_strides, held, d.v_dim, false);
    for (std::int64_t b = 0; b < d.batch; ++b) {
        c.offsets.push_back(draw.offset(d.new_rows, d.cache_rows, d.offset_type == KVAPPEND_OFFSET_INT32));
    }
    c.pass_sizes = !draw.one_in(4);

    // Guard bands of random bytes around each buffer, or none at all, so that its ends are the allocation's and an
    // access beyond is one outside all memory. A start off by some elements takes the alignment down to one element.
    const bool guarded = draw.one_in(2);
    place_apart(c, guarded ? 256 : 0, guarded ? 256 : 0);
    if (draw.one_in(2)) {
        for (std::size_t buffer = 0; buffer < tensor_count; ++buffer) {
            const auto shift =
                static_cast<std::size_t>(draw.of<std::int64_t>({0, 0, 1, 2, 3, 4, 8})) * element_bytes(d.element_type);
            c.places[buffer].start += shift;
            c.block_bytes[buffer] += shift;
        }
    }
    return c;
}

std::vector<std::string> kernels_of_subject() {
    const std::string prefix = subject().backend() == KVAPPEND_BACKEND_CUDA ? "cuda_" : "host_";
    std::vector<std::string> names;
    for (std::size_t i = 0; kvappend_kernel_name(i) != nullptr; ++i) {
        if (std::string name = kvappend_kernel_name(i); name.starts_with(prefix)) {
            names.push_back(std::move(name));
        }
    }
    return names;
}

} // namespace

TEST_CASE("random problems agree with the reference in every byte", "[random]") {
    auto random = seeded_random();
    for (int i = 0; i < 600; ++i) {
        check_case(draw_case(random), random);
    }
}

TEST_CASE("every kernel of the table agrees with the reference, or refuses the problem by name", "[random]") {
    auto random = seeded_random();
    for (const std::string &name : kernels_of_subject()) {
        int served = 0;
        for (int i = 0; i < 100; ++i) {
            Case c = draw_case(random);
            c.kernel = name;
            kvappend_descriptor d = c.descriptor;
            d.backend = subject().backend();
            kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
            preference.kernel_name = name.c_str();
            kvappend_plan *plan = nullptr;
            const kvappend_status status = kvappend_plan_create(&d, &preference, &plan);
            kvappend_plan_destroy(plan);
            if (status == KVAPPEND_ERROR_KERNEL) {
                CHECK(std::string(kvappend_last_error_message()).find(name) != std::string::npos);
                continue;
            }
            check_case(c, random);
            ++served;
        }
        INFO(name);
        CHECK(served > 0);
    }
}
