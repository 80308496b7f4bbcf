// SPDX-License-Identifier: Apache-2.0
// The copies for any processor. The C library chooses how to copy the bytes, and whether to bypass the caches.
#include "copy_rows.hpp"

namespace kvappend {

namespace {

struct PlainCopier {
    template <bool NonTemporal, class Use>
    static void choose(std::size_t bytes, Use use) {
        use([bytes](std::byte *to, const std::byte *from) { std::memcpy(to, from, bytes); });
    }
    template <bool NonTemporal, class Use>
    static void choose_both(std::size_t bytes, Use use) {
        use([bytes](std::byte *k_to, const std::byte *k_from, std::byte *v_to, const std::byte *v_from) {
            std::memcpy(k_to, k_from, bytes);
            std::memcpy(v_to, v_from, bytes);
        });
    }
    template <bool NonTemporal>
    static void finish() {}
};

} // namespace

constexpr Copies plain_copies = copies_of<PlainCopier, false>;

} // namespace kvappend
