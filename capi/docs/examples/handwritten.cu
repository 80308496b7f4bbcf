// SPDX-License-Identifier: Apache-2.0
// A typical append kernel written by hand, and the plan that replaces it. Both write the same bytes.
#include <cuda_runtime.h>
#include <kvappend/kvappend.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

// For calls of CUDA and of the library. Both return 0 on success.
static void require(int status, const char *call) {
    if (status != 0) {
        std::fprintf(stderr, "%s: %s\n", call, kvappend_last_error_message());
        std::exit(1);
    }
}
#define REQUIRE(call) require(call, #call)

constexpr int batch = 3, heads = 2, cache_rows = 4, dim = 8;

// [before]
// Elements are 16 bits wide. There is one block for each head of a sample, and one thread for each element of a row.
__global__ void append(const unsigned short *k_new, unsigned short *k_cache, const int *cache_lengths) {
    const int pos = __ldg(&cache_lengths[blockIdx.y]);
    if (pos < 0 || pos >= cache_rows) {
        return;
    }
    const auto row = blockIdx.y * heads + blockIdx.x;
    __stwb(&k_cache[(row * cache_rows + static_cast<unsigned>(pos)) * dim + threadIdx.x],
           __ldg(&k_new[row * dim + threadIdx.x]));
}
// [before]

int main() {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        std::puts("skipped: there is no CUDA device");
        return 77;
    }
    unsigned short rows[batch * heads * dim];
    for (std::size_t i = 0; i < sizeof rows / sizeof *rows; ++i) {
        rows[i] = static_cast<unsigned short>(i);
    }
    const int lengths[batch] = {2, 0, cache_rows}; // The third sample's cache is full.
    constexpr std::size_t cache_bytes = sizeof rows * cache_rows;
    unsigned short *k_new = nullptr, *by_hand = nullptr, *by_plan = nullptr;
    int *cache_lengths = nullptr;
    cudaStream_t stream = nullptr;
    REQUIRE(cudaMalloc(&k_new, sizeof rows));
    REQUIRE(cudaMalloc(&by_hand, cache_bytes));
    REQUIRE(cudaMalloc(&by_plan, cache_bytes));
    REQUIRE(cudaMalloc(&cache_lengths, sizeof lengths));
    REQUIRE(cudaMemcpy(k_new, rows, sizeof rows, cudaMemcpyHostToDevice));
    REQUIRE(cudaMemcpy(cache_lengths, lengths, sizeof lengths, cudaMemcpyHostToDevice));
    REQUIRE(cudaMemset(by_hand, 0x5a, cache_bytes));
    REQUIRE(cudaMemset(by_plan, 0x5a, cache_bytes));
    REQUIRE(cudaStreamCreate(&stream));

    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(heads, batch);
    config.blockDim = dim3(dim);
    config.stream = stream;
    REQUIRE(cudaLaunchKernelEx(&config, append, k_new, by_hand, cache_lengths));

    // [after]
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.element_type = KVAPPEND_ELEMENT_BF16; // or F16: only the width matters
    d.offset_type = KVAPPEND_OFFSET_INT32;
    d.batch = batch;
    d.heads = heads;
    d.new_rows = 1;
    d.cache_rows = cache_rows;
    d.k_dim = dim;
    kvappend_plan *plan = nullptr; // once
    REQUIRE(kvappend_plan_create(&d, nullptr, &plan));

    kvappend_args a = KVAPPEND_ARGS_INIT; // at each step
    a.k_new = k_new;
    a.k_cache = by_plan;
    a.cache_offsets = cache_lengths;
    REQUIRE(kvappend_plan_run(plan, &a, nullptr, 0, stream));
    // [after]

    unsigned char first[cache_bytes], second[cache_bytes];
    REQUIRE(cudaMemcpyAsync(first, by_hand, cache_bytes, cudaMemcpyDeviceToHost, stream));
    REQUIRE(cudaMemcpyAsync(second, by_plan, cache_bytes, cudaMemcpyDeviceToHost, stream));
    REQUIRE(cudaStreamSynchronize(stream));
    const bool same = std::memcmp(first, second, cache_bytes) == 0;
    std::printf("%s, %d\n", same ? "the same bytes" : "other bytes", first[2 * dim * 2 + 2]); // the same bytes, 1
    kvappend_plan_destroy(plan);
    REQUIRE(cudaStreamDestroy(stream));
    for (void *const pointer : {static_cast<void *>(k_new), static_cast<void *>(by_hand), static_cast<void *>(by_plan),
                                static_cast<void *>(cache_lengths)}) {
        REQUIRE(cudaFree(pointer));
    }
    return 0;
}
