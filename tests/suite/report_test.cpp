// SPDX-License-Identifier: Apache-2.0
// What the report tells, in numbers written down by hand; what a trap forbids; and what advances beside them.
#include "every_way.hpp"
#include "plan.hpp"

#include <catch2/generators/catch_generators.hpp>

#include <cstring>

namespace {

// Buffers of a plan with a report, which stay from run to run.
class Reporting {
public:
    explicit Reporting(const kvappend_descriptor &d) : plan_(make_plan(with_backend(d))) {
        args.k_new = allocate(1 << 16);
        args.v_new = allocate(1 << 16);
        args.k_cache = allocate(1 << 16);
        args.v_cache = allocate(1 << 16);
        args.cache_offsets = offsets_ = allocate(64);
        args.slots = slots_ = allocate(128);
        args.batch_index = static_cast<const std::int32_t *>(index_ = allocate(64));
        args.lengths = static_cast<const std::int32_t *>(lengths_ = allocate(64));
        args.report = static_cast<kvappend_report *>(allocate(sizeof(kvappend_report)));
    }
    Reporting(const Reporting &) = delete;
    Reporting &operator=(const Reporting &) = delete;
    ~Reporting() {
        for (void *const pointer : allocated_) {
            subject().release(pointer);
        }
    }

    template <class T>
    static void put(void *to, const std::vector<T> &values) {
        subject().upload(to, values.data(), values.size() * sizeof(T));
    }
    void put_offsets(const std::vector<std::int64_t> &values) { put(offsets_, values); }
    void put_slots(const std::vector<std::int64_t> &values) { put(slots_, values); }
    void put_batch_index(const std::vector<std::int32_t> &values) { put(index_, values); }
    void put_lengths(const std::vector<std::int32_t> &values) { put(lengths_, values); }
    void put_report(const kvappend_report &report) { subject().upload(args.report, &report, sizeof report); }

    kvappend_status try_run() const {
        const kvappend_status status = kvappend_plan_run(plan_.get(), &args, nullptr, 0, subject().stream());
        subject().synchronize();
        return status;
    }
    void run() const { REQUIRE(told(try_run()) == "KVAPPEND_SUCCESS"); }
    kvappend_report report() const {
        kvappend_report found{};
        subject().download(&found, args.report, sizeof found);
        return found;
    }
    std::vector<std::int64_t> offsets(std::size_t count) const {
        std::vector<std::int64_t> found(count);
        subject().download(found.data(), offsets_, count * sizeof found[0]);
        return found;
    }
    std::vector<unsigned char> caches() const {
        std::vector<unsigned char> found(2 << 16);
        subject().download(found.data(), args.k_cache, 1 << 16);
        subject().download(found.data() + (1 << 16), args.v_cache, 1 << 16);
        return found;
    }

    kvappend_args args = KVAPPEND_ARGS_INIT;

private:
    PlanPointer plan_;
    std::vector<void *> allocated_;
    void *offsets_ = nullptr;
    void *slots_ = nullptr;
    void *index_ = nullptr;
    void *lengths_ = nullptr;

    static kvappend_descriptor with_backend(kvappend_descriptor d) {
        d.backend = subject().backend();
        return d;
    }
    // Of zeros, but for the new rows, which hold ones: so that a written row shows.
    void *allocate(std::size_t bytes) {
        const std::vector<unsigned char> values(bytes, allocated_.size() < 2 ? 1 : 0);
        void *const pointer = subject().allocate(bytes);
        subject().upload(pointer, values.data(), bytes);
        allocated_.push_back(pointer);
        return pointer;
    }
};

kvappend_descriptor reporting(std::int32_t addressing, std::int64_t batch, std::int64_t new_rows,
                              std::int64_t cache_rows, std::int32_t flags = 0) {
    kvappend_descriptor d = appending(addressing, batch, new_rows, cache_rows).descriptor;
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    d.flags = flags;
    return d;
}

struct Counts {
    std::int64_t written, replaced, padding, below, above;
};

void check_counts(const kvappend_report &report, const Counts &counts) {
    CHECK(report.rows_written == counts.written);
    CHECK(report.rows_replaced == counts.replaced);
    CHECK(report.rows_padding == counts.padding);
    CHECK(report.rows_below == counts.below);
    CHECK(report.rows_above == counts.above);
}

void check_first(const kvappend_report &report, std::int64_t sample, std::int64_t row, std::int64_t position) {
    CHECK(report.first_sample == sample);
    CHECK(report.first_row == row);
    CHECK(report.first_position == position);
}

} // namespace

