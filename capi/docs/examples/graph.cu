// SPDX-License-Identifier: Apache-2.0
// A decoding step that is captured once and replayed. The run advances the offsets, so nothing changes them in between.
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
    constexpr int cache_rows = 4;
    float cache[cache_rows];
    float *device_new = nullptr, *device_cache = nullptr;
    std::int64_t *device_offset = nullptr;
    cudaStream_t stream = nullptr;
    REQUIRE(cudaMalloc(&device_new, sizeof(float)));
    REQUIRE(cudaMalloc(&device_cache, sizeof cache));
    REQUIRE(cudaMalloc(&device_offset, sizeof(std::int64_t)));
    REQUIRE(cudaMemset(device_cache, 0, sizeof cache));
    REQUIRE(cudaMemset(device_offset, 0, sizeof(std::int64_t)));
    REQUIRE(cudaStreamCreate(&stream));

    // [capture]
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.flags = KVAPPEND_FLAG_ADVANCE; // Each replay adds 1 to the offset.
    d.batch = 1;
    d.heads = 1;
    d.new_rows = 1;
    d.cache_rows = cache_rows;
    d.k_dim = 1;
    kvappend_plan *plan = nullptr;
    REQUIRE(kvappend_plan_create(&d, nullptr, &plan)); // Before the capture, because it may wait for the device.

    kvappend_args a = KVAPPEND_ARGS_INIT;
    a.k_new = device_new;
    a.k_cache = device_cache;
    a.cache_offsets = device_offset;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t step = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    REQUIRE(kvappend_plan_run(plan, &a, nullptr, 0, stream)); // A real step also captures the row's kernels.
    REQUIRE(cudaStreamEndCapture(stream, &graph));
    REQUIRE(cudaGraphInstantiate(&step, graph, 0));
    // [capture]

    // [replay]
    for (int i = 0; i < 3; ++i) {
        const float row = static_cast<float>(10 + i);
        REQUIRE(cudaMemcpyAsync(device_new, &row, sizeof row, cudaMemcpyHostToDevice, stream));
        REQUIRE(cudaGraphLaunch(step, stream));
        REQUIRE(cudaStreamSynchronize(stream));
    }
    // [replay]

    REQUIRE(cudaMemcpy(cache, device_cache, sizeof cache, cudaMemcpyDeviceToHost));
    std::printf("%g %g %g %g\n", cache[0], cache[1], cache[2], cache[3]); // 10 11 12 0
    REQUIRE(cudaGraphExecDestroy(step));
    REQUIRE(cudaGraphDestroy(graph));
    kvappend_plan_destroy(plan);
    REQUIRE(cudaStreamDestroy(stream));
    REQUIRE(cudaFree(device_new));
    REQUIRE(cudaFree(device_cache));
    REQUIRE(cudaFree(device_offset));
    return 0;
}
