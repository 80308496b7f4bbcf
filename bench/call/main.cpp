// SPDX-License-Identifier: Apache-2.0
// Times calls of the library, as medians with their spread; or, for tools that count what a process does, makes one of
// them a number of times: call --make NAME TIMES.
#include "calls.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

void make(const std::string &name, long times) {
    for (const Call &call : calls()) {
        for (long i = 0; call.name == name && i < times; ++i) {
            call.make();
        }
    }
}

class Measurement final : public benchmark::Fixture {
public:
    explicit Measurement(Call call) : call_(std::move(call)) {
        SetName(call_.name.c_str());
        Repetitions(9);
        ComputeStatistics("min", [](const std::vector<double> &times) { return std::ranges::min(times); });
        ComputeStatistics("max", [](const std::vector<double> &times) { return std::ranges::max(times); });
        ReportAggregatesOnly();
    }

private:
    void BenchmarkCase(benchmark::State &state) override {
        for ([[maybe_unused]] const auto iteration : state) {
            call_.make();
            benchmark::ClobberMemory();
        }
    }

    const Call call_;
};

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
        // Google Benchmark owns what it is given.
        benchmark::internal::RegisterBenchmarkInternal(std::make_unique<Measurement>(call).release());
    }
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
    return EXIT_SUCCESS;
}
