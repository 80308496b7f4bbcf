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

enum {
    batch = 3,
    heads = 2,
    rows = 2,
    cache_rows = 5,
    k_dim = 4,
    v_dim = 3
};

struct ragged_batch {
    int64_t offsets[batch];
    double k_new[batch][heads][rows][k_dim], v_new[batch][heads][rows][v_dim];
    double k_cache[batch][heads][cache_rows][k_dim], v_cache[batch][heads][cache_rows][v_dim];
    double k_expected[batch][heads][cache_rows][k_dim], v_expected[batch][heads][cache_rows][v_dim];
};

static void fill_ragged_batch(struct ragged_batch *r) {
    int b, h, l, i;

    /* The third sample stands at the end of its cache: its second row is skipped. */
    r->offsets[0] = 0;
    r->offsets[1] = 3;
    r->offsets[2] = 4;
    memset(r->k_cache, 0x5a, sizeof r->k_cache);
    memset(r->v_cache, 0xa5, sizeof r->v_cache);
    memcpy(r->k_expected, r->k_cache, sizeof r->k_cache);
    memcpy(r->v_expected, r->v_cache, sizeof r->v_cache);
    for (b = 0; b < batch; ++b) {
        for (h = 0; h < heads; ++h) {
            for (l = 0; l < rows; ++l) {
                for (i = 0; i < k_dim; ++i) {
                    r->k_new[b][h][l][i] = b * 1000 + h * 100 + l * 10 + i;
                }
                for (i = 0; i < v_dim; ++i) {
                    r->v_new[b][h][l][i] = -(b * 1000 + h * 100 + l * 10 + i);
                }
                if (r->offsets[b] + l < cache_rows) {
                    memcpy(r->k_expected[b][h][r->offsets[b] + l], r->k_new[b][h][l], sizeof r->k_new[b][h][l]);
                    memcpy(r->v_expected[b][h][r->offsets[b] + l], r->v_new[b][h][l], sizeof r->v_new[b][h][l]);
                }
            }
        }
    }
}

/* 0 where all went well. */
static int append_ragged_batch(const kvappend_api *api) {
    struct ragged_batch r;
    kvappend_descriptor d;
    kvappend_args a;
    kvappend_plan *plan = NULL;
    size_t bytes = 1;

    fill_ragged_batch(&r);
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
    a.k_new = r.k_new;
    a.k_new_bytes = sizeof r.k_new;
    a.v_new = r.v_new;
    a.v_new_bytes = sizeof r.v_new;
    a.k_cache = r.k_cache;
    a.k_cache_bytes = sizeof r.k_cache - 1;
    a.v_cache = r.v_cache;
    a.v_cache_bytes = sizeof r.v_cache;
    a.cache_offsets = r.offsets;
    a.cache_offsets_bytes = sizeof r.offsets;
    REQUIRE(api->plan_run(plan, &a, NULL, 0, NULL) == KVAPPEND_ERROR_BUFFER_TOO_SMALL);
    REQUIRE(strcmp(api->status_name(KVAPPEND_ERROR_BUFFER_TOO_SMALL), "KVAPPEND_ERROR_BUFFER_TOO_SMALL") == 0);
    REQUIRE(strstr(api->last_error_message(), "args.k_cache_bytes is 959: expected at least 960") != NULL);
    a.k_cache_bytes = sizeof r.k_cache;
    REQUIRE(api->plan_can_implement(plan, &a) == KVAPPEND_SUCCESS);
    REQUIRE(api->plan_run(plan, &a, NULL, 0, NULL) == KVAPPEND_SUCCESS);
    REQUIRE(memcmp(r.k_cache, r.k_expected, sizeof r.k_cache) == 0);
    REQUIRE(memcmp(r.v_cache, r.v_expected, sizeof r.v_cache) == 0);
    REQUIRE(api->plan_destroy(plan) == KVAPPEND_SUCCESS);
    return 0;
}

#endif
