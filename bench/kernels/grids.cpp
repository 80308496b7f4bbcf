// SPDX-License-Identifier: Apache-2.0
// Prints, as JSON, the grids that the library launches for the models' shapes on 132 multiprocessors: its own launch
// code runs, over the emulated runtime, which notes each launch and runs none.
#include "../../tests/support/emulation/emulation.hpp"
#include "../host/workload.hpp"

#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

namespace {

constexpr int multiprocessors = 132;
constexpr std::size_t most_cache_bytes = std::size_t{1} << 30;

void require(kvappend_status status) {
    if (status != KVAPPEND_SUCCESS) {
        throw std::runtime_error(std::string(kvappend_status_name(status)) + ": " + kvappend_last_error_message());
    }
}

// Nothing is read or written, so any aligned address will do, as long as none meets another.
template <class T>
T *address(unsigned buffer, std::size_t shift = 0) {
    return reinterpret_cast<T *>((std::uintptr_t{buffer} << 40) + shift);
}

void print(const Model &model, const Arrangement &arrangement, const Step &step, bool first) {
    Workload workload = make_workload({&model, &arrangement, &step, true, true}, most_cache_bytes);
    workload.descriptor.backend = KVAPPEND_BACKEND_CUDA;
    kvappend_plan *plan = nullptr;
    require(kvappend_plan_create(&workload.descriptor, nullptr, &plan));
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = address<void>(1);
    args.v_new = address<void>(1, workload.v_new_at);
    args.k_cache = address<void>(2);
    args.v_cache = address<void>(2, workload.v_cache_at);
    args.slots = args.cache_offsets = address<void>(3);
    args.lengths = address<std::int32_t>(4);
    args.page_table = address<std::int32_t>(5);
    args.page_indptr = address<std::int32_t>(6);
    const std::uint64_t before = emulation::launches();
    require(kvappend_plan_run(plan, &args, nullptr, 0, nullptr));
    if (emulation::launches() != before + 1) {
        throw std::runtime_error("a run did not launch exactly one kernel");
    }
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    require(kvappend_plan_get_sku(plan, &sku));
    const auto [x, y, z] = emulation::last_launch().grid;
    const dim3 block = emulation::last_launch().block;
    std::printf("%s{\"model\": \"%s\", \"phase\": \"%s\", \"batch\": %lld, \"rows\": %lld, \"layout\": \"%s\", "
                "\"kernel\": \"%s\", \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], \"blocks\": %llu, "
                "\"multiprocessors\": %d}",
                first ? "" : ",\n ", model.name, name_of(step.phase), static_cast<long long>(step.batch),
                static_cast<long long>(step.rows), arrangement.name, sku.kernel_name, x, y, z, block.x, block.y,
                block.z, static_cast<unsigned long long>(x) * y * z, multiprocessors);
    require(kvappend_plan_destroy(plan));
}

} // namespace

int main() try {
    emulation::set_multiprocessors(0, multiprocessors);
    emulation::set_discard_launches(true);
    std::printf("[");
    bool first = true;
    for (const Model &model : models) {
        for (const Step &step : steps) {
            for (const Arrangement &arrangement : arrangements) {
                print(model, arrangement, step, first);
                first = false;
            }
        }
    }
    std::printf("]\n");
    return 0;
} catch (const std::exception &failure) {
    std::fprintf(stderr, "grids: %s\n", failure.what());
    return 1;
}
