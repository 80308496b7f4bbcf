// SPDX-License-Identifier: Apache-2.0
// What a plan tells about itself, what it keeps (nothing of the caller's), and the library's numbers and function
// table.
#include "plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

namespace {

kvappend_descriptor with_rows(std::int32_t element_type, std::int64_t k_dim, std::int64_t v_dim) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.element_type = element_type;
    d.batch = 2;
    d.heads = 4;
    d.new_rows = 1;
    d.cache_rows = 8;
    d.k_dim = k_dim;
    d.v_dim = v_dim;
    return d;
}

// The same caches, with a row of each sample that is moved.
kvappend_descriptor to_move(kvappend_descriptor d) {
    d.operation = KVAPPEND_OPERATION_MOVE;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.cache_blocks = d.batch;
    d.batch = 1;
    return d;
}

kvappend_sku sku_of(const PlanPointer &plan) {
    kvappend_sku sku = KVAPPEND_SKU_INIT;
    REQUIRE(told(kvappend_plan_get_sku(plan.get(), &sku)) == "KVAPPEND_SUCCESS");
    return sku;
}

std::vector<std::string> kernel_names() {
    std::vector<std::string> names;
    while (const char *const name = kvappend_kernel_name(names.size())) {
        names.emplace_back(name);
    }
    return names;
}

} // namespace

TEST_CASE("a plan tells what it is made of", "[plan]") {
    const bool cuda = subject().backend() == KVAPPEND_BACKEND_CUDA;
    const struct {
        std::int32_t type;
        std::int64_t k_dim, v_dim;
        std::int32_t k_bytes, v_bytes;
    } rows[] = {{KVAPPEND_ELEMENT_F16, 128, 128, 16, 16}, {KVAPPEND_ELEMENT_BF16, 192, 4, 16, 8},
                {KVAPPEND_ELEMENT_BF16, 46, 128, 4, 16},  {KVAPPEND_ELEMENT_F16, 4, 4, 8, 8},
                {KVAPPEND_ELEMENT_F32, 5, 2, 4, 8},       {KVAPPEND_ELEMENT_F32, 5, 7, 4, 4},
                {KVAPPEND_ELEMENT_F16, 5, 7, 2, 2},       {KVAPPEND_ELEMENT_F64, 3, 0, 8, 0},
                {KVAPPEND_ELEMENT_F64, 0, 2, 0, 16},      {KVAPPEND_ELEMENT_F64, 0, 0, 0, 0}};
    for (const auto &row : rows) {
        const PlanPointer plan = make_plan(with_rows(row.type, row.k_dim, row.v_dim));
        const kvappend_sku sku = sku_of(plan);
        INFO("element type " << row.type << ", dimensions " << row.k_dim << " and " << row.v_dim);
        CHECK(sku.struct_size == sizeof sku);
        CHECK(sku.operation == KVAPPEND_OPERATION_APPEND);
        CHECK(sku.backend == subject().backend());
        CHECK(sku.element_type == row.type);
        CHECK(sku.k_vector_bytes == (cuda ? row.k_bytes : 0));
        CHECK(sku.v_vector_bytes == (cuda ? row.v_bytes : 0));
        CHECK(std::string(sku.kernel_name).starts_with(cuda ? "cuda_dense_b16" : "host_dense"));
        CHECK((sku.architecture >= 75) == cuda);
        CHECK((sku.architecture == 0) == !cuda);

        kvappend_precision_guarantee guarantee = KVAPPEND_PRECISION_GUARANTEE_INIT;
        CHECK(told(kvappend_plan_get_precision_guarantee(plan.get(), &guarantee)) == "KVAPPEND_SUCCESS");
        CHECK(guarantee.k_bit_exact == 1);
        CHECK(guarantee.v_bit_exact == 1);
        CHECK(guarantee.same_on_all_backends == 1);
        CHECK(guarantee.deterministic == 1);
        std::size_t bytes = 1;
        CHECK(told(kvappend_plan_workspace_size(plan.get(), &bytes)) == "KVAPPEND_SUCCESS");
        CHECK(bytes == 0);
    }
}

