// SPDX-License-Identifier: Apache-2.0
// Structs of older and newer headers: what is missing is zero, what is unknown must be zero, and no byte beyond
// struct_size is read or written.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

namespace {

// A struct as a header of another age has it: `size` bytes in a heap block of just that size, so that a sanitizer sees
// any access beyond. What fits of the model is copied, the rest is zero.
class Resized {
public:
    template <class Struct>
    Resized(const Struct &model, std::size_t size) : bytes_(new unsigned char[std::max<std::size_t>(size, 8)]()) {
        std::memcpy(bytes_.get(), &model, std::min(size, sizeof model));
        std::memcpy(bytes_.get(), &size, sizeof size);
    }
    template <class Struct>
    Struct *as() {
        return reinterpret_cast<Struct *>(bytes_.get());
    }
    unsigned char *bytes() { return bytes_.get(); }

private:
    std::unique_ptr<unsigned char[]> bytes_;
};

constexpr std::size_t largest = 4096;
constexpr std::size_t bad_sizes[] = {0, 1, 4, 7, 9, 12, 4095, 4097, 4104, SIZE_MAX, SIZE_MAX - 7};

kvappend_descriptor small_descriptor() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.batch = 1;
    d.heads = 2;
    d.new_rows = 1;
    d.cache_rows = 3;
    d.k_dim = 4;
    return d;
}

kvappend_status create(const kvappend_descriptor *descriptor, const kvappend_preference *preference,
                       PlanPointer &plan) {
    kvappend_plan *created = nullptr;
    const kvappend_status status = kvappend_plan_create(descriptor, preference, &created);
    plan.reset(created);
    CHECK((created != nullptr) == (status == KVAPPEND_SUCCESS));
    return status;
}

// Every illegal size is refused with its value; a longer struct is accepted if its tail is zero, else the byte is
// named.
template <class Struct>
void check_read_struct(const char *name, const Struct &model,
                       const std::function<kvappend_status(const Struct *)> &call) {
    for (const std::size_t size : bad_sizes) {
        Resized s(model, sizeof model);
        std::memcpy(s.bytes(), &size, sizeof size);
        CHECK(call(s.as<Struct>()) == KVAPPEND_ERROR_STRUCT_SIZE);
        const std::string start = std::string(name) + ".struct_size is " + std::to_string(size) + ": expected";
        CHECK(std::string(kvappend_last_error_message()).starts_with(start));
    }
    for (const std::size_t size : {sizeof model, sizeof model + 8, sizeof model + 64, largest}) {
        Resized s(model, size);
        CHECK(told(call(s.as<Struct>())) == "KVAPPEND_SUCCESS");
        for (const std::size_t at : {sizeof model, sizeof model + 1, sizeof model + 7, size - 1}) {
            if (at < sizeof model || at >= size) {
                continue;
            }
            s.bytes()[at] = 1;
            CHECK(call(s.as<Struct>()) == KVAPPEND_ERROR_STRUCT_SIZE);
            const std::string message = kvappend_last_error_message();
            CHECK(message.starts_with(std::string(name) + ".struct_size is " + std::to_string(size) + " and byte " +
                                      std::to_string(at) + " of it is not zero"));
            s.bytes()[at] = 0;
        }
    }
}

// The library fills what both sides know, zeroes the rest of the caller's struct, and leaves what lies behind alone.
template <class Struct>
void check_written_struct(const char *name, const Struct &full, kvappend_status (*get)(const kvappend_plan *, Struct *),
                          const kvappend_plan *plan) {
    for (const std::size_t size : bad_sizes) {
        std::vector<unsigned char> bytes(sizeof full, 0xee);
        std::memcpy(bytes.data(), &size, sizeof size);
        const auto before = bytes;
        CHECK(get(plan, reinterpret_cast<Struct *>(bytes.data())) == KVAPPEND_ERROR_STRUCT_SIZE);
        CHECK(std::string(kvappend_last_error_message()).starts_with(std::string(name) + ".struct_size is"));
        CHECK(bytes == before);
    }
    for (std::size_t size = 8; size <= sizeof full + 24; size += 8) {
        std::vector<unsigned char> bytes(size + 16, 0xee);
        std::memcpy(bytes.data(), &size, sizeof size);
        std::vector<unsigned char> expected(size + 16, 0xee);
        std::fill_n(expected.begin(), size, static_cast<unsigned char>(0));
        std::memcpy(expected.data(), &full, std::min(size, sizeof full));
        std::memcpy(expected.data(), &size, sizeof size);
        CHECK(told(get(plan, reinterpret_cast<Struct *>(bytes.data()))) == "KVAPPEND_SUCCESS");
        CHECK(bytes == expected);

        // On failure all but the size is zero.
        std::fill_n(expected.begin() + 8, size - 8, static_cast<unsigned char>(0));
        CHECK(get(nullptr, reinterpret_cast<Struct *>(bytes.data())) == KVAPPEND_ERROR_NULL_ARGUMENT);
        CHECK(bytes == expected);
    }
}

