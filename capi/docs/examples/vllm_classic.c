/* SPDX-License-Identifier: Apache-2.0 */
/* vLLM's reshape_and_cache: K in pieces of 16 bytes, V in pieces of one element. */
#include <kvappend/kvappend.h>
#include <stdio.h>

enum {
    num_blocks = 2,
    block_size = 2,
    num_heads = 1,
    head_size = 8,
    num_tokens = 1,
    x = 16 / sizeof(float)
};

int main(void) {
    const float key[num_tokens][num_heads][head_size] = {{{0, 1, 2, 3, 4, 5, 6, 7}}};
    const float value[num_tokens][num_heads][head_size] = {{{10, 11, 12, 13, 14, 15, 16, 17}}};
    float key_cache[num_blocks][num_heads][head_size / x][block_size][x] = {{{{{0}}}}};
    float value_cache[num_blocks][num_heads][head_size][block_size] = {{{{0}}}};
    const int64_t slot_mapping[num_tokens] = {3}; /* block 1, row 1 */

    /* [describe] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = num_heads,
        .new_rows = num_tokens,
        .cache_rows = block_size,
        .k_dim = head_size,
        .v_dim = head_size,
        .cache_blocks = num_blocks,
        .k_pack = x, /* [num_blocks, num_heads, head_size/x, block_size, x] */
        .v_pack = 1, /* [num_blocks, num_heads, head_size, block_size] */
    };
    /* [describe] */
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = key,
        .v_new = value,
        .k_cache = key_cache,
        .v_cache = value_cache,
        .slots = slot_mapping,
    };

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g\n", key_cache[1][0][0][1][0], key_cache[1][0][1][1][3]); /* 0 7 */
    printf("%g %g\n", value_cache[1][0][0][1], value_cache[1][0][7][1]);   /* 10 17 */
    return kvappend_plan_destroy(plan);
}