TEST_CASE("strides narrow the accesses, unless their axis has one entry", "[plan]") {
    if (subject().backend() != KVAPPEND_BACKEND_CUDA) {
        SKIP("the host backend has no vector width");
    }
    // Rows of 256 bytes of f16; one stride after the other is 4 elements off.
    const struct {
        std::int64_t (kvappend_descriptor::*strides)[3];
        std::int64_t k_dim, v_dim;
        std::int32_t kvappend_sku::*bytes;
    } tensors[] = {{&kvappend_descriptor::k_new_strides, 128, 0, &kvappend_sku::k_vector_bytes},
                   {&kvappend_descriptor::k_cache_strides, 128, 0, &kvappend_sku::k_vector_bytes},
                   {&kvappend_descriptor::v_new_strides, 0, 128, &kvappend_sku::v_vector_bytes},
                   {&kvappend_descriptor::v_cache_strides, 0, 128, &kvappend_sku::v_vector_bytes}};
    for (const auto &[strides, k_dim, v_dim, bytes] : tensors) {
        for (int axis = 0; axis < 3; ++axis) {
            kvappend_descriptor d = with_rows(KVAPPEND_ELEMENT_F16, k_dim, v_dim);
            d.new_rows = 2;
            const std::int64_t contiguous[] = {4 * 8 * 128, 8 * 128, 128};
            std::ranges::copy(contiguous, d.*strides);
            CHECK(sku_of(make_plan(d)).*bytes == 16);
            (d.*strides)[axis] += 4;
            if (axis > 0) {
                (d.*strides)[0] *= 2;
            }
            if (axis > 1) {
                (d.*strides)[1] *= 2;
            }
            CHECK(sku_of(make_plan(d)).*bytes == 8);
            std::int64_t *const extents[] = {&d.batch, &d.heads, &d.new_rows};
            *extents[axis] = 1;
            d.cache_rows = axis == 2 ? 1 : d.cache_rows;
            CHECK(sku_of(make_plan(d)).*bytes == 16);
        }
    }
}

TEST_CASE("the stride of the cache's rows narrows the accesses of a single new row", "[plan]") {
    // It may go to any row of the cache.
    const bool cuda = subject().backend() == KVAPPEND_BACKEND_CUDA;
    kvappend_descriptor d = with_rows(KVAPPEND_ELEMENT_F16, 8, 8);
    const std::int64_t rows_of_12[] = {4 * 8 * 12, 8 * 12, 12};
    std::ranges::copy(rows_of_12, d.k_cache_strides);
    const kvappend_sku sku = sku_of(make_plan(d));
    CHECK(sku.k_vector_bytes == (cuda ? 8 : 0));
    CHECK(sku.v_vector_bytes == (cuda ? 16 : 0));
}

TEST_CASE("heads that are adjacent in both tensors widen the accesses", "[plan]") {
    // 4 heads of 8 bytes lie side by side in [B, L, H, D], but not in the K cache, which is [B, H, L, D].
    const bool cuda = subject().backend() == KVAPPEND_BACKEND_CUDA;
    kvappend_descriptor d = with_rows(KVAPPEND_ELEMENT_F16, 4, 4);
    const std::int64_t of_new[] = {16, 4, 16};
    const std::int64_t of_cache[] = {8 * 16, 4, 16};
    std::ranges::copy(of_new, d.k_new_strides);
    std::ranges::copy(of_new, d.v_new_strides);
    std::ranges::copy(of_cache, d.v_cache_strides);
    const kvappend_sku sku = sku_of(make_plan(d));
    CHECK(sku.k_vector_bytes == (cuda ? 8 : 0));
    CHECK(sku.v_vector_bytes == (cuda ? 16 : 0));
}

