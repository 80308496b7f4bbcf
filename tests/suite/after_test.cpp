// SPDX-License-Identifier: Apache-2.0
// What follows a copy on a device, over the emulated runtime: the number of launches, and results that depend on no
// order of threads.
#include "check_scenario.hpp"
#include "every_way.hpp"
#include "plan.hpp"
#include "scenario.hpp"

#include "../support/emulation/emulation.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <numeric>
#include <string>

namespace {

using emulation::Order;

// The emulated machine starts anew with each test and is left as it was found.
struct Machine {
    Machine() { emulation::reset(); }
    ~Machine() { emulation::reset(); }
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;
};

constexpr std::int64_t many_rows = 1500; // of a sample: more than a block has threads

Scenario with_pages(Scenario c, std::int64_t pages_each) {
    const std::int64_t entries = pages_each * c.descriptor.batch;
    c.descriptor.cache_rows = 16;
    c.descriptor.cache_blocks = entries;
    c.descriptor.table_entries = c.descriptor.addressing == KVAPPEND_ADDRESSING_PAGED ? pages_each : entries;
    c.page_table.resize(static_cast<std::size_t>(entries));
    std::iota(c.page_table.rbegin(), c.page_table.rend(), 0);
    c.page_table[3] = -1;
    c.page_table[40] = static_cast<std::int32_t>(entries);
    for (std::int64_t first = 0; first <= entries; first += pages_each) {
        c.page_indptr.push_back(static_cast<std::int32_t>(first));
    }
    return c;
}

// Three samples, some rows of which are below or above the cache.
Scenario many_rows_of(std::int32_t addressing) {
    Scenario c = appending(addressing, 3, many_rows, 1400);
    c.offsets = {-1200, 0, 30};
    if (addressing == KVAPPEND_ADDRESSING_RING) {
        c.descriptor.cache_rows = 100;
        c.descriptor.sink_rows = 7;
    } else if (addressing == KVAPPEND_ADDRESSING_SLOTS) {
        c.descriptor.batch = 1;
        c.descriptor.cache_rows = 16;
        c.descriptor.cache_blocks = 90;
        c.slots.resize(many_rows);
        std::iota(c.slots.rbegin(), c.slots.rend(), -20);
    } else if (addressing != KVAPPEND_ADDRESSING_DENSE) {
        c = with_pages(c, 90);
    }
    return c;
}

void check_reports(Scenario c) {
    auto random = seeded_random();
    c.descriptor.skip_policy = KVAPPEND_SKIP_REPORT;
    c.descriptor.flags |= KVAPPEND_FLAG_COUNT_WRITTEN | KVAPPEND_FLAG_RESET_REPORT;
    if (c.descriptor.addressing != KVAPPEND_ADDRESSING_SLOTS) {
        c.descriptor.flags |= KVAPPEND_FLAG_ADVANCE;
    }
    place_apart(c, 64, 64);
    for (const Order order : {Order::Ascending, Order::Descending}) {
        emulation::set_thread_order(order);
        emulation::set_block_order(order);
        check_scenario(c, random, 2);
    }
    // A report that is added to is reset by nobody.
    c.descriptor.flags &= ~KVAPPEND_FLAG_RESET_REPORT;
    check_scenario(c, random, 2);
}

#define EVERY_ADDRESSING_OF_SAMPLES                                                                                    \
    GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED,                           \
             KVAPPEND_ADDRESSING_PAGED_CSR)

} // namespace

