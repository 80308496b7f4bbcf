// SPDX-License-Identifier: Apache-2.0
// Each bad argument is refused with a status of its own and a message that names it, its value and what was expected;
// nothing is written then, and results are NULL or zero.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <functional>
#include <limits>
#include <random>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

kvappend_descriptor ordinary() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = 2;
    d.heads = 3;
    d.new_rows = 2;
    d.cache_rows = 5;
    d.k_dim = 4;
    d.v_dim = 6;
    return d;
}

void check_refused(kvappend_status found, kvappend_status expected, const std::string &words) {
    const std::string message = kvappend_last_error_message();
    INFO(kvappend_status_name(found) << ": " << message);
    CHECK(found == expected);
    CHECK(message.find(words) != std::string::npos);
}

void check_creation(const kvappend_descriptor &d, kvappend_status expected, const std::string &words,
                    const kvappend_preference *preference = nullptr) {
    kvappend_descriptor marker;
    auto *plan = reinterpret_cast<kvappend_plan *>(&marker); // must become NULL
    const kvappend_status status = kvappend_plan_create(&d, preference, &plan);
    check_refused(status, expected, words);
    CHECK(plan == nullptr);
}

// The buffers of the ordinary problem, of f32 and int64, all in one block, with room between them. A guard on the whole
// block shows that a refused call wrote nothing.
class Call {
public:
    explicit Call(kvappend_descriptor d = ordinary()) : plan_(make_plan(d)) {
        std::mt19937 random;
        std::ranges::generate(bytes_, [&] { return static_cast<unsigned char>(random()); });
        subject().upload(block_, bytes_.data(), bytes_.size());
        args.k_new = at(0);
        args.v_new = at(1);
        args.k_cache = at(2);
        args.v_cache = at(3);
        args.cache_offsets = at(4);
        args.k_new_bytes = 2 * 3 * 2 * 4 * 4;
        args.v_new_bytes = 2 * 3 * 2 * 6 * 4;
        args.k_cache_bytes = 2 * 3 * 5 * 4 * 4;
        args.v_cache_bytes = 2 * 3 * 5 * 6 * 4;
        args.cache_offsets_bytes = 2 * 8;
    }
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;
    ~Call() { subject().release(block_); }

    static constexpr std::size_t piece = 4096;
    unsigned char *at(std::size_t buffer) const { return block_ + buffer * piece; }
    const kvappend_plan *plan() const { return plan_.get(); }

    // By run and by can_implement alike.
    void check(kvappend_status expected, const std::string &words) const {
        check_refused(kvappend_plan_can_implement(plan(), &args), expected, words);
        check_refused(kvappend_plan_run(plan(), &args, nullptr, 0, subject().stream()), expected, words);
        check_untouched();
    }
    void check_accepted() const { CHECK(told(kvappend_plan_can_implement(plan(), &args)) == "KVAPPEND_SUCCESS"); }
    void check_untouched() const {
        subject().synchronize();
        std::vector<unsigned char> found(bytes_.size());
        subject().download(found.data(), block_, found.size());
        CHECK(found == bytes_);
    }

    kvappend_args args = KVAPPEND_ARGS_INIT;

private:
    PlanPointer plan_;
    std::vector<unsigned char> bytes_ = std::vector<unsigned char>(5 * piece);
    unsigned char *block_ = static_cast<unsigned char *>(subject().allocate(5 * piece));
};

template <class Pointer>
struct Buffer {
    const char *name;
    Pointer kvappend_args::*pointer;
    std::size_t kvappend_args::*bytes;
};

constexpr Buffer<const void *> read_buffers[] = {
    {"k_new", &kvappend_args::k_new, &kvappend_args::k_new_bytes},
    {"v_new", &kvappend_args::v_new, &kvappend_args::v_new_bytes},
    {"cache_offsets", &kvappend_args::cache_offsets, &kvappend_args::cache_offsets_bytes}};
constexpr Buffer<void *> written_buffers[] = {{"k_cache", &kvappend_args::k_cache, &kvappend_args::k_cache_bytes},
                                              {"v_cache", &kvappend_args::v_cache, &kvappend_args::v_cache_bytes}};

template <class Function>
void for_each_buffer(Function function) {
    for (const auto &buffer : read_buffers) {
        function(buffer);
    }
    for (const auto &buffer : written_buffers) {
        function(buffer);
    }
}

unsigned char *moved(const void *pointer, std::int64_t bytes) {
    return const_cast<unsigned char *>(static_cast<const unsigned char *>(pointer)) + bytes;
}

} // namespace

