// SPDX-License-Identifier: Apache-2.0
// Every sum is taken in one fixed order, so equal inputs give equal bits. Do not compile this with -ffast-math.
#include "decoder.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace {

// Splitmix64 as a function of a counter, mapped to [-1, 1).
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    float operator()() {
        state_ += 0x9e3779b97f4a7c15u;
        std::uint64_t z = state_;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        return static_cast<float>(z >> 40) * 0x1p-23f - 1.0f;
    }

private:
    std::uint64_t state_;
};

// The variance of 1 / in keeps the size of what passes through.
std::vector<float> random_matrix(std::size_t in, std::size_t out, Random &random) {
    const float scale = std::sqrt(3.0f / static_cast<float>(in));
    std::vector<float> matrix(in * out);
    std::generate(matrix.begin(), matrix.end(), [&] { return scale * random(); });
    return matrix;
}

// Goes over the outputs in the inner loop: these are independent, so a compiler can vectorise without reordering a sum.
std::vector<float> multiply(std::span<const float> x, std::span<const float> matrix) {
    const std::size_t out = matrix.size() / x.size();
    std::vector<float> y(out, 0.0f);
    for (std::size_t i = 0; i < x.size(); ++i) {
        for (std::size_t j = 0; j < out; ++j) {
            y[j] += x[i] * matrix[i * out + j];
        }
    }
    return y;
}

void add(std::span<float> x, std::span<const float> y) {
    std::transform(x.begin(), x.end(), y.begin(), x.begin(), [](float a, float b) { return a + b; });
}

std::vector<float> rms_norm(std::span<const float> x) {
    float squares = 0.0f;
    for (const float value : x) {
        squares += value * value;
    }
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(x.size()) + 1e-5f);
    std::vector<float> y(x.begin(), x.end());
    for (float &value : y) {
        value *= scale;
    }
    return y;
}

void softmax(std::span<float> scores) {
    const float most = *std::max_element(scores.begin(), scores.end());
    float sum = 0.0f;
    for (float &score : scores) {
        score = std::exp(score - most);
        sum += score;
    }
    for (float &score : scores) {
        score /= sum;
    }
}

// One head of the rows as floats [rows, dim].
std::vector<float> head_rows(std::span<const KeyAndValue> rows, Row KeyAndValue::*part, std::size_t head,
                             std::size_t dim) {
    std::vector<float> wide(rows.size() * dim);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const Row &row = rows[i].*part;
        row.element->widen(row.base + head * row.head_stride * row.element->width,
                           std::span(wide).subspan(i * dim, dim));
    }
    return wide;
}

} // namespace

Decoder::Decoder(const Shape &shape, const Element &element, Rotary rotary, std::uint64_t seed)
    : shape_(shape), element_(element), rotary_(std::move(rotary)) {
    Random random(seed);
    // The embedding's entries have variance 1, as if each were a sum of one term.
    embedding_ = random_matrix(1, shape.vocabulary * shape.model, random);
    for (std::size_t i = 0; i < shape.layers; ++i) {
        Layer layer;
        layer.fused = random_matrix(shape.model, shape.fused(), random);
        layer.output = random_matrix(shape.query_heads * shape.v_dim, shape.model, random);
        layer.gate = random_matrix(shape.model, shape.hidden, random);
        layer.up = random_matrix(shape.model, shape.hidden, random);
        layer.down = random_matrix(shape.hidden, shape.model, random);
        layers_.push_back(std::move(layer));
    }
    unembedding_ = random_matrix(shape.model, shape.vocabulary, random);
}

