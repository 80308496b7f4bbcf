// SPDX-License-Identifier: Apache-2.0
// A ragged batch of prompts, cut from a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

using Bytes = std::vector<std::uint8_t>;

// The file's first 16 MiB at most, which also ends the reading of files that have no end. Throws std::runtime_error
// when it cannot be read or is empty.
Bytes read_text(const std::string &path);

// `batch` prompts of different lengths, the longest of `longest` bytes, from places spread over the text. A short text
// gives shorter prompts.
std::vector<Bytes> cut_prompts(const Bytes &text, std::size_t batch, std::size_t longest);
