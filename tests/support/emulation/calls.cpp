// SPDX-License-Identifier: Apache-2.0
// How every function of the runtime begins and ends: counts, failures that a test ordered, errors that stick.
#include "internal.hpp"

#include <array>

namespace emulation {

namespace {

struct Record {
    std::atomic<std::uint64_t> count{0};
    std::atomic<cudaError_t> always{cudaSuccess};
    std::atomic<cudaError_t> next{cudaSuccess};
    std::atomic<int> skip{0};
};
std::array<Record, call_count> records;

Record &record(Call call) {
    return records[static_cast<std::size_t>(call)];
}

cudaError_t ordered_failure(Record &of) {
    if (of.next.load() != cudaSuccess && of.skip.fetch_sub(1) == 0) {
        return of.next.exchange(cudaSuccess);
    }
    return of.always.load();
}

} // namespace

cudaError_t internal::enter(Call call, Needs needs) {
    Record &of = record(call);
    of.count.fetch_add(1, std::memory_order_relaxed);
    if (const cudaError_t error = ordered_failure(of); error != cudaSuccess || needs == Needs::Nothing) {
        return error;
    }
    if (driver_version() < CUDART_VERSION) {
        return cudaErrorInsufficientDriver;
    }
    if (device_count() == 0) {
        return cudaErrorNoDevice;
    }
    if (needs == Needs::Driver) {
        return cudaSuccess;
    }
    const int current = this_thread().device;
    return current < device_count() ? device(current).broken.load() : cudaErrorInvalidDevice;
}

cudaError_t internal::leave(cudaError_t error) {
    // Work that is still waiting is an answer and no failure.
    if (error != cudaSuccess && error != cudaErrorNotReady) {
        this_thread().last_error = error;
    }
    return error;
}

void fail_next(Call call, cudaError_t error, int skip) {
    record(call).skip = skip;
    record(call).next = error;
}

void fail_always(Call call, cudaError_t error) {
    record(call).always = error;
}

void clear_failures() {
    for (Record &of : records) {
        of.next = of.always = cudaSuccess;
    }
}

std::uint64_t calls(Call call) {
    return record(call).count;
}

std::uint64_t total_calls() {
    std::uint64_t total = 0;
    for (const Record &of : records) {
        total += of.count;
    }
    return total;
}

namespace internal {

void forget_calls() {
    clear_failures();
    for (Record &of : records) {
        of.count = 0;
    }
}

} // namespace internal

} // namespace emulation

namespace {

cudaError_t last_error(bool clear) {
    emulation::internal::Thread &thread = emulation::internal::this_thread();
    const cudaError_t broken = emulation::internal::device(thread.device).broken;
    const cudaError_t error = broken != cudaSuccess ? broken : thread.last_error;
    if (clear) {
        thread.last_error = cudaSuccess;
    }
    return error;
}

} // namespace

cudaError_t cudaGetLastError() {
    const cudaError_t ordered =
        emulation::internal::enter(emulation::Call::GetLastError, emulation::internal::Needs::Nothing);
    return ordered != cudaSuccess ? ordered : last_error(true);
}

cudaError_t cudaPeekAtLastError() {
    const cudaError_t ordered =
        emulation::internal::enter(emulation::Call::PeekAtLastError, emulation::internal::Needs::Nothing);
    return ordered != cudaSuccess ? ordered : last_error(false);
}
