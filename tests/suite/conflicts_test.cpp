// SPDX-License-Identifier: Apache-2.0
// Fields of the descriptor that do not go together, or have no meaning, are refused when a plan is created.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
constexpr std::int32_t addressings[] = {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED,
                                        KVAPPEND_ADDRESSING_PAGED_CSR, KVAPPEND_ADDRESSING_SLOTS};

kvappend_descriptor ordinary(std::int32_t addressing) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.addressing = addressing;
    d.batch = addressing == KVAPPEND_ADDRESSING_SLOTS ? 1 : 2;
    d.heads = 3;
    d.new_rows = 2;
    d.cache_rows = 5;
    d.k_dim = 12;
    d.v_dim = 8;
    if (addressing != KVAPPEND_ADDRESSING_DENSE && addressing != KVAPPEND_ADDRESSING_RING) {
        d.cache_blocks = 7;
    }
    if (addressing == KVAPPEND_ADDRESSING_PAGED || addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
        d.table_entries = 3;
    }
    return d;
}

using Change = std::function<void(kvappend_descriptor &)>;

// The status, and a message that has all the words, among them the names of the fields.
void check_refused(std::int32_t addressing, const Change &change, kvappend_status expected,
                   const std::vector<std::string> &words) {
    kvappend_descriptor d = ordinary(addressing);
    change(d);
    auto *plan = reinterpret_cast<kvappend_plan *>(&d); // must become NULL
    const kvappend_status status = kvappend_plan_create(&d, nullptr, &plan);
    const std::string message = kvappend_last_error_message();
    INFO("addressing " << addressing << ": " << kvappend_status_name(status) << ": " << message);
    CHECK(status == expected);
    if (status == KVAPPEND_SUCCESS) {
        kvappend_plan_destroy(plan);
        return;
    }
    CHECK(plan == nullptr);
    for (const std::string &word : words) {
        INFO("lacks " << word);
        CHECK(message.find(word) != std::string::npos);
    }
    const bool overflow = expected == KVAPPEND_ERROR_OVERFLOW;
    const bool overlap = expected == KVAPPEND_ERROR_OVERLAP;
    CHECK(message.find(overflow ? "63 bits" : overlap ? "share memory" : "expected") != std::string::npos);
    // Leaves another message, so that the next failure must bring its own.
    kvappend_plan_destroy(nullptr);
    kvappend_plan_workspace_size(nullptr, nullptr);
}

void check_accepted(std::int32_t addressing, const Change &change) {
    kvappend_descriptor d = ordinary(addressing);
    change(d);
    INFO("addressing " << addressing);
    CHECK(make_plan(d) != nullptr);
}

// Refused with every addressing but those named.
void check_goes_with(const std::vector<std::int32_t> &named, const Change &change,
                     const std::vector<std::string> &words) {
    for (const std::int32_t addressing : addressings) {
        if (std::find(named.begin(), named.end(), addressing) == named.end()) {
            check_refused(addressing, change, KVAPPEND_ERROR_CONFLICT, words);
        } else {
            check_accepted(addressing, change);
        }
    }
}

const std::vector<std::int32_t> with_samples = {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING,
                                                KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR};

Change set_flags(std::int32_t flags, std::int32_t policy = KVAPPEND_SKIP_SILENTLY) {
    return [flags, policy](kvappend_descriptor &d) {
        d.flags = flags;
        d.skip_policy = policy;
    };
}

} // namespace

TEST_CASE("the addressings of these tests are accepted as they are", "[addressing]") {
    check_goes_with({std::begin(addressings), std::end(addressings)}, [](kvappend_descriptor &) {}, {});
}

TEST_CASE("bits that are no flag are refused", "[addressing]") {
    for (const std::int32_t addressing : addressings) {
        for (const std::int32_t flags : {32768, 1 << 30, INT32_MIN, -1, 32768 | KVAPPEND_FLAG_LEFT_PADS}) {
            check_refused(addressing, set_flags(flags), KVAPPEND_ERROR_FLAGS, {"descriptor.flags is "});
        }
    }
}

