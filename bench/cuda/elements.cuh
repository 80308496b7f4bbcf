// SPDX-License-Identifier: Apache-2.0
// The obvious way to append, or to gather: a kernel with one thread an element, first for K, then for V.
#pragma once

#include <kvappend/kvappend.h>

#include <cuda_runtime.h>

#include <cstdint>

struct ElementCopy {
    const void *from;
    void *to;
    bool gathers;                                    // from is the cache, and to are the rows
    std::int64_t fresh_strides[3], cache_strides[3]; // in elements, by KVAPPEND_AXIS_*
    std::int64_t elements;                           // of the new rows
    std::int64_t heads, rows, dim;                   // rows: of each sample, or of the tensor [T, H, D]
    bool by_token;                                   // of neighbouring rows in memory the head differs first

    std::int32_t addressing;
    std::int64_t cache_rows, sink_rows, table_entries;
    const std::int64_t *places;
    // Of tensors [T, H, D] of samples with rows of their own, else NULL. The sample of each token is told by the
    // caller.
    const std::int32_t *samples, *lengths;
    const std::int32_t *page_table, *page_indptr;
};

template <class Element>
__global__ void copy_elements(const ElementCopy p) {
    const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i >= p.elements) {
        return;
    }
    const std::int64_t d = i % p.dim;
    const std::int64_t in_heads = p.by_token ? p.heads : p.rows;
    const std::int64_t inner = i / p.dim % in_heads;
    const std::int64_t outer = i / p.dim / in_heads;
    std::int64_t head = 0;
    std::int64_t row = 0; // of the new tensor
    std::int64_t sample = 0;
    if (p.by_token) {
        head = inner;
        row = outer % p.rows;
        sample = outer / p.rows;
    } else {
        row = inner;
        head = outer % p.heads;
        sample = outer / p.heads;
    }
    const std::int64_t fresh = sample * p.fresh_strides[0] + head * p.fresh_strides[1] + row * p.fresh_strides[2] + d;

    std::int64_t l = row;
    std::int64_t rows = p.rows;
    if (p.samples != nullptr) {
        sample = p.samples[row];
        l = row - p.lengths[sample];
        rows = p.lengths[sample + 1] - p.lengths[sample];
    }
    std::int64_t block = sample;
    std::int64_t place = p.places[p.addressing == KVAPPEND_ADDRESSING_SLOTS ? row : sample];
    if (p.addressing == KVAPPEND_ADDRESSING_SLOTS) {
        block = place / p.cache_rows;
        place = place % p.cache_rows;
    } else {
        place += l;
    }
    if (p.addressing == KVAPPEND_ADDRESSING_RING && place >= p.sink_rows) {
        const std::int64_t window = p.cache_rows - p.sink_rows;
        if (l + window < rows) {
            return; // A later row comes to the same place.
        }
        place = p.sink_rows + (place - p.sink_rows) % window;
    }
    if (p.addressing == KVAPPEND_ADDRESSING_PAGED || p.addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
        const std::int64_t first =
            p.addressing == KVAPPEND_ADDRESSING_PAGED ? sample * p.table_entries : p.page_indptr[sample];
        block = p.page_table[first + place / p.cache_rows];
        place = place % p.cache_rows;
    }
    const std::int64_t cache = block * p.cache_strides[0] + head * p.cache_strides[1] + place * p.cache_strides[2] + d;
    static_cast<Element *>(p.to)[p.gathers ? fresh : cache] =
        static_cast<const Element *>(p.from)[p.gathers ? cache : fresh];
}

// What the launch of a kernel costs by itself.
static __global__ void do_nothing(int) {}
