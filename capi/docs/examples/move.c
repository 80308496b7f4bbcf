/* SPDX-License-Identifier: Apache-2.0 */
/* The rows that stay after an eviction move to the front, and a ring gets back the row that a rejected draft token
 * replaced. */
#include <kvappend/kvappend.h>
#include <stdio.h>
#include <stdlib.h>

/* One run. A program creates the plan once and keeps it. */
static void run(const kvappend_descriptor *d, const kvappend_args *a) {
    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(d, NULL, &plan) || kvappend_plan_run(plan, a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        exit(1);
    }
    kvappend_plan_destroy(plan);
}

static void compact(void) {
    /* Each value is the position of its row. The sample has the pages 1 and 0, and positions 0, 3, 5 and 6 stay. */
    float k_cache[2][4] = {{4, 5, 6, 7}, {0, 1, 2, 3}};

    /* [compact] */
    const int64_t from_slots[3] = {7, 1, 2}; /* the rows of positions 3, 5, 6 */
    const int64_t slots[3] = {5, 6, 7};      /* They go to positions 1, 2, 3. Position 0 stays where it is. */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .operation = KVAPPEND_OPERATION_MOVE,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = 1,
        .new_rows = 3,
        .cache_rows = 4,
        .cache_blocks = 2,
        .k_dim = 1,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_cache = k_cache,
        .from_slots = from_slots,
        .slots = slots,
    };
    run(&d, &a);
    /* [compact] */
    printf("%g %g %g %g\n", k_cache[1][0], k_cache[1][1], k_cache[1][2], k_cache[1][3]); /* 0 3 5 6 */
}

static void restore(void) {
    /* A ring of four rows with the positions 4, 1, 2 and 3, and two spare rows. Positions 5 and 6 are draft tokens. */
    float k_cache[6] = {4, 1, 2, 3, 0, 0};
    const float drafts[2] = {5, 6};
    int64_t offset = 5;
    const kvappend_descriptor append = {
        .struct_size = sizeof append,
        .addressing = KVAPPEND_ADDRESSING_RING,
        .batch = 1,
        .heads = 1,
        .new_rows = 2,
        .cache_rows = 4,
        .k_dim = 1,
    };
    /* [restore] */
    const int64_t replaced[3] = {1, 2, -1}; /* the rows of positions 5 and 6 in the ring; -1 moves no row */
    const int64_t spare[3] = {4, 5, -1};
    const kvappend_descriptor move = {
        .struct_size = sizeof move,
        .operation = KVAPPEND_OPERATION_MOVE,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = 1,
        .new_rows = 2,
        .cache_rows = 6, /* the ring and the spare rows */
        .cache_blocks = 1,
        .k_dim = 1,
    };
    kvappend_args a = {.struct_size = sizeof a, .k_new = drafts, .k_cache = k_cache, .cache_offsets = &offset};
    a.from_slots = replaced, a.slots = spare;
    run(&move, &a); /* before the draft tokens are written */
    run(&append, &a);
    a.from_slots = spare + 1, a.slots = replaced + 1; /* from the rejected draft token on */
    run(&move, &a);                                   /* The first draft token is accepted. */
    offset += 1;
    /* [restore] */
    printf("%g %g %g %g, next %d\n", k_cache[0], k_cache[1], k_cache[2], k_cache[3], (int)offset); /* 4 5 2 3, next 6 */
}

int main(void) {
    compact();
    restore();
    return 0;
}
