// SPDX-License-Identifier: Apache-2.0
// A program in C++17 over kvappend.hpp: pages of half-precision rows by their slots, and an error.
#include <kvappend/kvappend.hpp>

#include <array>
#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
    const std::array<std::int32_t, 3> slots{4, -1, 1};
    const std::vector<std::uint16_t> rows{1, 2, 3, 4, 5, 6};
    std::vector<std::uint16_t> pages(12);

    kvappend::buffers<std::uint16_t, const std::int32_t> buffers;
    buffers.k_new = rows;
    buffers.k_cache = pages;
    buffers.slots = slots;

    kvappend::descriptor descriptor;
    descriptor.addressing = KVAPPEND_ADDRESSING_SLOTS;
    descriptor.batch = descriptor.heads = 1;
    descriptor.new_rows = 3;
    descriptor.cache_blocks = 2;
    descriptor.cache_rows = 3;
    descriptor.k_dim = 2;
    buffers.fill(descriptor);
    const auto plan = kvappend::plan::create(descriptor);
    if (!plan) {
        std::fprintf(stderr, "%s\n", plan.message());
        return 1;
    }
    kvappend::args args;
    buffers.fill(args);
    if (const auto done = plan->run(args); !done) {
        std::fprintf(stderr, "%s\n", done.message());
        return 1;
    }
    if (pages != std::vector<std::uint16_t>{0, 0, 5, 6, 0, 0, 0, 0, 1, 2, 0, 0}) {
        std::fprintf(stderr, "the pages hold other rows\n");
        return 1;
    }
    try {
        args.k_new_bytes -= 1;
        plan->run(args).value();
    } catch (const kvappend::error &error) {
        std::printf("%s\n", error.what());
        return error.status() == KVAPPEND_ERROR_BUFFER_TOO_SMALL ? 0 : 1;
    }
    return 1;
}
