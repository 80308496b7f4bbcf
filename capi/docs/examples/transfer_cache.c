/* SPDX-License-Identifier: Apache-2.0 */
/* Paged caches of either layout. A model appends and reads rows. A transfer copies the rows of all layers to or from
 * one buffer. */
#include "transfer_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct format bf16 = {"bf16", KVAPPEND_ELEMENT_BF16, 2, 1, {DIM, DIM}};
const struct format e4m3 = {"e4m3", KVAPPEND_ELEMENT_UINT8, 1, 2, {DIM, sizeof(float)}};

/* A plan that is refused is a mistake in this program. */
static void check(kvappend_status status) {
    if (status) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        exit(1);
    }
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static size_t tensor_bytes(const struct cache *cache, int tensor) {
    const int elements = cache->format->elements[tensor % 2];
    return (size_t)cache->pages * cache->heads * cache->layout.page_rows * elements * cache->format->element_bytes;
}

/* Sets the strides of pages, heads and rows, for a tensor with this number of elements in a row of one head. */
static void set_strides(const struct cache *cache, int elements, int64_t strides[3]) {
    const int64_t rows = cache->layout.page_rows, heads = cache->heads;
    strides[KVAPPEND_AXIS_BATCH] = heads * rows * elements;
    strides[KVAPPEND_AXIS_HEAD] = cache->layout.tokens_outside ? elements : rows * elements;
    strides[KVAPPEND_AXIS_ROW] = cache->layout.tokens_outside ? heads * elements : elements;
}

/* Describes what all plans for the cache have in common. */
static kvappend_descriptor describe(const struct cache *cache, int32_t operation) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.operation = operation;
    d.addressing = KVAPPEND_ADDRESSING_PAGED;
    d.batch = 1;
    d.heads = cache->heads;
    d.cache_rows = cache->layout.page_rows;
    d.cache_blocks = cache->pages;
    d.table_entries = MAX_ROWS / cache->layout.page_rows;
    return d;
}

static void create_plans(struct cache *cache) {
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    kvappend_descriptor d = describe(cache, KVAPPEND_OPERATION_APPEND);
    d.element_type = KVAPPEND_ELEMENT_BF16;
    d.k_dim = d.v_dim = DIM;
    set_strides(cache, DIM, d.k_cache_strides);
    set_strides(cache, DIM, d.v_cache_strides);
    if (cache->format == &e4m3) {
        check(kvappend_storage_preset(KVAPPEND_PRESET_E4M3_ROW, &storage, sizeof storage));
        set_strides(cache, sizeof(float), storage.scale_strides);
        d.k_storage = d.v_storage = &storage;
    }
    d.new_rows = 1;
    check(kvappend_plan_create(&d, NULL, &cache->append));
    d.operation = KVAPPEND_OPERATION_GATHER;
    d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    d.flags = KVAPPEND_FLAG_ZERO_OFFSETS;
    d.new_rows = MAX_ROWS;
    check(kvappend_plan_create(&d, NULL, &cache->read));
}

struct cache cache_create(const struct format *format, struct layout layout, int heads) {
    struct cache cache = {.format = format, .layout = layout, .heads = heads};
    const int entries = MAX_ROWS / layout.page_rows;
    cache.pages = 2 * entries + 1; /* The other pages would belong to other requests. */
    cache.page_table = allocate(entries * sizeof *cache.page_table);
    for (int i = 0; i < entries; ++i) {
        cache.page_table[i] = 2 * (entries - i) - 1;
    }
    for (int layer = 0; layer < LAYERS; ++layer) {
        for (int t = 0; t < 2 * format->pairs; ++t) {
            cache.tensors[layer][t] = allocate(tensor_bytes(&cache, t));
            memset(cache.tensors[layer][t], 0x5a, tensor_bytes(&cache, t));
        }
    }
    create_plans(&cache);
    return cache;
}

void cache_destroy(struct cache *cache) {
    kvappend_plan_destroy(cache->append);
    kvappend_plan_destroy(cache->read);
    for (int layer = 0; layer < LAYERS; ++layer) {
        for (int t = 0; t < 2 * cache->format->pairs; ++t) {
            free(cache->tensors[layer][t]);
        }
    }
    free(cache->page_table);
}

