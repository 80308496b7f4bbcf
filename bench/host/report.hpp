// SPDX-License-Identifier: Apache-2.0
// What was measured: a table on the standard output as it grows, and JSON at the end.
#pragma once

#include "configuration.hpp"

#include <benchmark/benchmark.h>

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

class Report final : public benchmark::BenchmarkReporter {
public:
    using Description = std::vector<std::pair<std::string, std::string>>;

    Report(Description description, const std::vector<Configuration> &configurations);

    bool ReportContext(const Context &context) override;
    void ReportRuns(const std::vector<Run> &runs) override;

    // Cases that could not be measured, or whose bytes were wrong.
    std::size_t failures() const { return failures_; }
    // Throws std::runtime_error where the file cannot be written.
    void write_json(const std::string &path) const;

private:
    struct Result {
        const Configuration *configuration;
        std::string name;
        std::string kernel;
        double bytes;
        std::map<std::string, std::vector<double>> nanoseconds; // of each competitor in each repetition
    };

    void print_row(const Result &result, std::size_t library) const;

    Description description_;
    std::map<std::string, const Configuration *> configurations_; // by name
    std::size_t width_;                                           // of the longest name
    std::vector<Result> results_;
    std::size_t failures_ = 0;
};
