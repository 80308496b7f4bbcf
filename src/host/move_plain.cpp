// SPDX-License-Identifier: Apache-2.0
// The moves for any processor. The C library knows best how to copy many bytes, and whether to bypass the caches.
#include "move.hpp"
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

constexpr CopyRows plain_dense{copy_rows<PlainMoves, false, dense_known>, copy_rows<PlainMoves, false, dense_known>};
constexpr CopyRows plain_rows{copy_rows<PlainMoves, false>, copy_rows<PlainMoves, false>};

} // namespace kvappend
