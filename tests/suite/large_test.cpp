// SPDX-License-Identifier: Apache-2.0
// Caches and sources beyond 2^31 elements and 2^31 rows: no address is computed in 32 bits. Only the rows concerned are
// touched, so on the host the rest of these gigabytes is never backed by memory.
#include "held.hpp"
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <numeric>
#include <vector>

namespace {

// Large caches are compared in pieces of this number of bytes.
constexpr std::size_t piece = std::size_t{1} << 26;

// A device's memory is not zero at first. The emulated one is, and this does not touch its pages.
void fill_with_zeros(unsigned char *cache, std::size_t bytes) {
    std::vector<unsigned char> found(piece);
    for (std::size_t at = 0; at < bytes; at += piece) {
        const std::size_t count = std::min(piece, bytes - at);
        subject().download(found.data(), cache + at, count);
        if (std::any_of(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(count),
                        [](unsigned char c) { return c != 0; })) {
            const std::vector<unsigned char> zeros(count);
            subject().upload(cache + at, zeros.data(), count);
        }
    }
}

// Appends `rows` rows of `dim` f16 elements at `offset` of a cache of `cache_rows`, and requires all else to stay zero.
void check_large_at(std::int64_t heads, std::int64_t dim, std::int64_t cache_rows, std::int64_t rows,
                    std::int64_t offset) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = 1;
    d.heads = heads;
    d.new_rows = rows;
    d.cache_rows = cache_rows;
    d.k_dim = dim;
    const PlanPointer plan = make_plan(d);

    const auto row_bytes = static_cast<std::size_t>(dim) * 2;
    const auto run_bytes = static_cast<std::size_t>(rows) * row_bytes;
    const auto head_bytes = static_cast<std::size_t>(cache_rows) * row_bytes;
    std::vector<unsigned char> source(static_cast<std::size_t>(heads) * run_bytes);
    std::iota(source.begin(), source.end(), static_cast<unsigned char>(1));
    std::ranges::replace(source, static_cast<unsigned char>(0), static_cast<unsigned char>(255));

    const auto cache_bytes = static_cast<std::size_t>(heads) * head_bytes;
    // The first, because it alone may find no memory.
    auto *const k_cache = static_cast<unsigned char *>(subject().allocate(cache_bytes));
    auto *const k_new = static_cast<unsigned char *>(subject().allocate(source.size()));
    auto *const offsets = static_cast<unsigned char *>(subject().allocate(sizeof offset));
    subject().upload(k_new, source.data(), source.size());
    subject().upload(offsets, &offset, sizeof offset);
    if (subject().backend() == KVAPPEND_BACKEND_CUDA) {
        fill_with_zeros(k_cache, cache_bytes);
    }
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = k_new;
    args.k_new_bytes = source.size();
    args.k_cache = k_cache;
    args.k_cache_bytes = cache_bytes;
    args.cache_offsets = offsets;
    REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    subject().synchronize();

    std::vector<unsigned char> found(piece);
    std::size_t differences = 0;
    std::size_t written = 0;
    for (std::size_t at = 0; at < cache_bytes; at += piece) {
        const std::size_t count = std::min(piece, cache_bytes - at);
        subject().download(found.data(), k_cache + at, count);
        for (std::size_t i = 0; i < count; ++i) {
            if (found[i] == 0) {
                continue;
            }
            const std::size_t head = (at + i) / head_bytes;
            const std::size_t in_run = (at + i) % head_bytes - static_cast<std::size_t>(offset) * row_bytes;
            differences += in_run >= run_bytes || found[i] != source[head * run_bytes + in_run];
            ++written;
        }
    }
    CHECK(differences == 0);
    CHECK(written == source.size());
    subject().release(k_new);
    subject().release(k_cache);
    subject().release(offsets);
}

void check_large(std::int64_t heads, std::int64_t dim, std::int64_t cache_rows, std::int64_t rows,
                 std::int64_t offset) {
    try {
        check_large_at(heads, dim, cache_rows, rows, offset);
    } catch (const std::bad_alloc &) {
        SKIP("there is not enough memory for a cache of " << heads * dim * cache_rows * 2 << " bytes");
    }
}

} // namespace

TEST_CASE("a cache of more than 2^31 elements", "[large]") {
    const std::int64_t rows = (std::int64_t{1} << 25) + 100;
    check_large(1, 64, rows, 5, rows - 5);
}

TEST_CASE("a cache of more than 2^31 rows", "[large]") {
    const std::int64_t rows = (std::int64_t{1} << 31) + 100;
    check_large(1, 1, rows, 9, rows - 10);
}

