// SPDX-License-Identifier: Apache-2.0
// Times calls of the library, as medians with their spread; or, for tools that count what a process does, makes one of
// them a number of times: call --make NAME TIMES.
#include "calls.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

void make(const std::string &name, long times) {
    for (const Call &call : calls()) {
        for (long i = 0; call.name == name && i < times; ++i) {
            call.make();
        }
    }
}

void measure(const Call &call) {
    const auto least = [](const std::vector<double> &times) { return std::ranges::min(times); };
    const auto most = [](const std::vector<double> &times) { return std::ranges::max(times); };
    benchmark::RegisterBenchmark(call.name.c_str(),
                                 [call](benchmark::State &state) {
                                     for ([[maybe_unused]] const auto turn : state) {
                                         call.make();
                                         benchmark::ClobberMemory();
                                     }
                                 })
        ->Repetitions(9)
        ->ComputeStatistics("min", least)
        ->ComputeStatistics("max", most)
        ->ReportAggregatesOnly();
}

} // namespace

int main(int argc, char **argv) {
    if (argc == 4 && std::string(argv[1]) == "--make") {
        make(argv[2], std::strtol(argv[3], nullptr, 10));
        return EXIT_SUCCESS;
    }
    if (argc == 2 && std::string(argv[1]) == "--list") {
        for (const Call &call : calls()) {
            std::puts(call.name.c_str());
        }
        return EXIT_SUCCESS;
    }
    for (const Call &call : calls()) {
        measure(call);
    }
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
    return EXIT_SUCCESS;
}
