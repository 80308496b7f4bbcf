/* SPDX-License-Identifier: Apache-2.0 */
/* The forms of indices that runtimes have, each passed as it is. */
#undef NDEBUG
#include <assert.h>
#include <kvappend/kvappend.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int appends = 0;

static void require(kvappend_status status) {
    if (status != KVAPPEND_SUCCESS) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        exit(1);
    }
}

/* One run. A program creates the plan once and keeps it. */
static void append(const kvappend_descriptor *d, const kvappend_args *a) {
    kvappend_plan *plan = NULL;
    require(kvappend_plan_create(d, NULL, &plan));
    require(kvappend_plan_run(plan, a, NULL, 0, NULL));
    require(kvappend_plan_destroy(plan));
    ++appends;
}

static void token_positions(void) {
    /* [token_positions] */
    const float k_new[4] = {10, 11, 20, 12};
    const int32_t batch_indices[4] = {0, 0, 1, 0};
    const int32_t positions[4] = {2, 3, 0, 0}; /* any order; -1 would be padding */
    float k_cache[2][4] = {{0}};
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .offset_type = KVAPPEND_OFFSET_INT32,
        .batch = 2,
        .heads = 1,
        .new_rows = 4, /* the number of tokens */
        .cache_rows = 4,
        .k_dim = 1,
        .lengths = KVAPPEND_LENGTHS_PER_TOKEN,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .token_samples = batch_indices,
        .token_positions = positions,
    };
    append(&d, &a);
    const float expected[2][4] = {{12, 0, 10, 11}, {20, 0, 0, 0}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    /* [token_positions] */
}

static void heads_with_pages(void) {
    /* [heads_with_pages] */
    enum {
        B = 1,
        H = 2,
        pages = 3,
        page_size = 2,
        entries = 2
    };
    const float k_new[B][H][1] = {{{10}, {20}}};
    int64_t head_lengths[B * H] = {1, 2};                         /* Head 0 has dropped a row. */
    const int32_t page_table[B * H][entries] = {{2, -1}, {1, 0}}; /* [B, H, entries] */
    float k_cache[pages][page_size][1] = {{{0}}};                 /* a page belongs to one head */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_PAGED,
        .batch = B * H, /* each head is a sample with one head */
        .heads = 1,
        .new_rows = 1,
        .cache_rows = page_size,
        .k_dim = 1,
        .cache_blocks = pages,
        .table_entries = entries,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = head_lengths,
        .page_table = page_table,
    };
    append(&d, &a);
    const float expected[pages][page_size] = {{20, 0}, {0, 0}, {0, 10}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    /* [heads_with_pages] */
}

static void shared_offset(void) {
    /* [shared_offset] */
    const float k_new[2] = {10, 20};
    int64_t start_pos = 2; /* with CUDA: in device memory, like every index */
    float k_cache[2][4] = {{0}};
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .batch = 2,
        .heads = 1,
        .new_rows = 1,
        .cache_rows = 4,
        .k_dim = 1,
        .flags = KVAPPEND_FLAG_SHARED_OFFSET | KVAPPEND_FLAG_ADVANCE,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = &start_pos,
    };
    append(&d, &a);
    const float expected[2][4] = {{0, 0, 10, 0}, {0, 0, 20, 0}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    assert(start_pos == 3);
    /* [shared_offset] */
}

static void end_offsets(void) {
    /* [end_offsets] */
    const float k_new[3] = {10, 11, 20};
    const int32_t cu_seqlens[3] = {0, 2, 3}; /* two new tokens, one new token */
    int32_t kv_seqlens[2] = {3, 1};          /* including the new tokens */
    float k_cache[2][4] = {{0}};
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .offset_type = KVAPPEND_OFFSET_INT32,
        .batch = 2,
        .heads = 1,
        .new_rows = 3,
        .cache_rows = 4,
        .k_dim = 1,
        .lengths = KVAPPEND_LENGTHS_PACKED,
        .flags = KVAPPEND_FLAG_END_OFFSETS,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = kv_seqlens,
        .lengths = cu_seqlens,
    };
    append(&d, &a);
    const float expected[2][4] = {{0, 10, 11, 0}, {20, 0, 0, 0}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    /* [end_offsets] */
}