std::vector<float> Decoder::forward(std::span<const Feed> batch, std::size_t rows, RowStore &store,
                                    const Watch &watch) const {
    std::vector<float> stream(rows * shape_.model, 0.0f);
    const auto x = [&](std::size_t sample, std::size_t token) {
        return std::span(stream).subspan((batch[sample].row + token) * shape_.model, shape_.model);
    };
    // All bits set are a NaN of every element type, so padding cannot be read without being noticed.
    std::vector<std::byte> fused(rows * shape_.fused() * element_.width, std::byte{0xff});
    const auto fused_row = [&](std::size_t sample, std::size_t token) {
        return fused.data() + (batch[sample].row + token) * shape_.fused() * element_.width;
    };
    // In the order of positions wherever they are, so that sums over them have one order, too.
    const auto attended = [&](std::size_t layer, std::size_t sample, std::size_t token) {
        const std::size_t begin = batch[sample].position;
        const std::size_t own = begin + token;
        std::vector<KeyAndValue> found;
        for (std::size_t position = 0; position <= own; ++position) {
            if (position >= shape_.sinks && own - position >= shape_.window) {
                continue;
            }
            const std::optional<KeyAndValue> stored = store.row(layer, sample, position);
            if (!stored && position < begin) {
                throw std::logic_error("a row that attention needs is neither stored nor of this pass");
            }
            found.push_back(stored ? *stored : projected(fused_row(sample, position - begin)));
        }
        return found;
    };
    const auto for_each_token = [&](const auto &body) {
        for (std::size_t sample = 0; sample < batch.size(); ++sample) {
            for (std::size_t token = 0; token < batch[sample].tokens.size(); ++token) {
                body(sample, token);
            }
        }
    };

    for_each_token([&](std::size_t sample, std::size_t token) {
        add(x(sample, token), std::span(embedding_).subspan(batch[sample].tokens[token] * shape_.model, shape_.model));
    });
    std::size_t tokens = 0;
    for (const Feed &feed : batch) {
        tokens += feed.tokens.size();
    }
    std::size_t done = 0;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        for_each_token([&](std::size_t sample, std::size_t token) {
            element_.narrow(multiply(rms_norm(x(sample, token)), layers_[i].fused), fused_row(sample, token));
        });
        store.append(i, batch, fused);
        for_each_token([&](std::size_t sample, std::size_t token) {
            attend(layers_[i], fused_row(sample, token), attended(i, sample, token), x(sample, token));
            feed_forward(layers_[i], x(sample, token));
            watch(++done, tokens * layers_.size());
        });
    }
    return stream;
}

std::vector<float> Decoder::logits(std::span<const float> row) const {
    return multiply(rms_norm(row), unembedding_);
}

void Decoder::rotate_queries(std::span<const Feed> batch, std::span<std::byte> fused) const {
    rotate(batch, fused, 0, shape_.query_heads);
}

void Decoder::rotate_keys(std::span<const Feed> batch, std::span<std::byte> fused) const {
    rotate(batch, fused, shape_.k_begin(), shape_.kv_heads);
}

// Q and K have the element type before and after the rotation, as in an append by libkvappend.
void Decoder::rotate(std::span<const Feed> batch, std::span<std::byte> fused, std::size_t begin,
                     std::size_t heads) const {
    std::vector<float> wide(shape_.k_dim);
    for (const Feed &feed : batch) {
        for (std::size_t token = 0; token < feed.tokens.size(); ++token) {
            for (std::size_t head = 0; head < heads; ++head) {
                const std::size_t element = (feed.row + token) * shape_.fused() + begin + head * shape_.k_dim;
                std::byte *const at = fused.data() + element * element_.width;
                element_.widen(at, wide);
                rotary_.rotate(wide, feed.position + token);
                element_.narrow(wide, at);
            }
        }
    }
}

KeyAndValue Decoder::projected(const std::byte *fused) const {
    return {{&element_, fused + shape_.k_begin() * element_.width, shape_.k_dim},
            {&element_, fused + shape_.v_begin() * element_.width, shape_.v_dim}};
}

void Decoder::attend(const Layer &layer, const std::byte *fused, std::span<const KeyAndValue> rows,
                     std::span<float> x) const {
    const std::size_t k_dim = shape_.k_dim;
    const std::size_t v_dim = shape_.v_dim;
    const std::size_t group = shape_.query_heads / shape_.kv_heads;
    const float scale = 1.0f / std::sqrt(static_cast<float>(k_dim));
    std::vector<float> queries(shape_.k_begin());
    element_.widen(fused, queries);
    std::vector<float> mixed(shape_.query_heads * v_dim, 0.0f);
    std::vector<float> scores(rows.size());
    for (std::size_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
        const std::vector<float> keys = head_rows(rows, &KeyAndValue::key, kv_head, k_dim);
        const std::vector<float> values = head_rows(rows, &KeyAndValue::value, kv_head, v_dim);
        for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            for (std::size_t row = 0; row < rows.size(); ++row) {
                float score = 0.0f;
                for (std::size_t d = 0; d < k_dim; ++d) {
                    score += queries[head * k_dim + d] * keys[row * k_dim + d];
                }
                scores[row] = score * scale;
            }
            softmax(scores);
            for (std::size_t row = 0; row < rows.size(); ++row) {
                for (std::size_t d = 0; d < v_dim; ++d) {
                    mixed[head * v_dim + d] += scores[row] * values[row * v_dim + d];
                }
            }
        }
    }
    add(x, multiply(mixed, layer.output));
}

void Decoder::feed_forward(const Layer &layer, std::span<float> x) const {
    const std::vector<float> normal = rms_norm(x);
    std::vector<float> gate = multiply(normal, layer.gate);
    const std::vector<float> up = multiply(normal, layer.up);
    for (std::size_t i = 0; i < gate.size(); ++i) {
        gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    }
    add(x, multiply(gate, layer.down));
}
