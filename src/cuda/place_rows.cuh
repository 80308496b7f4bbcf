// SPDX-License-Identifier: Apache-2.0
// The placing of every addressing: each row by itself, at the place that the rule of place.hpp finds for it.
#pragma once

#include "../place.hpp"
#include "loop.cuh"

#include <cstdint>

namespace kvappend {

// The addressings for which the rule is compiled separately. In a decoding step the first two are 12 to 16 % faster
// than the third, which serves all addressings (simulated, 8 samples).
enum class RuleKind : std::uint32_t {
    pages, // PAGED, plain samples, pages of a power of two
    slots, // SLOTS, no count, pages of a power of two
    any,
    dense // DENSE, plain samples; copies have DensePlacing
};

inline constexpr Known known_pages{
    .kind = KVAPPEND_ADDRESSING_PAGED, .plain_samples = true, .power_of_two = true, .narrow = true};
inline constexpr Known known_slots{
    .kind = KVAPPEND_ADDRESSING_SLOTS, .plain_samples = true, .power_of_two = true, .narrow = true};
inline constexpr Known known_dense{.kind = KVAPPEND_ADDRESSING_DENSE, .plain_samples = true, .narrow = true};

inline RuleKind rule_kind_of(const Addressing &a) {
    if (a.period_log2 < 0 || !a.plain_samples()) {
        return RuleKind::any;
    }
    const bool narrow_table = a.table_stride <= INT32_MAX && a.table_entries <= INT32_MAX && a.wide_indices == 0 &&
                              a.reserved_page == static_cast<std::int32_t>(a.reserved_page);
    if (a.kind == KVAPPEND_ADDRESSING_PAGED && narrow_table) {
        return RuleKind::pages;
    }
    return a.kind == KVAPPEND_ADDRESSING_SLOTS ? RuleKind::slots : RuleKind::any;
}

template <Known Facts>
struct RowPlacing {
    static constexpr bool joins_rows = false;

    const Rule<Facts> rule;

    template <class Index>
    __device__ __forceinline__ Loaded<DeviceLoad> load(Index sample, Index run) const {
        return load_row(rule, sample, run, DeviceLoad{});
    }

    template <class Index>
    __device__ __forceinline__ Spot<Index> spot(const CopyLayout &c, Index sample, Index run,
                                                const Loaded<DeviceLoad> &loaded) const {
        const Place place = place_of(rule, sample, run, loaded, DeviceLoad{});
        return {static_cast<Index>(place.block), place.row, static_cast<std::int64_t>(place.position), 0,
                place.placed() ? static_cast<Index>(c.run_vectors) : Index{0}};
    }
};

} // namespace kvappend
