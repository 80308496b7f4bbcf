// SPDX-License-Identifier: Apache-2.0
#include "reuse.hpp"

#include <algorithm>
#include <span>

namespace {

// Three quarters of a prompt, so that a prefix usually ends inside a page. At least one token remains, because the
// prefill must give logits.
std::span<const std::uint8_t> prefix_of(const Bytes &prompt) {
    return std::span(prompt).first(prompt.size() * 3 / 4);
}

// The same prefix, and then the rest of the first prompt backwards.
Bytes second_prompt(const Bytes &prompt) {
    Bytes result = prompt;
    std::reverse(result.begin() + static_cast<std::ptrdiff_t>(prefix_of(prompt).size()), result.end());
    return result;
}

} // namespace

Reuse reuse_prefixes(const Decoder &decoder, Cache &first, Cache &second, const std::vector<Bytes> &prompts,
                     std::size_t steps, std::string_view store, Progress &progress) {
    std::vector<Feed> prefixes;
    std::size_t rows = 0;
    for (const Bytes &prompt : prompts) {
        prefixes.push_back({prefix_of(prompt), 0, rows});
        rows += prefixes.back().tokens.size();
    }
    Reuse result{first.gather(prefixes, rows), {}, {}};
    second.begin_after(result.prefixes);
    std::vector<Bytes> second_prompts(prompts.size());
    std::transform(prompts.begin(), prompts.end(), second_prompts.begin(), second_prompt);
    result.generation = generate(decoder, second, second_prompts, steps, progress);
    result.proof = compare(decoder, result.generation.samples, store, progress);
    if (!result.proof.difference.empty()) {
        result.proof.difference = "of the second requests, " + result.proof.difference;
    }
    return result;
}
