// SPDX-License-Identifier: Apache-2.0
// Several appends in one call: every one is done, none if one is refused, and counting and advancing come last.
#include "every_way.hpp"
#include "held.hpp"

#include <catch2/catch_test_macros.hpp>

#include <string>
#include <vector>

namespace {

// A dense step of f32 with one head, row 1 of each cache of two rows being the next.
struct Layer {
    static constexpr std::int64_t dim = 4;
    static kvappend_descriptor descriptor() {
        kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
        d.backend = subject().backend();
        d.batch = d.heads = d.new_rows = 1;
        d.cache_rows = 2;
        d.k_dim = dim;
        return d;
    }

    explicit Layer(std::uint32_t mark) : rows(std::vector<std::uint32_t>(dim, mark)) {
        args.k_new = rows.data();
        args.k_cache = cache.data();
        args.cache_offsets = offset.data();
    }
    bool written() const { return cache.holds(after()); }
    bool untouched() const { return cache.holds(std::vector<std::uint32_t>(2 * dim)); }

    Held<std::uint32_t> rows;
    Held<std::uint32_t> cache{std::vector<std::uint32_t>(2 * dim)};
    Held<std::int64_t> offset{std::vector<std::int64_t>(1, 1)};
    kvappend_args args = KVAPPEND_ARGS_INIT;

private:
    std::vector<std::uint32_t> after() const {
        std::vector<std::uint32_t> all(2 * dim);
        subject().download(all.data() + dim, rows.data(), rows.bytes());
        return all;
    }
};

kvappend_status run(const std::vector<const kvappend_plan *> &plans, const std::vector<const kvappend_args *> &args) {
    return kvappend_plan_run_layers(plans.data(), args.data(), plans.size(), nullptr, 0, subject().stream());
}

} // namespace