TEST_CASE("a programmatic launch goes with the CUDA backend only", "[addressing]") {
    for (const std::int32_t addressing : addressings) {
        const auto flag = set_flags(KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH);
        if (subject().backend() == KVAPPEND_BACKEND_CUDA) {
            check_accepted(addressing, flag);
        } else {
            check_refused(addressing, flag, KVAPPEND_ERROR_CONFLICT,
                          {"descriptor.flags is ", "KVAPPEND_BACKEND_HOST", "PROGRAMMATIC_LAUNCH"});
        }
    }
}

TEST_CASE("unknown addressings, lengths and policies are refused", "[addressing]") {
    for (const std::int32_t value : {-1, 5, INT32_MIN, INT32_MAX}) {
        const std::string text = std::to_string(value);
        check_refused(KVAPPEND_ADDRESSING_DENSE, [value](kvappend_descriptor &d) { d.addressing = value; },
                      KVAPPEND_ERROR_ADDRESSING, {"descriptor.addressing is " + text});
        for (const std::int32_t addressing : addressings) {
            check_refused(addressing, [value](kvappend_descriptor &d) { d.lengths = value; }, KVAPPEND_ERROR_LENGTHS,
                          {"descriptor.lengths is " + text});
            check_refused(addressing, [value](kvappend_descriptor &d) { d.skip_policy = value; },
                          KVAPPEND_ERROR_SKIP_POLICY, {"descriptor.skip_policy is " + text});
        }
    }
}

TEST_CASE("fields that an addressing does not use are refused with it", "[addressing]") {
    check_goes_with({KVAPPEND_ADDRESSING_RING}, [](kvappend_descriptor &d) { d.sink_rows = 2; },
                    {"sink_rows", "addressing"});
    check_goes_with({KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR},
                    [](kvappend_descriptor &d) { d.table_entries = 4; }, {"table_entries", "addressing"});
    check_goes_with({KVAPPEND_ADDRESSING_PAGED}, [](kvappend_descriptor &d) { d.table_stride = 9; },
                    {"table_stride", "addressing"});
    check_goes_with({KVAPPEND_ADDRESSING_SLOTS},
                    [](kvappend_descriptor &d) {
                        d.flags = KVAPPEND_FLAG_RESERVED_SLOT;
                        d.reserved_slot = 3;
                    },
                    {"KVAPPEND_FLAG_RESERVED_SLOT", "addressing"});
    check_goes_with({KVAPPEND_ADDRESSING_SLOTS}, set_flags(KVAPPEND_FLAG_RESERVED_SLOT),
                    {"KVAPPEND_FLAG_RESERVED_SLOT", "addressing"});
    check_goes_with({KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING}, set_flags(KVAPPEND_FLAG_BATCH_INDEX),
                    {"KVAPPEND_FLAG_BATCH_INDEX", "addressing"});
    check_goes_with(with_samples, set_flags(KVAPPEND_FLAG_LEFT_PADS), {"KVAPPEND_FLAG_LEFT_PADS", "addressing"});
    check_goes_with(with_samples, set_flags(KVAPPEND_FLAG_ZERO_OFFSETS), {"KVAPPEND_FLAG_ZERO_OFFSETS", "addressing"});
    check_goes_with(with_samples, set_flags(KVAPPEND_FLAG_ADVANCE), {"KVAPPEND_FLAG_ADVANCE", "addressing"});
    check_goes_with(with_samples, set_flags(KVAPPEND_FLAG_SHARED_OFFSET),
                    {"KVAPPEND_FLAG_SHARED_OFFSET", "addressing"});
    check_goes_with(with_samples, set_flags(KVAPPEND_FLAG_END_OFFSETS), {"KVAPPEND_FLAG_END_OFFSETS", "addressing"});
    check_goes_with({KVAPPEND_ADDRESSING_PAGED_CSR}, set_flags(KVAPPEND_FLAG_LAST_PAGE_LENGTHS),
                    {"KVAPPEND_FLAG_LAST_PAGE_LENGTHS", "addressing"});
    check_goes_with({KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR},
                    [](kvappend_descriptor &d) {
                        d.flags = KVAPPEND_FLAG_RESERVED_PAGE;
                        d.reserved_page = 3;
                    },
                    {"KVAPPEND_FLAG_RESERVED_PAGE", "addressing"});
    for (const std::int32_t lengths :
         {KVAPPEND_LENGTHS_PER_SAMPLE, KVAPPEND_LENGTHS_PACKED, KVAPPEND_LENGTHS_PER_TOKEN}) {
        check_goes_with(with_samples, [lengths](kvappend_descriptor &d) { d.lengths = lengths; },
                        {"lengths", "addressing"});
    }
}

