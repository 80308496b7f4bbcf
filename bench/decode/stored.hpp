// SPDX-License-Identifier: Apache-2.0
// The formats that a cache can store its rows in: what libkvappend is told of each, and the arithmetic of
// kvappend_storage once more. Attention decodes the codes with it, and the proof rounds rows with it.
#pragma once

#include "decoder.hpp"

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The names of the formats.
std::vector<std::string> store_names();

// K or V of a layer as codes and scales, in one buffer of bytes: [rows of one head each, row]. The scales follow after
// all codes, or there is one before each block of codes, as in ggml.
class StoredRows {
public:
    // Throws std::invalid_argument for a name that is none.
    StoredRows(std::string_view store, std::size_t dim, std::size_t rows);

    // Without scale strides.
    const kvappend_storage &storage() const { return storage_; }
    // The factor that the caller gives to all scales, or the only scale; 0 if there is none.
    float given() const { return given_; }

    struct Part {
        std::size_t begin; // of row 0 in the buffer
        std::size_t row;   // bytes from row to row
        std::size_t group; // bytes from one group of a row to the next
    };
    const Part &codes() const { return codes_; }
    const Part &scales() const { return scales_; }
    std::size_t pack() const { return pack_; }
    std::size_t row_bytes() const { return row_bytes_; } // of codes and computed scales
    std::size_t bytes() const { return rows_ * row_bytes_; }

    void decode(const std::byte *buffer, std::size_t row, std::span<float> to) const;
    // What decode() gives after the row was stored.
    void round(std::span<float> row) const;

private:
    bool computed() const { return storage_.scaling == KVAPPEND_SCALING_COMPUTED; }
    void round_group(std::span<float> group) const;

    kvappend_storage storage_;
    float given_;
    std::size_t rows_;
    std::size_t group_; // elements
    std::size_t pack_;
    std::size_t row_bytes_;
    Part codes_{};
    Part scales_{};
    std::vector<float> numbers_; // of all codes
};

// The K and V rows of a pass as attention would read them from a cache with this store.
class RoundedPass {
public:
    RoundedPass(const Shape &shape, const Element &element, std::string_view store);
    void take(std::span<const std::byte> fused);
    KeyAndValue row(std::size_t row) const;

private:
    const Shape &shape_;
    const Element &element_;
    StoredRows k_;
    StoredRows v_;
    std::vector<float> rows_; // [rows, fused]
};
