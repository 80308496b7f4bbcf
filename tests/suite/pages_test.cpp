// SPDX-License-Identifier: Apache-2.0
// Pages, by tables of one length and by tables one behind the other: layouts, and entries that lead nowhere.
#include "every_way.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

namespace {

// Pages of five rows, and three pages for each of three samples: rows cross pages anywhere.
Scenario paged(std::int64_t new_rows) {
    Scenario scenario = appending(KVAPPEND_ADDRESSING_PAGED, 3, new_rows, 5);
    scenario.descriptor.cache_blocks = 11;
    scenario.descriptor.table_entries = 3;
    scenario.page_table = {4, 0, 10, 7, 2, 9, 1, 6, 3};
    scenario.offsets = {0, 4, 13};
    return scenario;
}

// Tables of 2, 0, 4 and 1 pages.
Scenario listed(std::int64_t new_rows) {
    Scenario scenario = appending(KVAPPEND_ADDRESSING_PAGED_CSR, 4, new_rows, 5);
    scenario.descriptor.cache_blocks = 11;
    scenario.descriptor.table_entries = 7;
    scenario.page_table = {4, 0, 10, 7, 2, 9, 1};
    scenario.page_indptr = {0, 2, 2, 6, 7};
    scenario.offsets = {3, 0, 14, 4};
    return scenario;
}

void set(std::int64_t (&strides)[3], std::int64_t block, std::int64_t head, std::int64_t row) {
    strides[KVAPPEND_AXIS_BATCH] = block;
    strides[KVAPPEND_AXIS_HEAD] = head;
    strides[KVAPPEND_AXIS_ROW] = row;
}

} // namespace

TEST_CASE("rows find their pages by a table, and cross from page to page anywhere", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = paged(GENERATE(1, 2, 6, 12, 20));
    for (std::int64_t first = -2; first < 16; ++first) {
        scenario.offsets = {first, first + 1, 15 - first};
        place_apart(scenario, 64, 64);
        check_scenario(scenario, random);
    }
    check_every_way(scenario, random);
}

TEST_CASE("pages of any size", "[addressing]") {
    auto random = seeded_random();
    const std::int64_t page = GENERATE(1, 3, 7, 16, 64, 100);
    Scenario scenario = paged(9);
    scenario.descriptor.cache_rows = page;
    scenario.offsets = {0, page - 1, 2 * page - 4};
    check_every_way(scenario, random);
}

TEST_CASE("positions that a table does not have are skipped", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = paged(4);
    SECTION("near its ends") {
        scenario.offsets = {-2, 13, 15};
        check_every_way(scenario, random);
    }
    SECTION("at the extremes of int64") {
        scenario.offsets = {most64, least64, most64 - 2};
        check_every_way(scenario, random);
        scenario.offsets = {most64 - 3, least64 + 3, -4};
        check_every_way(scenario, random);
    }
    SECTION("at the extremes of int32") {
        scenario.descriptor.offset_type = KVAPPEND_OFFSET_INT32;
        scenario.offsets = {most32, least32, most32 - 2};
        check_every_way(scenario, random);
    }
    SECTION("where an index of int32 would wrap around to a page") {
        scenario.offsets = {std::int64_t{5} << 32, (std::int64_t{5} << 32) + 3, std::int64_t{1} << 32};
        check_every_way(scenario, random);
    }
}

TEST_CASE("entries that are no page skip their rows alone", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = paged(12);
    scenario.offsets = {0, 2, 4};
    scenario.page_table = {-1, 0, 10, 11, 2, least32, 1, most32, 3};
    check_every_way(scenario, random);
    SECTION("in lists") {
        scenario = listed(12);
        scenario.offsets = {0, 1, 3, -2};
        scenario.page_table = {-1, 10, 11, 2, least32, 9, most32};
        check_every_way(scenario, random);
    }
}

TEST_CASE("the tables of samples may lie apart, or be one", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = paged(3);
    scenario.descriptor.table_stride = 4; // as where other tables lie in between
    scenario.page_table = {4, 0, 10, -5, 7, 2, 9, 99, 1, 6, 3};
    check_every_way(scenario, random);
    scenario.descriptor.table_stride = 1; // overlapping tables, of samples that share a beginning
    scenario.page_table = {4, 0, 10, 7, 2};
    scenario.offsets = {0, 5, 10};
    check_every_way(scenario, random);
}

TEST_CASE("a table without entries has no place", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = paged(3);
    scenario.descriptor.table_entries = 0;
    scenario.descriptor.table_stride = GENERATE(0, 1, 4);
    scenario.page_table.clear();
    check_every_way(scenario, random);
}

TEST_CASE("lists of pages one behind the other, of samples with none, too", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = listed(GENERATE(1, 3, 9, 25));
    check_every_way(scenario, random);
    scenario.offsets = {9, -1, 0, most64};
    check_every_way(scenario, random);
    // The first list need not begin at 0, nor the last one end with the array.
    scenario.page_indptr = {1, 3, 3, 5, 6};
    check_every_way(scenario, random);
}

