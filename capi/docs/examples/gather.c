/* SPDX-License-Identifier: Apache-2.0 */
/* The prefixes of two samples, read from pages of two rows into one tensor for attention over a chunk of the prompt. */
#include <kvappend/kvappend.h>
#include <stdio.h>

int main(void) {
    const float k_cache[4][2] = {{11, 12}, {20, 21}, {0, 0}, {9, 10}}; /* four pages */
    const int32_t page_table[2][3] = {{3, 0, -1}, {1, 2, -1}};
    const int32_t lengths[3] = {0, 4, 6}; /* cu_seqlens of the prefixes: four rows of sample 0, two of sample 1 */
    float k_out[7] = {-1, -1, -1, -1, -1, -1, -1};

    /* [describe] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .operation = KVAPPEND_OPERATION_GATHER,
        .addressing = KVAPPEND_ADDRESSING_PAGED,
        .batch = 2,
        .heads = 1,
        .new_rows = 7, /* T: rows of the output. The two prefixes have 6 rows together. */
        .cache_rows = 2,
        .k_dim = 1,
        .lengths = KVAPPEND_LENGTHS_PACKED,
        .flags = KVAPPEND_FLAG_ZERO_OFFSETS | KVAPPEND_FLAG_ZERO_SKIPPED, /* from position 0 on; other rows: zero */
        .cache_blocks = 4,
        .table_entries = 3,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_cache = (void *)k_cache, /* A gather only reads it. */
        .k_out = k_out,
        .lengths = lengths,
        .page_table = page_table[0],
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g %g %g\n", k_out[0], k_out[1], k_out[2], k_out[3]); /* 9 10 11 12 */
    printf("%g %g, %g\n", k_out[4], k_out[5], k_out[6]);             /* 20 21, 0 */
    return kvappend_plan_destroy(plan);
}
