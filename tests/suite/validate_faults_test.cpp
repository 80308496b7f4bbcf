// SPDX-License-Identifier: Apache-2.0
// What only the emulated runtime can show of validate: that it works in the order of the stream and waits for it, and
// what becomes of a failing CUDA call.
#include "validated.hpp"

#include "../support/emulation/emulation.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cstring>

namespace {

using emulation::Call;

// The emulated machine starts anew with each test and is left as it was found.
struct Machine {
    Machine() { emulation::reset(); }
    ~Machine() { emulation::reset(); }
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;
};

// Two samples, each with a length and a table of two pages.
kvappend_descriptor paged() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.addressing = KVAPPEND_ADDRESSING_PAGED;
    d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    d.batch = d.new_rows = d.table_entries = 2;
    d.heads = 1;
    d.cache_rows = d.cache_blocks = 4;
    d.k_dim = d.v_dim = 8;
    return d;
}

Indices good() {
    return {.offsets = {3, 0}, .lengths = {2, 1}, .page_table = {0, 1, 2, 3}};
}

constexpr std::uint64_t arrays = 3;

} // namespace

TEST_CASE("validate copies each array in use and launches nothing", "[validate]") {
    const Machine machine;
    const Validated call(paged(), good());
    const auto before = emulation::total_calls();
    CHECK(told(call.validate(nullptr)) == "KVAPPEND_SUCCESS");
    CHECK(emulation::calls(Call::GetDevice) >= 1);
    CHECK(emulation::calls(Call::MemcpyAsync) == arrays);
    const auto waits = emulation::calls(Call::StreamSynchronize);
    CHECK(waits >= 1);
    // Besides these it asks for the device.
    CHECK(emulation::total_calls() == before + arrays + waits + 1);
    CHECK(emulation::launches() == 0);
    CHECK(call.untouched());
}

TEST_CASE("validate sees what the stream does before it, and waits for it", "[validate]") {
    const Machine machine;
    kvappend_descriptor d = paged();
    d.flags = KVAPPEND_FLAG_ADVANCE;
    Validated call(d, good());
    // The offsets grow from 3 and 0 to 5 and 1, and then to 7 and 2, and with that the table's end is reached.
    const auto run = [&] {
        REQUIRE(told(kvappend_plan_run(call.plan(), &call.args, nullptr, 0, call.stream)) == "KVAPPEND_SUCCESS");
    };
    run();
    CHECK(emulation::executions() == 0);
    CHECK(told(call.validate(nullptr)) == "KVAPPEND_SUCCESS");
    CHECK(emulation::executions() == emulation::launches());
    run();
    kvappend_fault fault = KVAPPEND_FAULT_INIT;
    CHECK(told(call.validate(&fault)).starts_with("KVAPPEND_ERROR_SKIPPED: row 1 of sample 0 has the position 8"));
    CHECK(fault.position == 8);
    CHECK(emulation::executions() == emulation::launches());

    // A copy that is under way.
    const Held<std::int32_t> other({0, -1, 2, 3});
    subject().copy(const_cast<void *>(call.args.page_table), other.data(), other.bytes());
    CHECK(told(call.validate(&fault)).starts_with("KVAPPEND_ERROR_INDEX_RANGE: args.page_table[1] is -1: expected"));
}

TEST_CASE("each failing call of validate becomes a status, and there is no fault", "[validate]") {
    const Machine machine;
    // Without the failure there would be a fault to tell.
    Indices indices = good();
    indices.lengths = {3, 3};
    const Validated call(paged(), indices);
    const auto check = [&](Call failing, int skip, cudaError_t error, const std::string &words) {
        emulation::reset();
        emulation::fail_next(failing, error, skip);
        call.check_once(refused(KVAPPEND_ERROR_CUDA, words));
        // The emulated copy still waits when the wait for it is made to fail, as none of CUDA's to such memory does.
        emulation::reset();
        CHECK(call.untouched());
    };
    check(Call::GetDevice, 0, cudaErrorUnknown, "cudaGetDevice returned cudaErrorUnknown");
    for (int skip = 0; skip < static_cast<int>(arrays); ++skip) {
        check(Call::MemcpyAsync, skip, cudaErrorInvalidValue, "cudaMemcpyAsync returned cudaErrorInvalidValue");
    }
    emulation::reset();
    CHECK(call.validate(nullptr) == KVAPPEND_ERROR_INDEX_RANGE);
    const auto waits = static_cast<int>(emulation::calls(Call::StreamSynchronize));
    for (int skip = 0; skip < waits; ++skip) {
        check(Call::StreamSynchronize, skip, cudaErrorLaunchFailure,
              "cudaStreamSynchronize returned cudaErrorLaunchFailure");
    }
    // The plan and the call are none the worse for it.
    emulation::reset();
    call.check(at_index(KVAPPEND_ERROR_INDEX_RANGE, "lengths", 0, 3, 0, 2));
}

TEST_CASE("validate wants the plan's device to be current", "[validate]") {
    const Machine machine;
    const Validated call(paged(), good());
    REQUIRE(cudaSetDevice(1) == cudaSuccess);
    const auto copies = emulation::calls(Call::MemcpyAsync);
    call.check_once(refused(KVAPPEND_ERROR_WRONG_DEVICE, "the current device is 1: expected device 0"));
    CHECK(emulation::calls(Call::MemcpyAsync) == copies);
    REQUIRE(cudaSetDevice(0) == cudaSuccess);
    call.check_good();
}
