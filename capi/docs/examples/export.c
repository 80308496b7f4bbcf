/* SPDX-License-Identifier: Apache-2.0 */
/* An export of a quantised cache: a gather reads the stored bytes of two tokens and their scales. */
#include <kvappend/kvappend.h>
#include <stdio.h>

int main(void) {
    /* One page of 4 tokens: a row has 4 codes of INT8 and then its scale, a float. */
    struct {
        int8_t codes[4];
        float scale;
    } page[4] = {{{127, 0, 0, 0}, 0.5f}, {{1, 2, 3, 4}, 2}, {{5, 6, 7, 8}, 0.25f}, {{0, 0, 0, 0}, 0}};
    const int64_t slots[2] = {2, 0};
    int8_t codes[2][4];
    float scales[2];

    /* [bytes] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .operation = KVAPPEND_OPERATION_GATHER,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .element_type = KVAPPEND_ELEMENT_UINT8, /* bytes, whatever they mean */
        .batch = 1,
        .heads = 1,
        .new_rows = 2,
        .cache_blocks = 1,
        .cache_rows = 4,
        .k_dim = 4, /* K: the codes of a row */
        .v_dim = 4, /* V: the bytes of its scale */
        .k_cache_strides = {sizeof page, 0, sizeof page[0]},
        .v_cache_strides = {sizeof page, 0, sizeof page[0]},
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_cache = page[0].codes,
        .v_cache = &page[0].scale,
        .k_out = codes,
        .v_out = scales,
        .slots = slots,
    };
    /* [bytes] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%d %d %d %d, %g\n", codes[0][0], codes[0][1], codes[0][2], codes[0][3], scales[0]); /* 5 6 7 8, 0.25 */
    printf("%d %d %d %d, %g\n", codes[1][0], codes[1][1], codes[1][2], codes[1][3], scales[1]); /* 127 0 0 0, 0.5 */
    return kvappend_plan_destroy(plan);
}
