/* SPDX-License-Identifier: Apache-2.0 */
/* Several threads that load the library for themselves, by RTLD_LOCAL, use a plan that they share and plans of their
 * own, fail each with a message of its own, and unload it again, all at the same time. */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#include "../consumers/append.h"
#include "loading.h"

#include <pthread.h>

enum {
    threads = 4,
    rounds = 50,
    dim = 8
};

struct Work {
    const char *path;
    const kvappend_plan *shared;
    int number;
    int failed;
};

/* One row of each thread's own, through the plan of all. */
static int append_row(const kvappend_api *api, const kvappend_plan *plan, int64_t at, float value) {
    float row[dim], cache[rounds][dim], expected[rounds][dim];
    kvappend_args a = KVAPPEND_ARGS_INIT;
    int i;
    memset(cache, 0, sizeof cache);
    memset(expected, 0, sizeof expected);
    for (i = 0; i < dim; ++i) {
        row[i] = expected[at][i] = value;
    }
    a.k_new = row, a.k_new_bytes = sizeof row;
    a.k_cache = cache, a.k_cache_bytes = sizeof cache;
    a.cache_offsets = &at, a.cache_offsets_bytes = sizeof at;
    REQUIRE(api->plan_run(plan, &a, NULL, 0, NULL) == KVAPPEND_SUCCESS);
    REQUIRE(memcmp(cache, expected, sizeof cache) == 0);
    return 0;
}

static int fail(const kvappend_api *api, int number) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    kvappend_plan *plan = NULL;
    char expected[64];
    d.batch = -1 - number;
    snprintf(expected, sizeof expected, "descriptor.batch is %d: expected 0 or more", -1 - number);
    REQUIRE(api->plan_create(&d, NULL, &plan) == KVAPPEND_ERROR_EXTENT);
    REQUIRE(strcmp(api->last_error_message(), expected) == 0);
    return 0;
}

static void *work(void *argument) {
    struct Work *const own = argument;
    int round;
    for (round = 0; round < rounds && own->failed == 0; ++round) {
        const kvappend_api *api = NULL;
        void *library = NULL;
        own->failed = load(own->path, &library, &api) != LOADING_DONE ||
                      append_row(api, own->shared, round, (float)(own->number + 1)) != 0 ||
                      fail(api, own->number) != 0 || append_ragged_batch(api) != 0 || dlclose(library) != 0;
    }
    return NULL;
}

static int run(const char *path, const kvappend_api *api) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    struct Work all[threads];
    pthread_t running[threads];
    kvappend_plan *plan = NULL;
    int i;
    REQUIRE(dlsym(RTLD_DEFAULT, "kvappend_get_api") == NULL);
    d.batch = d.heads = d.new_rows = 1;
    d.cache_rows = rounds;
    d.k_dim = dim;
    REQUIRE(api->plan_create(&d, NULL, &plan) == KVAPPEND_SUCCESS);
    for (i = 0; i < threads; ++i) {
        all[i].path = path;
        all[i].shared = plan;
        all[i].number = i;
        all[i].failed = 0;
        REQUIRE(pthread_create(&running[i], NULL, work, &all[i]) == 0);
    }
    for (i = 0; i < threads; ++i) {
        pthread_join(running[i], NULL);
    }
    for (i = 0; i < threads; ++i) {
        REQUIRE(all[i].failed == 0);
    }
    return api->plan_destroy(plan);
}

int main(int argc, char **argv) {
    const kvappend_api *api = NULL;
    void *library = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: threads LIBRARY\n");
        return 2;
    }
    if (load(argv[1], &library, &api) != LOADING_DONE || run(argv[1], api) != 0) {
        return 1;
    }
    return dlclose(library);
}