TEST_CASE("more rows than threads are counted in any order, whatever the addressing", "[faults]") {
    const Machine machine;
    const std::int32_t addressing = EVERY_ADDRESSING_OF_SAMPLES;
    Scenario c = many_rows_of(addressing);
    SECTION("samples of one length") {
        check_reports(c);
    }
    SECTION("samples of a length each, with padding before them") {
        c.descriptor.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
        c.descriptor.flags |= KVAPPEND_FLAG_LEFT_PADS;
        c.lengths = {1350, 0, 1500};
        c.left_pads = {100, 1500, 1499};
        check_reports(c);
    }
    SECTION("packed samples, and tokens before, between and after them") {
        c.descriptor.lengths = KVAPPEND_LENGTHS_PACKED;
        c.lengths = {33, 33, 1000, 1460};
        check_reports(c);
    }
    if (addressing < KVAPPEND_ADDRESSING_PAGED) {
        SECTION("a sample that is left out, and one whose block does not exist") {
            c.descriptor.flags |= KVAPPEND_FLAG_BATCH_INDEX;
            c.batch_index = {3, -1, 0};
            check_reports(c);
        }
    }
}

TEST_CASE("more slots than threads are counted in any order", "[faults]") {
    const Machine machine;
    check_reports(many_rows_of(KVAPPEND_ADDRESSING_SLOTS));
}

