/* SPDX-License-Identifier: Apache-2.0 */
/* The paged caches of all layers of a small model, for one request. There are two layouts and two formats. */
#ifndef TRANSFER_CACHE_H
#define TRANSFER_CACHE_H
#include <kvappend/kvappend.h>

enum {
    LAYERS = 4,
    HEADS = 8,
    DIM = 64,
    MAX_ROWS = 320
};

/* The tensors of a layer. BF16: K, V. E4M3: the codes of K, their scales, the codes of V, their scales. */
struct format {
    const char *name;
    int32_t stored_element; /* KVAPPEND_ELEMENT_* of a transfer of the stored bytes */
    int element_bytes;
    int pairs;       /* pairs of tensors in a layer: (K, V), or (codes, scales) for K and for V */
    int elements[2]; /* elements of a row of one head, in the first and in the second tensor of a pair */
};
extern const struct format bf16, e4m3;

struct layout {
    int page_rows;
    int tokens_outside; /* 1: pages are [row, head, dim]. 0: pages are [head, row, dim]. */
};

struct cache {
    const struct format *format;
    struct layout layout;
    int heads;
    int pages;
    int32_t *page_table;
    unsigned char *tensors[LAYERS][4];
    kvappend_plan *append; /* one row of bfloat16 elements */
    kvappend_plan *read;   /* all rows, as bfloat16 elements */
};

struct cache cache_create(const struct format *format, struct layout layout, int heads);
void cache_destroy(struct cache *cache);

/* What a model does: it appends K and V of one token [heads][DIM], and reads the first rows [heads][MAX_ROWS][DIM]. */
void cache_append_row(const struct cache *cache, int layer, int position, const uint16_t *k, const uint16_t *v);
void cache_read_rows(const struct cache *cache, int layer, int rows, uint16_t *k, uint16_t *v);

/* What a transfer does: it copies the stored bytes of the first rows of all layers from the cache to the staging buffer
 * (a gather), or from the staging buffer to the cache (an append). The staging buffer is [slices][layer][pair][2][heads
 * of a slice][rows][elements]. A slice has the rows for one rank. */
size_t staging_bytes(const struct format *format, int heads, int rows);
void cache_move(const struct cache *cache, int32_t operation, int slices, int rows, unsigned char *staging);

/* Whether all bytes of the two caches are the same, including the bytes of rows that were not written. */
int cache_equal(const struct cache *a, const struct cache *b);

#endif
