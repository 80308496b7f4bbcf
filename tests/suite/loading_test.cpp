// SPDX-License-Identifier: Apache-2.0
// The creation of a plan loads every kernel that a call with this plan may launch. If a launch had to load its kernel,
// it would break the capture of a graph.
#include "plan.hpp"

#include "../support/emulation/emulation.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace {

// An emulated machine that has just started: no kernel is loaded.
struct Machine {
    Machine() { emulation::reset(); }
    ~Machine() { emulation::reset(); }
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;
};

// A kind of problem. The table below lists all kinds of calls. Rows have 128 bytes.
struct Kind {
    std::int32_t addressing;
    std::int32_t skip_policy;
    std::int32_t flags;
    bool wide;     // has strides of more than 31 bits
    bool converts; // K is stored as BF16
    std::int32_t operation;
    bool rotates = false;

    kvappend_descriptor descriptor() const {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = KVAPPEND_BACKEND_CUDA;
        d.element_type = KVAPPEND_ELEMENT_F16;
        d.addressing = addressing;
        d.skip_policy = skip_policy;
        d.flags = flags;
        d.operation = operation;
        d.batch = addressing == KVAPPEND_ADDRESSING_SLOTS ? 1 : 2;
        d.heads = 2;
        d.new_rows = 3;
        d.cache_rows = 4;
        d.cache_blocks = addressing == KVAPPEND_ADDRESSING_DENSE || addressing == KVAPPEND_ADDRESSING_RING ? 0 : 5;
        d.table_entries =
            addressing == KVAPPEND_ADDRESSING_PAGED || addressing == KVAPPEND_ADDRESSING_PAGED_CSR ? 4 : 0;
        d.k_dim = d.v_dim = 64;
        static const kvappend_storage bf16 = [] {
            kvappend_storage storage = KVAPPEND_STORAGE_INIT;
            storage.type = KVAPPEND_STORED_BF16;
            return storage;
        }();
        d.k_storage = converts ? &bf16 : nullptr;
        static const kvappend_rotary rotary = [] {
            kvappend_rotary halves = KVAPPEND_ROTARY_INIT;
            halves.dim = 64;
            halves.table_rows = 8;
            return halves;
        }();
        d.rotary = rotates ? &rotary : nullptr;
        d.flags |= rotates && addressing == KVAPPEND_ADDRESSING_SLOTS ? KVAPPEND_FLAG_POSITIONS : 0;
        if (wide) {
            for (std::int64_t(*const strides)[3] : {&d.k_cache_strides, &d.v_cache_strides}) {
                (*strides)[0] = std::int64_t{1} << 33;
                (*strides)[1] = std::int64_t{1} << 32;
                (*strides)[2] = 128;
            }
        }
        return d;
    }
    std::string text() const {
        return "addressing " + std::to_string(addressing) + ", policy " + std::to_string(skip_policy) + ", flags " +
               std::to_string(flags) + (wide ? ", wide" : "") + (converts ? ", converts" : "") +
               (rotates ? ", rotates" : "") + ", operation " + std::to_string(operation);
    }
};

std::vector<Kind> kinds() {
    std::vector<Kind> all;
    for (const std::int32_t addressing :
         {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR,
          KVAPPEND_ADDRESSING_SLOTS}) {
        for (const auto &[wide, converts] : {std::pair(false, false), {true, false}, {false, true}, {true, true}}) {
            for (const std::int32_t policy : {KVAPPEND_SKIP_SILENTLY, KVAPPEND_SKIP_REPORT, KVAPPEND_SKIP_TRAP}) {
                all.push_back({addressing, policy, 0, wide, converts, KVAPPEND_OPERATION_APPEND});
                all.push_back(
                    {addressing, policy, KVAPPEND_FLAG_ZERO_SKIPPED, wide, converts, KVAPPEND_OPERATION_GATHER});
                if (addressing == KVAPPEND_ADDRESSING_SLOTS) {
                    all.push_back({addressing, policy, 0, wide, converts, KVAPPEND_OPERATION_MOVE});
                }
            }
            all.push_back({addressing, KVAPPEND_SKIP_REPORT, 0, wide, converts, KVAPPEND_OPERATION_APPEND, true});
            if (addressing != KVAPPEND_ADDRESSING_SLOTS) {
                all.push_back({addressing, KVAPPEND_SKIP_SILENTLY, KVAPPEND_FLAG_ADVANCE, wide, converts,
                               KVAPPEND_OPERATION_APPEND});
            }
        }
    }
    return all;
}

