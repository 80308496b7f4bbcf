// SPDX-License-Identifier: Apache-2.0
// After a thread has called kvappend_last_error_message, a signal handler in it that runs plans allocates no memory,
// even if a run fails. The library is loaded by dlopen. The C library then allocates a thread's message when it is
// first used.
#include "../../support/hooks/hooks.hpp"
#include "loaded.hpp"

#include <csignal>
#include <cstdint>
#include <thread>

namespace {

Library library;
kvappend_plan *plan;
std::uint64_t calls_in_handler;

void handle(int /*signal*/) {
    const std::uint64_t before = hooked_calls();
    append(*library.api, plan);
    REQUIRE(library.api->plan_run(plan, nullptr, nullptr, 0, nullptr) == KVAPPEND_ERROR_NULL_ARGUMENT);
    calls_in_handler = hooked_calls() - before;
}

// The number of allocations that the handler makes in a new thread.
std::uint64_t calls_in_thread(bool asks_first) {
    std::thread([asks_first] {
        if (asks_first) {
            library.api->last_error_message();
        }
        REQUIRE(std::raise(SIGUSR1) == 0);
    }).join();
    return calls_in_handler;
}

} // namespace

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    library = load(argv[1]);
    plan = create(*library.api, 0);
    struct sigaction action {};
    action.sa_handler = handle;
    REQUIRE(sigaction(SIGUSR1, &action, nullptr) == 0);
    // Otherwise the test would not notice an allocation.
    REQUIRE(calls_in_thread(false) > 0);
    REQUIRE(calls_in_thread(true) == 0);
    REQUIRE(library.api->plan_destroy(plan) == KVAPPEND_SUCCESS);
    return EXIT_SUCCESS;
}
