// SPDX-License-Identifier: Apache-2.0
// One call as the tests see it: a descriptor, arrays of indices, and blocks of memory in which the buffers lie.
#pragma once

#include <kvappend/kvappend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

enum TensorIndex {
    k_new,
    v_new,
    k_cache,
    v_cache,
    q_rows, // args.q
    q_out,
    tensor_count
};

// The buffers of a run, of which the first ones are the tensors. k_new and v_new are also the outputs of a gather.
constexpr std::size_t offsets_index = tensor_count;
constexpr std::size_t slots_index = offsets_index + 1;
constexpr std::size_t lengths_index = offsets_index + 2;
constexpr std::size_t left_pads_index = offsets_index + 3;
constexpr std::size_t batch_index_index = offsets_index + 4;
constexpr std::size_t page_table_index = offsets_index + 5;
constexpr std::size_t page_indptr_index = offsets_index + 6;
constexpr std::size_t token_samples_index = offsets_index + 7;
constexpr std::size_t token_positions_index = offsets_index + 8;
constexpr std::size_t token_count_index = offsets_index + 9;
constexpr std::size_t k_scales_index = offsets_index + 10;
constexpr std::size_t v_scales_index = offsets_index + 11;
constexpr std::size_t k_global_scale_index = offsets_index + 12;
constexpr std::size_t v_global_scale_index = offsets_index + 13;
constexpr std::size_t report_index = offsets_index + 14;
constexpr std::size_t from_slots_index = offsets_index + 15;
constexpr std::size_t rotary_cos_index = offsets_index + 16;
constexpr std::size_t rotary_sin_index = offsets_index + 17;
constexpr std::size_t positions_index = offsets_index + 18;
constexpr std::size_t q_scales_index = offsets_index + 19;
constexpr std::size_t buffer_count = offsets_index + 20;

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
    std::vector<std::int64_t> from_slots;
    std::vector<std::int64_t> lengths;
    std::vector<std::int64_t> left_pads;
    std::vector<std::int64_t> batch_index;
    std::vector<std::int64_t> page_table;
    std::vector<std::int64_t> page_indptr;
    std::vector<std::int64_t> token_samples;
    std::vector<std::int64_t> token_positions;
    std::vector<std::int64_t> token_count;
    std::vector<std::int64_t> positions;
    // How K and V are stored: what the pointers of the descriptor point to. Set by `store`.
    std::shared_ptr<const kvappend_storage> k_storage;
    std::shared_ptr<const kvappend_storage> v_storage;
    // How K and Q are rotated, and how Q is stored: what the pointers of the descriptor and of the rotation point to.
    // Set by `rotate`.
    std::shared_ptr<const kvappend_rotary> rotary;
    std::shared_ptr<const kvappend_storage> q_storage;
    float k_global_scale = 1;
    float v_global_scale = 1;
    // New rows, given scales and rotary tables are moderate numbers, and not random bits.
    bool tame = false;
    std::vector<std::size_t> block_bytes;
    BufferLocation locations[buffer_count]{};
    bool pass_sizes = true;
    // For indices which leave open what the rows of the caches hold: all other bytes are compared.
    bool caches_open = false;
    // For indices which leave open what becomes of rows at all: offsets that advance and the report are open, too.
    bool rows_open = false;

    bool gathers() const { return descriptor.operation == KVAPPEND_OPERATION_GATHER; }
    bool moves() const { return descriptor.operation == KVAPPEND_OPERATION_MOVE; }
    std::string text() const;
    void store_k(const kvappend_storage &storage) {
        k_storage = std::make_shared<kvappend_storage>(storage);
        descriptor.k_storage = k_storage.get();
    }
    void store_v(const kvappend_storage &storage) {
        v_storage = std::make_shared<kvappend_storage>(storage);
        descriptor.v_storage = v_storage.get();
    }
    void rotate(kvappend_rotary r) {
        q_storage = r.q_storage == nullptr ? nullptr : std::make_shared<kvappend_storage>(*r.q_storage);
        r.q_storage = q_storage.get();
        rotary = std::make_shared<kvappend_rotary>(r);
        descriptor.rotary = rotary.get();
    }
    // For the other operations, which do not rotate.
    void rotate_nothing() {
        descriptor.rotary = nullptr;
        descriptor.flags &= ~KVAPPEND_FLAG_POSITIONS;
    }
};

std::size_t element_bytes(std::int32_t element_type);

// Whether the descriptor asks for a buffer.
bool asks_for(const kvappend_descriptor &descriptor, std::size_t buffer);

// Bytes from the first to the last element of a tensor; 0 if it has no elements.
std::size_t tensor_bytes(const kvappend_descriptor &descriptor, TensorIndex tensor);

// Whether the scales of a cache are not the same for all rows, so that a move moves them.
bool scales_vary(const kvappend_descriptor &descriptor, TensorIndex cache);

// Bytes from the first to the last scale of a cache or of q_out; 0 if it has none.
std::size_t scales_bytes(const kvappend_descriptor &descriptor, TensorIndex cache);
constexpr std::size_t scales_index_of(TensorIndex cache) {
    return cache == k_cache ? k_scales_index : cache == v_cache ? v_scales_index : q_scales_index;
}

// Bytes of a buffer; 0 if the descriptor does not ask for it.
std::size_t buffer_bytes(const Scenario &scenario, std::size_t buffer);

// The arrays of indices, and which field of the descriptor says the type of their elements.
struct IndexArray {
    const char *name;
    std::size_t buffer;
    std::vector<std::int64_t> Scenario::*values;
    bool of_offset_type; // else of index_type

    std::size_t element_bytes(const kvappend_descriptor &d) const {
        return (of_offset_type ? d.offset_type == KVAPPEND_OFFSET_INT64 : d.index_type == KVAPPEND_INDEX_INT64) ? 8 : 4;
    }
};
constexpr IndexArray index_arrays[] = {{"cache_offsets", offsets_index, &Scenario::offsets, true},
                                       {"slots", slots_index, &Scenario::slots, true},
                                       {"from_slots", from_slots_index, &Scenario::from_slots, true},
                                       {"lengths", lengths_index, &Scenario::lengths, false},
                                       {"left_pads", left_pads_index, &Scenario::left_pads, false},
                                       {"batch_index", batch_index_index, &Scenario::batch_index, false},
                                       {"page_table", page_table_index, &Scenario::page_table, false},
                                       {"page_indptr", page_indptr_index, &Scenario::page_indptr, false},
                                       {"token_samples", token_samples_index, &Scenario::token_samples, false},
                                       {"token_positions", token_positions_index, &Scenario::token_positions, true},
                                       {"token_count", token_count_index, &Scenario::token_count, false},
                                       {"positions", positions_index, &Scenario::positions, true}};

// A scenario whose arrays do not fit its descriptor would be a fault of the test.
void require_entries(const Scenario &scenario);

// Gives every buffer a block of its own with `before` bytes before it and `after` bytes after it.
void place_apart(Scenario &scenario, std::size_t before, std::size_t after);

// Puts both rotary tables into one block, as one table [positions, cos | sin]. Its stride must be `dim` elements.
void join_tables(Scenario &scenario);

// Moves a tensor into another's block and places it a number of elements after that tensor's first element, as in a
// pool of K and V or a fused projection.
void share_block(Scenario &scenario, TensorIndex tensor, TensorIndex with, std::int64_t elements);

// A generator that depends on Catch2's seed alone, so that each test repeats by itself.
std::mt19937_64 seeded_random();
