// SPDX-License-Identifier: Apache-2.0
#include "fiber.hpp"

#include <cstdint>
#include <new>

#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATION_ADDRESS_SANITIZER 1
#endif
#if __has_feature(thread_sanitizer)
#define EMULATION_THREAD_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(EMULATION_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define EMULATION_FOR_ADDRESS_SANITIZER(...) __VA_ARGS__
#else
#define EMULATION_FOR_ADDRESS_SANITIZER(...)
#endif
#if defined(__SANITIZE_THREAD__) || defined(EMULATION_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#define EMULATION_FOR_THREAD_SANITIZER(...) __VA_ARGS__
#else
#define EMULATION_FOR_THREAD_SANITIZER(...)
#endif

// Valgrind takes a jump to memory that it does not know as a stack for a fault.
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define VALGRIND_STACK_REGISTER(start, end) 0
#define VALGRIND_STACK_DEREGISTER(id)
#endif

// swapcontext() enters the kernel each time, for the mask of signals, and the address sanitizer warns of it. So where
// it is known how, the stack is switched by hand.
#if defined(__x86_64__)
extern "C" void emulation_switch_stack(void **left, void *reached);
asm(R"(
    .pushsection .text
    .type emulation_switch_stack, @function
emulation_switch_stack:
    .cfi_startproc
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .cfi_endproc
    .size emulation_switch_stack, . - emulation_switch_stack
    .popsection
)");
#else
#include <ucontext.h>
#endif

namespace emulation::internal {

namespace {

constexpr std::size_t guard_bytes = 64 * 1024; // a whole number of pages, whatever their size
constexpr std::size_t stack_bytes = 256 * 1024;

#if defined(__x86_64__)

void switch_stack(void **left, void *reached) {
    emulation_switch_stack(left, reached);
}

// What switch_stack() finds on a stack that is new: six registers, where to return to, and for that no caller.
void *prepare_stack(std::byte *bottom, std::size_t bytes, void (*begin)()) {
    auto **const top = reinterpret_cast<void **>(bottom + bytes);
    top[-2] = reinterpret_cast<void *>(begin);
    return top - 8;
}

#else

void switch_stack(void **left, void *reached) {
    ucontext_t here;
    *left = &here;
    swapcontext(&here, static_cast<ucontext_t *>(reached));
}

void *prepare_stack(std::byte *bottom, std::size_t bytes, void (*begin)()) {
    auto *const context = new (bottom) ucontext_t;
    getcontext(context);
    context->uc_stack.ss_sp = bottom + sizeof *context;
    context->uc_stack.ss_size = bytes - sizeof *context;
    context->uc_link = nullptr;
    makecontext(context, begin, 0);
    return context;
}

#endif

constinit thread_local Fiber *left = nullptr;    // the one that was left last
constinit thread_local Fiber *reached = nullptr; // the one that runs, unless no switch has been made

} // namespace

struct IdleFibers {
    Fiber *first = nullptr;
    IdleFibers() = default;
    IdleFibers(const IdleFibers &) = delete;
    IdleFibers &operator=(const IdleFibers &) = delete;
    ~IdleFibers() {
        while (first != nullptr) {
            Fiber &fiber = *first;
            first = fiber.next_idle_;
            fiber.unmap();
        }
    }
};

namespace {

thread_local IdleFibers idle;

} // namespace

Fiber::Fiber(std::byte *memory, void (*serve)())
    : bottom_(memory + guard_bytes), bytes_(stack_bytes), memory_(memory), serve_(serve) {
    position_ = prepare_stack(memory + guard_bytes, stack_bytes, begin);
    valgrind_stack_ = VALGRIND_STACK_REGISTER(memory + guard_bytes, memory + guard_bytes + stack_bytes);
    EMULATION_FOR_THREAD_SANITIZER(thread_sanitizer_ = __tsan_create_fiber(0);)
}

// The fiber itself is in the memory, above its stack: so nothing is taken from the allocator, whose failures and
// blocks tests count.
Fiber &Fiber::take(void (*serve)()) {
    if (idle.first != nullptr) {
        Fiber &fiber = *idle.first;
        idle.first = fiber.next_idle_;
        fiber.serve_ = serve;
        return fiber;
    }
    void *const memory = mmap(nullptr, guard_bytes + stack_bytes + sizeof(Fiber), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard_bytes, PROT_NONE) != 0) {
        throw std::bad_alloc();
    }
    auto *const bytes = static_cast<std::byte *>(memory);
    return *new (bytes + guard_bytes + stack_bytes) Fiber(bytes, serve);
}

void Fiber::give_back() {
    next_idle_ = idle.first;
    idle.first = this;
}

void Fiber::unmap() {
    VALGRIND_STACK_DEREGISTER(valgrind_stack_);
    EMULATION_FOR_THREAD_SANITIZER(__tsan_destroy_fiber(thread_sanitizer_);)
    // Whoever gets the addresses next must not find the marks of the frames that end here.
    EMULATION_FOR_ADDRESS_SANITIZER(__asan_unpoison_memory_region(bottom_, bytes_);)
    munmap(memory_, guard_bytes + stack_bytes + sizeof(Fiber));
}

void Fiber::switch_to(Fiber &to) {
    left = this;
    reached = &to;
    EMULATION_FOR_THREAD_SANITIZER(if (thread_sanitizer_ == nullptr) {
        thread_sanitizer_ = __tsan_get_current_fiber();
    } __tsan_switch_to_fiber(to.thread_sanitizer_, 0);)
    EMULATION_FOR_ADDRESS_SANITIZER(void *fake_stack = nullptr;
                                    __sanitizer_start_switch_fiber(&fake_stack, to.bottom_, to.bytes_);)
    switch_stack(&position_, to.position_);
    EMULATION_FOR_ADDRESS_SANITIZER(__sanitizer_finish_switch_fiber(fake_stack, &left->bottom_, &left->bytes_);)
}

void Fiber::begin() {
    EMULATION_FOR_ADDRESS_SANITIZER(__sanitizer_finish_switch_fiber(nullptr, &left->bottom_, &left->bytes_);)
    for (;;) {
        reached->serve_();
    }
}

} // namespace emulation::internal
