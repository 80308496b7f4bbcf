// SPDX-License-Identifier: Apache-2.0
// Each bad argument is refused with a status of its own and a message that names it, its value and what was expected;
// nothing is written then, and results are NULL or zero.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();

// The address as messages show it.
std::string text(const void *pointer) {
    std::array<char, 32> out{};
    std::snprintf(out.data(), out.size(), "%p", pointer);
    return out.data();
}

// Replaces the last failure, so that the next one must bring a message of its own.
void forget() {
    const kvappend_api *none = nullptr;
    kvappend_get_api(7777, &none);
}

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
    // What was expected: what does not fit in 63 bits should.
    CHECK(message.find(expected == KVAPPEND_ERROR_OVERFLOW ? "do not fit in 63 bits" : "expected") !=
          std::string::npos);
    forget();
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
    void check_accepted() const {
        CHECK(told(kvappend_plan_can_implement(plan(), &args)) == "KVAPPEND_SUCCESS");
        CHECK(told(kvappend_plan_run(plan(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        check_untouched();
    }
    void check_untouched() const { CHECK(contents() == bytes_); }

    // The block's bytes, as offsets, skip every row: so an accepted run writes nothing either, until these are set.
    void set_offsets(std::int64_t first, std::int64_t second) const {
        const std::int64_t offsets[] = {first, second};
        subject().upload(at(4), offsets, sizeof offsets);
    }
    std::vector<unsigned char> contents() const {
        subject().synchronize();
        std::vector<unsigned char> found(bytes_.size());
        subject().download(found.data(), block_, found.size());
        return found;
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

constexpr Buffer<const void *> read_buffers[] = {{"k_new", &kvappend_args::k_new, &kvappend_args::k_new_bytes},
                                                 {"v_new", &kvappend_args::v_new, &kvappend_args::v_new_bytes}};
constexpr Buffer<void *> offsets_buffer{"cache_offsets", &kvappend_args::cache_offsets,
                                        &kvappend_args::cache_offsets_bytes};
constexpr Buffer<void *> written_buffers[] = {{"k_cache", &kvappend_args::k_cache, &kvappend_args::k_cache_bytes},
                                              {"v_cache", &kvappend_args::v_cache, &kvappend_args::v_cache_bytes}};

template <class Function>
void for_each_read_buffer(Function function) {
    for (const auto &buffer : read_buffers) {
        function(buffer);
    }
    function(offsets_buffer);
}

template <class Function>
void for_each_buffer(Function function) {
    for_each_read_buffer(function);
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
                        {"element_type", &kvappend_descriptor::element_type, KVAPPEND_ERROR_ELEMENT_TYPE, 8},
                        {"offset_type", &kvappend_descriptor::offset_type, KVAPPEND_ERROR_OFFSET_TYPE, 2},
                        {"addressing", &kvappend_descriptor::addressing, KVAPPEND_ERROR_ADDRESSING, 5},
                        {"lengths", &kvappend_descriptor::lengths, KVAPPEND_ERROR_LENGTHS, 4},
                        {"index_type", &kvappend_descriptor::index_type, KVAPPEND_ERROR_INDEX_TYPE, 2},
                        {"skip_policy", &kvappend_descriptor::skip_policy, KVAPPEND_ERROR_SKIP_POLICY, 3}};
    for (const auto &e : enumerations) {
        for (const std::int32_t value : {-1, e.count, INT32_MIN, INT32_MAX}) {
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
        for (const std::int64_t value : {std::int64_t{-1}, least}) {
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
            for (const std::int64_t value : {std::int64_t{-1}, least}) {
                kvappend_descriptor d = ordinary();
                (d.*stride.field)[axis] = value;
                const std::string words = "descriptor." + std::string(stride.name) + "_strides[KVAPPEND_AXIS_" +
                                          axes[axis] + "] is " + std::to_string(value) + ": expected 0 or more";
                check_creation(d, KVAPPEND_ERROR_STRIDE, words);
                // The stride is wrong also where it is not used, and where there is nothing to copy.
                for (const std::int64_t extent : {1, 0}) {
                    d.batch = d.heads = d.new_rows = d.cache_rows = extent;
                    check_creation(d, KVAPPEND_ERROR_STRIDE, words);
                }
            }
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
}

TEST_CASE("one element more than fits between the first and the last of each tensor is refused", "[arguments]") {
    kvappend_descriptor d = ordinary();
    const struct {
        const char *name;
        std::int64_t (kvappend_descriptor::*strides)[3];
    } tensors[] = {{"k_new", &kvappend_descriptor::k_new_strides},
                   {"v_new", &kvappend_descriptor::v_new_strides},
                   {"k_cache", &kvappend_descriptor::k_cache_strides},
                   {"v_cache", &kvappend_descriptor::v_cache_strides}};
    d.heads = d.new_rows = d.cache_rows = d.k_dim = d.v_dim = 1;
    for (const auto &tensor : tensors) {
        kvappend_descriptor far = d;
        (far.*tensor.strides)[0] = most / 4 - 1;
        CHECK(make_plan(far) != nullptr);
        (far.*tensor.strides)[0] += 1;
        check_creation(far, KVAPPEND_ERROR_OVERFLOW,
                       std::string(tensor.name) + " [2, 1, 1, 1] with strides {2305843009213693951, 0, 0}");
        far.batch = 1; // Then the stride does not matter.
        (far.*tensor.strides)[0] = most;
        CHECK(make_plan(far) != nullptr);
    }
}

TEST_CASE("offsets that do not fit in 63 bits are refused", "[arguments]") {
    kvappend_descriptor d = ordinary();
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = (std::int64_t{1} << 60) - 1;
    d.heads = d.new_rows = d.cache_rows = d.k_dim = 1;
    d.v_dim = 0;
    CHECK(make_plan(d) != nullptr);
    d.batch += 1;
    check_creation(d, KVAPPEND_ERROR_OVERFLOW, "descriptor.batch is 1152921504606846976");
    d.offset_type = KVAPPEND_OFFSET_INT32;
    CHECK(make_plan(d) != nullptr);
    d.batch = std::int64_t{1} << 61;
    check_creation(d, KVAPPEND_ERROR_OVERFLOW, "descriptor.batch is 2305843009213693952");
}

TEST_CASE("samples may be more than offsets fit in 63 bits if there is no offset for each", "[arguments]") {
    kvappend_descriptor d = ordinary();
    d.element_type = KVAPPEND_ELEMENT_UINT8;
    d.batch = std::int64_t{1} << 61;
    d.heads = d.new_rows = d.cache_rows = d.k_dim = 1;
    d.v_dim = 0;
    d.flags = KVAPPEND_FLAG_SHARED_OFFSET;
    CHECK(make_plan(d) != nullptr);
    d.flags = KVAPPEND_FLAG_ZERO_OFFSETS;
    CHECK(make_plan(d) != nullptr);
    d.flags = 0;
    d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
    CHECK(make_plan(d) != nullptr);
    d.lengths = KVAPPEND_LENGTHS_FIXED;
    check_creation(d, KVAPPEND_ERROR_OVERFLOW, "cache_offsets");
}

TEST_CASE("host threads out of range, or where they are of no use, are refused", "[arguments]") {
    const bool cuda = subject().backend() == KVAPPEND_BACKEND_CUDA;
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    for (const std::int32_t threads : {0, 1, cuda ? 1 : 2, cuda ? 1 : 5}) {
        p.host_threads = threads;
        CHECK(make_plan(ordinary(), &p) != nullptr);
    }
    for (const std::int32_t threads : {-1, INT32_MIN, 1025, INT32_MAX}) {
        p.host_threads = threads;
        check_creation(ordinary(), KVAPPEND_ERROR_HOST_THREADS,
                       "preference.host_threads is " + std::to_string(threads) + ": expected 0 to 1024", &p);
    }
    if (cuda) {
        for (const std::int32_t threads : {2, 1024}) {
            p.host_threads = threads;
            check_creation(ordinary(), KVAPPEND_ERROR_CONFLICT,
                           "preference.host_threads is " + std::to_string(threads) + " and descriptor.backend is not",
                           &p);
        }
    }
    p.host_threads = 0;
    p.reserved = -1;
    check_creation(ordinary(), KVAPPEND_ERROR_CONFLICT, "preference.reserved is -1: expected 0", &p);
}

#if defined(__x86_64__)
// Also run on an emulated machine, with WITHOUT_AVX set. What the system says of the processor is not emulated.
TEST_CASE("a kernel with AVX is refused where there is no AVX", "[arguments][avx]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("only the host backend has kernels with AVX");
    }
    // A library that finds AVX prefers its kernels.
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    REQUIRE(kvappend_plan_get_sku(make_plan(ordinary()).get(), &sku) == KVAPPEND_SUCCESS);
    const bool has_avx = std::string(sku.kernel_name) == "host_dense_avx";
    std::ifstream cpuinfo("/proc/cpuinfo");
    const std::string flags{std::istreambuf_iterator<char>(cpuinfo), {}};
    CHECK(has_avx == (std::getenv("WITHOUT_AVX") == nullptr && flags.find(" avx ") != std::string::npos));
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    for (const std::string name : {"host_dense_avx", "host_rows_avx"}) {
        p.kernel_name = name.c_str();
        if (has_avx) {
            CHECK(make_plan(ordinary(), &p) != nullptr);
        } else {
            check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, '"' + name + "\": expected a kernel that serves", &p);
            check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "on this machine; this machine has no AVX", &p);
        }
    }
}
#endif

TEST_CASE("an unknown or unfit kernel is refused", "[arguments]") {
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    CHECK(make_plan(ordinary(), &p) != nullptr); // NULL is no wish.
    p.kernel_name = "dense";
    check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "preference.kernel_name is \"dense\": expected", &p);
    p.kernel_name = "";
    check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "preference.kernel_name is \"\": expected", &p);
    const bool cuda = subject().backend() == KVAPPEND_BACKEND_CUDA;
    p.kernel_name = cuda ? "host_dense" : "cuda_dense_b16";
    check_creation(ordinary(), KVAPPEND_ERROR_KERNEL,
                   "preference.kernel_name is \"" + std::string(p.kernel_name) +
                       "\": expected the name of a kernel of the descriptor's backend",
                   &p);
    const std::string cut = std::string(p.kernel_name).substr(0, 9);
    p.kernel_name = cut.c_str();
    check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "is \"" + cut + "\": expected the name of a kernel of", &p);
    if (cuda) {
        kvappend_descriptor d = ordinary();
        d.addressing = KVAPPEND_ADDRESSING_RING;
        p.kernel_name = "cuda_dense_b16";
        check_creation(d, KVAPPEND_ERROR_KERNEL, "\"cuda_dense_b16\": expected a kernel that serves this problem", &p);
        check_creation(d, KVAPPEND_ERROR_KERNEL, "not a plain dense one", &p);
        d = ordinary();
        d.operation = KVAPPEND_OPERATION_GATHER;
        check_creation(d, KVAPPEND_ERROR_KERNEL, "this problem is a gather", &p);
        p.kernel_name = "cuda_gather_dense_b16";
        check_creation(ordinary(), KVAPPEND_ERROR_KERNEL, "this problem is an append", &p);
        d = ordinary();
        d.operation = KVAPPEND_OPERATION_MOVE;
        d.addressing = KVAPPEND_ADDRESSING_SLOTS;
        d.batch = d.cache_blocks = 1;
        check_creation(d, KVAPPEND_ERROR_KERNEL, "this problem is a move", &p);
        d = ordinary();
        d.batch = 1;
        d.cache_rows = std::int64_t{1} << 40; // more than 31 bits
        p.kernel_name = "cuda_rows_b16";
        check_creation(d, KVAPPEND_ERROR_KERNEL, "\"cuda_rows_b16\": expected a kernel that serves this problem", &p);
    }
    // A message has room for 511 bytes, and a name that is longer does no harm.
    const std::string endless(100000, 'x');
    p.kernel_name = endless.c_str();
    kvappend_plan *plan = nullptr;
    const kvappend_descriptor d = ordinary();
    CHECK(kvappend_plan_create(&d, &p, &plan) == KVAPPEND_ERROR_KERNEL);
    const std::string message = kvappend_last_error_message();
    CHECK(message.starts_with("preference.kernel_name is \"xxxx"));
    CHECK(message.size() <= 511);
}

TEST_CASE("a CUDA plan where there is no CUDA is refused with the reason", "[arguments]") {
    kvappend_descriptor d = ordinary();
    d.backend = KVAPPEND_BACKEND_CUDA;
    auto *plan = reinterpret_cast<kvappend_plan *>(&d); // must become NULL
    const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
    const std::string message = kvappend_last_error_message();
    if (subject().backend() == KVAPPEND_BACKEND_CUDA || status == KVAPPEND_SUCCESS) {
        CHECK(plan != nullptr);
        kvappend_plan_destroy(plan);
        return;
    }
    CHECK(plan == nullptr);
    bool has_cuda = false;
    for (std::size_t i = 0; kvappend_kernel_name(i) != nullptr; ++i) {
        has_cuda = has_cuda || std::string(kvappend_kernel_name(i)).starts_with("cuda_");
    }
    if (has_cuda) {
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
    kvappend_sku sku = {sizeof(kvappend_sku), 9, 9, 9, 9, 9, 9, "garbage", 9, 9};
    kvappend_precision_guarantee guarantee = {sizeof(kvappend_precision_guarantee), 9, 9, 9, 9, 9, 9};
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
    const kvappend_sku no_sku = KVAPPEND_SKU_INIT;
    CHECK(std::memcmp(&sku, &no_sku, sizeof sku) == 0);
    check_refused(kvappend_plan_get_precision_guarantee(nullptr, &guarantee), null, "plan is NULL");
    const kvappend_precision_guarantee no_guarantee = KVAPPEND_PRECISION_GUARANTEE_INIT;
    CHECK(std::memcmp(&guarantee, &no_guarantee, sizeof guarantee) == 0);
    check_refused(kvappend_plan_get_sku(call.plan(), nullptr), null, "sku is NULL");
    check_refused(kvappend_plan_get_precision_guarantee(call.plan(), nullptr), null, "guarantee is NULL");
    check_refused(kvappend_get_api(KVAPPEND_ABI_VERSION, nullptr), null, "api is NULL");
    for (const std::uint32_t other : {0U, KVAPPEND_ABI_VERSION + 1U, UINT32_MAX}) {
        const auto *api = reinterpret_cast<const kvappend_api *>(&bytes);
        check_refused(kvappend_get_api(other, &api), KVAPPEND_ERROR_ABI_VERSION,
                      "abi_version is " + std::to_string(other) + ": expected 1");
        CHECK(api == nullptr);
    }
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
                call.check(KVAPPEND_ERROR_MISALIGNED, name + " is " + text(call.args.*buffer.pointer) +
                                                          ": expected an address that is a multiple of " +
                                                          (is_offsets ? "8" : "4"));
            }
        }

        // A buffer whose end wraps around the address space.
        call.args = good;
        call.args.*buffer.pointer = reinterpret_cast<unsigned char *>(UINTPTR_MAX - 7);
        call.check(KVAPPEND_ERROR_BUFFER_TOO_SMALL, name + " is 0xfffffffffffffff8: expected an address with " +
                                                        std::to_string(good.*buffer.bytes) + " bytes before the end");
        // One that ends with the address space: its end has no address.
        call.args.*buffer.pointer = reinterpret_cast<unsigned char *>(UINTPTR_MAX - good.*buffer.bytes + 1);
        call.check(KVAPPEND_ERROR_BUFFER_TOO_SMALL, name + " is " + text(call.args.*buffer.pointer) +
                                                        ": expected an address with " +
                                                        std::to_string(good.*buffer.bytes) + " bytes before the end");
        // One that ends an element before it is nobody's to run with, but can_implement reads no buffer.
        call.args.*buffer.pointer = reinterpret_cast<unsigned char *>(UINTPTR_MAX - 7 - good.*buffer.bytes);
        CHECK(told(kvappend_plan_can_implement(call.plan(), &call.args)) == "KVAPPEND_SUCCESS");
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
    for_each_read_buffer([](const auto &read) {
        for (const auto &written : written_buffers) {
            const std::string words = std::string("args.") + read.name + " [0x";
            Call call;
            const kvappend_args good = call.args;
            const auto read_bytes = static_cast<std::int64_t>(good.*read.bytes);
            const auto written_bytes = static_cast<std::int64_t>(good.*written.bytes);
            // Inside, over the first bytes, over the last bytes; and just before and just after.
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
    });
    // New tensors are only read, so they may be one.
    Call call;
    call.args.k_new = call.args.v_new;
    call.check_accepted();
}

TEST_CASE("the least overlap there can be with a cache is refused, by one element of two bytes", "[arguments]") {
    kvappend_descriptor d = ordinary();
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.offset_type = KVAPPEND_OFFSET_INT32;
    for_each_read_buffer([&](const auto &read) {
        for (const auto &written : written_buffers) {
            Call call(d);
            for_each_buffer([&](const auto &buffer) { call.args.*buffer.bytes /= 2; });
            // Offsets are aligned to 4 bytes, so with both ends of the cache in between they meet 2 bytes of it.
            call.args.*written.pointer = moved(call.args.*written.pointer, 2);
            const auto read_bytes = static_cast<std::int64_t>(call.args.*read.bytes);
            const auto written_bytes = static_cast<std::int64_t>(call.args.*written.bytes);
            for (const std::int64_t shift : {2 - read_bytes, written_bytes - 2}) {
                call.args.*read.pointer = moved(call.args.*written.pointer, shift);
                call.check(KVAPPEND_ERROR_ALIAS,
                           std::string("args.") + read.name + " [" + text(call.args.*read.pointer) + ", ");
            }
        }
    });
}

TEST_CASE("a cache may lie in gaps of a new tensor, and a new tensor in gaps of a cache, but offsets may not",
          "[arguments]") {
    // 300 elements from one sample to the next leave a gap of at least 180 elements, which begins at element 48.
    kvappend_descriptor d = ordinary();
    for (std::int64_t(kvappend_descriptor::*const strides)[3] :
         {&kvappend_descriptor::k_new_strides, &kvappend_descriptor::k_cache_strides}) {
        (d.*strides)[0] = 300;
        (d.*strides)[1] = 20;
        (d.*strides)[2] = 4;
    }
    Call call(d);
    for_each_buffer([&](const auto &buffer) { call.args.*buffer.bytes = 0; });
    call.check_accepted();
    const kvappend_args good = call.args;
    call.args.v_cache = moved(good.k_new, 100 * 4);
    call.check_accepted();
    call.args.v_cache = moved(good.k_new, 47 * 4);
    call.check(KVAPPEND_ERROR_ALIAS, "args.k_new [" + text(good.k_new) + ", " + text(moved(good.k_new, 348 * 4)) +
                                         ") and args.v_cache [" + text(call.args.v_cache) + ", ");
    call.args = good;
    call.args.v_new = moved(good.k_cache, 100 * 4);
    call.check_accepted();
    call.args = good;
    call.args.cache_offsets = moved(good.k_cache, 100 * 4);
    call.check(KVAPPEND_ERROR_ALIAS, "args.cache_offsets [" + text(call.args.cache_offsets));
    // New tensors may lie in each other's gaps, and so may the offsets in theirs.
    call.args = good;
    call.args.v_new = moved(good.k_new, 100 * 4);
    call.args.cache_offsets = moved(good.k_new, 280 * 4);
    call.check_accepted();
}

TEST_CASE("K and V caches that share an element are refused", "[arguments]") {
    Call call;
    const auto check = [&](std::int64_t shift) {
        call.args.v_cache = moved(call.args.k_cache, shift);
        call.check(KVAPPEND_ERROR_OVERLAP, "args.k_cache is " + text(call.args.k_cache) + " and args.v_cache is " +
                                               text(call.args.v_cache) + ": ");
    };
    const auto k_bytes = static_cast<std::int64_t>(call.args.k_cache_bytes);
    const auto v_bytes = static_cast<std::int64_t>(call.args.v_cache_bytes);
    check(0);
    check(k_bytes - 4);
    check(4 - v_bytes);
    for (const std::int64_t shift : {k_bytes, -v_bytes}) {
        call.args.v_cache = moved(call.args.k_cache, shift);
        call.check_accepted();
    }
}

TEST_CASE("pools of K and V are accepted at their distance, and refused an element beside it", "[arguments]") {
    constexpr std::int64_t heads = 3, rows = 5, dim = 4; // as the ordinary problem has them
    const struct {
        const char *name;
        std::int64_t strides[3];
        std::int64_t distance; // from K to V, in elements
    } pools[] = {{"rows alternate", {heads * rows * 2 * dim, rows * 2 * dim, 2 * dim}, dim},
                 {"heads alternate", {rows * heads * 2 * dim, 2 * dim, heads * 2 * dim}, dim},
                 {"halves of a sample", {2 * heads * rows * dim, rows * dim, dim}, heads * rows * dim}};
    for (const auto &pool : pools) {
        INFO(pool.name);
        kvappend_descriptor d = ordinary();
        d.v_dim = dim;
        std::ranges::copy(pool.strides, d.k_cache_strides);
        std::ranges::copy(pool.strides, d.v_cache_strides);
        Call call(d);
        for_each_buffer([&](const auto &buffer) { call.args.*buffer.bytes = 0; });
        // Behind K, and before it.
        for (const std::int64_t distance : {pool.distance, -pool.distance}) {
            call.args.v_cache = moved(call.args.k_cache, distance * 4);
            call.check_accepted();
            for (const std::int64_t beside : {distance - 1, distance + 1}) {
                call.args.v_cache = moved(call.args.k_cache, beside * 4);
                call.check(KVAPPEND_ERROR_OVERLAP, "and args.v_cache is " + text(call.args.v_cache));
            }
        }
    }
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
    SECTION("the sizes of what is not there do not matter either") {
        d.v_dim = 0;
        Call call(d);
        call.args.v_new_bytes = call.args.v_cache_bytes = 1;
        call.args.v_new = call.args.v_cache = moved(call.args.k_cache, 8);
        call.check_accepted();
    }
    SECTION("nothing to do") {
        for (std::int64_t kvappend_descriptor::*const extent :
             {&kvappend_descriptor::batch, &kvappend_descriptor::heads, &kvappend_descriptor::new_rows,
              &kvappend_descriptor::cache_rows, &kvappend_descriptor::k_dim}) {
            kvappend_descriptor empty = ordinary();
            empty.*extent = 0;
            empty.v_dim = extent == &kvappend_descriptor::k_dim ? 0 : empty.v_dim;
            const PlanPointer plan = make_plan(empty);
            const kvappend_args none = KVAPPEND_ARGS_INIT;
            CHECK(told(kvappend_plan_can_implement(plan.get(), &none)) == "KVAPPEND_SUCCESS");
            CHECK(told(kvappend_plan_run(plan.get(), &none, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
            // What is not a buffer is checked all the same.
            check_refused(kvappend_plan_run(plan.get(), &none, nullptr, 1, subject().stream()),
                          KVAPPEND_ERROR_WORKSPACE, "workspace is NULL and workspace_bytes is 1: expected");
            if (subject().backend() == KVAPPEND_BACKEND_HOST) {
                auto *const stream = reinterpret_cast<CUstream_st *>(&empty);
                check_refused(kvappend_plan_run(plan.get(), &none, nullptr, 0, stream), KVAPPEND_ERROR_STREAM,
                              "stream is " + text(&empty) + ": expected NULL");
            }
        }
    }
}

TEST_CASE("a workspace that is NULL but has a size is refused, and so is a stream on the host", "[arguments]") {
    const Call call;
    check_refused(kvappend_plan_run(call.plan(), &call.args, nullptr, 64, subject().stream()), KVAPPEND_ERROR_WORKSPACE,
                  "workspace is NULL and workspace_bytes is 64: expected");
    if (subject().backend() == KVAPPEND_BACKEND_HOST) {
        auto *const stream = reinterpret_cast<CUstream_st *>(call.at(0));
        check_refused(kvappend_plan_run(call.plan(), &call.args, nullptr, 0, stream), KVAPPEND_ERROR_STREAM,
                      "stream is " + text(stream) + ": expected NULL");
    }
    call.check_untouched();
}

TEST_CASE("a workspace that is given changes nothing", "[arguments]") {
    const Call without;
    without.set_offsets(3, -1);
    const std::vector<unsigned char> before = without.contents();
    CHECK(told(kvappend_plan_run(without.plan(), &without.args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    CHECK(without.contents() != before);
    void *const workspace = subject().allocate(64);
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{64}}) {
        const Call with;
        with.set_offsets(3, -1);
        CHECK(told(kvappend_plan_run(with.plan(), &with.args, workspace, bytes, subject().stream())) ==
              "KVAPPEND_SUCCESS");
        CHECK(with.contents() == without.contents());
    }
    subject().release(workspace);
}

TEST_CASE("arguments whose struct_size is at fault write nothing", "[arguments]") {
    Call call;
    call.set_offsets(0, 0);
    const std::vector<unsigned char> before = call.contents();
    for (const std::size_t size : {std::size_t{0}, std::size_t{4}, sizeof(kvappend_args) - 4, std::size_t{4104}}) {
        call.args.struct_size = size;
        const std::string words = "args.struct_size is " + std::to_string(size) + ": expected";
        check_refused(kvappend_plan_can_implement(call.plan(), &call.args), KVAPPEND_ERROR_STRUCT_SIZE, words);
        check_refused(kvappend_plan_run(call.plan(), &call.args, nullptr, 0, subject().stream()),
                      KVAPPEND_ERROR_STRUCT_SIZE, words);
    }
    CHECK(call.contents() == before);
}

TEST_CASE("the last failure is the thread's own, and a success leaves it alone", "[arguments]") {
    std::string fresh = "not asked";
    std::string other;
    CHECK(kvappend_plan_create(nullptr, nullptr, nullptr) == KVAPPEND_ERROR_NULL_ARGUMENT);
    const std::string mine = "plan is NULL: expected a pointer";
    CHECK(kvappend_last_error_message() == mine);
    std::thread([&] {
        const char *const message = kvappend_last_error_message();
        fresh = message != nullptr ? message : "NULL";
        kvappend_args_init(nullptr, 8);
        other = kvappend_last_error_message();
    }).join();
    CHECK(fresh.empty());
    CHECK(other == "args is NULL: expected a struct to initialise");
    CHECK(kvappend_last_error_message() == mine);
    const Call call;
    call.check_accepted();
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    CHECK(kvappend_plan_get_sku(call.plan(), &sku) == KVAPPEND_SUCCESS);
    CHECK(kvappend_last_error_message() == mine);
}
