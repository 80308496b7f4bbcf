// SPDX-License-Identifier: Apache-2.0
// How tests set up the emulated CUDA runtime and see what was done with it.
//
// Kernels and asynchronous copies wait in their stream until something synchronises with it; cudaFree does not. A
// kernel whose access a GPU would refuse, or whose threads wait for some that do not come, ends there, and its device
// answers every later call that needs the device with that error until reset(). Settings and counts are the process's;
// every function may be called from any thread, but reset() only while no other thread is inside the runtime.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulation {

// Back to the state at the start of the process: two devices of architecture 9.0, the driver of CUDA 13.0, all threads
// on device 0, all orders ascending, no kernel loaded, no fault, no failure to come, no work waiting, no capture, all
// counts 0. Memory, streams and graphs that are still alive stay so.
void reset();

// ---- the machine ----

constexpr int device_limit = 16;

void set_device_count(int count);
// As cudaDriverGetVersion says it: 0 means that there is no driver.
void set_driver_version(int version);
void set_architecture(int device, int major, int minor);
void set_multiprocessors(int device, int count);
// For which architecture the kernels were compiled, if not for the device's: then a driver translates their PTX.
void set_code_architecture(int architecture);
// A kernel runs for the first so many blocks of its grid alone, for grids that would take too long; 0: for all.
void set_most_blocks(std::uint64_t count);
// In which order the blocks of a grid run, and in which the threads of a block are started. A GPU promises neither.
enum class Order {
    Ascending,
    Descending
};
void set_block_order(Order order);
void set_thread_order(Order order);
// Launches are checked and counted, and then forgotten: for measuring what surrounds them.
void set_discard_launches(bool discard);

// ---- failures to order ----

// The runtime's functions: Call::Malloc is cudaMalloc, and so on.
enum class Call {
    // clang-format off
    GetLastError, PeekAtLastError, DriverGetVersion, RuntimeGetVersion,
    GetDeviceCount, GetDevice, SetDevice, DeviceGetAttribute, GetDeviceProperties, DeviceSynchronize,
    Malloc, Free, MallocHost, FreeHost, Memcpy, MemcpyAsync, MemcpyBatchAsync, Memset, MemsetAsync,
    StreamCreate, StreamCreateWithFlags, StreamDestroy, StreamSynchronize, StreamQuery,
    EventCreate, EventDestroy, EventRecord, EventElapsedTime,
    StreamBeginCapture, StreamEndCapture, StreamIsCapturing,
    GraphInstantiate, GraphLaunch, GraphDestroy, GraphExecDestroy,
    FuncGetAttributes, LaunchKernelEx
    // clang-format on
};
constexpr std::size_t call_count = static_cast<std::size_t>(Call::LaunchKernelEx) + 1;

// The next call of the function, or the one `skip` calls later, does nothing and returns the error.
void fail_next(Call call, cudaError_t error, int skip = 0);
// Every call does so.
void fail_always(Call call, cudaError_t error);
void clear_failures();

// ---- what was done ----

// Calls since reset(), the failing ones too. cudaGetErrorName and cudaGetErrorString are not counted.
std::uint64_t calls(Call call);
std::uint64_t total_calls();

struct Launch {
    const void *kernel = nullptr;
    dim3 grid, block;
    int device = 0;
    cudaStream_t stream = nullptr;
    bool programmatic = false; // with programmatic stream serialization
};

// Launches that cudaLaunchKernelEx accepted, into a capture too, and the latest of them.
std::uint64_t launches();
Launch last_launch();
// Kernels that have run to their end; each replay of a graph counts anew.
std::uint64_t executions();
// Launches of a kernel that had not been loaded on the device, by cudaFuncGetAttributes or an earlier launch.
std::uint64_t lazy_loads();

// Accesses by kernels so far, of one width in bytes: 1, 2, 4, 8 or 16.
std::uint64_t loads(std::size_t bytes);
std::uint64_t stores(std::size_t bytes);

// The latest fault that ended a kernel, in words; empty if there was none.
std::string last_fault();

std::size_t live_allocations();
std::size_t live_streams();

} // namespace emulation