TEST_CASE("a row counts once, with all its heads of K and of V", "[report]") {
    for (const std::int64_t heads : {1, 2, 64}) {
        kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_DENSE, 3, 4, 5, KVAPPEND_FLAG_COUNT_WRITTEN);
        d.heads = heads;
        Reporting r(d);
        r.put_offsets({-1, 0, 3});
        r.run();
        check_counts(r.report(), {3 + 4 + 2, 0, 0, 1, 2});
        check_first(r.report(), 0, 0, -1);
    }
}

TEST_CASE("written rows are counted only where that is asked for", "[report]") {
    Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 3, 4, 5));
    r.put_offsets({-1, 0, 3});
    r.run();
    check_counts(r.report(), {0, 0, 0, 1, 2});
}

TEST_CASE("where every row has its place, nothing is reported first", "[report]") {
    Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 3, 2, 5, KVAPPEND_FLAG_COUNT_WRITTEN));
    r.put_offsets({0, 1, 3});
    r.run();
    check_counts(r.report(), {6, 0, 0, 0, 0});
    check_first(r.report(), 0, 0, 0);
}

TEST_CASE("runs add to a report, and the first row stays that of the first run that had any", "[report]") {
    Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 3, 4, 5, KVAPPEND_FLAG_COUNT_WRITTEN));
    r.put_offsets({0, 0, 1});
    r.run();
    check_counts(r.report(), {12, 0, 0, 0, 0});
    check_first(r.report(), 0, 0, 0);
    r.put_offsets({0, 3, -2});
    r.run();
    check_counts(r.report(), {12 + 4 + 2 + 2, 0, 0, 2, 2});
    check_first(r.report(), 1, 2, 5);
    // An earlier row of a later run is not the first one.
    r.put_offsets({-4, 4, 1});
    r.run();
    check_counts(r.report(), {20 + 0 + 1 + 4, 0, 0, 2 + 4, 2 + 3});
    check_first(r.report(), 1, 2, 5);
}

TEST_CASE("a report that is reset tells of its run alone, whatever it held", "[report]") {
    Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 3, 4, 5, KVAPPEND_FLAG_RESET_REPORT));
    kvappend_report garbage;
    std::memset(&garbage, 0xa5, sizeof garbage);
    garbage.struct_size = 1234;
    r.put_report(garbage);
    r.put_offsets({0, 3, -2});
    r.run();
    check_counts(r.report(), {0, 0, 0, 2, 2});
    check_first(r.report(), 1, 2, 5);
    CHECK(r.report().struct_size == 1234);
    r.put_offsets({-1, 0, 0});
    r.run();
    check_counts(r.report(), {0, 0, 0, 1, 0});
    check_first(r.report(), 0, 0, -1);
    r.put_offsets({0, 0, 0});
    r.run();
    check_counts(r.report(), {0, 0, 0, 0, 0});
    check_first(r.report(), 0, 0, 0);
    CHECK(r.report().struct_size == 1234);
}

TEST_CASE("a report that the caller sets to zero begins anew", "[report]") {
    Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 2, 4, 5));
    for (const std::int64_t sample : {1, 0, 1}) {
        r.put_report(kvappend_report{});
        r.put_offsets({sample == 0 ? 2 : 0, sample == 1 ? 2 : 0});
        r.run();
        check_counts(r.report(), {0, 0, 0, 0, 1});
        check_first(r.report(), sample, 3, 5);
    }
}

TEST_CASE("the first row is that of the least sample and in it the least row", "[report]") {
    const std::int64_t batch = 7;
    Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, batch, 40, 50, KVAPPEND_FLAG_RESET_REPORT));
    for (std::int64_t sample = 0; sample < batch; ++sample) {
        std::vector<std::int64_t> offsets(batch, 0);
        for (std::int64_t b = sample; b < batch; ++b) {
            offsets[static_cast<std::size_t>(b)] = b % 2 == 0 ? 13 + b : -b;
        }
        r.put_offsets(offsets);
        r.run();
        const bool above = sample % 2 == 0;
        check_first(r.report(), sample, above ? 37 - sample : 0, above ? 50 : -sample);
    }
}

TEST_CASE("the first row of very many is found", "[report]") {
    // Enough rows for many blocks of threads, of which the skipped ones lie at the end.
    kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_DENSE, 1, 5000, 4990, KVAPPEND_FLAG_COUNT_WRITTEN);
    d.heads = 1;
    d.k_dim = 4;
    d.v_dim = 0;
    Reporting r(d);
    r.put_offsets({-3});
    r.run();
    check_counts(r.report(), {4990, 0, 0, 3, 7});
    check_first(r.report(), 0, 0, -3);
    r.put_report(kvappend_report{});
    r.put_offsets({0});
    r.run();
    check_counts(r.report(), {4990, 0, 0, 0, 10});
    check_first(r.report(), 0, 4990, 4990);
}

