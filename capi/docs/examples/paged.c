/* SPDX-License-Identifier: Apache-2.0 */
/* A chunk of a prompt and a decoding step in one call. The tokens are packed, and the caches have pages of two rows. */
#include <kvappend/kvappend.h>
#include <stdio.h>

int main(void) {
    const float k_new[4] = {10, 11, 12, 20};                   /* three tokens of sample 0, one of sample 1 */
    const int32_t lengths[3] = {0, 3, 4};                      /* cu_seqlens */
    int64_t offsets[2] = {1, 2};                               /* number of rows that each sample already has */
    const int32_t page_table[2][3] = {{3, 0, -1}, {1, 2, -1}}; /* -1: no page yet */
    float k_cache[4][2] = {{0}};                               /* four pages */

    /* [describe] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_PAGED,
        .batch = 2,
        .heads = 1,
        .new_rows = 4,   /* T: number of tokens, or the greatest number */
        .cache_rows = 2, /* rows of a page */
        .k_dim = 1,
        .lengths = KVAPPEND_LENGTHS_PACKED,
        .cache_blocks = 4, /* number of pages */
        .table_entries = 3,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = offsets,
        .lengths = lengths,
        .page_table = page_table[0],
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g, %g %g\n", k_cache[0][0], k_cache[0][1], k_cache[1][0], k_cache[1][1]); /* 11 12, 0 0 */
    printf("%g %g, %g %g\n", k_cache[2][0], k_cache[2][1], k_cache[3][0], k_cache[3][1]); /* 20 0, 0 10 */
    return kvappend_plan_destroy(plan);
}
