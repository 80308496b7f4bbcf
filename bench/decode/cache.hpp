// SPDX-License-Identifier: Apache-2.0
// The KV caches of all layers, filled by libkvappend.
#pragma once

#include "decoder.hpp"
#include "memory.hpp"
#include "placement.hpp"

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

enum class AxisOrder {
    bhsd, // [block, head, row, dim]
    bshd, // [block, row, head, dim]
};

// What was appended with one plan. K rows and V rows count apart, and each copied byte counts once.
struct Appended {
    std::size_t rows = 0;
    std::size_t bytes = 0;
    std::vector<double> seconds;        // of each call
    std::vector<double> memcpy_seconds; // of one copy of as many bytes after each call
};

class Cache final : public RowStore {
public:
    Cache(Memory &memory, const Decoder &decoder, std::unique_ptr<Placement> placement, AxisOrder layout);

    // Whether the feeds of a pass are to lie one behind the other. Else each is padded, to the same length.
    bool packed() const { return descriptor_.lengths == KVAPPEND_LENGTHS_PACKED; }
    // Makes the plan for passes of so many rows.
    void plan(std::size_t rows);
    // Makes room for what the next pass appends.
    void place(std::span<const Feed> feeds);

    void append(std::size_t layer, std::span<const std::byte> fused) override;
    std::optional<KeyAndValue> row(std::size_t layer, std::size_t sample, std::size_t position) const override;

    // Since the latest plan().
    const Appended &appended() const { return appended_; }
    std::string kernel() const;

private:
    struct Release {
        Memory *memory;
        void operator()(std::byte *pointer) const { memory->release(pointer); }
    };
    struct Buffer {
        std::unique_ptr<std::byte, Release> memory;
        std::size_t bytes;
        std::vector<std::byte> copy; // what attention reads where the host cannot reach the memory
    };
    struct Layer {
        Buffer k;
        Buffer v;
    };
    struct Destroy {
        void operator()(kvappend_plan *plan) const { kvappend_plan_destroy(plan); }
    };

    Buffer allocate(std::size_t bytes) const;
    void upload(Buffer &to, std::span<const std::byte> bytes) const;
    void run_memcpy(std::size_t bytes);

    Memory &memory_;
    const Shape &shape_;
    const std::size_t width_; // of an element
    std::unique_ptr<Placement> placement_;
    kvappend_descriptor descriptor_;
    std::unique_ptr<kvappend_plan, Destroy> plan_;
    std::vector<Layer> layers_;
    Buffer fused_{};
    Buffer offsets_{};
    Buffer lengths_{};
    Buffer page_table_{};
    Buffer slots_{};
    std::size_t pass_rows_ = 0;
    std::size_t written_rows_ = 0; // of K, and as many of V, by each append of the pass
    Appended appended_;
    Buffer memcpy_target_{};
    std::size_t memcpy_position_ = 0;
};