TEST_CASE("fields and flags that do not go together are refused", "[addressing]") {
    for (const std::int32_t addressing :
         {KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR, KVAPPEND_ADDRESSING_SLOTS}) {
        check_refused(addressing, [](kvappend_descriptor &d) { d.cache_blocks = 0; }, KVAPPEND_ERROR_CONFLICT,
                      {"cache_blocks is 0", "addressing"});
    }
    for (const std::int64_t batch : {std::int64_t{0}, std::int64_t{2}, most}) {
        check_refused(KVAPPEND_ADDRESSING_SLOTS, [batch](kvappend_descriptor &d) { d.batch = batch; },
                      KVAPPEND_ERROR_CONFLICT, {"batch is " + std::to_string(batch), "SLOTS"});
    }
    for (const std::int64_t slot : {std::int64_t{1}, std::int64_t{-1}, most, least}) {
        check_refused(KVAPPEND_ADDRESSING_SLOTS, [slot](kvappend_descriptor &d) { d.reserved_slot = slot; },
                      KVAPPEND_ERROR_CONFLICT, {"reserved_slot is " + std::to_string(slot), "flags"});
    }
    for (const std::int64_t page : {std::int64_t{1}, std::int64_t{-1}, most, least}) {
        check_refused(KVAPPEND_ADDRESSING_PAGED, [page](kvappend_descriptor &d) { d.reserved_page = page; },
                      KVAPPEND_ERROR_CONFLICT, {"reserved_page is " + std::to_string(page), "flags"});
    }
    for (const std::int32_t addressing : addressings) {
        for (const std::int32_t policy : {KVAPPEND_SKIP_SILENTLY, KVAPPEND_SKIP_TRAP}) {
            check_refused(addressing, set_flags(KVAPPEND_FLAG_RESET_REPORT, policy), KVAPPEND_ERROR_CONFLICT,
                          {"KVAPPEND_FLAG_RESET_REPORT", "skip_policy"});
            check_refused(addressing, set_flags(KVAPPEND_FLAG_COUNT_WRITTEN, policy), KVAPPEND_ERROR_CONFLICT,
                          {"KVAPPEND_FLAG_COUNT_WRITTEN", "skip_policy"});
        }
        check_accepted(addressing,
                       set_flags(KVAPPEND_FLAG_RESET_REPORT | KVAPPEND_FLAG_COUNT_WRITTEN, KVAPPEND_SKIP_REPORT));
    }
}

