// SPDX-License-Identifier: Apache-2.0
// What only the emulated runtime can show: that each failing CUDA call becomes the right status, which calls a run
// makes, and what a launch looks like.
#include "check_scenario.hpp"
#include "plan.hpp"

#include "../support/emulation/emulation.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace {

using emulation::Call;

kvappend_descriptor decode_step() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = 1;
    d.heads = 8;
    d.new_rows = 1;
    d.cache_rows = 16;
    d.k_dim = d.v_dim = 128;
    return d;
}

// The emulated machine starts anew with each test and is left as it was found.
struct Machine {
    Machine() { emulation::reset(); }
    ~Machine() { emulation::reset(); }
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;
};

// Buffers for a problem with contiguous tensors of f16.
struct Buffers {
    explicit Buffers(const kvappend_descriptor &d)
        : new_bytes(static_cast<std::size_t>(d.batch * d.heads * d.new_rows * d.k_dim) * 2),
          cache_bytes(static_cast<std::size_t>(d.batch * d.heads * d.cache_rows * d.k_dim) * 2) {
        args.k_new = source = subject().allocate(new_bytes);
        args.v_new = source;
        args.k_cache = subject().allocate(cache_bytes);
        args.v_cache = subject().allocate(cache_bytes);
        const std::vector<std::int64_t> at(static_cast<std::size_t>(d.batch));
        args.cache_offsets = offsets = subject().allocate(at.size() * 8);
        subject().upload(offsets, at.data(), at.size() * 8);
    }
    Buffers(const Buffers &) = delete;
    Buffers &operator=(const Buffers &) = delete;
    ~Buffers() {
        for (void *const pointer : {source, args.k_cache, args.v_cache, offsets}) {
            subject().release(pointer);
        }
    }
    std::size_t new_bytes;
    std::size_t cache_bytes;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    void *source = nullptr;
    void *offsets = nullptr;
};

void check_creation_fails(kvappend_status expected, const std::string &words,
                          const kvappend_preference *preference = nullptr) {
    kvappend_descriptor d = decode_step();
    auto *plan = reinterpret_cast<kvappend_plan *>(&d); // not NULL
    CHECK(kvappend_plan_create(&d, preference, &plan) == expected);
    CHECK(plan == nullptr);
    const std::string message = kvappend_last_error_message();
    INFO(message);
    CHECK(message.find(words) != std::string::npos);
}

} // namespace

TEST_CASE("without device or driver a plan is refused with the reason", "[faults]") {
    const Machine machine;
    SECTION("no device") {
        emulation::set_device_count(0);
        check_creation_fails(KVAPPEND_ERROR_NO_DEVICE, "there is no CUDA device: cudaGetDevice returned");
    }
    SECTION("no driver") {
        emulation::set_driver_version(0);
        check_creation_fails(KVAPPEND_ERROR_NO_DEVICE, "there is no CUDA driver");
    }
    SECTION("a driver that is too old") {
        emulation::set_driver_version(11000);
        check_creation_fails(KVAPPEND_ERROR_DRIVER, "the CUDA driver is too old");
    }
    SECTION("a device older than every kernel") {
        emulation::set_architecture(0, 7, 0);
        const char *const words = "device 0 has compute capability 7.0: expected 7.5 or more";
        check_creation_fails(KVAPPEND_ERROR_UNSUPPORTED, words);
        kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
        p.kernel_name = "cuda_dense_b16";
        check_creation_fails(KVAPPEND_ERROR_UNSUPPORTED, words, &p);
    }
}

TEST_CASE("a plan tells its device's architecture", "[faults]") {
    const Machine machine;
    emulation::set_architecture(0, 8, 6);
    const PlanPointer plan = make_plan(decode_step());
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    CHECK(told(kvappend_plan_get_sku(plan.get(), &sku)) == "KVAPPEND_SUCCESS");
    CHECK(sku.architecture == 86);
}

