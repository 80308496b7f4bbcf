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

    Report(Description description, double copy_bandwidth, const std::vector<Case> &cases);

    void add(const Case &c, const Result &result);
    void add_failure(const Case &c, const std::string &message) const;
    // Throws std::runtime_error where the file cannot be written.
    void write_json(const std::string &path) const;

private:
    struct Row {
        Case c;
        Result result;
    };

    Description description_;
    double copy_bandwidth_;
    int width_; // of the longest name
    std::vector<Row> rows_;
};
