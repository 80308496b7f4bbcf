// SPDX-License-Identifier: Apache-2.0
// What a backend is: a table of kernels, and how plans and runs use it.
#pragma once

#include "problem.hpp"
#include "status.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace kvappend {

// A kernel, described by data. The selection of a kernel, the tests and the benchmarks read tables of these.
struct Kernel {
    // How rows are found.
    enum class Family : std::uint8_t {
        dense,   // plain dense problems (Problem::plain_dense), whose rows are copied in runs
        rows,    // every problem that copies bits, row by row
        convert, // every append or gather with a cache in another format, unless it rotates rows
        rotate   // every append that rotates rows
    };
    // What distinguishes it from the plain kernel of its family. On CUDA a plain kernel serves one call with 31-bit
    // indices.
    enum class Variant : std::uint8_t {
        plain,
        avx,    // host: moves of 32 bytes, by AVX
        avx2,   // host: conversions by AVX2
        layers, // CUDA: several calls in one launch
        wide    // CUDA: indices and strides of 64 bits
    };

    std::int32_t backend; // KVAPPEND_BACKEND_*
    Operation operation;
    Family family;
    Variant variant;
    std::uint32_t access_bytes; // the widest load or store; 0 for the kernels of the host
    std::int32_t architecture;  // the oldest that it runs on: ten times the compute capability

    constexpr bool operator==(const Kernel &) const = default;
};

// A kernel and its name, such as "cuda_gather_dense_layers_b16", which is made from the data.
struct NamedKernel : Kernel {
    std::array<char, 32> name{};

    constexpr explicit NamedKernel(const Kernel &kernel) : Kernel(kernel) {
        std::size_t length = 0;
        const auto append = [&](const char *text) {
            while (*text != 0) {
                name[length++] = *text++;
            }
        };
        append(backend == KVAPPEND_BACKEND_HOST ? "host" : "cuda");
        append(operation == Operation::gather ? "_gather" : operation == Operation::move ? "_move" : "");
        append(family == Family::dense     ? "_dense"
               : family == Family::rows    ? "_rows"
               : family == Family::convert ? "_convert"
                                           : "_rotate");
        append(variant == Variant::avx      ? "_avx"
               : variant == Variant::avx2   ? "_avx2"
               : variant == Variant::layers ? "_layers"
               : variant == Variant::wide   ? "_wide"
                                            : "");
        append(access_bytes == 16 ? "_b16" : "");
    }
};

// What a backend keeps for a plan.
class BackendState {
public:
    BackendState() = default;
    BackendState(const BackendState &) = delete;
    BackendState &operator=(const BackendState &) = delete;
    virtual ~BackendState() = default;

    // The device, and ten times its compute capability. The host has 0 for both.
    virtual std::int32_t device() const { return 0; }
    virtual std::int32_t architecture() const { return 0; }
};

// One call: what its plan consists of, and the buffers. The buffers have been checked, and there is something to move.
struct Call {
    const Problem &problem;
    const NamedKernel &kernel;
    const BackendState &state;
    const kvappend_args &args;

    // The rows of K or of V: new ones, which a run only reads, or those that a gather writes.
    std::byte *rows(bool of_k) const {
        const void *const given =
            problem.gathers() ? (of_k ? args.k_out : args.v_out) : (of_k ? args.k_new : args.v_new);
        return static_cast<std::byte *>(const_cast<void *>(given));
    }
    std::byte *cache(bool of_k) const { return static_cast<std::byte *>(of_k ? args.k_cache : args.v_cache); }
};

// The calls of several layers. They are added one after the other, and a backend may combine them into fewer launches.
class LayeredRun {
public:
    LayeredRun() = default;
    LayeredRun(const LayeredRun &) = delete;
    LayeredRun &operator=(const LayeredRun &) = delete;

    virtual Status add(const Call &call) = 0;
    // Launches all added calls that have not been launched yet.
    virtual Status finish() = 0;

protected:
    ~LayeredRun() = default;
};

// Memory for a LayeredRun on the caller's stack, because a run allocates nothing.
struct LayeredRunStorage {
    struct Part {
        alignas(16) std::byte bytes[6144];
    };
    Part copies;
    Part conversions; // which is used only if one of the calls converts
    Part rotations;   // which is used only if one of the calls rotates
};

// What is known of all problems of a run of several layers.
struct LayersKind {
    bool all_dense;    // all are plain dense ones
    bool some_convert; // some have caches in another format
    bool some_rotate;  // some rotate rows
    Operation operation;
};

class Backend {
public:
    Backend() = default;
    Backend(const Backend &) = delete;
    Backend &operator=(const Backend &) = delete;

    // In the order of preference.
    virtual std::span<const NamedKernel> kernels() const = 0;
    // Determines the device that a plan created now will run on.
    virtual Status open(std::unique_ptr<BackendState> &state) const = 0;
    virtual bool supports(const NamedKernel &kernel, const BackendState &state, const Problem &problem) const = 0;
    // Does what must not happen during a run, such as loading machine code and starting threads.
    virtual Status prepare(const Problem &problem, const NamedKernel &kernel, std::int32_t host_threads,
                           BackendState &state) const = 0;

    // Refuses a stream that does not belong to the backend, and a current device that is not the plan's.
    virtual Status check_stream(const BackendState &state, CUstream_st *stream) const = 0;
    // Refuses a run before anything is written, if the policy forbids rows that are out of range and the backend can
    // read the indices.
    virtual Status before(const Call & /*call*/) const { return KVAPPEND_SUCCESS; }
    // Moves the rows, or enqueues the move in the stream.
    virtual Status run(const Call &call, CUstream_st *stream) const = 0;
    // The work after a copy: all that the plan asks for, or a part of it. Offsets advance only after all rows that they
    // place have been counted: see Layers.
    struct After {
        bool counts;   // counts the rows, or traps
        bool resets;   // sets the report to zero first
        bool advances; // advances the offsets
    };
    virtual Status after(const Call &call, After work, CUstream_st *stream) const = 0;
    // Begins a run of several layers.
    virtual LayeredRun *begin(LayeredRunStorage &storage, LayersKind kind, CUstream_st *stream) const = 0;

    // Copies memory that the backend can read to the host. The copy is ordered in the stream, and the call waits for
    // it.
    virtual Status fetch(void *to, const void *from, std::size_t bytes, CUstream_st *stream) const = 0;

protected:
    // Backends are constants and are never destroyed through this class.
    ~Backend() = default;
};

const Backend &host_backend();
const Backend &cuda_backend();

} // namespace kvappend
