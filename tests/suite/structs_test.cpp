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
// any access beyond; or with garbage behind it, so that every machine sees what a read beyond makes of it. What fits of
// the model is copied, the rest is zero.
class Resized {
public:
    template <class Struct>
    Resized(const Struct &model, std::size_t size, std::size_t garbage = 0)
        : bytes_(new unsigned char[size + garbage]()) {
        std::memcpy(bytes_.get(), &model, std::min(size, sizeof model));
        std::memcpy(bytes_.get(), &size, sizeof size);
        std::fill_n(bytes_.get() + size, garbage, static_cast<unsigned char>(0x7b));
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

// Every field of it up to the strides matters to the plan, and so does each of them being zero. K rows of 8 bytes, V
// rows of 20.
kvappend_descriptor full_descriptor() {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = KVAPPEND_ELEMENT_F16;
    d.offset_type = KVAPPEND_OFFSET_INT32;
    d.batch = 2;
    d.heads = 3;
    d.new_rows = 2;
    d.cache_rows = 5;
    d.k_dim = 4;
    d.v_dim = 10;
    const auto set = [](std::int64_t(&strides)[3], std::int64_t unit) {
        strides[0] = 40 * unit;
        strides[1] = 11 * unit;
        strides[2] = 2 * unit;
    };
    set(d.k_new_strides, 4);
    set(d.v_new_strides, 10);
    set(d.k_cache_strides, 8);
    set(d.v_cache_strides, 20);
    return d;
}

// Addresses far apart, for calls that read no buffer.
void *place(std::uintptr_t n) {
    return reinterpret_cast<void *>(n << 32);
}

// What a plan came out as: its SKU, and for each buffer the bytes it must have.
std::vector<std::string> traits(const kvappend_plan *plan) {
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    CHECK(told(kvappend_plan_get_sku(plan, &sku)) == "KVAPPEND_SUCCESS");
    std::vector<std::string> found = {sku.kernel_name};
    for (const std::int32_t value :
         {sku.operation, sku.backend, sku.element_type, sku.k_vector_bytes, sku.v_vector_bytes}) {
        found.push_back(std::to_string(value));
    }
    kvappend_args args = KVAPPEND_ARGS_INIT;
    args.k_new = place(1);
    args.v_new = place(2);
    args.k_cache = place(3);
    args.v_cache = place(4);
    args.cache_offsets = place(5);
    const auto tell = [&](const kvappend_args &a) { found.push_back(told(kvappend_plan_can_implement(plan, &a))); };
    tell(args);
    const auto tell_without = [&](auto pointer) {
        kvappend_args without = args;
        without.*pointer = nullptr;
        tell(without);
    };
    tell_without(&kvappend_args::k_new);
    tell_without(&kvappend_args::v_new);
    tell_without(&kvappend_args::k_cache);
    tell_without(&kvappend_args::v_cache);
    tell_without(&kvappend_args::cache_offsets);
    return found;
}

kvappend_status create(const kvappend_descriptor *descriptor, const kvappend_preference *preference,
                       PlanPointer &plan) {
    std::size_t marker = 0;
    auto *created = reinterpret_cast<kvappend_plan *>(&marker); // must become a plan, or NULL
    const kvappend_status status = kvappend_plan_create(descriptor, preference, &created);
    CHECK((created != nullptr) == (status == KVAPPEND_SUCCESS));
    plan.reset(status == KVAPPEND_SUCCESS ? created : nullptr);
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
        // Compared without a macro, as there are thousands of places.
        std::size_t wrong = 0;
        for (std::size_t at = sizeof model; at < size; ++at) {
            s.bytes()[at] = at % 2 == 0 ? 1 : 0x80;
            const bool refused = call(s.as<Struct>()) == KVAPPEND_ERROR_STRUCT_SIZE;
            const std::string start = std::string(name) + ".struct_size is " + std::to_string(size) + " and byte " +
                                      std::to_string(at) + " of it is not zero: expected zero in all but the first " +
                                      std::to_string(sizeof model) + " bytes";
            wrong += refused && std::string(kvappend_last_error_message()).starts_with(start) ? 0U : 1U;
            s.bytes()[at] = 0;
        }
        INFO(name << " of " << size << " bytes");
        CHECK(wrong == 0);
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
    std::vector<std::size_t> sizes = {sizeof full + 64, largest};
    for (std::size_t size = 8; size <= sizeof full + 24; size += 8) {
        sizes.push_back(size);
    }
    for (const std::size_t size : sizes) {
        std::vector<unsigned char> bytes(size + 16, 0xee);
        std::memcpy(bytes.data(), &size, sizeof size);
        std::vector<unsigned char> expected(size, 0);
        expected.resize(size + 16, 0xee);
        std::memcpy(expected.data(), &full, std::min(size, sizeof full));
        std::memcpy(expected.data(), &size, sizeof size);
        CHECK(told(get(plan, reinterpret_cast<Struct *>(bytes.data()))) == "KVAPPEND_SUCCESS");
        CHECK(bytes == expected);

        // On failure all but the size is zero.
        std::fill_n(bytes.begin() + 8, size - 8, static_cast<unsigned char>(0xee));
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

TEST_CASE("a descriptor of any legal size has zero in the missing fields", "[structs]") {
    const kvappend_descriptor d = full_descriptor();
    std::vector<std::vector<std::string>> distinct;
    for (std::size_t size = 8; size <= sizeof d; size += 8) {
        INFO(size << " bytes");
        kvappend_descriptor zeroed = KVAPPEND_DESCRIPTOR_INIT;
        std::memcpy(&zeroed, &d, size);
        zeroed.struct_size = sizeof zeroed;
        PlanPointer expected;
        const kvappend_status status = create(&zeroed, nullptr, expected);
        const std::string message = kvappend_last_error_message();
        const std::vector<std::string> expected_traits =
            expected == nullptr ? std::vector{message} : traits(expected.get());
        for (const std::size_t garbage : {std::size_t{0}, std::size_t{256}}) {
            Resized cut(d, size, garbage);
            PlanPointer plan;
            CHECK(create(cut.as<kvappend_descriptor>(), nullptr, plan) == status);
            CHECK((plan == nullptr ? std::vector<std::string>{kvappend_last_error_message()} : traits(plan.get())) ==
                  expected_traits);
        }
        if (std::ranges::find(distinct, expected_traits) == distinct.end()) {
            distinct.push_back(expected_traits);
        }
    }
    // Without K there is nothing to do: until k_dim, only backend and types tell the plans apart. What stands behind
    // the strides is zero, as not all of it goes together: the next test has it.
    CHECK(distinct.size() >= 2 + (offsetof(kvappend_descriptor, lengths) - offsetof(kvappend_descriptor, k_dim)) / 8);
}

TEST_CASE("what stands behind the strides counts as far as a descriptor's size goes", "[structs]") {
    // Each field by a value with which it is at fault.
    struct Fault {
        std::size_t offset;
        void (*set)(kvappend_descriptor &);
        kvappend_status status;
    };
#define FAULT(field, value, status)                                                                                    \
    {                                                                                                                  \
        offsetof(kvappend_descriptor, field), [](kvappend_descriptor &d) { d.field = value; }, status                  \
    }
    const Fault faults[] = {FAULT(lengths, 4, KVAPPEND_ERROR_LENGTHS),
                            FAULT(flags, 32768, KVAPPEND_ERROR_FLAGS),
                            FAULT(cache_blocks, 1, KVAPPEND_ERROR_CONFLICT),
                            FAULT(sink_rows, 1, KVAPPEND_ERROR_CONFLICT),
                            FAULT(table_entries, 1, KVAPPEND_ERROR_CONFLICT),
                            FAULT(reserved_slot, 1, KVAPPEND_ERROR_CONFLICT),
                            FAULT(reserved_page, 1, KVAPPEND_ERROR_CONFLICT),
                            FAULT(k_pack, 3, KVAPPEND_ERROR_PACK),
                            FAULT(v_pack, 3, KVAPPEND_ERROR_PACK),
                            FAULT(k_piece_stride, -1, KVAPPEND_ERROR_STRIDE),
                            FAULT(v_piece_stride, -1, KVAPPEND_ERROR_STRIDE),
                            FAULT(skip_policy, 3, KVAPPEND_ERROR_SKIP_POLICY),
                            FAULT(index_type, 2, KVAPPEND_ERROR_INDEX_TYPE)};
#undef FAULT
    for (const Fault &fault : faults) {
        INFO("field at " << fault.offset);
        kvappend_descriptor d = full_descriptor();
        fault.set(d);
        const std::size_t word = fault.offset / 8 * 8;
        for (std::size_t size = offsetof(kvappend_descriptor, lengths); size <= sizeof d; size += 8) {
            INFO(size << " bytes");
            Resized cut(d, size, 256);
            PlanPointer plan;
            CHECK(create(cut.as<kvappend_descriptor>(), nullptr, plan) ==
                  (size <= word ? KVAPPEND_SUCCESS : fault.status));
        }
    }
}

TEST_CASE("arrays of indices behind an argument struct's size are NULL", "[structs]") {
    kvappend_descriptor d = small_descriptor();
    const auto check = [&d](std::size_t offset, const char *name) {
        const PlanPointer plan = make_plan(d);
        kvappend_args a = KVAPPEND_ARGS_INIT;
        a.k_new = place(1);
        a.k_cache = place(2);
        a.cache_offsets = place(3);
        a.slots = place(4);
        a.lengths = static_cast<const std::int32_t *>(place(5));
        a.left_pads = static_cast<const std::int32_t *>(place(6));
        a.batch_index = static_cast<const std::int32_t *>(place(7));
        a.page_table = static_cast<const std::int32_t *>(place(8));
        a.page_indptr = static_cast<const std::int32_t *>(place(9));
        a.report = static_cast<kvappend_report *>(place(10));
        for (std::size_t size = offsetof(kvappend_args, slots); size <= sizeof a; size += 8) {
            INFO(name << ", " << size << " bytes");
            Resized cut(a, size, 256);
            const std::string found = told(kvappend_plan_can_implement(plan.get(), cut.as<kvappend_args>()));
            CHECK(found.starts_with(size <= offset
                                        ? "KVAPPEND_ERROR_NULL_BUFFER: args." + std::string(name) + " is NULL"
                                        : "KVAPPEND_SUCCESS"));
        }
    };
    SECTION("lengths") {
        d.lengths = KVAPPEND_LENGTHS_PER_SAMPLE;
        check(offsetof(kvappend_args, lengths), "lengths");
    }
    SECTION("left_pads") {
        d.flags = KVAPPEND_FLAG_LEFT_PADS;
        check(offsetof(kvappend_args, left_pads), "left_pads");
    }
    SECTION("batch_index") {
        d.flags = KVAPPEND_FLAG_BATCH_INDEX;
        check(offsetof(kvappend_args, batch_index), "batch_index");
    }
    SECTION("report") {
        d.skip_policy = KVAPPEND_SKIP_REPORT;
        check(offsetof(kvappend_args, report), "report");
    }
    SECTION("page_table") {
        d.addressing = KVAPPEND_ADDRESSING_PAGED;
        d.cache_blocks = d.table_entries = 2;
        check(offsetof(kvappend_args, page_table), "page_table");
    }
    SECTION("slots") {
        d.addressing = KVAPPEND_ADDRESSING_SLOTS;
        d.cache_blocks = 2;
        check(offsetof(kvappend_args, slots), "slots");
    }
}

TEST_CASE("arguments of any legal size have zero in the missing fields", "[structs]") {
    kvappend_descriptor d = full_descriptor();
    d.batch = 1;
    const PlanPointer plan = make_plan(d);
    // Too small in the last size alone, so that the whole struct is refused as well and no buffer is touched.
    kvappend_args a = KVAPPEND_ARGS_INIT;
    a.k_new = place(1);
    a.v_new = place(2);
    a.k_cache = place(3);
    a.v_cache = place(4);
    a.cache_offsets = place(5);
    a.k_new_bytes = a.v_new_bytes = a.k_cache_bytes = a.v_cache_bytes = 4096;
    a.cache_offsets_bytes = 1;
    for (std::size_t size = 8; size <= sizeof a; size += 8) {
        INFO(size << " bytes");
        kvappend_args zeroed = KVAPPEND_ARGS_INIT;
        std::memcpy(&zeroed, &a, size);
        zeroed.struct_size = sizeof zeroed;
        const std::string expected = told(kvappend_plan_can_implement(plan.get(), &zeroed));
        CHECK((expected == "KVAPPEND_SUCCESS") == (size == offsetof(kvappend_args, cache_offsets_bytes)));
        for (const std::size_t garbage : {std::size_t{0}, std::size_t{256}}) {
            Resized cut(a, size, garbage);
            CHECK(told(kvappend_plan_can_implement(plan.get(), cut.as<kvappend_args>())) == expected);
            if (expected != "KVAPPEND_SUCCESS") {
                CHECK(told(kvappend_plan_run(plan.get(), cut.as<kvappend_args>(), nullptr, 0, subject().stream())) ==
                      expected);
            }
        }
    }
}

TEST_CASE("a preference that is too short for a kernel name wishes for none", "[structs]") {
    const kvappend_descriptor d = small_descriptor();
    for (const std::size_t garbage : {std::size_t{0}, std::size_t{256}}) {
        Resized no_name(kvappend_preference{sizeof(kvappend_preference), "no such kernel", 0, 0}, 8, garbage);
        PlanPointer plan;
        CHECK(create(&d, no_name.as<kvappend_preference>(), plan) == KVAPPEND_SUCCESS);
    }
}

TEST_CASE("what stands behind a preference's size wishes for nothing", "[structs]") {
    const kvappend_descriptor d = small_descriptor();
    const struct {
        kvappend_preference preference;
        kvappend_status status;
    } faults[] = {{{sizeof(kvappend_preference), nullptr, -1, 0}, KVAPPEND_ERROR_HOST_THREADS},
                  {{sizeof(kvappend_preference), nullptr, 0, 1}, KVAPPEND_ERROR_CONFLICT}};
    for (const auto &fault : faults) {
        PlanPointer plan;
        for (const std::size_t size : {std::size_t{8}, offsetof(kvappend_preference, host_threads)}) {
            Resized cut(fault.preference, size, 256);
            CHECK(create(&d, cut.as<kvappend_preference>(), plan) == KVAPPEND_SUCCESS);
        }
        CHECK(create(&d, &fault.preference, plan) == fault.status);
    }
}

TEST_CASE("a descriptor of zeros is a plan of the host backend with nothing to do", "[structs]") {
    for (const std::size_t size : {std::size_t{8}, sizeof(kvappend_descriptor), largest}) {
        Resized zeros(size, size);
        PlanPointer plan;
        REQUIRE(create(zeros.as<kvappend_descriptor>(), nullptr, plan) == KVAPPEND_SUCCESS);
        kvappend_sku sku = KVAPPEND_SKU_INIT;
        CHECK(told(kvappend_plan_get_sku(plan.get(), &sku)) == "KVAPPEND_SUCCESS");
        CHECK(sku.backend == KVAPPEND_BACKEND_HOST);
        CHECK(std::string(sku.kernel_name).starts_with("host_dense"));
        CHECK(sku.architecture == 0);
        CHECK(sku.k_vector_bytes == 0);
        CHECK(sku.v_vector_bytes == 0);
        const kvappend_args none = KVAPPEND_ARGS_INIT;
        CHECK(told(kvappend_plan_run(plan.get(), &none, nullptr, 0, nullptr)) == "KVAPPEND_SUCCESS");
    }
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
    const kvappend_precision_guarantee guarantee = {sizeof(kvappend_precision_guarantee), 1, 1, 1, 1, 0, 0};
    check_written_struct("guarantee", guarantee, kvappend_plan_get_precision_guarantee, plan.get());
}

TEST_CASE("init functions do what the macros do", "[structs]") {
    check_init("descriptor", kvappend_descriptor KVAPPEND_DESCRIPTOR_INIT, kvappend_descriptor_init);
    check_init("preference", kvappend_preference KVAPPEND_PREFERENCE_INIT, kvappend_preference_init);
    check_init("args", kvappend_args KVAPPEND_ARGS_INIT, kvappend_args_init);
    check_init("sku", kvappend_sku KVAPPEND_SKU_INIT, kvappend_sku_init);
    check_init("report", kvappend_report KVAPPEND_REPORT_INIT, kvappend_report_init);
    check_init("fault", kvappend_fault KVAPPEND_FAULT_INIT, kvappend_fault_init);
    check_init("guarantee", kvappend_precision_guarantee KVAPPEND_PRECISION_GUARANTEE_INIT,
               kvappend_precision_guarantee_init);
}
