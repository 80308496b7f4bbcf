// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include "../host/json.hpp"
#include "../host/spread.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <stdexcept>

namespace {

using Times = std::map<std::string, std::vector<double>>;

constexpr std::span<const char *const> others = std::span(competitor_names).subspan(1);
constexpr const char *library = competitor_names[0];

constexpr struct {
    const char *name;
    Times Result::*times;
} timings[] = {{"stream", &Result::in_stream}, {"graph", &Result::by_graph}};

// How many times as fast as the other the library was, in each repetition.
Spread ratios(const Times &times, const char *other) {
    std::vector<double> values;
    std::ranges::transform(times.at(other), times.at(library), std::back_inserter(values), std::divides<>());
    return spread_of(std::move(values));
}

std::string name_of(const Configuration &configuration, const char *timing) {
    return configuration.name() + "/" + timing;
}

} // namespace

Report::Report(Description description, double copy_bandwidth, const std::vector<Configuration> &configurations)
    : description_(std::move(description)), copy_bandwidth_(copy_bandwidth), width_(0) {
    for (const Configuration &configuration : configurations) {
        width_ = std::max(width_, static_cast<int>(name_of(configuration, timings[0].name).size()));
    }
    char text[128];
    std::snprintf(text, sizeof text, "%.1f GB/s read and written, by cudaMemcpyAsync of far more than L2 holds",
                  copy_bandwidth / 1e9);
    description_.emplace_back("copy bandwidth", text);
    for (const auto &[name, value] : description_) {
        std::printf("%s: %s\n", name.c_str(), value.c_str());
    }
    std::printf(
        "\nTimes are medians of a call in microseconds, by events on the device. \"stream\": calls put in a stream one "
        "by "
        "one, so that the host\ncounts where it is slower than the device; \"graph\": the same calls captured and "
        "replayed. Warm: one behind the other, of the same\nbytes. Cold: each behind a fill of twice L2, with two "
        "events "
        "of its own, whose cost is in it, as \"empty\" shows, the time of a kernel\nthat does nothing. \"%%\": bytes "
        "read and written, of the copy bandwidth; warm ones may exceed it.\nA ratio is another's time by the "
        "library's, "
        "min < median < max of the repetitions: 1 is as fast, more is faster. \"memcpy\" copies as many\nbytes in one "
        "piece by cudaMemcpyAsync, which is the limit; \"elements\": two kernels, K then V, of one thread an element; "
        "\"batch\":\ncudaMemcpyBatchAsync, where it can, of as many pieces as there are; \"programmatic\": the library "
        "by "
        "programmatic dependent launch, one call behind\nthe other; \"layers\": by one launch for 32 layers, the time "
        "of "
        "one. Where another format is stored, memcpy reads and writes as many bytes in all. Pinned: all write to "
        "pinned "
        "host memory.\n\n");
    std::printf("%-*s %9s %7s %9s %6s", width_, "case", "bytes", "pieces", "us", "%");
    for (const char *const other : others) {
        std::printf("   %20s", (std::string("ratio to ") + other).c_str());
    }
    std::printf("  kernel\n");
}

void Report::add(const Configuration &configuration, const Result &result) {
    for (const auto &[timing, of] : timings) {
        const Times &times = result.*of;
        const double nanoseconds = spread_of(times.at(library)).median;
        const auto bytes = static_cast<double>(result.bytes);
        std::printf("%-*s %9zu %7zu %9.2f %6.1f", width_, name_of(configuration, timing).c_str(), result.bytes,
                    result.pieces, nanoseconds / 1e3, 100 * 2 * bytes / (nanoseconds * 1e-9) / copy_bandwidth_);
        for (const char *const other : others) {
            if (times.contains(other)) {
                const Spread ratio = ratios(times, other);
                std::printf("   %5.2f <%6.2f <%6.2f", ratio.least, ratio.median, ratio.most);
            } else {
                std::printf("   %20s", "-");
            }
        }
        std::printf("  %s\n", result.kernel.c_str());
    }
    std::fflush(stdout);
    rows_.push_back({configuration, result});
}

void Report::add_failure(const Configuration &configuration, const std::string &message) const {
    std::printf("%-*s failed: %s\n", width_, configuration.name().c_str(), message.c_str());
    std::fflush(stdout);
}

void Report::write_json(const std::string &path) const {
    std::ofstream file(path);
    file << "{\n\"machine\": {";
    for (std::size_t i = 0; i < description_.size(); ++i) {
        file << (i == 0 ? "\n  " : ",\n  ") << quoted(description_[i].first) << ": " << quoted(description_[i].second);
    }
    file << "\n},\n\"copy_bandwidth\": " << copy_bandwidth_ << ",\n\"cases\": [";
    const char *separator = "\n";
    for (const auto &[configuration, result] : rows_) {
        for (const auto &[timing, of] : timings) {
            file << separator << "  {\"name\": " << quoted(name_of(configuration, timing))
                 << ", \"model\": " << quoted(configuration.model->name)
                 << ", \"layout\": " << quoted(configuration.arrangement->name)
                 << ", \"format\": " << quoted(configuration.format == nullptr ? "" : configuration.format->name)
                 << ", \"phase\": " << quoted(::name_of(configuration.step->phase))
                 << ", \"batch\": " << configuration.step->batch << ", \"rows\": " << configuration.step->rows
                 << ", \"cold\": " << (configuration.cold ? "true" : "false")
                 << ", \"aligned\": " << (configuration.aligned ? "true" : "false")
                 << ", \"pinned\": " << (configuration.pinned ? "true" : "false") << ", \"timing\": " << quoted(timing)
                 << ", \"bytes\": " << result.bytes << ", \"pieces\": " << result.pieces
                 << ", \"kernel\": " << quoted(result.kernel);
            const Times &times = result.*of;
            for (const auto &[name, nanoseconds] : times) {
                file << ",\n   " << quoted(name + " ns") << ": " << json(nanoseconds);
            }
            for (const char *const other : others) {
                if (times.contains(other)) {
                    file << ",\n   " << quoted(std::string(library) + " to " + other) << ": "
                         << json(ratios(times, other));
                }
            }
            file << "}";
            separator = ",\n";
        }
    }
    file << "\n]\n}\n";
    file.close();
    if (!file) {
        throw std::runtime_error("cannot write " + path);
    }
}