TEST_CASE("flags that give the offsets different meanings are refused together", "[addressing]") {
    const struct {
        std::int32_t flag;
        const char *name;
        std::vector<std::int32_t> excludes;
    } flags[] = {{KVAPPEND_FLAG_ZERO_OFFSETS,
                  "KVAPPEND_FLAG_ZERO_OFFSETS",
                  {KVAPPEND_FLAG_ADVANCE, KVAPPEND_FLAG_SHARED_OFFSET, KVAPPEND_FLAG_END_OFFSETS,
                   KVAPPEND_FLAG_LAST_PAGE_LENGTHS}},
                 {KVAPPEND_FLAG_SHARED_OFFSET, "KVAPPEND_FLAG_SHARED_OFFSET", {KVAPPEND_FLAG_ZERO_OFFSETS}},
                 {KVAPPEND_FLAG_END_OFFSETS,
                  "KVAPPEND_FLAG_END_OFFSETS",
                  {KVAPPEND_FLAG_ADVANCE, KVAPPEND_FLAG_ZERO_OFFSETS, KVAPPEND_FLAG_LAST_PAGE_LENGTHS}},
                 {KVAPPEND_FLAG_LAST_PAGE_LENGTHS,
                  "KVAPPEND_FLAG_LAST_PAGE_LENGTHS",
                  {KVAPPEND_FLAG_ADVANCE, KVAPPEND_FLAG_ZERO_OFFSETS, KVAPPEND_FLAG_END_OFFSETS}},
                 {KVAPPEND_FLAG_ADVANCE,
                  "KVAPPEND_FLAG_ADVANCE",
                  {KVAPPEND_FLAG_ZERO_OFFSETS, KVAPPEND_FLAG_END_OFFSETS, KVAPPEND_FLAG_LAST_PAGE_LENGTHS}},
                 {KVAPPEND_FLAG_LEFT_PADS, "KVAPPEND_FLAG_LEFT_PADS", {}}};
    for (const auto &one : flags) {
        for (const auto &other : flags) {
            const auto both = set_flags(one.flag | other.flag);
            if (std::ranges::find(one.excludes, other.flag) == one.excludes.end()) {
                check_accepted(KVAPPEND_ADDRESSING_PAGED_CSR, both);
            } else {
                check_refused(KVAPPEND_ADDRESSING_PAGED_CSR, both, KVAPPEND_ERROR_CONFLICT, {one.name, other.name});
            }
        }
        // Tokens with positions of their own have no offsets and no pads.
        check_refused(KVAPPEND_ADDRESSING_PAGED_CSR,
                      [&one](kvappend_descriptor &d) {
                          d.flags = one.flag;
                          d.lengths = KVAPPEND_LENGTHS_PER_TOKEN;
                      },
                      KVAPPEND_ERROR_CONFLICT, {one.name, "lengths is 3"});
    }
}

TEST_CASE("an offset for all samples advances only if all have the same number of rows", "[addressing]") {
    constexpr std::int32_t flags = KVAPPEND_FLAG_SHARED_OFFSET | KVAPPEND_FLAG_ADVANCE;
    for (const std::int32_t addressing : with_samples) {
        check_accepted(addressing, set_flags(flags));
        check_refused(addressing, set_flags(flags | KVAPPEND_FLAG_LEFT_PADS), KVAPPEND_ERROR_CONFLICT,
                      {"KVAPPEND_FLAG_SHARED_OFFSET", "KVAPPEND_FLAG_LEFT_PADS", "KVAPPEND_FLAG_ADVANCE"});
        for (const std::int32_t lengths : {KVAPPEND_LENGTHS_PER_SAMPLE, KVAPPEND_LENGTHS_PACKED}) {
            const auto with = [lengths](std::int32_t all) {
                return [lengths, all](kvappend_descriptor &d) {
                    d.flags = all;
                    d.lengths = lengths;
                };
            };
            check_accepted(addressing, with(KVAPPEND_FLAG_SHARED_OFFSET));
            check_refused(addressing, with(flags), KVAPPEND_ERROR_CONFLICT,
                          {"KVAPPEND_FLAG_SHARED_OFFSET", "lengths", "KVAPPEND_FLAG_ADVANCE"});
        }
    }
}

