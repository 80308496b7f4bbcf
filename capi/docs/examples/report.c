/* SPDX-License-Identifier: Apache-2.0 */
/* Rows without a place. A run counts them, and validation finds them before a run. */
#include <kvappend/kvappend.h>
#include <stdio.h>

int main(void) {
    const float k_new[3][2] = {{10, 11}, {20, 21}, {30, 31}};
    float k_cache[3][4] = {{0}};
    int64_t offsets[3] = {0, 3, -2}; /* Sample 1 has one free row. Sample 2 is left out. */

    /* [report] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .batch = 3,
        .heads = 1,
        .new_rows = 2,
        .cache_rows = 4,
        .k_dim = 1,
        .flags = KVAPPEND_FLAG_COUNT_WRITTEN,
        .skip_policy = KVAPPEND_SKIP_REPORT,
    };
    kvappend_report report = KVAPPEND_REPORT_INIT;
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = offsets,
        .report = &report, /* with the CUDA backend it is in device memory */
        .report_bytes = sizeof report,
    };
    /* [report] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%d written, %d below, %d above\n", (int)report.rows_written, (int)report.rows_below,
           (int)report.rows_above); /* 3 written, 2 below, 1 above */
    printf("first: sample %d, row %d, position %d\n", (int)report.first_sample, (int)report.first_row,
           (int)report.first_position); /* first: sample 1, row 1, position 4 */

    /* [validate] */
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    const kvappend_status status = kvappend_plan_validate(plan, &a, NULL, 0, NULL, &fault);
    printf("%s: sample %d, row %d\n", kvappend_status_name(status), (int)fault.sample,
           (int)fault.row); /* KVAPPEND_ERROR_SKIPPED: sample 1, row 1 */
    /* [validate] */

    /* [error] */
    kvappend_args small = a;
    small.k_cache_bytes = sizeof k_cache - 1;
    if (kvappend_plan_run(plan, &small, NULL, 0, NULL) == KVAPPEND_ERROR_BUFFER_TOO_SMALL) {
        printf("%.46s\n", kvappend_last_error_message()); /* args.k_cache_bytes is 47: expected at least 48 */
    }
    /* [error] */
    return kvappend_plan_destroy(plan);
}
