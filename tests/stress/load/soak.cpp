// SPDX-License-Identifier: Apache-2.0
// Memory stays what it is through very many calls: tiny appends, failing ones, validations, and plans that come and go.
//     soak APPENDS: so many appends, and of what takes longer so many fewer.
#include <kvappend/kvappend.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>

#include <unistd.h>

namespace {

std::int64_t resident_bytes() {
    std::ifstream statm("/proc/self/statm");
    std::int64_t size = 0;
    std::int64_t resident = 0;
    statm >> size >> resident;
    return resident * sysconf(_SC_PAGESIZE);
}

// Reading the figure takes a few pages at first, and the C library may round up; a leak of one byte a call is more.
constexpr std::int64_t flat_bytes = 256 * 1024;

// Makes the calls, a tenth of them before the first look at the memory. False if one fails or memory grows.
bool soak(const char *name, std::int64_t calls, const std::function<bool(std::int64_t)> &call) {
    const auto begin = std::chrono::steady_clock::now();
    const std::int64_t tenth = std::max<std::int64_t>(calls / 10, 1);
    bool good = true;
    std::int64_t first = 0;
    std::int64_t least = INT64_MAX;
    std::int64_t most = 0;
    for (std::int64_t i = 1; i <= calls && good; ++i) {
        good = call(i);
        if (i % tenth == 0) {
            const std::int64_t now = resident_bytes();
            first = first == 0 ? now : first;
            least = std::min(least, now);
            most = std::max(most, now);
        }
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    std::printf("%s: %lld calls in %.1f s, resident %lld to %lld KiB%s\n", name, static_cast<long long>(calls), seconds,
                static_cast<long long>(least / 1024), static_cast<long long>(most / 1024),
                good ? "" : ", a call FAILED");
    if (most - first > flat_bytes) {
        std::printf("memory grew by %lld bytes\n", static_cast<long long>(most - first));
        return false;
    }
    return good;
}

kvappend_descriptor tiny() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.batch = d.heads = d.new_rows = d.k_dim = 1;
    d.cache_rows = 64;
    return d;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fputs("usage: soak APPENDS\n", stderr);
        return 2;
    }
    const std::int64_t appends = std::atoll(argv[1]);
    float row = 0;
    float cache[64] = {};
    std::int64_t offset = 0;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = &row;
    args.k_cache = cache;
    args.k_cache_bytes = sizeof cache;
    args.cache_offsets = &offset;
    const kvappend_descriptor d = tiny();
    kvappend_plan *plan = nullptr;
    if (kvappend_plan_create(&d, nullptr, &plan) != KVAPPEND_SUCCESS) {
        return EXIT_FAILURE;
    }
    bool good = soak("tiny appends", appends, [&](std::int64_t i) {
        offset = i % 64;
        row = static_cast<float>(i % 8191);
        return kvappend_plan_run(plan, &args, nullptr, 0, nullptr) == KVAPPEND_SUCCESS && cache[offset] == row;
    });
    good = soak("appends that fail", appends / 100,
                [&](std::int64_t) {
                    kvappend_args small = args;
                    small.k_cache_bytes = 1;
                    return kvappend_plan_run(plan, &small, nullptr, 0, nullptr) == KVAPPEND_ERROR_BUFFER_TOO_SMALL;
                }) &&
           good;
    offset = 0;
    good = soak("validations", appends / 100,
                [&](std::int64_t) {
                    return kvappend_plan_validate(plan, &args, nullptr, 0, nullptr, nullptr) == KVAPPEND_SUCCESS;
                }) &&
           good;
    const auto come_and_go = [&](const kvappend_preference &p) {
        kvappend_plan *other = nullptr;
        return kvappend_plan_create(&d, &p, &other) == KVAPPEND_SUCCESS &&
               kvappend_plan_run(other, &args, nullptr, 0, nullptr) == KVAPPEND_SUCCESS &&
               kvappend_plan_destroy(other) == KVAPPEND_SUCCESS;
    };
    kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    good = soak("plans", appends / 100, [&](std::int64_t) { return come_and_go(p); }) && good;
    p.host_threads = 3;
    good = soak("plans with threads", appends / 10000, [&](std::int64_t) { return come_and_go(p); }) && good;
    // There is no kernel of that name; what was allocated until that is found out must go.
    p.host_threads = 0;
    p.kernel_name = "none";
    good = soak("plans that are refused", appends / 100,
                [&](std::int64_t) {
                    kvappend_plan *other = nullptr;
                    return kvappend_plan_create(&d, &p, &other) == KVAPPEND_ERROR_KERNEL;
                }) &&
           good;
    kvappend_plan_destroy(plan);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