TEST_CASE("a count goes with tokens only", "[addressing]") {
    for (const std::int32_t addressing : addressings) {
        for (std::int32_t lengths = KVAPPEND_LENGTHS_FIXED; lengths <= KVAPPEND_LENGTHS_PER_TOKEN; ++lengths) {
            const auto counted = [lengths](kvappend_descriptor &d) {
                d.flags = KVAPPEND_FLAG_TOKEN_COUNT;
                d.lengths = lengths;
            };
            const bool by_slot = addressing == KVAPPEND_ADDRESSING_SLOTS;
            if (by_slot ? lengths == KVAPPEND_LENGTHS_FIXED : lengths == KVAPPEND_LENGTHS_PER_TOKEN) {
                check_accepted(addressing, counted);
            } else {
                check_refused(addressing, counted, KVAPPEND_ERROR_CONFLICT, {"lengths"});
            }
        }
    }
}

TEST_CASE("the rows of all pages must fit in 63 bits if offsets are lengths of last pages", "[addressing]") {
    const auto pages = [](std::int32_t flags, std::int64_t entries) {
        return [flags, entries](kvappend_descriptor &d) {
            d.flags = flags;
            d.table_entries = entries;
            d.k_dim = d.heads = 1;
            d.v_dim = 0;
            d.cache_blocks = 1;
            d.cache_rows = std::int64_t{1} << 40;
        };
    };
    constexpr std::int64_t entries = std::int64_t{1} << 23;
    check_refused(KVAPPEND_ADDRESSING_PAGED_CSR, pages(KVAPPEND_FLAG_LAST_PAGE_LENGTHS, entries),
                  KVAPPEND_ERROR_OVERFLOW, {"table_entries is 8388608", "cache_rows is 1099511627776"});
    check_accepted(KVAPPEND_ADDRESSING_PAGED_CSR, pages(KVAPPEND_FLAG_LAST_PAGE_LENGTHS, entries - 1));
    check_accepted(KVAPPEND_ADDRESSING_PAGED_CSR, pages(0, entries));
}

TEST_CASE("more sinks than rows are refused, and as many are not", "[addressing]") {
    for (const std::int64_t sinks : {std::int64_t{6}, most}) {
        check_refused(KVAPPEND_ADDRESSING_RING, [sinks](kvappend_descriptor &d) { d.sink_rows = sinks; },
                      KVAPPEND_ERROR_CONFLICT, {"sink_rows is " + std::to_string(sinks), "cache_rows"});
    }
    for (const std::int64_t sinks : {0, 5}) {
        check_accepted(KVAPPEND_ADDRESSING_RING, [sinks](kvappend_descriptor &d) { d.sink_rows = sinks; });
    }
}

TEST_CASE("fewer caches than samples are refused, but for batch_index", "[addressing]") {
    for (const std::int32_t addressing : {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING}) {
        check_refused(addressing, [](kvappend_descriptor &d) { d.cache_blocks = 1; }, KVAPPEND_ERROR_CONFLICT,
                      {"cache_blocks is 1", "batch is 2"});
        check_accepted(addressing, [](kvappend_descriptor &d) { d.cache_blocks = 2; });
        check_accepted(addressing, [](kvappend_descriptor &d) { d.cache_blocks = 3; });
        check_accepted(addressing, [](kvappend_descriptor &d) {
            d.cache_blocks = 1;
            d.flags = KVAPPEND_FLAG_BATCH_INDEX;
        });
    }
}

TEST_CASE("negative numbers of blocks, sinks and entries are refused", "[addressing]") {
    for (const std::int64_t value : {std::int64_t{-1}, least}) {
        const std::string text = std::to_string(value);
        for (const std::int32_t addressing : addressings) {
            check_refused(addressing, [value](kvappend_descriptor &d) { d.cache_blocks = value; },
                          KVAPPEND_ERROR_EXTENT, {"descriptor.cache_blocks is " + text});
        }
        check_refused(KVAPPEND_ADDRESSING_RING, [value](kvappend_descriptor &d) { d.sink_rows = value; },
                      KVAPPEND_ERROR_EXTENT, {"descriptor.sink_rows is " + text});
        for (const std::int32_t addressing : {KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR}) {
            check_refused(addressing, [value](kvappend_descriptor &d) { d.table_entries = value; },
                          KVAPPEND_ERROR_EXTENT, {"descriptor.table_entries is " + text});
        }
        check_refused(KVAPPEND_ADDRESSING_PAGED, [value](kvappend_descriptor &d) { d.table_stride = value; },
                      KVAPPEND_ERROR_STRIDE, {"descriptor.table_stride is " + text});
    }
}