TEST_CASE("more samples than threads are counted and advance in any order", "[faults]") {
    const Machine machine;
    // The first row that is out of range is that of a sample whose thread goes on as the first after a barrier.
    constexpr std::size_t in_range = 1023;
    constexpr std::size_t samples = in_range + 1980;
    kvappend_descriptor d = appending(KVAPPEND_ADDRESSING_DENSE, samples, 1, 3).descriptor;
    d.backend = KVAPPEND_BACKEND_CUDA;
    d.heads = 1;
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    d.flags = KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_RESET_REPORT | KVAPPEND_FLAG_COUNT_WRITTEN;
    const PlanPointer plan = make_plan(d);
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = args.v_new = subject().allocate(samples * 16);
    args.k_cache = subject().allocate(samples * 3 * 16);
    args.v_cache = subject().allocate(samples * 3 * 16);
    args.cache_offsets = subject().allocate(samples * 8);
    args.report = static_cast<kvappend_report *>(subject().allocate(sizeof(kvappend_report)));
    for (const Order order : {Order::Ascending, Order::Descending}) {
        emulation::set_thread_order(order);
        std::vector<std::int64_t> offsets(samples); // 0, 1, 2, 0 ... and then 3, 4, -1, 0, 1, 2, 3 ...
        std::vector<std::int64_t> expected(samples);
        for (std::size_t i = 0; i < samples; ++i) {
            offsets[i] =
                i < in_range ? static_cast<std::int64_t>(i % 3) : static_cast<std::int64_t>((i - in_range + 4) % 6) - 1;
            expected[i] = offsets[i] < 0 ? offsets[i] : offsets[i] + 1;
        }
        const std::vector<unsigned char> garbage(sizeof(kvappend_report), 0x5a);
        subject().upload(args.report, garbage.data(), garbage.size());
        subject().upload(args.cache_offsets, offsets.data(), samples * 8);
        CHECK(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
        subject().download(offsets.data(), args.cache_offsets, samples * 8);
        CHECK(offsets == expected);
        kvappend_report found;
        subject().download(&found, args.report, sizeof found);
        CHECK(found.rows_written == in_range + 990);
        CHECK(found.rows_below == 330);
        CHECK(found.rows_above == 660);
        CHECK(found.rows_padding + found.rows_replaced == 0);
        CHECK(found.first_sample == in_range);
        CHECK(found.first_row == 0);
        CHECK(found.first_position == 3);
    }
    for (const void *const pointer :
         {args.k_new, static_cast<const void *>(args.k_cache), static_cast<const void *>(args.v_cache),
          static_cast<const void *>(args.cache_offsets), static_cast<const void *>(args.report)}) {
        subject().release(const_cast<void *>(pointer));
    }
}

TEST_CASE("what follows a copy is one launch of one block", "[faults]") {
    const Machine machine;
    const auto launches_of = [](std::int32_t policy, std::int32_t flags) {
        Scenario c = many_rows_of(KVAPPEND_ADDRESSING_DENSE);
        auto random = seeded_random();
        c.descriptor.skip_policy = policy;
        c.descriptor.flags = flags;
        place_apart(c, 64, 64);
        const std::uint64_t before = emulation::launches();
        check_scenario(c, random);
        const dim3 grid = emulation::last_launch().grid;
        const dim3 block = emulation::last_launch().block;
        CHECK((emulation::launches() == before + 1 || (grid.x == 1 && grid.y == 1 && grid.z == 1)));
        CHECK((emulation::launches() == before + 1 || (block.x % 32 == 0 && block.y == 1 && block.z == 1)));
        return emulation::launches() - before;
    };
    constexpr std::int32_t reset = KVAPPEND_FLAG_RESET_REPORT;
    constexpr std::int32_t advance = KVAPPEND_FLAG_ADVANCE;
    CHECK(launches_of(KVAPPEND_SKIP_SILENTLY, 0) == 1);
    CHECK(launches_of(KVAPPEND_SKIP_SILENTLY, advance) == 2);
    CHECK(launches_of(KVAPPEND_SKIP_REPORT, 0) == 2);
    CHECK(launches_of(KVAPPEND_SKIP_REPORT, reset) == 2);
    CHECK(launches_of(KVAPPEND_SKIP_REPORT, reset | advance | KVAPPEND_FLAG_COUNT_WRITTEN) == 2);
}

TEST_CASE("several layers count in a launch each, and the offsets that they share advance in one", "[faults]") {
    const Machine machine;
    kvappend_descriptor d = appending(KVAPPEND_ADDRESSING_DENSE, 1, 1, 16).descriptor;
    d.backend = KVAPPEND_BACKEND_CUDA;
    const PlanPointer silent = make_plan(d);
    d.flags = KVAPPEND_FLAG_ADVANCE;
    const PlanPointer advancing = make_plan(d);
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    const PlanPointer both = make_plan(d);
    d.flags = 0;
    const PlanPointer counting = make_plan(d);

    kvappend_args args = KVAPPEND_ARGS_INIT;
    void *const memory = subject().allocate(4096);
    auto *const bytes = static_cast<unsigned char *>(memory);
    args.k_new = args.v_new = bytes;
    args.k_cache = bytes + 1024;
    args.v_cache = bytes + 2048;
    args.cache_offsets = bytes + 3072;
    args.report = reinterpret_cast<kvappend_report *>(bytes + 3584);
    const auto launches_of = [&](const std::vector<const PlanPointer *> &layers, std::int64_t advanced) {
        const std::vector<unsigned char> zeros(4096);
        subject().upload(memory, zeros.data(), zeros.size());
        std::vector<const kvappend_plan *> plans;
        for (const PlanPointer *const layer : layers) {
            plans.push_back(layer->get());
        }
        const std::vector<const kvappend_args *> all(plans.size(), &args);
        const std::uint64_t before = emulation::launches();
        CHECK(told(kvappend_plan_run_layers(plans.data(), all.data(), plans.size(), nullptr, 0, subject().stream())) ==
              "KVAPPEND_SUCCESS");
        subject().synchronize();
        std::int64_t offset = 0;
        subject().download(&offset, args.cache_offsets, sizeof offset);
        CHECK(offset == advanced);
        return emulation::launches() - before;
    };
    // A launch copies the layers of two plans. Three plans take one more.
    const std::uint64_t copies = launches_of({&silent, &silent, &silent}, 0);
    CHECK(launches_of({&silent, &silent, &both}, 1) == copies + 2);
    CHECK(launches_of({&counting, &silent, &both}, 1) == copies + 1 + 3);
    CHECK(launches_of({&counting, &both, &advancing}, 1) == copies + 1 + 3);
    CHECK(launches_of({&both, &counting, &silent}, 1) == copies + 1 + 3);
    CHECK(launches_of({&advancing, &silent, &both}, 1) == copies + 1 + 2);
    CHECK(launches_of({&both, &silent, &both}, 1) == copies + 3);
    subject().release(memory);
}
