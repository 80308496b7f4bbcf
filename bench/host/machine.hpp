// SPDX-License-Identifier: Apache-2.0
// The machine and the programs that a measurement depends on.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

// Of the last level of cache, as far as this machine tells; 32 MiB where it does not.
std::size_t last_level_cache_bytes();

std::size_t memory_bytes();

// What to print, and to keep beside the figures: names and values.
std::vector<std::pair<std::string, std::string>> describe_machine();
