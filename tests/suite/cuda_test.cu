// SPDX-License-Identifier: Apache-2.0
// What a CUDA program relies on besides the copy: stream capture and replay, the default stream, and devices.
// Compiled against the CUDA runtime, or as plain C++ against the emulated one.
#include "held.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cuda_runtime.h>

#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t heads = 4, cache_rows = 16, dim = 64;
constexpr std::size_t row_bytes = dim * 2;
constexpr std::size_t new_bytes = heads * row_bytes;
constexpr std::size_t cache_bytes = heads * cache_rows * row_bytes;

// One sample, one row: K and V are the same source.
struct Step {
    PlanPointer plan;
    void *source = subject().allocate(new_bytes);
    void *k = subject().allocate(cache_bytes);
    void *v = subject().allocate(cache_bytes);
    void *offset = subject().allocate(sizeof(std::int64_t));
    kvappend_args args = KVAPPEND_ARGS_INIT;
    std::vector<unsigned char> expected = std::vector<unsigned char>(cache_bytes);

    explicit Step(std::int32_t skip_policy = KVAPPEND_SKIP_SILENTLY, std::int32_t flags = 0) {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = KVAPPEND_BACKEND_CUDA;
        d.element_type = KVAPPEND_ELEMENT_F16;
        d.batch = 1;
        d.heads = heads;
        d.new_rows = 1;
        d.cache_rows = cache_rows;
        d.k_dim = d.v_dim = dim;
        d.skip_policy = skip_policy;
        d.flags = flags;
        plan = make_plan(d);
        subject().upload(k, expected.data(), cache_bytes);
        subject().upload(v, expected.data(), cache_bytes);
        args.k_new = args.v_new = source;
        args.k_cache = k;
        args.v_cache = v;
        args.cache_offsets = offset;
    }
    Step(const Step &) = delete;
    Step &operator=(const Step &) = delete;
    ~Step() {
        for (void *const pointer : {source, k, v, offset}) {
            subject().release(pointer);
        }
    }

    // Puts new rows and the place they go to where the next run, or replay, finds them.
    void prepare(std::int64_t row, unsigned char mark) {
        subject().upload(offset, &row, sizeof row);
        prepare_rows(row, mark);
    }
    // The same for a row that the run finds by itself.
    void prepare_rows(std::int64_t row, unsigned char mark) {
        std::vector<unsigned char> rows(new_bytes);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            rows[i] = static_cast<unsigned char>(mark + i);
        }
        subject().upload(source, rows.data(), rows.size());
        for (std::size_t h = 0; h < heads && row < cache_rows; ++h) {
            std::memcpy(expected.data() + (h * cache_rows + static_cast<std::size_t>(row)) * row_bytes,
                        rows.data() + h * row_bytes, row_bytes);
        }
    }
    bool as_expected() const {
        std::vector<unsigned char> found_k(cache_bytes);
        std::vector<unsigned char> found_v(cache_bytes);
        subject().download(found_k.data(), k, cache_bytes);
        subject().download(found_v.data(), v, cache_bytes);
        return found_k == expected && found_v == expected;
    }
};

} // namespace

TEST_CASE("a captured run replays with what memory holds at each replay", "[cuda]") {
    Step step;
    cudaStream_t const stream = subject().stream();
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    CHECK(told(kvappend_plan_can_implement(step.plan.get(), &step.args)) == "KVAPPEND_SUCCESS");
    CHECK(told(kvappend_plan_run(step.plan.get(), &step.args, nullptr, 0, stream)) == "KVAPPEND_SUCCESS");
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(step.as_expected()); // Nothing has run yet.

    // Neither the plan nor the arguments are needed any more.
    step.plan.reset();
    step.args = KVAPPEND_ARGS_INIT;

    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    for (const std::int64_t row : {0, 1, 2, 9, 15, 16}) {
        step.prepare(row, static_cast<unsigned char>(row * 40 + 3));
        REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
        subject().synchronize();
        CHECK(step.as_expected());
    }
    CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST_CASE("a captured step that advances and reports needs nothing between its replays", "[cuda]") {
    Step step(KVAPPEND_SKIP_REPORT, KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_COUNT_WRITTEN);
    const kvappend_report none = KVAPPEND_REPORT_INIT;
    auto *const report = static_cast<kvappend_report *>(subject().allocate(sizeof none));
    step.args.report = report;
    step.args.report_bytes = sizeof none;

    cudaStream_t const stream = subject().stream();
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    const kvappend_status status = kvappend_plan_run(step.plan.get(), &step.args, nullptr, 0, stream);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(told(status) == "KVAPPEND_SUCCESS");
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);

    subject().upload(report, &none, sizeof none);
    const std::int64_t first = cache_rows - 3;
    subject().upload(step.offset, &first, sizeof first);
    for (std::int64_t row = first; row < cache_rows + 2; ++row) {
        step.prepare_rows(row, static_cast<unsigned char>(row * 40 + 3));
        REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
        subject().synchronize();
        CHECK(step.as_expected());
        std::int64_t next = 0;
        subject().download(&next, step.offset, sizeof next);
        CHECK(next == row + 1);
    }
    kvappend_report found = none;
    subject().download(&found, report, sizeof found);
    CHECK(found.struct_size == sizeof found);
    CHECK(found.rows_written == 3);
    CHECK(found.rows_above == 2);
    CHECK(found.rows_below + found.rows_padding + found.rows_replaced == 0);
    CHECK(found.first_sample == 0);
    CHECK(found.first_row == 0);
    CHECK(found.first_position == cache_rows);
    CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    subject().release(report);
}

