// SPDX-License-Identifier: Apache-2.0
// Second requests, whose prompts begin like those of the first ones. The rows of this prefix are gathered from the
// pages of the first requests, and only the rest of the prompt is computed.
#pragma once

#include "cache.hpp"
#include "generate.hpp"

#include <cstddef>
#include <string_view>
#include <vector>

struct Reuse {
    Gathered prefixes;
    Generation generation;
    Comparison proof; // with a run that computes the prefixes, too
};

// `first` has served `prompts`, and `second` is empty.
Reuse reuse_prefixes(const Decoder &decoder, Cache &first, Cache &second, const std::vector<Bytes> &prompts,
                     std::size_t steps, std::string_view store, Progress &progress);
