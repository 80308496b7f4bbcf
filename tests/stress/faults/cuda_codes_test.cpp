// SPDX-License-Identifier: Apache-2.0
// Every CUDA call that the library makes fails with every code there is, one after the other; and errors that stay.
// What a failing call leaves in memory is compared byte by byte.
#include "../../suite/held.hpp"
#include "../../support/emulation/emulation.hpp"

#include <catch2/catch_test_macros.hpp>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using emulation::Call;

constexpr std::int64_t rows = 3, dim = 8;

// The statuses of kvappend.h for CUDA's codes. None but these has one of its own.
kvappend_status status_of(int code) {
    switch (code) {
    case 34:  // cudaErrorStubLibrary
    case 100: // cudaErrorNoDevice
        return KVAPPEND_ERROR_NO_DEVICE;
    case 35:  // cudaErrorInsufficientDriver, from a driver that is there
    case 222: // cudaErrorUnsupportedPtxVersion
    case 803: // cudaErrorSystemDriverMismatch
    case 804: // cudaErrorCompatNotSupportedOnDevice
        return KVAPPEND_ERROR_DRIVER;
    case 98:  // cudaErrorInvalidDeviceFunction
    case 209: // cudaErrorNoKernelImageForDevice
        return KVAPPEND_ERROR_UNSUPPORTED;
    default:
        return KVAPPEND_ERROR_CUDA;
    }
}

// A call of each kind that makes CUDA calls, with all that it may have to do: counting, advancing, two launches.
class Machine {
public:
    Machine() : Machine(descriptor()) {}
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;
    ~Machine() { emulation::reset(); }

    static kvappend_descriptor descriptor() {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = KVAPPEND_BACKEND_CUDA;
        d.batch = d.heads = d.new_rows = 1;
        d.cache_rows = rows;
        d.k_dim = d.v_dim = dim;
        d.skip_policy = KVAPPEND_SKIP_REPORT;
        d.flags = KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_RESET_REPORT;
        return d;
    }
    kvappend_status create() const {
        kvappend_descriptor d = descriptor();
        auto *plan = reinterpret_cast<kvappend_plan *>(&d); // not NULL
        const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
        CHECK((status == KVAPPEND_SUCCESS) == (plan != nullptr));
        kvappend_plan_destroy(plan);
        return status;
    }
    kvappend_status run() const { return kvappend_plan_run(plan_.get(), &args_, nullptr, 0, subject().stream()); }
    // More layers than one launch has room for, of which only the last counts and advances.
    kvappend_status run_layers() const {
        std::vector<const kvappend_plan *> plans(81, plain_.get());
        std::vector<const kvappend_args *> args(81, &args_);
        plans.back() = plan_.get();
        args.back() = &last_args_;
        return kvappend_plan_run_layers(plans.data(), args.data(), plans.size(), nullptr, 0, subject().stream());
    }
    kvappend_status validate() const {
        kvappend_fault fault = KVAPPEND_FAULT_INIT;
        const kvappend_status status =
            kvappend_plan_validate(plan_.get(), &args_, nullptr, 0, subject().stream(), &fault);
        CHECK(fault.array == nullptr);
        return status;
    }
    // What makes no CUDA call.
    bool quiet_calls_work() const {
        const std::uint64_t before = emulation::total_calls();
        kvappend_sku sku = KVAPPEND_SKU_INIT;
        return kvappend_plan_can_implement(plan_.get(), &args_) == KVAPPEND_SUCCESS &&
               kvappend_plan_get_sku(plan_.get(), &sku) == KVAPPEND_SUCCESS && emulation::total_calls() == before;
    }

    // The copy goes to row 1; a call of layers goes on to another cache with its second launch.
    void check_memory(bool copied, bool copied_behind, bool advanced) const {
        subject().synchronize();
        check_cache(k_, copied, source(0));
        check_cache(v_, copied, source(100));
        check_cache(last_k_, copied_behind, source(0));
        check_cache(last_v_, copied_behind, source(100));
        CHECK(offset_.holds({advanced ? 2 : 1}));
        CHECK(k_new_.holds(source(0)));
        CHECK(v_new_.holds(source(100)));
    }
    void start_anew() {
        emulation::reset();
        for (Held<float> *const cache : {&k_, &v_, &last_k_, &last_v_}) {
            cache->set(empty());
        }
        offset_.set({1});
    }

private:
    explicit Machine(const kvappend_descriptor &d) : plan_(make_plan(d)) {
        kvappend_descriptor plain = d;
        plain.skip_policy = KVAPPEND_SKIP_SILENTLY;
        plain.flags = 0;
        plain_ = make_plan(plain);
        args_.k_new = k_new_.data();
        args_.v_new = v_new_.data();
        args_.k_cache = k_.data();
        args_.v_cache = v_.data();
        args_.cache_offsets = offset_.data();
        args_.report = report_.data();
        last_args_ = args_;
        last_args_.k_cache = last_k_.data();
        last_args_.v_cache = last_v_.data();
    }

