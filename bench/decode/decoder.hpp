// SPDX-License-Identifier: Apache-2.0
// A small decoder over bytes with deterministic weights. It knows nothing of caches: whoever runs it says where the K
// and V rows are that attention reads. So the very same code serves with a cache and without one.
#pragma once

#include "element.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Several query heads share one K/V head, and K rows are not as long as V rows.
struct Shape {
    std::size_t layers = 4;
    std::size_t vocabulary = 256;
    std::size_t model = 128;
    std::size_t hidden = 256;
    std::size_t query_heads = 8;
    std::size_t kv_heads = 2;
    std::size_t k_dim = 32;
    std::size_t v_dim = 48;

    // A row of the fused projection holds the heads of Q, then those of K, then those of V.
    std::size_t k_begin() const { return query_heads * k_dim; }
    std::size_t v_begin() const { return k_begin() + kv_heads * k_dim; }
    std::size_t fused() const { return v_begin() + kv_heads * v_dim; }
};

// Rows of one sample in one layer; the strides are in elements.
struct Rows {
    const std::byte *base;
    std::size_t head_stride;
    std::size_t row_stride;
};

struct KeysAndValues {
    Rows keys;
    Rows values;
};

class RowStore {
public:
    virtual ~RowStore() = default;
    // Takes in the fused projection [batch, new rows, fused] of a layer.
    virtual void append(std::size_t layer, std::span<const std::byte> fused) = 0;
    // Where the rows of a sample are, from its first token up to the last that was appended.
    virtual KeysAndValues rows(std::size_t layer, std::size_t sample) const = 0;
};

// The tokens to feed to one sample; the first of them stands at `position` in its text.
struct Feed {
    std::span<const std::uint8_t> tokens;
    std::size_t position;
};

class Decoder {
public:
    Decoder(const Shape &shape, const Element &element, std::uint64_t seed);

    // Feeds a batch and returns its residual stream [batch, longest feed, model]. Shorter feeds are padded at their
    // end: the padding of the fused projection is garbage (NaN), and that of the result is zero.
    std::vector<float> forward(std::span<const Feed> batch, RowStore &store) const;

    // The logits [vocabulary] from one row of that stream.
    std::vector<float> logits(std::span<const float> row) const;

    const Shape &shape() const { return shape_; }
    const Element &element() const { return element_; }

private:
    using Matrix = std::vector<float>; // [in, out]
    struct Layer {
        Matrix fused;
        Matrix output;
        Matrix gate;
        Matrix up;
        Matrix down;
    };

    void project(const Layer &layer, std::span<const float> x, std::size_t position, std::byte *fused) const;
    void attend(const Layer &layer, const std::byte *fused, const KeysAndValues &rows, std::size_t count,
                std::span<float> x) const;
    void feed_forward(const Layer &layer, std::span<float> x) const;

    Shape shape_;
    const Element &element_;
    Matrix embedding_;
    std::vector<Layer> layers_;
    Matrix unembedding_;
};
