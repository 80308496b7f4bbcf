// SPDX-License-Identifier: Apache-2.0
#include "by_rows.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

// Both tensors come as if they could be written, and this alone says which one is.
template <bool Gathers>
void move(std::byte *fresh, std::byte *cache, std::size_t bytes) {
    std::memcpy(Gathers ? fresh : cache, Gathers ? cache : fresh, bytes);
}

// The new rows of one sample, of a dense cache or a ring.
struct Sample {
    std::int64_t rows;
    std::int64_t offset;
    std::byte *fresh;
    std::byte *cache;
};

template <class Body>
void for_each_sample(const Workload &workload, const Indices &indices, const Rows &tensor, std::byte *fresh,
                     std::byte *cache, Body body) {
    const kvappend_descriptor &d = workload.descriptor;
    const std::int64_t *const offsets = indices.places.data();
    const std::int32_t *const lengths = indices.lengths.data();
    for (std::int64_t b = 0; b < d.batch; ++b, cache += tensor.block) {
        if (d.lengths == KVAPPEND_LENGTHS_PACKED) {
            body(Sample{lengths[b + 1] - lengths[b], offsets[b], fresh + lengths[b] * tensor.new_row, cache});
        } else {
            body(Sample{d.new_rows, offsets[b], fresh + b * tensor.new_batch, cache});
        }
    }
}

struct Axis {
    std::int64_t count;
    std::int64_t fresh; // from one to the next
    std::int64_t cache;
};

template <bool Gathers>
void copy(const Axis &outer, const Axis &inner, std::size_t bytes, std::byte *fresh, std::byte *cache) {
    for (std::int64_t i = 0; i < outer.count; ++i, fresh += outer.fresh, cache += outer.cache) {
        std::byte *new_row = fresh;
        std::byte *cache_row = cache;
        for (std::int64_t j = 0; j < inner.count; ++j, new_row += inner.fresh, cache_row += inner.cache) {
            move<Gathers>(new_row, cache_row, bytes);
        }
    }
}

template <bool Gathers>
void copy_dense(const Workload &workload, const Indices &indices, const Rows &tensor, std::byte *fresh,
                std::byte *cache) {
    for_each_sample(workload, indices, tensor, fresh, cache, [&](const Sample &sample) {
        const std::int64_t first = std::max<std::int64_t>(0, -sample.offset);
        const std::int64_t end = std::min(sample.rows, workload.descriptor.cache_rows - sample.offset);
        // In the order in which the new rows lie: where tokens are outside, heads outside takes up to twice as long.
        const Axis rows{end - first, tensor.new_row, tensor.row};
        const Axis heads{tensor.heads, tensor.new_head, tensor.head};
        const bool by_token = tensor.new_row > tensor.new_head;
        copy<Gathers>(by_token ? rows : heads, by_token ? heads : rows, tensor.bytes,
                      sample.fresh + first * tensor.new_row, sample.cache + (sample.offset + first) * tensor.row);
    });
}

template <bool Gathers>
void copy_ring(const Workload &workload, const Indices &indices, const Rows &tensor, std::byte *fresh,
               std::byte *cache) {
    const std::int64_t sinks = workload.descriptor.sink_rows;
    const std::int64_t window = workload.descriptor.cache_rows - sinks;
    for_each_sample(workload, indices, tensor, fresh, cache, [&](const Sample &sample) {
        for (std::int64_t h = 0; h < tensor.heads; ++h) {
            std::byte *const rows = sample.fresh + h * tensor.new_head;
            std::byte *const places = sample.cache + h * tensor.head;
            std::int64_t l = std::max<std::int64_t>(0, -sample.offset);
            for (; l < sample.rows && sample.offset + l < sinks; ++l) {
                move<Gathers>(rows + l * tensor.new_row, places + (sample.offset + l) * tensor.row, tensor.bytes);
            }
            l = std::max(l, sample.rows - window); // Later rows replace those before.
            std::int64_t place = (sample.offset + l - sinks) % window;
            for (; l < sample.rows; ++l) {
                move<Gathers>(rows + l * tensor.new_row, places + (sinks + place) * tensor.row, tensor.bytes);
                place = place + 1 == window ? 0 : place + 1;
            }
        }
    });
}