namespace {

// A call for two samples at most, six tokens in all, K alone; a pool of eight pages of two rows.
struct PagedBatch {
    static constexpr std::size_t samples = 2, tokens = 6, pages = 8, page_rows = 2, entries = 4;
    static constexpr std::size_t pool_bytes = pages * page_rows * row_bytes;
    struct Indices {
        std::int64_t offsets[samples];
        std::int32_t lengths[samples + 1];
        std::int32_t table[samples][entries];
    };

    PagedBatch() {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = KVAPPEND_BACKEND_CUDA;
        d.element_type = KVAPPEND_ELEMENT_F16;
        d.addressing = KVAPPEND_ADDRESSING_PAGED;
        d.lengths = KVAPPEND_LENGTHS_PACKED;
        d.batch = samples;
        d.heads = 1;
        d.new_rows = tokens;
        d.cache_blocks = pages;
        d.cache_rows = page_rows;
        d.table_entries = entries;
        d.k_dim = dim;
        plan = make_plan(d);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            rows[i] = static_cast<unsigned char>(1 + i / row_bytes * 40 + i % 7);
        }
        subject().upload(source, rows.data(), rows.size());
        args.k_new = source;
        args.k_cache = cache;
        args.cache_offsets = indices->offsets;
        args.lengths = indices->lengths;
        args.page_table = indices->table[0];
    }
    PagedBatch(const PagedBatch &) = delete;
    PagedBatch &operator=(const PagedBatch &) = delete;
    ~PagedBatch() {
        for (void *const pointer : {source, cache, static_cast<void *>(indices)}) {
            subject().release(pointer);
        }
    }

    // Clears the pool, and says what it must hold after a run with these indices.
    std::vector<unsigned char> prepare(const Indices &next) const {
        std::vector<unsigned char> expected(pool_bytes);
        subject().upload(cache, expected.data(), expected.size());
        subject().upload(indices, &next, sizeof next);
        for (std::size_t b = 0; b < samples; ++b) {
            const auto end = static_cast<std::size_t>(next.lengths[b + 1]);
            for (auto t = static_cast<std::size_t>(next.lengths[b]); t < end; ++t) {
                const std::size_t at = static_cast<std::size_t>(next.offsets[b] - next.lengths[b]) + t;
                const auto page = static_cast<std::size_t>(next.table[b][at / page_rows]);
                std::memcpy(expected.data() + (page * page_rows + at % page_rows) * row_bytes,
                            rows.data() + t * row_bytes, row_bytes);
            }
        }
        return expected;
    }

    PlanPointer plan;
    void *source = subject().allocate(tokens * row_bytes);
    void *cache = subject().allocate(pool_bytes);
    Indices *indices = static_cast<Indices *>(subject().allocate(sizeof(Indices)));
    std::vector<unsigned char> rows = std::vector<unsigned char>(tokens * row_bytes);
    kvappend_args args = KVAPPEND_ARGS_INIT;
};

} // namespace

