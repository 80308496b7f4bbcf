// SPDX-License-Identifier: Apache-2.0
// Decodes text with libkvappend holding the KV caches, proves the result by computing it again without caches, and says
// what the appends cost.
#include "generate.hpp"
#include "reuse.hpp"
#include "stopwatch.hpp"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int exit_error = 1;
constexpr int exit_disproved = 2;

struct Options {
    std::string file;
    std::string backend = "host";
    std::string element = "f32";
    std::string store = "as-is";
    std::string cache = "dense";
    std::string layout = "bhsd";
    std::string rotary = "half";
    std::size_t batch = 4;
    std::size_t prompt = 256;
    std::size_t steps = 192;
    std::size_t cache_rows = 512;
    std::size_t sink = 4;
    std::size_t page_rows = 16;
    std::size_t layers = 4;
    std::int64_t seed = 1;
    bool prefix_reuse = false;
};

void declare(CLI::App &app, Options &options) {
    app.add_option("FILE", options.file, "The text that the prompts are cut from")->required();
    const auto one_of = [&](const char *name, std::string &value, const char *help, std::vector<std::string> values) {
        app.add_option(name, value, help)->check(CLI::IsMember(std::move(values)))->capture_default_str();
    };
    const auto count = [&](const char *name, std::size_t &value, const char *help, int most, int least = 1) {
        app.add_option(name, value, help)->check(CLI::Range(least, most))->capture_default_str();
    };
    one_of("--backend", options.backend, "Where the caches are and the appends run", {"host", "cuda"});
    one_of("--element", options.element, "The type of the new rows", {"f32", "bf16", "f16", "f64"});
    std::vector<std::string> stores = store_names();
    stores.insert(stores.begin(), "as-is");
    one_of("--store", options.store, "The format of the caches", std::move(stores));
    one_of("--cache", options.cache, "How the caches are addressed; a ring is a sliding window",
           {"dense", "ring", "paged", "slots"});
    one_of("--layout", options.layout, "The axes of the caches: batch or page, head, row (s), dim", {"bhsd", "bshd"});
    one_of("--rotary", options.rotary,
           "The style of the rotary embedding; f64 requires none, because the library does not rotate it",
           {"half", "interleaved", "none"});
    count("--batch", options.batch, "Samples", 4096);
    count("--prompt", options.prompt, "Bytes of the longest prompt", 1 << 20);
    count("--steps", options.steps, "Tokens to generate for each sample", 1 << 20);
    count("--cache-rows", options.cache_rows, "Rows that the cache of a sample, or its part of a pool, holds", 1 << 24);
    count("--sink", options.sink, "Of these, rows that stay in a ring", 1 << 24, 0);
    count("--page-rows", options.page_rows, "Rows of a page, for paged and slots", 1 << 24);
    count("--layers", options.layers, "Layers of the decoder", 1024);
    app.add_flag("--prefix-reuse", options.prefix_reuse,
                 "Serve second requests, too, whose prompts begin like the first ones: gather the rows of that prefix "
                 "from the pages of the first requests (with --cache paged)");
    app.add_option("--seed", options.seed, "Seed of the weights")
        ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 62)) // CLI11 takes what is too large as the largest.
        ->capture_default_str();
}

std::unique_ptr<Memory> backend_memory(const std::string &name) {
    if (name == "host") {
        return host_memory();
    }
    return cuda_memory();
}

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// What two readings of the clock cost, which every measured time contains.
double clock_seconds() {
    std::vector<double> seconds(1000);
    std::generate(seconds.begin(), seconds.end(), [] { return Stopwatch().seconds(); });
    return median(std::move(seconds));
}

std::string escaped(std::span<const std::uint8_t> bytes) {
    std::string text;
    for (const std::uint8_t byte : bytes) {
        char code[5];
        std::snprintf(code, sizeof code, byte < 0x20 || byte > 0x7e ? "\\x%02x" : "%c", byte);
        text += byte == '\\' ? "\\\\" : code;
    }
    return text;
}

void print_phase(const char *name, std::size_t steps, const Phase &phase) {
    const Appended &appended = phase.appended;
    const std::size_t calls = appended.seconds.size();
    const double seconds = std::accumulate(appended.seconds.begin(), appended.seconds.end(), 0.0);
    const double gigabytes = static_cast<double>(appended.bytes) / static_cast<double>(calls) * 1e-9;
    const double rate = gigabytes / median(appended.seconds);
    std::printf("%-10s %6zu %7zu %9zu %11zu %10.3f %7.3f%% %8.2f", name, steps, calls, appended.rows, appended.bytes,
                seconds * 1e3, seconds / phase.seconds * 100.0, rate);
    const double memcpy_rate = gigabytes / median(appended.memcpy_seconds);
    std::printf(" %8.2f %6.2f\n", memcpy_rate, rate / memcpy_rate);
}

