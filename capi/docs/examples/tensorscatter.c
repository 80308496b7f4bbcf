/* SPDX-License-Identifier: Apache-2.0 */
/* ONNX TensorScatter, mode "circular", axis -2, of a cache [batch, heads, max_sequence_length, dim]. */
#include <kvappend/kvappend.h>
#include <stdio.h>
#include <string.h>

enum {
    batch = 2,
    heads = 1,
    max_sequence_length = 4,
    sequence_length = 2,
    dim = 1
};

int main(void) {
    const float past_cache[batch][heads][max_sequence_length][dim] = {{{{1}, {2}, {3}, {4}}}, {{{5}, {6}, {7}, {8}}}};
    const float update[batch][heads][sequence_length][dim] = {{{{10}, {11}}}, {{{20}, {21}}}};
    int64_t write_indices[batch] = {3, 0};
    float present_cache[batch][heads][max_sequence_length][dim];

    /* [describe] */
    memcpy(present_cache, past_cache, sizeof past_cache); /* not needed if both are the same memory */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_RING, /* KVAPPEND_ADDRESSING_DENSE for mode "linear" */
        .batch = batch,
        .heads = heads,
        .new_rows = sequence_length,
        .cache_rows = max_sequence_length,
        .k_dim = dim,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = update,
        .k_cache = present_cache,
        .cache_offsets = write_indices, /* without write_indices: KVAPPEND_FLAG_ZERO_OFFSETS */
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g %g %g\n", present_cache[0][0][0][0], present_cache[0][0][1][0], present_cache[0][0][2][0],
           present_cache[0][0][3][0]); /* 11 2 3 10 */
    printf("%g %g %g %g\n", present_cache[1][0][0][0], present_cache[1][0][1][0], present_cache[1][0][2][0],
           present_cache[1][0][3][0]); /* 20 21 7 8 */
    return kvappend_plan_destroy(plan);
}
