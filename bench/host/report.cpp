// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include "competitor.hpp"
#include "json.hpp"
#include "spread.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace {

// How many times as fast as `other` `one` was, in each repetition.
Spread ratios(const std::vector<double> &one, const std::vector<double> &other) {
    std::vector<double> values;
    std::ranges::transform(other, one, std::back_inserter(values), std::divides<>());
    return spread_of(std::move(values));
}

std::span<const Entry> libraries() {
    return entries().first(library_entries);
}

std::span<const Entry> others() {
    return entries().subspan(library_entries);
}

} // namespace

Report::Report(Description description, const std::vector<Configuration> &configurations)
    : description_(std::move(description)), width_(0) {
    for (const Configuration &configuration : configurations) {
        width_ = std::max(width_, configuration.name().size());
        configurations_.emplace(configuration.name(), &configuration);
    }
}

bool Report::ReportContext(const Context & /*context*/) {
    for (const auto &[name, value] : description_) {
        std::printf("%s: %s\n", name.c_str(), value.c_str());
    }
    std::printf(
        "\nA ratio is another's time by the library's, min < median < max of the repetitions: 1 is as fast, more "
        "is faster.\n\"memcpy\" copies as many bytes in one piece, which is the limit; \"loop\" copies row by row "
        "as one writes it by hand.\nWhere another format is stored, memcpy reads and writes as many bytes in all, and "
        "\"plain C++\" is the library\nwithout instructions of its own for this processor. Times are medians of a "
        "call; a GB/s counts each copied byte once.\n\n");
    std::printf("%-*s %10s %11s %7s", static_cast<int>(width_), "case", "bytes", "ns", "GB/s");
    for (const Entry &other : others()) {
        std::printf("   %18s", (std::string("ratio to ") + other.name).c_str());
    }
    std::printf("  kernel\n");
    return true;
}

void Report::print_row(const Result &result, std::size_t library) const {
    const char *const name = libraries()[library].name;
    const std::vector<double> &times = result.nanoseconds.at(name);
    const double nanoseconds = spread_of(times).median;
    // Further ways of the library have rows of their own, below the first.
    const std::string label = library == 0 ? result.name : std::string("  ") + name;
    std::printf("%-*s %10.0f %11.1f %7.2f", static_cast<int>(width_), label.c_str(), result.bytes, nanoseconds,
                result.bytes / nanoseconds);
    for (const Entry &other : others()) {
        if (result.nanoseconds.contains(other.name)) {
            const Spread ratio = ratios(times, result.nanoseconds.at(other.name));
            std::printf("   %4.2f < %4.2f < %4.2f", ratio.least, ratio.median, ratio.most);
        } else {
            std::printf("   %18s", "-");
        }
    }
    std::printf("  %s\n", result.kernel.c_str());
}

void Report::ReportRuns(const std::vector<Run> &runs) {
    Result result{};
    for (const Run &run : runs) {
        if (run.run_type != Run::RT_Iteration) { // Google Benchmark's own means and deviations, of the library's time.
            return;
        }
        result.name = run.run_name.function_name;
        if (run.error_occurred) {
            ++failures_;
            std::printf("%-*s failed: %s\n", static_cast<int>(width_), result.name.c_str(), run.error_message.c_str());
            return;
        }
        result.kernel = run.report_label;
        result.bytes = run.counters.at("bytes");
        for (const Entry &entry : entries()) {
            if (run.counters.contains(entry.name)) {
                result.nanoseconds[entry.name].push_back(run.counters.at(entry.name));
            }
        }
    }
    result.configuration = configurations_.at(result.name);
    for (std::size_t library = 0; library < library_entries; ++library) {
        print_row(result, library);
    }
    std::fflush(stdout);
    results_.push_back(std::move(result));
}

void Report::write_json(const std::string &path) const {
    std::ofstream file(path);
    file << "{\n\"machine\": {";
    for (std::size_t i = 0; i < description_.size(); ++i) {
        file << (i == 0 ? "\n  " : ",\n  ") << quoted(description_[i].first) << ": " << quoted(description_[i].second);
    }
    file << "\n},\n\"cases\": [";
    const char *separator = "\n";
    for (const Result &result : results_) {
        const Configuration &configuration = *result.configuration;
        file << separator << "  {\"name\": " << quoted(result.name)
             << ", \"model\": " << quoted(configuration.model->name)
             << ", \"layout\": " << quoted(configuration.arrangement->name)
             << ", \"format\": " << quoted(configuration.format == nullptr ? "" : configuration.format->name)
             << ", \"phase\": " << quoted(name_of(configuration.step->phase))
             << ", \"batch\": " << configuration.step->batch << ", \"rows\": " << configuration.step->rows
             << ", \"cold\": " << (configuration.cold ? "true" : "false")
             << ", \"aligned\": " << (configuration.aligned ? "true" : "false")
             << ", \"bytes\": " << static_cast<std::int64_t>(result.bytes) << ", \"kernel\": " << quoted(result.kernel);
        for (const auto &[name, nanoseconds] : result.nanoseconds) {
            file << ",\n   " << quoted(name + " ns") << ": " << json(nanoseconds);
        }
        for (const Entry &library : libraries()) {
            for (const Entry &other : others()) {
                if (result.nanoseconds.contains(other.name)) {
                    file << ",\n   " << quoted(std::string(library.name) + " to " + other.name) << ": "
                         << json(ratios(result.nanoseconds.at(library.name), result.nanoseconds.at(other.name)));
                }
            }
        }
        file << "}";
        separator = ",\n";
    }
    file << "\n]\n}\n";
    file.close();
    if (!file) {
        throw std::runtime_error("cannot write " + path);
    }
}