    static std::vector<float> source(int from) {
        std::vector<float> values;
        for (int i = 0; i < dim; ++i) {
            values.push_back(static_cast<float>(from + i));
        }
        return values;
    }
    static std::vector<float> empty() { return std::vector<float>(rows * dim, -1); }
    static void check_cache(const Held<float> &cache, bool copied, const std::vector<float> &row) {
        std::vector<float> expected = empty();
        if (copied) {
            std::ranges::copy(row, expected.begin() + dim);
        }
        CHECK(cache.holds(expected));
    }

    PlanPointer plan_;
    PlanPointer plain_;
    Held<float> k_new_{source(0)};
    Held<float> v_new_{source(100)};
    Held<float> k_{empty()};
    Held<float> v_{empty()};
    Held<float> last_k_{empty()};
    Held<float> last_v_{empty()};
    Held<std::int64_t> offset_{{1}};
    Held<kvappend_report> report_{{KVAPPEND_REPORT_INIT}};
    kvappend_args args_ = KVAPPEND_ARGS_INIT;
    kvappend_args last_args_ = KVAPPEND_ARGS_INIT;
};

using Operation = kvappend_status (Machine::*)() const;

struct MadeCall {
    Call call;
    const char *name;
};
constexpr MadeCall made_calls[] = {{Call::GetDevice, "cudaGetDevice"},
                                   {Call::DeviceGetAttribute, "cudaDeviceGetAttribute"},
                                   {Call::FuncGetAttributes, "cudaFuncGetAttributes"},
                                   {Call::MemcpyAsync, "cudaMemcpyAsync"},
                                   {Call::StreamSynchronize, "cudaStreamSynchronize"},
                                   {Call::LaunchKernelEx, "cudaLaunchKernelEx"}};

// Visits each call that the operation makes, by how many of its kind come before it.
void for_each_call(Machine &machine, Operation operation, const std::function<void(const MadeCall &, int)> &visit) {
    machine.start_anew();
    const std::uint64_t before = emulation::total_calls();
    REQUIRE((machine.*operation)() == KVAPPEND_SUCCESS);
    std::vector<std::pair<const MadeCall *, int>> all;
    std::uint64_t known = 0;
    for (const MadeCall &made : made_calls) {
        for (int i = 0; i < static_cast<int>(emulation::calls(made.call)); ++i) {
            all.emplace_back(&made, i);
            ++known;
        }
    }
    REQUIRE(before + known == emulation::total_calls()); // It makes no others.
    for (const auto &[made, skip] : all) {
        INFO(made->name << ", the one behind " << skip << " others");
        visit(*made, skip);
    }
}

// The first failing call of a kind with each code, and later ones with those that have a status of their own.
std::vector<int> codes(int skip) {
    std::vector<int> all;
    for (int code = 1; code < 1000; ++code) {
        if (skip == 0 || status_of(code) != KVAPPEND_ERROR_CUDA || code % 100 == 0) {
            all.push_back(code);
        }
    }
    return all;
}

void check_failure(kvappend_status status, const MadeCall &made, int code) {
    const std::string message = kvappend_last_error_message();
    INFO(message);
    CHECK(status == status_of(code));
    CHECK(message.find(std::string(made.name) + " returned " + cudaGetErrorName(static_cast<cudaError_t>(code))) !=
          std::string::npos);
}

} // namespace

