// SPDX-License-Identifier: Apache-2.0
#include "generate.hpp"

#include "stopwatch.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <span>

namespace {

// Attention reads K and V where the projection of the same pass put them.
class PassRows final : public RowStore {
public:
    explicit PassRows(const Decoder &decoder) : decoder_(decoder) {}
    void append(std::size_t, std::span<const std::byte> fused) override { fused_ = fused; }
    KeysAndValues rows(std::size_t, std::size_t) const override {
        const Shape &shape = decoder_.shape();
        const std::size_t width = decoder_.element().width;
        return {{fused_.data() + shape.k_begin() * width, shape.k_dim, shape.fused()},
                {fused_.data() + shape.v_begin() * width, shape.v_dim, shape.fused()}};
    }

private:
    const Decoder &decoder_;
    std::span<const std::byte> fused_;
};

Phase finish(const Cache &cache, const Stopwatch &stopwatch) {
    const double seconds = stopwatch.seconds();
    const Appended &appended = cache.appended();
    const std::vector<double> &memcpy_seconds = appended.memcpy_seconds;
    return {appended, std::accumulate(memcpy_seconds.begin(), memcpy_seconds.end(), seconds, std::minus<>()),
            cache.kernel()};
}

} // namespace

Generation generate(const Decoder &decoder, Cache &cache, const std::vector<Bytes> &prompts, std::size_t steps,
                    Progress &progress) {
    const Shape &shape = decoder.shape();
    const std::size_t batch = prompts.size();
    Generation result{};
    std::vector<Feed> feeds;
    std::size_t longest = 0;
    for (const Bytes &prompt : prompts) {
        result.samples.push_back({prompt, prompt.size(), {}});
        feeds.push_back({prompt, 0});
        longest = std::max(longest, prompt.size());
    }
    std::vector<std::int64_t> offsets(batch, 0);
    // Appends the logits of each sample's last fed token.
    const auto feed_all = [&](std::size_t padded) {
        cache.move_to(offsets);
        const std::vector<float> stream = decoder.forward(feeds, cache);
        for (std::size_t i = 0; i < batch; ++i) {
            const std::size_t last = i * padded + feeds[i].tokens.size() - 1;
            const auto row = std::span(stream).subspan(last * shape.model, shape.model);
            const std::vector<float> logits = decoder.logits(row);
            result.samples[i].logits.insert(result.samples[i].logits.end(), logits.begin(), logits.end());
            offsets[i] += static_cast<std::int64_t>(feeds[i].tokens.size());
        }
    };

    // Shorter prompts are padded, and so their caches hold garbage beyond them. Nothing reads it before the rows of the
    // generated tokens overwrite it.
    progress("prefill", 0, 1);
    cache.plan(longest);
    const Stopwatch prefill;
    feed_all(longest);
    result.prefill = finish(cache, prefill);

    cache.plan(1);
    const Stopwatch generation;
    for (std::size_t step = 0; step < steps; ++step) {
        for (std::size_t i = 0; i < batch; ++i) {
            Sample &sample = result.samples[i];
            const auto last = std::span(sample.logits).last(shape.vocabulary);
            const auto best = std::max_element(last.begin(), last.end()) - last.begin();
            sample.tokens.push_back(static_cast<std::uint8_t>(best));
            feeds[i] = {std::span(sample.tokens).last(1), sample.tokens.size() - 1};
        }
        feed_all(1);
        progress("generation: step", step + 1, steps);
    }
    result.steps = finish(cache, generation);
    return result;
}

std::string disprove(const Decoder &decoder, const std::vector<Sample> &samples, Progress &progress) {
    const Shape &shape = decoder.shape();
    std::string first;
    std::size_t wrong = 0;
    std::size_t compared = 0;
    for (std::size_t i = 0; i < samples.size(); ++i) {
        progress("recomputation: sample", i, samples.size());
        const Sample &sample = samples[i];
        PassRows rows(decoder);
        const Feed feed{sample.tokens, 0};
        const std::vector<float> stream = decoder.forward({&feed, 1}, rows);
        for (std::size_t token = sample.prompt - 1; token < sample.tokens.size(); ++token) {
            const std::vector<float> expected =
                decoder.logits(std::span(stream).subspan(token * shape.model, shape.model));
            const std::size_t step = token + 1 - sample.prompt;
            const auto actual = std::span(sample.logits).subspan(step * shape.vocabulary, shape.vocabulary);
            std::size_t differing = 0;
            for (std::size_t j = 0; j < shape.vocabulary; ++j) {
                // Logits that are no numbers would prove nothing.
                const bool same = std::memcmp(&actual[j], &expected[j], sizeof(float)) == 0;
                differing += same && std::isfinite(expected[j]) ? 0U : 1U;
            }
            ++compared;
            wrong += differing != 0 ? 1U : 0U;
            if (differing != 0 && first.empty()) {
                first = "first in sample " + std::to_string(i) + ", step " + std::to_string(step) + " (" +
                        std::to_string(differing) + " of " + std::to_string(shape.vocabulary) + " logits)";
            }
        }
    }
    if (wrong == 0) {
        return "";
    }
    return "the logits of " + std::to_string(wrong) + " of " + std::to_string(compared) +
           " positions differ from those computed without a cache, " + first;
}
