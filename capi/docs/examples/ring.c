/* SPDX-License-Identifier: Apache-2.0 */
/* A sliding window of four rows after two attention sinks, in ten decoding steps. */
#include <kvappend/kvappend.h>
#include <stdio.h>

int main(void) {
    float k_new = 0;
    float k_cache[6] = {0};
    int64_t offset = 0;

    /* [describe] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_RING,
        .flags = KVAPPEND_FLAG_ADVANCE, /* The position always grows; the ring computes the row. */
        .batch = 1,
        .heads = 1,
        .new_rows = 1,
        .cache_rows = 6,
        .sink_rows = 2,
        .k_dim = 1,
    };
    /* [describe] */
    const kvappend_args a = {.struct_size = sizeof a, .k_new = &k_new, .k_cache = k_cache, .cache_offsets = &offset};

    kvappend_plan *plan = NULL;
    int status = kvappend_plan_create(&d, NULL, &plan);
    for (int step = 0; step < 10 && !status; ++step) {
        k_new = (float)step;
        status = kvappend_plan_run(plan, &a, NULL, 0, NULL);
    }
    if (status) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    /* Each value is the position that its row holds: those of the two sinks, and the last four. */
    printf("%g %g, %g %g %g %g\n", k_cache[0], k_cache[1], k_cache[2], k_cache[3], k_cache[4],
           k_cache[5]); /* 0 1, 6 7 8 9 */
    return kvappend_plan_destroy(plan);
}
