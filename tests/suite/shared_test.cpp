// SPDX-License-Identifier: Apache-2.0
// Runs of the host that are large enough to be shared among a plan's threads, or to go past the processor's caches: by
// every addressing, by every kernel, and with any number of threads the same bytes.
#include "draw.hpp"
#include "every_way.hpp"
#include "random_scenario.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <numeric>

namespace {

// Four heads with 192 bytes of K and 128 of V make 1280 bytes a row: 9.8 MB in all.
constexpr std::int64_t rows = 7680;

Scenario large(std::int32_t addressing, std::int64_t batch, std::int64_t new_rows, std::int64_t cache_rows) {
    Scenario scenario = appending(addressing, batch, new_rows, cache_rows);
    scenario.descriptor.heads = 4;
    scenario.descriptor.k_dim = 96;
    scenario.descriptor.v_dim = 64;
    return scenario;
}

// Pages of 16 rows in an order that is not theirs, enough for so many positions of each of three samples.
void give_pages(Scenario &scenario, std::int64_t positions) {
    kvappend_descriptor &d = scenario.descriptor;
    const std::int64_t entries = (positions + 15) / 16;
    d.cache_rows = 16;
    d.cache_blocks = 3 * entries;
    scenario.page_table.resize(static_cast<std::size_t>(3 * entries));
    std::iota(scenario.page_table.rbegin(), scenario.page_table.rend(), 0);
    // Some pages follow each other, and some do not.
    std::rotate(scenario.page_table.begin(), scenario.page_table.begin() + 5, scenario.page_table.end() - 7);
    d.table_entries = d.addressing == KVAPPEND_ADDRESSING_PAGED ? entries : 3 * entries;
    const auto n = static_cast<std::int32_t>(entries);
    scenario.page_indptr = {0, n, 2 * n, 3 * n};
}

void by_token(Scenario &scenario) {
    kvappend_descriptor &d = scenario.descriptor;
    const std::int64_t k[] = {d.heads * d.new_rows * d.k_dim, d.k_dim, d.heads * d.k_dim};
    const std::int64_t v[] = {d.heads * d.new_rows * d.v_dim, d.v_dim, d.heads * d.v_dim};
    std::ranges::copy(k, d.k_new_strides);
    std::ranges::copy(v, d.v_new_strides);
}

// By every kernel that serves it, alone and with others, at aligned places and at others.
void check_shared(Scenario scenario) {
    auto random = seeded_random();
    for (const std::string &kernel : kernels_of_subject()) {
        scenario.kernel = kernel;
        if (!kernel_serves(scenario)) {
            continue;
        }
        for (const std::int32_t threads : {1, 3}) {
            scenario.host_threads = threads;
            place_apart(scenario, 128, 128);
            check_scenario(scenario, random);
            for (std::size_t tensor = 0; tensor < tensor_count; ++tensor) {
                scenario.locations[tensor].start -= 54 + 2 * tensor;
            }
            check_scenario(scenario, random);
        }
    }
    // The report and the offsets are the work of one thread, around that of all.
    scenario.kernel.clear();
    scenario.host_threads = 3;
    scenario.descriptor.skip_policy = KVAPPEND_SKIP_REPORT;
    scenario.descriptor.flags |= KVAPPEND_FLAG_COUNT_WRITTEN;
    if (asks_for(scenario.descriptor, offsets_index)) {
        scenario.descriptor.flags |= KVAPPEND_FLAG_ADVANCE;
    }
    place_apart(scenario, 64, 64);
    check_scenario(scenario, random, 2);
}

} // namespace

TEST_CASE("large dense appends", "[shared]") {
    SECTION("of one sample, whose heads are shared out") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 1, rows, rows + 9);
        scenario.offsets = {5};
        check_shared(scenario);
    }
    SECTION("of samples that reach out of their caches") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 3, rows / 3, rows / 3 + 40);
        scenario.offsets = {0, 60, -7};
        check_shared(scenario);
    }
    SECTION("of K alone") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 2, rows, rows);
        scenario.descriptor.v_dim = 0;
        scenario.offsets = {1, -1};
        check_shared(scenario);
    }
    SECTION("of one head with few bytes of V") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 2, rows / 2, rows);
        scenario.descriptor.heads = 1;
        scenario.descriptor.k_dim = 600;
        scenario.descriptor.v_dim = 24;
        scenario.offsets = {3, rows - 5};
        check_shared(scenario);
    }
    SECTION("of many heads") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 1, rows / 16, rows / 16 + 9);
        scenario.descriptor.heads = 64;
        scenario.offsets = {5};
        check_shared(scenario);
    }
    SECTION("of many samples with a row each") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, rows, 1, 3);
        for (std::int64_t b = 0; b < rows; ++b) {
            scenario.offsets.push_back(b % 4);
        }
        check_shared(scenario);
    }
    SECTION("by token") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 2, rows / 2, rows);
        scenario.offsets = {3, rows - 5};
        by_token(scenario);
        check_shared(scenario);
    }
    SECTION("of adjacent heads of one tensor alone") {
        // Its heads count as one wide row, those of the other do not.
        const bool of_k = GENERATE(true, false);
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 1, rows, rows + 9);
        kvappend_descriptor &d = scenario.descriptor;
        const std::int64_t dim = of_k ? d.k_dim : d.v_dim;
        for (std::int64_t(*const strides)[3] :
             {of_k ? &d.k_new_strides : &d.v_new_strides, of_k ? &d.k_cache_strides : &d.v_cache_strides}) {
            (*strides)[KVAPPEND_AXIS_BATCH] = d.heads * d.cache_rows * dim;
            (*strides)[KVAPPEND_AXIS_HEAD] = dim;
            (*strides)[KVAPPEND_AXIS_ROW] = d.heads * dim;
        }
        scenario.offsets = {5};
        check_shared(scenario);
    }
    SECTION("of packed samples, some without rows") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 5, rows, rows);
        scenario.descriptor.lengths = KVAPPEND_LENGTHS_PACKED;
        const auto n = static_cast<std::int32_t>(rows);
        scenario.lengths = {3, 3, n / 2, n / 2, n / 2 + 1, n - 2};
        scenario.offsets = {0, 1, 2, 3, 4};
        check_shared(scenario);
    }
    SECTION("of samples with lengths and pads") {
        Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 3, rows / 3, rows / 3);
        scenario.descriptor.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
        scenario.descriptor.flags = KVAPPEND_FLAG_LEFT_PADS;
        scenario.lengths = {static_cast<std::int32_t>(rows / 3), 7, 200};
        scenario.left_pads = {10, 0, 40};
        scenario.offsets = {0, 1, 2};
        check_shared(scenario);
    }
}