TEST_CASE("pieces must be a power of two that divides the row", "[addressing]") {
    const struct {
        const char *name;
        std::int64_t kvappend_descriptor::*pack;
        std::int64_t kvappend_descriptor::*piece_stride;
        std::vector<std::int64_t> legal;
        std::vector<std::int64_t> illegal;
    } tensors[] = {
        {"k", &kvappend_descriptor::k_pack, &kvappend_descriptor::k_piece_stride, {0, 1, 2, 4}, {3, 6, 8, 12, 16}},
        {"v", &kvappend_descriptor::v_pack, &kvappend_descriptor::v_piece_stride, {0, 1, 2, 4, 8}, {3, 6, 16, 32}}};
    for (const std::int32_t addressing : addressings) {
        for (const auto &tensor : tensors) {
            for (const std::int64_t pack : tensor.legal) {
                check_accepted(addressing, [&](kvappend_descriptor &d) { d.*tensor.pack = pack; });
            }
            std::vector<std::int64_t> illegal = tensor.illegal;
            illegal.insert(illegal.end(), {-1, -2, least, most, std::int64_t{1} << 62});
            for (const std::int64_t pack : illegal) {
                check_refused(addressing, [&](kvappend_descriptor &d) { d.*tensor.pack = pack; }, KVAPPEND_ERROR_PACK,
                              {std::string("descriptor.") + tensor.name + "_pack is " + std::to_string(pack)});
            }
            for (const std::int64_t stride : {std::int64_t{-1}, least}) {
                check_refused(addressing,
                              [&](kvappend_descriptor &d) {
                                  d.*tensor.pack = 2;
                                  d.*tensor.piece_stride = stride;
                              },
                              KVAPPEND_ERROR_STRIDE,
                              {std::string("descriptor.") + tensor.name + "_piece_stride", std::to_string(stride)});
            }
        }
    }
}

TEST_CASE("pieces of rows that share memory are refused", "[addressing]") {
    // K rows of 12 elements in pieces of 4: three pieces, for five rows and three heads.
    const auto lay_out = [](std::int64_t piece, std::int64_t row, std::int64_t head) {
        return [=](kvappend_descriptor &d) {
            d.k_pack = 4;
            d.k_piece_stride = piece;
            d.k_cache_strides[KVAPPEND_AXIS_ROW] = row;
            d.k_cache_strides[KVAPPEND_AXIS_HEAD] = head;
            d.k_cache_strides[KVAPPEND_AXIS_BATCH] = 1000;
        };
    };
    for (const std::int32_t addressing : addressings) {
        check_accepted(addressing, lay_out(20, 4, 60));
        check_accepted(addressing, lay_out(4, 12, 60));
        check_accepted(addressing, lay_out(100, 20, 4));
        check_refused(addressing, lay_out(19, 4, 60), KVAPPEND_ERROR_OVERLAP, {"k_cache"});
        check_refused(addressing, lay_out(20, 3, 60), KVAPPEND_ERROR_OVERLAP, {"k_cache"});
        check_refused(addressing, lay_out(20, 4, 59), KVAPPEND_ERROR_OVERLAP, {"k_cache"});
        check_refused(addressing, lay_out(0, 4, 60), KVAPPEND_ERROR_OVERLAP, {"k_cache"});
    }
}