TEST_CASE("each failing call of plan creation becomes a status and names itself", "[faults]") {
    const Machine machine;
    const struct {
        Call call;
        int skip;
        cudaError_t error;
        kvappend_status status;
        const char *words;
    } faults[] = {
        {Call::GetDevice, 0, cudaErrorUnknown, KVAPPEND_ERROR_CUDA, "cudaGetDevice returned cudaErrorUnknown"},
        {Call::GetDevice, 0, cudaErrorStubLibrary, KVAPPEND_ERROR_NO_DEVICE, "cudaErrorStubLibrary"},
        {Call::GetDevice, 0, cudaErrorSystemDriverMismatch, KVAPPEND_ERROR_DRIVER, "cudaErrorSystemDriverMismatch"},
        {Call::DeviceGetAttribute, 0, cudaErrorInvalidDevice, KVAPPEND_ERROR_CUDA, "cudaDeviceGetAttribute"},
        {Call::DeviceGetAttribute, 1, cudaErrorInvalidDevice, KVAPPEND_ERROR_CUDA, "cudaDeviceGetAttribute"},
        {Call::DeviceGetAttribute, 2, cudaErrorInvalidDevice, KVAPPEND_ERROR_CUDA, "cudaDeviceGetAttribute"},
        {Call::FuncGetAttributes, 0, cudaErrorNoKernelImageForDevice, KVAPPEND_ERROR_UNSUPPORTED,
         "no kernel for the current device: cudaFuncGetAttributes"},
        {Call::FuncGetAttributes, 0, cudaErrorInvalidDeviceFunction, KVAPPEND_ERROR_UNSUPPORTED,
         "no kernel for the current device: cudaFuncGetAttributes"},
        {Call::GetDevice, 0, cudaErrorInvalidResourceHandle, KVAPPEND_ERROR_CUDA, "a CUDA call failed: cudaGetDevice"},
        {Call::FuncGetAttributes, 0, cudaErrorUnsupportedPtxVersion, KVAPPEND_ERROR_DRIVER, "does not fit"},
        {Call::FuncGetAttributes, 0, cudaErrorMemoryAllocation, KVAPPEND_ERROR_CUDA, "cudaErrorMemoryAllocation"},
    };
    for (const auto &fault : faults) {
        emulation::reset();
        emulation::fail_next(fault.call, fault.error, fault.skip);
        check_creation_fails(fault.status, fault.words);
    }
}

