// SPDX-License-Identifier: Apache-2.0
#include "generate.hpp"

#include "stopwatch.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

namespace {

// Attention reads K and V where the projection of the same pass put them, or what a store would make of them.
class NoCache final : public RowStore {
public:
    NoCache(const Decoder &decoder, std::string_view store) : decoder_(decoder) {
        if (store != "as-is") {
            rounded_.emplace(decoder.shape(), decoder.element(), store);
        }
    }
    void append(std::size_t /*layer*/, std::span<const Feed> batch, std::span<std::byte> fused) override {
        decoder_.rotate_queries(batch, fused);
        decoder_.rotate_keys(batch, fused);
        if (rounded_) {
            rounded_->take(fused);
        }
    }
    std::optional<KeyAndValue> row(std::size_t, std::size_t, std::size_t position) const override {
        return rounded_ ? std::optional(rounded_->row(position)) : std::nullopt;
    }

private:
    const Decoder &decoder_;
    std::optional<RoundedPass> rounded_;
};

std::size_t best(std::span<const float> logits) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Adds a position, and returns how many of its logits differ.
std::size_t compare_logits(std::span<const float> actual, std::span<const float> expected, Comparison &total) {
    std::size_t differing = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        // Logits that are no numbers would prove nothing.
        const bool same = std::memcmp(&actual[i], &expected[i], sizeof(float)) == 0;
        differing += same && std::isfinite(expected[i]) ? 0U : 1U;
        total.largest_error = std::max(total.largest_error, std::fabs(actual[i] - expected[i]));
    }
    ++total.positions;
    total.same_tokens += best(actual) == best(expected) ? 1U : 0U;
    return differing;
}

// Gives the feeds their rows of a pass, and returns how many rows it then has.
std::size_t lay_out(std::span<Feed> feeds, bool packed) {
    std::size_t longest = 0;
    for (const Feed &feed : feeds) {
        longest = std::max(longest, feed.tokens.size());
    }
    std::size_t rows = 0;
    for (Feed &feed : feeds) {
        feed.row = rows;
        rows += packed ? feed.tokens.size() : longest;
    }
    return rows;
}

Phase finish(const Cache &cache, const Stopwatch &stopwatch) {
    return {cache.appended(), stopwatch.seconds(), cache.kernel()};
}

} // namespace

Generation generate(const Decoder &decoder, Cache &cache, const std::vector<Bytes> &prompts, std::size_t steps,
                    Progress &progress) {
    const Shape &shape = decoder.shape();
    const std::size_t batch = prompts.size();
    Generation result{};
    std::vector<Feed> feeds;
    for (const Bytes &prompt : prompts) {
        const std::size_t begin = cache.computed_from(feeds.size());
        result.samples.push_back({prompt, prompt.size(), {}});
        feeds.push_back({std::span(prompt).subspan(begin), begin, 0});
    }
    // Appends the logits of each sample's last fed token.
    const auto feed_all = [&](std::size_t rows, const Watch &watch) {
        cache.place(feeds);
        const std::vector<float> stream = decoder.forward(feeds, rows, cache, watch);
        for (std::size_t i = 0; i < batch; ++i) {
            const std::size_t last = feeds[i].row + feeds[i].tokens.size() - 1;
            const auto row = std::span(stream).subspan(last * shape.model, shape.model);
            const std::vector<float> logits = decoder.logits(row);
            result.samples[i].logits.insert(result.samples[i].logits.end(), logits.begin(), logits.end());
        }
    };

    const std::size_t prompt_rows = lay_out(feeds, cache.packed());
    cache.plan(prompt_rows);
    const Stopwatch prefill;
    feed_all(prompt_rows, [&](std::size_t done, std::size_t all) { progress("prefill", done, all); });
    result.prefill = finish(cache, prefill);

    cache.plan(batch);
    const Stopwatch generation;
    for (std::size_t step = 0; step < steps; ++step) {
        for (std::size_t i = 0; i < batch; ++i) {
            Sample &sample = result.samples[i];
            const auto last = std::span(sample.logits).last(shape.vocabulary);
            sample.tokens.push_back(static_cast<std::uint8_t>(best(last)));
            feeds[i] = {std::span(sample.tokens).last(1), sample.tokens.size() - 1, i};
        }
        feed_all(batch, [](std::size_t, std::size_t) {});
        progress("generation", step + 1, steps);
    }
    result.steps = finish(cache, generation);
    return result;
}

Comparison compare(const Decoder &decoder, const std::vector<Sample> &samples, std::string_view store,
                   Progress &progress) {
    const Shape &shape = decoder.shape();
    Comparison result;
    std::string first;
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < samples.size(); ++i) {
        const std::string what = "proof, sample " + std::to_string(i + 1) + " of " + std::to_string(samples.size());
        const auto watch = [&](std::size_t done, std::size_t all) { progress(what.c_str(), done, all); };
        const Sample &sample = samples[i];
        NoCache nothing(decoder, store);
        const Feed feed{sample.tokens, 0, 0};
        const std::vector<float> stream = decoder.forward({&feed, 1}, sample.tokens.size(), nothing, watch);
        for (std::size_t token = sample.prompt - 1; token < sample.tokens.size(); ++token) {
            const std::vector<float> expected =
                decoder.logits(std::span(stream).subspan(token * shape.model, shape.model));
            const std::size_t step = token + 1 - sample.prompt;
            const auto actual = std::span(sample.logits).subspan(step * shape.vocabulary, shape.vocabulary);
            const std::size_t differing = compare_logits(actual, expected, result);
            wrong += differing != 0 ? 1U : 0U;
            if (differing != 0 && first.empty()) {
                first = "first in sample " + std::to_string(i) + ", step " + std::to_string(step) + " (" +
                        std::to_string(differing) + " of " + std::to_string(shape.vocabulary) + " logits)";
            }
        }
    }
    if (wrong != 0) {
        result.difference = "the logits of " + std::to_string(wrong) + " of " + std::to_string(result.positions) +
                            " positions differ from those computed without a cache, " + first;
    }
    return result;
}