TEST_CASE("an indptr that leads nowhere skips rows and reads nothing outside the lists", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = listed(9);
    scenario.offsets = {0, 0, 0, 0};
    for (const auto &indptr : {std::vector<std::int64_t>{5, 2, 2, 4, 3},
                               {-3, 1, 1, 4, 100},
                               {least32, least32, most32, most32, most32},
                               {most32, 0, 0, 0, 3},
                               {6, 100, least32, -1, 1},
                               {0, 0, 0, 0, 0},
                               {7, 8, 9, 10, 11}}) {
        scenario.page_indptr = indptr;
        check_every_way(scenario, random);
    }
    // From far below, a position leads to the list's first entries, or beyond all of them.
    scenario.page_indptr = {least32, 3, 3, 3, 3};
    scenario.offsets = {(std::int64_t{1} << 31) * 5 - 2, 0, 0, 0};
    check_every_way(scenario, random);
    scenario.offsets = {most64, most64, most64, most64};
    check_every_way(scenario, random);
    // The same pages for two samples leave their contents open, and all else alone.
    scenario.page_indptr = {0, 4, 1, 5, 0};
    scenario.offsets = {0, 0, 0, 0};
    scenario.caches_open = true;
    check_every_way(scenario, random);
}

TEST_CASE("pages [R, H, D], and K and V in one pool", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = GENERATE(true, false) ? paged(7) : listed(7);
    kvappend_descriptor &d = scenario.descriptor;
    const std::int64_t h = d.heads, r = d.cache_rows, dim = 8;
    d.v_dim = dim;
    SECTION("NHD, each in its own pool") {
        set(d.k_cache_strides, r * h * dim, dim, h * dim);
        set(d.v_cache_strides, r * h * dim, dim, h * dim);
        check_every_way(scenario, random);
    }
    const auto check_pool = [&](std::int64_t distance) {
        check_every_way(scenario, random, [distance](Scenario &varied) {
            place_apart(varied, 128, 128);
            share_block(varied, v_cache, k_cache, distance);
        });
    };
    SECTION("FlashInfer's pool [N, 2, R, H, D]") {
        set(d.k_cache_strides, 2 * r * h * dim, dim, h * dim);
        set(d.v_cache_strides, 2 * r * h * dim, dim, h * dim);
        check_pool(r * h * dim);
    }
    SECTION("FlashInfer's pool [N, 2, H, R, D]") {
        set(d.k_cache_strides, 2 * r * h * dim, r * dim, dim);
        set(d.v_cache_strides, 2 * r * h * dim, r * dim, dim);
        check_pool(r * h * dim);
    }
    SECTION("rows of K and V alternate") {
        set(d.k_cache_strides, 2 * r * h * dim, 2 * r * dim, 2 * dim);
        set(d.v_cache_strides, 2 * r * h * dim, 2 * r * dim, 2 * dim);
        check_pool(dim);
    }
}

TEST_CASE("K in pieces on pages", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = GENERATE(true, false) ? paged(8) : listed(8);
    kvappend_descriptor &d = scenario.descriptor;
    d.k_dim = 32;
    d.v_dim = 6;
    d.k_pack = GENERATE(1, 2, 8, 32);
    d.v_pack = GENERATE(0, 1, 2);
    check_every_way(scenario, random);
}

TEST_CASE("multi-head latent attention: one head, and rows of 512 and 64 elements side by side", "[addressing]") {
    auto random = seeded_random();
    Scenario scenario = paged(3);
    kvappend_descriptor &d = scenario.descriptor;
    d.cache_rows = 16;
    d.offset_type = KVAPPEND_OFFSET_INT32;
    d.heads = 1;
    scenario.offsets = {5, 14, 46};
    const std::int64_t row = 576;
    SECTION("latent and rotary part as one row of K, without V") {
        d.k_dim = row;
        d.v_dim = 0;
        check_every_way(scenario, random);
    }
    SECTION("latent part as K, rotary part as V") {
        d.k_dim = 512;
        d.v_dim = 64;
        set(d.k_cache_strides, 16 * row, 16 * row, row);
        set(d.v_cache_strides, 16 * row, 16 * row, row);
        check_every_way(scenario, random, [](Scenario &varied) {
            place_apart(varied, 128, 128);
            share_block(varied, v_cache, k_cache, 512);
        });
    }
    SECTION("two plans, each for its part of the row") {
        for (const bool latent : {true, false}) {
            d.k_dim = latent ? 512 : 64;
            d.v_dim = 0;
            set(d.k_cache_strides, 16 * row, 16 * row, row);
            check_every_way(scenario, random, [latent](Scenario &varied) {
                place_apart(varied, latent ? 128 : 128 + 512 * 2, latent ? 128 + 64 * 2 : 128);
            });
        }
    }
}