TEST_CASE("a failing launch writes nothing, is reported, and leaves the plan usable", "[faults]") {
    const Machine machine;
    const kvappend_descriptor d = decode_step();
    const PlanPointer plan = make_plan(d);
    const Buffers buffers(d);
    const auto run = [&] { return kvappend_plan_run(plan.get(), &buffers.args, nullptr, 0, subject().stream()); };

    emulation::fail_next(Call::LaunchKernelEx, cudaErrorLaunchOutOfResources);
    CHECK(run() == KVAPPEND_ERROR_CUDA);
    CHECK(
        std::string(kvappend_last_error_message()).find("cudaLaunchKernelEx returned cudaErrorLaunchOutOfResources") !=
        std::string::npos);
    emulation::fail_next(Call::GetDevice, cudaErrorUnknown);
    CHECK(run() == KVAPPEND_ERROR_CUDA);
    CHECK(std::string(kvappend_last_error_message()).find("cudaGetDevice") != std::string::npos);
    CHECK(emulation::launches() == 0);
    CHECK(told(run()) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    CHECK(emulation::executions() == 1);
}

TEST_CASE("can_implement makes no CUDA call, run asks for the device and launches once", "[faults]") {
    const Machine machine;
    const kvappend_descriptor d = decode_step();
    const PlanPointer plan = make_plan(d);
    const Buffers buffers(d);
    const auto before = emulation::total_calls();
    CHECK(told(kvappend_plan_can_implement(plan.get(), &buffers.args)) == "KVAPPEND_SUCCESS");
    CHECK(emulation::total_calls() == before);

    const auto asked = emulation::calls(Call::GetDevice);
    CHECK(told(kvappend_plan_run(plan.get(), &buffers.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    CHECK(emulation::total_calls() == before + 2);
    CHECK(emulation::calls(Call::GetDevice) == asked + 1);
    CHECK(emulation::launches() == 1);
    CHECK(emulation::lazy_loads() == 0);
    CHECK(emulation::executions() == 0); // Not run yet, so run did not synchronise.
    subject().synchronize();
    CHECK(emulation::executions() == 1);
}

TEST_CASE("nothing to do is no launch", "[faults]") {
    const Machine machine;
    for (const int zero : {0, 1, 2, 3, 4}) {
        kvappend_descriptor d = decode_step();
        std::int64_t *const extents[] = {&d.batch, &d.heads, &d.new_rows, &d.cache_rows, &d.k_dim};
        *extents[zero] = 0;
        if (zero == 4) {
            d.v_dim = 0;
        }
        const PlanPointer plan = make_plan(d);
        const kvappend_args args = KVAPPEND_ARGS_INIT;
        CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    }
    CHECK(emulation::launches() == 0);
}

TEST_CASE("the widest access that pointers, strides and rows allow is the one made", "[faults]") {
    // Elements that each pointer is off from a multiple of 16 bytes, the row's dimension, and the bytes per access.
    const struct {
        std::int64_t dim;
        std::size_t source_shift, cache_shift, width;
    } rows[] = {{128, 0, 0, 16}, {128, 4, 0, 8}, {128, 0, 2, 4}, {128, 1, 1, 2}, {128, 3, 5, 2},
                {4, 0, 0, 8},    {6, 0, 0, 4},   {7, 0, 0, 2},   {72, 8, 8, 16}};
    for (const auto &row : rows) {
        INFO("dimension " << row.dim << ", shifts " << row.source_shift << " and " << row.cache_shift);
        const Machine machine;
        kvappend_descriptor d = decode_step();
        d.k_dim = row.dim;
        d.v_dim = 0;
        const PlanPointer plan = make_plan(d);
        const Buffers buffers(d);
        auto *const source = static_cast<unsigned char *>(subject().allocate(buffers.new_bytes + 16));
        auto *const cache = static_cast<unsigned char *>(subject().allocate(buffers.cache_bytes + 16));
        kvappend_args args = buffers.args;
        args.k_new = source + row.source_shift * 2;
        args.k_cache = cache + row.cache_shift * 2;
        REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
        for (const std::size_t width : {1u, 2u, 4u, 8u, 16u}) {
            INFO("accesses of " << width << " bytes");
            const std::size_t moved = width == row.width ? buffers.new_bytes / width : 0;
            CHECK(emulation::stores(width) == moved);
            // The offset is two loads of 4 bytes for each thread, besides the rows.
            CHECK((width == 4 ? emulation::loads(width) > moved : emulation::loads(width) == moved));
        }
        subject().release(source);
        subject().release(cache);
    }
}

TEST_CASE("each byte of K and of V is moved once, however unlike the two are", "[faults]") {
    struct Shape {
        std::int64_t batch, heads, new_rows, k_dim, v_dim;
        bool strided;
    };
    const Shape shapes[] = {{1, 8, 1, 128, 128, false}, {3, 5, 7, 576, 8, false},     {2, 3, 300, 8, 1024, false},
                            {2, 3, 300, 8, 1024, true}, {1, 1, 5000, 64, 192, false}, {40, 9, 2, 16, 640, true}};
    // On a small device the same work keeps all of it busy, and each thread gets several vectors.
    std::vector<std::pair<Shape, int>> cases;
    for (const Shape &shape : shapes) {
        cases.emplace_back(shape, 132);
        cases.emplace_back(shape, 1);
    }
    for (const auto &[shape, multiprocessors] : cases) {
        const Machine machine;
        emulation::set_multiprocessors(0, multiprocessors);
        kvappend_descriptor d = decode_step();
        d.batch = shape.batch;
        d.heads = shape.heads;
        d.new_rows = d.cache_rows = shape.new_rows;
        d.k_dim = shape.k_dim;
        d.v_dim = shape.v_dim;
        if (shape.strided) {
            // Rows of the source are two apart.
            const auto set = [&](std::int64_t(&strides)[3], std::int64_t dim) {
                strides[KVAPPEND_AXIS_BATCH] = d.heads * d.new_rows * dim * 2;
                strides[KVAPPEND_AXIS_HEAD] = d.new_rows * dim * 2;
                strides[KVAPPEND_AXIS_ROW] = dim * 2;
            };
            set(d.k_new_strides, d.k_dim);
            set(d.v_new_strides, d.v_dim);
        }
        Scenario scenario;
        scenario.descriptor = d;
        scenario.offsets.assign(static_cast<std::size_t>(d.batch), 0);
        place_apart(scenario, 0, 0);
        auto random = seeded_random();
        check_scenario(scenario, random);
        const auto bytes = static_cast<std::size_t>(d.batch * d.heads * d.new_rows * (d.k_dim + d.v_dim)) * 2;
        CHECK(emulation::stores(16) == bytes / 16);
        CHECK(emulation::loads(16) == bytes / 16);
    }
}

TEST_CASE("the commonest call uses more than one multiprocessor", "[faults]") {
    const Machine machine;
    const kvappend_descriptor d = decode_step();
    const PlanPointer plan = make_plan(d);
    const Buffers buffers(d);
    REQUIRE(told(kvappend_plan_run(plan.get(), &buffers.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    const dim3 grid = emulation::last_launch().grid;
    CHECK(grid.x * grid.y * grid.z >= 2);
    subject().synchronize();
}

TEST_CASE("work that does not fill the device is spread over more threads than work that does", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = decode_step();
    d.new_rows = 16;
    const auto blocks = [&](int multiprocessors) {
        emulation::set_multiprocessors(0, multiprocessors);
        const PlanPointer plan = make_plan(d);
        const Buffers buffers(d);
        CHECK(told(kvappend_plan_run(plan.get(), &buffers.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
        const dim3 grid = emulation::last_launch().grid;
        return grid.x * grid.y * grid.z;
    };
    CHECK(blocks(132) >= 3 * blocks(1));
}

TEST_CASE("a thread converts several heads where there is much to convert", "[faults]") {
    const Machine machine;
    auto random = seeded_random();
    Scenario scenario;
    kvappend_descriptor &d = scenario.descriptor;
    d.element_type = GENERATE(KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_BF16);
    d.batch = 2;
    d.heads = 11; // not the same number for each thread
    d.new_rows = 20;
    d.cache_rows = 32;
    d.k_dim = d.v_dim = 64;
    const auto preset =
        GENERATE(KVAPPEND_PRESET_F16, KVAPPEND_PRESET_E4M3_DIVIDE, KVAPPEND_PRESET_E4M3_ROW, KVAPPEND_PRESET_INT8_ROW,
                 KVAPPEND_PRESET_NVFP4, KVAPPEND_PRESET_Q8_0, KVAPPEND_PRESET_Q4_0);
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    REQUIRE(kvappend_storage_preset(preset, &storage, sizeof storage) == KVAPPEND_SUCCESS);
    if (storage.scaling == KVAPPEND_SCALING_COMPUTED) {
        const std::int64_t row = 4 * (storage.group == 0 ? 1 : d.k_dim / storage.group); // room for scales of any type
        const std::int64_t strides[] = {d.heads * d.cache_rows * row, d.cache_rows * row, row, 4};
        std::ranges::copy(strides, storage.scale_strides);
    }
    scenario.store_k(storage);
    scenario.store_v(storage);
    scenario.offsets = {3, 12};
    place_apart(scenario, 0, 0);
    const auto heads_of_grid = [&](int multiprocessors) {
        emulation::set_multiprocessors(0, multiprocessors);
        check_scenario(scenario, random);
        return emulation::last_launch().grid.y;
    };
    CHECK(heads_of_grid(1) < heads_of_grid(1000));
}

TEST_CASE("extents beyond the limits of a grid are covered by the threads going on", "[faults]") {
    const Machine machine;
    auto random = seeded_random();
    Scenario scenario;
    kvappend_descriptor &d = scenario.descriptor;
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = d.heads = d.k_dim = d.v_dim = 1;
    d.new_rows = 2;
    d.cache_rows = 3;
    kvappend_storage e4m3 = KVAPPEND_STORAGE_INIT;
    e4m3.type = KVAPPEND_STORED_E4M3;
    SECTION("more samples than the z axis has blocks") {
        d.batch = 70000;
        SECTION("of appends") {}
        SECTION("of appends in another format") {
            scenario.store_k(e4m3);
            scenario.store_v(e4m3);
        }
        SECTION("of gathers") {
            d.operation = KVAPPEND_OPERATION_GATHER;
        }
        SECTION("of gathers from another format") {
            d.operation = KVAPPEND_OPERATION_GATHER;
            scenario.store_k(e4m3);
            scenario.store_v(e4m3);
        }
    }
    SECTION("more samples than that, K alone") {
        d.batch = 70000;
        d.v_dim = 0;
    }
    SECTION("more groups of heads than the y axis has blocks") {
        // 128 rows that are not adjacent fill a block, so each head needs one of its own.
        d.heads = 66000;
        d.new_rows = d.cache_rows = 128;
        d.v_dim = 0;
        d.k_new_strides[KVAPPEND_AXIS_BATCH] = d.k_new_strides[KVAPPEND_AXIS_HEAD] = 256;
        d.k_new_strides[KVAPPEND_AXIS_ROW] = 2;
        SECTION("of appends") {}
        SECTION("of appends in another format") {
            scenario.store_k(e4m3);
            emulation::set_multiprocessors(0, 2000); // so that no thread converts more than one head before it goes on
        }
    }
    scenario.offsets.assign(static_cast<std::size_t>(d.batch), 1);
    place_apart(scenario, 0, 0);
    check_scenario(scenario, random);
    const dim3 grid = emulation::last_launch().grid;
    CHECK((grid.y == 65535 || grid.z == 65535 || grid.z == 65534));
}

TEST_CASE("a trap stops the device behind the copy, and only where a row has no place", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = decode_step();
    d.skip_policy = KVAPPEND_SKIP_TRAP;
    const PlanPointer plan = make_plan(d);
    const Buffers buffers(d);
    const auto run = [&](std::int64_t offset) {
        subject().upload(buffers.offsets, &offset, sizeof offset);
        CHECK(told(kvappend_plan_run(plan.get(), &buffers.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        return cudaStreamSynchronize(subject().stream());
    };
    CHECK(run(15) == cudaSuccess);
    CHECK(emulation::launches() == 2);
    CHECK(run(16) == cudaErrorLaunchFailure);
    CHECK(emulation::last_fault().find("trap") != std::string::npos);
    CHECK(emulation::executions() == 3); // Of four: the copies, and the look for rows without a place that found none.
}

TEST_CASE("what a run does behind the copy is loaded with the plan, and its failures are reported", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = decode_step();
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    d.flags = KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_RESET_REPORT;
    const std::uint64_t calls_before = emulation::calls(Call::FuncGetAttributes);
    make_plan(d);
    const auto loads = static_cast<int>(emulation::calls(Call::FuncGetAttributes) - calls_before);
    CHECK(loads >= 3); // The copy, that of several layers, and what comes behind it.
    for (int skip = 0; skip < loads; ++skip) {
        emulation::fail_next(Call::FuncGetAttributes, cudaErrorMemoryAllocation, skip);
        kvappend_plan *plan = nullptr;
        CHECK(kvappend_plan_create(&d, nullptr, &plan) == KVAPPEND_ERROR_CUDA);
        CHECK(plan == nullptr);
    }
    const PlanPointer plan = make_plan(d);
    const Buffers buffers(d);
    kvappend_args args = buffers.args;
    args.report = static_cast<kvappend_report *>(subject().allocate(sizeof(kvappend_report)));
    const auto run = [&] { return kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream()); };
    for (const int skip : {0, 1}) {
        emulation::fail_next(Call::LaunchKernelEx, cudaErrorLaunchOutOfResources, skip);
        CHECK(run() == KVAPPEND_ERROR_CUDA);
        CHECK(std::string(kvappend_last_error_message()).find("cudaLaunchKernelEx returned") != std::string::npos);
    }
    const auto before = emulation::launches();
    CHECK(told(run()) == "KVAPPEND_SUCCESS");
    CHECK(emulation::launches() == before + 2);
    CHECK(emulation::lazy_loads() == 0);
    subject().synchronize();
    subject().release(args.report);
}

TEST_CASE("a report that was not zero at first misleads no kernel", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = decode_step();
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    const PlanPointer plan = make_plan(d);
    const Buffers buffers(d);
    kvappend_args args = buffers.args;
    args.report = static_cast<kvappend_report *>(subject().allocate(sizeof(kvappend_report)));
    kvappend_report found;
    for (const std::int64_t garbage : {~(std::int64_t{1} << 20), std::int64_t{1}, std::int64_t{-2}}) {
        std::memset(&found, 0xff, sizeof found);
        found.state[0] = garbage;
        found.state[1] = 0;
        subject().upload(args.report, &found, sizeof found);
        CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        CHECK(cudaStreamSynchronize(subject().stream()) == cudaSuccess);
        subject().download(&found, args.report, sizeof found);
        CHECK(found.state[0] == 0);
        CHECK(found.first_row == -1); // Every row of this run has a place.
    }
    subject().release(args.report);
}

namespace {

// So many layers of the plans, cyclically, all with the same buffers, and how many launches that takes.
std::uint64_t launches_for(const std::vector<const kvappend_plan *> &cycle, std::size_t layers,
                           const kvappend_args &args) {
    std::vector<const kvappend_plan *> plans;
    for (std::size_t i = 0; i < layers; ++i) {
        plans.push_back(cycle[i % cycle.size()]);
    }
    const std::vector<const kvappend_args *> all(layers, &args);
    const auto before = emulation::launches();
    CHECK(told(kvappend_plan_run_layers(plans.data(), all.data(), layers, nullptr, 0, subject().stream())) ==
          "KVAPPEND_SUCCESS");
    subject().synchronize();
    return emulation::launches() - before;
}

} // namespace

TEST_CASE("up to 80 layers of two geometries are one launch", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = decode_step();
    const Buffers buffers(d);
    const PlanPointer dense = make_plan(d);
    d.addressing = KVAPPEND_ADDRESSING_RING;
    const PlanPointer ring = make_plan(d);
    d.sink_rows = 4;
    const PlanPointer sinks = make_plan(d);
    d.k_dim = d.v_dim = 0;
    const PlanPointer empty = make_plan(d);
    emulation::set_discard_launches(true);
    CHECK(launches_for({dense.get()}, 1, buffers.args) == 1);
    CHECK(launches_for({dense.get()}, 80, buffers.args) == 1);
    CHECK(launches_for({dense.get()}, 81, buffers.args) == 2);
    CHECK(launches_for({dense.get(), ring.get()}, 80, buffers.args) == 1);
    CHECK(launches_for({dense.get(), empty.get()}, 160, buffers.args) == 1);
    CHECK(launches_for({dense.get(), ring.get(), sinks.get()}, 6, buffers.args) == 3);
    CHECK(launches_for({empty.get()}, 5, buffers.args) == 0);
    CHECK(emulation::lazy_loads() == 0);
    // Arrays of indices of their own make a geometry, too.
    kvappend_args other = buffers.args;
    other.cache_offsets = buffers.source;
    const kvappend_plan *const plans[] = {dense.get(), ring.get(), dense.get()};
    const kvappend_args *const args[] = {&buffers.args, &buffers.args, &other};
    const auto before = emulation::launches();
    CHECK(told(kvappend_plan_run_layers(plans, args, 3, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    CHECK(emulation::launches() == before + 2);
}

TEST_CASE("a launch is programmatic where the plan asks for it and the device can", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = decode_step();
    const Buffers buffers(d);
    for (const int major : {8, 9, 10}) {
        emulation::set_architecture(0, major, 0);
        for (const bool wanted : {false, true}) {
            d.flags = wanted ? KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH : 0;
            const PlanPointer plan = make_plan(d);
            CHECK(told(kvappend_plan_run(plan.get(), &buffers.args, nullptr, 0, subject().stream())) ==
                  "KVAPPEND_SUCCESS");
            CHECK(emulation::last_launch().programmatic == (wanted && major >= 9));
            d.flags = KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH;
            const PlanPointer with = make_plan(d);
            const std::vector<std::vector<const kvappend_plan *>> orders{{with.get(), plan.get()},
                                                                         {plan.get(), with.get()}};
            for (const auto &layers : orders) {
                launches_for(layers, 2, buffers.args);
                CHECK(emulation::last_launch().programmatic == (wanted && major >= 9));
            }
        }
    }
    subject().synchronize();
    CHECK(emulation::last_fault().empty());
}

TEST_CASE("a kernel without the code that waits is not launched programmatically", "[faults]") {
    const Machine machine;
    // The oldest PTX is what a device gets that is newer than all the code but the newest PTX.
    emulation::set_architecture(0, 11, 0);
    kvappend_descriptor d = decode_step();
    d.flags = KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH;
    const Buffers buffers(d);
    for (const int code : {75, 89, 90, 100}) {
        emulation::set_code_architecture(code);
        const PlanPointer plan = make_plan(d);
        CHECK(told(kvappend_plan_run(plan.get(), &buffers.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        CHECK(emulation::last_launch().programmatic == (code >= 90));
        launches_for({plan.get()}, 2, buffers.args);
        CHECK(emulation::last_launch().programmatic == (code >= 90));
    }
}

TEST_CASE("a failing launch of layers is reported", "[faults]") {
    const Machine machine;
    const kvappend_descriptor d = decode_step();
    const Buffers buffers(d);
    const PlanPointer plan = make_plan(d);
    const std::vector<const kvappend_plan *> plans(81, plan.get());
    const std::vector<const kvappend_args *> args(81, &buffers.args);
    for (const int skip : {0, 1}) {
        emulation::fail_next(Call::LaunchKernelEx, cudaErrorLaunchOutOfResources, skip);
        CHECK(kvappend_plan_run_layers(plans.data(), args.data(), 81, nullptr, 0, subject().stream()) ==
              KVAPPEND_ERROR_CUDA);
        CHECK(std::string(kvappend_last_error_message()).find("cudaLaunchKernelEx returned") != std::string::npos);
    }
}

TEST_CASE("plans of two backends do not go in one call", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = decode_step();
    const Buffers buffers(d);
    const PlanPointer on_device = make_plan(d);
    d.backend = KVAPPEND_BACKEND_HOST;
    const PlanPointer on_host = make_plan(d);
    const kvappend_plan *const plans[] = {on_device.get(), on_host.get()};
    const kvappend_args *const args[] = {&buffers.args, &buffers.args};
    CHECK(kvappend_plan_run_layers(plans, args, 2, nullptr, 0, subject().stream()) == KVAPPEND_ERROR_BACKEND);
    CHECK(std::string(kvappend_last_error_message()) ==
          "layer 1: the plan's backend is 0: expected 1, that of the first layer's plan");
    CHECK(emulation::launches() == 0);
}

TEST_CASE("layers with 31-bit indices beside layers that need more", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = decode_step();
    d.heads = 1;
    d.new_rows = d.cache_rows = 512;
    d.k_dim = 8;
    d.v_dim = 0;
    const Buffers buffers(d);
    const PlanPointer narrow = make_plan(d);
    // One row, repeated so often that all of them as one run have more than 31 bits, and a block for each exceeds the
    // grid, which stays at 2^21 blocks.
    d.new_rows = (std::int64_t{1} << 29) + 128;
    d.k_new_strides[KVAPPEND_AXIS_BATCH] = d.k_dim;
    const PlanPointer wide = make_plan(d);
    const kvappend_plan *const plans[] = {narrow.get(), wide.get()};
    const kvappend_args *const args[] = {&buffers.args, &buffers.args};
    emulation::set_most_blocks(1); // of which there are two million
    CHECK(told(kvappend_plan_run(wide.get(), &buffers.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    CHECK(emulation::last_launch().grid.x == std::uint32_t{1} << 21);
    CHECK(told(kvappend_plan_run_layers(plans, args, 2, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    CHECK(emulation::launches() == 3); // each of the two layers has a launch of its own
    subject().synchronize();
    CHECK(emulation::last_fault().empty());
}
