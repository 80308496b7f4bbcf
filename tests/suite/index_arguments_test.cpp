// SPDX-License-Identifier: Apache-2.0
// The arrays of indices and the report among the arguments: each that is needed is checked as the tensors are, and
// nothing is written by a refused call.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

// An argument, by where its pointer and its size are in the struct.
struct Argument {
    const char *name;
    std::size_t pointer;
    std::size_t bytes;
};

#define ARGUMENT(name)                                                                                                 \
    { #name, offsetof(kvappend_args, name), offsetof(kvappend_args, name##_bytes) }
constexpr Argument arguments[] = {ARGUMENT(k_new),       ARGUMENT(v_new),       ARGUMENT(k_cache),
                                  ARGUMENT(v_cache),     ARGUMENT(slots),       ARGUMENT(lengths),
                                  ARGUMENT(left_pads),   ARGUMENT(batch_index), ARGUMENT(page_table),
                                  ARGUMENT(page_indptr), ARGUMENT(report),      ARGUMENT(cache_offsets)};
constexpr std::size_t first_index = 4; // of those that are no tensors

// What a descriptor needs of an argument.
struct Need {
    const char *name;
    std::size_t bytes;
    std::size_t alignment;
};

struct Requirements {
    const char *name;
    kvappend_descriptor descriptor;
    std::vector<Need> needs;
};

kvappend_descriptor ordinary(std::int32_t addressing) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.addressing = addressing;
    d.batch = 3;
    d.heads = 2;
    d.new_rows = 4;
    d.cache_rows = 5;
    d.k_dim = d.v_dim = 4;
    return d;
}

std::vector<Requirements> requirements() {
    std::vector<Requirements> all;
    kvappend_descriptor d = ordinary(KVAPPEND_ADDRESSING_DENSE);
    d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    d.flags = KVAPPEND_FLAG_LEFT_PADS | KVAPPEND_FLAG_BATCH_INDEX;
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    all.push_back({"dense, with lengths, pads, blocks and a report",
                   d,
                   {{"cache_offsets", 24, 8},
                    {"lengths", 12, 4},
                    {"left_pads", 12, 4},
                    {"batch_index", 12, 4},
                    {"report", sizeof(kvappend_report), 8}}});
    d = ordinary(KVAPPEND_ADDRESSING_RING);
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.flags = KVAPPEND_FLAG_BATCH_INDEX | KVAPPEND_FLAG_ZERO_OFFSETS | KVAPPEND_FLAG_LEFT_PADS;
    all.push_back(
        {"a ring, packed, without offsets", d, {{"lengths", 16, 4}, {"left_pads", 12, 4}, {"batch_index", 12, 4}}});
    d = ordinary(KVAPPEND_ADDRESSING_PAGED);
    d.offset_type = KVAPPEND_OFFSET_INT32;
    d.cache_blocks = 6;
    d.table_entries = 2;
    d.flags = KVAPPEND_FLAG_ADVANCE;
    all.push_back({"pages, advancing", d, {{"cache_offsets", 12, 4}, {"page_table", 24, 4}}});
    d = ordinary(KVAPPEND_ADDRESSING_PAGED_CSR);
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    d.cache_blocks = 6;
    d.table_entries = 5;
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    d.flags = KVAPPEND_FLAG_RESET_REPORT;
    all.push_back({"lists of pages, packed, with a report",
                   d,
                   {{"cache_offsets", 24, 8},
                    {"lengths", 16, 4},
                    {"page_table", 20, 4},
                    {"page_indptr", 16, 4},
                    {"report", sizeof(kvappend_report), 8}}});
    d = ordinary(KVAPPEND_ADDRESSING_SLOTS);
    d.batch = 1;
    d.cache_blocks = 6;
    all.push_back({"slots of int64", d, {{"slots", 32, 8}}});
    d.offset_type = KVAPPEND_OFFSET_INT32;
    d.skip_policy = KVAPPEND_SKIP_TRAP;
    all.push_back({"slots of int32, with a trap", d, {{"slots", 16, 4}}});
    return all;
}

// A call with all the arguments that are required, each in a piece of one block, and random bytes everywhere.
class Call {
public:
    explicit Call(const Requirements &required) : plan_(make_plan(required.descriptor)) {
        std::mt19937 random;
        std::ranges::generate(bytes_, [&] { return static_cast<unsigned char>(random()); });
        subject().upload(block_, bytes_.data(), bytes_.size());
        for (std::size_t i = 0; i < std::size(arguments); ++i) {
            set(arguments[i], i < first_index ? block_ + i * piece : nullptr, 0);
        }
        for (const Need &need : required.needs) {
            set(argument(need), block_ + static_cast<std::size_t>(&argument(need) - arguments) * piece, need.bytes);
        }
    }
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;
    ~Call() { subject().release(block_); }

    static constexpr std::size_t piece = 2048;

