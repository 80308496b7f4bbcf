// SPDX-License-Identifier: Apache-2.0
#include "session.hpp"

#include "machine.hpp"
#include "spread.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <numeric>
#include <stdexcept>

namespace {

constexpr std::size_t mebibyte = std::size_t{1} << 20;
constexpr std::size_t page = 4096;

// Where in a page the source begins, while the targets begin at its start. Some processors copy many times slower to
// what lies just above the source, modulo a page; such a place would be a bad measure, and is not what is usual.
constexpr std::size_t source_at = 17 * 64;

// In each of Google Benchmark's iterations, so that a call which is longer than the least time has more than one, too.
constexpr int rounds = 5;

// A walk over so much finds nothing of its beginning in the cache.
std::size_t far_beyond_cache() {
    return 8 * last_level_cache_bytes();
}

// A quarter of the memory, at most 6 GiB, is shared out equally; more than a GiB is needed for large caches only.
std::size_t arena_bytes() {
    const std::size_t budget = std::min(memory_bytes() / 4, 6144 * mebibyte);
    return std::min(budget / (entries().size() + 1), std::max(far_beyond_cache(), 1024 * mebibyte));
}

std::size_t round_up(std::size_t bytes, std::size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

// Visits all of `count` before any comes again, and never a neighbour of the last.
std::int64_t jump_among(std::int64_t count) {
    std::int64_t jump = std::max<std::int64_t>(1, count * 5 / 8);
    while (std::gcd(jump, count) != 1) {
        ++jump;
    }
    return jump % count;
}

} // namespace

Session::Session() : source_(std::min(arena_bytes(), std::max(far_beyond_cache(), 256 * mebibyte))) {
    for (std::size_t i = 0; i < entries().size(); ++i) {
        arenas_.emplace_back(arena_bytes());
    }
    fill_new_rows(std::span(source_.data(), source_.bytes()), random_);
}

std::vector<std::pair<std::string, std::string>> Session::describe() const {
    return {{"destinations", std::to_string(arenas_.size()) + " of " + std::to_string(arenas_[0].bytes() / mebibyte) +
                                 " MiB, one for each competitor, changing hands"},
            {"cold", "each call goes to another layer or position, over at least " +
                         std::to_string(far_beyond_cache() / mebibyte) +
                         " MiB or the whole destination; the new rows of prefill come from anew, those of decode and "
                         "speculative steps are in the cache, as just made; each gather reads from another layer or "
                         "position, over at least " +
                         std::to_string(std::min(far_beyond_cache(), source_.bytes()) / mebibyte) +
                         " MiB or all that there is"},
            {"warm", "each call writes the same rows from the same rows: in the cache, where they fit"}};
}

// The places that a cold call visits before it comes to the first again. Returns how many steps there are.
std::size_t Session::spread_course(Course &course) const {
    const Workload &workload = *course.workload;
    const bool gathers = workload.gathers();
    const std::size_t source_room = source_.bytes() - page;
    const std::size_t target_room = arenas_[0].bytes() - page;
    course.layers = static_cast<std::int64_t>((gathers ? source_room : target_room) / course.cache_stride);
    course.pieces = static_cast<std::int64_t>(target_room / course.piece_stride);
    const std::size_t layers_bytes = static_cast<std::size_t>(course.layers) * workload.written_bytes;
    if (gathers || prepared_->configuration.step->phase == Phase::prefill) {
        course.fresh_count = static_cast<std::int64_t>((gathers ? target_room : source_room) / course.fresh_stride);
        course.piece_sources = static_cast<std::int64_t>(source_room / course.piece_source_stride);
    }
    if (course.layers == 0) {
        return 0;
    }
    return std::min(far_beyond_cache() / layers_bytes + 1, static_cast<std::size_t>(workload.sequence_rows));
}

void Session::lay_course() {
    Prepared &p = *prepared_;
    Course &course = p.course;
    const std::size_t width = p.workload.element_bytes;
    course.workload = &p.workload;
    course.source = source_.data() + source_at + (p.configuration.aligned ? 0 : width);
    course.target_at = p.configuration.aligned ? 0 : 2 * width;
    // Blocks of a page more, as an allocator places them.
    course.cache_stride = round_up(p.workload.cache_bytes, page) + page;
    course.piece_stride = round_up(p.workload.written_bytes, 64);
    course.fresh_stride = round_up(p.workload.new_bytes, 64);
    course.piece_source_stride = course.fresh_stride;
    course.layers = course.pieces = course.fresh_count = course.piece_sources = 1;
    const std::size_t step_count = p.configuration.cold ? spread_course(course) : 1;
    course.pieces_jump = jump_among(course.pieces);
    if (course.layers < 1 || course.pieces < 1 || course.fresh_count < 1 ||
        source_at + p.workload.source_bytes() + page > source_.bytes() ||
        p.workload.target_bytes() + page > arenas_[0].bytes()) {
        throw std::runtime_error("this machine has too little memory for the case");
    }
    for (std::size_t step = 0; step < step_count; ++step) {
        p.steps.push_back(make_indices(p.workload, *p.configuration.step, random_));
    }
    course.steps = p.steps;
}

std::vector<std::size_t> Session::competing() const {
    std::vector<std::size_t> result;
    for (std::size_t i = 0; i < entries().size(); ++i) {
        if (entries()[i].takes_part(prepared_->workload)) {
            result.push_back(i);
        }
    }
    return result;
}

void Session::prove() {
    const Course &course = prepared_->course;
    const auto first_call = [&](std::size_t competitor, std::byte *arena) {
        std::memset(arena, 0, course.target_at + course.workload->target_bytes());
        auto made = entries()[competitor].make(course);
        made->run(arena, 1);
        return made;
    };
    const auto require = [](const Competitor &competitor, const char *name, const std::byte *arena,
                            const std::byte *like) {
        if (!competitor.proves(arena, like)) {
            throw std::runtime_error(std::string(name) + " writes wrong bytes");
        }
    };
    require_valid(course, arenas_[0].data());
    // The last one is what the others are compared with.
    std::vector<std::size_t> order = competing();
    std::ranges::reverse(order);
    std::byte *const like = arenas_[order.front()].data();
    for (const std::size_t i : order) {
        std::byte *const arena = arenas_[i].data();
        require(*first_call(i, arena), entries()[i].name, arena, like);
    }
}

void Session::prepare(const Configuration &configuration) {
    prepared_.reset(); // Before there is another.
    const std::size_t most = std::min(128 * mebibyte, arenas_[0].bytes() / 4);
    auto workload = make_workload(configuration, most);
    prepared_ = std::make_unique<Prepared>(Prepared{configuration, std::move(workload), {}, {}, "", {}, 1});
    lay_course();
    prove();
    prepared_->kernel = kernel_of(prepared_->workload);
    // The calls take so long that reading the clock, some 50 ns, does not matter.
    make_competitors();
    while (time_calls(0) * static_cast<double>(prepared_->calls) < 20e-6) {
        prepared_->calls *= 2;
    }
    make_competitors();
}

void Session::make_competitors() {
    prepared_->competitors.clear();
    const auto count = static_cast<std::int64_t>(entries().size());
    for (std::int64_t i = 0; i < count; ++i) {
        // All make equally many calls. Far apart, none finds in the cache what another has just read.
        Course course = prepared_->course;
        course.first_source = i * course.sources() / count;
        const Entry &entry = entries()[static_cast<std::size_t>(i)];
        prepared_->competitors.push_back(entry.takes_part(prepared_->workload) ? entry.make(course) : nullptr);
    }
}

double Session::time_calls(std::size_t competitor) {
    Competitor &one = *prepared_->competitors[competitor];
    std::byte *const arena = arenas_[(competitor + repetition_) % arenas_.size()].data();
    if (!prepared_->configuration.cold) {
        one.run(arena, 1); // The others have been at work since it last ran.
    }
    const auto start = std::chrono::steady_clock::now();
    one.run(arena, prepared_->calls);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    return time.count() / static_cast<double>(prepared_->calls);
}

void Session::measure(benchmark::State &state, const Configuration &configuration) {
    try {
        if (prepared_ == nullptr || prepared_->configuration.name() != configuration.name()) {
            prepare(configuration);
        }
    } catch (const std::exception &error) {
        prepared_.reset(); // It is not all there.
        state.SkipWithError(error.what());
        return;
    }
    ++repetition_;
    std::vector<std::size_t> order = competing();
    std::vector<std::vector<double>> seconds(entries().size());
    for ([[maybe_unused]] const auto iteration : state) {
        double library = 0;
        for (int round = 0; round < rounds; ++round) {
            std::ranges::shuffle(order, random_);
            for (const std::size_t competitor : order) {
                seconds[competitor].push_back(time_calls(competitor));
            }
            library += seconds[0].back() * static_cast<double>(prepared_->calls);
        }
        state.SetIterationTime(library);
    }
    for (const std::size_t competitor : order) {
        state.counters[entries()[competitor].name] = spread_of(seconds[competitor]).median * 1e9;
    }
    state.counters["bytes"] = static_cast<double>(prepared_->workload.written_bytes);
    state.SetLabel(prepared_->kernel);
}
