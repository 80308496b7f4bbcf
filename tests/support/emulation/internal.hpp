// SPDX-License-Identifier: Apache-2.0
// What the parts of the emulated runtime know of each other.
#pragma once

#include "emulation.hpp"

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace emulation::internal {

// ---- calls.cpp: how every function of the runtime begins and ends ----

enum class Needs {
    Nothing,
    Driver,
    Device // the current one, in working order
};
// Counts the call and answers with the error that stops it, if there is one.
cudaError_t enter(Call call, Needs needs);
// Makes a failure the calling thread's last error.
cudaError_t leave(cudaError_t error);

void forget_calls();

template <typename Body>
cudaError_t perform(Call call, Needs needs, Body body) {
    const cudaError_t error = enter(call, needs);
    return leave(error == cudaSuccess ? body() : error);
}

// ---- device.cpp ----

struct Device {
    std::atomic<int> major{9};
    std::atomic<int> minor{0};
    std::atomic<int> multiprocessors{132};
    std::atomic<cudaError_t> broken{cudaSuccess}; // the error that a fault left behind
};
Device &device(int index);
int device_count();
int driver_version();
// What belongs to a thread; reset() renews it when the thread comes by next.
struct Thread {
    std::uint64_t epoch = 0;
    int device = 0;
    cudaError_t last_error = cudaSuccess;
};
Thread &this_thread();

// ---- memory.cpp ----

struct Allocation {
    std::uintptr_t base = 0;
    std::size_t bytes = 0;
    int device = 0;
    bool pinned = false; // host memory, which the device reaches, too
    bool contains(std::uintptr_t address, std::size_t width) const {
        return address >= base && width <= bytes && address - base <= bytes - width;
    }
};
// The allocation that holds the address; one of 0 bytes if none does.
Allocation find_allocation(std::uintptr_t address);
// Changes whenever memory is freed, so that an allocation found earlier may be gone.
std::uint64_t memory_generation();

// ---- stream.cpp ----

// Something in a stream. An error that `run` returns breaks the device.
struct Work {
    int device;
    std::function<cudaError_t()> run;
};
struct Stream {
    Stream(int on_device, bool blocks) : device(on_device), blocking(blocks) {}
    const int device;
    const bool blocking; // waits for the default stream, and it for this one
    std::mutex mutex;    // of the queues, and held while work of the stream runs
    std::deque<Work> waiting;
    std::vector<Work> captured;
    std::atomic<cudaStreamCaptureStatus> capture{cudaStreamCaptureStatusNone};
    cudaStreamCaptureMode capture_mode{}; // this and the next belong to capture.cpp
    std::thread::id capture_thread;
};
cudaError_t find_stream(cudaStream_t handle, std::shared_ptr<Stream> &stream);
bool is_default_stream(cudaStream_t handle);
// Puts the work in the stream, or in the graph that is captured from it.
cudaError_t submit(Stream &stream, Work work);
// Runs what waits in all streams of the device; returns the error that the device is left with.
cudaError_t drain_device(int device);
void forget_work();

// ---- capture.cpp ----

// For calls that must not be made while a graph is captured: the error, having invalidated the captures it concerns.
cudaError_t refuse_during_capture();
// The same for uses of a default stream.
cudaError_t refuse_default_stream_during_capture(int device);
void forget_captures();

// ---- block.cpp ----

// Thrown through a kernel to end it.
struct Fault {
    cudaError_t error;
    std::string text;
};

// Goes through the indices of a grid or of a block.
class Walk {
public:
    Walk(dim3 extent, Order order) : extent_(extent), descending_(order == Order::Descending) {}
    bool more() const { return at_.z != extent_.z; }
    bool next(uint3 &index) {
        if (!more()) {
            return false;
        }
        index = descending_ ? uint3{extent_.x - 1 - at_.x, extent_.y - 1 - at_.y, extent_.z - 1 - at_.z} : at_;
        if (++at_.x == extent_.x) {
            at_.x = 0;
            if (++at_.y == extent_.y) {
                at_.y = 0;
                ++at_.z;
            }
        }
        return true;
    }
    void restart() { at_ = {}; }

private:
    dim3 extent_;
    bool descending_;
    uint3 at_{};
};

// Runs all threads of the block that blockIdx names, whose fault it throws.
void run_block(dim3 extent, Order order, const detail::ThreadBody &body);
// Whether the running thread has waited for the launch before.
extern constinit thread_local bool waited_for_launch_before;
std::string describe_index(uint3 index);
std::string running_thread(); // in words

// ---- execution.cpp ----

// Runs a kernel for every thread of a grid; returns the error of the access that ended it, if one did.
cudaError_t execute(int device, dim3 grid, dim3 block, bool programmatic, const detail::ThreadBody &body);
void forget_executions();

// ---- launch.cpp ----

void record_fault(const std::string &text);
void forget_launches(); // and their executions

} // namespace emulation::internal
