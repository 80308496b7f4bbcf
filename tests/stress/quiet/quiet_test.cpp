// SPDX-License-Identifier: Apache-2.0
// A run allocates nothing, takes no lock and makes no system call. The calls are those of the benchmark; hooks count
// the first two, and the kernel itself forbids the third: in strict seccomp mode a process may read, write and end
// itself, and is killed by anything else.
#include "../../../bench/call/calls.hpp"
#include "../../support/hooks/hooks.hpp"

#include <catch2/catch_test_macros.hpp>

#include <linux/seccomp.h>
#include <mutex>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr int no_such_mode = 99;

// What a child that may make no system call ends with when it has done this: 0, or the signal that killed it.
template <class Act>
int signal_in_strict_mode(Act act) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) {
            _exit(no_such_mode);
        }
        act();
        syscall(SYS_exit, 0); // exit(3) would call exit_group(2), which is not allowed.
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == no_such_mode) {
        SKIP("this system has no strict seccomp mode");
    }
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

} // namespace

TEST_CASE("the hooks and the strict mode notice what they are for", "[quiet]") {
    std::mutex mutex;
    const auto before = hooked_calls();
    ::operator delete(::operator new(1)); // An expression with new could be left out by the compiler.
    const auto allocated = hooked_calls();
    mutex.lock();
    mutex.unlock();
    const auto locked = hooked_calls();
    CHECK(allocated == before + 2);
    CHECK(locked == allocated + 1);
    CHECK(signal_in_strict_mode([] { getppid(); }) == SIGKILL);
    CHECK(signal_in_strict_mode([] {}) == 0);
}

TEST_CASE("no call of the benchmark allocates, locks or enters the kernel", "[quiet]") {
    for (const Call &call : calls()) {
        INFO(call.name);
        const auto before = hooked_calls();
        call.make();
        const auto after = hooked_calls();
        CHECK(after == before);
        CHECK(signal_in_strict_mode([&] {
                  for (int i = 0; i < 1000; ++i) {
                      call.make();
                  }
              }) == 0);
    }
}
