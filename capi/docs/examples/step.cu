// SPDX-License-Identifier: Apache-2.0
// One decoding step on a GPU, with the allocation and the copies that the README leaves out.
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
    constexpr int batch = 2, cache_rows = 4, dim = 3;
    const float k_new[batch][dim] = {{1, 2, 3}, {4, 5, 6}};
    const std::int64_t offsets[batch] = {2, 0};
    float k_cache[batch][cache_rows][dim];

    // [buffers]
    float *device_new = nullptr, *device_cache = nullptr;
    std::int64_t *device_offsets = nullptr;
    cudaStream_t stream = nullptr;
    REQUIRE(cudaMalloc(&device_new, sizeof k_new));
    REQUIRE(cudaMalloc(&device_cache, sizeof k_cache));
    REQUIRE(cudaMalloc(&device_offsets, sizeof offsets));
    REQUIRE(cudaStreamCreate(&stream));
    REQUIRE(cudaMemcpyAsync(device_new, k_new, sizeof k_new, cudaMemcpyHostToDevice, stream));
    REQUIRE(cudaMemcpyAsync(device_offsets, offsets, sizeof offsets, cudaMemcpyHostToDevice, stream));
    REQUIRE(cudaMemsetAsync(device_cache, 0, sizeof k_cache, stream));
    // [buffers]

    // [run]
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.batch = batch;
    d.heads = 1;
    d.new_rows = 1;
    d.cache_rows = cache_rows;
    d.k_dim = dim;
    kvappend_plan *plan = nullptr;
    REQUIRE(kvappend_plan_create(&d, nullptr, &plan));

    kvappend_args a = KVAPPEND_ARGS_INIT;
    a.k_new = device_new, a.k_new_bytes = sizeof k_new;
    a.k_cache = device_cache, a.k_cache_bytes = sizeof k_cache;
    a.cache_offsets = device_offsets, a.cache_offsets_bytes = sizeof offsets;
    // The run makes one launch, in the order of the stream.
    REQUIRE(kvappend_plan_run(plan, &a, nullptr, 0, stream));
    // [run]

    REQUIRE(cudaMemcpyAsync(k_cache, device_cache, sizeof k_cache, cudaMemcpyDeviceToHost, stream));
    REQUIRE(cudaStreamSynchronize(stream));
    std::printf("%g %g %g\n", k_cache[0][2][0], k_cache[1][0][2], k_cache[0][3][0]); // 1 6 0
    kvappend_plan_destroy(plan);
    REQUIRE(cudaStreamDestroy(stream));
    REQUIRE(cudaFree(device_new));
    REQUIRE(cudaFree(device_cache));
    REQUIRE(cudaFree(device_offsets));
    return 0;
}
