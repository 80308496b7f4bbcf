// SPDX-License-Identifier: Apache-2.0
// Decodes text with libkvappend holding the KV caches, proves the result by computing it again without caches, and says
// what the appends cost.
#include "generate.hpp"
#include "options.hpp"
#include "report.hpp"
#include "reuse.hpp"

#include <CLI/CLI.hpp>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int exit_error = 1;
constexpr int exit_disproved = 2;

// What --store may name, except all.
std::vector<std::string> formats() {
    std::vector<std::string> names = store_names();
    names.insert(names.begin(), "as-is");
    return names;
}

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
    std::vector<std::string> stores = formats();
    stores.insert(stores.begin() + 1, "all");
    one_of("--store", options.store, "The format of the caches, or all for a table of all formats", std::move(stores));
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

void check_reuse(const Options &options, std::size_t longest_prompt) {
    if (!options.prefix_reuse) {
        return;
    }
    if (options.cache != "paged") {
        throw std::runtime_error("--prefix-reuse gathers rows by a page table, so it needs --cache paged, but --cache "
                                 "is " +
                                 options.cache);
    }
    if (options.store == "all") {
        throw std::runtime_error("--prefix-reuse needs one format, but --store is all");
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

Shape shape_of(const Options &options) {
    Shape shape;
    shape.layers = options.layers;
    if (options.cache == "ring") {
        shape.sinks = options.sink;
        shape.window = options.cache_rows - options.sink;
    }
    return shape;
}

bool is_disproved(const Served &served) {
    const Comparison &failed = served.reuse && served.proof.difference.empty() ? served.reuse->proof : served.proof;
    if (!failed.difference.empty()) {
        std::fprintf(stderr, "decode: %s\n", failed.difference.c_str());
        return true;
    }
    if (served.second && served.cache->contents() != served.second->contents()) {
        std::fprintf(stderr, "decode: the caches written by %s and %s differ\n", served.cache->kernel().c_str(),
                     served.second->kernel().c_str());
        return true;
    }
    return false;
}

// One format, or a table with a row for each. run() returns the exit status.
class Demonstration {
public:
    Demonstration(const Options &options, std::vector<Bytes> prompts)
        : options_(options), prompts_(std::move(prompts)), shape_(shape_of(options)),
          decoder_(shape_, element_named(options.element),
                   Rotary(options.rotary, shape_.k_dim, prompts_.front().size() + options.steps),
                   static_cast<std::uint64_t>(options.seed)),
          memory_(backend_memory(options.backend)), host_(host_memory()) {}

    int run() {
        if (options_.store == "all") {
            return run_all();
        }
        const Served served = serve(options_.store);
        if (is_disproved(served)) {
            return exit_disproved;
        }
        print(options_, shape_, served);
        return 0;
    }

private:
    int run_all() {
        print_head(options_, shape_);
        bool two_kernels = true;
        for (const std::string &store : formats()) {
            const Served served = serve(store);
            if (is_disproved(served)) {
                return exit_disproved;
            }
            print_row(options_, shape_, served);
            two_kernels = two_kernels && (!served.second || served.second->kernel() != served.cache->kernel());
        }
        print_proof(options_, two_kernels);
        return 0;
    }

    std::unique_ptr<Cache> make_cache(Memory &memory, const std::string &store) const {
        return std::make_unique<Cache>(
            memory, decoder_,
            placement_named(options_.cache, {options_.batch, options_.cache_rows, options_.sink, options_.page_rows}),
            options_.layout == "bhsd" ? AxisOrder::bhsd : AxisOrder::bshd, store);
    }

    Served serve(const std::string &store) const {
        Served served;
        served.store = store;
        served.cache = make_cache(*memory_, store);
        if (store != "as-is") {
            served.second = make_cache(*host_, store);
            served.cache->repeat_in(*served.second);
        }
        Progress progress(options_.store == "all" ? name_of(options_, store) : "");
        served.generation = generate(decoder_, *served.cache, prompts_, options_.steps, progress);
        served.proof = compare(decoder_, served.generation.samples, store, progress);
        served.exact =
            store == "as-is" ? served.proof : compare(decoder_, served.generation.samples, "as-is", progress);
        if (options_.prefix_reuse) {
            const std::unique_ptr<Cache> next = make_cache(*memory_, store);
            served.reuse = reuse_prefixes(decoder_, *served.cache, *next, prompts_, options_.steps, store, progress);
        }
        return served;
    }

    const Options &options_;
    std::vector<Bytes> prompts_;
    Shape shape_;
    Decoder decoder_;
    std::unique_ptr<Memory> memory_;
    std::unique_ptr<Memory> host_;
};

int decode(const Options &options) {
    std::vector<Bytes> prompts = cut_prompts(read_text(options.file), options.batch, options.prompt);
    check_rows(options, prompts.front().size() + options.steps); // The first prompt is the longest.
    check_rotary(options);
    check_reuse(options, prompts.front().size());
    const int status = Demonstration(options, std::move(prompts)).run();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
        throw std::runtime_error("cannot write to standard output");
    }
    return status;
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
