// SPDX-License-Identifier: Apache-2.0
// Three layers in one launch: two have a cache of all positions, and one has a sliding window.
#include <cuda_runtime.h>
#include <kvappend/kvappend.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

// For calls of CUDA and of the library. Both return 0 on success.
static void require(int status, const char *call) {
    if (status != 0) {
        std::fprintf(stderr, "%s: %s\n", call, kvappend_last_error_message());
        std::exit(1);
    }
}
#define REQUIRE(call) require(call, #call)

int main() {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        std::puts("skipped: there is no CUDA device");
        return 77;
    }
    constexpr int layers = 3, cache_rows = 6, window = 4;
    const float rows[layers] = {1, 2, 3};
    const std::int64_t offset = 5;
    float cache[layers][cache_rows];
    float *device_rows = nullptr, *device_cache = nullptr;
    std::int64_t *device_offset = nullptr;
    REQUIRE(cudaMalloc(&device_rows, sizeof rows));
    REQUIRE(cudaMalloc(&device_cache, sizeof cache));
    REQUIRE(cudaMalloc(&device_offset, sizeof offset));
    REQUIRE(cudaMemcpy(device_rows, rows, sizeof rows, cudaMemcpyHostToDevice));
    REQUIRE(cudaMemcpy(device_offset, &offset, sizeof offset, cudaMemcpyHostToDevice));
    REQUIRE(cudaMemset(device_cache, 0, sizeof cache));

    // [plans]
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.batch = 1;
    d.heads = 1;
    d.new_rows = 1;
    d.cache_rows = cache_rows;
    d.k_dim = 1;
    d.flags = KVAPPEND_FLAG_ADVANCE; // The layers share the offset. It advances once in a call.
    kvappend_plan *whole = nullptr, *sliding = nullptr;
    REQUIRE(kvappend_plan_create(&d, nullptr, &whole));
    d.addressing = KVAPPEND_ADDRESSING_RING;
    d.cache_rows = window;
    REQUIRE(kvappend_plan_create(&d, nullptr, &sliding));
    // [plans]

    // [run]
    kvappend_args a[layers] = {KVAPPEND_ARGS_INIT, KVAPPEND_ARGS_INIT, KVAPPEND_ARGS_INIT};
    for (int layer = 0; layer < layers; ++layer) {
        a[layer].k_new = device_rows + layer;
        a[layer].k_cache = device_cache + layer * cache_rows;
        a[layer].cache_offsets = device_offset;
    }
    const kvappend_plan *const plans[layers] = {whole, whole, sliding};
    const kvappend_args *const args[layers] = {&a[0], &a[1], &a[2]};
    REQUIRE(kvappend_plan_run_layers(plans, args, layers, nullptr, 0, nullptr));
    // [run]

    std::int64_t next = 0;
    REQUIRE(cudaMemcpy(cache, device_cache, sizeof cache, cudaMemcpyDeviceToHost));
    REQUIRE(cudaMemcpy(&next, device_offset, sizeof next, cudaMemcpyDeviceToHost));
    std::printf("%g %g\n", cache[0][5], cache[1][5]);                  // 1 2
    std::printf("%g, next %d\n", cache[2][1], static_cast<int>(next)); // 3, next 6
    kvappend_plan_destroy(whole);
    kvappend_plan_destroy(sliding);
    REQUIRE(cudaFree(device_rows));
    REQUIRE(cudaFree(device_cache));
    REQUIRE(cudaFree(device_offset));
    return 0;
}
