/* SPDX-License-Identifier: Apache-2.0 */
/* A ragged batch through a function table, checked byte for byte: what both C consumers do. */
#ifndef KVAPPEND_TESTS_APPEND_H
#define KVAPPEND_TESTS_APPEND_H

#include <kvappend/kvappend.h>

#include <stdio.h>
#include <string.h>

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #condition, api->last_error_message());    \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* 0 where all went well. */
static int append_ragged_batch(const kvappend_api *api) {
    enum {
        batch = 3,
        heads = 2,
        rows = 2,
        cache_rows = 5,
        k_dim = 4,
        v_dim = 3
    };
    /* The third sample stands at the end of its cache: its second row is skipped. */
    int64_t offsets[batch] = {0, 3, 4};
    double k_new[batch][heads][rows][k_dim], v_new[batch][heads][rows][v_dim];
    double k_cache[batch][heads][cache_rows][k_dim], v_cache[batch][heads][cache_rows][v_dim];
    double k_expected[batch][heads][cache_rows][k_dim], v_expected[batch][heads][cache_rows][v_dim];
    kvappend_descriptor d;
    kvappend_args a;
    kvappend_plan *plan = NULL;
    size_t bytes = 1;
    int b, h, l, i;

    memset(k_cache, 0x5a, sizeof k_cache);
    memset(v_cache, 0xa5, sizeof v_cache);
    memcpy(k_expected, k_cache, sizeof k_cache);
    memcpy(v_expected, v_cache, sizeof v_cache);
    for (b = 0; b < batch; ++b) {
        for (h = 0; h < heads; ++h) {
            for (l = 0; l < rows; ++l) {
                for (i = 0; i < k_dim; ++i) {
                    k_new[b][h][l][i] = b * 1000 + h * 100 + l * 10 + i;
                }
                for (i = 0; i < v_dim; ++i) {
                    v_new[b][h][l][i] = -(b * 1000 + h * 100 + l * 10 + i);
                }
                if (offsets[b] + l < cache_rows) {
                    memcpy(k_expected[b][h][offsets[b] + l], k_new[b][h][l], sizeof k_new[b][h][l]);
                    memcpy(v_expected[b][h][offsets[b] + l], v_new[b][h][l], sizeof v_new[b][h][l]);
                }
            }
        }
    }

    REQUIRE(api->descriptor_init(&d, sizeof d) == KVAPPEND_SUCCESS);
    REQUIRE(api->args_init(&a, sizeof a) == KVAPPEND_SUCCESS);
    d.element_type = KVAPPEND_ELEMENT_F64;
    d.batch = batch;
    d.heads = heads;
    d.new_rows = rows;
    d.cache_rows = cache_rows;
    d.k_dim = k_dim;
    d.v_dim = v_dim;
    REQUIRE(api->plan_create(&d, NULL, &plan) == KVAPPEND_SUCCESS);
    REQUIRE(api->plan_workspace_size(plan, &bytes) == KVAPPEND_SUCCESS && bytes == 0);
    a.k_new = k_new;
    a.k_new_bytes = sizeof k_new;
    a.v_new = v_new;
    a.v_new_bytes = sizeof v_new;
    a.k_cache = k_cache;
    a.k_cache_bytes = sizeof k_cache - 1;
    a.v_cache = v_cache;
    a.v_cache_bytes = sizeof v_cache;
    a.cache_offsets = offsets;
    a.cache_offsets_bytes = sizeof offsets;
    REQUIRE(api->plan_run(plan, &a, NULL, 0, NULL) == KVAPPEND_ERROR_BUFFER_TOO_SMALL);
    REQUIRE(strcmp(api->status_name(KVAPPEND_ERROR_BUFFER_TOO_SMALL), "KVAPPEND_ERROR_BUFFER_TOO_SMALL") == 0);
    REQUIRE(strstr(api->last_error_message(), "args.k_cache_bytes is 959: expected at least 960") != NULL);
    a.k_cache_bytes = sizeof k_cache;
    REQUIRE(api->plan_can_implement(plan, &a) == KVAPPEND_SUCCESS);
    REQUIRE(api->plan_run(plan, &a, NULL, 0, NULL) == KVAPPEND_SUCCESS);
    REQUIRE(memcmp(k_cache, k_expected, sizeof k_cache) == 0);
    REQUIRE(memcmp(v_cache, v_expected, sizeof v_cache) == 0);
    REQUIRE(api->plan_destroy(plan) == KVAPPEND_SUCCESS);
    return 0;
}

#endif
