/* SPDX-License-Identifier: Apache-2.0 */
/* Padded prompts of different lengths, in tensors [B, H, L_new, D]. */
#include <kvappend/kvappend.h>
#include <stdio.h>

int main(void) {
    /* Three prompts of 1, 3 and 2 rows. Each is at the end of its padded row, and 0 is padding. */
    const float k_new[3][3] = {{0, 0, 10}, {20, 21, 22}, {0, 30, 31}};
    float k_cache[3][4] = {{0}};
    int64_t offsets[3] = {0, 0, 1}; /* The third sample already has a row. */
    const int32_t left_pads[3] = {2, 0, 1};

    /* [describe] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .flags = KVAPPEND_FLAG_LEFT_PADS | KVAPPEND_FLAG_ADVANCE,
        .batch = 3,
        .heads = 1,
        .new_rows = 3, /* the longest prompt */
        .cache_rows = 4,
        .k_dim = 1, /* v_dim is 0: there is only K */
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = offsets,
        .left_pads = left_pads,
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g %g %g\n", k_cache[0][0], k_cache[0][1], k_cache[0][2], k_cache[0][3]); /* 10 0 0 0 */
    printf("%g %g %g %g\n", k_cache[1][0], k_cache[1][1], k_cache[1][2], k_cache[1][3]); /* 20 21 22 0 */
    printf("%g %g %g %g\n", k_cache[2][0], k_cache[2][1], k_cache[2][2], k_cache[2][3]); /* 0 30 31 0 */
    printf("%d %d %d\n", (int)offsets[0], (int)offsets[1], (int)offsets[2]);             /* 1 3 3 */
    return kvappend_plan_destroy(plan);
}