TEST_CASE("pages, tables and pieces that do not fit in 63 bits are refused", "[addressing]") {
    constexpr std::int64_t large = std::int64_t{1} << 60;
    for (const std::int32_t addressing : addressings) {
        check_refused(addressing, [](kvappend_descriptor &d) { d.cache_blocks = most / 5 / 3 / 12 / 4 + 1; },
                      KVAPPEND_ERROR_OVERFLOW, {"k_cache ["});
        check_refused(addressing,
                      [](kvappend_descriptor &d) {
                          d.k_pack = 4;
                          d.k_piece_stride = large;
                          d.k_cache_strides[KVAPPEND_AXIS_ROW] = 4;
                          d.k_cache_strides[KVAPPEND_AXIS_HEAD] = 20;
                          d.k_cache_strides[KVAPPEND_AXIS_BATCH] = 60;
                      },
                      KVAPPEND_ERROR_OVERFLOW, {"k_cache [", "}, pack 4 and piece stride 1152921504606846976: "});
    }
    check_refused(KVAPPEND_ADDRESSING_PAGED, [](kvappend_descriptor &d) { d.table_stride = most; },
                  KVAPPEND_ERROR_OVERFLOW, {"page_table", "table_stride is 9223372036854775807"});
    for (const std::int32_t addressing : {KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR}) {
        // Two samples, and entries of 4 bytes.
        const std::int64_t fit = addressing == KVAPPEND_ADDRESSING_PAGED ? large - 1 : 2 * large - 1;
        check_accepted(addressing, [fit](kvappend_descriptor &d) { d.table_entries = fit; });
        for (const std::int64_t entries : {fit + 1, most}) {
            check_refused(addressing, [entries](kvappend_descriptor &d) { d.table_entries = entries; },
                          KVAPPEND_ERROR_OVERFLOW, {"page_table"});
        }
    }
}

TEST_CASE("arrays of one entry more than there are samples must fit, too", "[addressing]") {
    // 2^61 - 1 samples have offsets of 2^63 - 4 bytes, which fit, but 2^63 bytes of bounds, which do not.
    constexpr std::int64_t samples = (std::int64_t{1} << 61) - 1;
    const auto lay_out = [](kvappend_descriptor &d) {
        d.offset_type = KVAPPEND_OFFSET_INT32;
        d.lengths = KVAPPEND_LENGTHS_PACKED;
        d.batch = samples;
        if (d.addressing == KVAPPEND_ADDRESSING_DENSE || d.addressing == KVAPPEND_ADDRESSING_RING) {
            d.flags = KVAPPEND_FLAG_BATCH_INDEX;
            d.cache_blocks = 1;
        }
        d.table_entries = d.table_entries != 0 ? 1 : 0;
    };
    for (const std::int32_t addressing : with_samples) {
        check_refused(addressing, lay_out, KVAPPEND_ERROR_OVERFLOW, {"lengths"});
        check_accepted(addressing, [&](kvappend_descriptor &d) {
            lay_out(d);
            d.batch -= 1;
        });
    }
}

TEST_CASE("the stride of pieces is refused where it is negative, or where rows are whole", "[addressing]") {
    const struct {
        const char *name;
        std::int64_t kvappend_descriptor::*pack;
        std::int64_t kvappend_descriptor::*stride;
    } parts[] = {{"k", &kvappend_descriptor::k_pack, &kvappend_descriptor::k_piece_stride},
                 {"v", &kvappend_descriptor::v_pack, &kvappend_descriptor::v_piece_stride}};
    for (const auto &part : parts) {
        const std::string stride = "descriptor." + std::string(part.name) + "_piece_stride is ";
        for (const std::int32_t addressing : addressings) {
            check_refused(addressing,
                          [&part](kvappend_descriptor &d) {
                              d.*part.pack = 1;
                              d.*part.stride = -1;
                          },
                          KVAPPEND_ERROR_STRIDE, {stride + "-1"});
            check_refused(addressing, [&part](kvappend_descriptor &d) { d.*part.stride = 8; }, KVAPPEND_ERROR_CONFLICT,
                          {stride + "8", std::string(part.name) + "_pack is 0"});
        }
    }
}
