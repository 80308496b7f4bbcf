// SPDX-License-Identifier: Apache-2.0
// The KV caches of all layers, filled by libkvappend.
#pragma once

#include "decoder.hpp"
#include "memory.hpp"

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

enum class Layout {
    bhsd, // [batch, head, row, dim]
    bshd, // [batch, row, head, dim]
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
    // `rows` is how many each sample's cache holds.
    Cache(Memory &memory, const Decoder &decoder, std::size_t batch, std::size_t rows, Layout layout);

    // Makes the plan for the appends to come: new_rows rows for each sample.
    void plan(std::size_t new_rows);
    // The row that the first new row of each sample goes to from now on.
    void move_to(const std::vector<std::int64_t> &offsets);

    void append(std::size_t layer, std::span<const std::byte> fused) override;
    KeysAndValues rows(std::size_t layer, std::size_t sample) const override;

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
    std::size_t written_rows() const;
    void run_memcpy(std::size_t bytes);

    Memory &memory_;
    const Shape &shape_;
    const std::size_t width_; // of an element
    kvappend_descriptor descriptor_ = KVAPPEND_DESCRIPTOR_INIT;
    std::unique_ptr<kvappend_plan, Destroy> plan_;
    std::vector<Layer> layers_;
    Buffer offsets_{};
    Buffer fused_{};
    std::vector<std::int64_t> host_offsets_;
    Appended appended_;
    Buffer memcpy_target_{};
    std::size_t memcpy_position_ = 0;
};