TEST_CASE("no layers are nothing to do", "[layers]") {
    CHECK(told(kvappend_plan_run_layers(nullptr, nullptr, 0, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
}

TEST_CASE("a layer that is refused is named, and nothing is written", "[layers]") {
    const PlanPointer plan = make_plan(Layer::descriptor());
    Layer first(1);
    Layer second(2);
    const auto check = [&](const std::vector<const kvappend_plan *> &plans,
                           const std::vector<const kvappend_args *> &args, kvappend_status expected, const char *text) {
        CHECK(run(plans, args) == expected);
        CHECK(std::string(kvappend_last_error_message()).find(text) == 0);
        CHECK(first.untouched());
        CHECK(second.untouched());
    };
    const kvappend_plan *const p = plan.get();
    CHECK(kvappend_plan_run_layers(nullptr, nullptr, 1, nullptr, 0, nullptr) == KVAPPEND_ERROR_NULL_ARGUMENT);
    CHECK(std::string(kvappend_last_error_message()).find("plans is NULL") == 0);
    CHECK(kvappend_plan_run_layers(&p, nullptr, 1, nullptr, 0, nullptr) == KVAPPEND_ERROR_NULL_ARGUMENT);
    CHECK(std::string(kvappend_last_error_message()).find("args is NULL") == 0);
    check({p, nullptr}, {&first.args, &second.args}, KVAPPEND_ERROR_NULL_ARGUMENT, "layer 1: plan is NULL");
    check({p, p}, {&first.args, nullptr}, KVAPPEND_ERROR_NULL_ARGUMENT, "layer 1: args is NULL");
    kvappend_args bad = second.args;
    bad.struct_size = 3;
    check({p, p}, {&first.args, &bad}, KVAPPEND_ERROR_STRUCT_SIZE, "layer 1: args.struct_size is 3");
    bad = second.args;
    bad.k_cache = nullptr;
    check({p, p}, {&first.args, &bad}, KVAPPEND_ERROR_NULL_BUFFER, "layer 1: args.k_cache is NULL");
    check({p, p}, {&bad, &first.args}, KVAPPEND_ERROR_NULL_BUFFER, "layer 0: args.k_cache is NULL");
    const std::vector<const kvappend_plan *> plans = {p, p};
    const std::vector<const kvappend_args *> args = {&first.args, &second.args};
    CHECK(kvappend_plan_run_layers(plans.data(), args.data(), 2, nullptr, 8, subject().stream()) ==
          KVAPPEND_ERROR_WORKSPACE);
    CHECK(first.untouched());

    CHECK(told(run(plans, args)) == "KVAPPEND_SUCCESS");
    CHECK(first.written());
    CHECK(second.written());
}

TEST_CASE("a struct of arguments from an older header serves a layer", "[layers]") {
    const PlanPointer plan = make_plan(Layer::descriptor());
    Layer layer(7);
    layer.args.struct_size = offsetof(kvappend_args, slots);
    CHECK(told(run({plan.get(), plan.get()}, {&layer.args, &layer.args})) == "KVAPPEND_SUCCESS");
    CHECK(layer.written());
}

TEST_CASE("all layers count in one report, and advance the offsets behind the last", "[layers]") {
    kvappend_descriptor d = Layer::descriptor();
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    d.flags = KVAPPEND_FLAG_COUNT_WRITTEN;
    const PlanPointer inner = make_plan(d);
    d.flags |= KVAPPEND_FLAG_ADVANCE;
    const PlanPointer last = make_plan(d);
    Layer a(1);
    Layer b(2);
    Layer scenario(3);
    const Held<kvappend_report> report{std::vector<kvappend_report>(1)};
    for (Layer *const layer : {&a, &b, &scenario}) {
        layer->args.cache_offsets = a.offset.data();
        layer->args.report = report.data();
    }
    // The one that advances comes first: even so it is the offsets from before by which all are placed and counted.
    const std::vector<const kvappend_plan *> plans = {last.get(), inner.get(), inner.get()};
    CHECK(told(run(plans, {&scenario.args, &a.args, &b.args})) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    CHECK(a.written());
    CHECK(b.written());
    CHECK(scenario.written());
    CHECK(a.offset.holds({2}));
    kvappend_report found;
    subject().download(&found, report.data(), sizeof found);
    CHECK(found.rows_written == 3);
    CHECK(found.rows_above == 0);
}

TEST_CASE("offsets that layers share advance once, and others by themselves", "[layers]") {
    kvappend_descriptor d = Layer::descriptor();
    d.flags = KVAPPEND_FLAG_ADVANCE;
    const PlanPointer plan = make_plan(d);
    d.flags = 0;
    const PlanPointer silent = make_plan(d);
    Layer a(1);
    Layer b(2);
    Layer c(3);
    Layer e(4);
    a.args.cache_offsets = b.args.cache_offsets = e.args.cache_offsets = b.offset.data();
    const kvappend_plan *const p = plan.get();
    CHECK(told(run({silent.get(), p, p, p}, {&a.args, &b.args, &c.args, &e.args})) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    for (const Layer *const layer : {&a, &b, &c, &e}) {
        CHECK(layer->written());
    }
    CHECK(a.offset.holds({1}));
    CHECK(b.offset.holds({2}));
    CHECK(c.offset.holds({2}));
}

TEST_CASE("a report that layers share is reset once, before any of them counts", "[layers]") {
    kvappend_descriptor d = Layer::descriptor();
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    d.flags = KVAPPEND_FLAG_COUNT_WRITTEN;
    const PlanPointer adding = make_plan(d);
    d.flags |= KVAPPEND_FLAG_RESET_REPORT;
    const PlanPointer resetting = make_plan(d);
    kvappend_report before{};
    before.struct_size = 77;
    before.rows_written = 100;
    before.rows_above = 5;
    const Held<kvappend_report> shared{std::vector<kvappend_report>{before}};
    const Held<kvappend_report> own{std::vector<kvappend_report>{before}};
    const Held<kvappend_report> kept{std::vector<kvappend_report>{before}};
    Layer a(1);
    Layer b(2);
    Layer c(3);
    Layer e(4);
    Layer f(5);
    b.offset.set({2}); // above the cache
    Layer silent(6);   // Its plan does not count, whatever its arguments name.
    const PlanPointer not_counting = make_plan(Layer::descriptor());
    silent.args.report = own.data();
    a.args.report = b.args.report = c.args.report = shared.data();
    e.args.report = own.data();
    f.args.report = kept.data();
    CHECK(told(run({adding.get(), resetting.get(), resetting.get(), not_counting.get(), resetting.get(), adding.get()},
                   {&a.args, &b.args, &c.args, &silent.args, &e.args, &f.args})) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    const auto check = [](const Held<kvappend_report> &report, std::int64_t written, std::int64_t above) {
        kvappend_report found;
        subject().download(&found, report.data(), sizeof found);
        CHECK(found.struct_size == 77);
        CHECK(found.rows_written == written);
        CHECK(found.rows_above == above);
    };
    check(shared, 2, 1);
    check(own, 1, 0);
    check(kept, 101, 5);
}

TEST_CASE("a row that the policy forbids stops all layers before anything is written", "[layers]") {
    if (subject().backend() != KVAPPEND_BACKEND_HOST) {
        SKIP("on a device a trap comes when the other rows have been written");
    }
    kvappend_descriptor d = Layer::descriptor();
    const PlanPointer silent = make_plan(d);
    d.skip_policy = KVAPPEND_SKIP_TRAP;
    const PlanPointer strict = make_plan(d);
    Layer first(1);
    Layer second(2);
    second.offset.set({2});
    CHECK(run({silent.get(), strict.get()}, {&first.args, &second.args}) == KVAPPEND_ERROR_SKIPPED);
    CHECK(std::string(kvappend_last_error_message()).find("layer 1: row 0 of sample 0") == 0);
    CHECK(first.untouched());
}

TEST_CASE("a layer with nothing to copy needs no buffer, whatever its policy", "[layers]") {
    kvappend_descriptor d = Layer::descriptor();
    d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
    d.skip_policy = KVAPPEND_SKIP_TRAP;
    d.k_dim = 0;
    const PlanPointer empty = make_plan(d);
    const PlanPointer plan = make_plan(Layer::descriptor());
    const Layer layer(1);
    const kvappend_args none = KVAPPEND_ARGS_INIT;
    CHECK(told(run({empty.get(), plan.get()}, {&none, &layer.args})) == "KVAPPEND_SUCCESS");
    subject().synchronize();
    CHECK(layer.written());
}

TEST_CASE("more layers and samples than a grid has room for", "[layers]") {
    auto random = seeded_random();
    std::vector<ScenarioLayer> layers;
    for (int i = 0; i < 100; ++i) {
        const bool ring = i % 3 == 0;
        ScenarioLayer layer = {appending(ring ? KVAPPEND_ADDRESSING_RING : KVAPPEND_ADDRESSING_DENSE, 500, 1, 2),
                               i < 3 ? -1 : i % 3};
        layer.scenario.descriptor.heads = 1;
        layer.scenario.offsets.assign(500, i % 3);
        place_apart(layer.scenario, 32, 32);
        if (i % 3 == 2) {
            layer.scenario.locations[k_new].start += 2; // Less aligned than the other layers of its geometry.
        }
        layers.push_back(layer);
    }
    check_layers(layers, random);
}

TEST_CASE("more layers times samples than a grid has blocks", "[layers]") {
    auto random = seeded_random();
    Scenario scenario = appending(KVAPPEND_ADDRESSING_DENSE, 900, 1, 1);
    kvappend_descriptor &d = scenario.descriptor;
    d.element_type = KVAPPEND_ELEMENT_F32;
    d.heads = 1;
    d.v_dim = 0;
    for (std::int64_t b = 0; b < d.batch; ++b) {
        scenario.offsets.push_back(b % 7 == 0 ? 1 : 0);
    }
    for (const std::int64_t dim : {1, 4}) {
        d.k_dim = dim;
        place_apart(scenario, 64, 64);
        std::vector<ScenarioLayer> layers(80, {scenario, 0});
        layers[0].shares_with = -1;
        check_layers(layers, random);
    }
}

TEST_CASE("layers of two geometries with different numbers of samples, heads and tensors", "[layers]") {
    auto random = seeded_random();
    kvappend_storage e4m3 = KVAPPEND_STORAGE_INIT;
    e4m3.type = KVAPPEND_STORED_E4M3;
    const auto layer = [&](std::int32_t operation, bool converts, std::int64_t batch, std::int64_t v_dim) {
        Scenario scenario = appending(KVAPPEND_ADDRESSING_DENSE, batch, 2, 3);
        scenario.descriptor.operation = operation;
        scenario.descriptor.heads = batch;
        scenario.descriptor.v_dim = v_dim;
        scenario.offsets.assign(static_cast<std::size_t>(batch), 1);
        if (converts) {
            scenario.store_k(e4m3);
            scenario.store_v(e4m3);
        }
        place_apart(scenario, 0, 0); // A sample that a layer does not have has no offset.
        return ScenarioLayer{scenario};
    };
    for (const std::int32_t operation : {KVAPPEND_OPERATION_APPEND, KVAPPEND_OPERATION_GATHER}) {
        for (const bool converts : {false, true}) {
            check_layers({layer(operation, converts, 1, 5), layer(operation, converts, 3, 0)}, random);
            check_layers({layer(operation, converts, 4, 0), layer(operation, converts, 2, 8)}, random);
        }
    }
}
