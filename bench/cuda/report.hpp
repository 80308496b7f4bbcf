// SPDX-License-Identifier: Apache-2.0
// What was measured: a table on the standard output as it grows, and JSON at the end, of the host benchmark's form.
#pragma once

#include "session.hpp"

#include <string>
#include <utility>
#include <vector>

class Report {
public:
    using Description = std::vector<std::pair<std::string, std::string>>;

    Report(Description description, double copy_bandwidth, const std::vector<Configuration> &configurations);

    void add(const Configuration &configuration, const Result &result);
    void add_failure(const Configuration &configuration, const std::string &message) const;
    // Throws std::runtime_error where the file cannot be written.
    void write_json(const std::string &path) const;

private:
    struct Row {
        Configuration configuration;
        Result result;
    };

    Description description_;
    double copy_bandwidth_;
    int width_; // of the longest name
    std::vector<Row> rows_;
};
