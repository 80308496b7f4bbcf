// SPDX-License-Identifier: Apache-2.0
// The rule by which structs of older and newer headers are read and written, and their layout.
#pragma once

#include "../src/failure.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace kvappend {

// Larger than any struct will be, so that a size which is garbage does not lead far into foreign memory.
inline constexpr std::size_t largest_struct = 4096;

inline Status check_struct_size(const char *name, std::size_t size) {
    if (size < sizeof(std::size_t) || size > largest_struct || size % 8 != 0) {
        return fail(
            KVAPPEND_ERROR_STRUCT_SIZE,
            "%s.struct_size is %zu: expected a multiple of 8 from 8 to %zu, as the struct's _INIT macro or init "
            "function sets it",
            name, size, largest_struct);
    }
    return KVAPPEND_SUCCESS;
}

// struct_size is read by its place, because the struct behind the pointer may be shorter than this library's.
inline std::size_t struct_size_of(const void *s) {
    std::size_t size = 0;
    std::memcpy(&size, s, sizeof size);
    return size;
}

// Reads the caller's struct into this library's: missing fields become zero, unknown ones must be.
template <class Struct>
Status read_struct(const char *name, const Struct *from, Struct &to) {
    to = {};
    if (from == nullptr) {
        return fail(KVAPPEND_ERROR_NULL_ARGUMENT, "%s is NULL: expected a struct", name);
    }
    const std::size_t size = struct_size_of(from);
    if (const Status status = check_struct_size(name, size); status != KVAPPEND_SUCCESS) {
        return status;
    }
    const auto *const bytes = reinterpret_cast<const unsigned char *>(from);
    for (std::size_t i = sizeof(Struct); i < size; ++i) {
        if (bytes[i] != 0) {
            return fail(KVAPPEND_ERROR_STRUCT_SIZE,
                        "%s.struct_size is %zu and byte %zu of it is not zero: expected zero in all but the first %zu "
                        "bytes, which are what this library knows",
                        name, size, i, sizeof(Struct));
        }
    }
    std::memcpy(&to, from, std::min(size, sizeof(Struct)));
    to.struct_size = sizeof(Struct);
    return KVAPPEND_SUCCESS;
}

// The same without a copy where the caller's struct is this library's, as it is in each call but those of older and
// newer programs. `copy` must live as long as the view.
template <class Struct>
Status view_struct(const char *name, const Struct *from, Struct &copy, const Struct *&view) {
    if (from != nullptr && struct_size_of(from) == sizeof(Struct)) {
        view = from;
        return KVAPPEND_SUCCESS;
    }
    view = &copy;
    return read_struct(name, from, copy);
}

// Writes this library's struct into the caller's: what it does not know becomes zero. struct_size stays the caller's.
template <class Struct>
void write_struct(const Struct &from, Struct *to) {
    const std::size_t size = struct_size_of(to);
    auto *const bytes = reinterpret_cast<unsigned char *>(to);
    constexpr std::size_t head = sizeof(std::size_t);
    const std::size_t known = std::min(size, sizeof(Struct));
    std::memcpy(bytes + head, reinterpret_cast<const unsigned char *>(&from) + head, known - head);
    std::memset(bytes + known, 0, size - known);
}

static_assert(sizeof(kvappend_descriptor) == 256);
static_assert(offsetof(kvappend_descriptor, backend) == 8);
static_assert(offsetof(kvappend_descriptor, element_type) == 12);
static_assert(offsetof(kvappend_descriptor, offset_type) == 16);
static_assert(offsetof(kvappend_descriptor, addressing) == 20);
static_assert(offsetof(kvappend_descriptor, batch) == 24);
static_assert(offsetof(kvappend_descriptor, heads) == 32);
static_assert(offsetof(kvappend_descriptor, new_rows) == 40);
static_assert(offsetof(kvappend_descriptor, cache_rows) == 48);
static_assert(offsetof(kvappend_descriptor, k_dim) == 56);
static_assert(offsetof(kvappend_descriptor, v_dim) == 64);
static_assert(offsetof(kvappend_descriptor, k_new_strides) == 72);
static_assert(offsetof(kvappend_descriptor, v_new_strides) == 96);
static_assert(offsetof(kvappend_descriptor, k_cache_strides) == 120);
static_assert(offsetof(kvappend_descriptor, v_cache_strides) == 144);
static_assert(offsetof(kvappend_descriptor, lengths) == 168);
static_assert(offsetof(kvappend_descriptor, flags) == 172);
static_assert(offsetof(kvappend_descriptor, cache_blocks) == 176);
static_assert(offsetof(kvappend_descriptor, sink_rows) == 184);
static_assert(offsetof(kvappend_descriptor, table_entries) == 192);
static_assert(offsetof(kvappend_descriptor, table_stride) == 200);
static_assert(offsetof(kvappend_descriptor, reserved_slot) == 208);
static_assert(offsetof(kvappend_descriptor, k_pack) == 216);
static_assert(offsetof(kvappend_descriptor, v_pack) == 224);
static_assert(offsetof(kvappend_descriptor, k_piece_stride) == 232);
static_assert(offsetof(kvappend_descriptor, v_piece_stride) == 240);
static_assert(offsetof(kvappend_descriptor, skip_policy) == 248);
static_assert(offsetof(kvappend_descriptor, reserved) == 252);

static_assert(sizeof(kvappend_preference) == 24);
static_assert(offsetof(kvappend_preference, kernel_name) == 8);
static_assert(offsetof(kvappend_preference, host_threads) == 16);
static_assert(offsetof(kvappend_preference, reserved) == 20);