static void token_count(void) {
    /* [token_count] */
    const float k_new[4] = {10, 20, 98, 99};
    const int64_t slot_mapping[4] = {3, 0, 3, 1}; /* the last two are left from an earlier step */
    const int32_t count = 2;
    float k_cache[2][2] = {{0}};
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = 1,
        .new_rows = 4, /* the greatest number of tokens: that of the captured graph */
        .cache_rows = 2,
        .k_dim = 1,
        .flags = KVAPPEND_FLAG_TOKEN_COUNT,
        .cache_blocks = 2,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .slots = slot_mapping,
        .token_count = &count,
    };
    append(&d, &a);
    const float expected[2][2] = {{20, 0}, {0, 10}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    /* [token_count] */
}

static void reserved_page(void) {
    /* [reserved_page] */
    const float k_new[3] = {10, 98, 99};
    int64_t offsets[3] = {1, 0, 0};
    const int32_t block_table[3][1] = {{2}, {0}, {0}}; /* Requests 1 and 2 are padding. */
    float k_cache[3][2] = {{0}};
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_PAGED,
        .batch = 3,
        .heads = 1,
        .new_rows = 1,
        .cache_rows = 2,
        .k_dim = 1,
        .flags = KVAPPEND_FLAG_RESERVED_PAGE,
        .cache_blocks = 3,
        .table_entries = 1,
        .reserved_page = 0,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = offsets,
        .page_table = block_table,
    };
    append(&d, &a);
    const float expected[3][2] = {{0, 0}, {0, 0}, {0, 10}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    /* [reserved_page] */
}

static void int64_tables(void) {
    /* [int64_tables] */
    const float k_new[2] = {10, 20};
    int64_t offsets[2] = {2, 0};
    const int64_t page_table[2][2] = {{1, 2}, {0, -1}}; /* torch.int64 */
    float k_cache[3][2] = {{0}};
    kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_PAGED,
        .batch = 2,
        .heads = 1,
        .new_rows = 1,
        .cache_rows = 2,
        .k_dim = 1,
        .cache_blocks = 3,
        .table_entries = 2,
        .index_type = KVAPPEND_INDEX_INT64,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = offsets,
        .page_table = page_table,
        .page_table_bytes = sizeof page_table,
    };
    append(&d, &a);
    const float expected[3][2] = {{20, 0}, {0, 0}, {10, 0}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);

    d.index_type = KVAPPEND_INDEX_INT32; /* wrong: validation finds it by page_table_bytes */
    kvappend_plan *plan = NULL;
    require(kvappend_plan_create(&d, NULL, &plan));
    assert(kvappend_plan_validate(plan, &a, NULL, 0, NULL, NULL) == KVAPPEND_ERROR_INDEX_WIDTH);
    /* [int64_tables] */
    require(kvappend_plan_destroy(plan));
}

static void shared_by_layers(void) {
    enum {
        layers = 3
    };
    const float k_new[layers] = {10, 20, 30};
    float k_cache[layers][4] = {{0}};
    kvappend_descriptor d = {
        .struct_size = sizeof d, .batch = 1, .heads = 1, .new_rows = 1, .cache_rows = 4, .k_dim = 1};
    /* [layer_by_layer] */
    int64_t offset = 1; /* of all layers */
    kvappend_args a[layers];
    for (int i = 0; i < layers; ++i) {
        a[i] = (kvappend_args)KVAPPEND_ARGS_INIT;
        a[i].k_new = &k_new[i];
        a[i].k_cache = k_cache[i];
        a[i].cache_offsets = &offset;
    }
    kvappend_plan *plan = NULL, *last = NULL;
    require(kvappend_plan_create(&d, NULL, &plan));
    d.flags = KVAPPEND_FLAG_ADVANCE;
    require(kvappend_plan_create(&d, NULL, &last));
    for (int i = 0; i < layers; ++i) {
        require(kvappend_plan_run(i < layers - 1 ? plan : last, &a[i], NULL, 0, NULL));
    }
    assert(offset == 2);
    /* [layer_by_layer] */

    /* [all_layers] */
    const kvappend_plan *const plans[layers] = {last, last, last};
    const kvappend_args *const args[layers] = {&a[0], &a[1], &a[2]};
    require(kvappend_plan_run_layers(plans, args, layers, NULL, 0, NULL));
    assert(offset == 3);
    const float expected[layers][4] = {{0, 10, 10, 0}, {0, 20, 20, 0}, {0, 30, 30, 0}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    /* [all_layers] */
    require(kvappend_plan_destroy(plan));
    require(kvappend_plan_destroy(last));
    ++appends;
}

int main(void) {
    token_positions();
    heads_with_pages();
    shared_offset();
    end_offsets();
    token_count();
    reserved_page();
    int64_tables();
    shared_by_layers();
    printf("%d forms\n", appends); /* 8 forms */
    return 0;
}