TEST_CASE("one captured graph serves any composition of a batch", "[cuda]") {
    const PagedBatch batch;
    cudaStream_t const stream = subject().stream();
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    const kvappend_status status = kvappend_plan_run(batch.plan.get(), &batch.args, nullptr, 0, stream);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(told(status) == "KVAPPEND_SUCCESS");
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);

    const PagedBatch::Indices compositions[] = {{{0, 3}, {0, 2, 6}, {{5, 0, 0, 0}, {7, 2, 1, 4}}},
                                                {{1, 0}, {0, 6, 6}, {{6, 3, 0, 1}, {0, 0, 0, 0}}},
                                                {{0, 4}, {0, 0, 1}, {{0, 0, 0, 0}, {0, 1, 2, 3}}},
                                                {{0, 0}, {0, 0, 0}, {{0, 0, 0, 0}, {0, 0, 0, 0}}}};
    for (const PagedBatch::Indices &composition : compositions) {
        const std::vector<unsigned char> expected = batch.prepare(composition);
        REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
        subject().synchronize();
        std::vector<unsigned char> found(expected.size());
        subject().download(found.data(), batch.cache, found.size());
        CHECK(found == expected);
    }
    CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST_CASE("a gather writes to pinned host memory, and an append reads from it", "[cuda]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = 1;
    d.heads = heads;
    d.new_rows = 5;
    d.cache_rows = cache_rows;
    d.k_dim = d.v_dim = dim;
    constexpr std::size_t bytes = 5 * new_bytes;
    void *memory = nullptr;
    REQUIRE(cudaMallocHost(&memory, 4 * bytes) == cudaSuccess);
    auto *const pinned = static_cast<unsigned char *>(memory);
    for (std::size_t i = 0; i < 2 * bytes; ++i) {
        pinned[i] = static_cast<unsigned char>(i * 7 + i / 256);
    }
    const Step step;
    const std::int64_t offset = 3;
    subject().upload(step.offset, &offset, sizeof offset);
    kvappend_args args = step.args;
    args.k_new = pinned;
    args.v_new = pinned + bytes;
    args.k_out = pinned + 2 * bytes;
    args.v_out = pinned + 3 * bytes;
    for (const std::int32_t operation : {KVAPPEND_OPERATION_APPEND, KVAPPEND_OPERATION_GATHER}) {
        d.operation = operation;
        const PlanPointer plan = make_plan(d);
        CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    }
    subject().synchronize();
    CHECK(std::memcmp(pinned, pinned + 2 * bytes, 2 * bytes) == 0);
    CHECK(cudaFreeHost(memory) == cudaSuccess);
}

TEST_CASE("a captured move replays with what memory holds at each replay", "[cuda]") {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.operation = KVAPPEND_OPERATION_MOVE;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.element_type = KVAPPEND_ELEMENT_UINT8;
    d.batch = d.heads = 1;
    d.new_rows = 3;
    d.cache_blocks = 2;
    d.cache_rows = 4;
    d.k_dim = 1;
    const PlanPointer plan = make_plan(d);
    struct Slots {
        std::int64_t from[3];
        std::int64_t to[3];
    };
    const struct {
        Slots slots;
        std::string after;
    } replays[] = {{{{0, 1, 2}, {1, 2, 3}}, "aaaaefgh"},
                   {{{7, 4, 0}, {0, 7, 4}}, "haaahfge"},
                   {{{-1, 5, 8}, {2, -1, 0}}, "haaahfge"}};
    void *const cache = subject().allocate(8);
    auto *const slots = static_cast<Slots *>(subject().allocate(sizeof(Slots)));
    subject().upload(cache, "abcdefgh", 8);
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_cache = cache;
    args.from_slots = slots->from;
    args.slots = slots->to;

    cudaStream_t const stream = subject().stream();
    cudaGraph_t graph = nullptr;
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    const kvappend_status status = kvappend_plan_run(plan.get(), &args, nullptr, 0, stream);
    REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    REQUIRE(told(status) == "KVAPPEND_SUCCESS");
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    for (const auto &replay : replays) {
        subject().upload(slots, &replay.slots, sizeof replay.slots);
        REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
        subject().synchronize();
        std::string found(8, ' ');
        subject().download(found.data(), cache, found.size());
        CHECK(found == replay.after);
    }
    CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    subject().release(cache);
    subject().release(slots);
}

