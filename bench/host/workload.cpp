// SPDX-License-Identifier: Apache-2.0
#include "workload.hpp"

#include <algorithm>
#include <bit>
#include <iterator>
#include <numeric>

namespace {

void set_strides(std::int64_t (&strides)[3], bool by_token, std::int64_t heads, std::int64_t rows, std::int64_t dim) {
    strides[KVAPPEND_AXIS_BATCH] = heads * rows * dim;
    strides[KVAPPEND_AXIS_HEAD] = by_token ? dim : rows * dim;
    strides[KVAPPEND_AXIS_ROW] = by_token ? heads * dim : dim;
}

Rows rows_of(std::int64_t heads, std::int64_t dim, std::int64_t width, const std::int64_t (&fresh)[3],
             const std::int64_t (&cache)[3]) {
    Rows rows{heads,
              static_cast<std::size_t>(dim * width),
              fresh[KVAPPEND_AXIS_BATCH] * width,
              fresh[KVAPPEND_AXIS_HEAD] * width,
              fresh[KVAPPEND_AXIS_ROW] * width,
              cache[KVAPPEND_AXIS_BATCH] * width,
              cache[KVAPPEND_AXIS_HEAD] * width,
              cache[KVAPPEND_AXIS_ROW] * width};
    // Where a token's heads lie side by side on both sides, nobody copies them one by one.
    if (rows.new_head == dim * width && rows.head == dim * width) {
        rows.bytes *= static_cast<std::size_t>(heads);
        rows.heads = 1;
    }
    return rows;
}

// The pages of all samples are shuffled, as those of a pool are after a while.
void set_pages(Workload &workload, std::int64_t batch, std::int64_t page_rows) {
    kvappend_descriptor &d = workload.descriptor;
    const std::int64_t entries = workload.sequence_rows / page_rows;
    d.cache_blocks = batch * entries;
    d.cache_rows = page_rows;
    workload.page_table.resize(static_cast<std::size_t>(d.cache_blocks));
    std::iota(workload.page_table.begin(), workload.page_table.end(), 0);
    std::shuffle(workload.page_table.begin(), workload.page_table.end(), std::minstd_rand());
    for (std::int64_t sample = 0; sample <= batch; ++sample) {
        workload.page_indptr.push_back(static_cast<std::int32_t>(sample * entries));
    }
    if (d.addressing == KVAPPEND_ADDRESSING_PAGED) {
        d.table_entries = entries;
    } else if (d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
        d.table_entries = d.cache_blocks;
    }
}

// How many rows a sample's cache has place for.
std::int64_t sequence_rows_of(const Model &model, const Arrangement &arrangement, const Step &step, std::int64_t width,
                              std::size_t most_cache_bytes) {
    const std::int64_t token_bytes = model.heads * (model.k_dim + model.v_dim) * width;
    const auto position_bytes = static_cast<std::size_t>(step.batch * token_bytes);
    const auto most = static_cast<std::int64_t>(std::bit_floor(most_cache_bytes / position_bytes));
    const std::int64_t rows = std::clamp<std::int64_t>(most, 64, 4096);
    if (arrangement.addressing == KVAPPEND_ADDRESSING_RING) {
        return std::min(rows, model.window != 0 ? model.window : 1024);
    }
    // A packed sample may have half as many rows more.
    const std::int64_t more = arrangement.lengths == KVAPPEND_LENGTHS_PACKED ? step.rows / 2 : 0;
    return std::max(rows, step.rows + more);
}

std::int64_t bits_of(std::int32_t stored_type) {
    return stored_type == KVAPPEND_STORED_F16 ? 16 : stored_type == KVAPPEND_STORED_E2M1 ? 4 : 8;
}

// Lays out caches of another format, and their scales: at the end, or for blocks of Q8_0 in front of each block.
void store_in(const Format &format, bool by_token, Workload &workload) {
    kvappend_descriptor &d = workload.descriptor;
    kvappend_storage &s = workload.storage;
    s = KVAPPEND_STORAGE_INIT;
    kvappend_storage_preset(format.preset, &s, sizeof s);
    workload.converts = true;
    const bool computed = s.scaling == KVAPPEND_SCALING_COMPUTED;
    const bool in_front = format.preset == KVAPPEND_PRESET_Q8_0;
    const std::int64_t scale_bytes = s.scale_type == KVAPPEND_SCALE_F32   ? 4
                                     : s.scale_type == KVAPPEND_SCALE_F16 ? 2
                                                                          : 1;
    const std::int64_t groups = !computed ? 0 : s.group == 0 ? 1 : d.k_dim / s.group;
    const std::int64_t codes = d.k_dim * bits_of(s.type) / 8; // bytes of a row
    const std::int64_t scales = groups * scale_bytes;
    const std::int64_t row = in_front ? codes + scales : codes;
    const auto rows = static_cast<std::size_t>(d.cache_blocks * d.cache_rows * d.heads);
    set_strides(d.k_cache_strides, by_token, d.heads, d.cache_rows, row);
    workload.v_cache_at = rows * static_cast<std::size_t>(row);
    if (in_front) {
        d.k_pack = s.group;
        d.k_piece_stride = s.group + scale_bytes;
        std::copy(std::begin(d.k_cache_strides), std::end(d.k_cache_strides), s.scale_strides);
        s.scale_strides[3] = d.k_piece_stride;
        workload.v_scales_at = workload.v_cache_at;
        workload.cache_bytes = 2 * workload.v_cache_at;
        workload.k_cache_at = static_cast<std::size_t>(scale_bytes);
        workload.v_cache_at += workload.k_cache_at;
    } else {
        if (computed) {
            std::int64_t strides[3];
            set_strides(strides, by_token, d.heads, d.cache_rows, scales);
            std::copy(std::begin(strides), std::end(strides), s.scale_strides);
            s.scale_strides[3] = scale_bytes;
        }
        workload.k_scales_at = 2 * workload.v_cache_at;
        workload.v_scales_at = workload.k_scales_at + rows * static_cast<std::size_t>(scales);
        workload.cache_bytes = workload.v_scales_at + rows * static_cast<std::size_t>(scales);
    }
    std::copy(std::begin(d.k_cache_strides), std::end(d.k_cache_strides), d.v_cache_strides);
    d.v_pack = d.k_pack;
    d.v_piece_stride = d.k_piece_stride;
    const std::size_t new_rows = workload.new_bytes / (static_cast<std::size_t>(d.k_dim) * workload.element_bytes);
    workload.written_bytes = (workload.new_bytes + new_rows * static_cast<std::size_t>(codes + scales)) / 2;
}

} // namespace