TEST_CASE("a rotated row in a page of 2^33 rows", "[large][rotary]") {
    if (subject().backend() == KVAPPEND_BACKEND_HOST) {
        SKIP("only devices have kernels for narrow indices");
    }
    constexpr std::int64_t page_rows = std::int64_t{1} << 33;
    constexpr std::int64_t slot = (std::int64_t{1} << 32) + 7;
    constexpr std::size_t row_bytes = 4;
    kvappend_rotary rotary = KVAPPEND_ROTARY_INIT;
    rotary.dim = 2, rotary.table_rows = 1;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.offset_type = KVAPPEND_OFFSET_INT64;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.flags = KVAPPEND_FLAG_POSITIONS;
    d.batch = d.heads = d.new_rows = d.cache_blocks = 1;
    d.cache_rows = page_rows, d.k_dim = 2;
    d.rotary = &rotary;
    const PlanPointer plan = make_plan(d);
    std::byte *cache = nullptr;
    try {
        cache = static_cast<std::byte *>(subject().allocate(page_rows * row_bytes));
    } catch (const std::bad_alloc &) {
        SKIP("there is not enough memory for a cache of 32 GiB");
    }
    constexpr std::uint16_t one = 0x3c00;
    constexpr std::uint16_t minus_two = 0xc000;
    const Held<std::uint16_t> k(std::vector<std::uint16_t>{one, 0x4000});
    const Held<float> cos(std::vector<float>{0});
    const Held<float> sin(std::vector<float>{1});
    const Held<std::int64_t> slots(std::vector<std::int64_t>{slot});
    const Held<std::int64_t> positions(std::vector<std::int64_t>{0});
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = k.data(), args.k_cache = cache, args.slots = slots.data(), args.positions = positions.data();
    args.rotary_cos = cos.data(), args.rotary_sin = sin.data();
    REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    std::uint16_t row[2] = {};
    subject().download(row, cache + slot * static_cast<std::int64_t>(row_bytes), sizeof row);
    CHECK(row[0] == minus_two);
    CHECK(row[1] == one);
    subject().release(cache);
}

TEST_CASE("a move in a cache of more than 2^31 elements", "[large]") {
    // Four pages of 1 GiB and some rows.
    constexpr std::int64_t page_rows = (std::int64_t{1} << 23) + 3, pages = 4, dim = 64, last = pages * page_rows - 1;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.operation = KVAPPEND_OPERATION_MOVE;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = d.heads = 1;
    d.new_rows = 3;
    d.cache_blocks = pages;
    d.cache_rows = page_rows;
    d.k_dim = dim;
    const PlanPointer plan = make_plan(d);
    constexpr std::size_t row_bytes = dim * 2, cache_bytes = (last + 1) * row_bytes;
    unsigned char *cache = nullptr;
    try {
        cache = static_cast<unsigned char *>(subject().allocate(cache_bytes));
    } catch (const std::bad_alloc &) {
        SKIP("there is not enough memory for a cache of " << cache_bytes << " bytes");
    }
    const std::vector<std::int64_t> from = {last, 5, 2 * page_rows};
    const std::vector<std::int64_t> to = {7, last - 1, last};
    const auto upload = [](const std::vector<std::int64_t> &slots) {
        void *const memory = subject().allocate(slots.size() * sizeof slots[0]);
        subject().upload(memory, slots.data(), slots.size() * sizeof slots[0]);
        return memory;
    };
    const auto row = [](std::int64_t slot) {
        return std::vector(row_bytes, static_cast<unsigned char>(slot % 251 + 1));
    };
    for (const std::int64_t slot : from) {
        subject().upload(cache + static_cast<std::size_t>(slot) * row_bytes, row(slot).data(), row_bytes);
    }
    void *const from_slots = upload(from);
    void *const slots = upload(to);
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_cache = cache;
    args.k_cache_bytes = cache_bytes;
    args.from_slots = from_slots;
    args.slots = slots;
    REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    for (std::size_t t = 0; t < from.size(); ++t) {
        std::vector<unsigned char> found(row_bytes);
        subject().download(found.data(), cache + static_cast<std::size_t>(to[t]) * row_bytes, row_bytes);
        CHECK(found == row(from[t]));
    }
    for (void *const memory : {static_cast<void *>(cache), from_slots, slots}) {
        subject().release(memory);
    }
}

