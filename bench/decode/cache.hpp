// SPDX-License-Identifier: Apache-2.0
// The KV caches of all layers, filled by libkvappend.
#pragma once

#include "decoder.hpp"
#include "gathered.hpp"
#include "memory.hpp"
#include "placement.hpp"
#include "stored.hpp"

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

enum class AxisOrder {
    bhsd, // [block, head, row, dim]
    bshd, // [block, row, head, dim]
};

// What was appended with one plan. K rows and V rows count apart.
struct Appended {
    std::size_t rows = 0;
    std::size_t bytes = 0;       // written
    std::vector<double> seconds; // of each call
};

class Cache final : public RowStore {
public:
    // `store` is one of store_names(), or "as-is".
    Cache(Memory &memory, const Decoder &decoder, std::unique_ptr<Placement> placement, AxisOrder layout,
          std::string_view store);
    // Has a cache of the same kind, layout and store do all that this one does. If it is of the same backend, it uses
    // another kernel, unless there is none.
    void repeat_in(Cache &second) { second_ = &second; }

    // Whether the feeds of a pass are to lie one behind the other. Else each is padded, to the same length.
    bool packed() const { return descriptor_.lengths == KVAPPEND_LENGTHS_PACKED; }
    // Makes the plan for passes of so many rows.
    void plan(std::size_t rows) { plan_unlike({}, rows); }
    // Makes room for what the next pass appends.
    void place(std::span<const Feed> feeds);

    // Gathers the rows of these tokens, whose feeds lie one after the other, from all layers. They have the values that
    // attention reads from the cache: those of a store are decoded to F32. Only for a packed() cache.
    Gathered gather(std::span<const Feed> feeds, std::size_t rows);
    // From now on, attention reads the first positions of each sample from `prefix`, and passes begin after them.
    void begin_after(const Gathered &prefix) { prefix_ = &prefix; }
    // The first position of a sample that is to be computed.
    std::size_t computed_from(std::size_t sample) const { return prefix_ == nullptr ? 0 : prefix_->rows(sample); }

    void append(std::size_t layer, std::span<const Feed> batch, std::span<std::byte> fused) override;
    std::optional<KeyAndValue> row(std::size_t layer, std::size_t sample, std::size_t position) const override;

    // Since the latest plan().
    const Appended &appended() const { return appended_; }
    std::string kernel() const;
    // Of one token in all layers.
    std::size_t token_bytes() const;
    // All layers, with their scales.
    std::vector<std::byte> contents() const;

private:
    struct Release {
        Memory *memory;
        void operator()(std::byte *pointer) const { memory->release(pointer); }
    };
    struct Buffer {
        std::unique_ptr<std::byte, Release> memory;
        std::size_t bytes;
        std::vector<std::byte> copy; // what attention reads where the host cannot reach the memory
        std::vector<float> decoded;  // what attention reads where there is a store
    };
    // What the K, or V, of all layers have in common.
    struct Part {
        std::size_t dim;
        std::size_t row_bytes; // of one head
        std::optional<StoredRows> stored;
        kvappend_storage storage; // with strides
    };
    struct Layer {
        Buffer k;
        Buffer v;
    };
    struct Destroy {
        void operator()(kvappend_plan *plan) const { kvappend_plan_destroy(plan); }
    };

    Part make_part(std::size_t dim, std::string_view store) const;
    // How many rows of one head the cache has.
    std::size_t rows() const;
    std::size_t row_number(const CacheRow &place) const;
    std::size_t head_rows() const;
    void plan_unlike(const std::string &kernel, std::size_t rows);
    void upload_indices(const Indices &indices);
    // The arguments of a run, without new rows and outputs.
    kvappend_args cache_args(const Layer &layer) const;
    void run(std::size_t layer, std::span<const std::byte> fused);
    std::span<std::byte> codes(const Part &part, const Buffer &buffer) const;
    std::span<std::byte> scales(const Part &part, const Buffer &buffer) const;
    void decode(const Part &part, Buffer &buffer) const;

    Buffer allocate(std::size_t bytes) const;
    void upload(Buffer &to, std::span<const std::byte> bytes) const;
    std::vector<std::byte> downloaded(const Buffer &buffer) const;

    Memory &memory_;
    const Decoder &decoder_;
    const Shape &shape_;
    const Element &element_;
    std::unique_ptr<Placement> placement_;
    kvappend_descriptor descriptor_;
    std::int64_t strides_[3]{}; // of rows of one head
    Part k_;
    Part v_;
    kvappend_rotary rotary_ = KVAPPEND_ROTARY_INIT; // descriptor_.rotary, unless nothing is rotated
    std::unique_ptr<kvappend_plan, Destroy> plan_;
    std::vector<Layer> layers_;
    Buffer fused_{};
    Buffer offsets_{};
    Buffer lengths_{};
    Buffer page_table_{};
    Buffer slots_{};
    Buffer positions_{};
    Buffer rotary_cos_{};
    Buffer rotary_sin_{};
    Buffer given_scale_{};
    std::vector<Feed> feeds_; // of the pass
    std::optional<RoundedPass> pass_;
    std::size_t pass_rows_ = 0;
    std::size_t written_rows_ = 0; // of K, and as many of V, by each append of the pass
    Appended appended_;
    Cache *second_ = nullptr;
    const Gathered *prefix_ = nullptr;
};
