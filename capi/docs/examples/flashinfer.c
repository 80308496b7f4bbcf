/* SPDX-License-Identifier: Apache-2.0 */
/* FlashInfer's append_paged_kv_cache, layout NHD, K and V in one tensor [max_num_pages, 2, page_size, heads, dim]. */
#include <kvappend/kvappend.h>
#include <stdio.h>
#include <string.h>

enum {
    max_num_pages = 3,
    page_size = 2,
    num_kv_heads = 1,
    head_dim = 2,
    batch_size = 2,
    nnz_kv = 3
};

int main(void) {
    const float append_key[nnz_kv][num_kv_heads][head_dim] = {{{1, 2}}, {{3, 4}}, {{5, 6}}};
    const float append_value[nnz_kv][num_kv_heads][head_dim] = {{{-1, -2}}, {{-3, -4}}, {{-5, -6}}};
    float paged_kv_cache[max_num_pages][2][page_size][num_kv_heads][head_dim] = {{{{{0}}}}};
    /* After the append, request 0 has three tokens, two of them new. Request 1 has one token, which is new. */
    const int32_t append_indptr[batch_size + 1] = {0, 2, 3};
    const int32_t kv_indptr[batch_size + 1] = {0, 2, 3};
    const int32_t kv_indices[3] = {2, 0, 1};
    int32_t kv_last_page_len[batch_size] = {1, 1};

    /* [describe] */
    const int64_t half = page_size * num_kv_heads * head_dim; /* K or V of a page */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .offset_type = KVAPPEND_OFFSET_INT32,
        .addressing = KVAPPEND_ADDRESSING_PAGED_CSR,
        .batch = batch_size,
        .heads = num_kv_heads,
        .new_rows = nnz_kv,
        .cache_rows = page_size,
        .k_dim = head_dim,
        .v_dim = head_dim,
        .k_cache_strides = {2 * half, head_dim, num_kv_heads * head_dim},
        .v_cache_strides = {2 * half, head_dim, num_kv_heads * head_dim},
        .lengths = KVAPPEND_LENGTHS_PACKED,
        .flags = KVAPPEND_FLAG_LAST_PAGE_LENGTHS,
        .cache_blocks = max_num_pages,
        .table_entries = 3, /* the size of kv_indices */
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = append_key,
        .v_new = append_value,
        .k_cache = &paged_kv_cache[0][0],
        .v_cache = &paged_kv_cache[0][1],
        .cache_offsets = kv_last_page_len,
        .lengths = append_indptr,
        .page_table = kv_indices,
        .page_indptr = kv_indptr,
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%g %g\n", paged_kv_cache[2][0][1][0][0], paged_kv_cache[2][1][1][0][1]); /* 1 -2 */
    printf("%g %g\n", paged_kv_cache[0][0][0][0][0], paged_kv_cache[0][1][0][0][1]); /* 3 -4 */
    printf("%g %g\n", paged_kv_cache[1][0][0][0][0], paged_kv_cache[1][1][0][0][1]); /* 5 -6 */
    kvappend_plan_destroy(plan);

    /* [by_token] */
    const int32_t batch_indices[nnz_kv] = {0, 0, 1};
    const int32_t positions[nnz_kv] = {1, 2, 0};
    kvappend_descriptor by_token = d;
    by_token.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
    by_token.flags = 0;
    kvappend_args by_token_args = a; /* kv_last_page_len and append_indptr are not used */
    by_token_args.token_samples = batch_indices;
    by_token_args.token_positions = positions;
    /* [by_token] */

    float other_cache[max_num_pages][2][page_size][num_kv_heads][head_dim] = {{{{{0}}}}};
    by_token_args.k_cache = &other_cache[0][0];
    by_token_args.v_cache = &other_cache[0][1];
    if (kvappend_plan_create(&by_token, NULL, &plan) || kvappend_plan_run(plan, &by_token_args, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    printf("%s\n", memcmp(other_cache, paged_kv_cache, sizeof other_cache) == 0 ? "same" : "different"); /* same */
    return kvappend_plan_destroy(plan);
}