TEST_CASE("the kernel table names each kernel once, and each can be wished for", "[plan]") {
    const std::vector<std::string> names = kernel_names();
    CHECK(std::set(names.begin(), names.end()).size() == names.size());
    CHECK(std::ranges::all_of(
        names, [](const std::string &name) { return name.starts_with("host_") || name.starts_with("cuda_"); }));
    CHECK(std::ranges::count(names, "host_dense") == 1);
    CHECK(std::ranges::count(names, "host_rows") == 1);
    CHECK(kvappend_kernel_name(SIZE_MAX) == nullptr);
    const std::string prefix = subject().backend() == KVAPPEND_BACKEND_CUDA ? "cuda_" : "host_";
    kvappend_storage e4m3 = KVAPPEND_STORAGE_INIT;
    kvappend_rotary rotary = KVAPPEND_ROTARY_INIT;
    rotary.dim = 2;
    e4m3.type = KVAPPEND_STORED_E4M3;
    int served = 0;
    for (const std::string &name : names) {
        if (!name.starts_with(prefix)) {
            continue;
        }
        kvappend_preference p = KVAPPEND_PREFERENCE_INIT;
        p.kernel_name = name.c_str();
        kvappend_descriptor d = with_rows(KVAPPEND_ELEMENT_F16, 64, 64);
        d.k_storage = d.v_storage = name.find("convert") != std::string::npos ? &e4m3 : nullptr;
        d.rotary = name.find("rotate") != std::string::npos ? &rotary : nullptr;
        if (name.find("_gather") != std::string::npos) {
            d.operation = KVAPPEND_OPERATION_GATHER;
        } else if (name.find("_move") != std::string::npos) {
            d = to_move(d);
        }
        kvappend_plan *wished = nullptr;
        const kvappend_status status = kvappend_plan_create(&d, &p, &wished);
        const PlanPointer plan(wished);
        if (status == KVAPPEND_ERROR_KERNEL && (name.ends_with("_avx") || name.ends_with("_avx2"))) {
            continue; // This processor does not have it.
        }
        REQUIRE(status == KVAPPEND_SUCCESS);
        const kvappend_sku sku = sku_of(plan);
        CHECK(sku.kernel_name == name);
        CHECK(sku.operation == d.operation);
        if (prefix == "cuda_" && d.k_storage == nullptr) {
            CHECK(name.ends_with("_b16"));
            CHECK(sku.k_vector_bytes == 16);
            CHECK(sku.v_vector_bytes == 16);
            // Rows of K that allow 4 bytes do not hinder those of V, nor are they read by more than that.
            kvappend_descriptor narrow = with_rows(KVAPPEND_ELEMENT_F16, 2, 64);
            narrow = d.operation == KVAPPEND_OPERATION_MOVE ? to_move(narrow) : narrow;
            narrow.operation = d.operation;
            narrow.rotary = d.rotary;
            const kvappend_sku unlike = sku_of(make_plan(narrow, &p));
            CHECK(unlike.v_vector_bytes == sku.v_vector_bytes);
            CHECK(unlike.k_vector_bytes == 4);
        }
        ++served;
    }
    CHECK((prefix == "cuda_" ? served == 21 : served == 8 || served == 15));
}

