// SPDX-License-Identifier: Apache-2.0
// The kernel that follows a copy. It finds the place of each row once more, so that the copy need not count.
#pragma once

#include "../place.hpp"
#include "layout.hpp"
#include "load.cuh"

#include <cuda_runtime.h>

namespace kvappend {

// The kernel has one block, because its threads must wait for each other. Offsets advance only after all rows have been
// counted. The first row that is out of range is also reported only after that.
constexpr unsigned most_after_threads = 1024;
// A move has two places for each row. Its kernel would spill some of the 64 registers that 1024 threads leave.
constexpr unsigned most_after_move_threads = 512;

struct AfterParameters {
    Addressing addressing;
    Indices indices;
    std::int64_t source_samples;
    std::int64_t rows_at_once; // consecutive rows that one thread counts
    void *offsets;
    kvappend_report *report;
    bool counts; // or traps
    bool resets;
    bool advances;
};

// A move never rotates rows.
template <bool Moves>
using AfterRule = Rule<Known{.never_rotates = Moves}>;

__device__ inline std::uint64_t number_of_rows(const AfterParameters &p) {
    return static_cast<std::uint64_t>(p.source_samples) * static_cast<std::uint64_t>(p.addressing.new_rows);
}

// All fields but struct_size, which is the caller's.
__device__ inline void reset(kvappend_report *report) {
    auto *const words = reinterpret_cast<long long *>(report);
    for (std::size_t i = 1; i < sizeof *report / sizeof *words; ++i) {
        __stcg(words + i, 0);
    }
}

struct Counts {
    std::int64_t placed, replaced, padding, below, above;
    // Rows are numbered in order. This is the complement of the number of the first row that is out of range, or 0.
    unsigned long long first;
};

// Counts the rows first <= i < end.
template <bool Moves>
__device__ inline void count_rows(const AfterParameters &p, const AfterRule<Moves> &rule, std::uint64_t first,
                                  std::uint64_t end, Counts &counts) {
    const std::int64_t new_rows = p.addressing.new_rows;
    const Quotient at = divide(first, static_cast<std::uint64_t>(new_rows));
    auto sample = static_cast<std::int64_t>(at.quotient);
    auto row = static_cast<std::int64_t>(at.remainder);
    while (first < end) {
        const auto place = place_of_row<Moves>(rule, sample, row, DeviceLoad{});
        std::int64_t rows = rows_alike(rule, place);
        rows = rows < new_rows - row ? rows : new_rows - row;
        const std::uint64_t left = end - first;
        rows = static_cast<std::uint64_t>(rows) < left ? rows : static_cast<std::int64_t>(left);
        counts.placed += place.outcome == Outcome::placed ? rows : 0;
        counts.replaced += place.outcome == Outcome::replaced ? rows : 0;
        counts.padding += place.outcome == Outcome::padding ? rows : 0;
        counts.below += place.outcome == Outcome::below ? rows : 0;
        counts.above += place.outcome == Outcome::above ? rows : 0;
        if (counts.first == 0 && out_of_range(place.outcome)) {
            counts.first = ~first;
        }
        first += static_cast<std::uint64_t>(rows);
        row += rows;
        if (row == new_rows) {
            row = 0;
            ++sample;
        }
    }
}

// Counts the rows of the calling thread.
template <bool Moves>
__device__ inline Counts count_rows(const AfterParameters &p, const AfterRule<Moves> &rule) {
    Counts counts{};
    const std::uint64_t rows = number_of_rows(p);
    const auto at_once = static_cast<std::uint64_t>(p.rows_at_once);
    for (std::uint64_t round = 0; round < rows; round += at_once * blockDim.x) {
        const std::uint64_t first = round + at_once * threadIdx.x;
        if (first < rows) {
            count_rows<Moves>(p, rule, first, at_once < rows - first ? first + at_once : rows, counts);
        }
    }
    return counts;
}

// Adds what the lanes of a warp have counted. All lanes must take part.
__device__ inline void add_of_warp(std::int64_t *counter, std::int64_t count) {
    if (__any_sync(all_lanes, count != 0 ? 1 : 0) == 0) {
        return;
    }
    auto sum = static_cast<unsigned long long>(count);
    for (int lanes = static_cast<int>(warp_lanes) / 2; lanes > 0; lanes /= 2) {
        sum += __shfl_down_sync(all_lanes, sum, lanes);
    }
    if (threadIdx.x % warp_lanes == 0) {
        atomicAdd(reinterpret_cast<unsigned long long *>(counter), sum);
    }
}

// state[0] is the greatest Counts::first of this run.
__device__ inline void add_to_report(const AfterParameters &p, const Counts &counts) {
    kvappend_report *const report = p.report;
    if (p.addressing.has(KVAPPEND_FLAG_COUNT_WRITTEN)) {
        add_of_warp(&report->rows_written, counts.placed);
    }
    add_of_warp(&report->rows_replaced, counts.replaced);
    add_of_warp(&report->rows_padding, counts.padding);
    add_of_warp(&report->rows_below, counts.below);
    add_of_warp(&report->rows_above, counts.above);
    if (counts.first != 0) {
        atomicMax(reinterpret_cast<unsigned long long *>(&report->state[0]), counts.first);
    }
}

// Reports the first row that is out of range, unless an earlier run had one. state[1] is 1 after a run that had one.
template <bool Moves>
__device__ inline void name_first(const AfterParameters &p, const AfterRule<Moves> &rule) {
    auto *const state = reinterpret_cast<long long *>(p.report->state);
    const long long first = __ldcg(state);
    if (first == 0) {
        return;
    }
    __stcg(state, 0);
    // A report that was not zero at first may hold a number that no row has.
    const std::uint64_t index = ~static_cast<std::uint64_t>(first);
    if (__ldcg(state + 1) != 0 || index >= number_of_rows(p)) {
        return;
    }
    __stcg(state + 1, 1);
    const Quotient at = divide(index, static_cast<std::uint64_t>(p.addressing.new_rows));
    const auto place = place_of_row<Moves>(rule, static_cast<std::int64_t>(at.quotient),
                                           static_cast<std::int64_t>(at.remainder), DeviceLoad{});
    __stcg(reinterpret_cast<long long *>(&p.report->first_sample), place.sample);
    __stcg(reinterpret_cast<long long *>(&p.report->first_row), place.sample_row);
    __stcg(reinterpret_cast<long long *>(&p.report->first_position), reported_position(place));
}

template <bool Moves>
__device__ inline void advance_offsets(const AfterParameters &p, const AfterRule<Moves> &rule) {
    for (std::int64_t i = threadIdx.x; i < p.addressing.offsets(); i += blockDim.x) {
        const std::int64_t offset = advanced_offset(rule, i, DeviceLoad{});
        if (p.addressing.wide_offsets != 0) {
            __stcg(static_cast<long long *>(p.offsets) + i, offset);
        } else {
            __stcg(static_cast<int *>(p.offsets) + i, static_cast<int>(offset));
        }
    }
}

template <bool Moves>
__device__ __forceinline__ void after_rows(const AfterParameters &p) {
    const AfterRule<Moves> rule{p.addressing, p.indices};
    if (p.counts) {
        const bool reports = p.addressing.skip_policy == KVAPPEND_SKIP_REPORT;
        if (threadIdx.x == 0 && p.resets) {
            reset(p.report);
        }
        const Counts counts = count_rows<Moves>(p, rule);
        __syncthreads(); // the report has been reset
        if (reports) {
            add_to_report(p, counts);
        } else if (counts.first != 0) {
            __trap();
        }
        __syncthreads(); // all rows have been counted
        if (reports && threadIdx.x == 0) {
            name_first<Moves>(p, rule);
        }
    }
    if (p.advances) {
        __syncthreads(); // all rows have been placed
        advance_offsets<Moves>(p, rule);
    }
}

// One block of whole warps.
__global__ void __launch_bounds__(most_after_threads) after_copy(const __grid_constant__ AfterParameters p) {
    after_rows<false>(p);
}

// The same for moves. One kernel for both would spill registers.
__global__ void __launch_bounds__(most_after_move_threads, 1) after_move(const __grid_constant__ AfterParameters p) {
    after_rows<true>(p);
}

} // namespace kvappend
