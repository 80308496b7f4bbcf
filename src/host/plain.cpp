// SPDX-License-Identifier: Apache-2.0
// The appends for any processor. The C library knows best how to copy much, and whether past the caches.
#include "append.hpp"
#include "small.hpp"

namespace kvappend {

namespace {

struct PlainMoves {
    template <bool Far, class Use>
    static void choose(std::size_t bytes, Use use) {
        if (bytes <= most_small) {
            use([bytes](std::byte *to, const std::byte *from) { copy_small(to, from, bytes); });
        } else {
            use([bytes](std::byte *to, const std::byte *from) { std::memcpy(to, from, bytes); });
        }
    }
    template <bool Far, class Use>
    static void choose_both(std::size_t bytes, Use use) {
        choose<Far>(bytes, [use](auto one) { use(one_by_one(one)); });
    }
    template <bool Far>
    static void finish() {}
};

} // namespace

constexpr Append plain_dense{append_dense<PlainMoves, false>, append_dense<PlainMoves, false>};
constexpr Append plain_rows{append_rows<PlainMoves, false>, append_rows<PlainMoves, false>};

} // namespace kvappend
