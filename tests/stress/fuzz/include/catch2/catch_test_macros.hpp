// SPDX-License-Identifier: Apache-2.0
// What the suite's cases and reference need of Catch2, for programs that are no suite: the first requirement that does
// not hold ends the process, which a fuzzer takes for a finding. Notes are written only then.
#pragma once

#include <cstdlib>
#include <iostream>

namespace requirement {

class Note {
public:
    Note() : outer_(innermost()) { innermost() = this; }
    Note(const Note &) = delete;
    Note &operator=(const Note &) = delete;
    virtual ~Note() { innermost() = outer_; }
    static void write_all() {
        for (const Note *note = innermost(); note != nullptr; note = note->outer_) {
            note->write();
        }
    }

private:
    virtual void write() const = 0;
    static const Note *&innermost() {
        thread_local const Note *note = nullptr;
        return note;
    }
    const Note *outer_;
};

template <class Write>
class NoteOf final : public Note {
public:
    explicit NoteOf(const Write &write) : write_(write) {}

private:
    void write() const override { write_(std::cerr); }
    Write write_;
};

[[noreturn]] inline void fail(const char *condition, const char *file, int line) {
    std::cerr << file << ':' << line << ": does not hold: " << condition << '\n';
    Note::write_all();
    std::abort();
}

} // namespace requirement

#define REQUIRE(...) ((__VA_ARGS__) ? static_cast<void>(0) : requirement::fail(#__VA_ARGS__, __FILE__, __LINE__))
#define CHECK(...) REQUIRE(__VA_ARGS__)
#define REQUIREMENT_NAME_OF(line) note_of_line_##line
#define REQUIREMENT_NAME(line) REQUIREMENT_NAME_OF(line)
#define INFO(...)                                                                                                      \
    const requirement::NoteOf REQUIREMENT_NAME(__LINE__)([&](std::ostream &out) { out << __VA_ARGS__ << '\n'; })