TEST_CASE("unknown enumerations are refused", "[arguments]") {
    const struct {
        const char *name;
        std::int32_t kvappend_descriptor::*field;
        kvappend_status status;
        std::int32_t count;
    } enumerations[] = {{"backend", &kvappend_descriptor::backend, KVAPPEND_ERROR_BACKEND, 2},
                        {"element_type", &kvappend_descriptor::element_type, KVAPPEND_ERROR_ELEMENT_TYPE, 4},
                        {"offset_type", &kvappend_descriptor::offset_type, KVAPPEND_ERROR_OFFSET_TYPE, 2},
                        {"addressing", &kvappend_descriptor::addressing, KVAPPEND_ERROR_ADDRESSING, 1}};
    for (const auto &e : enumerations) {
        for (const std::int32_t value : {-1, e.count, 1000000}) {
            kvappend_descriptor d = ordinary();
            d.*e.field = value;
            check_creation(d, e.status,
                           "descriptor." + std::string(e.name) + " is " + std::to_string(value) + ": expected a");
        }
    }
}

TEST_CASE("negative extents and strides are refused", "[arguments]") {
    const struct {
        const char *name;
        std::int64_t kvappend_descriptor::*field;
    } extents[] = {{"batch", &kvappend_descriptor::batch},       {"heads", &kvappend_descriptor::heads},
                   {"new_rows", &kvappend_descriptor::new_rows}, {"cache_rows", &kvappend_descriptor::cache_rows},
                   {"k_dim", &kvappend_descriptor::k_dim},       {"v_dim", &kvappend_descriptor::v_dim}};
    for (const auto &extent : extents) {
        for (const std::int64_t value : {std::int64_t{-1}, -most - 1}) {
            kvappend_descriptor d = ordinary();
            d.*extent.field = value;
            check_creation(d, KVAPPEND_ERROR_EXTENT,
                           "descriptor." + std::string(extent.name) + " is " + std::to_string(value) + ": expected 0");
        }
    }
    const struct {
        const char *name;
        std::int64_t (kvappend_descriptor::*field)[3];
    } strides[] = {{"k_new", &kvappend_descriptor::k_new_strides},
                   {"v_new", &kvappend_descriptor::v_new_strides},
                   {"k_cache", &kvappend_descriptor::k_cache_strides},
                   {"v_cache", &kvappend_descriptor::v_cache_strides}};
    const char *const axes[] = {"BATCH", "HEAD", "ROW"};
    for (const auto &stride : strides) {
        for (int axis = 0; axis < 3; ++axis) {
            kvappend_descriptor d = ordinary();
            (d.*stride.field)[axis] = -7;
            const std::string words =
                "descriptor." + std::string(stride.name) + "_strides[KVAPPEND_AXIS_" + axes[axis] + "] is -7: expected";
            check_creation(d, KVAPPEND_ERROR_STRIDE, words);
            d.batch = 0; // The stride is wrong also where there is nothing to copy.
            check_creation(d, KVAPPEND_ERROR_STRIDE, words);
        }
    }
}

TEST_CASE("tensors that do not fit in 63 bits are refused", "[arguments]") {
    const std::int64_t large = std::int64_t{1} << 31;
    kvappend_descriptor d = ordinary();
    SECTION("the cache") {
        d.batch = d.cache_rows = large;
        check_creation(d, KVAPPEND_ERROR_OVERFLOW, "k_cache [2147483648, 3, 2147483648, 4]");
    }
    SECTION("one byte more than fits") {
        d.batch = d.heads = d.new_rows = 1;
        d.k_dim = 0;
        d.v_dim = 1;
        d.cache_rows = most / 4;
        CHECK(make_plan(d) != nullptr);
        d.cache_rows += 1;
        check_creation(d, KVAPPEND_ERROR_OVERFLOW, "v_cache [");
    }
    SECTION("a row alone") {
        d.v_dim = most;
        check_creation(d, KVAPPEND_ERROR_OVERFLOW, "v_new [");
    }
    SECTION("a stride in bytes") {
        d.k_new_strides[0] = most / 2;
        check_creation(d, KVAPPEND_ERROR_OVERFLOW, "k_new [");
    }
    SECTION("the distance to the last element") {
        d.batch = 4;
        d.k_cache_strides[0] = most / 4 / 3 + 1;
        d.k_cache_strides[1] = 20;
        d.k_cache_strides[2] = 4;
        check_creation(d, KVAPPEND_ERROR_OVERFLOW, "k_cache [");
    }
    SECTION("the sum of distances that fit one by one") {
        d.batch = d.heads = 2;
        d.k_cache_strides[0] = d.k_cache_strides[1] = std::int64_t{1} << 60;
        d.k_cache_strides[2] = 4;
        check_creation(d, KVAPPEND_ERROR_OVERFLOW, "k_cache [");
    }
    SECTION("rows that a broadcast source repeats too often") {
        d.new_rows = most / 16;
        d.k_new_strides[0] = 8;
        check_creation(d, KVAPPEND_ERROR_OVERFLOW, "k_new [");
    }
    SECTION("the offsets") {
        d.element_type = KVAPPEND_ELEMENT_F16;
        d.batch = std::int64_t{1} << 61;
        d.heads = d.new_rows = d.cache_rows = d.k_dim = 1;
        d.v_dim = 0;
        check_creation(d, KVAPPEND_ERROR_OVERFLOW, "descriptor.batch is 2305843009213693952");
    }
}

