// SPDX-License-Identifier: Apache-2.0
// The emulated CUDA runtime refuses what a GPU refuses, and lets right programs pass.
#include "emulation.hpp"

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

using emulation::Call;

namespace {

template <typename T>
struct Copy {
    const T *from;
    T *to;
    long long count;
};

template <typename T>
__global__ void __launch_bounds__(1024) copy_kernel(const __grid_constant__ Copy<T> copy) {
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < copy.count; i += stride) {
        __stcs(copy.to + i, __ldcs(copy.from + i));
    }
}

// Every load and store instruction.
__global__ void all_instructions(unsigned int *values) {
    __stwb(values, __ldg(values) + 1);
    __stcg(values, __ldca(values) + 1);
    __stcs(values, __ldcg(values) + 1);
    __stwt(values, __ldcs(values) + 1);
    __stwb(values, __ldcv(values) + 1);
    __stwb(values, __ldlu(values) + 1);
}

// Each thread writes down who it is.
__global__ void identify(unsigned int *ids) {
    const unsigned int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned int id = block * (blockDim.x * blockDim.y * blockDim.z) + thread;
    __stwb(ids + id, __ldg(ids + id) + id);
}

__global__ void nothing() {}

// Reads when the launch before it is done, but for its last thread, which reads at once.
__global__ void all_but_one_wait(unsigned int *value) {
    if (threadIdx.x + 1 < blockDim.x) {
        cudaGridDependencySynchronize();
    }
    __stwb(value, __ldg(value) + 1);
}

// What no kernel can do, but another thread of the host may: free the memory that the kernel is reading.
__global__ void free_and_write(unsigned int *value) {
    const unsigned int before = __ldg(value);
    cudaFree(value);
    __stwb(value, before);
}

constexpr unsigned all_lanes = 0xffffffff;

// Each thread gets the number that the thread opposite of it has put in the memory that they share, twice.
__global__ void exchange(unsigned int *numbers) {
    __shared__ unsigned int shared[256];
    const unsigned int opposite = blockDim.x - 1 - threadIdx.x;
    unsigned int *const mine = numbers + blockIdx.x * blockDim.x + threadIdx.x;
    for (unsigned int round = 0; round < 2; ++round) {
        shared[threadIdx.x] = __ldg(mine) + threadIdx.x;
        __syncthreads();
        __stcg(mine, shared[opposite]);
        __syncthreads();
    }
}

// What each lane gets when each brings its number plus 100, and one of the shuffles is named by `which`.
template <typename T>
__global__ void shuffle_lanes(T *results, int which) {
    const auto number = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
    const T value = static_cast<T>(number) + static_cast<T>(100);
    T result{};
    switch (which) {
    case 0:
        result = __shfl_sync(all_lanes, value, number % 32 / 2);
        break;
    case 1:
        result = __shfl_sync(all_lanes, value, number + 1, 8);
        break;
    case 2:
        result = __shfl_xor_sync(all_lanes, value, 5);
        break;
    case 3:
        result = __shfl_xor_sync(all_lanes, value, 12, 8);
        break;
    case 4:
        result = __shfl_down_sync(all_lanes, value, 3);
        break;
    default:
        result = __shfl_down_sync(all_lanes, value, 3, 4);
        break;
    }
    std::memcpy(results + number, &result, sizeof result);
}

// The same in words, for lane `lane` of its warp.
int shuffled_lane(int which, int lane) {
    const auto first = [&](int width) { return lane / width * width; };
    switch (which) {
    case 0:
        return lane / 2;
    case 1:
        return first(8) + (lane + 1) % 8;
    case 2:
        return lane ^ 5;
    case 3: // lanes of the part before may be read, those of the part behind may not
        return (lane ^ 12) < first(8) + 8 ? lane ^ 12 : lane;
    case 4:
        return lane + 3 < 32 ? lane + 3 : lane;
    default:
        return lane + 3 < first(4) + 4 ? lane + 3 : lane;
    }
}

// Odd lanes meet odd ones while even lanes meet even ones; lanes below 4 vote for.
__global__ void vote(unsigned int *results) {
    const bool odd = threadIdx.x % 2 != 0;
    const unsigned int mask = odd ? 0xaaaaaaaa : 0x55555555;
    const unsigned int ballot = __ballot_sync(mask, threadIdx.x < 4 ? -1 : 0);
    const int any = __any_sync(mask, odd && threadIdx.x == 31 ? 8 : 0);
    __syncwarp(mask);
    __syncwarp();
    __stcg(results + threadIdx.x, ballot << 1 | static_cast<unsigned int>(any));
}

// Writes down as which each thread came.
__global__ void queue_up(unsigned int *counter, unsigned int *arrivals) {
    __stcg(arrivals + blockIdx.x * blockDim.x + threadIdx.x, atomicAdd(counter, 1U));
}

// A sum that is right when all threads have added to it, which nothing makes sure of unless `wait`.
__global__ void sum_up(unsigned int *sum, unsigned int *seen, bool wait) {
    atomicAdd(sum, threadIdx.x);
    if (wait) {
        __syncthreads();
    }
    if (threadIdx.x == blockDim.x - 1) {
        __stcg(seen, __ldcg(sum));
    }
}

// What threads leave behind on their stacks when a kernel ends early.
std::atomic<int> visitors{0};
struct Visitor {
    Visitor() { ++visitors; }
    Visitor(const Visitor &) = delete;
    Visitor &operator=(const Visitor &) = delete;
    ~Visitor() { --visitors; }
};

enum class Wrong {
    Nothing,
    Ended,
    ManyEnded,
    TwoBarriers,
    MissingLane,
    OtherMask,
    OwnLane,
    ReadsLane,
    ReadsEnded,
    BarrierAndWarp,
    Trap,
    TrapBefore,
    Load
};

// The threads of each warp sum up by shuffles, and the last `few` of them have ended before.
__global__ void sum_without(unsigned int *sums, unsigned int few) {
    const Visitor visitor;
    if (threadIdx.x % 32 >= 32 - few) {
        return;
    }
    unsigned int sum = 1;
    for (int distance = 1; distance < 16; distance *= 2) {
        sum += __shfl_xor_sync(all_lanes, sum, distance);
    }
    __stcg(sums + threadIdx.x, sum);
}

