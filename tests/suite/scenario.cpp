// SPDX-License-Identifier: Apache-2.0
#include "scenario.hpp"

#include "reference.hpp"
#include "reference_format.hpp"
#include "reference_rotation.hpp"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <sstream>

namespace {

// How many elements an array of indices has, by the header.
std::int64_t entries_of(const kvappend_descriptor &d, std::size_t buffer) {
    switch (buffer) {
    case offsets_index:
        return (d.flags & KVAPPEND_FLAG_SHARED_OFFSET) != 0 ? 1 : d.batch;
    case slots_index:
    case from_slots_index:
    case token_samples_index:
    case token_positions_index:
        return d.new_rows;
    case token_count_index:
        return 1;
    case lengths_index:
        return d.lengths == KVAPPEND_LENGTHS_PACKED ? d.batch + 1 : d.batch;
    case positions_index:
        return d.addressing == KVAPPEND_ADDRESSING_SLOTS || d.lengths >= KVAPPEND_LENGTHS_PACKED ? d.new_rows
                                                                                                 : d.batch * d.new_rows;
    case page_indptr_index:
        return d.batch + 1;
    case page_table_index:
        if (d.addressing != KVAPPEND_ADDRESSING_PAGED || d.table_entries == 0 || d.batch == 0) {
            return d.table_entries;
        }
        return (d.batch - 1) * (d.table_stride == 0 ? d.table_entries : d.table_stride) + d.table_entries;
    default:
        return d.batch;
    }
}

template <class T>
void write(std::ostream &out, const char *name, const std::vector<T> &values) {
    if (!values.empty()) {
        out << ", " << name;
        for (const T value : values) {
            out << ' ' << value;
        }
    }
}

void write(std::ostream &out, const char *name, const kvappend_storage *s) {
    if (s != nullptr) {
        out << ", " << name << " type " << s->type << ", scaling " << s->scaling << ", use " << s->scale_use
            << ", scale type " << s->scale_type << ", scale rounding " << s->scale_rounding << ", order "
            << s->scale_order << ", rounding " << s->rounding << ", nibbles " << s->nibbles << ", global "
            << s->global_scale << ", floors " << s->amax_floor << ' ' << s->scale_floor << ", group " << s->group
            << ", scale strides {" << s->scale_strides[0] << ", " << s->scale_strides[1] << ", " << s->scale_strides[2]
            << ", " << s->scale_strides[3] << '}';
    }
}

std::string list(const std::int64_t (&values)[3]) {
    std::ostringstream out;
    out << '{' << values[0] << ", " << values[1] << ", " << values[2] << '}';
    return out.str();
}

void write(std::ostream &out, const kvappend_rotary *r) {
    if (r != nullptr) {
        out << ", rotary style " << r->style << ", table type " << r->table_type << ", dim " << r->dim << ", first "
            << r->first << ", table rows " << r->table_rows << " by " << r->table_stride << ", H_q " << r->q_heads
            << ", D_q " << r->q_dim << ", first of Q " << r->q_first << ", strides q " << list(r->q_strides)
            << " q_out " << list(r->q_out_strides);
        write(out, "q_storage", r->q_storage);
    }
}

} // namespace

std::mt19937_64 seeded_random() {
    return std::mt19937_64(Catch::getSeed());
}

std::string Scenario::text() const {
    std::ostringstream out;
    const kvappend_descriptor &d = descriptor;
    out << (moves()     ? "move"
            : gathers() ? "gather"
                        : "append")
        << ", element type " << d.element_type << ", offset type " << d.offset_type << ", index type " << d.index_type
        << ", addressing " << d.addressing << ", lengths " << d.lengths << ", flags " << d.flags << ", skip policy "
        << d.skip_policy << ", B " << d.batch << ", H " << d.heads << ", L_new " << d.new_rows << ", N "
        << d.cache_blocks << ", R " << d.cache_rows << ", D_k " << d.k_dim << ", D_v " << d.v_dim << ", sink rows "
        << d.sink_rows << ", table entries " << d.table_entries << " by " << d.table_stride << ", reserved slot "
        << d.reserved_slot << ", reserved page " << d.reserved_page << ", packs " << d.k_pack << ' ' << d.v_pack
        << ", piece strides " << d.k_piece_stride << ' ' << d.v_piece_stride << ", strides k_new "
        << list(d.k_new_strides) << " v_new " << list(d.v_new_strides) << " k_cache " << list(d.k_cache_strides)
        << " v_cache " << list(d.v_cache_strides) << ", kernel \"" << kernel << "\", starts";
    for (const BufferLocation &location : locations) {
        out << ' ' << location.block << ':' << location.start;
    }
    for (const IndexArray &array : index_arrays) {
        write(out, array.name, this->*array.values);
    }
    write(out, "k_storage", d.k_storage);
    write(out, "v_storage", d.v_storage);
    write(out, d.rotary);
    out << ", global scales " << k_global_scale << ' ' << v_global_scale << ", tame " << tame;
    return out.str();
}