kvappend_descriptor Workload::described() const {
    kvappend_descriptor result = descriptor;
    result.k_storage = result.v_storage = converts ? &storage : nullptr;
    return result;
}

void Workload::set_buffers(const std::byte *source, std::byte *target, kvappend_args &args) const {
    std::byte *const cache = gathers() ? const_cast<std::byte *>(source) : target; // A gather only reads it.
    args.k_cache = cache + k_cache_at;
    args.v_cache = cache + v_cache_at;
    args.k_cache_bytes = cache_bytes - k_cache_at;
    args.v_cache_bytes = cache_bytes - v_cache_at;
    if (gathers()) {
        args.k_out = target;
        args.v_out = target + v_new_at;
        args.k_out_bytes = v_new_at;
        args.v_out_bytes = new_bytes - v_new_at;
        return;
    }
    args.k_new = source;
    args.v_new = source + v_new_at;
    args.k_new_bytes = v_new_at;
    args.v_new_bytes = new_bytes - v_new_at;
    if (!converts) {
        return;
    }
    const bool given = storage.scaling == KVAPPEND_SCALING_GIVEN;
    args.k_scales = given ? const_cast<std::byte *>(source) : target + k_scales_at;
    args.v_scales = given ? const_cast<std::byte *>(source) : target + v_scales_at;
    args.k_scales_bytes = given ? sizeof(float) : cache_bytes - k_scales_at;
    args.v_scales_bytes = given ? sizeof(float) : cache_bytes - v_scales_at;
    args.k_global_scale = args.v_global_scale = reinterpret_cast<const float *>(source);
    args.k_global_scale_bytes = args.v_global_scale_bytes = sizeof(float);
}