// A kernel of 64 threads that meet twice, in which thread 37 does something wrong in between, and then meet once more.
__global__ void go_wrong(unsigned int *value, Wrong wrong) {
    const Visitor visitor;
    const bool odd_one = threadIdx.x == 37;
    if (wrong == Wrong::TrapBefore && odd_one) {
        __trap();
    }
    __syncthreads();
    __syncwarp();
    if (wrong == Wrong::Ended && odd_one) {
        return;
    }
    if (wrong == Wrong::ManyEnded && threadIdx.x > 2) {
        return;
    }
    if (wrong == Wrong::TwoBarriers && odd_one) {
        __syncthreads();
    }
    if (wrong == Wrong::MissingLane && threadIdx.x >= 32 && !odd_one) {
        __shfl_xor_sync(all_lanes, 1, 1);
    }
    if (wrong == Wrong::OtherMask && threadIdx.x >= 32) {
        __syncwarp(odd_one ? 0xff : 0xffffffff);
    }
    if (wrong == Wrong::OwnLane && odd_one) {
        __ballot_sync(all_lanes ^ (1U << 5), 1);
    }
    if (wrong == Wrong::ReadsLane && odd_one) {
        __shfl_sync(1U << 5, 1, 6);
    }
    if (wrong == Wrong::ReadsEnded && threadIdx.x >= 32) {
        if (odd_one) {
            return;
        }
        __shfl_sync(all_lanes, 1, 5);
    }
    if (wrong == Wrong::BarrierAndWarp && odd_one) {
        __syncwarp();
    }
    if (wrong == Wrong::Trap && odd_one) {
        __trap();
    }
    if (wrong == Wrong::Load && odd_one) {
        __ldg(value + 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        __stcg(value, __ldcg(value) + 1);
    }
}

// Each thread waits for the launch before, or all but thread 1 do, and touches memory once they have met.
__global__ void wait_and_meet(unsigned int *value, bool all) {
    if (all || threadIdx.x != 1) {
        cudaGridDependencySynchronize();
    }
    __syncthreads();
    __ldg(value);
}

cudaLaunchConfig_t config(dim3 grid, dim3 block, cudaStream_t stream) {
    cudaLaunchConfig_t result{};
    result.gridDim = grid;
    result.blockDim = block;
    result.stream = stream;
    return result;
}

// A stream and device memory, on a machine just reset.
class Machine {
public:
    Machine() {
        emulation::reset();
        REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
    }
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;
    ~Machine() {
        emulation::reset();
        for (void *pointer : pointers_) {
            CHECK(cudaFree(pointer) == cudaSuccess);
        }
        CHECK(cudaStreamDestroy(stream) == cudaSuccess);
        CHECK(emulation::live_allocations() == 0);
        CHECK(emulation::live_streams() == 0);
    }
    template <typename T>
    T *allocate(std::size_t count) {
        T *pointer = nullptr;
        REQUIRE(cudaMalloc(&pointer, count * sizeof(T)) == cudaSuccess);
        pointers_.push_back(pointer);
        return pointer;
    }
    void release(void *pointer) {
        REQUIRE(cudaFree(pointer) == cudaSuccess);
        std::erase(pointers_, pointer);
    }
    template <typename T>
    cudaError_t launch_copy(const T *from, T *to, long long count) const {
        const cudaLaunchConfig_t one = config(2, 32, stream);
        return cudaLaunchKernelEx(&one, copy_kernel<T>, Copy<T>{from, to, count});
    }
    // Launches a copy that must end with the error, and sees the error stick.
    template <typename T>
    void expect_fault(const T *from, T *to, long long count, cudaError_t error) const {
        CHECK(launch_copy(from, to, count) == cudaSuccess);
        CHECK(emulation::last_fault().empty());
        CHECK(cudaStreamSynchronize(stream) == error);
        CHECK_FALSE(emulation::last_fault().empty());
        CHECK(launch_copy(from, to, count) == error);
        CHECK(cudaDeviceSynchronize() == error);
        void *pointer = nullptr;
        CHECK(cudaMalloc(&pointer, 16) == error);
        CHECK(cudaGetLastError() == error);
        CHECK(cudaGetLastError() == error);
    }

    cudaStream_t stream = nullptr;

private:
    std::vector<void *> pointers_;
};

template <typename T>
T *shifted(T *pointer, std::ptrdiff_t bytes) {
    return reinterpret_cast<T *>(reinterpret_cast<std::intptr_t>(pointer) + bytes);
}

} // namespace