TEST_CASE("positions are told as far as 63 bits can say them", "[report]") {
    Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 2, 4, 5, KVAPPEND_FLAG_RESET_REPORT));
    const struct {
        std::int64_t offset;
        std::int64_t position;
    } extremes[] = {{most64, most64}, {most64 - 2, most64 - 2}, {least64, least64}, {5, 5}, {-4, -4}};
    for (const auto &extreme : extremes) {
        r.put_offsets({0, extreme.offset});
        r.run();
        check_first(r.report(), 1, 0, extreme.position);
        const bool below = extreme.offset < 0;
        check_counts(r.report(), {0, 0, 0, below ? 4 : 0, below ? 0 : 4});
    }
}

TEST_CASE("positions up to and beyond INT64_MAX lie above the cache", "[report]") {
    Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 1, 4, 5));
    r.put_offsets({most64 - 2});
    r.run();
    check_counts(r.report(), {0, 0, 0, 0, 4});
    check_first(r.report(), 0, 0, most64 - 2);
}

TEST_CASE("a left-out sample keeps its offset, so that it stays left out", "[report]") {
    SECTION("by its offset") {
        Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 4, 2, 5, KVAPPEND_FLAG_ADVANCE));
        r.put_offsets({-2, -1, least64, 0});
        const std::vector<unsigned char> before = r.caches();
        r.run();
        CHECK(r.offsets(4) == std::vector<std::int64_t>{-2, 1, least64, 2});
        r.run();
        CHECK(r.offsets(4) == std::vector<std::int64_t>{-2, 3, least64, 4});
        CHECK(r.caches() != before);
    }
    SECTION("by its batch index") {
        Reporting r(reporting(KVAPPEND_ADDRESSING_DENSE, 3, 2, 5, KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_BATCH_INDEX));
        r.put_offsets({1, 2, 3});
        r.put_batch_index({1, -1, 0});
        r.run();
        CHECK(r.offsets(3) == std::vector<std::int64_t>{3, 2, 5});
    }
}

TEST_CASE("slots are told by token and slot", "[report]") {
    kvappend_descriptor d =
        reporting(KVAPPEND_ADDRESSING_SLOTS, 1, 8, 4, KVAPPEND_FLAG_RESERVED_SLOT | KVAPPEND_FLAG_COUNT_WRITTEN);
    d.cache_blocks = 3;
    Reporting r(d);
    r.put_slots({0, -1, 5, 0, 11, 13, 12, -7});
    r.run();
    check_counts(r.report(), {2, 0, 4, 0, 2});
    check_first(r.report(), 0, 5, 13);
}

TEST_CASE("rows that a ring replaces are counted as such, and are not at fault", "[report]") {
    kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_RING, 3, 9, 4, KVAPPEND_FLAG_COUNT_WRITTEN);
    d.sink_rows = 1;
    Reporting r(d);
    r.put_offsets({0, 10, -2});
    r.run();
    // Row 0 is the first sample's sink; of the third sample two rows are below, and one is its sink.
    check_counts(r.report(), {4 + 3 + 4, 5 + 6 + 3, 0, 2, 0});
    check_first(r.report(), 2, 0, -2);
}

TEST_CASE("padding and samples left out are counted as padding, and are not at fault", "[report]") {
    kvappend_descriptor d =
        reporting(KVAPPEND_ADDRESSING_DENSE, 4, 5, 6, KVAPPEND_FLAG_BATCH_INDEX | KVAPPEND_FLAG_COUNT_WRITTEN);
    d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    Reporting r(d);
    r.put_offsets({0, 0, -1, 4});
    r.put_lengths({5, 3, 2, 4});
    r.put_batch_index({-1, 2, 4, 0});
    r.run();
    // Sample 0 is left out. Sample 2 has no block: its first row is below it all the same, its second above.
    check_counts(r.report(), {3 + 2, 0, 5 + 2 + 3 + 1, 1, 1 + 2});
    check_first(r.report(), 2, 0, -1);
}

