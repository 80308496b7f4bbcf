// SPDX-License-Identifier: Apache-2.0
// Programmatic dependent launch: each run may start while the kernel before it in the stream still runs.
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
    const float rows[2] = {1, 2};
    float cache[4];
    float *device_rows = nullptr, *device_cache = nullptr;
    std::int64_t *device_offset = nullptr;
    cudaStream_t stream = nullptr;
    REQUIRE(cudaMalloc(&device_rows, sizeof rows));
    REQUIRE(cudaMalloc(&device_cache, sizeof cache));
    REQUIRE(cudaMalloc(&device_offset, sizeof(std::int64_t)));
    REQUIRE(cudaMemcpy(device_rows, rows, sizeof rows, cudaMemcpyHostToDevice));
    REQUIRE(cudaMemset(device_cache, 0, sizeof cache));
    REQUIRE(cudaMemset(device_offset, 0, sizeof(std::int64_t)));
    REQUIRE(cudaStreamCreate(&stream));

    // [describe]
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.flags = KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH | KVAPPEND_FLAG_ADVANCE;
    // [describe]
    d.batch = 1;
    d.heads = 1;
    d.new_rows = 1;
    d.cache_rows = 4;
    d.k_dim = 1;
    kvappend_plan *plan = nullptr;
    REQUIRE(kvappend_plan_create(&d, nullptr, &plan));
    kvappend_args a = KVAPPEND_ARGS_INIT;
    a.k_cache = device_cache;
    a.cache_offsets = device_offset;
    for (int step = 0; step < 2; ++step) {
        a.k_new = device_rows + step;
        REQUIRE(kvappend_plan_run(plan, &a, nullptr, 0, stream));
    }
    REQUIRE(cudaMemcpyAsync(cache, device_cache, sizeof cache, cudaMemcpyDeviceToHost, stream)); // It waits as usual.
    REQUIRE(cudaStreamSynchronize(stream));
    std::printf("%g %g %g\n", cache[0], cache[1], cache[2]); // 1 2 0
    kvappend_plan_destroy(plan);
    REQUIRE(cudaStreamDestroy(stream));
    REQUIRE(cudaFree(device_rows));
    REQUIRE(cudaFree(device_cache));
    REQUIRE(cudaFree(device_offset));
    return 0;
}