static kvappend_args args_of_layer(const struct cache *cache, int layer) {
    unsigned char *const *const tensors = cache->tensors[layer];
    kvappend_args a = KVAPPEND_ARGS_INIT;
    a.k_cache = tensors[0];
    a.v_cache = tensors[cache->format->pairs];
    if (cache->format == &e4m3) {
        a.k_scales = tensors[1];
        a.v_scales = tensors[3];
    }
    a.page_table = cache->page_table;
    return a;
}

void cache_append_row(const struct cache *cache, int layer, int position, const uint16_t *k, const uint16_t *v) {
    int64_t offset = position;
    kvappend_args a = args_of_layer(cache, layer);
    a.k_new = k;
    a.v_new = v;
    a.cache_offsets = &offset;
    check(kvappend_plan_run(cache->append, &a, NULL, 0, NULL));
}

void cache_read_rows(const struct cache *cache, int layer, int rows, uint16_t *k, uint16_t *v) {
    const int32_t length = rows;
    kvappend_args a = args_of_layer(cache, layer);
    a.k_out = k;
    a.v_out = v;
    a.lengths = &length;
    check(kvappend_plan_run(cache->read, &a, NULL, 0, NULL));
}

size_t staging_bytes(const struct format *format, int heads, int rows) {
    const int elements = format->elements[0] + format->elements[1];
    return (size_t)LAYERS * format->pairs * heads * rows * elements * format->element_bytes;
}

/* [move] */
void cache_move(const struct cache *cache, int32_t operation, int slices, int rows, unsigned char *staging) {
    enum {
        MAX_CALLS = 64
    };
    const struct format *const format = cache->format;
    const int heads = cache->heads / slices, calls = slices * LAYERS * format->pairs;
    kvappend_descriptor d = describe(cache, operation);
    d.element_type = format->stored_element;
    d.heads = heads; /* of one slice; the strides are those of a cache with all heads */
    d.new_rows = rows;
    d.flags = KVAPPEND_FLAG_ZERO_OFFSETS;
    d.k_dim = format->elements[0]; /* BF16: K. E4M3: codes. */
    d.v_dim = format->elements[1]; /* BF16: V. E4M3: the bytes of the scale. */
    set_strides(cache, format->elements[0], d.k_cache_strides);
    set_strides(cache, format->elements[1], d.v_cache_strides);
    kvappend_plan *plan = NULL;
    check(kvappend_plan_create(&d, NULL, &plan));

    const size_t k_head = (size_t)d.k_cache_strides[KVAPPEND_AXIS_HEAD] * format->element_bytes;
    const size_t v_head = (size_t)d.v_cache_strides[KVAPPEND_AXIS_HEAD] * format->element_bytes;
    kvappend_args args[MAX_CALLS];
    const kvappend_plan *plans[MAX_CALLS];
    const kvappend_args *pointers[MAX_CALLS];
    for (int i = 0; i < calls; ++i) {
        const int slice = i / (LAYERS * format->pairs), layer = i / format->pairs % LAYERS, pair = i % format->pairs;
        kvappend_args a = KVAPPEND_ARGS_INIT;
        a.k_cache = cache->tensors[layer][2 * pair] + (size_t)slice * heads * k_head;
        a.v_cache = cache->tensors[layer][2 * pair + 1] + (size_t)slice * heads * v_head;
        a.k_new = a.k_out = staging; /* An append reads k_new, and a gather writes k_out. */
        staging += (size_t)heads * rows * format->elements[0] * format->element_bytes;
        a.v_new = a.v_out = staging;
        staging += (size_t)heads * rows * format->elements[1] * format->element_bytes;
        a.page_table = cache->page_table;
        args[i] = a;
        plans[i] = plan;
        pointers[i] = &args[i];
    }
    check(kvappend_plan_run_layers(plans, pointers, calls, NULL, 0, NULL));
    check(kvappend_plan_destroy(plan));
}
/* [move] */

int cache_equal(const struct cache *a, const struct cache *b) {
    for (int layer = 0; layer < LAYERS; ++layer) {
        for (int t = 0; t < 2 * a->format->pairs; ++t) {
            if (memcmp(a->tensors[layer][t], b->tensors[layer][t], tensor_bytes(a, t))) {
                return 0;
            }
        }
    }
    return 1;
}