TEST_CASE("packed rows are told by their sample, and those of none are padding", "[report]") {
    kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_DENSE, 3, 12, 4, KVAPPEND_FLAG_COUNT_WRITTEN);
    d.lengths = KVAPPEND_LENGTHS_PACKED;
    Reporting r(d);
    r.put_offsets({1, 77, 2});
    r.put_lengths({2, 5, 5, 10});
    r.run();
    check_counts(r.report(), {3 + 2, 0, 2 + 2, 0, 3});
    check_first(r.report(), 2, 2, 4);
}

TEST_CASE("offsets advance with a report, and no row is told by an advanced one", "[report]") {
    kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_DENSE, 3, 4, 5, KVAPPEND_FLAG_ADVANCE);
    Reporting r(d);
    r.put_offsets({0, 3, -2});
    r.run();
    check_counts(r.report(), {0, 0, 0, 2, 2});
    check_first(r.report(), 1, 2, 5);
    CHECK(r.offsets(3) == std::vector<std::int64_t>{4, 7, 2});
    r.run();
    check_counts(r.report(), {0, 0, 0, 2, 2 + 3 + 4 + 1});
    CHECK(r.offsets(3) == std::vector<std::int64_t>{8, 11, 6});
}

TEST_CASE("on the host a trap refuses a run before anything is written", "[report]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("On a device a trap ends the process' context.");
    }
    const std::int32_t advance = GENERATE(0, KVAPPEND_FLAG_ADVANCE);
    kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_DENSE, 3, 4, 5, advance);
    d.skip_policy = KVAPPEND_SKIP_TRAP;
    Reporting r(d);
    r.args.report = nullptr; // which a trap has no use for
    const std::vector<unsigned char> before = r.caches();
    for (const auto &offsets :
         {std::vector<std::int64_t>{0, 1, 2}, {0, -1, 1}, {most64, 0, 0}, {0, 0, least64}, {5, -4, 9}}) {
        r.put_offsets(offsets);
        CHECK(r.try_run() == KVAPPEND_ERROR_SKIPPED);
        const std::string message = kvappend_last_error_message();
        INFO(message);
        CHECK(!message.empty());
        CHECK(r.caches() == before);
        CHECK(r.offsets(3) == offsets);
    }
    r.put_offsets({0, 1, 1});
    r.run();
    CHECK(r.caches() != before);
    CHECK(r.offsets(3) == (advance != 0 ? std::vector<std::int64_t>{4, 5, 5} : std::vector<std::int64_t>{0, 1, 1}));
}

TEST_CASE("on the host a trap lets padding and replaced rows pass", "[report]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("On a device a trap ends the process' context.");
    }
    SECTION("padded samples, and one left out") {
        kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_DENSE, 3, 4, 5, KVAPPEND_FLAG_BATCH_INDEX);
        d.skip_policy = KVAPPEND_SKIP_TRAP;
        d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
        Reporting r(d);
        r.put_offsets({4, 77, 3});
        r.put_lengths({1, 4, 2});
        r.put_batch_index({2, -1, 0});
        r.run();
        r.put_batch_index({2, 1, 0});
        CHECK(r.try_run() == KVAPPEND_ERROR_SKIPPED);
        r.put_batch_index({2, 3, 0});
        CHECK(r.try_run() == KVAPPEND_ERROR_SKIPPED);
    }
    SECTION("slots of padding") {
        kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_SLOTS, 1, 5, 4, KVAPPEND_FLAG_RESERVED_SLOT);
        d.skip_policy = KVAPPEND_SKIP_TRAP;
        d.cache_blocks = 2;
        Reporting r(d);
        r.put_slots({0, 3, -1, 7, least64});
        r.run();
        r.put_slots({0, 3, -1, 8, 1});
        CHECK(r.try_run() == KVAPPEND_ERROR_SKIPPED);
    }
    SECTION("rows that a ring replaces") {
        kvappend_descriptor d = reporting(KVAPPEND_ADDRESSING_RING, 1, 9, 4);
        d.skip_policy = KVAPPEND_SKIP_TRAP;
        Reporting r(d);
        r.put_offsets({1000});
        r.run();
        r.put_offsets({-1});
        CHECK(r.try_run() == KVAPPEND_ERROR_SKIPPED);
    }
}

TEST_CASE("reports of every addressing, over many runs", "[report]") {
    auto random = seeded_random();
    Scenario scenario = appending(GENERATE(KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING), 5, 7, 6);
    scenario.descriptor.skip_policy = KVAPPEND_SKIP_REPORT;
    scenario.descriptor.flags = KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_COUNT_WRITTEN;
    scenario.offsets = {-40, -3, 0, 4, most64 - 20};
    place_apart(scenario, 64, 64);
    check_scenario(scenario, random, 10);
}
