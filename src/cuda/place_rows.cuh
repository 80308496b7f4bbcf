// SPDX-License-Identifier: Apache-2.0
// The placing of every addressing: each row by itself, at the place that the rule of place.hpp finds for it.
#pragma once

#include "../place.hpp"
#include "loop.cuh"

#include <cstdint>

namespace kvappend {

// What is known of an addressing of each RuleKind. The kernels of Family::rotate alone rotate rows: see
// RotatePlacing.
inline constexpr Known known_pages{.kind = KVAPPEND_ADDRESSING_PAGED,
                                   .plain_samples = true,
                                   .power_of_two = true,
                                   .narrow = true,
                                   .never_rotates = true};
inline constexpr Known known_slots{.kind = KVAPPEND_ADDRESSING_SLOTS,
                                   .plain_samples = true,
                                   .power_of_two = true,
                                   .narrow = true,
                                   .never_rotates = true};
inline constexpr Known known_tokens{.kind = KVAPPEND_ADDRESSING_PAGED_CSR,
                                    .plain_tokens = true,
                                    .power_of_two = true,
                                    .narrow = true,
                                    .never_rotates = true};
inline constexpr Known known_ends{.kind = KVAPPEND_ADDRESSING_PAGED_CSR,
                                  .plain_ends = true,
                                  .power_of_two = true,
                                  .narrow = true,
                                  .never_rotates = true};
inline constexpr Known known_dense{
    .kind = KVAPPEND_ADDRESSING_DENSE, .plain_samples = true, .narrow = true, .never_rotates = true};
inline constexpr Known known_any{.never_rotates = true};

KVAPPEND_HOST_DEVICE constexpr Known known_of(RuleKind kind) {
    switch (kind) {
    case RuleKind::pages:
        return known_pages;
    case RuleKind::slots:
        return known_slots;
    case RuleKind::tokens:
        return known_tokens;
    case RuleKind::ends:
        return known_ends;
    case RuleKind::dense:
        return known_dense;
    case RuleKind::any:
        break;
    }
    return known_any;
}

template <Known Facts>
struct RowPlacing {
    static constexpr bool joins_rows = false;

    static_assert(Facts.never_rotates);
    const Rule<Facts> rule;

    template <class Index>
    __device__ __forceinline__ Loaded<DeviceLoad> load(Index sample, Index run) const {
        return load_row(rule, sample, run, DeviceLoad{});
    }

    template <class Index>
    __device__ __forceinline__ Spot<Index> spot(const CopyLayout &c, Index sample, Index run,
                                                const Loaded<DeviceLoad> &loaded) const {
        const auto place = place_of(rule, sample, run, loaded, DeviceLoad{});
        return {static_cast<Index>(place.block), place.row, static_cast<std::int64_t>(place.position), 0,
                place.placed() ? static_cast<Index>(c.run_vectors) : Index{0}};
    }
};

} // namespace kvappend
