// SPDX-License-Identifier: Apache-2.0
#include "problem.hpp"

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
void set_pages(Problem &problem, std::int64_t batch, std::int64_t page_rows) {
    kvappend_descriptor &d = problem.descriptor;
    const std::int64_t entries = problem.sequence_rows / page_rows;
    d.cache_blocks = batch * entries;
    d.cache_rows = page_rows;
    problem.page_table.resize(static_cast<std::size_t>(d.cache_blocks));
    std::iota(problem.page_table.begin(), problem.page_table.end(), 0);
    std::shuffle(problem.page_table.begin(), problem.page_table.end(), std::minstd_rand());
    for (std::int64_t sample = 0; sample <= batch; ++sample) {
        problem.page_indptr.push_back(static_cast<std::int32_t>(sample * entries));
    }
    if (d.addressing == KVAPPEND_ADDRESSING_PAGED) {
        d.table_entries = entries;
    } else if (d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
        d.table_entries = d.cache_blocks;
    }
}

} // namespace

Problem make_problem(const Model &model, const Layout &layout, const Step &step, std::size_t most_cache_bytes) {
    const std::int64_t width = element_bytes(model);
    const std::int64_t token_bytes = model.heads * (model.k_dim + model.v_dim) * width;
    const bool ring = layout.addressing == KVAPPEND_ADDRESSING_RING;
    const bool tokens = layout.addressing == KVAPPEND_ADDRESSING_SLOTS || layout.lengths == KVAPPEND_LENGTHS_PACKED;

    Problem problem{};
    problem.element_bytes = static_cast<std::size_t>(width);
    const auto position_bytes = static_cast<std::size_t>(step.batch * token_bytes);
    problem.sequence_rows = static_cast<std::int64_t>(std::bit_floor(most_cache_bytes / position_bytes));
    problem.sequence_rows = std::clamp<std::int64_t>(problem.sequence_rows, 64, 4096);
    if (ring) {
        problem.sequence_rows = std::min(problem.sequence_rows, model.window != 0 ? model.window : 1024);
    } else {
        // A packed sample may have half as many rows more.
        const std::int64_t more = layout.lengths == KVAPPEND_LENGTHS_PACKED ? step.rows / 2 : 0;
        problem.sequence_rows = std::max(problem.sequence_rows, step.rows + more);
    }

    kvappend_descriptor &d = problem.descriptor;
    d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = KVAPPEND_BACKEND_HOST;
    d.element_type = model.element_type;
    d.addressing = layout.addressing;
    d.lengths = layout.lengths;
    d.batch = layout.addressing == KVAPPEND_ADDRESSING_SLOTS ? 1 : step.batch;
    d.heads = model.heads;
    d.new_rows = tokens ? step.batch * step.rows : step.rows;
    d.k_dim = model.k_dim;
    d.v_dim = model.v_dim;
    d.cache_blocks = step.batch;
    d.cache_rows = problem.sequence_rows;
    if (layout.page_rows != 0) {
        set_pages(problem, step.batch, layout.page_rows);
    }
    set_strides(d.k_new_strides, layout.new_by_token, model.heads, d.new_rows, model.k_dim);
    set_strides(d.v_new_strides, layout.new_by_token, model.heads, d.new_rows, model.v_dim);
    set_strides(d.k_cache_strides, layout.cache_by_token, model.heads, d.cache_rows, model.k_dim);
    set_strides(d.v_cache_strides, layout.cache_by_token, model.heads, d.cache_rows, model.v_dim);
    const auto cache_tokens = static_cast<std::size_t>(d.cache_blocks * d.cache_rows * model.heads);
    problem.cache_bytes = cache_tokens * static_cast<std::size_t>((model.k_dim + model.v_dim) * width);
    problem.v_cache_at = cache_tokens * static_cast<std::size_t>(model.k_dim * width);
    if (model.one_row) {
        set_strides(d.k_cache_strides, true, 1, d.cache_rows, model.k_dim + model.v_dim);
        std::copy(std::begin(d.k_cache_strides), std::end(d.k_cache_strides), std::begin(d.v_cache_strides));
        problem.v_cache_at = static_cast<std::size_t>(model.k_dim * width);
    }
    problem.k = rows_of(model.heads, model.k_dim, width, d.k_new_strides, d.k_cache_strides);
    problem.v = rows_of(model.heads, model.v_dim, width, d.v_new_strides, d.v_cache_strides);

    const auto new_tokens = static_cast<std::size_t>(step.batch * step.rows * model.heads);
    problem.new_bytes = new_tokens * static_cast<std::size_t>((model.k_dim + model.v_dim) * width);
    problem.v_new_at = new_tokens * static_cast<std::size_t>(model.k_dim * width);
    problem.written_bytes = problem.new_bytes;
    if (ring) {
        d.sink_rows = ring_sinks;
        const std::int64_t kept = std::min(step.rows, d.cache_rows - ring_sinks);
        problem.written_bytes = static_cast<std::size_t>(step.batch * kept * token_bytes);
    }
    return problem;
}

Indices make_indices(const Problem &problem, const Step &step, std::minstd_rand &random) {
    const kvappend_descriptor &d = problem.descriptor;
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
            indices.places.push_back(draw(problem.sequence_rows, 4 * problem.sequence_rows));
            continue;
        }
        const std::int64_t first = draw(0, problem.sequence_rows - rows);
        if (d.addressing != KVAPPEND_ADDRESSING_SLOTS) {
            indices.places.push_back(first);
            continue;
        }
        for (std::int64_t position = first; position < first + rows; ++position) {
            const std::int64_t entry = (sample * problem.sequence_rows + position) / d.cache_rows;
            const std::int64_t page = problem.page_table[static_cast<std::size_t>(entry)];
            indices.places.push_back(page * d.cache_rows + position % d.cache_rows);
        }
    }
    if (d.lengths == KVAPPEND_LENGTHS_PACKED) {
        indices.lengths.push_back(static_cast<std::int32_t>(token));
    }
    return indices;
}
