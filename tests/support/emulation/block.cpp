// SPDX-License-Identifier: Apache-2.0
// Running the threads of a block, which may meet.
//
// The threads run one after the other on the stack of the host's thread. A thread that has to wait for others leaves
// its stack as it is, and the next ones run on a fiber. So a kernel whose threads do not meet never leaves the stack.
#include "fiber.hpp"
#include "internal.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>
#include <vector>

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace emulation::internal {

constinit thread_local bool waited_for_launch_before = false;

namespace {

constexpr unsigned warp_lanes = 32;

// Where threads wait for each other.
struct Meeting {
    const char *name;
    const char *file;
    int line;
    unsigned mask; // of the lanes that meet; 0 where all threads of the block do
    bool operator==(const Meeting &other) const {
        return mask == other.mask && line == other.line && std::strcmp(name, other.name) == 0 &&
               std::strcmp(file, other.file) == 0;
    }
};

std::string describe(const Meeting &meeting) {
    const char *const slash = std::strrchr(meeting.file, '/');
    std::array<char, 160> text{};
    std::snprintf(text.data(), text.size(), "%s at %s:%d", meeting.name, slash != nullptr ? slash + 1 : meeting.file,
                  meeting.line);
    std::string result = text.data();
    if (meeting.mask != 0) {
        std::snprintf(text.data(), text.size(), " with the mask 0x%x", meeting.mask);
        result += text.data();
    }
    return result;
}

struct Thread {
    enum class State {
        NotStarted,
        Running,
        Waiting,
        Ended
    };
    State state = State::NotStarted;
    Fiber *fiber = nullptr; // the rest is of a thread that waits, or did
    Meeting meeting{};
    unsigned long long value = 0; // what it brings
    int source = 0;               // whose value it gets
    unsigned long long result = 0;
    bool at(const Meeting &other) const { return state == State::Waiting && meeting == other; }
};

// Thrown through threads that wait when the kernel has ended.
struct Abandoned {};

class Block;
constinit thread_local Block *running = nullptr;
constinit thread_local Fiber host{};

class Block {
public:
    Block(dim3 extent, Order order, const detail::ThreadBody &body)
        : extent_(extent), count_(extent.x * extent.y * extent.z), walk_(extent, order), body_(body) {}

    void run() {
        start_threads();
        while (ended_ != started_) {
            go_on_elsewhere();
        }
        if (failure_) {
            std::rethrow_exception(failure_);
        }
    }

    unsigned long long meet(const Meeting &meeting, unsigned long long value, int source) {
        remember_threads();
        Thread &thread = threads_[number_of(threadIdx)];
        thread = {Thread::State::Waiting, fiber_, meeting, value, source, 0};
        if (!(meeting.mask == 0 ? complete_block(meeting) : complete_warp(meeting))) {
            const uint3 index = threadIdx;
            const bool waited = waited_for_launch_before;
            go_on_elsewhere();
            threadIdx = index;
            waited_for_launch_before = waited;
            if (failure_) {
                throw Abandoned{};
            }
        }
        return thread.result;
    }

private:
    // Runs the threads that have not been started. When it returns some may still wait, on other stacks.
    void start_threads() {
        while (!failure_ && walk_.next(threadIdx)) {
            ++started_;
            waited_for_launch_before = false;
            try {
                body_();
            } catch (const Abandoned &) { // NOLINT(bugprone-empty-catch): it has been unwound
            } catch (...) {
                fail(std::current_exception());
            }
            ++ended_;
            if (!threads_.empty()) {
                threads_[number_of(threadIdx)].state = Thread::State::Ended;
                release_warp();
            }
        }
    }

    // Releases the threads of the running one's warp that wait for no other thread, after it has ended.
    void release_warp() {
        const unsigned first = number_of(threadIdx) / warp_lanes * warp_lanes;
        for (unsigned number = first; number < count_ && number < first + warp_lanes; ++number) {
            if (const Thread &thread = threads_[number];
                thread.state == Thread::State::Waiting && thread.meeting.mask != 0) {
                complete_warp(thread.meeting);
            }
        }
    }

    static void serve() {
        Block &block = *running;
        block.start_threads();
        block.fiber_->give_back();
        block.go_on_elsewhere();
    }

    // To be called where the running fiber has nothing to do; returns when it has.
    void go_on_elsewhere() noexcept {
        Fiber &from = *fiber_;
        fiber_ = &next_fiber();
        if (fiber_ != &from) {
            from.switch_to(*fiber_);
        }
    }

    Fiber &next_fiber() {
        if (next_ready_ == ready_.size() && ended_ != started_ && (failure_ || !walk_.more())) {
            fail(std::make_exception_ptr(Fault{cudaErrorLaunchFailure, describe_stuck()}));
        }
        if (next_ready_ != ready_.size()) {
            return *ready_[next_ready_++];
        }
        return !failure_ && walk_.more() ? Fiber::take(serve) : host;
    }

    // Ends the kernel: those that wait go on in order to end.
    void fail(std::exception_ptr failure) {
        if (!failure_) {
            failure_ = std::move(failure);
        }
        for (Thread &thread : threads_) {
            if (thread.state == Thread::State::Waiting) {
                release(thread);
            }
        }
    }

    void release(Thread &thread) {
        thread.state = Thread::State::Running;
        if (next_ready_ == ready_.size()) {
            ready_.clear();
            next_ready_ = 0;
        }
        ready_.push_back(thread.fiber);
    }

    // Of threads before the first that meets nothing is known but that they have ended.
    void remember_threads() {
        if (threads_.empty()) {
            threads_.resize(count_);
            Walk before = walk_;
            before.restart();
            uint3 index{};
            for (unsigned i = 0; i < started_ && before.next(index); ++i) {
                threads_[number_of(index)].state = Thread::State::Ended;
            }
        }
    }

    // Releases the others if all have arrived.
    bool complete_block(const Meeting &meeting) {
        if (arrived_ == 0) {
            barrier_ = meeting;
        }
        arrived_ += meeting == barrier_ ? 1U : 0U;
        if (arrived_ != count_) {
            return false;
        }
        arrived_ = 0;
        for (Thread &thread : threads_) {
            release_other(thread);
        }
        return true;
    }

    // Lanes that have ended are not waited for (CUDA C++ Programming Guide, "Warp Shuffle Functions": all non-exited
    // threads named in the mask), and must not be read from.
    bool complete_warp(const Meeting meeting) {
        const unsigned first = number_of(threadIdx) / warp_lanes * warp_lanes;
        unsigned long long set = 0;
        unsigned present = 0;
        for (unsigned rest = meeting.mask; rest != 0; rest &= rest - 1) {
            const auto lane = static_cast<unsigned>(std::countr_zero(rest));
            if (first + lane >= count_) {
                return false;
            }
            const Thread &thread = threads_[first + lane];
            if (thread.state == Thread::State::Ended) {
                continue;
            }
            if (!thread.at(meeting)) {
                return false;
            }
            present |= 1U << lane;
            set |= thread.value != 0 ? 1ULL << lane : 0;
        }
        for (unsigned rest = present; rest != 0; rest &= rest - 1) {
            const Thread &thread = threads_[first + static_cast<unsigned>(std::countr_zero(rest))];
            if (thread.source >= 0 && (present >> thread.source & 1) == 0) {
                fail(std::make_exception_ptr(
                    Fault{cudaErrorLaunchFailure, describe(meeting) + " reads from a lane that has ended"}));
                return true;
            }
        }
        for (unsigned rest = present; rest != 0; rest &= rest - 1) {
            Thread &thread = threads_[first + static_cast<unsigned>(std::countr_zero(rest))];
            thread.result = thread.source < 0 ? set : threads_[first + static_cast<unsigned>(thread.source)].value;
            release_other(thread);
        }
        return true;
    }

    // The thread that completes a meeting goes on at once.
    void release_other(Thread &thread) {
        if (&thread == &threads_[number_of(threadIdx)]) {
            thread.state = Thread::State::Running;
        } else {
            release(thread);
        }
    }

    unsigned number_of(uint3 index) const { return (index.z * extent_.y + index.y) * extent_.x + index.x; }

    std::string describe_number(unsigned number) const {
        return describe_index({number % extent_.x, number / extent_.x % extent_.y, number / extent_.x / extent_.y});
    }

    // Says of a thread that waits in vain for whom it does: if there is one, for a thread that does not wait itself.
    std::string describe_stuck() const {
        unsigned waiting = count_;
        unsigned missing = count_;
        for (unsigned number = 0; number < count_; ++number) {
            if (threads_[number].state == Thread::State::Waiting) {
                const unsigned other = find_missing(number);
                const bool waits_too = other < count_ && threads_[other].state == Thread::State::Waiting;
                if (waiting == count_ || !waits_too) {
                    waiting = number;
                    missing = other;
                }
                if (!waits_too) {
                    break;
                }
            }
        }
        const std::string text = describe(threads_[waiting].meeting) + " is not reached by all: thread " +
                                 describe_number(waiting) + " of block " + describe_index(blockIdx) + " waits for ";
        if (missing == count_) {
            return text + "lanes that the block does not have";
        }
        return text + "thread " + describe_number(missing) +
               (threads_[missing].state == Thread::State::Ended
                    ? ", which has ended"
                    : ", which waits at " + describe(threads_[missing].meeting));
    }

    // The first thread that a waiting one waits for; count_ where the block has none such.
    unsigned find_missing(unsigned number) const {
        const Meeting &meeting = threads_[number].meeting;
        const unsigned first = meeting.mask == 0 ? 0 : number / warp_lanes * warp_lanes;
        unsigned missing = first;
        while (missing < count_ && (threads_[missing].at(meeting) || !takes_part(missing - first, meeting))) {
            ++missing;
        }
        return missing;
    }

    static bool takes_part(unsigned lane, const Meeting &meeting) {
        return meeting.mask == 0 || (lane < warp_lanes && (meeting.mask >> lane & 1) != 0);
    }

    const dim3 extent_;
    const unsigned count_;
    Walk walk_;
    const detail::ThreadBody &body_;
    unsigned started_ = 0;
    unsigned ended_ = 0;
    std::exception_ptr failure_;
    // What follows is used when threads meet.
    Fiber *fiber_ = &host;        // the running one
    std::vector<Thread> threads_; // by number
    std::vector<Fiber *> ready_;  // whose threads need not wait any longer
    std::size_t next_ready_ = 0;
    Meeting barrier_{}; // of the block, and how many threads wait there
    unsigned arrived_ = 0;
};

[[noreturn]] void refuse(const Meeting &meeting, const char *why) {
    throw Fault{cudaErrorLaunchFailure, describe(meeting) + " " + why + ", by " + running_thread()};
}

Block &running_block() {
    if (running == nullptr) {
        throw std::logic_error("threads meet outside a kernel");
    }
    return *running;
}

} // namespace

std::string describe_index(uint3 index) {
    return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}

std::string running_thread() {
    return "thread " + describe_index(threadIdx) + " of block " + describe_index(blockIdx);
}

void run_block(dim3 extent, Order order, const detail::ThreadBody &body) {
    Block block(extent, order, body);
    running = &block;
    const struct Leave {
        ~Leave() { running = nullptr; }
    } leave;
    block.run();
}

} // namespace emulation::internal

void emulation::detail::meet_block(const char *name, const char *file, int line) {
    internal::running_block().meet({name, file, line, 0}, 0, 0);
}

unsigned long long emulation::detail::meet_warp(const char *name, unsigned mask, unsigned long long value, int source,
                                                const char *file, int line) {
    const internal::Meeting meeting{name, file, line, mask};
    internal::Block &block = internal::running_block();
    if ((mask >> lane() & 1) == 0) {
        internal::refuse(meeting, "leaves out its own lane");
    }
    if (source >= 0 && (mask >> source & 1) == 0) {
        internal::refuse(meeting, "reads from a lane that it leaves out");
    }
    return block.meet(meeting, value, source);
}
