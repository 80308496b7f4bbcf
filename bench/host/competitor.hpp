// SPDX-License-Identifier: Apache-2.0
// Those that are measured against each other, each doing the same appends or gathers, to memory of its own.
#pragma once

#include "workload.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

// The way of successive calls through memory: layer after layer at one step, then the next step.
struct Course {
    const Workload *workload;
    std::span<const Indices> steps;
    const std::byte *source; // that all competitors read: new tensors, or the caches that a gather reads
    std::size_t target_at;   // in the arena: the caches, or the outputs of a gather
    std::size_t fresh_stride;
    std::int64_t fresh_count; // of new tensors, or of outputs
    std::size_t cache_stride;
    std::int64_t layers;
    std::int64_t first_source; // of the first call
    // For a copy in one piece, which goes about the arena in jumps.
    std::size_t piece_source_stride;
    std::int64_t piece_sources;
    std::size_t piece_stride;
    std::int64_t pieces;
    std::int64_t pieces_jump;

    // How many calls read different rows.
    std::int64_t sources() const {
        return workload->gathers() ? layers * static_cast<std::int64_t>(steps.size()) : fresh_count;
    }
};

class Competitor {
public:
    virtual ~Competitor() = default;
    virtual void run(std::byte *arena, std::int64_t calls) = 0;
    // Whether the bytes that the first call writes are right, in an arena that was zero. `like` is another arena, in
    // which the loop has done that call. The course begins with the first source.
    virtual bool proves(const std::byte *arena, const std::byte *like) const = 0;
};

// What competes. The first are ways of the library to do it, the others what these are compared with.
struct Entry {
    const char *name;
    std::unique_ptr<Competitor> (*make)(const Course &course);
    bool copies;   // takes part in cases that copy bits
    bool converts; // takes part in cases that store another format

    bool takes_part(const Workload &workload) const { return workload.converts ? converts : copies; }
};
inline constexpr std::size_t library_entries = 2;
std::span<const Entry> entries();

// Of the plan that the entry makes; throws std::runtime_error where the library refuses the workload.
std::string kernel_of(const Workload &workload);
// Throws where the library finds a fault in the indices.
void require_valid(const Course &course, std::byte *arena);
