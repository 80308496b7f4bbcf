// SPDX-License-Identifier: Apache-2.0
// Loads the library by dlopen, for programs that are not linked to it, and makes a plan of one row.
#pragma once

#include <kvappend/kvappend.h>

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                               \
            std::exit(EXIT_FAILURE);                                                                                   \
        }                                                                                                              \
    } while (false)

struct Library {
    void *handle = nullptr;
    const kvappend_api *api = nullptr;
};

inline Library load(const char *path) {
    Library library;
    library.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library.handle != nullptr);
    using GetApi = kvappend_status (*)(std::uint32_t, const kvappend_api **);
    const auto get_api = reinterpret_cast<GetApi>(dlsym(library.handle, "kvappend_get_api"));
    REQUIRE(get_api != nullptr && get_api(KVAPPEND_ABI_VERSION, &library.api) == KVAPPEND_SUCCESS);
    return library;
}

inline kvappend_plan *create(const kvappend_api &api, std::int32_t host_threads) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = d.heads = d.new_rows = d.cache_rows = d.k_dim = 1;
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    p.host_threads = host_threads;
    kvappend_plan *plan = nullptr;
    REQUIRE(api.plan_create(&d, &p, &plan) == KVAPPEND_SUCCESS);
    return plan;
}

inline void append(const kvappend_api &api, const kvappend_plan *plan) {
    const float row = 1.5F;
    float cache = 0;
    std::int64_t offset = 0;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = &row;
    args.k_cache = &cache;
    args.cache_offsets = &offset;
    REQUIRE(api.plan_run(plan, &args, nullptr, 0, nullptr) == KVAPPEND_SUCCESS);
    REQUIRE(cache == row);
}
