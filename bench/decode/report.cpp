// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <span>

namespace {

std::string escaped(std::span<const std::uint8_t> bytes) {
    std::string text;
    for (const std::uint8_t byte : bytes) {
        char code[5];
        std::snprintf(code, sizeof code, byte < 0x20 || byte > 0x7e ? "\\x%02x" : "%c", byte);
        text += byte == '\\' ? "\\\\" : code;
    }
    return text;
}

std::string rounded_to(const std::string &store) {
    return store == "as-is" ? "" : ", from rows rounded to " + store;
}

std::string caches(const Options &options) {
    std::string text = options.cache + " caches of " + std::to_string(options.cache_rows) + " rows";
    if (options.cache == "ring") {
        text += ", " + std::to_string(options.sink) + " of which stay";
    } else if (options.cache != "dense") {
        text += " in pages of " + std::to_string(options.page_rows);
    }
    return text + " (" + options.layout + ")";
}

void print_model(const Options &options, const Shape &shape) {
    std::printf("%zu samples, %zu layers, %zu K/V heads, rows of %zu (K) and %zu (V) %s, rotary %s\n", options.batch,
                shape.layers, shape.kv_heads, shape.k_dim, shape.v_dim, options.element.c_str(),
                options.rotary.c_str());
}

std::size_t token_bytes(const Options &options, const Shape &shape) {
    return shape.layers * shape.kv_heads * (shape.k_dim + shape.v_dim) * element_named(options.element).width;
}

void print_phase(const char *name, std::size_t steps, const Phase &phase) {
    const Appended &appended = phase.appended;
    const double seconds = std::accumulate(appended.seconds.begin(), appended.seconds.end(), 0.0);
    std::printf("%-10s %6zu %8zu %8zu %10zu %8.2f ms %9.2f%%\n", name, steps, appended.seconds.size(), appended.rows,
                appended.bytes, seconds * 1e3, seconds / phase.seconds * 100.0);
}

void print_store(const Options &options, const Shape &shape, const Served &served) {
    std::printf(
        "Compared with rows that are not rounded, the largest logit error is %.3g, and the most likely token is the\n"
        "same at %zu of %zu positions.\n",
        static_cast<double>(served.exact.largest_error), served.exact.same_tokens, served.exact.positions);
    std::printf("A token takes %zu bytes of cache with its scales, and would take %zu as %s.\n",
                served.cache->token_bytes(), token_bytes(options, shape), options.element.c_str());
    if (served.cache->kernel() == served.second->kernel()) {
        std::puts("There is no second kernel that could store the same bytes.");
    } else {
        std::printf("The caches written by %s and %s hold the same %zu bytes.\n", served.cache->kernel().c_str(),
                    served.second->kernel().c_str(), served.cache->contents().size());
    }
}

void print_reuse(const Served &served) {
    const Gathered &prefixes = served.reuse->prefixes;
    const Generation &generation = served.reuse->generation;
    const std::size_t gathered = prefixes.first_rows.back();
    std::size_t all = 0;
    for (const Sample &sample : generation.samples) {
        all += sample.prompt;
    }
    const double percent = 100 * static_cast<double>(gathered) / static_cast<double>(all);
    std::printf(
        "\nSecond requests: %zu prompts of %zu tokens in all, which begin with %zu tokens of the first prompts.\n",
        generation.samples.size(), all, gathered);
    std::printf("Of each layer, the rows of %zu tokens were gathered and those of %zu were computed: %.1f%% of the "
                "prefill was saved.\n",
                gathered, all - gathered, percent);
    std::printf("%s gathered %zu bytes in %.3f ms. The prefill took %.3f ms, and %.3f ms for the first requests.\n",
                prefixes.kernel.c_str(), prefixes.bytes, prefixes.seconds * 1e3, generation.prefill.seconds * 1e3,
                served.generation.prefill.seconds * 1e3);
    const bool stored = served.store != "as-is";
    if (stored) {
        std::printf("The gathered rows are those that attention reads from the pages: decoded from %s to f32.\n",
                    served.store.c_str());
    }
    std::printf("The logits of all %zu positions are bit-identical to those of a run that computes the prefix%s.\n",
                served.reuse->proof.positions, stored ? (" and rounds its rows to " + served.store).c_str() : "");
}

} // namespace

std::string name_of(const Options &options, const std::string &store) {
    return store == "as-is" ? options.element : store;
}

void print(const Options &options, const Shape &shape, const Served &served) {
    constexpr std::size_t shown = 48;
    const Sample &sample = served.generation.samples.front();
    const auto tokens = std::span(sample.tokens);
    const auto prompt = tokens.first(sample.prompt);
    const auto generated = tokens.subspan(sample.prompt);
    std::printf("sample 0: ...\"%s\" -> \"%s\"...\n", escaped(prompt.last(std::min(shown, prompt.size()))).c_str(),
                escaped(generated.first(std::min(shown, generated.size()))).c_str());
    print_model(options, shape);
    std::printf("%s, kernel %s\n\n", caches(options).c_str(), served.generation.steps.kernel.c_str());
    std::printf("%-10s %6s %8s %8s %10s %11s %10s\n", "", "steps", "appends", "rows", "bytes", "time", "of the run");
    print_phase("prefill", 1, served.generation.prefill);
    print_phase("generation", options.steps, served.generation.steps);
    std::printf("\nThere is one append for each layer and step%s.\n",
                options.rotary == "none" ? "" : ". It also rotates K and Q");
    std::printf("The logits of all %zu positions are bit-identical to those computed without a cache%s.\n",
                served.proof.positions, rounded_to(served.store).c_str());
    if (served.store != "as-is") {
        print_store(options, shape, served);
    }
    if (served.reuse) {
        print_reuse(served);
    }
}

void print_head(const Options &options, const Shape &shape) {
    print_model(options, shape);
    std::printf("%s\n\n", caches(options).c_str());
    std::printf("%-9s %11s %6s %12s %12s   %s\n", "stored as", "bytes/token", "size", "logit error", "same token",
                "proof");
    std::fflush(stdout);
}

void print_row(const Options &options, const Shape &shape, const Served &served) {
    const std::size_t bytes = served.cache->token_bytes();
    const double percent = 100 * static_cast<double>(bytes) / static_cast<double>(token_bytes(options, shape));
    const double same =
        100 * static_cast<double>(served.exact.same_tokens) / static_cast<double>(served.exact.positions);
    std::printf("%-9s %11zu %5.0f%% %12.3g %11.1f%%   all %zu logit vectors bit-identical\n",
                name_of(options, served.store).c_str(), bytes, percent, static_cast<double>(served.exact.largest_error),
                same, served.proof.positions);
    std::fflush(stdout);
}

void print_proof(const Options &options, bool two_kernels) {
    std::printf("\nlogit error: the largest one, compared with a computation from rows of %s\n"
                "same token:  how often the most likely token is that of this computation\n"
                "proof:       a computation without a cache and without libkvappend, from rows that are rounded to\n"
                "             the same format, gives the same bits\n",
                options.element.c_str());
    if (two_kernels) {
        std::puts("In each format, a second kernel stored the same bytes as the first.");
    }
}