template <class Struct>
void check_init(const char *name, const Struct &macro, kvappend_status (*init)(Struct *, std::size_t)) {
    std::vector<unsigned char> bytes(sizeof macro, 0xee);
    CHECK(told(init(reinterpret_cast<Struct *>(bytes.data()), sizeof macro)) == "KVAPPEND_SUCCESS");
    CHECK(std::memcmp(bytes.data(), &macro, sizeof macro) == 0);
    for (const std::size_t size : {std::size_t{8}, sizeof macro - 8, sizeof macro + 8, largest}) {
        std::vector<unsigned char> resized(size + 8, 0xee);
        CHECK(told(init(reinterpret_cast<Struct *>(resized.data()), size)) == "KVAPPEND_SUCCESS");
        std::vector<unsigned char> expected(size + 8, 0);
        std::memcpy(expected.data(), &size, sizeof size);
        std::fill_n(expected.end() - 8, 8, static_cast<unsigned char>(0xee));
        CHECK(resized == expected);
    }
    for (const std::size_t size : bad_sizes) {
        std::vector<unsigned char> left(sizeof macro, 0xee);
        CHECK(init(reinterpret_cast<Struct *>(left.data()), size) == KVAPPEND_ERROR_STRUCT_SIZE);
        CHECK(std::string(kvappend_last_error_message()).starts_with(std::string(name) + ".struct_size is"));
        CHECK(left == std::vector<unsigned char>(sizeof macro, 0xee));
    }
    CHECK(init(nullptr, sizeof macro) == KVAPPEND_ERROR_NULL_ARGUMENT);
    CHECK(std::string(kvappend_last_error_message()).starts_with(std::string(name) + " is NULL"));
}

} // namespace

TEST_CASE("structs that are read may be older or newer", "[structs]") {
    const kvappend_descriptor d = small_descriptor();
    const kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
    PlanPointer plan;
    check_read_struct<kvappend_descriptor>("descriptor", d, [&](const auto *s) { return create(s, nullptr, plan); });
    check_read_struct<kvappend_preference>("preference", p, [&](const auto *s) { return create(&d, s, plan); });

    kvappend_descriptor idle = KVAPPEND_DESCRIPTOR_INIT;
    idle.backend = subject().backend();
    plan = make_plan(idle);
    const kvappend_args a = KVAPPEND_ARGS_INIT;
    check_read_struct<kvappend_args>("args", a,
                                     [&](const auto *s) { return kvappend_plan_can_implement(plan.get(), s); });
    check_read_struct<kvappend_args>(
        "args", a, [&](const auto *s) { return kvappend_plan_run(plan.get(), s, nullptr, 0, subject().stream()); });
}

