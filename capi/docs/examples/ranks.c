/* SPDX-License-Identifier: Apache-2.0 */
/* Tensor parallelism by heads: each rank has a plan and caches for its own heads only. */
#include <kvappend/kvappend.h>
#include <stdio.h>

enum {
    ranks = 2,
    all_heads = 4,
    heads = all_heads / ranks,
    cache_rows = 2,
    dim = 1
};

/* What one rank does. In a real program each rank is a process, or a thread, and has computed its own heads. */
/* [one rank] */
static kvappend_status append_on(int rank, const float *k_new, float *k_cache, int64_t *offset) {
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .batch = 1,
        .heads = heads, /* heads of this rank */
        .new_rows = 1,
        .cache_rows = cache_rows,
        .k_dim = dim,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new + rank * heads * dim, /* this rank's slice of a tensor of all heads */
        .k_cache = k_cache,
        .cache_offsets = offset,
    };
    kvappend_plan *plan = NULL;
    kvappend_status status = kvappend_plan_create(&d, NULL, &plan);
    if (!status) {
        status = kvappend_plan_run(plan, &a, NULL, 0, NULL);
    }
    kvappend_plan_destroy(plan);
    return status;
}
/* [one rank] */

int main(void) {
    const float k_new[all_heads][dim] = {{1}, {2}, {3}, {4}};
    float k_cache[ranks][heads][cache_rows][dim] = {{{{0}}}};
    int64_t offset = 1;
    for (int rank = 0; rank < ranks; ++rank) {
        if (append_on(rank, k_new[0], k_cache[rank][0][0], &offset)) {
            fprintf(stderr, "%s\n", kvappend_last_error_message());
            return 1;
        }
    }
    printf("%g %g\n", k_cache[0][0][1][0], k_cache[0][1][1][0]); /* 1 2 */
    printf("%g %g\n", k_cache[1][0][1][0], k_cache[1][1][1][0]); /* 3 4 */
    return 0;
}
