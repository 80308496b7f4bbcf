// SPDX-License-Identifier: Apache-2.0
// The demonstration's command line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct Options {
    std::string file;
    std::string backend = "host";
    std::string element = "f32";
    std::string store = "as-is";
    std::string cache = "dense";
    std::string layout = "bhsd";
    std::string rotary = "half";
    std::size_t batch = 4;
    std::size_t prompt = 128;
    std::size_t steps = 64;
    std::size_t cache_rows = 512;
    std::size_t sink = 4;
    std::size_t page_rows = 16;
    std::size_t layers = 4;
    std::int64_t seed = 1;
    bool prefix_reuse = false;
};
