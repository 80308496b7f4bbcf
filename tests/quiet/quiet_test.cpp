// SPDX-License-Identifier: Apache-2.0
// A run allocates nothing, takes no lock and makes no system call. The calls are those of the benchmark; hooks count the
// first two, and the kernel itself forbids the third: in strict seccomp mode a process may read, write and end itself,
// and is killed by anything else.
#include "../../bench/call/calls.hpp"
#include "hooks.hpp"

#include <catch2/catch_test_macros.hpp>

#include <linux/seccomp.h>
#include <mutex>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

// What a child that may make no system call ends with when it has done this: 0, or the signal that killed it.
template <class Act>
int signal_in_strict_mode(Act act) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        act();
        syscall(SYS_exit, 0); // exit(3) would call exit_group(2), which is not allowed.
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

} // namespace

TEST_CASE("the hooks and the strict mode notice what they are for", "[quiet]") {
    const auto before = disturbances();
    delete new int;
    CHECK(disturbances() == before + 2);
    std::mutex mutex;
    mutex.lock();
    mutex.unlock();
    CHECK(disturbances() == before + 3);
    CHECK(signal_in_strict_mode([] { getppid(); }) == SIGKILL);
    CHECK(signal_in_strict_mode([] {}) == 0);
}

TEST_CASE("no call of the benchmark allocates, locks or enters the kernel", "[quiet]") {
    for (const Call &call : calls()) {
        INFO(call.name);
        const auto before = disturbances();
        call.make();
        CHECK(disturbances() == before);
        CHECK(signal_in_strict_mode([&] {
                  for (int i = 0; i < 1000; ++i) {
                      call.make();
                  }
              }) == 0);
    }
}