TEST_CASE("an unknown or unfit kernel is refused", "[arguments]") {
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    p.kernel_name = "dense";
    check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "preference.kernel_name is \"dense\": expected", &p);
    p.kernel_name = "";
    check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "preference.kernel_name is \"\": expected", &p);
    const bool cuda = subject().backend() == KVAPPEND_BACKEND_CUDA;
    p.kernel_name = cuda ? "host_dense" : "cuda_dense_b16";
    check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "expected a kernel of the descriptor's backend", &p);
    if (cuda) {
        kvappend_descriptor d = ordinary();
        d.k_dim = d.v_dim = 3; // rows of 12 bytes
        p.kernel_name = "cuda_dense_b8";
        check_creation(d, KVAPPEND_ERROR_KERNEL, "\"cuda_dense_b8\": expected a kernel that serves this problem", &p);
        check_creation(d, KVAPPEND_ERROR_KERNEL, "at most 4 bytes", &p);
    }
    // A message has room for 511 bytes, and a name that is longer does no harm.
    const std::string endless(100000, 'x');
    p.kernel_name = endless.c_str();
    check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "preference.kernel_name is \"xxxx", &p);
    CHECK(std::string(kvappend_last_error_message()).size() <= 511);
}

TEST_CASE("a CUDA plan where there is no CUDA is refused with the reason", "[arguments]") {
    kvappend_descriptor d = ordinary();
    d.backend = KVAPPEND_BACKEND_CUDA;
    kvappend_plan *plan = nullptr;
    const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
    const std::string message = kvappend_last_error_message();
    if (subject().backend() == KVAPPEND_BACKEND_CUDA || status == KVAPPEND_SUCCESS) {
        CHECK(plan != nullptr);
        kvappend_plan_destroy(plan);
        return;
    }
    CHECK(plan == nullptr);
    if (kvappend_kernel_name(1) != nullptr) { // The table has CUDA kernels, so this library has CUDA.
        CHECK(status == KVAPPEND_ERROR_NO_DEVICE);
        CHECK(message.starts_with("there is no CUDA"));
    } else {
        CHECK(status == KVAPPEND_ERROR_UNSUPPORTED);
        CHECK(message.starts_with("descriptor.backend is KVAPPEND_BACKEND_CUDA: expected KVAPPEND_BACKEND_HOST"));
    }
}

TEST_CASE("NULL for a struct, plan or result is refused by name", "[arguments]") {
    const kvappend_descriptor d = ordinary();
    const Call call;
    std::size_t bytes = 77;
    kvappend_plan *plan = reinterpret_cast<kvappend_plan *>(&bytes);
    const kvappend_api *api = nullptr;
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    constexpr auto null = KVAPPEND_ERROR_NULL_ARGUMENT;
    check_refused(kvappend_plan_create(nullptr, nullptr, &plan), null, "descriptor is NULL");
    CHECK(plan == nullptr);
    check_refused(kvappend_plan_create(&d, nullptr, nullptr), null, "plan is NULL");
    check_refused(kvappend_plan_workspace_size(nullptr, &bytes), null, "plan is NULL");
    CHECK(bytes == 0);
    check_refused(kvappend_plan_workspace_size(call.plan(), nullptr), null, "bytes is NULL");
    check_refused(kvappend_plan_can_implement(nullptr, &call.args), null, "plan is NULL");
    check_refused(kvappend_plan_can_implement(call.plan(), nullptr), null, "args is NULL");
    check_refused(kvappend_plan_run(nullptr, &call.args, nullptr, 0, subject().stream()), null, "plan is NULL");
    check_refused(kvappend_plan_run(call.plan(), nullptr, nullptr, 0, subject().stream()), null, "args is NULL");
    check_refused(kvappend_plan_get_sku(nullptr, &sku), null, "plan is NULL");
    check_refused(kvappend_plan_get_sku(call.plan(), nullptr), null, "sku is NULL");
    check_refused(kvappend_plan_get_precision_guarantee(call.plan(), nullptr), null, "guarantee is NULL");
    check_refused(kvappend_get_api(KVAPPEND_ABI_VERSION, nullptr), null, "api is NULL");
    check_refused(kvappend_get_api(KVAPPEND_ABI_VERSION + 1, &api), KVAPPEND_ERROR_ABI_VERSION,
                  "abi_version is 2: expected 1");
    CHECK(api == nullptr);
    call.check_untouched();
}