template <bool Gathers>
void copy_heads(const Rows &tensor, std::byte *fresh, std::byte *cache) {
    for (std::int64_t h = 0; h < tensor.heads; ++h, fresh += tensor.new_head, cache += tensor.head) {
        move<Gathers>(fresh, cache, tensor.bytes);
    }
}

// A token's K and V, for which the page is looked up once.
template <bool Gathers>
class Token {
public:
    Token(const Workload &workload, std::byte *fresh, std::byte *cache)
        : workload_(workload), k_new_(fresh), v_new_(fresh + workload.v_new_at), k_cache_(cache),
          v_cache_(cache + workload.v_cache_at) {}

    void copy(std::int64_t sample, std::int64_t row, std::int64_t page, std::int64_t page_row) const {
        const Rows &k = workload_.k;
        const Rows &v = workload_.v;
        copy_heads<Gathers>(k, k_new_ + sample * k.new_batch + row * k.new_row,
                            k_cache_ + page * k.block + page_row * k.row);
        copy_heads<Gathers>(v, v_new_ + sample * v.new_batch + row * v.new_row,
                            v_cache_ + page * v.block + page_row * v.row);
    }

private:
    const Workload &workload_;
    std::byte *k_new_;
    std::byte *v_new_;
    std::byte *k_cache_;
    std::byte *v_cache_;
};

template <bool Gathers>
void copy_slots(const Workload &workload, const Indices &indices, const Token<Gathers> &token) {
    const kvappend_descriptor &d = workload.descriptor;
    const std::int64_t *const slots = indices.places.data();
    for (std::int64_t t = 0; t < d.new_rows; ++t) {
        const std::int64_t page = slots[t] / d.cache_rows;
        if (slots[t] >= 0 && page < d.cache_blocks) {
            token.copy(0, t, page, slots[t] % d.cache_rows);
        }
    }
}

template <bool Gathers>
void copy_pages(const Workload &workload, const Indices &indices, const Token<Gathers> &token) {
    const kvappend_descriptor &d = workload.descriptor;
    const bool packed = d.lengths == KVAPPEND_LENGTHS_PACKED;
    const std::int64_t *const offsets = indices.places.data();
    for (std::int64_t b = 0; b < d.batch; ++b) {
        const std::int64_t begin = packed ? indices.lengths[static_cast<std::size_t>(b)] : 0;
        const std::int64_t end = packed ? indices.lengths[static_cast<std::size_t>(b + 1)] : d.new_rows;
        const std::int32_t *const table =
            workload.page_table.data() + workload.page_indptr[static_cast<std::size_t>(b)];
        const std::int64_t entries =
            workload.page_indptr[static_cast<std::size_t>(b + 1)] - workload.page_indptr[static_cast<std::size_t>(b)];
        for (std::int64_t l = begin; l < end; ++l) {
            const std::int64_t position = offsets[b] + l - begin;
            const std::int64_t entry = position / d.cache_rows;
            if (position >= 0 && entry < entries && table[entry] >= 0 && table[entry] < d.cache_blocks) {
                token.copy(packed ? 0 : b, l, table[entry], position % d.cache_rows);
            }
        }
    }
}

template <bool Gathers>
void copy(const Workload &workload, const Indices &indices, std::byte *fresh, std::byte *cache) {
    switch (workload.descriptor.addressing) {
    case KVAPPEND_ADDRESSING_DENSE:
        copy_dense<Gathers>(workload, indices, workload.k, fresh, cache);
        copy_dense<Gathers>(workload, indices, workload.v, fresh + workload.v_new_at, cache + workload.v_cache_at);
        break;
    case KVAPPEND_ADDRESSING_RING:
        copy_ring<Gathers>(workload, indices, workload.k, fresh, cache);
        copy_ring<Gathers>(workload, indices, workload.v, fresh + workload.v_new_at, cache + workload.v_cache_at);
        break;
    case KVAPPEND_ADDRESSING_SLOTS:
        copy_slots(workload, indices, Token<Gathers>(workload, fresh, cache));
        break;
    default:
        copy_pages(workload, indices, Token<Gathers>(workload, fresh, cache));
    }
}

} // namespace

void copy_by_rows(const Workload &workload, const Indices &indices, const std::byte *source, std::byte *target) {
    std::byte *const read = const_cast<std::byte *>(source);
    if (workload.gathers()) {
        copy<true>(workload, indices, target, read);
    } else {
        copy<false>(workload, indices, read, target);
    }
}
