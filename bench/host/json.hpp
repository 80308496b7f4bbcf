// SPDX-License-Identifier: Apache-2.0
// What the reports of the benchmarks write as JSON.
#pragma once

#include "spread.hpp"

#include <cstdio>
#include <string>
#include <vector>

inline std::string quoted(const std::string &text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            result += '\\';
        }
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return result + '"';
}

inline std::string json(const Spread &spread) {
    char text[128];
    std::snprintf(text, sizeof text, R"({"min": %.4f, "median": %.4f, "max": %.4f})", spread.least, spread.median,
                  spread.most);
    return text;
}

inline std::string json(const std::vector<double> &values) {
    std::string text;
    for (const double value : values) {
        char number[32];
        std::snprintf(number, sizeof number, "%s%.2f", text.empty() ? "" : ", ", value);
        text += number;
    }
    return "[" + text + "]";
}
