// SPDX-License-Identifier: Apache-2.0
// The ways in which runtimes keep their caches and hand over the new rows.
#pragma once

#include <kvappend/kvappend.h>

#include <cstdint>

struct Arrangement {
    const char *name;
    std::int32_t addressing; // KVAPPEND_ADDRESSING_*
    std::int32_t lengths;    // KVAPPEND_LENGTHS_*
    std::int64_t page_rows;  // 0: a sample's cache is in one piece
    bool new_by_token;       // new rows are [B, L, H, D] or [T, H, D], as a projection leaves them; else [B, H, L, D]
    bool cache_by_token;     // caches are [N, R, H, D] ("NHD"); else [N, H, R, D] ("HND")
};

// Rows of a ring that stay.
inline constexpr std::int64_t ring_sinks = 4;

inline constexpr Arrangement arrangements[] = {
    {"dense-bhsd", KVAPPEND_ADDRESSING_DENSE, KVAPPEND_LENGTHS_FIXED, 0, false, false},
    {"dense-bshd", KVAPPEND_ADDRESSING_DENSE, KVAPPEND_LENGTHS_FIXED, 0, true, true},
    {"dense-transposed", KVAPPEND_ADDRESSING_DENSE, KVAPPEND_LENGTHS_FIXED, 0, true, false},
    {"dense-packed", KVAPPEND_ADDRESSING_DENSE, KVAPPEND_LENGTHS_PACKED, 0, true, false},
    {"ring", KVAPPEND_ADDRESSING_RING, KVAPPEND_LENGTHS_FIXED, 0, false, false},
    {"paged16", KVAPPEND_ADDRESSING_PAGED, KVAPPEND_LENGTHS_FIXED, 16, true, true},
    {"paged64-hnd", KVAPPEND_ADDRESSING_PAGED, KVAPPEND_LENGTHS_FIXED, 64, true, false},
    {"csr16-packed", KVAPPEND_ADDRESSING_PAGED_CSR, KVAPPEND_LENGTHS_PACKED, 16, true, true},
    {"slots16", KVAPPEND_ADDRESSING_SLOTS, KVAPPEND_LENGTHS_FIXED, 16, true, true},
    {"slots64", KVAPPEND_ADDRESSING_SLOTS, KVAPPEND_LENGTHS_FIXED, 64, true, true},
};
