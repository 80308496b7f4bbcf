// SPDX-License-Identifier: Apache-2.0
#include "validated.hpp"

#include <array>
#include <cstring>

namespace {

std::string fields(const kvappend_fault &fault) {
    std::string out = fault.array != nullptr ? fault.array : "no array";
    for (const std::int64_t value :
         {fault.index, fault.value, fault.sample, fault.row, fault.position, fault.other_sample, fault.other_row}) {
        out += " " + std::to_string(value);
    }
    return out;
}

} // namespace

Validated::Validated(const kvappend_descriptor &d, const Indices &indices, std::int64_t new_elements)
    : plan_(make_plan(d)) {
    std::mt19937_64 random;
    const bool tokens = d.addressing == KVAPPEND_ADDRESSING_SLOTS || d.lengths == KVAPPEND_LENGTHS_PACKED ||
                        d.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
    const std::int64_t rows = (tokens ? 1 : d.batch) * d.heads * d.new_rows;
    const std::int64_t cached = (d.cache_blocks == 0 ? d.batch : d.cache_blocks) * d.heads * d.cache_rows;
    args.k_new = hold(random_elements<std::uint32_t>(random, new_elements > 0 ? new_elements : rows * d.k_dim),
                      args.k_new_bytes);
    args.v_new = hold(random_elements<std::uint32_t>(random, new_elements > 0 ? new_elements : rows * d.v_dim),
                      args.v_new_bytes);
    args.k_cache = hold(random_elements<std::uint32_t>(random, cached * d.k_dim), args.k_cache_bytes);
    args.v_cache = hold(random_elements<std::uint32_t>(random, cached * d.v_dim), args.v_cache_bytes);
    const bool wide_offsets = d.offset_type == KVAPPEND_OFFSET_INT64;
    const bool wide = d.index_type == KVAPPEND_INDEX_INT64;
    args.cache_offsets = hold_indices(wide_offsets, indices.offsets, args.cache_offsets_bytes);
    args.slots = hold_indices(wide_offsets, indices.slots, args.slots_bytes);
    args.lengths = hold_indices(wide, indices.lengths, args.lengths_bytes);
    args.left_pads = hold_indices(wide, indices.left_pads, args.left_pads_bytes);
    args.batch_index = hold_indices(wide, indices.batch_index, args.batch_index_bytes);
    args.page_table = hold_indices(wide, indices.page_table, args.page_table_bytes);
    args.page_indptr = hold_indices(wide, indices.page_indptr, args.page_indptr_bytes);
    args.token_samples = hold_indices(wide, indices.token_samples, args.token_samples_bytes);
    args.token_positions = hold_indices(wide_offsets, indices.token_positions, args.token_positions_bytes);
    args.token_count = hold_indices(wide, indices.token_count, args.token_count_bytes);
    args.report = reinterpret_cast<kvappend_report *>(
        hold(random_elements<std::uint64_t>(random, sizeof(kvappend_report) / 8), args.report_bytes));
}

void Validated::check_once(const Finding &expected) const {
    kvappend_fault fault;
    std::memset(&fault, 0x7f, sizeof fault); // All of it must be filled.
    fault.struct_size = sizeof fault;
    const std::string found = told(validate(&fault));
    INFO(found);
    INFO(fields(fault) << ", expected " << fields(expected.fault));
    const std::string name = kvappend_status_name(expected.status);
    CHECK(found.starts_with(expected.status == KVAPPEND_SUCCESS ? name : name + ": "));
    CHECK(found.find(expected.words) != std::string::npos);
    CHECK((fault.array == nullptr) == (expected.fault.array == nullptr));
    CHECK(std::string(fault.array != nullptr ? fault.array : "") ==
          (expected.fault.array != nullptr ? expected.fault.array : ""));
    fault.array = expected.fault.array;
    CHECK(std::memcmp(&fault, &expected.fault, sizeof fault) == 0);
}

void Validated::check(const Finding &expected) const {
    check_once(expected);
    // The fault is there to be had, and need not be.
    const std::string found = told(validate(nullptr));
    CHECK(found.find(expected.words) != std::string::npos);
    CHECK(found.starts_with(kvappend_status_name(expected.status)));
    CHECK(untouched());
}

bool Validated::untouched() const {
    for (std::size_t i = 0; i < held_.size(); ++i) {
        if (!held_[i]->holds(contents_[i])) {
            return false;
        }
    }
    return true;
}