    static const Argument &argument(const Need &need) {
        return *std::ranges::find_if(arguments, [&](const Argument &a) { return std::strcmp(a.name, need.name) == 0; });
    }
    void set(const Argument &argument, unsigned char *pointer, std::size_t bytes) {
        std::memcpy(reinterpret_cast<unsigned char *>(&args) + argument.pointer, &pointer, sizeof pointer);
        std::memcpy(reinterpret_cast<unsigned char *>(&args) + argument.bytes, &bytes, sizeof bytes);
    }
    unsigned char *get(const Argument &argument) const {
        unsigned char *pointer = nullptr;
        std::memcpy(&pointer, reinterpret_cast<const unsigned char *>(&args) + argument.pointer, sizeof pointer);
        return pointer;
    }
    void check_accepted() const { CHECK(told(kvappend_plan_can_implement(plan_.get(), &args)) == "KVAPPEND_SUCCESS"); }
    // By can_implement and run alike.
    void check_refused(kvappend_status expected, const std::string &words) const {
        const auto check = [&](kvappend_status status) {
            const std::string message = kvappend_last_error_message();
            INFO(kvappend_status_name(status) << ": " << message << " lacks " << words);
            CHECK(status == expected);
            CHECK(message.find(words) != std::string::npos);
            kvappend_plan_workspace_size(nullptr, nullptr); // for another message
        };
        check(kvappend_plan_can_implement(plan_.get(), &args));
        check(kvappend_plan_run(plan_.get(), &args, nullptr, 0, subject().stream()));
        subject().synchronize();
        std::vector<unsigned char> found(bytes_.size());
        subject().download(found.data(), block_, found.size());
        CHECK(found == bytes_);
    }

    kvappend_args args = KVAPPEND_ARGS_INIT;

private:
    PlanPointer plan_;
    std::vector<unsigned char> bytes_ = std::vector<unsigned char>(std::size(arguments) * piece);
    unsigned char *block_ = static_cast<unsigned char *>(subject().allocate(bytes_.size()));
};

bool is_written(const Requirements &required, const Need &need) {
    return std::strcmp(need.name, "report") == 0 ||
           (std::strcmp(need.name, "cache_offsets") == 0 && (required.descriptor.flags & KVAPPEND_FLAG_ADVANCE) != 0);
}

template <class Function>
void for_each_need(Function function) {
    for (const Requirements &required : requirements()) {
        for (const Need &need : required.needs) {
            INFO(required.name << ": " << need.name);
            Call call(required);
            call.check_accepted();
            function(call, need, Call::argument(need));
        }
    }
}

} // namespace

TEST_CASE("arrays of indices and reports that are NULL, too small or misaligned are refused by name", "[addressing]") {
    for_each_need([](Call &call, const Need &need, const Argument &argument) {
        const std::string name = std::string("args.") + need.name;
        unsigned char *const good = call.get(argument);
        call.set(argument, nullptr, need.bytes);
        call.check_refused(KVAPPEND_ERROR_NULL_BUFFER, name + " is NULL");
        call.set(argument, nullptr, 0);
        call.check_refused(KVAPPEND_ERROR_NULL_BUFFER, name + " is NULL");
        for (const std::size_t bytes : {std::size_t{1}, need.bytes - 1}) {
            call.set(argument, good, bytes);
            call.check_refused(KVAPPEND_ERROR_BUFFER_TOO_SMALL, name + "_bytes is " + std::to_string(bytes));
        }
        for (const std::size_t bytes : {std::size_t{0}, need.bytes, need.bytes + 1, SIZE_MAX}) {
            call.set(argument, good, bytes);
            call.check_accepted();
        }
        for (std::size_t shift = 1; shift < need.alignment; ++shift) {
            call.set(argument, good + shift, 0);
            call.check_refused(KVAPPEND_ERROR_MISALIGNED, name + " is ");
        }
        call.set(argument, good + need.alignment, 0);
        call.check_accepted();
        call.set(argument, reinterpret_cast<unsigned char *>(UINTPTR_MAX - 7), 0);
        call.check_refused(KVAPPEND_ERROR_BUFFER_TOO_SMALL, name + " is ");
    });
}

TEST_CASE("arrays of indices and reports that share memory with a cache are refused", "[addressing]") {
    for_each_need([](Call &call, const Need &need, const Argument &argument) {
        const auto step = static_cast<std::ptrdiff_t>(need.alignment);
        const auto bytes = static_cast<std::ptrdiff_t>((need.bytes + need.alignment - 1) / need.alignment) * step;
        for (const Argument &cache : {arguments[2], arguments[3]}) {
            // Inside the cache, which starts where its piece does, and over its first bytes; then just before it.
            for (const std::ptrdiff_t shift : {std::ptrdiff_t{0}, 2 * step, step - bytes}) {
                call.set(argument, call.get(cache) + shift, need.bytes);
                call.check_refused(KVAPPEND_ERROR_ALIAS, std::string("args.") + need.name);
                call.check_refused(KVAPPEND_ERROR_ALIAS, std::string("args.") + cache.name);
            }
            call.set(argument, call.get(cache) - bytes, need.bytes);
            call.check_accepted();
        }
    });
}

