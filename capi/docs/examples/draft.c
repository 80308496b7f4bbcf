/* SPDX-License-Identifier: Apache-2.0 */
/* A step has written a tree of draft tokens after the prefix. The rows of the accepted tokens move to their
 * positions. */
#include <kvappend/kvappend.h>
#include <stdio.h>

/* Node a of the tree has the children b and c, and d is a child of c. Their rows follow the prefix in the order a, b,
 * c, d. */
enum {
    layers = 2,
    requests = 2,
    page_rows = 4,
    pages = 5,
    nodes = 4,
    depth = 3
};

static const int32_t page_table[requests][2] = {{3, 0}, {1, 4}};

static int64_t slot_of(int request, int64_t position) {
    return page_table[request][position / page_rows] * page_rows + position % page_rows;
}

int main(void) {
    int64_t cache_offsets[requests] = {2, 4}; /* rows of the prefixes */
    const int accepted[requests][depth] = {{0, 2, 3}, {0, 2, 0}};
    const int accepted_count[requests] = {3, 2}; /* a c d of request 0, and a c of request 1 */
    char k_cache[layers][pages * page_rows];     /* A row is one letter: the node that it belongs to. */
    char v_cache[layers][pages * page_rows];
    for (int i = 0; i < requests * nodes; ++i) {
        const int request = i / nodes, node = i % nodes;
        const int64_t slot = slot_of(request, cache_offsets[request] + node);
        for (int layer = 0; layer < layers; ++layer) {
            k_cache[layer][slot] = (char)('a' + node);
            v_cache[layer][slot] = (char)('A' + node);
        }
    }

    /* [slots] */
    int64_t from_slots[requests * depth];
    int64_t slots[requests * depth];
    int32_t lengths[requests + 1] = {0}; /* the first row of each request; a request is a sample */
    for (int b = 0; b < requests; ++b) {
        int32_t row = lengths[b];
        for (int i = 0; i < accepted_count[b]; ++i, ++row) {
            from_slots[row] = slot_of(b, cache_offsets[b] + accepted[b][i]);
            slots[row] = slot_of(b, cache_offsets[b] + i);
        }
        lengths[b + 1] = row;
    }
    /* [slots] */

    /* [describe] */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .operation = KVAPPEND_OPERATION_MOVE,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .element_type = KVAPPEND_ELEMENT_UINT8,
        .batch = requests,
        .heads = 1,
        .new_rows = requests * depth, /* the greatest number of rows that a step may accept */
        .cache_rows = page_rows,
        .cache_blocks = pages,
        .k_dim = 1,
        .v_dim = 1,
        .lengths = KVAPPEND_LENGTHS_PACKED,
    };
    /* [describe] */
    kvappend_plan *plan = NULL;
    kvappend_status status = kvappend_plan_create(&d, NULL, &plan);

    /* [run] */
    kvappend_args a[layers];
    const kvappend_args *args[layers];
    const kvappend_plan *plans[layers];
    for (int layer = 0; layer < layers; ++layer) {
        a[layer] = (kvappend_args){
            .struct_size = sizeof a[layer],
            .k_cache = k_cache[layer],
            .v_cache = v_cache[layer],
            .from_slots = from_slots,
            .slots = slots,
            .lengths = lengths,
        };
        args[layer] = &a[layer];
        plans[layer] = plan;
    }
    if (!status) {
        status = kvappend_plan_run_layers(plans, args, layers, NULL, 0, NULL);
    }
    for (int b = 0; b < requests; ++b) {
        cache_offsets[b] += accepted_count[b]; /* The rows of rejected nodes are after this offset. */
    }
    /* [run] */
    if (status) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }

    const char *const k = k_cache[1], *const v = v_cache[1];
    printf("%c%c%c %c%c%c\n", k[14], k[15], k[0], v[14], v[15], v[0]); /* acd ACD */
    printf("%c%c %c%c\n", k[16], k[17], v[16], v[17]);                 /* ac AC */
    printf("%d %d\n", (int)cache_offsets[0], (int)cache_offsets[1]);   /* 5 6 */
    return kvappend_plan_destroy(plan);
}