TEST_CASE("NULL, undersized and misaligned buffers are refused by name", "[arguments]") {
    for_each_buffer([](const auto &buffer) {
        const std::string name = std::string("args.") + buffer.name;
        INFO(name);
        Call call;
        call.check_accepted();
        const kvappend_args good = call.args;
        const bool is_offsets = std::string(buffer.name) == "cache_offsets";

        call.args.*buffer.pointer = nullptr;
        call.check(KVAPPEND_ERROR_NULL_BUFFER,
                   name + " is NULL: expected a buffer of " + std::to_string(good.*buffer.bytes) + " bytes");

        call.args = good;
        call.args.*buffer.bytes -= 1;
        call.check(KVAPPEND_ERROR_BUFFER_TOO_SMALL, name + "_bytes is " + std::to_string(good.*buffer.bytes - 1) +
                                                        ": expected at least " + std::to_string(good.*buffer.bytes));
        call.args.*buffer.bytes = 1;
        call.check(KVAPPEND_ERROR_BUFFER_TOO_SMALL, name + "_bytes is 1: expected");
        call.args.*buffer.bytes = 0;
        call.check_accepted();
        call.args.*buffer.bytes = SIZE_MAX;
        call.check_accepted();

        for (const int shift : {1, 2, 3, 5, 4}) {
            call.args = good;
            call.args.*buffer.pointer = moved(good.*buffer.pointer, shift);
            if (shift == 4 && !is_offsets) {
                call.check_accepted();
            } else {
                call.check(KVAPPEND_ERROR_MISALIGNED,
                           is_offsets ? "that is a multiple of 8" : "that is a multiple of 4");
                check_refused(kvappend_plan_can_implement(call.plan(), &call.args), KVAPPEND_ERROR_MISALIGNED,
                              name + " is 0x");
            }
        }

        // A buffer whose end wraps around the address space.
        call.args = good;
        call.args.*buffer.pointer = reinterpret_cast<unsigned char *>(UINTPTR_MAX - 7);
        call.check(KVAPPEND_ERROR_BUFFER_TOO_SMALL, name + " is 0xfffffffffffffff8: expected an address with");
    });
}

TEST_CASE("alignment is that of the element and of the offset", "[arguments]") {
    const struct {
        std::int32_t element, offset;
        std::uintptr_t element_bytes, offset_bytes;
    } types[] = {{KVAPPEND_ELEMENT_F64, KVAPPEND_OFFSET_INT64, 8, 8},
                 {KVAPPEND_ELEMENT_F32, KVAPPEND_OFFSET_INT32, 4, 4},
                 {KVAPPEND_ELEMENT_F16, KVAPPEND_OFFSET_INT64, 2, 8},
                 {KVAPPEND_ELEMENT_BF16, KVAPPEND_OFFSET_INT32, 2, 4}};
    for (const auto &type : types) {
        kvappend_descriptor d = ordinary();
        d.element_type = type.element;
        d.offset_type = type.offset;
        Call call(d);
        kvappend_args sizeless = KVAPPEND_ARGS_INIT;
        for_each_buffer([&](const auto &buffer) { sizeless.*buffer.pointer = call.args.*buffer.pointer; });
        for_each_buffer([&](const auto &buffer) {
            const auto bytes = std::string(buffer.name) == "cache_offsets" ? type.offset_bytes : type.element_bytes;
            call.args = sizeless;
            call.args.*buffer.pointer = moved(call.args.*buffer.pointer, static_cast<std::int64_t>(bytes));
            call.check_accepted();
            call.args.*buffer.pointer = moved(call.args.*buffer.pointer, -static_cast<std::int64_t>(bytes / 2));
            call.check(KVAPPEND_ERROR_MISALIGNED, "multiple of " + std::to_string(bytes));
        });
    }
}