TEMPLATE_TEST_CASE("a right copy of each width passes", "[emulation]", unsigned char, unsigned short, int, unsigned int,
                   long, unsigned long, long long, unsigned long long, int2, uint2, int4, uint4, longlong2) {
    Machine machine;
    constexpr std::size_t count = 1001;
    std::vector<unsigned char> bytes(count * sizeof(TestType));
    std::iota(bytes.begin(), bytes.end(), static_cast<unsigned char>(1));
    auto *from = machine.allocate<TestType>(count);
    auto *to = machine.allocate<TestType>(count);
    REQUIRE(cudaMemcpy(from, bytes.data(), bytes.size(), cudaMemcpyHostToDevice) == cudaSuccess);
    REQUIRE(machine.launch_copy(from, to, count) == cudaSuccess);
    std::vector<unsigned char> result(bytes.size());
    REQUIRE(cudaMemcpy(result.data(), to, bytes.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(result == bytes);
    CHECK(emulation::last_fault().empty());
    for (const std::size_t width : {1U, 2U, 4U, 8U, 16U}) {
        CHECK(emulation::loads(width) == (width == sizeof(TestType) ? count : 0));
        CHECK(emulation::stores(width) == (width == sizeof(TestType) ? count : 0));
    }
}

TEST_CASE("every load and store instruction works", "[emulation]") {
    Machine machine;
    auto *value = machine.allocate<unsigned int>(1);
    const cudaLaunchConfig_t one = config(1, 1, machine.stream);
    REQUIRE(cudaLaunchKernelEx(&one, all_instructions, value) == cudaSuccess);
    unsigned int result = 0;
    REQUIRE(cudaMemcpy(&result, value, sizeof result, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(result == 6);
    CHECK(emulation::loads(4) == 6);
    CHECK(emulation::stores(4) == 6);
}

TEST_CASE("every thread of the grid runs once", "[emulation]") {
    Machine machine;
    constexpr std::size_t count = std::size_t{2} * 3 * 4 * 5 * 6 * 7;
    auto *ids = machine.allocate<unsigned int>(count);
    const cudaLaunchConfig_t one = config({2, 3, 4}, {5, 6, 7}, machine.stream);
    REQUIRE(cudaLaunchKernelEx(&one, identify, ids) == cudaSuccess);
    CHECK(emulation::last_launch().grid.y == 3);
    CHECK(emulation::last_launch().block.z == 7);
    CHECK(emulation::last_launch().stream == machine.stream);
    CHECK(emulation::last_launch().kernel == reinterpret_cast<const void *>(identify));
    std::vector<unsigned int> result(count);
    REQUIRE(cudaMemcpy(result.data(), ids, count * 4, cudaMemcpyDeviceToHost) == cudaSuccess);
    std::vector<unsigned int> expected(count);
    std::iota(expected.begin(), expected.end(), 0U);
    CHECK(result == expected);
}

TEST_CASE("accesses outside an allocation are caught", "[emulation]") {
    Machine machine;
    auto *from = machine.allocate<unsigned char>(100);
    auto *to = machine.allocate<unsigned char>(100);
    auto *wide = machine.allocate<uint4>(4);

    SECTION("one byte read past the end") {
        machine.expect_fault(from, to, 101, cudaErrorIllegalAddress);
        CHECK(emulation::last_fault().find("load of 1 bytes") == 0);
        CHECK(emulation::last_fault().find("thread (4,0,0) of block (1,0,0)") != std::string::npos);
    }
    SECTION("one byte written before the start") {
        machine.expect_fault(from, to - 1, 1, cudaErrorIllegalAddress);
        CHECK(emulation::last_fault().find("store of 1 bytes") == 0);
    }
    SECTION("a wide load that only begins inside") {
        machine.expect_fault(reinterpret_cast<const uint4 *>(from + 96), wide, 1, cudaErrorIllegalAddress);
    }
    SECTION("memory of the host") {
        const unsigned char local = 1;
        machine.expect_fault(&local, to, 1, cudaErrorIllegalAddress);
    }
    SECTION("a null pointer") {
        machine.expect_fault(from, static_cast<unsigned char *>(nullptr), 1, cudaErrorIllegalAddress);
    }
    SECTION("memory freed before the launch") {
        machine.release(from);
        machine.expect_fault(from, to, 1, cudaErrorIllegalAddress);
    }
    SECTION("memory freed after the launch") {
        CHECK(machine.launch_copy(from, to, 1) == cudaSuccess);
        machine.release(from);
        CHECK(cudaStreamSynchronize(machine.stream) == cudaErrorIllegalAddress);
    }
    SECTION("memory freed between two launches, the first of which has found it") {
        CHECK(machine.launch_copy(from, to, 100) == cudaSuccess);
        CHECK(cudaStreamSynchronize(machine.stream) == cudaSuccess);
        machine.release(from);
        machine.expect_fault(from, to, 1, cudaErrorIllegalAddress);
    }
    SECTION("memory freed while the kernel runs") {
        unsigned int *value = nullptr;
        REQUIRE(cudaMalloc(&value, sizeof *value) == cudaSuccess);
        const cudaLaunchConfig_t one = config(1, 1, machine.stream);
        CHECK(cudaLaunchKernelEx(&one, free_and_write, value) == cudaSuccess);
        CHECK(cudaStreamSynchronize(machine.stream) == cudaErrorIllegalAddress);
    }
    SECTION("memory of another device") {
        REQUIRE(cudaSetDevice(1) == cudaSuccess);
        auto *other = machine.allocate<unsigned char>(100);
        REQUIRE(cudaSetDevice(0) == cudaSuccess);
        machine.expect_fault(other, to, 1, cudaErrorIllegalAddress);
        CHECK(cudaSetDevice(1) == cudaSuccess);
        CHECK(cudaDeviceSynchronize() == cudaSuccess); // only device 0 is broken
    }
    CHECK(emulation::last_fault().find("not in memory of the device") != std::string::npos);
}

TEMPLATE_TEST_CASE("misaligned accesses are caught", "[emulation]", unsigned short, unsigned int, unsigned long long,
                   uint2, uint4) {
    Machine machine;
    auto *from = machine.allocate<TestType>(8);
    auto *to = machine.allocate<TestType>(8);
    const auto half = static_cast<std::ptrdiff_t>(sizeof(TestType) / 2);
    SECTION("load") {
        machine.expect_fault(shifted(from, half), to, 1, cudaErrorMisalignedAddress);
    }
    SECTION("store") {
        machine.expect_fault(from, shifted(to, half), 1, cudaErrorMisalignedAddress);
    }
    SECTION("store by one byte") {
        machine.expect_fault(from, shifted(to, 1), 1, cudaErrorMisalignedAddress);
    }
    CHECK(emulation::last_fault().find("misaligned") != std::string::npos);
}

TEST_CASE("what comes before the fault in a stream is done, what comes after is not", "[emulation]") {
    Machine machine;
    auto *values = machine.allocate<unsigned int>(3);
    const cudaLaunchConfig_t one = config(1, 1, machine.stream);
    CHECK(cudaLaunchKernelEx(&one, all_instructions, values) == cudaSuccess);
    CHECK(cudaLaunchKernelEx(&one, all_instructions, values + 3) == cudaSuccess);
    CHECK(cudaLaunchKernelEx(&one, all_instructions, values + 1) == cudaSuccess);
    CHECK(cudaStreamSynchronize(machine.stream) == cudaErrorIllegalAddress);
    CHECK(emulation::executions() == 1);
    emulation::reset();
    unsigned int result[3] = {};
    REQUIRE(cudaMemcpy(result, values, sizeof result, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(result[0] == 6);
    CHECK(result[1] == 0);
}

TEST_CASE("launches that a GPU refuses are refused", "[emulation]") {
    Machine machine;
    const auto launched = [&](dim3 grid, dim3 block, std::size_t shared = 0) {
        cudaLaunchConfig_t one = config(grid, block, machine.stream);
        one.dynamicSmemBytes = shared;
        return cudaLaunchKernelEx(&one, nothing);
    };
    CHECK(launched({0, 1, 1}, 1) == cudaErrorInvalidConfiguration);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(launched({1, 0, 1}, 1) == cudaErrorInvalidConfiguration);
    CHECK(launched({1, 1, 0}, 1) == cudaErrorInvalidConfiguration);
    CHECK(launched(1, {0, 1, 1}) == cudaErrorInvalidConfiguration);
    CHECK(launched({0x80000000U, 1, 1}, 1) == cudaErrorInvalidConfiguration);
    CHECK(launched({1, 65536, 1}, 1) == cudaErrorInvalidConfiguration);
    CHECK(launched({1, 1, 65536}, 1) == cudaErrorInvalidConfiguration);
    CHECK(launched(1, {1025, 1, 1}) == cudaErrorInvalidConfiguration);
    CHECK(launched(1, {1, 1, 65}) == cudaErrorInvalidConfiguration);
    CHECK(launched(1, {32, 33, 1}) == cudaErrorInvalidConfiguration);
    CHECK(launched(1, 1, 48 * 1024 + 1) == cudaErrorInvalidValue);
    CHECK(emulation::launches() == 0);
    CHECK(launched(1, 1, 48 * 1024) == cudaSuccess);
    CHECK(launched(1, {16, 1, 64}) == cudaSuccess);
    emulation::set_discard_launches(true);
    CHECK(launched({0x7fffffffU, 65535, 65535}, 1) == cudaSuccess);
    emulation::set_discard_launches(false);
    CHECK(emulation::launches() == 3);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(emulation::executions() == 2);
    CHECK(cudaLaunchKernelEx(nullptr, nothing) == cudaErrorInvalidValue);

    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t one = config(1, 1, machine.stream);
    one.attrs = &attribute;
    one.numAttrs = 1;
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaSuccess);
    CHECK(emulation::last_launch().programmatic);
    attribute.id = static_cast<cudaLaunchAttributeID>(4);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaErrorNotSupported);
}

TEST_CASE("a kernel that is launched programmatically must wait before it touches memory", "[emulation]") {
    for (const int allowed : {0, 1}) {
        Machine machine;
        unsigned int *value = nullptr;
        REQUIRE(cudaMalloc(&value, sizeof *value) == cudaSuccess);
        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = allowed;
        cudaLaunchConfig_t three = config(1, 3, machine.stream);
        three.attrs = &attribute;
        three.numAttrs = 1;
        CHECK(cudaLaunchKernelEx(&three, all_but_one_wait, value) == cudaSuccess);
        CHECK(cudaStreamSynchronize(machine.stream) == (allowed != 0 ? cudaErrorLaunchFailure : cudaSuccess));
        const std::string words = "without waiting for the launch before, by thread (2,0,0)";
        CHECK((emulation::last_fault().find(words) != std::string::npos) == (allowed != 0));
        cudaFree(value);
    }
}

TEST_CASE("threads of a block meet at barriers", "[emulation]") {
    for (const unsigned int threads : {1U, 2U, 33U, 256U}) {
        Machine machine;
        constexpr unsigned int blocks = 3;
        auto *numbers = machine.allocate<unsigned int>(std::size_t{blocks} * threads);
        std::vector<unsigned int> expected(std::size_t{blocks} * threads);
        std::iota(expected.begin(), expected.end(), 7U);
        REQUIRE(cudaMemcpy(numbers, expected.data(), expected.size() * 4, cudaMemcpyHostToDevice) == cudaSuccess);
        for (unsigned int &number : expected) {
            number += threads - 1; // its own place and the opposite one
        }
        for (const emulation::Order order : {emulation::Order::Ascending, emulation::Order::Descending}) {
            emulation::set_block_order(order);
            emulation::set_thread_order(order);
            const cudaLaunchConfig_t one = config(blocks, threads, machine.stream);
            REQUIRE(cudaLaunchKernelEx(&one, exchange, numbers) == cudaSuccess);
            std::vector<unsigned int> result(expected.size());
            REQUIRE(cudaMemcpy(result.data(), numbers, result.size() * 4, cudaMemcpyDeviceToHost) == cudaSuccess);
            CHECK(result == expected);
            for (unsigned int &number : expected) {
                number += threads - 1;
            }
        }
        CHECK(emulation::loads(4) == 2ULL * 2 * blocks * threads);
    }
}

TEMPLATE_TEST_CASE("lanes of a warp shuffle what they have", "[emulation]", int, unsigned int, float, long long,
                   unsigned long long, double) {
    Machine machine;
    constexpr int threads = 96;
    std::vector<TestType> results(threads);
    for (int which = 0; which < 6; ++which) {
        const cudaLaunchConfig_t one = config(1, {24, 4, 1}, machine.stream);
        REQUIRE(cudaLaunchKernelEx(&one, shuffle_lanes<TestType>, results.data(), which) == cudaSuccess);
        REQUIRE(cudaStreamSynchronize(machine.stream) == cudaSuccess);
        for (int number = 0; number < threads; ++number) {
            INFO("shuffle " << which << ", thread " << number);
            const int expected = number / 32 * 32 + shuffled_lane(which, number % 32) + 100;
            CHECK(results[static_cast<std::size_t>(number)] == static_cast<TestType>(expected));
        }
    }
}

TEST_CASE("lanes of a warp vote in groups", "[emulation]") {
    Machine machine;
    auto *results = machine.allocate<unsigned int>(32);
    const cudaLaunchConfig_t one = config(1, 32, machine.stream);
    REQUIRE(cudaLaunchKernelEx(&one, vote, results) == cudaSuccess);
    unsigned int found[32] = {};
    REQUIRE(cudaMemcpy(found, results, sizeof found, cudaMemcpyDeviceToHost) == cudaSuccess);
    for (unsigned int lane = 0; lane < 32; ++lane) {
        CHECK(found[lane] == (lane % 2 != 0 ? 0b10101U : 0b01010U));
    }
}

TEST_CASE("blocks and threads run in the order that a test wants", "[emulation]") {
    using emulation::Order;
    Machine machine;
    auto *counter = machine.allocate<unsigned int>(1);
    auto *arrivals = machine.allocate<unsigned int>(6);
    const auto run = [&](Order blocks, Order threads) {
        emulation::set_block_order(blocks);
        emulation::set_thread_order(threads);
        std::vector<unsigned int> found(6);
        const cudaLaunchConfig_t one = config(2, 3, machine.stream);
        CHECK(cudaMemset(counter, 0, 4) == cudaSuccess);
        CHECK(cudaLaunchKernelEx(&one, queue_up, counter, arrivals) == cudaSuccess);
        CHECK(cudaMemcpy(found.data(), arrivals, 24, cudaMemcpyDeviceToHost) == cudaSuccess);
        return found;
    };
    CHECK(run(Order::Ascending, Order::Ascending) == std::vector<unsigned int>{0, 1, 2, 3, 4, 5});
    CHECK(run(Order::Descending, Order::Ascending) == std::vector<unsigned int>{3, 4, 5, 0, 1, 2});
    CHECK(run(Order::Ascending, Order::Descending) == std::vector<unsigned int>{2, 1, 0, 5, 4, 3});
    CHECK(run(Order::Descending, Order::Descending) == std::vector<unsigned int>{5, 4, 3, 2, 1, 0});
    emulation::set_most_blocks(1);
    CHECK(run(Order::Descending, Order::Ascending)[3] == 0);
    emulation::reset();
    CHECK(run(Order::Ascending, Order::Ascending)[0] == 0);
}

TEST_CASE("another order shows that a barrier is missing", "[emulation]") {
    Machine machine;
    auto *values = machine.allocate<unsigned int>(2);
    for (const bool wait : {false, true}) {
        for (const emulation::Order order : {emulation::Order::Ascending, emulation::Order::Descending}) {
            emulation::set_thread_order(order);
            unsigned int seen = 0;
            const cudaLaunchConfig_t one = config(1, 5, machine.stream);
            REQUIRE(cudaMemset(values, 0, 8) == cudaSuccess);
            REQUIRE(cudaLaunchKernelEx(&one, sum_up, values, values + 1, wait) == cudaSuccess);
            REQUIRE(cudaMemcpy(&seen, values + 1, 4, cudaMemcpyDeviceToHost) == cudaSuccess);
            CHECK(seen == (wait || order == emulation::Order::Ascending ? 10U : 4U));
        }
    }
}

TEST_CASE("lanes that have ended are not waited for", "[emulation]") {
    for (const emulation::Order order : {emulation::Order::Ascending, emulation::Order::Descending}) {
        Machine machine;
        emulation::set_thread_order(order);
        auto *const sums = machine.allocate<unsigned int>(64);
        const cudaLaunchConfig_t one = config(1, 64, machine.stream);
        REQUIRE(cudaLaunchKernelEx(&one, sum_without, sums, 16U) == cudaSuccess);
        unsigned int found[64] = {};
        REQUIRE(cudaMemcpy(found, sums, sizeof found, cudaMemcpyDeviceToHost) == cudaSuccess);
        for (const std::size_t thread : {0U, 15U, 32U, 47U}) {
            CHECK(found[thread] == 16);
        }
    }
}

TEST_CASE("threads that do not all meet end the kernel", "[emulation]") {
    const struct {
        Wrong wrong;
        cudaError_t error;
        const char *words[3];
    } faults[] = {
        {Wrong::Nothing, cudaSuccess, {}},
        {Wrong::Ended,
         cudaErrorLaunchFailure,
         {"__syncthreads at emulation_test.cpp:", "thread (0,0,0) of block (1,0,0) waits for",
          "thread (37,0,0), which has ended"}},
        {Wrong::ManyEnded, cudaErrorLaunchFailure, {"__syncthreads at", "thread (3,0,0), which has ended"}},
        {Wrong::TwoBarriers, cudaErrorLaunchFailure, {"thread (37,0,0), which waits at __syncthreads at"}},
        {Wrong::MissingLane,
         cudaErrorLaunchFailure,
         {"thread (0,0,0) of block (1,0,0) waits for thread (32,0,0), which waits at __shfl_xor_sync at",
          "with the mask 0xffffffff"}},
        {Wrong::OtherMask, cudaErrorLaunchFailure, {"which waits at __syncwarp at", "with the mask 0xffffffff"}},
        {Wrong::OwnLane,
         cudaErrorLaunchFailure,
         {"__ballot_sync at", "with the mask 0xffffffdf leaves out its own lane, by thread (37,0,0) of block (1,0,0)"}},
        {Wrong::ReadsLane,
         cudaErrorLaunchFailure,
         {"__shfl_sync at", "with the mask 0x20 reads from a lane that it leaves out, by thread (37,0,0)"}},
        {Wrong::ReadsEnded, cudaErrorLaunchFailure, {"__shfl_sync at", "reads from a lane that has ended"}},
        {Wrong::BarrierAndWarp, cudaErrorLaunchFailure, {"thread (37,0,0), which waits at __syncwarp at"}},
        {Wrong::Trap, cudaErrorLaunchFailure, {"trap, by thread (37,0,0) of block (1,0,0)"}},
        {Wrong::TrapBefore, cudaErrorLaunchFailure, {"trap, by thread (37,0,0) of block (1,0,0)"}},
        {Wrong::Load, cudaErrorIllegalAddress, {"load of 4 bytes", "by thread (37,0,0) of block (1,0,0)"}},
    };
    for (const emulation::Order order : {emulation::Order::Ascending, emulation::Order::Descending}) {
        for (const auto &[wrong, error, words] : faults) {
            INFO("what goes wrong: " << static_cast<int>(wrong));
            Machine machine;
            auto *value = machine.allocate<unsigned int>(1);
            REQUIRE(cudaMemset(value, 0, 4) == cudaSuccess);
            emulation::set_thread_order(order);
            emulation::set_block_order(emulation::Order::Descending);
            const cudaLaunchConfig_t two = config(2, 64, machine.stream);
            REQUIRE(cudaLaunchKernelEx(&two, go_wrong, value, wrong) == cudaSuccess);
            CHECK(cudaStreamSynchronize(machine.stream) == error);
            CHECK(visitors == 0);
            INFO(emulation::last_fault());
            CHECK(emulation::last_fault().empty() == (error == cudaSuccess));
            for (const char *part : words) {
                CHECK((part == nullptr || emulation::last_fault().find(part) != std::string::npos));
            }
            emulation::reset();
            unsigned int found = 0;
            CHECK(cudaMemcpy(&found, value, 4, cudaMemcpyDeviceToHost) == cudaSuccess);
            CHECK(found == (error == cudaSuccess ? 2U : 0U));
        }
    }
}

TEST_CASE("a mask must not name lanes that the block does not have", "[emulation]") {
    Machine machine;
    auto *results = machine.allocate<unsigned int>(32);
    const cudaLaunchConfig_t one = config(1, 31, machine.stream);
    REQUIRE(cudaLaunchKernelEx(&one, vote, results) == cudaSuccess);
    CHECK(cudaStreamSynchronize(machine.stream) == cudaErrorLaunchFailure);
    CHECK(emulation::last_fault().find("lanes that the block does not have") != std::string::npos);
}

TEST_CASE("each thread waits by itself for the launch before, though it meets others", "[emulation]") {
    for (const bool all : {true, false}) {
        Machine machine;
        auto *value = machine.allocate<unsigned int>(1);
        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t three = config(1, 3, machine.stream);
        three.attrs = &attribute;
        three.numAttrs = 1;
        CHECK(cudaLaunchKernelEx(&three, wait_and_meet, value, all) == cudaSuccess);
        CHECK(cudaStreamSynchronize(machine.stream) == (all ? cudaSuccess : cudaErrorLaunchFailure));
        const std::string words = "without waiting for the launch before, by thread (1,0,0)";
        CHECK((emulation::last_fault().find(words) != std::string::npos) == !all);
    }
}

TEST_CASE("blocks whose threads meet run on many threads of the host at once", "[emulation]") {
    Machine machine;
    std::atomic<int> right{0};
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number) {
        threads.emplace_back([&right] {
            cudaStream_t stream = nullptr;
            unsigned int *numbers = nullptr;
            bool ok = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
                      cudaMalloc(&numbers, 4 * 64 * 4) == cudaSuccess &&
                      cudaMemset(numbers, 0, 4 * 64 * 4) == cudaSuccess;
            const cudaLaunchConfig_t four = config(4, 64, stream);
            for (int round = 0; round < 20; ++round) {
                ok = ok && cudaLaunchKernelEx(&four, exchange, numbers) == cudaSuccess &&
                     cudaStreamSynchronize(stream) == cudaSuccess;
            }
            std::vector<unsigned int> found(4 * 64);
            ok = ok && cudaMemcpy(found.data(), numbers, found.size() * 4, cudaMemcpyDeviceToHost) == cudaSuccess;
            const auto expected = static_cast<std::ptrdiff_t>(found.size());
            ok = ok && std::count(found.begin(), found.end(), 20U * 63) == expected;
            ok = ok && cudaFree(numbers) == cudaSuccess && cudaStreamDestroy(stream) == cudaSuccess;
            right += ok ? 1 : 0;
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    CHECK(right == 4);
}

TEST_CASE("wrong streams and devices are refused", "[emulation]") {
    Machine machine;
    cudaLaunchConfig_t one = config(1, 1, machine.stream);
    REQUIRE(cudaSetDevice(1) == cudaSuccess);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaErrorInvalidResourceHandle);
    cudaStream_t gone = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&gone, cudaStreamNonBlocking) == cudaSuccess);
    one.stream = gone;
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaSuccess);
    REQUIRE(cudaStreamDestroy(gone) == cudaSuccess);
    CHECK(emulation::executions() == 1);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaErrorInvalidResourceHandle);
    CHECK(cudaStreamSynchronize(gone) == cudaErrorInvalidResourceHandle);
    one.stream = reinterpret_cast<cudaStream_t>(&one);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaErrorInvalidResourceHandle);
    one.stream = nullptr;
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaSuccess);
    CHECK(emulation::last_launch().device == 1);

    CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice);
    CHECK(cudaSetDevice(-1) == cudaErrorInvalidDevice);
    int device = -1;
    std::thread([&] { CHECK(cudaGetDevice(&device) == cudaSuccess); }).join();
    CHECK(device == 0); // the current device is each thread's own
    CHECK(cudaGetDevice(&device) == cudaSuccess);
    CHECK(device == 1);
}

