/* SPDX-License-Identifier: Apache-2.0 */
/* DeepSeek V3.2's rows of 656 bytes, as vLLM's concat_and_cache_ds_mla writes them from bfloat16. */
#include <kvappend/kvappend.h>
#include <stdio.h>
#include <string.h>

enum {
    num_blocks = 2,
    block_size = 4,
    kv_lora_rank = 512,
    pe_dim = 64,
    row_bytes = 656,
    num_tokens = 2
};

static uint16_t kv_c[num_tokens][kv_lora_rank]; /* bfloat16 */
static uint16_t k_pe[num_tokens][pe_dim];
static float cache[num_blocks * block_size * row_bytes / sizeof(float)]; /* aligned for the scales */

int main(void) {
    const int64_t slot_mapping[num_tokens] = {5, -1}; /* Block 1, row 1. The second token is padding. */
    kv_c[0][0] = 0x43e0;                              /* 448, the greatest number of the first group of 128 */
    kv_c[0][1] = 0xbf80;                              /* -1 */
    kv_c[0][128] = 0x3f80;                            /* 1, the greatest number of the second group */
    k_pe[0][0] = 0x4049;
    unsigned char *const kv_cache = (unsigned char *)cache;

    /* [describe] */
    kvappend_storage k;
    kvappend_storage_preset(KVAPPEND_PRESET_DEEPSEEK_V3, &k, sizeof k);
    k.scale_strides[KVAPPEND_AXIS_BATCH] = block_size * row_bytes;
    k.scale_strides[KVAPPEND_AXIS_ROW] = row_bytes;
    k.scale_strides[3] = sizeof(float); /* from group to group */
    const kvappend_descriptor d = {
        .struct_size = sizeof d,
        .element_type = KVAPPEND_ELEMENT_BF16,
        .addressing = KVAPPEND_ADDRESSING_SLOTS,
        .batch = 1,
        .heads = 1,
        .new_rows = num_tokens,
        .cache_rows = block_size,
        .k_dim = kv_lora_rank,
        .v_dim = pe_dim,
        .k_cache_strides = {block_size * row_bytes, 0, row_bytes},         /* in bytes */
        .v_cache_strides = {block_size * row_bytes / 2, 0, row_bytes / 2}, /* in elements: V is stored as it is */
        .cache_blocks = num_blocks,
        .k_storage = &k,
    };
    const kvappend_args a = {
        .struct_size = sizeof a,
        .k_new = kv_c,
        .v_new = k_pe,
        .k_cache = kv_cache,        /* 512 codes */
        .k_scales = kv_cache + 512, /* 4 scales */
        .v_cache = kv_cache + 528,  /* 64 elements */
        .slots = slot_mapping,
    };
    /* [describe] */

    kvappend_plan *plan = NULL;
    if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    const unsigned char *const row = kv_cache + (5 * row_bytes);
    float scales[4];
    uint16_t rope;
    memcpy(scales, row + 512, sizeof scales);
    memcpy(&rope, row + 528, sizeof rope);
    printf("%02x %02x %02x\n", row[0], row[1], row[128]); /* 7e b8 7e */
    printf("%g %.6f\n", scales[0], scales[1]);            /* 1 0.002232 */
    printf("%04x\n", rope);                               /* 4049 */
    return kvappend_plan_destroy(plan);
}
