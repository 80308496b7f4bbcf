// SPDX-License-Identifier: Apache-2.0
// One append as the tests see it: a descriptor, offsets, and blocks of memory in which the tensors lie. Running a case
// compares every byte of every block with what the plain reference says.
#pragma once

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

enum TensorIndex {
    k_new,
    v_new,
    k_cache,
    v_cache,
    tensor_count
};

// The five buffers of a run, of which the first four are the tensors.
constexpr std::size_t offsets_index = tensor_count;
constexpr std::size_t buffer_count = tensor_count + 1;

// The place of a buffer: its first element is `start` bytes into a block.
struct Place {
    std::size_t block;
    std::size_t start;
};

struct Case {
    kvappend_descriptor descriptor = KVAPPEND_DESCRIPTOR_INIT;
    std::string kernel; // forced if not empty
    std::vector<std::int64_t> offsets;
    std::vector<std::size_t> block_bytes;
    Place places[buffer_count]{};
    bool pass_sizes = true;

    std::string text() const;
};

std::size_t element_bytes(std::int32_t element_type);
std::size_t offset_bytes(std::int32_t offset_type);

// Bytes from the first to the last element of a tensor; 0 if it has no elements.
std::size_t tensor_bytes(const kvappend_descriptor &descriptor, TensorIndex tensor);

// Gives every buffer a block of its own with `before` bytes ahead of it and `after` behind.
void place_apart(Case &c, std::size_t before, std::size_t after);

// What the cache blocks hold after the append, one element at a time, by the definition alone.
void reference_append(const Case &c, std::vector<std::vector<unsigned char>> &blocks);

// Fills all blocks with random bytes, runs the case on the subject, and requires every byte of every block to be what
// the reference makes of them. Runs the same plan `runs` times, with new bytes each time.
void check_case(const Case &c, std::mt19937_64 &random, int runs = 1);

// A generator that depends on Catch2's seed alone, so that each test repeats by itself.
std::mt19937_64 seeded_random();
