// SPDX-License-Identifier: Apache-2.0
// What every backend offers: a table of kernels, and for each whether it serves a problem, how wide its accesses are,
// and how it is launched.
#pragma once

#include "failure.hpp"
#include "problem.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvappend {

class Crew;

// What a plan runs on. The host leaves all but the crew zero.
struct Target {
    int device;
    int architecture; // ten times the compute capability
    int multiprocessors;
    // The one that the kernels' code was compiled for, which is an older one where the driver had to translate it.
    int code_architecture;
    Crew *crew; // host: the plan's threads; NULL where it has none
};

struct Kernel {
    // Backend, operation and widest access, as in "cuda_dense_b16".
    const char *name;
    // The widest load or store in bytes; 0 where that is left to the C library.
    std::uint32_t access_bytes;
    // The least architecture that it runs on.
    int architecture;
    bool (*supports)(const Kernel &kernel, const Problem &problem);
    // Does what must not happen during a launch, such as loading machine code. Called once a plan.
    Status (*load)();
    // Copies, or arranges the copy in the stream. The buffers have been checked and there is something to copy.
    Status (*launch)(const Problem &problem, const Target &target, const kvappend_args &args, CUstream_st *stream);
};

// One of several appends of a call: what a plan consists of, and the buffers.
struct LayerAppend {
    const Problem *problem;
    const Target *target;
    const Kernel *kernel;
    const kvappend_args *args;
};

// The appends of one call, such as one a layer. They are asked for one at a time, as nothing may be allocated to hold
// them. All have been checked; those with nothing to copy are among them.
class Appends {
public:
    virtual std::size_t count() const = 0;
    // Valid until the next call.
    virtual LayerAppend at(std::size_t index) = 0;

protected:
    ~Appends() = default;
};

struct Backend {
    // In the order of preference.
    std::span<const Kernel> kernels;
    // Finds out what a plan created now would run on.
    Status (*open)(Target &target);
    // Does for launch_all and settle what a kernel's load does for its launch. Called once a plan.
    Status (*prepare)(const Problem &problem, Target &target);
    // Refuses a stream, or a device that is current now, which is not the plan's.
    Status (*enter)(const Target &target, CUstream_st *stream);
    // Several appends in as few launches as may be.
    Status (*launch_all)(Appends &appends, CUstream_st *stream);
    // Around a launch, for problems that settle. The first refuses a run whose rows the policy forbids, where the host
    // can know it; the second counts and traps; the third advances the offsets, which the second still needs.
    Status (*admit)(const Problem &problem, const kvappend_args &args);
    Status (*count)(const Problem &problem, const kvappend_args &args, CUstream_st *stream);
    Status (*advance)(const Problem &problem, const kvappend_args &args, CUstream_st *stream);
    // Brings memory that the backend can reach to the host, in the order of the stream, and waits for it.
    Status (*fetch)(void *to, const void *from, std::size_t bytes, CUstream_st *stream);
    // Starts threads that help those who run the plan, and ends them. NULL where a backend has no use for such.
    Status (*hire)(std::int32_t helpers, Target &target) = nullptr;
    void (*dismiss)(Target &target) = nullptr;
};

const Backend &host_backend();
const Backend &cuda_backend();

} // namespace kvappend