TEST_CASE("each CUDA call of plan creation and validation may fail with each code", "[codes]") {
    Machine machine;
    for (const Operation operation : {&Machine::create, &Machine::validate}) {
        for_each_call(machine, operation, [&](const MadeCall &made, int skip) {
            for (const int code : codes(skip)) {
                INFO("code " << code);
                machine.start_anew();
                emulation::fail_next(made.call, static_cast<cudaError_t>(code), skip);
                check_failure((machine.*operation)(), made, code);
            }
            emulation::reset(); // A copy may wait for a wait that was made to fail.
            machine.check_memory(false, false, false);
            CHECK((machine.*operation)() == KVAPPEND_SUCCESS);
        });
    }
}

TEST_CASE("each CUDA call of a run may fail with each code, and what was launched before it is done", "[codes]") {
    Machine machine;
    for_each_call(machine, &Machine::run, [&](const MadeCall &made, int skip) {
        for (const int code : codes(skip)) {
            INFO("code " << code);
            machine.start_anew();
            emulation::fail_next(made.call, static_cast<cudaError_t>(code), skip);
            check_failure(machine.run(), made, code);
            const bool launched = made.call == Call::LaunchKernelEx && skip > 0;
            machine.check_memory(launched, false, false);
        }
        machine.start_anew();
        CHECK(machine.run() == KVAPPEND_SUCCESS);
        machine.check_memory(true, false, true);
    });
}

TEST_CASE("each CUDA call of a run of layers may fail with each code, and what was launched before it is done",
          "[codes]") {
    Machine machine;
    for_each_call(machine, &Machine::run_layers, [&](const MadeCall &made, int skip) {
        for (const int code : codes(made.call == Call::LaunchKernelEx ? skip : 1)) {
            INFO("code " << code);
            machine.start_anew();
            emulation::fail_next(made.call, static_cast<cudaError_t>(code), skip);
            check_failure(machine.run_layers(), made, code);
            const bool launch = made.call == Call::LaunchKernelEx;
            machine.check_memory(launch && skip > 0, launch && skip > 1, false);
        }
        machine.start_anew();
        CHECK(machine.run_layers() == KVAPPEND_SUCCESS);
        machine.check_memory(true, true, true);
    });
}

TEST_CASE("an error that stays is told by all that needs the device, until the device is set up anew", "[codes]") {
    Machine machine;
    machine.start_anew();
    // The memory is gone when the kernel reads it.
    void *const gone = subject().allocate(64);
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.batch = d.heads = d.new_rows = d.cache_rows = d.k_dim = 1;
    d.flags = KVAPPEND_FLAG_ZERO_OFFSETS;
    const PlanPointer plan = make_plan(d);
    const Held<float> cache({0});
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = gone;
    args.k_cache = cache.data();
    CHECK(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream()) == KVAPPEND_SUCCESS);
    subject().release(gone);
    CHECK(cudaStreamSynchronize(subject().stream()) == cudaErrorIllegalAddress);
    for (int round = 0; round < 3; ++round) {
        for (const Operation operation : {&Machine::create, &Machine::run, &Machine::run_layers, &Machine::validate}) {
            CHECK((machine.*operation)() == KVAPPEND_ERROR_CUDA);
            CHECK(std::string(kvappend_last_error_message()).find("cudaErrorIllegalAddress") != std::string::npos);
        }
        CHECK(machine.quiet_calls_work());
        // The other backend has nothing to do with it.
        kvappend_descriptor on_host = KVAPPEND_DESCRIPTOR_INIT;
        on_host.batch = on_host.heads = on_host.new_rows = on_host.cache_rows = on_host.k_dim = 1;
        CHECK(make_plan(on_host) != nullptr);
    }
    machine.start_anew();
    CHECK(machine.create() == KVAPPEND_SUCCESS);
    CHECK(machine.run() == KVAPPEND_SUCCESS);
    machine.check_memory(true, false, true);
}

TEST_CASE("CUDA's last error is left as it is: neither taken for a failure nor cleared", "[codes]") {
    Machine machine;
    machine.start_anew();
    CHECK(cudaSetDevice(99) == cudaErrorInvalidDevice);
    for (const Operation operation : {&Machine::create, &Machine::validate, &Machine::run, &Machine::run_layers}) {
        CHECK((machine.*operation)() == KVAPPEND_SUCCESS);
        CHECK(cudaPeekAtLastError() == cudaErrorInvalidDevice);
    }
    CHECK(cudaGetLastError() == cudaErrorInvalidDevice);
    CHECK(cudaGetLastError() == cudaSuccess);
}