TEST_CASE("a captured rotation replays with the positions and tables that memory holds at each replay", "[cuda]") {
    kvappend_rotary rotary = KVAPPEND_ROTARY_INIT;
    rotary.dim = 4;
    rotary.table_rows = 2;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.batch = d.heads = d.new_rows = d.cache_rows = 1;
    d.k_dim = 4;
    d.flags = KVAPPEND_FLAG_ZERO_OFFSETS | KVAPPEND_FLAG_POSITIONS | KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH;
    d.rotary = &rotary;
    const std::vector<float> row = {1, 2, 3, 4};
    const Held<float> k_new(row);
    const Held<float> k_cache(std::vector<float>(4));
    Held<float> cos({1, 1, 0, 0});
    Held<float> sin({0, 0, 1, 1});
    Held<std::int64_t> position(std::vector<std::int64_t>(1));
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = k_new.data(), args.k_cache = k_cache.data();
    args.rotary_cos = cos.data(), args.rotary_sin = sin.data(), args.positions = position.data();
    cudaStream_t const stream = subject().stream();
    cudaGraph_t graph = nullptr;
    {
        const PlanPointer plan = make_plan(d);
        REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
        CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, stream)) == "KVAPPEND_SUCCESS");
        REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    }
    cudaGraphExec_t executable = nullptr;
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    const auto replay = [&] {
        REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
        subject().synchronize();
    };
    replay();
    CHECK(k_cache.holds(row));
    position.set({1});
    replay();
    CHECK(k_cache.holds({-3, -4, 1, 2}));
    position.set({2}); // which the tables do not have
    replay();
    CHECK(k_cache.holds({-3, -4, 1, 2}));
    position.set({0});
    cos.set({-1, 2, 0, 0});
    replay();
    CHECK(k_cache.holds({-1, 4, -3, 8}));
    CHECK(cudaGraphExecDestroy(executable) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST_CASE("the default stream is a stream like others", "[cuda]") {
    Step step;
    step.prepare(3, 77);
    CHECK(told(kvappend_plan_run(step.plan.get(), &step.args, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    CHECK(step.as_expected());
}

TEST_CASE("the plan may be destroyed while its launch is still under way", "[cuda]") {
    Step step;
    step.prepare(5, 99);
    CHECK(told(kvappend_plan_run(step.plan.get(), &step.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    step.plan.reset();
    subject().synchronize();
    CHECK(step.as_expected());
}

TEST_CASE("the stride of an axis with one entry asks for no 64-bit indices", "[cuda]") {
    // Eight heads of 2^20 rows of 256 bytes: 2 GiB, which is the stride of the contiguous cache's only sample.
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.element_type = KVAPPEND_ELEMENT_BF16;
    d.batch = d.new_rows = 1;
    d.heads = 8;
    d.cache_rows = std::int64_t{1} << 20;
    d.k_dim = d.v_dim = 128;
    const auto kernel_of = [&d] {
        const PlanPointer plan = make_plan(d);
        kvappend_sku sku = KVAPPEND_SKU_INIT;
        REQUIRE(told(kvappend_plan_get_sku(plan.get(), &sku)) == "KVAPPEND_SUCCESS");
        return std::string(sku.kernel_name);
    };
    CHECK(kernel_of() == "cuda_dense_b16");
    d.batch = 2;
    CHECK(kernel_of() == "cuda_rows_wide_b16");
    d.batch = 1;
    d.k_cache_strides[KVAPPEND_AXIS_BATCH] = std::int64_t{1} << 40;
    d.k_cache_strides[KVAPPEND_AXIS_HEAD] = d.cache_rows * d.k_dim;
    d.k_cache_strides[KVAPPEND_AXIS_ROW] = d.k_dim;
    CHECK(kernel_of() == "cuda_dense_b16");
}

TEST_CASE("the sku names the device that the plan belongs to", "[cuda]") {
    int count = 0;
    REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_CUDA;
    for (int device = 0; device < count; ++device) {
        REQUIRE(cudaSetDevice(device) == cudaSuccess);
        const PlanPointer plan = make_plan(d);
        REQUIRE(cudaSetDevice(0) == cudaSuccess);
        kvappend_sku sku = KVAPPEND_SKU_INIT;
        REQUIRE(told(kvappend_plan_get_sku(plan.get(), &sku)) == "KVAPPEND_SUCCESS");
        CHECK(sku.device == device);
    }
}

TEST_CASE("a plan runs on its own device only", "[cuda]") {
    int count = 0;
    REQUIRE(cudaGetDeviceCount(&count) == cudaSuccess);
    if (count < 2) {
        SKIP("there is one device only");
    }
    Step step;
    step.prepare(3, 5);
    const std::vector<unsigned char> untouched(cache_bytes);
    REQUIRE(cudaSetDevice(1) == cudaSuccess);
    const kvappend_status elsewhere = kvappend_plan_run(step.plan.get(), &step.args, nullptr, 0, subject().stream());
    const std::string message = kvappend_last_error_message();
    cudaStream_t foreign = nullptr;
    REQUIRE(cudaStreamCreate(&foreign) == cudaSuccess);
    REQUIRE(cudaSetDevice(0) == cudaSuccess);
    CHECK(elsewhere == KVAPPEND_ERROR_WRONG_DEVICE);
    CHECK(message == "the current device is 1: expected device 0, which was current when the plan was created");

    // The right device is current, but the stream is the other one's.
    CHECK(kvappend_plan_run(step.plan.get(), &step.args, nullptr, 0, foreign) == KVAPPEND_ERROR_CUDA);
    CHECK(std::string(kvappend_last_error_message()).starts_with("stream is not a stream of the plan's device"));
    subject().synchronize();
    const auto expected = std::exchange(step.expected, untouched);
    CHECK(step.as_expected());
    step.expected = expected;
    CHECK(told(kvappend_plan_run(step.plan.get(), &step.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    CHECK(step.as_expected());
    REQUIRE(cudaSetDevice(1) == cudaSuccess);
    CHECK(cudaStreamDestroy(foreign) == cudaSuccess);
    REQUIRE(cudaSetDevice(0) == cudaSuccess);
}
