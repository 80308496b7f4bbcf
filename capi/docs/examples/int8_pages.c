/* SPDX-License-Identifier: Apache-2.0 */
/* A cache of pages that stores INT8, with a scale for each row in a tensor of its own. The rows are gathered again. */
#include <kvappend/kvappend.h>
#include <stdio.h>

enum {
    pages = 3,
    heads = 1,
    rows = 2,
    dim = 4
}; /* rows of a page */

int main(void) {
    const float k_new[3][dim] = {{127, -1, 2, 0}, {0.5f, 1, -1.5f, 2}, {0, 63.5f, 1, -2}};
    const int32_t page_table[2] = {2, 0};
    const int64_t offset = 1; /* the sample already has one row */
    int8_t k_cache[pages][heads][rows][dim] = {{{{0}}}};
    float k_scales[pages][heads][rows] = {{{0}}};
    float k_out[3][dim];

    /* [storage] */
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    kvappend_storage_preset(KVAPPEND_PRESET_INT8_ROW, &storage, sizeof storage);
    storage.scale_strides[0] = heads * rows * sizeof(float); /* from page to page, in bytes */
    storage.scale_strides[1] = rows * sizeof(float);         /* from head to head */
    storage.scale_strides[2] = sizeof(float);                /* from row to row */
    /* [storage] */

    /* [plans] */
    kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_PAGED,
        .batch = 1,
        .heads = heads,
        .new_rows = 3,
        .cache_rows = rows,
        .k_dim = dim,
        .cache_blocks = pages,
        .table_entries = 2,
        .k_storage = &storage,
    };
    kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = (void *)&offset, /* only a run with KVAPPEND_FLAG_ADVANCE writes it */
        .page_table = page_table,
        .k_scales = k_scales,
        .k_out = k_out,
    };
    kvappend_plan *append = NULL;
    kvappend_plan *gather = NULL;
    kvappend_status status = kvappend_plan_create(&d, NULL, &append);
    d.operation = KVAPPEND_OPERATION_GATHER; /* the same cache, read */
    status = status ? status : kvappend_plan_create(&d, NULL, &gather);
    /* [plans] */

    status = status ? status : kvappend_plan_run(append, &a, NULL, 0, NULL);
    status = status ? status : kvappend_plan_run(gather, &a, NULL, 0, NULL);
    if (status) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    const int8_t *const row = k_cache[2][0][1]; /* position 1: page 2, row 1 */
    printf("%d %d %d %d, scale %g\n", row[0], row[1], row[2], row[3], k_scales[2][0][1]); /* 127 -1 2 0, scale 1 */
    printf("%g %g %g %g\n", k_out[0][0], k_out[0][1], k_out[0][2], k_out[0][3]);          /* 127 -1 2 0 */
    printf("scale %g: %g %g\n", k_scales[0][0][1], k_out[2][1], k_out[2][2]);             /* scale 0.5: 63.5 1 */
    kvappend_plan_destroy(append);
    return kvappend_plan_destroy(gather);
}
