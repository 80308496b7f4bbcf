// SPDX-License-Identifier: Apache-2.0
// What the demonstration prints.
#pragma once

#include "cache.hpp"
#include "generate.hpp"
#include "options.hpp"
#include "reuse.hpp"

#include <memory>
#include <optional>
#include <string>

// What came of one format.
struct Served {
    std::string store;
    std::unique_ptr<Cache> cache;
    std::unique_ptr<Cache> second; // written by another kernel, or on the host; none for rows as they are
    Generation generation;
    Comparison proof; // with rows that are rounded in the same way
    Comparison exact; // with rows that are not rounded
    std::optional<Reuse> reuse;
};

// What a table calls the format.
std::string name_of(const Options &options, const std::string &store);

// One format in detail.
void print(const Options &options, const Shape &shape, const Served &served);

// A table of all formats: the head, a row for each, and what they prove.
void print_head(const Options &options, const Shape &shape);
void print_row(const Options &options, const Shape &shape, const Served &served);
void print_proof(const Options &options, bool two_kernels);
