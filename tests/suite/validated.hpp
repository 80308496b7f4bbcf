// SPDX-License-Identifier: Apache-2.0
// A call for validate to look at: its arrays of indices, and what must be found in them.
#pragma once

#include "held.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

// The initialisers allow naming only those that a test needs.
struct Indices {
    std::vector<std::int64_t> offsets{};
    std::vector<std::int64_t> slots{};
    std::vector<std::int64_t> lengths{};
    std::vector<std::int64_t> left_pads{};
    std::vector<std::int64_t> batch_index{};
    std::vector<std::int64_t> page_table{};
    std::vector<std::int64_t> page_indptr{};
    std::vector<std::int64_t> token_samples{};
    std::vector<std::int64_t> token_positions{};
    std::vector<std::int64_t> token_count{};
};

// What validate is to say. No words are expected of success.
struct Finding {
    kvappend_status status = KVAPPEND_SUCCESS;
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    std::string words;
};

inline Finding at_index(kvappend_status status, const char *array, std::int64_t index, std::int64_t value,
                        std::int64_t from, std::int64_t to) {
    Finding f;
    f.status = status;
    f.fault.array = array;
    f.fault.index = index;
    f.fault.value = value;
    f.words = std::string("args.") + array + "[" + std::to_string(index) + "] is " + std::to_string(value) +
              ": expected " + std::to_string(from) + " to " + std::to_string(to);
    return f;
}

inline Finding without_place(std::int64_t sample, std::int64_t row, std::int64_t position) {
    Finding f;
    f.status = KVAPPEND_ERROR_SKIPPED;
    f.fault.sample = sample;
    f.fault.row = row;
    f.fault.position = position;
    f.words = "row " + std::to_string(row) + " of sample " + std::to_string(sample) + " has the position " +
              std::to_string(position) + ", " + (position < 0 ? "below" : "above") + " the cache: expected a place";
    return f;
}

struct RowPosition {
    std::int64_t sample;
    std::int64_t row;
    std::int64_t position;
};

// The later row, the earlier one, and the place of both in the cache.
inline Finding doubled(RowPosition later, std::pair<std::int64_t, std::int64_t> earlier, std::int64_t block,
                       std::int64_t row) {
    Finding f;
    f.status = KVAPPEND_ERROR_DUPLICATE;
    f.fault.sample = later.sample;
    f.fault.row = later.row;
    f.fault.position = later.position;
    f.fault.other_sample = earlier.first;
    f.fault.other_row = earlier.second;
    f.words = "row " + std::to_string(earlier.second) + " of sample " + std::to_string(earlier.first) + " and row " +
              std::to_string(later.row) + " of sample " + std::to_string(later.sample) + " both go to row " +
              std::to_string(row) + " of block " + std::to_string(block) + " of the cache: expected a place of its own";
    return f;
}

// A status of run: the index arrays have no fault yet.
inline Finding refused(kvappend_status status, std::string words) {
    Finding f;
    f.status = status;
    f.words = std::move(words);
    return f;
}

// A plan and all buffers of a call, with contiguous tensors of f32.
class Validated {
public:
    // `new_elements`: of the new tensors, if they are not contiguous.
    Validated(const kvappend_descriptor &d, const Indices &indices, std::int64_t new_elements = 0);

    const kvappend_plan *plan() const { return plan_.get(); }
    kvappend_status validate(kvappend_fault *fault) const {
        return kvappend_plan_validate(plan(), &args, workspace, workspace_bytes, stream, fault);
    }
    void check(const Finding &expected) const;
    // For a status that comes but once: one call, and without a look at the buffers.
    void check_once(const Finding &expected) const;
    void check_good() const { check({}); }
    // Every byte of every buffer is what it was at the start.
    bool untouched() const;

    kvappend_args args = KVAPPEND_ARGS_INIT;
    void *workspace = nullptr;
    std::size_t workspace_bytes = 0;
    CUstream_st *stream = subject().stream();

private:
    using Bytes = std::vector<unsigned char>;

    template <class T>
    T *hold(const std::vector<T> &contents, std::size_t &bytes) {
        const auto *const begin = reinterpret_cast<const unsigned char *>(contents.data());
        contents_.emplace_back(begin, begin + contents.size() * sizeof(T));
        held_.push_back(std::make_unique<Held<unsigned char>>(contents_.back()));
        bytes = held_.back()->bytes();
        return reinterpret_cast<T *>(held_.back()->data());
    }
    void *hold_indices(bool wide, const std::vector<std::int64_t> &contents, std::size_t &bytes) {
        if (wide) {
            return hold(contents, bytes);
        }
        std::vector<std::int32_t> narrow;
        for (const std::int64_t value : contents) {
            narrow.push_back(static_cast<std::int32_t>(value));
        }
        return hold(narrow, bytes);
    }

    PlanPointer plan_;
    std::vector<Bytes> contents_;
    std::vector<std::unique_ptr<Held<unsigned char>>> held_;
};