TEST_CASE("large appends that cast rows", "[shared]") {
    Scenario scenario = large(KVAPPEND_ADDRESSING_DENSE, 3, rows / 3, rows / 3 + 40);
    scenario.offsets = {0, 60, -7};
    kvappend_storage f16 = KVAPPEND_STORAGE_INIT;
    f16.type = KVAPPEND_STORED_F16;
    scenario.store_k(f16);
    scenario.store_v(f16);
    scenario.host_threads = 3;
    auto random = seeded_random();
    SECTION("of runs") {
        place_apart(scenario, 128, 128);
        check_scenario(scenario, random);
    }
    SECTION("of rows that are not whole cache lines") {
        scenario.descriptor.k_dim = 135;
        scenario.descriptor.v_dim = 7;
        by_token(scenario);
        place_apart(scenario, 128, 128);
        for (std::size_t tensor = 0; tensor < tensor_count; ++tensor) {
            scenario.locations[tensor].start -= 54 + 2 * tensor;
        }
        check_scenario(scenario, random);
    }
}

TEST_CASE("large appends to rings", "[shared]") {
    Scenario scenario = large(KVAPPEND_ADDRESSING_RING, 2, rows / 2, rows / 2 + 11);
    scenario.descriptor.sink_rows = 3;
    scenario.offsets = {rows, 0};
    SECTION("that hold all rows") {
        check_shared(scenario);
    }
    SECTION("that hold the last ones") {
        scenario.descriptor.cache_rows = rows / 2 - 300;
        check_shared(scenario);
    }
    SECTION("that hold so few that the run is not large") {
        scenario.descriptor.cache_rows = 100;
        check_shared(scenario);
    }
}

TEST_CASE("large appends to pages", "[shared]") {
    constexpr std::int64_t each = rows / 3;
    Scenario scenario = large(GENERATE(KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR), 3, each, 16);
    scenario.offsets = {0, 21, -3};
    give_pages(scenario, each);
    SECTION("by head") {
        check_shared(scenario);
    }
    SECTION("by token") {
        by_token(scenario);
        check_shared(scenario);
    }
    SECTION("of packed samples") {
        scenario.descriptor.new_rows = 3 * each;
        scenario.descriptor.lengths = KVAPPEND_LENGTHS_PACKED;
        const auto n = static_cast<std::int32_t>(each);
        scenario.lengths = {0, n - 9, 2 * n, 3 * n};
        check_shared(scenario);
    }
}

TEST_CASE("large appends by slots", "[shared]") {
    Scenario scenario = large(KVAPPEND_ADDRESSING_SLOTS, 1, rows, 16);
    scenario.descriptor.cache_blocks = rows / 16 + 2;
    // Runs of 37 rows from the last to the first, with padding and slots of no page between them.
    for (std::int64_t t = 0; t < rows; ++t) {
        const std::int64_t run = t / 37;
        scenario.slots.push_back(t % 37 == 3 ? -1 : t % 37 == 30 ? 16 * rows : rows - 1 - run * 37 + t % 37 - 36);
    }
    std::ranges::replace_if(
        scenario.slots, [](std::int64_t slot) { return slot < 0; }, -1);
    SECTION("of whole rows") {
        check_shared(scenario);
    }
    SECTION("with a reserved slot amid a run") {
        scenario.descriptor.flags = KVAPPEND_FLAG_RESERVED_SLOT;
        scenario.descriptor.reserved_slot = rows - 20;
        check_shared(scenario);
    }
    SECTION("of rows in pieces") {
        scenario.descriptor.k_pack = 8;
        scenario.descriptor.v_pack = 1;
        check_shared(scenario);
    }
}

TEST_CASE("random large appends", "[shared]") {
    auto random = seeded_random();
    for (std::size_t i = 0; i < Focus::count; ++i) {
        Focus focus = Focus::of(i);
        if (focus.places == Focus::Places::replaced) {
            continue; // The reference compares each row of a ring with all others.
        }
        focus.least_bytes = std::int64_t{9} << 20;
        Scenario scenario = RandomScenario(random, focus).draw();
        scenario.host_threads = 3;
        check_scenario(scenario, random);
    }
}

TEST_CASE("random large appends in other formats", "[shared]") {
    auto random = seeded_random();
    for (const Focus::Places places : {Focus::Places::pages, Focus::Places::slots, Focus::Places::dense_runs}) {
        Scenario scenario =
            RandomScenario(random, {.places = places, .least_bytes = std::int64_t{9} << 20, .converts = true}).draw();
        scenario.host_threads = 3;
        check_scenario(scenario, random);
    }
}
