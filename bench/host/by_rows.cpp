// SPDX-License-Identifier: Apache-2.0
#include "by_rows.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

// The new rows of one sample, of a dense cache or a ring.
struct Sample {
    std::int64_t rows;
    std::int64_t offset;
    const std::byte *fresh;
    std::byte *cache;
};

template <class Append>
void for_each_sample(const Workload &workload, const Indices &indices, const Rows &tensor, const std::byte *fresh,
                     std::byte *cache, Append append) {
    const kvappend_descriptor &d = workload.descriptor;
    const std::int64_t *const offsets = indices.places.data();
    const std::int32_t *const lengths = indices.lengths.data();
    for (std::int64_t b = 0; b < d.batch; ++b, cache += tensor.block) {
        if (d.lengths == KVAPPEND_LENGTHS_PACKED) {
            append(Sample{lengths[b + 1] - lengths[b], offsets[b], fresh + lengths[b] * tensor.new_row, cache});
        } else {
            append(Sample{d.new_rows, offsets[b], fresh + b * tensor.new_batch, cache});
        }
    }
}

struct Axis {
    std::int64_t count;
    std::int64_t from;
    std::int64_t to;
};

void copy(const Axis &outer, const Axis &inner, std::size_t bytes, const std::byte *fresh, std::byte *cache) {
    for (std::int64_t i = 0; i < outer.count; ++i, fresh += outer.from, cache += outer.to) {
        const std::byte *from = fresh;
        std::byte *to = cache;
        for (std::int64_t j = 0; j < inner.count; ++j, from += inner.from, to += inner.to) {
            std::memcpy(to, from, bytes);
        }
    }
}

void append_dense(const Workload &workload, const Indices &indices, const Rows &tensor, const std::byte *fresh,
                  std::byte *cache) {
    for_each_sample(workload, indices, tensor, fresh, cache, [&](const Sample &sample) {
        const std::int64_t first = std::max<std::int64_t>(0, -sample.offset);
        const std::int64_t end = std::min(sample.rows, workload.descriptor.cache_rows - sample.offset);
        // In the order in which the new rows lie: where tokens are outside, heads outside takes up to twice as long.
        const Axis rows{end - first, tensor.new_row, tensor.row};
        const Axis heads{tensor.heads, tensor.new_head, tensor.head};
        const bool by_token = tensor.new_row > tensor.new_head;
        copy(by_token ? rows : heads, by_token ? heads : rows, tensor.bytes, sample.fresh + first * tensor.new_row,
             sample.cache + (sample.offset + first) * tensor.row);
    });
}

void append_ring(const Workload &workload, const Indices &indices, const Rows &tensor, const std::byte *fresh,
                 std::byte *cache) {
    const std::int64_t sinks = workload.descriptor.sink_rows;
    const std::int64_t window = workload.descriptor.cache_rows - sinks;
    for_each_sample(workload, indices, tensor, fresh, cache, [&](const Sample &sample) {
        for (std::int64_t h = 0; h < tensor.heads; ++h) {
            const std::byte *const from = sample.fresh + h * tensor.new_head;
            std::byte *const to = sample.cache + h * tensor.head;
            std::int64_t l = std::max<std::int64_t>(0, -sample.offset);
            for (; l < sample.rows && sample.offset + l < sinks; ++l) {
                std::memcpy(to + (sample.offset + l) * tensor.row, from + l * tensor.new_row, tensor.bytes);
            }
            l = std::max(l, sample.rows - window); // Later rows replace those before.
            std::int64_t place = (sample.offset + l - sinks) % window;
            for (; l < sample.rows; ++l) {
                std::memcpy(to + (sinks + place) * tensor.row, from + l * tensor.new_row, tensor.bytes);
                place = place + 1 == window ? 0 : place + 1;
            }
        }
    });
}

void copy_heads(const Rows &tensor, const std::byte *from, std::byte *to) {
    for (std::int64_t h = 0; h < tensor.heads; ++h, from += tensor.new_head, to += tensor.head) {
        std::memcpy(to, from, tensor.bytes);
    }
}

// A token's K and V, for which the page is looked up once.
class Token {
public:
    Token(const Workload &workload, const std::byte *fresh, std::byte *cache)
        : workload_(workload), k_new_(fresh), v_new_(fresh + workload.v_new_at), k_cache_(cache),
          v_cache_(cache + workload.v_cache_at) {}

    void append(std::int64_t sample, std::int64_t row, std::int64_t page, std::int64_t page_row) const {
        const Rows &k = workload_.k;
        const Rows &v = workload_.v;
        copy_heads(k, k_new_ + sample * k.new_batch + row * k.new_row, k_cache_ + page * k.block + page_row * k.row);
        copy_heads(v, v_new_ + sample * v.new_batch + row * v.new_row, v_cache_ + page * v.block + page_row * v.row);
    }

private:
    const Workload &workload_;
    const std::byte *k_new_;
    const std::byte *v_new_;
    std::byte *k_cache_;
    std::byte *v_cache_;
};

void append_slots(const Workload &workload, const Indices &indices, const Token &token) {
    const kvappend_descriptor &d = workload.descriptor;
    const std::int64_t *const slots = indices.places.data();
    for (std::int64_t t = 0; t < d.new_rows; ++t) {
        const std::int64_t page = slots[t] / d.cache_rows;
        if (slots[t] >= 0 && page < d.cache_blocks) {
            token.append(0, t, page, slots[t] % d.cache_rows);
        }
    }
}

void append_pages(const Workload &workload, const Indices &indices, const Token &token) {
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
                token.append(packed ? 0 : b, l, table[entry], position % d.cache_rows);
            }
        }
    }
}

} // namespace

void append_by_rows(const Workload &workload, const Indices &indices, const std::byte *fresh, std::byte *cache) {
    switch (workload.descriptor.addressing) {
    case KVAPPEND_ADDRESSING_DENSE:
        append_dense(workload, indices, workload.k, fresh, cache);
        append_dense(workload, indices, workload.v, fresh + workload.v_new_at, cache + workload.v_cache_at);
        break;
    case KVAPPEND_ADDRESSING_RING:
        append_ring(workload, indices, workload.k, fresh, cache);
        append_ring(workload, indices, workload.v, fresh + workload.v_new_at, cache + workload.v_cache_at);
        break;
    case KVAPPEND_ADDRESSING_SLOTS:
        append_slots(workload, indices, Token(workload, fresh, cache));
        break;
    default:
        append_pages(workload, indices, Token(workload, fresh, cache));
    }
}