// Buffers that no kernel touches, because a captured launch does not run. They begin `off` bytes after a multiple of
// 16.
kvappend_args arguments(std::uintptr_t off) {
    std::uintptr_t next = std::uintptr_t{1} << 40;
    const auto take = [&next](std::uintptr_t distance) {
        next += std::uintptr_t{1} << 40;
        return reinterpret_cast<void *>(next + distance);
    };
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = take(off);
    args.v_new = take(off);
    args.k_cache = take(off);
    args.v_cache = take(off);
    args.k_out = take(off);
    args.v_out = take(off);
    args.cache_offsets = take(0);
    args.slots = take(0);
    args.from_slots = take(0);
    args.page_table = static_cast<const std::int32_t *>(take(0));
    args.page_indptr = static_cast<const std::int32_t *>(take(0));
    args.rotary_cos = take(0);
    args.rotary_sin = take(0);
    args.positions = take(0);
    args.report = static_cast<kvappend_report *>(take(0));
    return args;
}

// Requires that the calls can be captured, and that each of them launches kernels, all of which were loaded before.
template <class Calls>
void capture(Calls calls) {
    cudaGraph_t graph = nullptr;
    const std::uint64_t before = emulation::launches();
    REQUIRE(cudaStreamBeginCapture(subject().stream(), cudaStreamCaptureModeGlobal) == cudaSuccess);
    calls();
    CHECK(cudaStreamEndCapture(subject().stream(), &graph) == cudaSuccess);
    CHECK(emulation::launches() > before);
    CHECK(emulation::lazy_loads() == 0);
    cudaGraphDestroy(graph);
}

void run(const PlanPointer &plan, const kvappend_args &args) {
    CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
}

void run_layers(const std::vector<const kvappend_plan *> &plans, const kvappend_args &args) {
    const std::vector<const kvappend_args *> all(plans.size(), &args);
    CHECK(told(kvappend_plan_run_layers(plans.data(), all.data(), plans.size(), nullptr, 0, subject().stream())) ==
          "KVAPPEND_SUCCESS");
}

} // namespace

TEST_CASE("every kernel that a plan's calls launch is loaded with it, whichever kernel was requested", "[faults]") {
    std::vector<const char *> kernels{nullptr};
    for (std::size_t i = 0; kvappend_kernel_name(i) != nullptr; ++i) {
        if (std::string(kvappend_kernel_name(i)).starts_with("cuda_")) {
            kernels.push_back(kvappend_kernel_name(i));
        }
    }
    CHECK(kernels.size() > 1);
    for (const char *const kernel : kernels) {
        INFO("kernel " << (kernel != nullptr ? kernel : "of choice"));
        int served = 0;
        for (const Kind &kind : kinds()) {
            INFO(kind.text());
            for (const std::uintptr_t off : {0U, 2U}) {
                const Machine machine;
                const kvappend_descriptor d = kind.descriptor();
                kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
                preference.kernel_name = kernel;
                kvappend_plan *made = nullptr;
                const kvappend_status status = kvappend_plan_create(&d, &preference, &made);
                if (kernel != nullptr && status == KVAPPEND_ERROR_KERNEL) {
                    continue;
                }
                REQUIRE(told(status) == "KVAPPEND_SUCCESS");
                ++served;
                const PlanPointer plan(made);
                const kvappend_args args = arguments(off);
                capture([&] { run(plan, args); });
                capture([&] { run_layers({plan.get()}, args); });
                capture([&] { run_layers({plan.get(), plan.get()}, args); });
            }
        }
        CHECK(served > 0);
    }
}

TEST_CASE("every kernel that a call of two plans launches is loaded with them", "[faults]") {
    for (const Kind &one : kinds()) {
        INFO(one.text());
        for (const Kind &other : kinds()) {
            INFO("and " << other.text());
            if (one.operation != other.operation) {
                continue; // Such a call is refused.
            }
            const Machine machine;
            const PlanPointer first = make_plan(one.descriptor());
            const PlanPointer second = make_plan(other.descriptor());
            for (const std::uintptr_t off : {0U, 2U}) {
                const kvappend_args args = arguments(off);
                capture([&] { run_layers({first.get(), second.get()}, args); });
            }
        }
    }
}
