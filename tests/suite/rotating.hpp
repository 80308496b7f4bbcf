// SPDX-License-Identifier: Apache-2.0
// The small problems of the tests of rotations.
#pragma once

#include "held.hpp"
#include "plan.hpp"
#include "subject.hpp"

#include <cstdint>
#include <string>
#include <vector>

inline kvappend_rotary halves(std::int64_t dim, std::int64_t table_rows) {
    kvappend_rotary rotary = KVAPPEND_ROTARY_INIT;
    rotary.dim = dim;
    rotary.table_rows = table_rows;
    return rotary;
}

// One sample of F32 rows without V, whose K has `dim` elements.
struct Dense {
    kvappend_rotary rotary;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;

    Dense(std::int64_t dim, std::int64_t rows, std::int64_t table_rows) : rotary(halves(dim, table_rows)) {
        d.backend = subject().backend();
        d.batch = d.heads = 1;
        d.new_rows = d.cache_rows = rows;
        d.k_dim = dim;
        d.flags = KVAPPEND_FLAG_ZERO_OFFSETS;
        d.rotary = &rotary;
    }
    Dense(const Dense &) = delete;
    Dense &operator=(const Dense &) = delete;
    ~Dense() = default;

    std::vector<float> run(const std::vector<float> &k, const std::vector<float> &cos, const std::vector<float> &sin) {
        const Held<float> k_new(k);
        const Held<float> k_cache{std::vector<float>(k.size())};
        const Held<float> held_cos(cos);
        const Held<float> held_sin(sin);
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = k_new.data(), args.k_cache = k_cache.data();
        args.rotary_cos = held_cos.data(), args.rotary_sin = held_sin.data();
        const PlanPointer plan = make_plan(d);
        REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
        CHECK(k_new.holds(k));
        std::vector<float> found(k.size());
        subject().download(found.data(), k_cache.data(), k_cache.bytes());
        return found;
    }
};

// What the creation of a plan says.
inline std::string refused(const kvappend_descriptor &d) {
    kvappend_plan *plan = nullptr;
    std::string message = told(kvappend_plan_create(&d, nullptr, &plan));
    kvappend_plan_destroy(plan);
    return message;
}
