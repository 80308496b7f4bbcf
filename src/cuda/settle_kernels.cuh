// SPDX-License-Identifier: Apache-2.0
// The kernels that run behind a copy. They find the place of each row once more, so that the copy need not know of
// them.
#pragma once

#include "../place.hpp"

#include <cuda_runtime.h>

namespace kvappend {

constexpr unsigned settle_threads = 128;

struct SettleParameters {
    Addressing addressing;
    Indices indices;
    std::int64_t source_batch;
    std::int64_t source_rows;
    void *offsets;
    kvappend_report *report;
};

__device__ inline std::uint64_t rows_in_all(const SettleParameters &p) {
    return static_cast<std::uint64_t>(p.source_batch) * static_cast<std::uint64_t>(p.source_rows);
}

__device__ inline Place place_of(const SettleParameters &p, std::uint64_t index) {
    const auto load = [](const auto *address) { return __ldg(address); };
    const Quotient at = divide(index, static_cast<std::uint64_t>(p.source_rows));
    return find_place(p.addressing, p.indices, static_cast<std::int64_t>(at.quotient),
                      static_cast<std::int64_t>(at.remainder), load);
}

__device__ inline void add(std::int64_t *counter, std::int64_t count) {
    if (count != 0) {
        atomicAdd(reinterpret_cast<unsigned long long *>(counter), static_cast<unsigned long long>(count));
    }
}

// One thread. A kernel like the others, because the first memset of a process may have to load something.
__global__ void __launch_bounds__(1) reset_report(const __grid_constant__ SettleParameters p) {
    auto *const words = reinterpret_cast<long long *>(p.report);
    for (std::size_t i = 1; i < sizeof(kvappend_report) / sizeof *words; ++i) { // Behind struct_size.
        __stcg(words + i, 0);
    }
}

// Counts the fates of all rows and finds the first that is astray, or traps on one. Rows are numbered in order, and
// state[0] is the greatest complement of such a number, 0 where there is none.
__global__ void __launch_bounds__(settle_threads, 8) count_rows(const __grid_constant__ SettleParameters p) {
    std::int64_t written = 0, replaced = 0, padding = 0, below = 0, above = 0;
    unsigned long long first = 0;
    const std::uint64_t rows = rows_in_all(p);
    const std::uint64_t step = std::uint64_t{gridDim.x} * blockDim.x;
    for (std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < rows; i += step) {
        const Fate fate = place_of(p, i).fate;
        written += fate == Fate::written ? 1 : 0;
        replaced += fate == Fate::replaced ? 1 : 0;
        padding += fate == Fate::padding ? 1 : 0;
        below += fate == Fate::below ? 1 : 0;
        above += fate == Fate::above ? 1 : 0;
        if (first == 0 && astray(fate)) {
            first = ~i;
        }
    }
    if (p.addressing.skip_policy == KVAPPEND_SKIP_TRAP) {
        if (first != 0) {
            __trap();
        }
        return;
    }
    add(&p.report->rows_written, p.addressing.has(KVAPPEND_FLAG_COUNT_WRITTEN) ? written : 0);
    add(&p.report->rows_replaced, replaced);
    add(&p.report->rows_padding, padding);
    add(&p.report->rows_below, below);
    add(&p.report->rows_above, above);
    if (first != 0) {
        atomicMax(reinterpret_cast<unsigned long long *>(&p.report->state[0]), first);
    }
}

// Says of the first row astray which it is, unless an earlier run had one. One thread; a launch of its own, because
// only when all of count_rows is done is it known which row is the first. state[1] is 1 once there has been one.
__global__ void __launch_bounds__(1) name_first(const __grid_constant__ SettleParameters p) {
    auto *const state = reinterpret_cast<long long *>(p.report->state);
    const long long first = __ldcg(state);
    if (first == 0) {
        return;
    }
    __stcg(state, 0);
    // What a report that was not zero at first holds may be the number of no row.
    const std::uint64_t index = ~static_cast<std::uint64_t>(first);
    if (__ldcg(state + 1) != 0 || index >= rows_in_all(p)) {
        return;
    }
    __stcg(state + 1, 1);
    const Place place = place_of(p, index);
    __stcg(reinterpret_cast<long long *>(&p.report->first_sample), place.sample);
    __stcg(reinterpret_cast<long long *>(&p.report->first_row), place.sample_row);
    __stcg(reinterpret_cast<long long *>(&p.report->first_position), reported_position(place));
}

// One thread a sample. A launch of its own: no other thread may still need the offsets.
__global__ void __launch_bounds__(settle_threads, 8) advance_offsets(const __grid_constant__ SettleParameters p) {
    const auto load = [](const auto *address) { return __ldcg(address); };
    const Addressing &a = p.addressing;
    const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
    for (std::int64_t sample = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; sample < a.batch; sample += step) {
        if (a.offset_bytes == 8) {
            auto *const offset = static_cast<long long *>(p.offsets) + sample;
            __stcg(offset, advanced_offset(a, p.indices, sample, __ldcg(offset), load));
        } else {
            auto *const offset = static_cast<int *>(p.offsets) + sample;
            __stcg(offset, static_cast<int>(advanced_offset(a, p.indices, sample, __ldcg(offset), load)));
        }
    }
}

} // namespace kvappend