std::string caches(const Options &options) {
    std::string text = options.cache + " caches of " + std::to_string(options.cache_rows) + " rows";
    if (options.cache == "ring") {
        text += ", " + std::to_string(options.sink) + " of which stay";
    } else if (options.cache != "dense") {
        text += " in pages of " + std::to_string(options.page_rows);
    }
    return text;
}

void print(const Options &options, const Shape &shape, const Generation &generation) {
    constexpr std::size_t shown = 48;
    const Sample &sample = generation.samples.front();
    const auto tokens = std::span(sample.tokens);
    const auto prompt = tokens.first(sample.prompt);
    const auto generated = tokens.subspan(sample.prompt);
    std::printf("sample 0: ...\"%s\" -> \"%s\"...\n", escaped(prompt.last(std::min(shown, prompt.size()))).c_str(),
                escaped(generated.first(std::min(shown, generated.size()))).c_str());
    std::printf("%zu samples, %zu layers, %zu K/V heads, rows of %zu and %zu %s, rotary %s, %s (%s), kernel %s\n\n",
                options.batch, shape.layers, shape.kv_heads, shape.k_dim, shape.v_dim, options.element.c_str(),
                options.rotary.c_str(), caches(options).c_str(), options.layout.c_str(),
                generation.steps.kernel.c_str());
    std::printf("%-10s %6s %7s %9s %11s %10s %8s %8s %8s %6s\n", "", "steps", "appends", "rows", "bytes", "ms",
                "of all", "GB/s", "memcpy", "ratio");
    print_phase("prefill", 1, generation.prefill);
    print_phase("generation", options.steps, generation.steps);
    std::printf(
        "\nOne append a layer and step%s.\n"
        "GB/s is of the median call and counts a byte written to a cache once; memcpy (for CUDA cudaMemcpyAsync)\n"
        "copies as many bytes in one piece, after each append. Both contain the clock's %.0f ns.\n\n",
        options.rotary == "none" ? "" : ", which also rotates Q in place", clock_seconds() * 1e9);
    std::printf("The logits of all %zu positions are bit-identical to those computed without a cache%s.\n",
                generation.samples.size() * (options.steps + 1),
                options.store == "as-is" ? "" : (", from rows rounded to " + options.store).c_str());
}

void print_store(const Options &options, const Shape &shape, const Comparison &exact, const Cache &cache,
                 const Cache &second) {
    const std::size_t elements = shape.layers * shape.kv_heads * (shape.k_dim + shape.v_dim);
    std::printf(
        "Compared with rows that are not rounded, the largest logit error is %.3g, and the most likely token is the\n"
        "same at %zu of %zu positions.\n",
        static_cast<double>(exact.largest_error), exact.same_tokens, exact.positions);
    std::printf("A token takes %zu bytes of cache with its scales, and would take %zu as %s.\n", cache.token_bytes(),
                elements * element_named(options.element).width, options.element.c_str());
    if (cache.kernel() == second.kernel()) {
        std::puts("There is no second kernel that could store the same bytes.");
    } else {
        std::printf("The caches written by %s and %s hold the same %zu bytes.\n", cache.kernel().c_str(),
                    second.kernel().c_str(), cache.contents().size());
    }
}

void print_reuse(const Options &options, const Generation &first, const Reuse &reuse) {
    const Gathered &prefixes = reuse.prefixes;
    const Generation &generation = reuse.generation;
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
                first.prefill.seconds * 1e3);
    if (options.store != "as-is") {
        std::printf("The gathered rows are those that attention reads from the pages: decoded from %s to f32.\n",
                    options.store.c_str());
    }
    std::printf("The logits of all %zu positions are bit-identical to those of a run that computes the prefix%s.\n",
                reuse.proof.positions,
                options.store == "as-is" ? "" : (" and rounds its rows to " + options.store).c_str());
}

