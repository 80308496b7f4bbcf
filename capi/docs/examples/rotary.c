/* SPDX-License-Identifier: Apache-2.0 */
/* Two tokens in slots of a paged cache: K is rotated by one table [positions, cos | sin], and V is not. */
#include <kvappend/kvappend.h>
#include <stdio.h>

int main(void) {
    const float table[2][4] = {{1, 1, 0, 0}, {0, 0, 1, 1}}; /* position 0: no turn; position 1: a quarter turn */
    const float k_new[2][4] = {{1, 2, 3, 4}, {1, 2, 3, 4}};
    const float v_new[2][4] = {{5, 6, 7, 8}, {5, 6, 7, 8}};
    const int64_t slots[2] = {3, 0};
    const int64_t positions[2] = {0, 1};
    float k_cache[4][4] = {{0}}, v_cache[4][4] = {{0}}; /* two pages of two rows */

    /* [describe] */
    const kvappend_rotary rotary = {
        .struct_size = sizeof rotary,
        .style = KVAPPEND_ROTARY_HALF,
        .table_type = KVAPPEND_ELEMENT_F32,
        .dim = 4,
        .table_rows = 2,
        .table_stride = 4, /* of one table; 0 for two tables of their own */
    };
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .flags = KVAPPEND_FLAG_POSITIONS,
        .batch = 1,
        .heads = 1,
        .new_rows = 2,
        .cache_rows = 2,
        .cache_blocks = 2,
        .k_dim = 4,
        .v_dim = 4,
        .rotary = &rotary,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .v_new = v_new,
        .k_cache = k_cache,
        .v_cache = v_cache,
        .slots = slots,
        .positions = positions,
        .rotary_cos = table[0],
        .rotary_sin = table[0] + 2,
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g %g %g\n", k_cache[3][0], k_cache[3][1], k_cache[3][2], k_cache[3][3]); /* 1 2 3 4 */
    printf("%g %g %g %g\n", k_cache[0][0], k_cache[0][1], k_cache[0][2], k_cache[0][3]); /* -3 -4 1 2 */
    printf("%g %g\n", v_cache[3][0], v_cache[0][0]);                                     /* 5 5 */
    return kvappend_plan_destroy(plan);
}
