// SPDX-License-Identifier: Apache-2.0
// Measures cases one after the other, all in the same memory.
#pragma once

#include "arena.hpp"
#include "competitor.hpp"
#include "configuration.hpp"

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

class Session {
public:
    Session();

    // One repetition of a case. It consists of rounds, in each of which all competitors run once in random order, so
    // that what disturbs the machine meets all alike. Counters say the median of each one's rounds, in nanoseconds a
    // call; the label is the library's kernel.
    void measure(benchmark::State &state, const Configuration &configuration);

    std::vector<std::pair<std::string, std::string>> describe() const;

private:
    // What stays from one repetition of a case to the next.
    struct Prepared {
        Configuration configuration;
        Workload workload;
        std::vector<Indices> steps;
        Course course;
        std::string kernel;
        std::vector<std::unique_ptr<Competitor>> competitors;
        std::int64_t calls; // timed together
    };

    void prepare(const Configuration &configuration);
    void lay_course();
    std::size_t spread_course(Course &course) const;
    // The entries that take part.
    std::vector<std::size_t> competing() const;
    // Throws where the competitors do not write the right bytes.
    void prove();
    void make_competitors();
    // Seconds a call.
    double time_calls(std::size_t competitor);

    std::vector<Arena> arenas_; // for each competitor
    Arena source_;
    std::unique_ptr<Prepared> prepared_;
    std::size_t repetition_ = 0;
    std::minstd_rand random_;
};