bool asks_for(const kvappend_descriptor &d, std::size_t buffer) {
    const bool slots = d.addressing == KVAPPEND_ADDRESSING_SLOTS;
    const bool csr = d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR;
    const bool by_position = d.lengths == KVAPPEND_LENGTHS_PER_TOKEN;
    const bool moves = d.operation == KVAPPEND_OPERATION_MOVE;
    const auto scaled = [&](const kvappend_storage *storage, TensorIndex cache) {
        return storage != nullptr && storage->scaling != KVAPPEND_SCALING_NONE && (!moves || scales_vary(d, cache));
    };
    const bool rotates_q = d.rotary != nullptr && d.rotary->q_heads != 0;
    switch (buffer) {
    case offsets_index:
        return !slots && !by_position && (d.flags & KVAPPEND_FLAG_ZERO_OFFSETS) == 0;
    case k_new:
    case v_new:
        return !moves;
    case slots_index:
        return slots;
    case from_slots_index:
        return moves;
    case lengths_index:
        return d.lengths == KVAPPEND_LENGTHS_PER_SAMPLE || d.lengths == KVAPPEND_LENGTHS_PACKED;
    case left_pads_index:
        return (d.flags & KVAPPEND_FLAG_LEFT_PADS) != 0;
    case batch_index_index:
        return (d.flags & KVAPPEND_FLAG_BATCH_INDEX) != 0;
    case page_table_index:
        return csr || d.addressing == KVAPPEND_ADDRESSING_PAGED;
    case page_indptr_index:
        return csr;
    case token_samples_index:
    case token_positions_index:
        return by_position;
    case token_count_index:
        return (d.flags & KVAPPEND_FLAG_TOKEN_COUNT) != 0;
    case rotary_cos_index:
    case rotary_sin_index:
        return d.rotary != nullptr;
    case q_rows:
    case q_out:
        return rotates_q;
    case q_scales_index:
        return rotates_q && scaled(d.rotary->q_storage, q_out);
    case positions_index:
        return (d.flags & KVAPPEND_FLAG_POSITIONS) != 0;
    case report_index:
        return d.skip_policy == KVAPPEND_SKIP_REPORT;
    case k_scales_index:
        return scaled(d.k_storage, k_cache);
    case v_scales_index:
        return scaled(d.v_storage, v_cache);
    case k_global_scale_index:
        return !moves && d.k_storage != nullptr && d.k_storage->global_scale != 0;
    case v_global_scale_index:
        return !moves && d.v_storage != nullptr && d.v_storage->global_scale != 0;
    default:
        return true;
    }
}

std::size_t buffer_bytes(const Scenario &scenario, std::size_t buffer) {
    const kvappend_descriptor &d = scenario.descriptor;
    if (!asks_for(d, buffer)) {
        return 0;
    }
    if (buffer < tensor_count) {
        return tensor_bytes(d, static_cast<TensorIndex>(buffer));
    }
    if (buffer == report_index) {
        return sizeof(kvappend_report);
    }
    for (const TensorIndex cache : {k_cache, v_cache, q_out}) {
        if (buffer == scales_index_of(cache)) {
            return scales_bytes(d, cache);
        }
    }
    if (buffer == k_global_scale_index || buffer == v_global_scale_index) {
        return sizeof(float);
    }
    if (buffer == rotary_cos_index || buffer == rotary_sin_index) {
        const kvappend_rotary &r = *d.rotary;
        return r.table_rows == 0 ? 0 : reference_table_byte(r, r.table_rows - 1, r.dim / 2);
    }
    const IndexArray &array = *std::ranges::find(index_arrays, buffer, &IndexArray::buffer);
    return static_cast<std::size_t>(entries_of(d, buffer)) * array.element_bytes(d);
}

void require_entries(const Scenario &scenario) {
    const kvappend_descriptor &d = scenario.descriptor;
    for (const IndexArray &array : index_arrays) {
        INFO(array.name);
        REQUIRE((!asks_for(d, array.buffer) ||
                 static_cast<std::int64_t>((scenario.*array.values).size()) == entries_of(d, array.buffer)));
    }
}

void place_apart(Scenario &scenario, std::size_t before, std::size_t after) {
    scenario.block_bytes.clear();
    for (std::size_t buffer = 0; buffer < buffer_count; ++buffer) {
        scenario.locations[buffer] = {buffer, before};
        scenario.block_bytes.push_back(
            asks_for(scenario.descriptor, buffer) ? before + buffer_bytes(scenario, buffer) + after : 0);
    }
}

void join_tables(Scenario &scenario) {
    const kvappend_rotary &r = *scenario.descriptor.rotary;
    const BufferLocation &cos = scenario.locations[rotary_cos_index];
    scenario.block_bytes[scenario.locations[rotary_sin_index].block] = 0;
    scenario.locations[rotary_sin_index] = {cos.block, cos.start + reference_table_byte(r, 0, r.dim / 2)};
    scenario.block_bytes[cos.block] += r.table_rows == 0 ? 0 : reference_table_byte(r, 0, r.dim / 2);
}

void share_block(Scenario &scenario, TensorIndex tensor, TensorIndex with, std::int64_t elements) {
    const BufferLocation &location = scenario.locations[with];
    const std::size_t start =
        location.start + static_cast<std::size_t>(elements) * element_bytes(scenario.descriptor.element_type);
    const std::size_t after =
        scenario.block_bytes[location.block] - location.start - tensor_bytes(scenario.descriptor, with);
    scenario.block_bytes[scenario.locations[tensor].block] = 0;
    scenario.locations[tensor] = {location.block, start};
    scenario.block_bytes[location.block] =
        std::max(scenario.block_bytes[location.block], start + tensor_bytes(scenario.descriptor, tensor) + after);
}