void check_reuse(const Options &options, std::size_t longest_prompt) {
    if (!options.prefix_reuse) {
        return;
    }
    if (options.cache != "paged") {
        throw std::runtime_error("--prefix-reuse gathers rows by a page table, so it needs --cache paged, but --cache "
                                 "is " +
                                 options.cache);
    }
    if (longest_prompt < 2) {
        throw std::runtime_error("--prefix-reuse needs a prompt of at least 2 bytes: a prefix and the rest");
    }
}

void check_rotary(const Options &options) {
    if (options.element == "f64" && options.rotary != "none") {
        throw std::runtime_error("rows of f64 are not rotated, so --element f64 needs --rotary none, but --rotary is " +
                                 options.rotary);
    }
}

void check_rows(const Options &options, std::size_t needed) {
    if (options.cache == "ring") {
        if (options.sink >= options.cache_rows) {
            throw std::runtime_error("--sink is " + std::to_string(options.sink) + ", but --cache-rows is " +
                                     std::to_string(options.cache_rows) + ": a ring needs more rows than stay");
        }
    } else if (needed > options.cache_rows) {
        throw std::runtime_error("the longest prompt and the steps need " + std::to_string(needed) +
                                 " cache rows, but --cache-rows is " + std::to_string(options.cache_rows));
    }
}

int decode(const Options &options) {
    const std::vector<Bytes> prompts = cut_prompts(read_text(options.file), options.batch, options.prompt);
    const std::size_t positions = prompts.front().size() + options.steps; // The first prompt is the longest.
    check_rows(options, positions);
    check_rotary(options);
    check_reuse(options, prompts.front().size());
    Shape shape;
    shape.layers = options.layers;
    if (options.cache == "ring") {
        shape.sinks = options.sink;
        shape.window = options.cache_rows - options.sink;
    }
    const Decoder decoder(shape, element_named(options.element), Rotary(options.rotary, shape.k_dim, positions),
                          static_cast<std::uint64_t>(options.seed));
    const std::unique_ptr<Memory> memory = backend_memory(options.backend);
    const auto make_cache = [&](Memory &where) {
        return std::make_unique<Cache>(
            where, decoder,
            placement_named(options.cache, {options.batch, options.cache_rows, options.sink, options.page_rows}),
            options.layout == "bhsd" ? AxisOrder::bhsd : AxisOrder::bshd, options.store);
    };
    const std::unique_ptr<Cache> cache = make_cache(*memory);
    const bool stored = options.store != "as-is";
    const std::unique_ptr<Memory> host = host_memory();
    const std::unique_ptr<Cache> second = stored ? make_cache(*host) : nullptr;
    if (stored) {
        cache->repeat_in(*second);
    }
    auto progress = std::make_unique<Progress>();
    const Generation generation = generate(decoder, *cache, prompts, options.steps, *progress);
    const Comparison proof = compare(decoder, generation.samples, options.store, *progress);
    const Comparison exact = stored ? compare(decoder, generation.samples, "as-is", *progress) : proof;
    std::optional<Reuse> reuse;
    if (options.prefix_reuse) {
        const std::unique_ptr<Cache> next = make_cache(*memory);
        reuse = reuse_prefixes(decoder, *cache, *next, prompts, options.steps, options.store, *progress);
    }
    progress.reset();
    const Comparison &failed = reuse && proof.difference.empty() ? reuse->proof : proof;
    if (!failed.difference.empty()) {
        std::fprintf(stderr, "decode: %s\n", failed.difference.c_str());
        return exit_disproved;
    }
    if (stored && cache->contents() != second->contents()) {
        std::fprintf(stderr, "decode: the caches written by %s and %s differ\n", cache->kernel().c_str(),
                     second->kernel().c_str());
        return exit_disproved;
    }
    print(options, shape, generation);
    if (stored) {
        print_store(options, shape, exact, *cache, *second);
    }
    if (reuse) {
        print_reuse(options, generation, *reuse);
    }
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
        throw std::runtime_error("cannot write to standard output");
    }
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    try {
        CLI::App app("Decodes text with libkvappend holding the KV caches, and proves that every logit is right.");
        Options options;
        declare(app, options);
        try {
            app.parse(argc, argv);
        } catch (const CLI::ParseError &error) { // So --help ends, too.
            return app.exit(error) == 0 ? 0 : exit_error;
        }
        return decode(options);
    } catch (const std::bad_alloc &) {
        std::fputs("decode: out of memory; fewer --cache-rows, --page-rows, --layers or a smaller --batch need less\n",
                   stderr);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "decode: %s\n", error.what());
    }
    return exit_error;
}
