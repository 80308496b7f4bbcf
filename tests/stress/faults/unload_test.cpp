// SPDX-License-Identifier: Apache-2.0
// Loading and unloading by dlopen and dlclose: the library goes when it is told to, with plans alive, too, and takes
// nothing with it. The program is not linked to it.
#include "loaded.hpp"
#include "threads_alive.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <unistd.h>

namespace {

bool is_mapped(const char *path) {
    std::ifstream maps("/proc/self/maps");
    const std::string text{std::istreambuf_iterator<char>(maps), {}};
    return text.find(std::filesystem::canonical(path)) != std::string::npos;
}

std::int64_t resident_pages() {
    std::ifstream statm("/proc/self/statm");
    std::int64_t size = 0;
    std::int64_t resident = 0;
    statm >> size >> resident;
    return resident;
}

} // namespace

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    const char *const path = argv[1];
    REQUIRE(!is_mapped(path));
    const std::int64_t alone = threads_alive();

    // Plans with threads end first, as the header wants it, and their threads with them; others may be left alive.
    std::int64_t pages = 0;
    constexpr int rounds = 200;
    for (int round = 0; round < rounds; ++round) {
        const Library library = load(path);
        kvappend_plan *const crewed = create(*library.api, 5);
        REQUIRE(only_threads_alive(alone + 4));
        kvappend_plan *const left_alive = create(*library.api, 0);
        append(*library.api, crewed);
        append(*library.api, left_alive);
        REQUIRE(library.api->plan_run(nullptr, nullptr, nullptr, 0, nullptr) == KVAPPEND_ERROR_NULL_ARGUMENT);
        REQUIRE(library.api->plan_destroy(crewed) == KVAPPEND_SUCCESS);
        REQUIRE(only_threads_alive(alone));
        REQUIRE(dlclose(library.handle) == 0);
        if (is_mapped(path)) {
            // A sanitizer's runtime keeps what is loaded.
            std::puts("skipped: dlclose does not unload here");
            return 77;
        }
        if (round == rounds / 4) {
            pages = resident_pages();
        }
    }
    // A plan that was left alive takes a few thousand bytes, and a library that was not unloaded some hundred thousand.
    const std::int64_t grown = (resident_pages() - pages) * sysconf(_SC_PAGESIZE);
    std::printf("%d bytes for each of the plans left alive\n", static_cast<int>(grown / (rounds * 3 / 4)));
    REQUIRE(grown < rounds * 4096);
    return EXIT_SUCCESS;
}
