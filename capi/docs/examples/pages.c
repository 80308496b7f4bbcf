/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of shared pages, new pages that are set to zero, and reordered beams. Here a row is a whole page. */
#include <kvappend/kvappend.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    pages = 8,
    page_elements = 2, /* page_size * heads * head_size */
    beams = 4
};

/* One run. A program creates the plan once and keeps it. */
static void run(const kvappend_descriptor *d, const kvappend_args *a) {
    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(d, NULL, &plan) || kvappend_plan_validate(plan, a, NULL, 0, NULL, NULL) ||
        kvappend_plan_run(plan, a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        exit(1);
    }
    kvappend_plan_destroy(plan);
}

/* [order] */
static int is_read(const int64_t *parent, int64_t row) {
    int readers = 0;
    for (int b = 0; b < beams; ++b) {
        readers += b != row && parent[b] == row;
    }
    return readers > 0;
}

/* Orders the moves of parent[b] to b, for all beams b, so that each row is read before it is replaced. If rows change
 * places, one of them goes to the spare row first. Returns the number of moves. */
static int32_t order_moves(int64_t *parent, int64_t spare, int64_t *from, int64_t *to) {
    int32_t moves = 0;
    for (int left = beams; left > 0; --left) {
        int ready = -1, waiting = -1;
        for (int b = 0; b < beams; ++b) {
            if (parent[b] >= 0 && is_read(parent, b)) {
                waiting = b;
            } else if (parent[b] >= 0) {
                ready = b;
            }
        }
        if (ready < 0) {
            from[moves] = waiting, to[moves++] = spare;
            for (int b = 0; b < beams; ++b) {
                parent[b] = parent[b] == waiting ? spare : parent[b];
            }
            ready = waiting;
        }
        if (parent[ready] != ready) {
            from[moves] = parent[ready], to[moves++] = ready;
        }
        parent[ready] = -1; /* done */
    }
    return moves;
}
/* [order] */

int main(void) {
    float k_cache[pages][page_elements] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}};
    float v_cache[pages][page_elements] = {{-1, -2}, {-3, -4}, {-5, -6}, {-7, -8}};
    /* [copy] */
    const kvappend_descriptor copy = {
        .struct_size = sizeof copy,
        .operation = KVAPPEND_OPERATION_MOVE,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 3, /* Each copy is a sample. */
        .heads = 1,
        .new_rows = 3,
        .cache_rows = 1, /* A slot is the number of a page. */
        .cache_blocks = pages,
        .k_dim = page_elements,
        .v_dim = page_elements,
        .lengths = KVAPPEND_LENGTHS_PACKED,
    };
    kvappend_args a = {
        .struct_size = sizeof a,
        .k_cache = k_cache,
        .v_cache = v_cache,
        .from_slots = (const int64_t[3]){0, 0, 3}, /* from these pages */
        .slots = (const int64_t[3]){4, 5, 6},      /* to these */
        .lengths = (const int32_t[4]){0, 1, 2, 3},
    };
    run(&copy, &a);
    /* [copy] */
    printf("%g %g %g, %g\n", k_cache[4][0], k_cache[5][0], k_cache[6][0], v_cache[6][1]); /* 1 1 7, -8 */

    /* [zero] */
    kvappend_descriptor zero = copy;
    zero.operation = KVAPPEND_OPERATION_APPEND;
    zero.lengths = KVAPPEND_LENGTHS_FIXED;
    zero.batch = 1;
    zero.new_rows = 2;
    zero.k_new_strides[KVAPPEND_AXIS_BATCH] = 1; /* The stride of the tokens is 0: all tokens have one row. */
    zero.v_new_strides[KVAPPEND_AXIS_BATCH] = 1; /* If all strides were 0, this would mean contiguous. */
    a.k_new = a.v_new = (const float[page_elements]){0};
    a.slots = (const int64_t[2]){6, 5};
    run(&zero, &a);
    /* [zero] */
    printf("%g %g %g\n", k_cache[4][0], k_cache[5][0], v_cache[6][1]); /* 1 0 0 */

    /* [reorder] */
    int64_t parent[beams] = {1, 0, 1, 3}; /* Beam b continues beam parent[b]. Its own page is page b. */
    int64_t from_slots[2 * beams] = {0}, slots[2 * beams] = {0};
    const int32_t moves = order_moves(parent, pages - 1, from_slots, slots);
    kvappend_descriptor reorder = copy;
    reorder.lengths = KVAPPEND_LENGTHS_FIXED; /* one sample: the rows are moved one after the other */
    reorder.batch = 1;
    reorder.new_rows = 2 * beams;
    reorder.flags = KVAPPEND_FLAG_TOKEN_COUNT; /* Only the first token_count[0] rows are moved. */
    a.from_slots = from_slots, a.slots = slots, a.token_count = &moves;
    run(&reorder, &a);
    /* [reorder] */
    printf("%g %g %g %g, %d moves\n", k_cache[0][0], k_cache[1][0], k_cache[2][0], k_cache[3][0],
           (int)moves); /* 3 1 3 7, 4 moves */
    return 0;
}
