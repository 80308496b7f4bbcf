// SPDX-License-Identifier: Apache-2.0
// One append as the tests see it: a descriptor, arrays of indices, and blocks of memory in which the buffers lie.
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

// The buffers of a run, of which the first four are the tensors.
constexpr std::size_t offsets_index = tensor_count;
constexpr std::size_t slots_index = offsets_index + 1;
constexpr std::size_t lengths_index = offsets_index + 2;
constexpr std::size_t left_pads_index = offsets_index + 3;
constexpr std::size_t batch_index_index = offsets_index + 4;
constexpr std::size_t page_table_index = offsets_index + 5;
constexpr std::size_t page_indptr_index = offsets_index + 6;
constexpr std::size_t report_index = offsets_index + 7;
constexpr std::size_t buffer_count = offsets_index + 8;

// Where a buffer lies: its first element is `start` bytes into a block of memory.
struct BufferLocation {
    std::size_t block;
    std::size_t start;
};

struct Scenario {
    kvappend_descriptor descriptor = KVAPPEND_DESCRIPTOR_INIT;
    std::string kernel; // forced if not empty
    std::int32_t host_threads = 0;
    // An array that the descriptor does not ask for is not passed, whatever its contents.
    std::vector<std::int64_t> offsets;
    std::vector<std::int64_t> slots;
    std::vector<std::int32_t> lengths;
    std::vector<std::int32_t> left_pads;
    std::vector<std::int32_t> batch_index;
    std::vector<std::int32_t> page_table;
    std::vector<std::int32_t> page_indptr;
    std::vector<std::size_t> block_bytes;
    BufferLocation locations[buffer_count]{};
    bool pass_sizes = true;
    // For indices which leave open what the rows of the caches hold: all other bytes are compared.
    bool caches_open = false;
    // For indices which leave open what becomes of rows at all: offsets that advance and the report are open, too.
    bool rows_open = false;

    std::string text() const;
};

std::size_t element_bytes(std::int32_t element_type);
std::size_t offset_bytes(std::int32_t offset_type);

// Whether the descriptor asks for a buffer.
bool asks_for(const kvappend_descriptor &descriptor, std::size_t buffer);

// Bytes from the first to the last element of a tensor; 0 if it has no elements.
std::size_t tensor_bytes(const kvappend_descriptor &descriptor, TensorIndex tensor);

// Bytes of a buffer; 0 if the descriptor does not ask for it.
std::size_t buffer_bytes(const Scenario &scenario, std::size_t buffer);

// The arrays of indices of int32. Offsets and slots are of the type that the descriptor says.
struct NarrowArray {
    std::size_t buffer;
    std::vector<std::int32_t> Scenario::*values;
};
constexpr NarrowArray narrow_arrays[] = {{lengths_index, &Scenario::lengths},
                                         {left_pads_index, &Scenario::left_pads},
                                         {batch_index_index, &Scenario::batch_index},
                                         {page_table_index, &Scenario::page_table},
                                         {page_indptr_index, &Scenario::page_indptr}};

// A scenario whose arrays do not fit its descriptor would be a fault of the test.
void require_entries(const Scenario &scenario);

// Gives every buffer a block of its own with `before` bytes before it and `after` bytes after it.
void place_apart(Scenario &scenario, std::size_t before, std::size_t after);

// Moves a tensor into another's block and places it a number of elements after that tensor's first element, as in a
// pool of K and V or a fused projection.
void share_block(Scenario &scenario, TensorIndex tensor, TensorIndex with, std::int64_t elements);

// A generator that depends on Catch2's seed alone, so that each test repeats by itself.
std::mt19937_64 seeded_random();
