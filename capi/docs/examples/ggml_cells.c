/* SPDX-License-Identifier: Apache-2.0 */
/* An operator for ggml's CPU backend: it writes rows of F32 to cells of a K cache and a V cache of F16 or Q8_0. */
#include "ggml_cells.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    group = 32,      /* the elements of a block of Q8_0 */
    scale_bytes = 2, /* of F16, before the codes of each block */
    block_bytes = scale_bytes + group
};

/* [plan] */
/* How a cache stores its rows: the storage, and the strides that the descriptor needs in addition. */
static kvappend_status describe(const struct ggml_tensor *cache, kvappend_storage *storage, int64_t strides[3],
                                int64_t *pack, int64_t *piece_stride) {
    const int q8_0 = cache->type == GGML_TYPE_Q8_0;
    const int64_t row = (int64_t)cache->nb[1], all = cache->ne[1] * row;
    const kvappend_status status =
        kvappend_storage_preset(q8_0 ? KVAPPEND_PRESET_Q8_0 : KVAPPEND_PRESET_F16, storage, sizeof *storage);
    strides[KVAPPEND_AXIS_BATCH] = all; /* One block has all cells. */
    strides[KVAPPEND_AXIS_HEAD] = row;  /* One head has all elements of a cell. */
    strides[KVAPPEND_AXIS_ROW] = row;
    if (q8_0) {
        *pack = group;
        *piece_stride = block_bytes;
        storage->scale_strides[KVAPPEND_AXIS_BATCH] = all;
        storage->scale_strides[KVAPPEND_AXIS_HEAD] = row;
        storage->scale_strides[KVAPPEND_AXIS_ROW] = row;
        storage->scale_strides[3] = block_bytes; /* from group to group */
    }
    return status;
}

kvappend_plan *cells_plan(const struct ggml_tensor *k_cache, const struct ggml_tensor *v_cache) {
    kvappend_storage k, v;
    kvappend_descriptor d = {
        .struct_size = sizeof d,
        .element_type = KVAPPEND_ELEMENT_F32,
        .addressing = KVAPPEND_ADDRESSING_SLOTS, /* A cell is a slot. */
        .batch = 1,
        .heads = 1,
        .new_rows = 1,
        .cache_rows = k_cache->ne[1],
        .k_dim = k_cache->ne[0],
        .v_dim = v_cache->ne[0],
        .cache_blocks = 1,
        .k_storage = &k,
        .v_storage = &v,
    };
    kvappend_plan *plan = NULL;
    if (describe(k_cache, &k, d.k_cache_strides, &d.k_pack, &d.k_piece_stride) == KVAPPEND_SUCCESS &&
        describe(v_cache, &v, d.v_cache_strides, &d.v_pack, &d.v_piece_stride) == KVAPPEND_SUCCESS) {
        kvappend_plan_create(&d, NULL, &plan);
    }
    return plan;
}
/* [plan] */

/* [run] */
static char *codes(const struct ggml_tensor *cache) {
    return (char *)cache->data + (cache->type == GGML_TYPE_Q8_0 ? scale_bytes : 0);
}

/* ggml calls this in each of its nth threads. Each of them writes its share of the tokens. */
static void append(struct ggml_tensor *k_cache, int ith, int nth, void *plan) {
    const struct ggml_tensor *v_cache = k_cache->src[1], *k = k_cache->src[2], *v = k_cache->src[3];
    const struct ggml_tensor *cells = k_cache->src[4];
    const int64_t tokens = cells->ne[0], end = tokens * (ith + 1) / nth;
    kvappend_args a = {
        .struct_size = sizeof a,
        .k_cache = codes(k_cache),
        .v_cache = codes(v_cache),
        .k_scales = k_cache->data, /* F16 has none, and ignores the pointer. */
        .v_scales = v_cache->data,
    };
    for (int64_t t = tokens * ith / nth; t < end; ++t) {
        a.k_new = (const char *)k->data + t * (int64_t)k->nb[1];
        a.v_new = (const char *)v->data + t * (int64_t)v->nb[1];
        a.slots = (const int64_t *)cells->data + t;
        if (kvappend_plan_run(plan, &a, NULL, 0, NULL) != KVAPPEND_SUCCESS) {
            fprintf(stderr, "%s\n", kvappend_last_error_message());
            abort(); /* An operator cannot fail in any other way. */
        }
    }
}

struct ggml_tensor *cells_append(struct ggml_context *context, const kvappend_plan *plan, struct ggml_tensor *k_cache,
                                 struct ggml_tensor *v_cache, struct ggml_tensor *k, struct ggml_tensor *v,
                                 struct ggml_tensor *cells) {
    struct ggml_tensor *sources[] = {v_cache, k, v, cells};
    return ggml_custom_inplace(context, k_cache, sources, 4, append, GGML_N_TASKS_MAX, (void *)plan);
}
/* [run] */