TEST_CASE("a report, and offsets that advance, share no memory with any other buffer", "[addressing]") {
    for (const Requirements &required : requirements()) {
        for (const Need &written : required.needs) {
            if (!is_written(required, written)) {
                continue;
            }
            const Argument &argument = Call::argument(written);
            Call call(required);
            const auto check = [&](const Argument &other) {
                INFO(required.name << ": " << written.name << " and " << other.name);
                call.set(argument, call.get(other), written.bytes);
                call.check_refused(KVAPPEND_ERROR_ALIAS, std::string("args.") + written.name);
                call.check_refused(KVAPPEND_ERROR_ALIAS, std::string("args.") + other.name);
                call.set(argument, call.get(other) - (written.bytes + 7) / 8 * 8, written.bytes);
                call.check_accepted();
            };
            for (std::size_t tensor = 0; tensor < first_index; ++tensor) {
                check(arguments[tensor]);
            }
            for (const Need &need : required.needs) {
                if (need.name != written.name) {
                    check(Call::argument(need));
                }
            }
        }
    }
}

TEST_CASE("arrays that are only read may share memory with each other and with new tensors", "[addressing]") {
    for (const Requirements &required : requirements()) {
        Call call(required);
        for (const Need &need : required.needs) {
            const bool written =
                std::strcmp(need.name, "report") == 0 || (std::strcmp(need.name, "cache_offsets") == 0 &&
                                                          (required.descriptor.flags & KVAPPEND_FLAG_ADVANCE) != 0);
            if (!written) {
                call.set(Call::argument(need), call.get(arguments[0]), need.bytes);
            }
        }
        call.check_accepted();
    }
}

TEST_CASE("arrays without entries, and all where there is nothing to do, may be NULL", "[addressing]") {
    for (const Requirements &required : requirements()) {
        INFO(required.name);
        for (std::int64_t kvappend_descriptor::*const extent :
             {&kvappend_descriptor::batch, &kvappend_descriptor::heads, &kvappend_descriptor::new_rows,
              &kvappend_descriptor::cache_rows}) {
            kvappend_descriptor d = required.descriptor;
            if (d.addressing == KVAPPEND_ADDRESSING_SLOTS && extent == &kvappend_descriptor::batch) {
                continue; // There are no samples to have none of.
            }
            d.*extent = 0;
            const PlanPointer plan = make_plan(d);
            const kvappend_args none = KVAPPEND_ARGS_INIT;
            CHECK(told(kvappend_plan_can_implement(plan.get(), &none)) == "KVAPPEND_SUCCESS");
            CHECK(told(kvappend_plan_run(plan.get(), &none, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        }
    }
    for (Requirements required : requirements()) {
        if (required.descriptor.table_entries == 0) {
            continue;
        }
        INFO(required.name);
        required.descriptor.table_entries = 0;
        // Without entries, a stride between the samples' entries needs no memory either.
        required.descriptor.table_stride = required.descriptor.addressing == KVAPPEND_ADDRESSING_PAGED ? 5 : 0;
        Call call(required);
        call.args.page_table = nullptr;
        call.args.page_table_bytes = 0;
        call.check_accepted();
    }
}

TEST_CASE("the tensors of a cache of other blocks than samples have its size", "[addressing]") {
    for (const Requirements &required : requirements()) {
        INFO(required.name);
        Call call(required);
        const bool of_samples = required.descriptor.addressing <= KVAPPEND_ADDRESSING_RING;
        const std::size_t blocks = of_samples ? 3 : 6;
        for (const Argument &cache : {arguments[2], arguments[3]}) {
            unsigned char *const good = call.get(cache);
            call.set(cache, good, blocks * 2 * 5 * 4 * 4);
            call.check_accepted();
            call.set(cache, good, blocks * 2 * 5 * 4 * 4 - 1);
            call.check_refused(KVAPPEND_ERROR_BUFFER_TOO_SMALL, std::string("args.") + cache.name);
            call.set(cache, good, 0);
        }
        const bool tokens = required.descriptor.addressing == KVAPPEND_ADDRESSING_SLOTS ||
                            required.descriptor.lengths == KVAPPEND_LENGTHS_PACKED;
        const std::size_t bytes = (tokens ? 1 : 3) * std::size_t{2} * 4 * 4 * 4;
        call.set(arguments[0], call.get(arguments[0]), bytes);
        call.check_accepted();
        call.set(arguments[0], call.get(arguments[0]), bytes - 1);
        call.check_refused(KVAPPEND_ERROR_BUFFER_TOO_SMALL, "args.k_new");
    }
}
