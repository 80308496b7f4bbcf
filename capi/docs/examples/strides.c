/* SPDX-License-Identifier: Apache-2.0 */
/* From a fused projection of queries, K and V to caches with the tokens outside the heads. */
#include <kvappend/kvappend.h>
#include <stdio.h>

enum {
    query_heads = 4,
    heads = 2,
    dim = 2,
    tokens = 2,
    cache_rows = 3,
    width = (query_heads + heads + heads) * dim /* a token's queries, K and V, side by side */
};

int main(void) {
    float fused[tokens][width];
    float k_cache[cache_rows][heads][dim] = {{{0}}}, v_cache[cache_rows][heads][dim] = {{{0}}};
    int64_t offset = 1;
    for (int t = 0; t < tokens; ++t) {
        for (int i = 0; i < width; ++i) {
            fused[t][i] = (float)(100 * t + i);
        }
    }

    /* [describe] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .batch = 1,
        .heads = heads,
        .new_rows = tokens,
        .cache_rows = cache_rows,
        .k_dim = dim,
        .v_dim = dim,
        .k_new_strides = {tokens * width, dim, width}, /* of batch, head and row, in elements */
        .v_new_strides = {tokens * width, dim, width},
        .k_cache_strides = {cache_rows * heads * dim, dim, heads * dim}, /* [B, L, H, D] */
        .v_cache_strides = {cache_rows * heads * dim, dim, heads * dim},
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = &fused[0][query_heads * dim], /* K and V begin inside the first token */
        .v_new = &fused[0][(query_heads + heads) * dim],
        .k_cache = k_cache,
        .k_cache_bytes = sizeof k_cache,
        .v_cache = v_cache,
        .v_cache_bytes = sizeof v_cache,
        .cache_offsets = &offset,
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g\n", k_cache[1][0][0], k_cache[1][1][0]); /* 8 10 */
    printf("%g %g\n", v_cache[2][0][0], v_cache[2][1][1]); /* 112 115 */
    return kvappend_plan_destroy(plan);
}