TEST_CASE("a shorter struct of any legal size has zero in the missing fields", "[structs]") {
    // Full of ones behind struct_size, except where that would be illegal; each cut must behave as the same struct with
    // zeros from the cut on.
    const kvappend_descriptor d = small_descriptor();
    for (std::size_t size = 8; size <= sizeof d; size += 8) {
        Resized cut(d, size);
        kvappend_descriptor zeroed = KVAPPEND_DESCRIPTOR_INIT;
        std::memcpy(&zeroed, &d, size);
        zeroed.struct_size = sizeof zeroed;
        PlanPointer from_cut;
        PlanPointer from_zeroed;
        CHECK(create(cut.as<kvappend_descriptor>(), nullptr, from_cut) == create(&zeroed, nullptr, from_zeroed));
        REQUIRE(from_cut != nullptr);
        kvappend_sku a = KVAPPEND_SKU_INIT;
        kvappend_sku b = KVAPPEND_SKU_INIT;
        CHECK(told(kvappend_plan_get_sku(from_cut.get(), &a)) == "KVAPPEND_SUCCESS");
        CHECK(told(kvappend_plan_get_sku(from_zeroed.get(), &b)) == "KVAPPEND_SUCCESS");
        CHECK(std::memcmp(&a, &b, sizeof a) == 0);
    }
    Resized no_name(kvappend_preference{sizeof(kvappend_preference), "no such kernel"}, 8);
    PlanPointer plan;
    CHECK(create(&d, no_name.as<kvappend_preference>(), plan) == KVAPPEND_SUCCESS);
}

TEST_CASE("a descriptor without strides and arguments without the last size still append", "[structs]") {
    kvappend_descriptor d = small_descriptor();
    d.k_new_strides[0] = 1; // cut away, so contiguous
    Resized descriptor(d, offsetof(kvappend_descriptor, k_new_strides));
    PlanPointer plan;
    REQUIRE(create(descriptor.as<kvappend_descriptor>(), nullptr, plan) == KVAPPEND_SUCCESS);

    const float rows[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};
    const float expected[2][3][4] = {{{0}, {1, 2, 3, 4}, {0}}, {{0}, {5, 6, 7, 8}, {0}}};
    float found[2][3][4] = {};
    const std::int64_t offset = 1;
    kvappend_args args = KVAPPEND_ARGS_INIT;
    void *const source = subject().allocate(sizeof rows);
    void *const cache = subject().allocate(sizeof found);
    void *const offsets = subject().allocate(sizeof offset);
    subject().upload(source, rows, sizeof rows);
    subject().upload(cache, found, sizeof found);
    subject().upload(offsets, &offset, sizeof offset);
    args.k_new = source;
    args.k_cache = cache;
    args.cache_offsets = offsets;
    args.cache_offsets_bytes = 1; // cut away, so unknown
    CHECK(kvappend_plan_can_implement(plan.get(), &args) == KVAPPEND_ERROR_BUFFER_TOO_SMALL);
    Resized cut(args, offsetof(kvappend_args, cache_offsets_bytes));
    CHECK(told(kvappend_plan_run(plan.get(), cut.as<kvappend_args>(), nullptr, 0, subject().stream())) ==
          "KVAPPEND_SUCCESS");
    subject().synchronize();
    subject().download(found, cache, sizeof found);
    CHECK(std::memcmp(found, expected, sizeof found) == 0);
    for (void *const pointer : {source, cache, offsets}) {
        subject().release(pointer);
    }
}

TEST_CASE("structs that are written may be older or newer", "[structs]") {
    const PlanPointer plan = make_plan(small_descriptor());
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    REQUIRE(told(kvappend_plan_get_sku(plan.get(), &sku)) == "KVAPPEND_SUCCESS");
    REQUIRE(sku.kernel_name != nullptr);
    check_written_struct("sku", sku, kvappend_plan_get_sku, plan.get());
    const kvappend_precision_guarantee guarantee = {sizeof(kvappend_precision_guarantee), 1, 1};
    check_written_struct("guarantee", guarantee, kvappend_plan_get_precision_guarantee, plan.get());
}

TEST_CASE("init functions do what the macros do", "[structs]") {
    check_init("descriptor", kvappend_descriptor KVAPPEND_DESCRIPTOR_INIT, kvappend_descriptor_init);
    check_init("preference", kvappend_preference KVAPPEND_PREFERENCE_INIT, kvappend_preference_init);
    check_init("args", kvappend_args KVAPPEND_ARGS_INIT, kvappend_args_init);
    check_init("sku", kvappend_sku KVAPPEND_SKU_INIT, kvappend_sku_init);
    check_init("guarantee", kvappend_precision_guarantee KVAPPEND_PRECISION_GUARANTEE_INIT,
               kvappend_precision_guarantee_init);
}
