/* SPDX-License-Identifier: Apache-2.0 */
/* Two threads copy a prompt of 16 MiB. */
#include <kvappend/kvappend.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    heads = 8,
    rows = 4096,
    dim = 128
};

int main(void) {
    const size_t bytes = sizeof(float) * heads * rows * dim;
    float *const k_new = malloc(bytes);
    float *const k_cache = malloc(bytes);
    if (!k_new || !k_cache) {
        return 1;
    }
    for (size_t i = 0; i < bytes / sizeof(float); ++i) {
        k_new[i] = (float)i;
    }

    /* [threads] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .flags = KVAPPEND_FLAG_ZERO_OFFSETS,
        .batch = 1,
        .heads = heads,
        .new_rows = rows,
        .cache_rows = rows,
        .k_dim = dim,
    };
    const kvappend_preference preference = {
        .struct_size = sizeof preference, .host_threads = 2, /* this thread and one of the plan's */
    };
    kvappend_plan *plan = NULL;
    kvappend_status status = kvappend_plan_create(&d, &preference, &plan);
    /* [threads] */
    const kvappend_args a = {
        .struct_size = sizeof a, .k_new = k_new, .k_new_bytes = bytes, .k_cache = k_cache, .k_cache_bytes = bytes};
    if (!status) {
        status = kvappend_plan_run(plan, &a, NULL, 0, NULL);
    }
    if (status) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%s\n", memcmp(k_new, k_cache, bytes) == 0 ? "the same bytes" : "other bytes"); /* the same bytes */
    kvappend_plan_destroy(plan);                                                           /* ends the plan's thread */
    free(k_new);
    free(k_cache);
    return 0;
}