TEST_CASE("one row repeated at more positions than can be counted, of which few are in the cache", "[large]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a device looks at every row");
    }
    constexpr std::int64_t rows = std::int64_t{1} << 60;
    constexpr std::int64_t cache_rows = 16;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = d.heads = 1;
    d.new_rows = rows;
    d.cache_rows = cache_rows;
    d.k_dim = d.v_dim = 2; // K and V together have 2^63 bytes.
    d.k_new_strides[KVAPPEND_AXIS_BATCH] = d.v_new_strides[KVAPPEND_AXIS_BATCH] = 2;
    for (const std::int32_t addressing : {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING}) {
        d.addressing = addressing;
        kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
        for (const std::int32_t threads : {1, 2}) {
            preference.host_threads = threads;
            const PlanPointer plan = make_plan(d, &preference);
            const std::vector<std::uint16_t> row = {1, 2};
            std::vector<std::uint16_t> k(2 * cache_rows);
            std::vector<std::uint16_t> v(2 * cache_rows);
            std::int64_t offset = 8 - rows;
            kvappend_args args = KVAPPEND_ARGS_INIT;
            args.k_new = args.v_new = row.data();
            args.k_cache = k.data();
            args.v_cache = v.data();
            args.cache_offsets = &offset;
            CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
            for (std::size_t i = 0; i < k.size(); ++i) {
                const std::uint16_t expected = i < 16 ? row[i % 2] : 0;
                CHECK(k[i] == expected);
                CHECK(v[i] == expected);
            }
        }
    }
}

TEST_CASE("rows and cache rows that together do not fit in 63 bits", "[large]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a device looks at every row");
    }
    constexpr std::int64_t rows = (std::int64_t{1} << 62) + 1;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.element_type = KVAPPEND_ELEMENT_UINT8;
    d.batch = d.heads = d.k_dim = 1;
    d.new_rows = d.cache_rows = rows;
    d.k_new_strides[KVAPPEND_AXIS_BATCH] = 1; // and one row at all positions
    for (const char *const kernel : {"host_dense", "host_rows"}) {
        INFO(kernel);
        kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
        preference.kernel_name = kernel;
        const PlanPointer plan = make_plan(d, &preference);
        // The cache begins after the other buffers. Only its first rows are memory.
        struct {
            std::int64_t offset = 2 - rows;
            std::uint8_t row = 7;
            std::uint8_t cache[5] = {};
        } memory;
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = &memory.row;
        args.k_cache = memory.cache;
        args.cache_offsets = &memory.offset;
        CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
        CHECK(std::vector<int>(std::begin(memory.cache), std::end(memory.cache)) == std::vector<int>{7, 7, 0, 0, 0});
    }
}

TEST_CASE("threads share as many tokens as can be counted", "[large]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a device has no such threads");
    }
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.element_type = KVAPPEND_ELEMENT_UINT8;
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.index_type = KVAPPEND_INDEX_INT64;
    d.batch = 2;
    d.heads = d.k_dim = 1;
    d.new_rows = INT64_MAX;
    d.cache_rows = 4;
    d.k_new_strides[KVAPPEND_AXIS_BATCH] = 1; // and one row for all tokens
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    preference.host_threads = 2;
    const PlanPointer plan = make_plan(d, &preference);
    const std::uint8_t row = 7;
    std::uint8_t cache[8] = {};
    const std::int64_t lengths[] = {0, 2, INT64_MAX};
    std::int64_t offsets[] = {1, 6 - INT64_MAX}; // the last four rows of the second sample have a place
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = &row;
    args.k_cache = cache;
    args.cache_offsets = offsets;
    args.lengths = lengths;
    CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
    CHECK(std::vector<int>(std::begin(cache), std::end(cache)) == std::vector<int>{0, 7, 7, 0, 7, 7, 7, 7});
}

TEST_CASE("threads share 2^32 heads", "[large]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("a device has no such threads");
    }
    constexpr std::int64_t heads = std::int64_t{1} << 32;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.batch = d.new_rows = d.cache_rows = d.k_dim = 1;
    d.heads = heads;
    d.k_new_strides[KVAPPEND_AXIS_BATCH] = 1; // and one element for all heads
    kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
    preference.host_threads = 2;
    const PlanPointer plan = make_plan(d, &preference);

    // A cache of 8 GiB, whose parts are all the same memory.
    constexpr std::size_t bytes = heads * sizeof(std::uint16_t);
    constexpr std::size_t part = std::size_t{1} << 26;
    const int file = memfd_create("cache", MFD_CLOEXEC);
    REQUIRE(file >= 0);
    REQUIRE(ftruncate(file, part) == 0);
    void *const cache = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(cache != MAP_FAILED);
    for (std::size_t at = 0; at < bytes; at += part) {
        REQUIRE(mmap(static_cast<std::byte *>(cache) + at, part, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
                     0) != MAP_FAILED);
    }
    const std::uint16_t element = 0x4242;
    std::int64_t offset = 0;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = &element;
    args.k_cache = cache;
    args.cache_offsets = &offset;
    CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
    const auto *const found = static_cast<const std::uint16_t *>(cache);
    CHECK(std::all_of(found, found + part / sizeof element, [&](std::uint16_t one) { return one == element; }));
    munmap(cache, bytes);
    close(file);
}

TEST_CASE("a head stride of more than 2^31 bytes", "[large]") {
    check_large(3, 8, (std::int64_t{1} << 27) + 10, 2, (std::int64_t{1} << 27) + 1);
}
