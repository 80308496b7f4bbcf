// SPDX-License-Identifier: Apache-2.0
// Measures the CUDA backend on the shapes of published models, beside what it could be at best, what is written by
// hand, and what CUDA offers. Ends with 77, which a test harness takes for "skipped", where there is no device.
#include "report.hpp"
#include "session.hpp"

#include <CLI/CLI.hpp>
#include <regex.h>

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int skipped = 77;

// An extended regular expression, as those of Google Benchmark.
class Pattern {
public:
    explicit Pattern(const std::string &text) {
        if (regcomp(&compiled_, text.c_str(), REG_EXTENDED | REG_NOSUB) != 0) {
            throw std::runtime_error(text + " is no regular expression");
        }
    }
    Pattern(const Pattern &) = delete;
    Pattern &operator=(const Pattern &) = delete;
    ~Pattern() { regfree(&compiled_); }
    bool matches(const std::string &text) const { return regexec(&compiled_, text.c_str(), 0, nullptr, 0) == 0; }

private:
    regex_t compiled_{};
};

struct Options {
    bool brief = false;
    bool list = false;
    std::string filter = ".";
    std::string json;
    std::size_t cache_mebibytes = 64;
    Settings settings{7, 0.001, 200, 0, 16384};
};

void declare(CLI::App &app, Options &options) {
    app.add_flag("--short", options.brief, "A few cases only");
    app.add_flag("--list", options.list, "Only the names of the cases");
    app.add_option("--filter", options.filter, "Only cases whose name has a match of this regular expression");
    app.add_option("--json", options.json, "A file for all figures");
    app.add_option("--repetitions", options.settings.repetitions, "How often each case is measured")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--seconds", options.settings.seconds, "How long calls work in each repetition, about")
        ->check(CLI::Range(0.0, 60.0))
        ->capture_default_str();
    app.add_option("--calls", options.settings.most_calls, "How many these calls are at most")
        ->check(CLI::Range(1, 10000))
        ->capture_default_str();
    app.add_option("--cache", options.cache_mebibytes, "MiB of the caches, at most, where the rows of a step allow it")
        ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 20))
        ->capture_default_str();
    app.add_option("--pieces", options.settings.most_pieces, "The most pieces that cudaMemcpyBatchAsync is given")
        ->capture_default_str();
}

// Gathers write to device memory, and once more to pinned host memory.
std::vector<Configuration> cases(bool brief, const Pattern &filter) {
    std::vector<Configuration> chosen;
    for (Configuration configuration : all_configurations(brief)) {
        for (const bool pinned : {false, true}) {
            configuration.pinned = pinned;
            if ((!pinned || configuration.gathers()) && filter.matches(configuration.name())) {
                chosen.push_back(configuration);
            }
        }
    }
    return chosen;
}

int run(Options options) {
    const std::vector<Configuration> configurations = cases(options.brief, Pattern(options.filter));
    if (configurations.empty()) {
        std::fprintf(stderr, "cuda: no case has a name with a match of %s\n", options.filter.c_str());
        return 1;
    }
    if (options.list) {
        for (const Configuration &configuration : configurations) {
            std::printf("%s\n", configuration.name().c_str());
        }
        return 0;
    }
    options.settings.cache_bytes = options.cache_mebibytes << 20;
    Session session(options.settings, configurations);
    Report report(session.describe(), session.copy_bandwidth(), configurations);
    std::size_t failures = 0;
    for (const Configuration &configuration : configurations) {
        try {
            report.add(configuration, session.measure(configuration));
        } catch (const std::exception &error) {
            report.add_failure(configuration, error.what());
            ++failures;
        }
    }
    if (!options.json.empty()) {
        report.write_json(options.json);
    }
    return failures == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char **argv) {
    try {
        CLI::App app("Measures libkvappend's CUDA backend, beside cudaMemcpyAsync, cudaMemcpyBatchAsync and kernels of "
                     "one thread an element.");
        Options options;
        declare(app, options);
        try {
            app.parse(argc, argv);
        } catch (const CLI::ParseError &error) { // So --help ends, too.
            return app.exit(error) == 0 ? 0 : 1;
        }
        return run(options);
    } catch (const NoDevice &reason) {
        std::printf("cuda: %s\n", reason.what());
        return skipped;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "cuda: %s\n", error.what());
    }
    return 1;
}