TEST_CASE("a new tensor or offsets that share memory with a cache are refused", "[arguments]") {
    for (const auto &read : read_buffers) {
        for (const auto &written : written_buffers) {
            const std::string words = std::string("args.") + read.name + " [0x";
            Call call;
            const kvappend_args good = call.args;
            const auto read_bytes = static_cast<std::int64_t>(good.*read.bytes);
            const auto written_bytes = static_cast<std::int64_t>(good.*written.bytes);
            // Inside, over the first bytes, over the last bytes; and just before and just behind.
            for (const std::int64_t shift : {std::int64_t{16}, 8 - read_bytes, written_bytes - 8}) {
                call.args.*read.pointer = moved(good.*written.pointer, shift);
                call.check(KVAPPEND_ERROR_ALIAS, words);
                check_refused(kvappend_plan_can_implement(call.plan(), &call.args), KVAPPEND_ERROR_ALIAS,
                              std::string("and args.") + written.name + " [0x");
            }
            for (const std::int64_t shift : {-read_bytes, written_bytes}) {
                call.args.*read.pointer = moved(good.*written.pointer, shift);
                call.check_accepted();
            }
        }
    }
    // New tensors are only read, so they may be one.
    Call call;
    call.args.k_new = call.args.v_new;
    call.check_accepted();
}

TEST_CASE("K and V caches that share an element are refused", "[arguments]") {
    Call call;
    call.args.v_cache = call.args.k_cache;
    call.check(KVAPPEND_ERROR_CACHE_OVERLAP, "args.k_cache is 0x");
    call.args.v_cache = moved(call.args.k_cache, static_cast<std::int64_t>(call.args.k_cache_bytes) - 4);
    call.check(KVAPPEND_ERROR_CACHE_OVERLAP, "and args.v_cache is 0x");
    call.args.v_cache = moved(call.args.k_cache, static_cast<std::int64_t>(call.args.k_cache_bytes));
    call.check_accepted();
}

TEST_CASE("buffers of what is not there may be NULL", "[arguments]") {
    kvappend_descriptor d = ordinary();
    SECTION("K alone") {
        d.v_dim = 0;
        Call call(d);
        call.args.v_new = call.args.v_cache = nullptr;
        call.check_accepted();
    }
    SECTION("V alone") {
        d.k_dim = 0;
        Call call(d);
        call.args.k_new = call.args.k_cache = nullptr;
        call.check_accepted();
    }
    SECTION("nothing to do") {
        d.new_rows = 0;
        const PlanPointer plan = make_plan(d);
        const kvappend_args none = KVAPPEND_ARGS_INIT;
        CHECK(told(kvappend_plan_can_implement(plan.get(), &none)) == "KVAPPEND_SUCCESS");
        CHECK(told(kvappend_plan_run(plan.get(), &none, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    }
}

TEST_CASE("a workspace that is NULL but has a size is refused, and so is a stream on the host", "[arguments]") {
    const Call call;
    check_refused(kvappend_plan_run(call.plan(), &call.args, nullptr, 64, subject().stream()), KVAPPEND_ERROR_WORKSPACE,
                  "workspace is NULL and workspace_bytes is 64: expected");
    if (subject().backend() == KVAPPEND_BACKEND_HOST) {
        auto *const stream = reinterpret_cast<CUstream_st *>(call.at(0));
        check_refused(kvappend_plan_run(call.plan(), &call.args, nullptr, 0, stream), KVAPPEND_ERROR_STREAM,
                      "stream is 0x");
    }
    call.check_untouched();
}

TEST_CASE("the last failure is the thread's own, and a success leaves it alone", "[arguments]") {
    std::string fresh = "not asked";
    std::string other;
    check_refused(kvappend_plan_create(nullptr, nullptr, nullptr), KVAPPEND_ERROR_NULL_ARGUMENT, "plan is NULL");
    std::thread([&] {
        fresh = kvappend_last_error_message();
        kvappend_args_init(nullptr, 8);
        other = kvappend_last_error_message();
    }).join();
    CHECK(fresh.empty());
    CHECK(other == "args is NULL: expected a struct to initialise");
    CHECK(std::string(kvappend_last_error_message()) == "plan is NULL: expected a pointer");
    CHECK(make_plan(ordinary()) != nullptr);
    CHECK(std::string(kvappend_last_error_message()) == "plan is NULL: expected a pointer");
}
