/* SPDX-License-Identifier: Apache-2.0 */
/* vLLM's reshape_and_cache_flash: caches [num_blocks, block_size, num_heads, head_size], and a slot for each token. */
#include <kvappend/kvappend.h>
#include <stdio.h>

enum {
    num_blocks = 2,
    block_size = 2,
    num_heads = 2,
    head_size = 2,
    num_tokens = 3
};

int main(void) {
    const float key[num_tokens][num_heads][head_size] = {{{1, 2}, {3, 4}}, {{5, 6}, {7, 8}}, {{9, 9}, {9, 9}}};
    const float value[num_tokens][num_heads][head_size] = {
        {{-1, -2}, {-3, -4}}, {{-5, -6}, {-7, -8}}, {{9, 9}, {9, 9}}};
    float key_cache[num_blocks][block_size][num_heads][head_size] = {{{{0}}}};
    float value_cache[num_blocks][block_size][num_heads][head_size] = {{{{0}}}};
    const int64_t slot_mapping[num_tokens] = {1, 2, -1}; /* The third token is padding. */

    /* [describe] */
    const int64_t page = block_size * num_heads * head_size;
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = num_heads,
        .new_rows = num_tokens, /* the size of slot_mapping */
        .cache_rows = block_size,
        .k_dim = head_size,
        .v_dim = head_size,
        .k_cache_strides = {page, head_size, num_heads * head_size},
        .v_cache_strides = {page, head_size, num_heads * head_size},
        .cache_blocks = num_blocks,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = key,
        .v_new = value,
        .k_cache = key_cache,
        .v_cache = value_cache,
        .slots = slot_mapping,
        .slots_bytes = sizeof slot_mapping,
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g\n", key_cache[0][1][0][0], key_cache[0][1][1][1]);     /* 1 4 */
    printf("%g %g\n", value_cache[1][0][0][0], value_cache[1][0][1][1]); /* -5 -8 */
    printf("%g %g\n", key_cache[0][0][0][0], key_cache[1][1][0][0]);     /* 0 0 */
    return kvappend_plan_destroy(plan);
}
