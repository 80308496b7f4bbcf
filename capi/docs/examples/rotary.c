/* SPDX-License-Identifier: Apache-2.0 */
/* Two tokens in slots of a paged cache: K is rotated by one table [positions, cos | sin], and V is not. Then the same
 * with Q. */
#include <kvappend/kvappend.h>
#include <stdio.h>

/* Makes a plan and runs it once. Returns 0 if both succeed. */
static int run(const kvappend_descriptor *d, const kvappend_args *a) {
    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(d, NULL, &plan) || kvappend_plan_run(plan, a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    return kvappend_plan_destroy(plan);
}

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

    if (run(&d, &a)) {
        return 1;
    }
    printf("%g %g %g %g\n", k_cache[3][0], k_cache[3][1], k_cache[3][2], k_cache[3][3]); /* 1 2 3 4 */
    printf("%g %g %g %g\n", k_cache[0][0], k_cache[0][1], k_cache[0][2], k_cache[0][3]); /* -3 -4 1 2 */
    printf("%g %g\n", v_cache[3][0], v_cache[0][0]);                                     /* 5 5 */

    /* [in_place] */
    /* Two heads of each token. */
    float q[2][2][4] = {{{1, 2, 3, 4}, {5, 6, 7, 8}}, {{1, 2, 3, 4}, {5, 6, 7, 8}}};
    kvappend_rotary with_q = rotary;
    with_q.q_heads = 2;
    with_q.q_dim = 4;
    kvappend_descriptor d_q = d;
    d_q.rotary = &with_q;
    kvappend_args a_q = a;
    a_q.q = q;
    a_q.q_out = q; /* or another tensor, by with_q.q_out_strides */
    /* [in_place] */
    if (run(&d_q, &a_q)) {
        return 1;
    }
    printf("%g %g %g %g\n", q[1][0][0], q[1][0][1], q[1][0][2], q[1][0][3]); /* -3 -4 1 2 */
    printf("%g %g %g %g\n", q[1][1][0], q[1][1][1], q[1][1][2], q[1][1][3]); /* -7 -8 5 6 */

    /* [e4m3] */
    const float q_new[2][2][4] = {{{1, 2, 3, 4}, {5, 6, 7, 8}}, {{1, 2, 3, 4}, {5, 6, 7, 8}}};
    const float q_scale = 2;
    uint8_t codes[2][2][4];
    kvappend_storage e4m3;
    if (kvappend_storage_preset(KVAPPEND_PRESET_E4M3_DIVIDE, &e4m3, sizeof e4m3)) {
        return 1;
    }
    with_q.q_storage = &e4m3;
    a_q.q = q_new;
    a_q.q_out = codes;
    a_q.q_scales = &q_scale;
    /* [e4m3] */
    if (run(&d_q, &a_q)) {
        return 1;
    }
    printf("%x %x %x %x\n", codes[1][0][0], codes[1][0][1], codes[1][0][2], codes[1][0][3]); /* bc c0 30 38 */

    /* [mla] */
    /* The last four elements of each row of Q are rotated. They are written after the latent part of three elements. */
    const float q_row[2][2][6] = {{{0, 0, 1, 2, 3, 4}, {0, 0, 5, 6, 7, 8}}, {{0, 0, 1, 2, 3, 4}, {0, 0, 5, 6, 7, 8}}};
    float latent[2][2][7] = {{{9, 9, 9}, {9, 9, 9}}, {{9, 9, 9}, {9, 9, 9}}};
    const int64_t q_strides[3] = {0, 6, 2 * 6}; /* of batch, which tokens do not use, head and row */
    const int64_t q_out_strides[3] = {0, 7, 2 * 7};
    for (int axis = 0; axis < 3; ++axis) {
        with_q.q_strides[axis] = q_strides[axis];
        with_q.q_out_strides[axis] = q_out_strides[axis];
    }
    with_q.q_storage = NULL;
    a_q.q = q_row[0][0] + 2;
    a_q.q_out = latent[0][0] + 3;
    /* [mla] */
    if (run(&d_q, &a_q)) {
        return 1;
    }
    printf("%g %g %g %g %g\n", latent[1][1][2], latent[1][1][3], latent[1][1][4], latent[1][1][5],
           latent[1][1][6]); /* 9 -7 -8 5 6 */
    return 0;
}
