// SPDX-License-Identifier: Apache-2.0
// Measures the host backend on the shapes of published models, beside what it could be at best and what is written by
// hand.
#include "configuration.hpp"
#include "machine.hpp"
#include "report.hpp"
#include "session.hpp"

#include <CLI/CLI.hpp>
#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Options {
    bool brief = false;
    bool list = false;
    std::string filter;
    std::string json;
    int repetitions = 7;
    double seconds = 0.005;
};

void declare(CLI::App &app, Options &options) {
    app.add_flag("--short", options.brief, "A few cases only, which takes some 20 seconds");
    app.add_flag("--list", options.list,
                 "Only say what cases there are: name, heads, dimensions of K and of V, bytes of an element");
    app.add_option("--filter", options.filter, "Only cases whose name has a match of this regular expression");
    app.add_option("--json", options.json, "A file for all figures");
    app.add_option("--repetitions", options.repetitions, "How often each case is measured")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--seconds", options.seconds, "How long the library works in each repetition, at least")
        ->check(CLI::Range(0.0, 60.0))
        ->capture_default_str();
}

class Measurement final : public benchmark::Fixture {
public:
    Measurement(Session &session, const Configuration &configuration)
        : session_(session), configuration_(configuration) {
        SetName(configuration.name().c_str());
    }

protected:
    void BenchmarkCase(benchmark::State &state) override { session_.measure(state, configuration_); }

private:
    Session &session_;
    const Configuration &configuration_;
};

std::vector<Configuration> chosen_configurations(const Options &options) {
    const std::regex filter(options.filter);
    std::vector<Configuration> configurations = all_configurations(options.brief);
    std::erase_if(configurations,
                  [&](const Configuration &configuration) { return !std::regex_search(configuration.name(), filter); });
    if (configurations.empty()) {
        throw std::runtime_error("no case has a name with a match of " + options.filter);
    }
    return configurations;
}

int run(const Options &options, char *program) {
    const std::vector<Configuration> configurations = chosen_configurations(options);
    if (options.list) {
        for (const Configuration &configuration : configurations) {
            const Model &m = *configuration.model;
            std::printf("%s %lld %lld %lld %lld\n", configuration.name().c_str(), static_cast<long long>(m.heads),
                        static_cast<long long>(m.k_dim), static_cast<long long>(m.v_dim),
                        static_cast<long long>(element_bytes(configuration.element_type())));
        }
        return 0;
    }
    int count = 1;
    benchmark::Initialize(&count, &program); // Its own options would be second names of those here.
    Session session;
    for (const Configuration &configuration : configurations) {
        // Which takes it over.
        benchmark::internal::RegisterBenchmarkInternal(std::make_unique<Measurement>(session, configuration).release())
            ->UseManualTime()
            ->MinTime(options.seconds)
            ->Repetitions(options.repetitions);
    }
    Report::Description description = describe_machine();
    for (auto &line : session.describe()) {
        description.push_back(std::move(line));
    }
    Report report(std::move(description), configurations);
    benchmark::RunSpecifiedBenchmarks(&report, ".");
    if (!options.json.empty()) {
        report.write_json(options.json);
    }
    return report.failures() == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char **argv) {
    try {
        CLI::App app("Measures libkvappend's host backend, beside memcpy in one piece and row by row.");
        Options options;
        declare(app, options);
        try {
            app.parse(argc, argv);
        } catch (const CLI::ParseError &error) { // So --help ends, too.
            return app.exit(error) == 0 ? 0 : 1;
        }
        return run(options, argv[0]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "host: %s\n", error.what());
    }
    return 1;
}
