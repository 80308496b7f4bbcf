/* SPDX-License-Identifier: Apache-2.0 */
/* Memory layouts of caches: transposed, in pieces, in pages, and a page as one row. */
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

static void transposed_v(void) {
    /* [transposed_v] */
    enum {
        num_blocks = 1,
        num_heads = 1,
        head_size = 4,
        block_size = 8
    };
    const uint8_t value[1][num_heads][head_size] = {{{1, 2, 3, 4}}};
    const int64_t slot_mapping[1] = {5};
    uint8_t value_cache[num_blocks][num_heads][head_size][block_size] = {{{{0}}}};
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .element_type = KVAPPEND_ELEMENT_E4M3,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = num_heads,
        .new_rows = 1,
        .cache_rows = block_size,
        .v_dim = head_size,
        .cache_blocks = num_blocks,
        .v_pack = 1,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .v_new = value,
        .v_cache = value_cache,
        .slots = slot_mapping,
    };
    append(&d, &a);
    const uint8_t expected[head_size][block_size] = {
        {0, 0, 0, 0, 0, 1, 0, 0},
        {0, 0, 0, 0, 0, 2, 0, 0},
        {0, 0, 0, 0, 0, 3, 0, 0},
        {0, 0, 0, 0, 0, 4, 0, 0},
    };
    assert(memcmp(value_cache, expected, sizeof expected) == 0);
    /* [transposed_v] */
}

static void transposed_k(void) {
    /* [transposed_k] */
    enum {
        H = 2,
        D = 2,
        L = 3,
        capacity = 4
    };
    const float k_new[H][1][D] = {{{1, 2}}, {{3, 4}}};
    float k_cache[H][D][capacity] = {{{0}}}; /* [H, D, L], and one spare column */
    int64_t offset = 1;
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .batch = 1,
        .heads = H,
        .new_rows = 1,
        .cache_rows = L,
        .k_dim = D,
        .k_cache_strides = {H * D * capacity, D * capacity, 1}, /* of block, head and row */
        .k_pack = 1,
        .k_piece_stride = capacity,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = k_new,
        .k_cache = k_cache,
        .cache_offsets = &offset,
    };
    append(&d, &a);
    const float expected[H][D][capacity] = {{{0, 1, 0, 0}, {0, 2, 0, 0}}, {{0, 3, 0, 0}, {0, 4, 0, 0}}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    /* [transposed_k] */
}

static void page_imports(void) {
    /* [page_imports] */
    enum {
        pages = 4,
        page_elements = 3,
        imports = 2
    };
    const float other_pool[imports][page_elements] = {{1, 2, 3}, {4, 5, 6}};
    const int64_t page_ids[imports] = {3, 1};
    float k_cache[pages][page_elements] = {{0}};
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = 1,
        .new_rows = imports,
        .cache_rows = 1,
        .k_dim = page_elements,
        .cache_blocks = pages,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = other_pool,
        .k_cache = k_cache,
        .slots = page_ids,
    };
    append(&d, &a);
    const float expected[pages][page_elements] = {{0}, {4, 5, 6}, {0}, {1, 2, 3}};
    assert(memcmp(k_cache, expected, sizeof expected) == 0);
    /* [page_imports] */
}