static_assert(sizeof(kvappend_args) == 200);
static_assert(offsetof(kvappend_args, k_new) == 8);
static_assert(offsetof(kvappend_args, k_new_bytes) == 16);
static_assert(offsetof(kvappend_args, v_new) == 24);
static_assert(offsetof(kvappend_args, v_new_bytes) == 32);
static_assert(offsetof(kvappend_args, k_cache) == 40);
static_assert(offsetof(kvappend_args, k_cache_bytes) == 48);
static_assert(offsetof(kvappend_args, v_cache) == 56);
static_assert(offsetof(kvappend_args, v_cache_bytes) == 64);
static_assert(offsetof(kvappend_args, cache_offsets) == 72);
static_assert(offsetof(kvappend_args, cache_offsets_bytes) == 80);
static_assert(offsetof(kvappend_args, slots) == 88);
static_assert(offsetof(kvappend_args, slots_bytes) == 96);
static_assert(offsetof(kvappend_args, lengths) == 104);
static_assert(offsetof(kvappend_args, lengths_bytes) == 112);
static_assert(offsetof(kvappend_args, left_pads) == 120);
static_assert(offsetof(kvappend_args, left_pads_bytes) == 128);
static_assert(offsetof(kvappend_args, batch_index) == 136);
static_assert(offsetof(kvappend_args, batch_index_bytes) == 144);
static_assert(offsetof(kvappend_args, page_table) == 152);
static_assert(offsetof(kvappend_args, page_table_bytes) == 160);
static_assert(offsetof(kvappend_args, page_indptr) == 168);
static_assert(offsetof(kvappend_args, page_indptr_bytes) == 176);
static_assert(offsetof(kvappend_args, report) == 184);
static_assert(offsetof(kvappend_args, report_bytes) == 192);

static_assert(sizeof(kvappend_report) == 88);
static_assert(offsetof(kvappend_report, rows_written) == 8);
static_assert(offsetof(kvappend_report, rows_replaced) == 16);
static_assert(offsetof(kvappend_report, rows_padding) == 24);
static_assert(offsetof(kvappend_report, rows_below) == 32);
static_assert(offsetof(kvappend_report, rows_above) == 40);
static_assert(offsetof(kvappend_report, first_sample) == 48);
static_assert(offsetof(kvappend_report, first_row) == 56);
static_assert(offsetof(kvappend_report, first_position) == 64);
static_assert(offsetof(kvappend_report, state) == 72);

static_assert(sizeof(kvappend_fault) == 72);
static_assert(offsetof(kvappend_fault, array) == 8);
static_assert(offsetof(kvappend_fault, index) == 16);
static_assert(offsetof(kvappend_fault, value) == 24);
static_assert(offsetof(kvappend_fault, sample) == 32);
static_assert(offsetof(kvappend_fault, row) == 40);
static_assert(offsetof(kvappend_fault, position) == 48);
static_assert(offsetof(kvappend_fault, other_sample) == 56);
static_assert(offsetof(kvappend_fault, other_row) == 64);

static_assert(sizeof(kvappend_sku) == 40);
static_assert(offsetof(kvappend_sku, operation) == 8);
static_assert(offsetof(kvappend_sku, backend) == 12);
static_assert(offsetof(kvappend_sku, element_type) == 16);
static_assert(offsetof(kvappend_sku, architecture) == 20);
static_assert(offsetof(kvappend_sku, k_vector_bytes) == 24);
static_assert(offsetof(kvappend_sku, v_vector_bytes) == 28);
static_assert(offsetof(kvappend_sku, kernel_name) == 32);

static_assert(sizeof(kvappend_precision_guarantee) == 16);
static_assert(offsetof(kvappend_precision_guarantee, bit_exact) == 8);
static_assert(offsetof(kvappend_precision_guarantee, deterministic) == 12);

static_assert(sizeof(kvappend_api) == 168);
static_assert(offsetof(kvappend_api, abi_version) == 8);
static_assert(offsetof(kvappend_api, version) == 12);
static_assert(offsetof(kvappend_api, status_name) == 16);
static_assert(offsetof(kvappend_api, last_error_message) == 24);
static_assert(offsetof(kvappend_api, descriptor_init) == 32);
static_assert(offsetof(kvappend_api, preference_init) == 40);
static_assert(offsetof(kvappend_api, args_init) == 48);
static_assert(offsetof(kvappend_api, sku_init) == 56);
static_assert(offsetof(kvappend_api, precision_guarantee_init) == 64);
static_assert(offsetof(kvappend_api, plan_create) == 72);
static_assert(offsetof(kvappend_api, plan_workspace_size) == 80);
static_assert(offsetof(kvappend_api, plan_can_implement) == 88);
static_assert(offsetof(kvappend_api, plan_run) == 96);
static_assert(offsetof(kvappend_api, plan_destroy) == 104);
static_assert(offsetof(kvappend_api, plan_get_sku) == 112);
static_assert(offsetof(kvappend_api, plan_get_precision_guarantee) == 120);
static_assert(offsetof(kvappend_api, kernel_name) == 128);
static_assert(offsetof(kvappend_api, report_init) == 136);
static_assert(offsetof(kvappend_api, fault_init) == 144);
static_assert(offsetof(kvappend_api, plan_validate) == 152);
static_assert(offsetof(kvappend_api, plan_run_layers) == 160);

} // namespace kvappend
