// SPDX-License-Identifier: Apache-2.0
// What one call appends or gathers, as the library is told of it and as the others need it: sizes, strides, indices.
#pragma once

#include "configuration.hpp"

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

// K or V. Distances are in bytes.
struct Rows {
    std::int64_t heads;
    std::size_t bytes; // of one head's row
    std::int64_t new_batch, new_head, new_row;
    std::int64_t block, head, row; // of the cache
};

struct Workload {
    kvappend_descriptor descriptor; // without pointers: see described()
    bool converts;
    kvappend_storage storage; // of K and of V, if it converts
    Rows k;
    Rows v;
    std::size_t element_bytes;
    std::size_t new_bytes; // K, and V behind it
    std::size_t v_new_at;
    std::size_t cache_bytes; // K, then V or both interleaved, then computed scales
    std::size_t k_cache_at;
    std::size_t v_cache_at;
    std::size_t k_scales_at;
    std::size_t v_scales_at;
    // A plain copy of this number of bytes reads and writes as many bytes in total as the call.
    std::size_t written_bytes;
    std::int64_t sequence_rows; // that a sample's cache has place for
    std::vector<std::int32_t> page_table;
    std::vector<std::int32_t> page_indptr;

    // The descriptor, which points to this workload.
    kvappend_descriptor described() const;
    bool gathers() const { return descriptor.operation == KVAPPEND_OPERATION_GATHER; }
    // An append reads new rows and writes caches, and a gather reads caches and writes rows of the same shape.
    std::size_t source_bytes() const { return gathers() ? cache_bytes : new_bytes; }
    std::size_t target_bytes() const { return gathers() ? new_bytes : cache_bytes; }
    // Sets the rows, the caches and the scales. The first number of an append's source is also the given or the global
    // scale.
    void set_buffers(const std::byte *source, std::byte *target, kvappend_args &args) const;
};

// Fills new rows, so that no byte is zero and each two bytes are a moderate number in all element types. These are
// converted as fast as usual numbers.
template <class Byte>
void fill_new_rows(std::span<Byte> rows, std::minstd_rand &random) {
    for (std::size_t i = 0; i + 1 < rows.size(); i += 2) {
        rows[i] = static_cast<Byte>(1 + random() % 255);
        rows[i + 1] = static_cast<Byte>(0x3f + random() % 2);
    }
}

// What differs from step to step.
struct Indices {
    std::vector<std::int64_t> places; // a position for each sample, or a slot for each token
    std::vector<std::int32_t> lengths;
};

// The caches have as many rows as fit in `most_cache_bytes`, up to 4096, and at least those of the step.
Workload make_workload(const Configuration &configuration, std::size_t most_cache_bytes);

// Samples stand at random positions.
Indices make_indices(const Workload &workload, const Step &step, std::minstd_rand &random);
