// SPDX-License-Identifier: Apache-2.0
// The host backend and its table of kernels.
#include "host.hpp"

#include <cinttypes>
#include <cstring>
#include <new>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace kvappend {

namespace {

using enum Operation;
using enum Kernel::Family;
using enum Kernel::Variant;

constexpr NamedKernel table_entry(Operation operation, Kernel::Family family, Kernel::Variant variant) {
    return NamedKernel({KVAPPEND_BACKEND_HOST, operation, family, variant, 0, 0});
}

constexpr NamedKernel kernels[] = {
#if defined(__x86_64__)
    table_entry(append, dense, avx),   table_entry(append, rows, avx),    table_entry(append, convert, avx2),
    table_entry(gather, dense, avx),   table_entry(gather, rows, avx),    table_entry(gather, convert, avx2),
    table_entry(append, rotate, avx2),
#endif
    table_entry(append, dense, plain), table_entry(append, rows, plain),  table_entry(append, convert, plain),
    table_entry(gather, dense, plain), table_entry(gather, rows, plain),  table_entry(gather, convert, plain),
    table_entry(move, rows, plain),    table_entry(append, rotate, plain)};

const CopyRows &copy_of(const NamedKernel &kernel) {
    const std::size_t i = kernel.operation == gather ? 1 : 0;
    const std::size_t conversion = kernel.family == rotate ? 2 : i;
#if defined(__x86_64__)
    if (kernel.variant == avx2) {
        return avx2_conversions[conversion];
    }
    const Copies &copies = kernel.variant == avx ? avx_copies : plain_copies;
#else
    const Copies &copies = plain_copies;
#endif
    return kernel.family == convert || kernel.family == rotate ? plain_conversions[conversion]
           : kernel.family == dense                            ? copies.dense[i]
                                                               : copies.rows[i];
}

// What the processor has, if the system saves the registers of AVX. __builtin_cpu_supports tells this, too, but it
// needs libgcc, and not every program is linked with libgcc.
Extensions find_extensions() {
#if defined(__x86_64__)
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    __cpuid(1, a, b, c, d);
    constexpr unsigned needed = bit_OSXSAVE | bit_AVX;
    if ((c & needed) != needed) {
        return {};
    }
    // Volatile, so that a compiler does not move it before the test for OSXSAVE.
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    constexpr unsigned sse_and_avx = 6;
    if ((a & sse_and_avx) != sse_and_avx) {
        return {};
    }
    const bool has_f16c = (c & bit_F16C) != 0;
    const bool has_avx2 = has_f16c && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_AVX2) != 0;
    return {true, has_avx2};
#else
    return {};
#endif
}

void run_on_host(const Call &call) {
    copy_all_rows(static_cast<const HostState &>(call.state), call.problem, call.args);
}

// Runs each call when it is added.
class HostLayeredRun final : public LayeredRun {
public:
    Status add(const Call &call) override {
        run_on_host(call);
        return KVAPPEND_SUCCESS;
    }
    Status finish() override { return KVAPPEND_SUCCESS; }
};

Status start_threads(std::int32_t host_threads, HostState &state) {
    state.threads = ThreadPool::create(host_threads - 1);
    if (state.threads == nullptr) {
        return fail(KVAPPEND_ERROR_OUT_OF_MEMORY,
                    "preference.host_threads is %" PRId32 ": there is no memory for the plan's threads", host_threads);
    }
    if (state.threads->helpers() < host_threads - 1) {
        return fail(KVAPPEND_ERROR_HOST_THREADS,
                    "preference.host_threads is %" PRId32 ": expected at most %" PRId32
                    ", as the system starts no more",
                    host_threads, state.threads->helpers() + 1);
    }
    return KVAPPEND_SUCCESS;
}

class HostBackend final : public Backend {
public:
    std::span<const NamedKernel> kernels() const override { return kvappend::kernels; }

    Status open(std::unique_ptr<BackendState> &state) const override {
        state.reset(new (std::nothrow) HostState(find_extensions()));
        return state != nullptr ? KVAPPEND_SUCCESS
                                : fail(KVAPPEND_ERROR_OUT_OF_MEMORY, "plan: there is no memory for its %zu bytes",
                                       sizeof(HostState));
    }

    bool supports(const NamedKernel &kernel, const BackendState &state, const Problem &problem) const override {
        const Extensions &extensions = static_cast<const HostState &>(state).extensions;
        return kernel.operation == problem.operation && (kernel.family == convert) == problem.converts_alone() &&
               (kernel.family == rotate) == problem.rotates() && (kernel.family != dense || problem.plain_dense()) &&
               (kernel.variant != avx || extensions.avx) && (kernel.variant != avx2 || extensions.avx2);
    }

    Status prepare(const Problem &problem, const NamedKernel &kernel, std::int32_t host_threads,
                   BackendState &state) const override {
        auto &host_state = static_cast<HostState &>(state);
        if (!problem.moves()) {
            host_state.copy = copy_of(kernel);
        }
        return host_threads > 1 && !problem.empty() ? start_threads(host_threads, host_state) : KVAPPEND_SUCCESS;
    }

    Status check_stream(const BackendState & /*state*/, CUstream_st *stream) const override {
        return stream == nullptr
                   ? KVAPPEND_SUCCESS
                   : fail(KVAPPEND_ERROR_STREAM, "stream is %p: expected NULL, as the plan's backend is the host",
                          static_cast<const void *>(stream));
    }

    Status before(const Call &call) const override { return check_policy(call.problem, call.args); }

    Status run(const Call &call, CUstream_st * /*stream*/) const override {
        run_on_host(call);
        return KVAPPEND_SUCCESS;
    }

    Status after(const Call &call, After work, CUstream_st * /*stream*/) const override {
        if (work.counts && call.problem.addressing.skip_policy == KVAPPEND_SKIP_REPORT) {
            count_rows(call.problem, call.args, work.resets);
        }
        if (work.advances) {
            advance_offsets(call.problem, call.args);
        }
        return KVAPPEND_SUCCESS;
    }

    LayeredRun *begin(LayeredRunStorage &storage, LayersKind /*kind*/, CUstream_st * /*stream*/) const override {
        return new (storage.copies.bytes) HostLayeredRun;
    }

    Status fetch(void *to, const void *from, std::size_t bytes, CUstream_st * /*stream*/) const override {
        std::memcpy(to, from, bytes);
        return KVAPPEND_SUCCESS;
    }
};

} // namespace

const Backend &host_backend() {
    static constexpr HostBackend backend;
    return backend;
}

} // namespace kvappend
