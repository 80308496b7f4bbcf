// SPDX-License-Identifier: Apache-2.0
// Running a kernel for every thread of a grid, one after the other, and checking each of its accesses.
#include "internal.hpp"

#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <stdexcept>

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace emulation {

namespace {

constexpr std::size_t widths = 5; // 1, 2, 4, 8 and 16 bytes

struct Totals {
    std::array<std::atomic<std::uint64_t>, widths> loads{};
    std::array<std::atomic<std::uint64_t>, widths> stores{};
    std::atomic<std::uint64_t> executions{0};
    std::atomic<std::uint64_t> most_blocks{0};
};
Totals totals;

// The kernel that the calling thread is running.
struct Execution {
    bool running = false;
    int device = 0;
    bool programmatic = false;
    bool waited = false;                         // the running thread, for the launch before
    std::uint64_t generation = 0;                // of the memory when `found` was last empty
    std::array<internal::Allocation, 8> found{}; // what was accessed lately, to spare a search each time
    std::size_t oldest = 0;
    std::array<std::uint64_t, widths> loads{};
    std::array<std::uint64_t, widths> stores{};
};
constinit thread_local Execution execution{};

// Thrown through a kernel to end it.
struct Fault {
    cudaError_t error;
    const char *kind;
    std::uintptr_t address;
    std::size_t bytes;
};

bool reachable(std::uintptr_t address, std::size_t bytes) {
    Execution &now = execution;
    if (const std::uint64_t generation = internal::memory_generation(); now.generation != generation) {
        now.found = {};
        now.generation = generation;
    }
    for (const internal::Allocation &allocation : now.found) {
        if (allocation.contains(address, bytes)) {
            return true;
        }
    }
    const internal::Allocation allocation = internal::find_allocation(address);
    if (!allocation.contains(address, bytes) || allocation.device != now.device) {
        return false;
    }
    now.found[now.oldest++ % now.found.size()] = allocation;
    return true;
}

void check(const void *pointer, std::size_t bytes, const char *kind) {
    if (!execution.running) {
        throw std::logic_error("device memory accessed outside a kernel");
    }
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    if (execution.programmatic && !execution.waited) {
        throw Fault{cudaErrorLaunchFailure, kind, address, bytes};
    }
    if (address % bytes != 0) {
        throw Fault{cudaErrorMisalignedAddress, kind, address, bytes};
    }
    if (!reachable(address, bytes)) {
        throw Fault{cudaErrorIllegalAddress, kind, address, bytes};
    }
}

std::size_t width_index(std::size_t bytes) {
    return static_cast<std::size_t>(std::countr_zero(bytes));
}

std::string describe(const Fault &fault) {
    std::array<char, 256> text{};
    std::snprintf(text.data(), text.size(), "%s of %zu bytes at 0x%zx, %s, by thread (%u,%u,%u) of block (%u,%u,%u)",
                  fault.kind, fault.bytes, static_cast<std::size_t>(fault.address),
                  fault.error == cudaErrorMisalignedAddress ? "misaligned"
                  : fault.bytes == 0                        ? "on purpose"
                  : fault.error == cudaErrorLaunchFailure   ? "without waiting for the launch before"
                                                            : "not in memory of the device",
                  threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z);
    return text.data();
}

template <typename Body>
void for_each(uint3 &index, dim3 extent, const Body &body) {
    for (index.z = 0; index.z < extent.z; ++index.z) {
        for (index.y = 0; index.y < extent.y; ++index.y) {
            for (index.x = 0; index.x < extent.x; ++index.x) {
                body();
            }
        }
    }
}

} // namespace

void detail::load(void *value, const void *address, std::size_t bytes) {
    check(address, bytes, "load");
    std::memcpy(value, address, bytes);
    ++execution.loads[width_index(bytes)];
}

void detail::store(void *address, const void *value, std::size_t bytes) {
    check(address, bytes, "store");
    std::memcpy(address, value, bytes);
    ++execution.stores[width_index(bytes)];
}

void detail::wait_for_launch_before() {
    execution.waited = true;
}

void detail::trap() {
    throw Fault{cudaErrorLaunchFailure, "trap", 0, 0};
}

cudaError_t internal::execute(int device, dim3 grid, dim3 block, bool programmatic, const detail::ThreadBody &body) {
    execution = {};
    execution.programmatic = programmatic;
    execution.running = true;
    execution.device = device;
    gridDim = grid;
    blockDim = block;
    cudaError_t error = cudaSuccess;
    try {
        std::uint64_t blocks = 0;
        const std::uint64_t most = totals.most_blocks;
        for_each(blockIdx, grid, [&] {
            if (most != 0 && blocks++ >= most) {
                return;
            }
            for_each(threadIdx, block, [&] {
                execution.waited = false;
                body();
            });
        });
        ++totals.executions;
    } catch (const Fault &fault) {
        record_fault(describe(fault));
        error = fault.error;
    }
    execution.running = false;
    for (std::size_t index = 0; index < widths; ++index) {
        totals.loads[index] += execution.loads[index];
        totals.stores[index] += execution.stores[index];
    }
    return error;
}

void internal::forget_executions() {
    for (std::size_t index = 0; index < widths; ++index) {
        totals.loads[index] = totals.stores[index] = 0;
    }
    totals.executions = 0;
    totals.most_blocks = 0;
}

void set_most_blocks(std::uint64_t count) {
    totals.most_blocks = count;
}

std::uint64_t executions() {
    return totals.executions;
}

std::uint64_t loads(std::size_t bytes) {
    return totals.loads.at(width_index(bytes));
}

std::uint64_t stores(std::size_t bytes) {
    return totals.stores.at(width_index(bytes));
}

} // namespace emulation
