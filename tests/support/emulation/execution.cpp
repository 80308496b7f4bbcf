// SPDX-License-Identifier: Apache-2.0
// Running a kernel for every block of a grid, one after the other, and checking each of its accesses.
#include "internal.hpp"

#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string_view>

namespace emulation {

namespace {

constexpr std::size_t widths = 5; // 1, 2, 4, 8 and 16 bytes

// That of blocks and of threads, unless a test sets another one. The blocks of a GPU run at once: what depends on their
// order fails in one of the two.
Order usual_order() {
    const char *const name = std::getenv("KVAPPEND_TEST_ORDER");
    return name != nullptr && std::string_view(name) == "descending" ? Order::Descending : Order::Ascending;
}

struct Totals {
    std::array<std::atomic<std::uint64_t>, widths> loads{};
    std::array<std::atomic<std::uint64_t>, widths> stores{};
    std::atomic<std::uint64_t> executions{0};
    std::atomic<std::uint64_t> most_blocks{0};
    std::atomic<Order> block_order{usual_order()};
    std::atomic<Order> thread_order{usual_order()};
};
Totals totals;

// The kernel that the calling thread is running.
struct Execution {
    bool running = false;
    int device = 0;
    bool programmatic = false;
    std::uint64_t generation = 0;                // of the memory when `found` was last empty
    std::array<internal::Allocation, 8> found{}; // what was accessed lately, to spare a search each time
    std::size_t oldest = 0;
    std::array<std::uint64_t, widths> loads{};
    std::array<std::uint64_t, widths> stores{};
};
constinit thread_local Execution execution{};

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

[[noreturn]] void refuse(cudaError_t error, const char *kind, std::uintptr_t address, std::size_t bytes,
                         const char *why) {
    std::array<char, 96> access{};
    std::snprintf(access.data(), access.size(), "%s of %zu bytes at 0x%zx, ", kind, bytes,
                  static_cast<std::size_t>(address));
    throw internal::Fault{error, std::string(access.data()) + why + ", by " + internal::running_thread()};
}

void check(const void *pointer, std::size_t bytes, const char *kind) {
    if (!execution.running) {
        throw std::logic_error("device memory accessed outside a kernel");
    }
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    if (execution.programmatic && !internal::waited_for_launch_before) {
        refuse(cudaErrorLaunchFailure, kind, address, bytes, "without waiting for the launch before");
    }
    if (address % bytes != 0) {
        refuse(cudaErrorMisalignedAddress, kind, address, bytes, "misaligned");
    }
    if (!reachable(address, bytes)) {
        refuse(cudaErrorIllegalAddress, kind, address, bytes, "not in memory of the device");
    }
}

std::size_t width_index(std::size_t bytes) {
    return static_cast<std::size_t>(std::countr_zero(bytes));
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
    internal::waited_for_launch_before = true;
}

void detail::trap() {
    throw internal::Fault{cudaErrorLaunchFailure, "trap, by " + internal::running_thread()};
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
        const Order thread_order = totals.thread_order;
        for (Walk walk(grid, totals.block_order); (most == 0 || blocks < most) && walk.next(blockIdx); ++blocks) {
            run_block(block, thread_order, body);
        }
        ++totals.executions;
    } catch (const Fault &fault) {
        record_fault(fault.text);
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
    totals.block_order = totals.thread_order = usual_order();
}

void set_most_blocks(std::uint64_t count) {
    totals.most_blocks = count;
}

void set_block_order(Order order) {
    totals.block_order = order;
}

void set_thread_order(Order order) {
    totals.thread_order = order;
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
