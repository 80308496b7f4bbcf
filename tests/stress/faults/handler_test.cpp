// SPDX-License-Identifier: Apache-2.0
// A signal handler that runs plans requests no memory, even if a run fails, once its thread has asked for its last
// error message. The library is loaded by dlopen, which leaves a thread's message to be allocated when it is first
// used.
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

// The requests for memory that the handler makes in a thread of its own.
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
    // Else the test would not notice a request.
    REQUIRE(calls_in_thread(false) > 0);
    REQUIRE(calls_in_thread(true) == 0);
    REQUIRE(library.api->plan_destroy(plan) == KVAPPEND_SUCCESS);
    return EXIT_SUCCESS;
}