TEST_CASE("a plan keeps nothing of what it was made from, and a run nothing of its arguments", "[plan]") {
    const std::vector<float> rows(2 * 4 * 4, 1.5F);
    std::vector<float> found(2 * 4 * 8 * 4);
    const std::int64_t at[] = {7, 0};
    void *const source = subject().allocate(rows.size() * 4);
    void *const cache = subject().allocate(found.size() * 4);
    void *const offsets = subject().allocate(sizeof at);
    subject().upload(source, rows.data(), rows.size() * 4);
    subject().upload(cache, found.data(), found.size() * 4);
    subject().upload(offsets, at, sizeof at);

    auto descriptor = std::make_unique<kvappend_descriptor>(with_rows(KVAPPEND_ELEMENT_F32, 4, 0));
    auto name =
        std::make_unique<std::string>(subject().backend() == KVAPPEND_BACKEND_CUDA ? "cuda_dense_b16" : "host_dense");
    auto preference =
        std::make_unique<kvappend_preference>(kvappend_preference{sizeof(kvappend_preference), name->c_str(), 0, 0});
    const PlanPointer plan = make_plan(*descriptor, preference.get());
    // Overwritten first, because freed memory may still hold what it did.
    std::memset(descriptor.get(), 0xff, sizeof *descriptor);
    std::memset(preference.get(), 0xff, sizeof *preference);
    std::ranges::fill(*name, '?');
    descriptor.reset();
    preference.reset();
    name.reset();
    auto args = std::make_unique<kvappend_args>(kvappend_args KVAPPEND_ARGS_INIT);
    args->k_new = source;
    args->k_cache = cache;
    args->cache_offsets = offsets;
    REQUIRE(told(kvappend_plan_run(plan.get(), args.get(), nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
    std::memset(args.get(), 0xff, sizeof *args);
    args.reset();
    subject().synchronize();

    subject().download(found.data(), cache, found.size() * 4);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const std::size_t row = i / 4 % 8;
        const bool written = i < found.size() / 2 ? row == 7 : row == 0;
        wrong += found[i] != (written ? 1.5F : 0.0F);
    }
    CHECK(wrong == 0);
    CHECK(std::string(sku_of(plan).kernel_name) ==
          (subject().backend() == KVAPPEND_BACKEND_CUDA ? "cuda_dense_b16" : "host_dense"));
    for (void *const pointer : {source, cache, offsets}) {
        subject().release(pointer);
    }
}

TEST_CASE("destroying NULL is fine", "[plan]") {
    CHECK(kvappend_plan_destroy(nullptr) == KVAPPEND_SUCCESS);
}

TEST_CASE("every status has its name", "[plan]") {
    const struct {
        kvappend_status status;
        const char *name;
    } statuses[] = {{0, "KVAPPEND_SUCCESS"},
                    {1, "KVAPPEND_ERROR_NULL_ARGUMENT"},
                    {2, "KVAPPEND_ERROR_STRUCT_SIZE"},
                    {3, "KVAPPEND_ERROR_ABI_VERSION"},
                    {10, "KVAPPEND_ERROR_BACKEND"},
                    {11, "KVAPPEND_ERROR_ELEMENT_TYPE"},
                    {12, "KVAPPEND_ERROR_OFFSET_TYPE"},
                    {13, "KVAPPEND_ERROR_ADDRESSING"},
                    {14, "KVAPPEND_ERROR_EXTENT"},
                    {15, "KVAPPEND_ERROR_STRIDE"},
                    {16, "KVAPPEND_ERROR_OVERFLOW"},
                    {17, "KVAPPEND_ERROR_OVERLAP"},
                    {18, "KVAPPEND_ERROR_KERNEL"},
                    {19, "KVAPPEND_ERROR_LENGTHS"},
                    {20, "KVAPPEND_ERROR_UNSUPPORTED"},
                    {21, "KVAPPEND_ERROR_NO_DEVICE"},
                    {22, "KVAPPEND_ERROR_DRIVER"},
                    {23, "KVAPPEND_ERROR_CUDA"},
                    {24, "KVAPPEND_ERROR_WRONG_DEVICE"},
                    {25, "KVAPPEND_ERROR_OUT_OF_MEMORY"},
                    {30, "KVAPPEND_ERROR_NULL_BUFFER"},
                    {31, "KVAPPEND_ERROR_BUFFER_TOO_SMALL"},
                    {32, "KVAPPEND_ERROR_MISALIGNED"},
                    {33, "KVAPPEND_ERROR_ALIAS"},
                    {34, "KVAPPEND_ERROR_WORKSPACE"},
                    {35, "KVAPPEND_ERROR_STREAM"},
                    {40, "KVAPPEND_ERROR_FLAGS"},
                    {41, "KVAPPEND_ERROR_CONFLICT"},
                    {42, "KVAPPEND_ERROR_SKIP_POLICY"},
                    {43, "KVAPPEND_ERROR_PACK"},
                    {44, "KVAPPEND_ERROR_SKIPPED"},
                    {45, "KVAPPEND_ERROR_INDEX_ORDER"},
                    {46, "KVAPPEND_ERROR_INDEX_RANGE"},
                    {47, "KVAPPEND_ERROR_DUPLICATE"},
                    {48, "KVAPPEND_ERROR_HOST_THREADS"},
                    {49, "KVAPPEND_ERROR_INDEX_WIDTH"},
                    {50, "KVAPPEND_ERROR_INDEX_TYPE"},
                    {51, "KVAPPEND_ERROR_STORAGE"},
                    {52, "KVAPPEND_ERROR_SCALE"},
                    {53, "KVAPPEND_ERROR_OPERATION"},
                    {54, "KVAPPEND_ERROR_ROTARY"}};
    for (std::int32_t value = -5; value < 60; ++value) {
        const auto *const known =
            std::ranges::find(statuses, value, &std::remove_reference_t<decltype(*statuses)>::status);
        CHECK(std::string(kvappend_status_name(value)) ==
              (known == std::end(statuses) ? "unknown kvappend_status" : known->name));
    }
    for (const std::int32_t value : {INT32_MIN, INT32_MAX, 256, 1 << 16}) {
        CHECK(std::string(kvappend_status_name(value)) == "unknown kvappend_status");
    }
}

TEST_CASE("the function table is the library's functions", "[plan]") {
    CHECK(kvappend_version() == KVAPPEND_VERSION);
    const kvappend_api *api = nullptr;
    REQUIRE(told(kvappend_get_api(KVAPPEND_ABI_VERSION, &api)) == "KVAPPEND_SUCCESS");
    REQUIRE(api != nullptr);
    CHECK(api->struct_size == sizeof *api);
    CHECK(api->abi_version == KVAPPEND_ABI_VERSION);
    CHECK(api->version == KVAPPEND_VERSION);
    CHECK(api->status_name == kvappend_status_name);
    CHECK(api->last_error_message == kvappend_last_error_message);
    CHECK(api->descriptor_init == kvappend_descriptor_init);
    CHECK(api->preference_init == kvappend_preference_init);
    CHECK(api->args_init == kvappend_args_init);
    CHECK(api->sku_init == kvappend_sku_init);
    CHECK(api->precision_guarantee_init == kvappend_precision_guarantee_init);
    CHECK(api->plan_create == kvappend_plan_create);
    CHECK(api->plan_workspace_size == kvappend_plan_workspace_size);
    CHECK(api->plan_can_implement == kvappend_plan_can_implement);
    CHECK(api->plan_run == kvappend_plan_run);
    CHECK(api->plan_destroy == kvappend_plan_destroy);
    CHECK(api->plan_get_sku == kvappend_plan_get_sku);
    CHECK(api->plan_get_precision_guarantee == kvappend_plan_get_precision_guarantee);
    CHECK(api->kernel_name == kvappend_kernel_name);
    CHECK(api->report_init == kvappend_report_init);
    CHECK(api->fault_init == kvappend_fault_init);
    CHECK(api->plan_validate == kvappend_plan_validate);
    CHECK(api->storage_init == kvappend_storage_init);
    CHECK(api->storage_preset == kvappend_storage_preset);
    for (const std::uint32_t other : {0U, 2U, UINT32_MAX}) {
        const kvappend_api *refused = api;
        CHECK(kvappend_get_api(other, &refused) == KVAPPEND_ERROR_ABI_VERSION);
        CHECK(refused == nullptr);
    }
}