Workload make_workload(const Configuration &configuration, std::size_t most_cache_bytes) {
    const Model &model = *configuration.model;
    const Arrangement &arrangement = *configuration.arrangement;
    const Step &step = *configuration.step;
    const std::int64_t width = element_bytes(configuration.element_type());
    const std::int64_t token_bytes = model.heads * (model.k_dim + model.v_dim) * width;
    const bool ring = arrangement.addressing == KVAPPEND_ADDRESSING_RING;
    const bool tokens =
        arrangement.addressing == KVAPPEND_ADDRESSING_SLOTS || arrangement.lengths == KVAPPEND_LENGTHS_PACKED;

    Workload workload{};
    workload.element_bytes = static_cast<std::size_t>(width);
    workload.sequence_rows = sequence_rows_of(model, arrangement, step, width, most_cache_bytes);

    kvappend_descriptor &d = workload.descriptor;
    d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_HOST;
    d.element_type = configuration.element_type();
    d.operation = configuration.gathers() ? KVAPPEND_OPERATION_GATHER : KVAPPEND_OPERATION_APPEND;
    d.addressing = arrangement.addressing;
    d.lengths = arrangement.lengths;
    d.batch = arrangement.addressing == KVAPPEND_ADDRESSING_SLOTS ? 1 : step.batch;
    d.heads = model.heads;
    d.new_rows = tokens ? step.batch * step.rows : step.rows;
    d.k_dim = model.k_dim;
    d.v_dim = model.v_dim;
    d.cache_blocks = step.batch;
    d.cache_rows = workload.sequence_rows;
    if (arrangement.page_rows != 0) {
        set_pages(workload, step.batch, arrangement.page_rows);
    }
    set_strides(d.k_new_strides, arrangement.new_by_token, model.heads, d.new_rows, model.k_dim);
    set_strides(d.v_new_strides, arrangement.new_by_token, model.heads, d.new_rows, model.v_dim);
    set_strides(d.k_cache_strides, arrangement.cache_by_token, model.heads, d.cache_rows, model.k_dim);
    set_strides(d.v_cache_strides, arrangement.cache_by_token, model.heads, d.cache_rows, model.v_dim);
    const auto cache_tokens = static_cast<std::size_t>(d.cache_blocks * d.cache_rows * model.heads);
    workload.cache_bytes = cache_tokens * static_cast<std::size_t>((model.k_dim + model.v_dim) * width);
    workload.v_cache_at = cache_tokens * static_cast<std::size_t>(model.k_dim * width);
    if (model.one_row) {
        set_strides(d.k_cache_strides, true, 1, d.cache_rows, model.k_dim + model.v_dim);
        std::copy(std::begin(d.k_cache_strides), std::end(d.k_cache_strides), std::begin(d.v_cache_strides));
        workload.v_cache_at = static_cast<std::size_t>(model.k_dim * width);
    }
    workload.k = rows_of(model.heads, model.k_dim, width, d.k_new_strides, d.k_cache_strides);
    workload.v = rows_of(model.heads, model.v_dim, width, d.v_new_strides, d.v_cache_strides);

    const auto new_tokens = static_cast<std::size_t>(step.batch * step.rows * model.heads);
    workload.new_bytes = new_tokens * static_cast<std::size_t>((model.k_dim + model.v_dim) * width);
    workload.v_new_at = new_tokens * static_cast<std::size_t>(model.k_dim * width);
    workload.written_bytes = workload.new_bytes;
    if (ring) {
        d.sink_rows = ring_sinks;
        const std::int64_t kept = std::min(step.rows, d.cache_rows - ring_sinks);
        workload.written_bytes = static_cast<std::size_t>(step.batch * kept * token_bytes);
    }
    if (configuration.format != nullptr) {
        store_in(*configuration.format, arrangement.cache_by_token, workload);
    }
    return workload;
}

Indices make_indices(const Workload &workload, const Step &step, std::minstd_rand &random) {
    const kvappend_descriptor &d = workload.descriptor;
    const auto draw = [&](std::int64_t least, std::int64_t most) {
        return std::uniform_int_distribution<std::int64_t>(least, most)(random);
    };
    Indices indices;
    std::int64_t token = 0;
    std::int64_t more = 0;
    for (std::int64_t sample = 0; sample < step.batch; ++sample) {
        std::int64_t rows = step.rows;
        if (d.lengths == KVAPPEND_LENGTHS_PACKED) {
            // Of each two samples, what one has more the other has less.
            more = sample % 2 == 0 && sample + 1 < step.batch ? draw(0, rows / 2) : -more;
            rows += more;
            indices.lengths.push_back(static_cast<std::int32_t>(token));
            token += rows;
        }
        if (d.addressing == KVAPPEND_ADDRESSING_RING) {
            // It has gone round already, so all new rows go to the part that goes round.
            indices.places.push_back(draw(workload.sequence_rows, 4 * workload.sequence_rows));
            continue;
        }
        const std::int64_t first = draw(0, workload.sequence_rows - rows);
        if (d.addressing != KVAPPEND_ADDRESSING_SLOTS) {
            indices.places.push_back(first);
            continue;
        }
        for (std::int64_t position = first; position < first + rows; ++position) {
            const std::int64_t entry = (sample * workload.sequence_rows + position) / d.cache_rows;
            const std::int64_t page = workload.page_table[static_cast<std::size_t>(entry)];
            indices.places.push_back(page * d.cache_rows + position % d.cache_rows);
        }
    }
    if (d.lengths == KVAPPEND_LENGTHS_PACKED) {
        indices.lengths.push_back(static_cast<std::int32_t>(token));
    }
    return indices;
}
