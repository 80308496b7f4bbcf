// SPDX-License-Identifier: Apache-2.0
// Runs the README's example for a GPU: the caches get the new rows at their places, and no other byte changes.
#include "readme_cuda.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace {

constexpr std::size_t batch = 8, heads = 8, cache_rows = 1024, dim = 128;
using Elements = std::vector<std::uint16_t>;

void require(int status) {
    if (status != 0) {
        std::fprintf(stderr, "a call failed: %s\n", kvappend_last_error_message());
        std::exit(1);
    }
}

struct Release {
    void operator()(void *pointer) const { cudaFree(pointer); }
};
template <typename T>
using Device = std::unique_ptr<T[], Release>;

template <typename T>
Device<T> upload(const std::vector<T> &values) {
    void *pointer = nullptr;
    require(cudaMalloc(&pointer, values.size() * sizeof(T)));
    require(cudaMemcpy(pointer, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return Device<T>(static_cast<T *>(pointer));
}

Elements rows(std::uint16_t first) {
    Elements elements(batch * heads * dim);
    for (std::size_t i = 0; i < elements.size(); ++i) {
        elements[i] = static_cast<std::uint16_t>(first + i);
    }
    return elements;
}

bool same(const Elements &rows, const std::vector<std::int64_t> &offsets, const Device<std::uint16_t> &device_cache) {
    Elements expected(batch * heads * cache_rows * dim), cache(expected.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::size_t head = i / dim; // of all samples
        const auto row = static_cast<std::size_t>(offsets[head / heads]);
        expected[(head * cache_rows + row) * dim + i % dim] = rows[i];
    }
    require(cudaMemcpy(cache.data(), device_cache.get(), cache.size() * sizeof cache[0], cudaMemcpyDeviceToHost));
    return cache == expected;
}

} // namespace

int main() {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        std::puts("skipped: there is no CUDA device");
        return 77;
    }
    const Elements k = rows(1), v = rows(20000), zero(batch * heads * cache_rows * dim);
    const std::vector<std::int64_t> offsets = {0, 1, 2, 500, 1023, 7, 77, 777};
    const auto k_new = upload(k), v_new = upload(v), k_cache = upload(zero), v_cache = upload(zero);
    const auto device_offsets = upload(offsets);
    cudaStream_t stream = nullptr;
    require(cudaStreamCreate(&stream));
    kvappend_plan *plan = nullptr;
    require(make_plan(&plan));
    require(append(plan, k_new.get(), v_new.get(), k_cache.get(), v_cache.get(), device_offsets.get(), stream));
    require(cudaStreamSynchronize(stream));
    require(kvappend_plan_destroy(plan));
    require(cudaStreamDestroy(stream));
    if (!same(k, offsets, k_cache) || !same(v, offsets, v_cache)) {
        std::puts("the caches have other bytes than the example says");
        return 1;
    }
    return 0;
}
