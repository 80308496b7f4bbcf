// SPDX-License-Identifier: Apache-2.0
// A small decoder over bytes with deterministic weights. It knows nothing of caches: whoever runs it says where the K
// and V rows are that attention reads. So the very same code serves with a cache and without one.
#pragma once

#include "element.hpp"
#include "rotary.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
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
    std::size_t v_dim = 96;
    // A token attends to the first `sinks` positions and to the last `window`, its own among them: to all, as it is.
    std::size_t sinks = 0;
    std::size_t window = std::numeric_limits<std::size_t>::max();

    // A row of the fused projection holds the heads of Q, then those of K, then those of V.
    std::size_t k_begin() const { return query_heads * k_dim; }
    std::size_t v_begin() const { return k_begin() + kv_heads * k_dim; }
    std::size_t fused() const { return v_begin() + kv_heads * v_dim; }
};

// One position of one sample in one layer: head 0, and the elements from head to head.
struct Row {
    const Element *element;
    const std::byte *base;
    std::size_t head_stride;
};

struct KeyAndValue {
    Row key;
    Row value;
};

// The tokens to feed to one sample. The first of them stands at `position` in its text and takes the row `row` of the
// pass, and the others follow.
struct Feed {
    std::span<const std::uint8_t> tokens;
    std::size_t position;
    std::size_t row;
};

class RowStore {
public:
    virtual ~RowStore() = default;
    // Takes in the fused projection [rows of the pass, fused] of a layer, and rotates its Q and K in place.
    virtual void append(std::size_t layer, std::span<const Feed> batch, std::span<std::byte> fused) = 0;
    // Where the row of a position is. For a position of the latest pass this may be nowhere: then attention reads what
    // the projection of the pass holds.
    virtual std::optional<KeyAndValue> row(std::size_t layer, std::size_t sample, std::size_t position) const = 0;
};

// Told how many tokens of a pass have come through a layer, of how many in all layers.
using Watch = std::function<void(std::size_t done, std::size_t all)>;

class Decoder {
public:
    Decoder(const Shape &shape, const Element &element, Rotary rotary, std::uint64_t seed);

    // Feeds a batch in a pass of `rows` rows and returns its residual stream [rows, model]. Rows that no feed takes are
    // padding: garbage (NaN) in the fused projection, and zero in the result.
    std::vector<float> forward(std::span<const Feed> batch, std::size_t rows, RowStore &store,
                               const Watch &watch) const;

    // The logits [vocabulary] from one row of that stream.
    std::vector<float> logits(std::span<const float> row) const;

    // For the stores: these rotate the heads of a fused projection in place, each by the position of its token.
    void rotate_queries(std::span<const Feed> batch, std::span<std::byte> fused) const;
    void rotate_keys(std::span<const Feed> batch, std::span<std::byte> fused) const;

    const Shape &shape() const { return shape_; }
    const Element &element() const { return element_; }
    const Rotary &rotary() const { return rotary_; }

private:
    using Matrix = std::vector<float>; // [in, out]
    struct Layer {
        Matrix fused;
        Matrix output;
        Matrix gate;
        Matrix up;
        Matrix down;
    };

    void rotate(std::span<const Feed> batch, std::span<std::byte> fused, std::size_t begin, std::size_t heads) const;
    KeyAndValue projected(const std::byte *fused) const;
    void attend(const Layer &layer, const std::byte *fused, std::span<const KeyAndValue> rows,
                std::span<float> x) const;
    void feed_forward(const Layer &layer, std::span<float> x) const;

    Shape shape_;
    const Element &element_;
    Rotary rotary_;
    Matrix embedding_;
    std::vector<Layer> layers_;
    Matrix unembedding_;
};
