// SPDX-License-Identifier: Apache-2.0
// Greedy generation with a cache, and the proof of it without one.
#pragma once

#include "cache.hpp"
#include "decoder.hpp"
#include "progress.hpp"
#include "prompts.hpp"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

struct Sample {
    Bytes tokens; // the prompt, then one token for each step
    std::size_t prompt;
    std::vector<float> logits; // [1 + steps, vocabulary]: of the prompt's last token, then of each step
};

// What came of one phase: the prefill, or all steps of the generation.
struct Phase {
    Appended appended;
    double seconds; // of everything
    std::string kernel;
};

struct Generation {
    std::vector<Sample> samples;
    Phase prefill;
    Phase steps;
};

Generation generate(const Decoder &decoder, Cache &cache, const std::vector<Bytes> &prompts, std::size_t steps,
                    Progress &progress);

// How the logits compare with those computed anew, each sample in one pass over its tokens, without caches and without
// libkvappend.
struct Comparison {
    std::size_t positions = 0;
    std::size_t same_tokens = 0; // positions at which the token to choose is the same
    float largest_error = 0;
    std::string difference; // "" if all logits are the same bytes, or else what differs
};

// `store` is how the rows are rounded that attention reads: one of store_names(), or "as-is".
Comparison compare(const Decoder &decoder, const std::vector<Sample> &samples, std::string_view store,
                   Progress &progress);
