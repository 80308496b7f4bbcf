// SPDX-License-Identifier: Apache-2.0
// How each kind of cache finds the place of a row: what libkvappend is told of it, and the same rule once more for
// attention, which reads the rows.
#pragma once

#include "decoder.hpp"

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

// A row of a block, which is a sample's cache or a page.
struct CacheRow {
    std::size_t block;
    std::size_t row;
};

// The arrays of indices of a pass' appends; empty where the kind does without.
struct Indices {
    std::vector<std::int64_t> offsets{};
    std::vector<std::int32_t> lengths{};
    std::vector<std::int32_t> page_table{};
    std::vector<std::int64_t> slots{};
    std::vector<std::int64_t> positions{}; // of the rows, which slots do not tell
};

struct CacheSize {
    std::size_t batch;
    std::size_t rows;      // of each sample
    std::size_t sinks;     // of them, in a ring
    std::size_t page_rows; // of each page
};

class Placement {
public:
    virtual ~Placement() = default;

    // What the kind says about the problem; the rest is zero.
    const kvappend_descriptor &descriptor() const { return descriptor_; }
    // Makes room for a pass of `rows` rows.
    virtual Indices place(std::span<const Feed> feeds, std::size_t rows) = 0;
    // Where a row is after the append of the latest pass, if the cache has it. The position is one that was fed, or
    // one of padding behind those.
    virtual std::optional<CacheRow> find(std::size_t sample, std::size_t position) const = 0;

protected:
    kvappend_descriptor descriptor_ = KVAPPEND_DESCRIPTOR_INIT;
};

// `kind` is dense, ring, paged or slots; std::invalid_argument is thrown for any other. A ring needs fewer sinks than
// rows, and the others need rows for all that will be fed.
std::unique_ptr<Placement> placement_named(std::string_view kind, const CacheSize &size);
