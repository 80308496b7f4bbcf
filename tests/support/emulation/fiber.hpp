// SPDX-License-Identifier: Apache-2.0
// Stacks between which a thread of the host switches by itself.
#pragma once

#include <cstddef>

namespace emulation::internal {

// A stack of its own, or that of a host thread. No thread but the one that made it may use it.
class Fiber {
public:
    // Stands for the stack that the calling thread began with.
    constexpr Fiber() = default;
    Fiber(const Fiber &) = delete;
    Fiber &operator=(const Fiber &) = delete;

    // A stack of its own on which `serve` is called again and again. Before it is given back, `serve` switches away.
    static Fiber &take(void (*serve)());
    // The fiber may be taken again, and then goes on where it was left.
    void give_back();

    // Leaves this fiber, which is the running one, and goes on where `to` was left. Returns when a fiber switches back.
    void switch_to(Fiber &to);

private:
    friend struct IdleFibers;

    explicit Fiber(std::byte *memory, void (*serve)());
    void unmap();
    [[noreturn]] static void begin();

    void *position_ = nullptr; // where the fiber was left
    // The next four are for Valgrind and for sanitizers.
    unsigned valgrind_stack_ = 0;
    [[maybe_unused]] const void *bottom_ = nullptr;
    [[maybe_unused]] std::size_t bytes_ = 0;
    [[maybe_unused]] void *thread_sanitizer_ = nullptr;
    std::byte *memory_ = nullptr;
    void (*serve_)() = nullptr;
    Fiber *next_idle_ = nullptr;
};

} // namespace emulation::internal