static void mnn(void) {
    /* [mnn] */
    enum {
        H = 2,
        D = 4,
        L = 4,
        hP = 2
    };
    const float key[2][H][D] = {{{1, 2, 3, 4}, {5, 6, 7, 8}}, {{11, 12, 13, 14}, {15, 16, 17, 18}}};
    const float value[2][H][D] = {{{-1, -2, -3, -4}, {-5, -6, -7, -8}}, {{-11, -12, -13, -14}, {-15, -16, -17, -18}}};
    int64_t past_length = 1;
    float past_key[H][L / hP][D][hP] = {{{{0}}}};
    float past_value[H][D / hP][L][hP] = {{{{0}}}};
    const kvappend_descriptor k = {
        .struct_size = sizeof k,
        .addressing = KVAPPEND_ADDRESSING_PAGED,
        .batch = 1,
        .heads = H,
        .new_rows = 2,
        .cache_rows = hP,
        .k_dim = D,
        .k_new_strides = {2 * H * D, D, H * D},
        .k_cache_strides = {D * hP, L * D, 1}, /* of page, head and row */
        .cache_blocks = L / hP,
        .table_entries = L / hP,
        .k_pack = 1,
        .k_piece_stride = hP,
    };
    const kvappend_descriptor v = {
        .struct_size = sizeof v,
        .batch = 1,
        .heads = H,
        .new_rows = 2,
        .cache_rows = L,
        .v_dim = D,
        .v_new_strides = {2 * H * D, D, H * D},
        .v_pack = hP,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = key,
        .v_new = value,
        .k_cache = past_key,
        .v_cache = past_value,
        .cache_offsets = &past_length,
        .page_table = (const int32_t[L / hP]){0, 1}, /* The pages of K are in their order. */
    };
    append(&k, &a);
    append(&v, &a);
    float expected_key[H][L / hP][D][hP] = {{{{0}}}};
    float expected_value[H][D / hP][L][hP] = {{{{0}}}};
    for (int i = 0; i < 2 * H * D; ++i) {
        const int l = 1 + i / (H * D), h = i / D % H, d = i % D;
        expected_key[h][l / hP][d][l % hP] = key[i / (H * D)][h][d];
        expected_value[h][d / hP][l][d % hP] = value[i / (H * D)][h][d];
    }
    assert(memcmp(past_key, expected_key, sizeof expected_key) == 0);
    assert(memcmp(past_value, expected_value, sizeof expected_value) == 0);
    /* [mnn] */
}

static void openvino(void) {
    /* [openvino] */
    enum {
        num_blocks = 3,
        H = 1,
        S = 2,
        block_size = 2,
        sequences = 2,
        tokens = 3
    };
    const float key[tokens][H * S] = {{1, 2}, {3, 4}, {5, 6}};
    const float value[tokens][H * S] = {{-1, -2}, {-3, -4}, {-5, -6}};
    int32_t past_lens[sequences] = {1, 0};
    const int32_t subsequence_begins[sequences + 1] = {0, 2, 3};
    const int32_t block_indices[3] = {2, 0, 1};
    const int32_t block_indices_begins[sequences + 1] = {0, 2, 3};
    float key_cache[num_blocks][H][S][block_size] = {{{{0}}}};
    float value_cache[num_blocks][H][block_size][S] = {{{{0}}}};
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .offset_type = KVAPPEND_OFFSET_INT32,
        .addressing = KVAPPEND_ADDRESSING_PAGED_CSR,
        .batch = sequences,
        .heads = H,
        .new_rows = tokens,
        .cache_rows = block_size,
        .k_dim = S,
        .v_dim = S,
        .lengths = KVAPPEND_LENGTHS_PACKED,
        .cache_blocks = num_blocks,
        .table_entries = 3, /* the size of block_indices */
        .k_pack = 1,        /* the GPU's key cache; 0 for the CPU's */
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = key,
        .v_new = value,
        .k_cache = key_cache,
        .v_cache = value_cache,
        .cache_offsets = past_lens,
        .lengths = subsequence_begins,
        .page_table = block_indices,
        .page_indptr = block_indices_begins,
    };
    append(&d, &a);
    const float expected_keys[num_blocks][S][block_size] = {{{3, 0}, {4, 0}}, {{5, 0}, {6, 0}}, {{0, 1}, {0, 2}}};
    const float expected_values[num_blocks][block_size][S] = {{{-3, -4}}, {{-5, -6}}, {{0, 0}, {-1, -2}}};
    assert(memcmp(key_cache, expected_keys, sizeof expected_keys) == 0);
    assert(memcmp(value_cache, expected_values, sizeof expected_values) == 0);
    /* [openvino] */
}

int main(void) {
    transposed_v();
    transposed_k();
    page_imports();
    mnn();
    openvino();
    printf("%d appends\n", appends); /* 6 appends */
    return 0;
}
