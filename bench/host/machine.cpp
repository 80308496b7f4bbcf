// SPDX-License-Identifier: Apache-2.0
#include "machine.hpp"

#include <benchmark/benchmark.h>
#include <gnu/libc-version.h>
#include <kvappend/kvappend.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>

namespace {

std::string first_line(const char *path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        const std::size_t colon = line.find(": ");
        if (line.starts_with("model name") && colon != std::string::npos) {
            return line.substr(colon + 2);
        }
    }
    return "unknown";
}

std::string size_text(std::size_t bytes) {
    return bytes < (1U << 20) ? std::to_string(bytes >> 10) + " KiB" : std::to_string(bytes >> 20) + " MiB";
}

std::string caches() {
    std::string text;
    for (const auto &cache : benchmark::CPUInfo::Get().caches) {
        text += (text.empty() ? "L" : ", L") + std::to_string(cache.level) + " " + cache.type + " " +
                size_text(static_cast<std::size_t>(cache.size)) + " (for " + std::to_string(cache.num_sharing) + ")";
    }
    return text;
}

std::string load() {
    std::string text;
    for (const double average : benchmark::CPUInfo::Get().load_avg) {
        text += (text.empty() ? "" : ", ") + std::to_string(average).substr(0, 4);
    }
    return text;
}

std::string cores() {
    cpu_set_t allowed;
    const bool known = sched_getaffinity(0, sizeof allowed, &allowed) == 0;
    return std::to_string(sysconf(_SC_NPROCESSORS_ONLN)) + " online, " +
           (known ? std::to_string(CPU_COUNT(&allowed)) : "unknown") + " for this process";
}

std::string version() {
    const std::uint32_t version = kvappend_version();
    return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
           std::to_string(version % 100);
}

} // namespace

std::size_t last_level_cache_bytes() {
    // The kernel's figure comes before the C library's, which on some virtual machines counts cores that are not there.
    const auto &caches = benchmark::CPUInfo::Get().caches;
    if (!caches.empty()) {
        const auto last = std::ranges::max_element(caches, {}, &benchmark::CPUInfo::CacheInfo::level);
        return static_cast<std::size_t>(last->size);
    }
    const std::int64_t size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return size > 0 ? static_cast<std::size_t>(size) : std::size_t{32} << 20;
}

std::size_t memory_bytes() {
    return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

std::vector<std::pair<std::string, std::string>> describe_machine() {
    return {{"processor", processor()},
            {"cores", cores()},
            {"caches", caches()},
            {"memory", size_text(memory_bytes())},
            {"transparent huge pages", first_line("/sys/kernel/mm/transparent_hugepage/enabled")},
            {"load averages", load()},
            {"compiler", std::string("of the benchmark: ") + __VERSION__},
            {"C library", std::string("glibc ") + gnu_get_libc_version() +
                              ", which takes the last level of cache for " +
                              size_text(static_cast<std::size_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE))))},
            {"libkvappend", version()}};
}