TEST_CASE("launches are deferred, with their parameters as they were", "[emulation]") {
    Machine machine;
    auto *from = machine.allocate<unsigned int>(4);
    auto *to = machine.allocate<unsigned int>(4);
    Copy<unsigned int> copy{from, to, 4};
    const cudaLaunchConfig_t one = config(1, 4, machine.stream);
    REQUIRE(cudaLaunchKernelEx(&one, copy_kernel<unsigned int>, copy) == cudaSuccess);
    copy = {nullptr, nullptr, 1000};
    CHECK(emulation::executions() == 0);
    CHECK(cudaStreamQuery(machine.stream) == cudaErrorNotReady);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaStreamQuery(machine.stream) == cudaSuccess);
    CHECK(emulation::executions() == 1);
    CHECK(emulation::last_fault().empty());
}

TEST_CASE("pinned memory is memory of the host and of the device", "[emulation]") {
    Machine machine;
    void *memory = nullptr;
    REQUIRE(cudaMallocHost(&memory, 16) == cudaSuccess);
    auto *const pinned = static_cast<unsigned int *>(memory);
    auto *const from = machine.allocate<unsigned int>(4);
    const unsigned int values[4] = {1, 2, 3, 4};
    CHECK(cudaMemcpy(from, values, 16, cudaMemcpyHostToDevice) == cudaSuccess);
    const cudaLaunchConfig_t one = config(1, 4, machine.stream);
    CHECK(cudaLaunchKernelEx(&one, copy_kernel<unsigned int>, Copy<unsigned int>{from, pinned, 4}) == cudaSuccess);
    CHECK(cudaStreamSynchronize(machine.stream) == cudaSuccess);
    CHECK(std::memcmp(pinned, values, 16) == 0);
    CHECK(cudaMemcpy(from, pinned, 16, cudaMemcpyHostToDevice) == cudaSuccess);
    CHECK(cudaMemcpy(pinned, from, 16, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(cudaMemcpy(pinned, from, 17, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaFree(pinned) == cudaErrorInvalidValue);
    CHECK(cudaFreeHost(from) == cudaErrorInvalidValue);
    CHECK(cudaFreeHost(pinned) == cudaSuccess);
    CHECK(cudaFreeHost(pinned) == cudaErrorInvalidValue);
}

TEST_CASE("copies and fills are in order and checked", "[emulation]") {
    Machine machine;
    auto *a = machine.allocate<unsigned char>(8);
    auto *b = machine.allocate<unsigned char>(8);
    unsigned char source[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    unsigned char result[8] = {};
    CHECK(cudaMemcpyAsync(a, source, 8, cudaMemcpyHostToDevice, machine.stream) == cudaSuccess);
    CHECK(cudaMemsetAsync(a, 9, 1, machine.stream) == cudaSuccess);
    CHECK(cudaMemcpyAsync(b, a, 8, cudaMemcpyDeviceToDevice, machine.stream) == cudaSuccess);
    CHECK(cudaMemcpyAsync(result, b, 8, cudaMemcpyDefault, machine.stream) == cudaSuccess);
    CHECK(result[0] == 0);
    CHECK(cudaStreamSynchronize(machine.stream) == cudaSuccess);
    CHECK(result[0] == 9);
    CHECK(std::memcmp(result + 1, source + 1, 7) == 0);
    CHECK(cudaMemset(b, 1, 8) == cudaSuccess);
    CHECK(cudaMemcpy(result, b, 8, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(result[7] == 1);

    CHECK(cudaMemcpy(a, source, 9, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(a + 1, source, 8, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(source, a, 8, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(result, source, 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(b, a, 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(b + 7, a, 2, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(nullptr, a, 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(nullptr, nullptr, 0, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(cudaMemcpy(result, source, 8, cudaMemcpyHostToHost) == cudaSuccess);
    CHECK(cudaMemset(source, 0, 8) == cudaErrorInvalidValue);
    CHECK(cudaMemcpyAsync(a, source, 8, cudaMemcpyHostToDevice, machine.stream) == cudaSuccess);
    machine.release(a);
    CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
}

TEST_CASE("memory is aligned, exact, and free where untouched", "[emulation]") {
    Machine machine;
    for (const std::size_t bytes : {std::size_t{1}, std::size_t{255}, std::size_t{1} << 34}) {
        auto *memory = machine.allocate<unsigned char>(bytes);
        CHECK(reinterpret_cast<std::uintptr_t>(memory) % 256 == 0);
        unsigned char last = 1;
        CHECK(cudaMemcpy(&last, memory + bytes - 1, 1, cudaMemcpyDeviceToHost) == cudaSuccess);
        CHECK(last == 0);
        CHECK(cudaMemcpy(&last, memory + bytes, 1, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
        CHECK(cudaFree(memory + 1) == cudaErrorInvalidValue);
    }
    CHECK(emulation::live_allocations() == 3);
    CHECK(cudaFree(nullptr) == cudaSuccess);
    void *pointer = &machine;
    CHECK(cudaMalloc(&pointer, 0) == cudaSuccess);
    CHECK(pointer == nullptr);
}

TEST_CASE("a captured graph replays the launch", "[emulation]") {
    Machine machine;
    auto *values = machine.allocate<unsigned int>(1);
    cudaFuncAttributes attributes{};
    REQUIRE(cudaFuncGetAttributes(&attributes, all_instructions) == cudaSuccess);
    CHECK(attributes.maxThreadsPerBlock == 1024);
    REQUIRE(cudaStreamBeginCapture(machine.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaStreamBeginCapture(machine.stream, cudaStreamCaptureModeGlobal) == cudaErrorIllegalState);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CHECK(cudaStreamIsCapturing(machine.stream, &status) == cudaSuccess);
    CHECK(status == cudaStreamCaptureStatusActive);
    const cudaLaunchConfig_t one = config(1, 1, machine.stream);
    REQUIRE(cudaLaunchKernelEx(&one, all_instructions, values) == cudaSuccess);
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamEndCapture(machine.stream, &graph) == cudaSuccess);
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaErrorInvalidValue);
    CHECK(cudaStreamSynchronize(machine.stream) == cudaSuccess);
    CHECK(emulation::executions() == 0); // capturing runs nothing
    unsigned int result = 0;
    for (unsigned int replay = 1; replay <= 3; ++replay) {
        REQUIRE(cudaGraphLaunch(executable, machine.stream) == cudaSuccess);
        CHECK(cudaMemcpy(&result, values, sizeof result, cudaMemcpyDeviceToHost) == cudaSuccess);
        CHECK(result == 6 * replay);
    }
    CHECK(emulation::launches() == 1);
    CHECK(emulation::executions() == 3);
    CHECK(emulation::lazy_loads() == 0);
    CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
    CHECK(cudaGraphLaunch(executable, machine.stream) == cudaErrorInvalidValue);
    CHECK(cudaStreamEndCapture(machine.stream, &graph) == cudaErrorIllegalState);
}

TEST_CASE("events know when the stream reached them", "[emulation]") {
    Machine machine;
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
    float milliseconds = -1;
    REQUIRE(cudaEventCreate(&begin) == cudaSuccess);
    REQUIRE(cudaEventCreate(&end) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaErrorInvalidResourceHandle); // never recorded
    CHECK(cudaEventRecord(begin, machine.stream) == cudaSuccess);
    CHECK(cudaEventRecordWithFlags(end, machine.stream, cudaEventRecordDefault) == cudaSuccess);
    CHECK(cudaEventRecordWithFlags(end, machine.stream, cudaEventRecordExternal) == cudaErrorInvalidValue);
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaErrorNotReady);
    CHECK(cudaStreamSynchronize(machine.stream) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess);
    CHECK(milliseconds >= 0);
    CHECK(cudaEventElapsedTime(&milliseconds, end, begin) == cudaSuccess);
    CHECK(milliseconds <= 0);

    // In a graph only an external recording is one: of the two it is the later.
    REQUIRE(cudaStreamBeginCapture(machine.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(cudaEventRecordWithFlags(begin, machine.stream, cudaEventRecordExternal) == cudaSuccess);
    CHECK(cudaEventRecord(end, machine.stream) == cudaSuccess);
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamEndCapture(machine.stream, &graph) == cudaSuccess);
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    REQUIRE(cudaGraphLaunch(executable, machine.stream) == cudaSuccess);
    CHECK(cudaStreamSynchronize(machine.stream) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess);
    CHECK(milliseconds < 0);
    CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);

    CHECK(cudaEventDestroy(end) == cudaSuccess);
    CHECK(cudaEventRecord(end, machine.stream) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventDestroy(end) == cudaErrorInvalidResourceHandle);
    CHECK(cudaEventDestroy(begin) == cudaSuccess);
}

TEST_CASE("a batch of copies is one after the other, or none", "[emulation]") {
    Machine machine;
    auto *from = machine.allocate<unsigned char>(8);
    auto *to = machine.allocate<unsigned char>(8);
    const unsigned char values[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    REQUIRE(cudaMemcpy(from, values, sizeof values, cudaMemcpyHostToDevice) == cudaSuccess);
    REQUIRE(cudaMemset(to, 0, 8) == cudaSuccess);
    void *const destinations[] = {to + 4, to};
    const void *const sources[] = {from, from + 6};
    std::size_t bytes[] = {3, 3};
    cudaMemcpyAttributes attributes{cudaMemcpySrcAccessOrderStream, 0};
    std::size_t first = 0;
    const auto copy = [&] {
        return cudaMemcpyBatchAsync(destinations, sources, bytes, 2, &attributes, &first, 1, machine.stream);
    };
    CHECK(copy() == cudaErrorInvalidValue); // The second leaves its source.
    bytes[1] = 2;
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderInvalid;
    CHECK(copy() == cudaErrorInvalidValue);
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    unsigned char found[8] = {};
    CHECK(cudaMemcpy(found, to, sizeof found, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(std::count(found, found + 8, 0) == 8);
    CHECK(copy() == cudaSuccess);
    CHECK(cudaMemcpy(found, to, sizeof found, cudaMemcpyDeviceToHost) == cudaSuccess);
    const unsigned char expected[8] = {7, 8, 0, 0, 1, 2, 3, 0};
    CHECK(std::memcmp(found, expected, sizeof found) == 0);
}

TEST_CASE("what must not be done during a capture invalidates it", "[emulation]") {
    Machine machine;
    auto *memory = machine.allocate<unsigned char>(8);
    unsigned char host[8] = {};
    void *pointer = nullptr;
    const cudaLaunchConfig_t one = config(1, 1, machine.stream);
    const cudaLaunchConfig_t other = config(1, 1, nullptr);
    cudaError_t expected = cudaErrorStreamCaptureUnsupported;
    REQUIRE(cudaStreamBeginCapture(machine.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    SECTION("cudaMalloc") {
        CHECK(cudaMalloc(&pointer, 8) == expected);
    }
    SECTION("cudaFree") {
        CHECK(cudaFree(memory) == expected);
    }
    SECTION("cudaMemcpy") {
        CHECK(cudaMemcpy(host, memory, 8, cudaMemcpyDeviceToHost) == expected);
    }
    SECTION("cudaMemset") {
        CHECK(cudaMemset(memory, 0, 8) == expected);
    }
    SECTION("cudaStreamSynchronize") {
        CHECK(cudaStreamSynchronize(machine.stream) == expected);
    }
    SECTION("cudaStreamQuery") {
        CHECK(cudaStreamQuery(machine.stream) == expected);
    }
    SECTION("cudaDeviceSynchronize") {
        CHECK(cudaDeviceSynchronize() == expected);
    }
    SECTION("first launch of a kernel") {
        CHECK(cudaLaunchKernelEx(&one, nothing) == expected);
    }
    SECTION("cudaFuncGetAttributes of a new kernel") {
        cudaFuncAttributes attributes{};
        CHECK(cudaFuncGetAttributes(&attributes, nothing) == expected);
    }
    SECTION("a launch into the default stream") {
        expected = cudaErrorStreamCaptureImplicit;
        CHECK(cudaLaunchKernelEx(&other, nothing) == expected);
    }
    SECTION("cudaMalloc by another thread") {
        std::thread([&] { CHECK(cudaMalloc(&pointer, 8) == expected); }).join();
        CHECK(cudaGetLastError() == cudaSuccess); // the last error is each thread's own
        CHECK(cudaMalloc(&pointer, 8) == expected);
    }
    CHECK(cudaGetLastError() == expected);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CHECK(cudaStreamIsCapturing(machine.stream, &status) == cudaSuccess);
    CHECK(status == cudaStreamCaptureStatusInvalidated);
    CHECK(cudaMemsetAsync(memory, 0, 8, machine.stream) == cudaErrorStreamCaptureInvalidated);
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(machine.stream, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(graph == nullptr);
    CHECK(emulation::live_allocations() == 1);
    CHECK(cudaDeviceSynchronize() == cudaSuccess); // and all is well afterwards
}

TEST_CASE("captures know their thread and mode", "[emulation]") {
    Machine machine;
    void *pointer = nullptr;
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) == cudaErrorStreamCaptureUnsupported);
    REQUIRE(cudaStreamBeginCapture(machine.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    std::thread([&] {
        CHECK(cudaMalloc(&pointer, 8) == cudaSuccess);
        CHECK(cudaFree(pointer) == cudaSuccess);
        CHECK(cudaStreamEndCapture(machine.stream, &graph) == cudaErrorStreamCaptureWrongThread);
    }).join();
    CHECK(cudaStreamEndCapture(machine.stream, &graph) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    REQUIRE(cudaStreamBeginCapture(machine.stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    CHECK(cudaMalloc(&pointer, 8) == cudaSuccess);
    CHECK(cudaFree(pointer) == cudaSuccess);
    CHECK(cudaStreamEndCapture(machine.stream, &graph) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST_CASE("lazy loads are counted for each device", "[emulation]") {
    Machine machine;
    const cudaLaunchConfig_t one = config(1, 1, nullptr);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaSuccess);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaSuccess);
    CHECK(emulation::lazy_loads() == 1);
    CHECK(cudaSetDevice(1) == cudaSuccess);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaSuccess);
    CHECK(emulation::lazy_loads() == 2);
}

TEST_CASE("failures come as ordered, and calls are counted", "[emulation]") {
    Machine machine;
    void *pointer = nullptr;
    const std::uint64_t before = emulation::total_calls();
    emulation::fail_next(Call::Malloc, cudaErrorMemoryAllocation);
    CHECK(cudaMalloc(&pointer, 8) == cudaErrorMemoryAllocation);
    CHECK(pointer == nullptr);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    pointer = machine.allocate<unsigned char>(8);
    emulation::fail_next(Call::DeviceSynchronize, cudaErrorUnknown, 2);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaErrorUnknown);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    const cudaLaunchConfig_t one = config(1, 1, nullptr);
    emulation::fail_always(Call::LaunchKernelEx, cudaErrorLaunchOutOfResources);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaErrorLaunchOutOfResources);
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaErrorLaunchOutOfResources);
    emulation::clear_failures();
    CHECK(cudaLaunchKernelEx(&one, nothing) == cudaSuccess);
    CHECK(emulation::calls(Call::Malloc) == 2);
    CHECK(emulation::calls(Call::LaunchKernelEx) == 3);
    CHECK(emulation::launches() == 1);
    CHECK(emulation::total_calls() - before == 10);
}

TEST_CASE("machines without a device or driver", "[emulation]") {
    int count = -1;
    int version = -1;
    int device = -1;
    void *pointer = nullptr;
    cudaError_t expected = cudaErrorInsufficientDriver;
    emulation::reset();
    CHECK(cudaRuntimeGetVersion(&version) == cudaSuccess);
    CHECK(version == CUDART_VERSION);
    SECTION("no driver") {
        emulation::set_driver_version(0);
        CHECK(cudaDriverGetVersion(&version) == cudaSuccess);
        CHECK(version == 0);
    }
    SECTION("an old driver") {
        emulation::set_driver_version(12080);
    }
    SECTION("no device") {
        emulation::set_device_count(0);
        expected = cudaErrorNoDevice;
    }
    CHECK(cudaGetDeviceCount(&count) == expected);
    CHECK(count == 0);
    CHECK(cudaGetDevice(&device) == expected);
    CHECK(cudaMalloc(&pointer, 8) == expected);
    CHECK(cudaGetLastError() == expected);
    emulation::reset();
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess);
    CHECK(count == 2);
}

TEST_CASE("devices are as the test sets them", "[emulation]") {
    emulation::reset();
    emulation::set_architecture(1, 12, 0);
    emulation::set_multiprocessors(1, 170);
    const auto attribute = [](cudaDeviceAttr which, int device) {
        int value = -1;
        CHECK(cudaDeviceGetAttribute(&value, which, device) == cudaSuccess);
        return value;
    };
    CHECK(attribute(cudaDevAttrComputeCapabilityMajor, 0) == 9);
    CHECK(attribute(cudaDevAttrComputeCapabilityMajor, 1) == 12);
    CHECK(attribute(cudaDevAttrMultiProcessorCount, 1) == 170);
    CHECK(attribute(cudaDevAttrMaxGridDimX, 0) == 0x7fffffff);
    int value = 0;
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 2) == cudaErrorInvalidDevice);
    CHECK(cudaDeviceGetAttribute(&value, static_cast<cudaDeviceAttr>(127), 0) == cudaErrorInvalidValue);
    emulation::reset();
}

TEST_CASE("errors have names", "[emulation]") {
    CHECK(std::strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0);
    CHECK(std::strlen(cudaGetErrorString(cudaErrorIllegalAddress)) != 0);
    CHECK(std::strcmp(cudaGetErrorName(static_cast<cudaError_t>(1023)), "unrecognized error code") == 0);
}

TEST_CASE("many threads work in their own streams at once", "[emulation]") {
    Machine machine;
    std::atomic<int> right{0};
    std::vector<std::thread> threads;
    for (unsigned int number = 0; number < 8; ++number) {
        threads.emplace_back([&right, number] {
            cudaStream_t stream = nullptr;
            bool ok = cudaSetDevice(static_cast<int>(number % 2)) == cudaSuccess &&
                      cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess;
            const cudaLaunchConfig_t one = config(2, 32, stream);
            for (unsigned int round = 0; round < 50; ++round) {
                unsigned int values[100] = {number, round};
                unsigned int result[100] = {};
                unsigned int *from = nullptr;
                unsigned int *to = nullptr;
                ok = ok && cudaMalloc(&from, sizeof values) == cudaSuccess;
                ok = ok && cudaMalloc(&to, sizeof values) == cudaSuccess;
                ok = ok && cudaMemcpyAsync(from, values, sizeof values, cudaMemcpyDefault, stream) == cudaSuccess;
                ok = ok && cudaLaunchKernelEx(&one, copy_kernel<unsigned int>, Copy<unsigned int>{from, to, 100}) ==
                               cudaSuccess;
                if (round % 2 == 0) {
                    ok = ok && cudaStreamSynchronize(stream) == cudaSuccess;
                }
                ok = ok && cudaMemcpy(result, to, sizeof result, cudaMemcpyDeviceToHost) == cudaSuccess;
                ok = ok && std::memcmp(values, result, sizeof result) == 0;
                ok = ok && cudaFree(from) == cudaSuccess && cudaFree(to) == cudaSuccess;
            }
            ok = ok && cudaStreamDestroy(stream) == cudaSuccess;
            right += ok ? 1 : 0;
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    CHECK(right == 8);
    CHECK(emulation::executions() == 8 * 50);
    CHECK(emulation::loads(4) == 8 * 50 * 100);
    CHECK(emulation::last_fault().empty());
}

TEST_CASE("many threads launch into one stream at once", "[emulation]") {
    Machine machine;
    auto *value = machine.allocate<unsigned int>(1);
    const cudaLaunchConfig_t one = config(1, 1, machine.stream);
    std::vector<std::thread> threads;
    for (int number = 0; number < 4; ++number) {
        threads.emplace_back([&] {
            for (int round = 0; round < 50; ++round) {
                cudaLaunchKernelEx(&one, all_instructions, value);
                cudaStreamSynchronize(machine.stream);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    unsigned int result = 0;
    CHECK(cudaMemcpy(&result, value, sizeof result, cudaMemcpyDeviceToHost) == cudaSuccess);
    CHECK(result == 4 * 50 * 6);
}
