// SPDX-License-Identifier: Apache-2.0
// One plan for each device. Each plan is created and run while its device is current.
#include <cuda_runtime.h>
#include <kvappend/kvappend.h>

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
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count < 2) {
        std::puts("skipped: there are no two CUDA devices");
        return 77;
    }
    constexpr int devices = 2;
    kvappend_plan *plans[devices] = {};
    float *rows[devices] = {}, *caches[devices] = {};
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.flags = KVAPPEND_FLAG_ZERO_OFFSETS;
    d.batch = 1;
    d.heads = 1;
    d.new_rows = 1;
    d.cache_rows = 1;
    d.k_dim = 1;
    // [each device]
    for (int device = 0; device < devices; ++device) {
        const float row = static_cast<float>(10 + device);
        REQUIRE(cudaSetDevice(device));
        REQUIRE(kvappend_plan_create(&d, nullptr, &plans[device])); // The plan belongs to this device.
        REQUIRE(cudaMalloc(&rows[device], sizeof row));
        REQUIRE(cudaMalloc(&caches[device], sizeof row));
        REQUIRE(cudaMemcpy(rows[device], &row, sizeof row, cudaMemcpyHostToDevice));
    }
    kvappend_args a = KVAPPEND_ARGS_INIT;
    for (int device = 0; device < devices; ++device) {
        REQUIRE(cudaSetDevice(device));
        a.k_new = rows[device];
        a.k_cache = caches[device];
        REQUIRE(kvappend_plan_run(plans[device], &a, nullptr, 0, nullptr)); // A real program passes a stream.
    }
    // [each device]

    // [wrong]
    REQUIRE(cudaSetDevice(1));
    const kvappend_status status = kvappend_plan_run(plans[0], &a, nullptr, 0, nullptr);
    std::printf("%s\n", kvappend_status_name(status)); // KVAPPEND_ERROR_WRONG_DEVICE
    // [wrong]

    float found[devices] = {};
    for (int device = 0; device < devices; ++device) {
        REQUIRE(cudaSetDevice(device));
        REQUIRE(cudaMemcpy(&found[device], caches[device], sizeof(float), cudaMemcpyDeviceToHost));
        REQUIRE(cudaFree(rows[device]));
        REQUIRE(cudaFree(caches[device]));
        kvappend_plan_destroy(plans[device]);
    }
    std::printf("%g %g\n", found[0], found[1]); // 10 11
    return 0;
}
