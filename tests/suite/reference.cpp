// SPDX-License-Identifier: Apache-2.0
// The tensors, and what is copied, advanced and counted by the outcome of each row.
#include "reference.hpp"

#include "reference_format.hpp"
#include "reference_rotation.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

namespace {

bool is_new(TensorIndex tensor) {
    return tensor == k_new || tensor == v_new || tensor == q_rows;
}

// Whether the tensor has the rows of new tensors: it does not go by places.
bool has_new_rows(TensorIndex tensor) {
    return is_new(tensor) || tensor == q_out;
}

// The tokens of SLOTS are taken to be packed, as there are no samples: contiguous tensors are [T, H, D].
bool is_of_tokens(const kvappend_descriptor &d) {
    return d.lengths == KVAPPEND_LENGTHS_PACKED || d.lengths == KVAPPEND_LENGTHS_PER_TOKEN ||
           d.addressing == KVAPPEND_ADDRESSING_SLOTS;
}

const std::int64_t *strides_of(const kvappend_descriptor &d, TensorIndex tensor) {
    switch (tensor) {
    case k_new:
        return d.k_new_strides;
    case v_new:
        return d.v_new_strides;
    case k_cache:
        return d.k_cache_strides;
    case v_cache:
        return d.v_cache_strides;
    case q_rows:
        return d.rotary->q_strides;
    default:
        return d.rotary->q_out_strides;
    }
}

std::int64_t pack_of(const kvappend_descriptor &d, TensorIndex cache) {
    return cache == k_cache ? d.k_pack : cache == v_cache ? d.v_pack : 0;
}

// The memory of a scenario's tensors while a run changes it.
class Memory {
public:
    Memory(const Scenario &scenario, std::vector<std::vector<unsigned char>> &blocks)
        : scenario_(scenario), blocks_(blocks) {}

    unsigned char *at(std::size_t buffer, std::int64_t byte) const {
        return blocks_[scenario_.locations[buffer].block].data() + scenario_.locations[buffer].start + byte;
    }
    unsigned char *element(TensorIndex tensor, std::int64_t b, std::int64_t h, std::int64_t l, std::int64_t i) const {
        const kvappend_descriptor &d = scenario_.descriptor;
        return at(tensor,
                  reference_index(d, tensor, b, h, l, i) * static_cast<std::int64_t>(element_bytes(d.element_type)));
    }

private:
    const Scenario &scenario_;
    std::vector<std::vector<unsigned char>> &blocks_;
};

// The bits of the elements of a new row of one head, rotated if the row is of Q, or of K and K is rotated.
std::vector<std::uint32_t> elements_of(const Scenario &scenario, const Memory &memory, const Row &row, std::int64_t h,
                                       TensorIndex from) {
    const kvappend_descriptor &d = scenario.descriptor;
    std::vector<std::uint32_t> elements;
    for (std::int64_t i = 0; i < reference_extents(d, from).dim; ++i) {
        std::memcpy(&elements.emplace_back(0), memory.element(from, row.batch, h, row.source, i),
                    element_bytes(d.element_type));
    }
    if (from == v_new || d.rotary == nullptr) {
        return elements;
    }
    const auto entry = [&](std::size_t table, std::int64_t pair) {
        std::uint32_t bits = 0;
        std::memcpy(&bits,
                    memory.at(table, static_cast<std::int64_t>(reference_table_byte(*d.rotary, row.rotation, pair))),
                    element_bytes(d.rotary->table_type));
        return bits;
    };
    std::vector<std::uint32_t> cos;
    std::vector<std::uint32_t> sin;
    for (std::int64_t pair = 0; pair < d.rotary->dim / 2; ++pair) {
        cos.push_back(entry(rotary_cos_index, pair));
        sin.push_back(entry(rotary_sin_index, pair));
    }
    reference_rotate(*d.rotary, from == k_new ? d.rotary->first : d.rotary->q_first, d.element_type, cos, sin,
                     elements);
    return elements;
}

// A row of one head in another format.
void store_row(const Scenario &scenario, const Memory &memory, const Row &row, std::int64_t h, TensorIndex from,
               TensorIndex to) {
    const kvappend_descriptor &d = scenario.descriptor;
    const kvappend_storage &storage = *storage_of(d, to);
    const std::size_t scales = scales_index_of(to);
    const std::int64_t dim = reference_extents(d, from).dim;
    const std::size_t scale_bytes = reference_scale_bytes(storage.scale_type);
    const auto scale_at = [&](std::int64_t group) {
        return memory.at(scales, reference_scale(d, to, row.block, h, row.cache_row, group));
    };
    const std::int64_t groups = storage.scaling == KVAPPEND_SCALING_NONE ? 0 : dim / reference_group(storage, dim);
    const std::vector<std::uint32_t> elements = elements_of(scenario, memory, row, h, from);
    std::vector<std::uint32_t> given;
    if (storage.scaling == KVAPPEND_SCALING_GIVEN) {
        for (std::int64_t group = 0; group < groups; ++group) {
            std::memcpy(&given.emplace_back(0), scale_at(group), scale_bytes);
        }
    }
    const StoredRow stored = reference_store(storage, d.element_type, elements, given,
                                             to == k_cache ? scenario.k_global_scale : scenario.v_global_scale);
    for (std::int64_t group = 0; storage.scaling == KVAPPEND_SCALING_COMPUTED && group < groups; ++group) {
        std::memcpy(scale_at(group), &stored.scales[static_cast<std::size_t>(group)], scale_bytes);
    }
    const unsigned bits = reference_code_bits(storage.type);
    for (std::int64_t i = 0; i < dim; ++i) {
        const std::uint32_t code = stored.codes[static_cast<std::size_t>(i)];
        const CodePlace place = reference_code(d, to, row.block, h, row.cache_row, i);
        unsigned char *const byte = memory.at(to, place.byte);
        if (bits >= 8) {
            std::memcpy(byte, &code, bits / 8);
        } else if (place.shift != 0) {
            *byte = static_cast<unsigned char>((*byte & 0x0f) | code << 4);
        } else {
            // The other half of the last byte of an odd row is a zero.
            const std::uint32_t zero = storage.type == KVAPPEND_STORED_INT4 ? 8 : 0;
            *byte = static_cast<unsigned char>(code | zero << 4);
        }
    }
}

// Reads a row from the cache and decodes it.
void load_row(const Scenario &scenario, const Memory &memory, const Row &row, std::int64_t h, TensorIndex from,
              TensorIndex to) {
    const kvappend_descriptor &d = scenario.descriptor;
    const kvappend_storage &storage = *storage_of(d, from);
    const std::int64_t dim = reference_extents(d, to).dim;
    const unsigned bits = reference_code_bits(storage.type);
    StoredRow stored;
    for (std::int64_t i = 0; i < dim; ++i) {
        const CodePlace place = reference_code(d, from, row.block, h, row.cache_row, i);
        std::uint32_t code = 0;
        std::memcpy(&code, memory.at(from, place.byte), std::max(bits / 8, 1U));
        stored.codes.push_back(bits < 8 ? code >> place.shift & 15 : code);
    }
    const std::int64_t groups = storage.scaling == KVAPPEND_SCALING_NONE ? 0 : dim / reference_group(storage, dim);
    for (std::int64_t group = 0; group < groups; ++group) {
        std::memcpy(&stored.scales.emplace_back(0),
                    memory.at(from == k_cache ? k_scales_index : v_scales_index,
                              reference_scale(d, from, row.block, h, row.cache_row, group)),
                    reference_scale_bytes(storage.scale_type));
    }
    const std::vector<std::uint32_t> elements = reference_load(
        storage, d.element_type, stored, from == k_cache ? scenario.k_global_scale : scenario.v_global_scale);
    for (std::int64_t i = 0; i < dim; ++i) {
        std::memcpy(memory.element(to, row.batch, h, row.source, i), &elements[static_cast<std::size_t>(i)],
                    element_bytes(d.element_type));
    }
}

// Stores the elements of a rotated row of one head.
void store_rotated_row(const Scenario &scenario, const Memory &memory, const Row &row, std::int64_t h, TensorIndex from,
                       TensorIndex to) {
    const kvappend_descriptor &d = scenario.descriptor;
    const std::vector<std::uint32_t> elements = elements_of(scenario, memory, row, h, from);
    for (std::size_t i = 0; i < elements.size(); ++i) {
        std::memcpy(
            memory.at(to, reference_code(d, to, row.block, h, row.cache_row, static_cast<std::int64_t>(i)).byte),
            &elements[i], element_bytes(d.element_type));
    }
}

// Copies the bits of a row of one head. A row that a gather skips becomes zeros.
void copy_row(const Scenario &scenario, const Memory &memory, const Row &row, std::int64_t h, TensorIndex fresh,
              TensorIndex cache) {
    const kvappend_descriptor &d = scenario.descriptor;
    const std::size_t bytes = element_bytes(d.element_type);
    for (std::int64_t i = 0; i < reference_extents(d, fresh).dim; ++i) {
        unsigned char *const element = memory.element(fresh, row.batch, h, row.source, i);
        if (row.outcome != Outcome::written) {
            std::memset(element, 0, bytes);
            continue;
        }
        unsigned char *const place = memory.at(cache, reference_code(d, cache, row.block, h, row.cache_row, i).byte);
        std::memcpy(scenario.gathers() ? element : place, scenario.gathers() ? place : element, bytes);
    }
}

void run_one_tensor(const Scenario &scenario, const std::vector<Row> &rows, TensorIndex fresh, TensorIndex cache,
                    std::vector<std::vector<unsigned char>> &blocks) {
    const kvappend_descriptor &d = scenario.descriptor;
    const Memory memory(scenario, blocks);
    const bool converts = !reference_keeps_bits(storage_of(d, cache), d.element_type);
    const bool zeroes = (d.flags & KVAPPEND_FLAG_ZERO_SKIPPED) != 0;
    // With nothing to copy, nothing happens.
    if (tensor_bytes(d, fresh) == 0 || tensor_bytes(d, cache) == 0) {
        return;
    }
    for (const Row &row : rows) {
        const bool written = row.outcome == Outcome::written;
        for (std::int64_t h = 0; h < d.heads; ++h) {
            if (written && converts && scenario.gathers()) {
                load_row(scenario, memory, row, h, cache, fresh);
            } else if (written && converts) {
                store_row(scenario, memory, row, h, fresh, cache);
            } else if (written && fresh == k_new && d.rotary != nullptr) {
                store_rotated_row(scenario, memory, row, h, fresh, cache);
            } else if (written || zeroes) {
                copy_row(scenario, memory, row, h, fresh, cache);
            }
        }
    }
}

// The bits of an element of a cache.
std::int64_t code_bits_of(const kvappend_descriptor &d, TensorIndex cache) {
    const kvappend_storage *const storage = storage_of(d, cache);
    return reference_keeps_bits(storage, d.element_type) ? 8 * static_cast<std::int64_t>(element_bytes(d.element_type))
                                                         : reference_code_bits(storage->type);
}

// The bytes that hold a row of one head, and its scales: each by a buffer and a number of bytes from its beginning.
std::vector<std::pair<std::size_t, std::int64_t>> bytes_of_row(const kvappend_descriptor &d, TensorIndex cache,
                                                               std::int64_t n, std::int64_t h, std::int64_t r) {
    std::vector<std::pair<std::size_t, std::int64_t>> bytes;
    const std::int64_t dim = reference_extents(d, cache).dim;
    const kvappend_storage *const storage = storage_of(d, cache);
    for (std::int64_t i = 0; i < dim; ++i) {
        for (std::int64_t byte = 0; byte < (code_bits_of(d, cache) + 7) / 8; ++byte) {
            bytes.emplace_back(cache, reference_code(d, cache, n, h, r, i).byte + byte);
        }
    }
    const std::size_t scales = scales_index_of(cache);
    for (std::int64_t i = 0; asks_for(d, scales) && i < dim; i += reference_group(*storage, dim)) {
        const std::int64_t first = reference_scale(d, cache, n, h, r, i / reference_group(*storage, dim));
        for (std::size_t byte = 0; byte < reference_scale_bytes(storage->scale_type); ++byte) {
            bytes.emplace_back(scales, first + static_cast<std::int64_t>(byte));
        }
    }
    return bytes;
}

// Moves the stored bytes of the rows, one row after the other.
void move_one_tensor(const Scenario &scenario, const std::vector<Row> &rows, TensorIndex cache,
                     std::vector<std::vector<unsigned char>> &blocks) {
    const kvappend_descriptor &d = scenario.descriptor;
    const Memory memory(scenario, blocks);
    for (const Row &row : rows) {
        for (std::int64_t h = 0; row.outcome == Outcome::written && h < d.heads; ++h) {
            std::vector<unsigned char> held;
            for (const auto &[buffer, byte] : bytes_of_row(d, cache, row.from_block, h, row.from_row)) {
                held.push_back(*memory.at(buffer, byte));
            }
            auto next = held.begin();
            for (const auto &[buffer, byte] : bytes_of_row(d, cache, row.block, h, row.cache_row)) {
                *memory.at(buffer, byte) = *next++;
            }
        }
    }
}

} // namespace

std::size_t element_bytes(std::int32_t element_type) {
    switch (element_type) {
    case KVAPPEND_ELEMENT_F64:
        return 8;
    case KVAPPEND_ELEMENT_F32:
        return 4;
    case KVAPPEND_ELEMENT_F16:
    case KVAPPEND_ELEMENT_BF16:
        return 2;
    default:
        return 1;
    }
}

Extents reference_extents(const kvappend_descriptor &d, TensorIndex tensor) {
    if (tensor == q_rows || tensor == q_out) {
        return d.rotary == nullptr || d.rotary->q_heads == 0
                   ? Extents{0, 0, 0, 0}
                   : Extents{is_of_tokens(d) ? 1 : d.batch, d.rotary->q_heads, d.new_rows, d.rotary->q_dim};
    }
    const std::int64_t dim = tensor == k_new || tensor == k_cache ? d.k_dim : d.v_dim;
    if (is_new(tensor)) {
        return {is_of_tokens(d) ? 1 : d.batch, d.heads, d.new_rows, dim};
    }
    const bool of_samples = d.addressing == KVAPPEND_ADDRESSING_DENSE || d.addressing == KVAPPEND_ADDRESSING_RING;
    return {of_samples && d.cache_blocks == 0 ? d.batch : d.cache_blocks, d.heads, d.cache_rows, dim};
}

std::int64_t reference_index(const kvappend_descriptor &d, TensorIndex tensor, std::int64_t b, std::int64_t h,
                             std::int64_t l, std::int64_t i) {
    const Extents e = reference_extents(d, tensor);
    const std::int64_t *const s = strides_of(d, tensor);
    const bool contiguous = s[0] == 0 && s[1] == 0 && s[2] == 0;
    if (has_new_rows(tensor)) {
        if (is_of_tokens(d)) {
            return contiguous ? (l * e.heads + h) * e.dim + i : l * s[2] + h * s[1] + i;
        }
        return contiguous ? ((b * e.heads + h) * e.rows + l) * e.dim + i : b * s[0] + h * s[1] + l * s[2] + i;
    }
    const std::int64_t given_pack = pack_of(d, tensor);
    if (given_pack == 0) {
        return contiguous ? ((b * e.heads + h) * e.rows + l) * e.dim + i : b * s[0] + h * s[1] + l * s[2] + i;
    }
    const std::int64_t piece = i / given_pack;
    const std::int64_t within = i % given_pack;
    if (contiguous) { // [N, H, D/pack, R, pack]
        return (((b * e.heads + h) * (e.dim / given_pack) + piece) * e.rows + l) * given_pack + within;
    }
    const std::int64_t piece_stride = tensor == k_cache ? d.k_piece_stride : d.v_piece_stride;
    return b * s[0] + h * s[1] + l * s[2] + piece * piece_stride + within;
}

const kvappend_storage *storage_of(const kvappend_descriptor &d, TensorIndex cache) {
    if (cache == q_out) {
        return d.rotary == nullptr || d.rotary->q_heads == 0 ? nullptr : d.rotary->q_storage;
    }
    return cache == k_cache ? d.k_storage : d.v_storage;
}

std::int64_t reference_row_bytes(const kvappend_descriptor &d, TensorIndex cache) {
    return (reference_extents(d, cache).dim * code_bits_of(d, cache) + 7) / 8;
}

CodePlace reference_code(const kvappend_descriptor &d, TensorIndex cache, std::int64_t n, std::int64_t h,
                         std::int64_t r, std::int64_t i) {
    const kvappend_storage *const storage = storage_of(d, cache);
    if (storage == nullptr || storage->type == KVAPPEND_STORED_AS_IS) {
        return {reference_index(d, cache, n, h, r, i) * static_cast<std::int64_t>(element_bytes(d.element_type)), 0};
    }
    const Extents e = reference_extents(d, cache);
    const std::int64_t bits = code_bits_of(d, cache);
    // The element whose code would be here if codes that share a byte were adjacent.
    if (storage->nibbles == KVAPPEND_NIBBLES_HALVES) {
        const std::int64_t group = reference_group(*storage, e.dim);
        const std::int64_t in_group = i % group;
        i = i - in_group + (in_group < group / 2 ? 2 * in_group : 2 * (in_group - group / 2) + 1);
    }
    const std::int64_t *const s = strides_of(d, cache);
    const bool contiguous = s[0] == 0 && s[1] == 0 && s[2] == 0;
    const std::int64_t given_pack = pack_of(d, cache);
    const std::int64_t pack = given_pack == 0 ? e.dim : given_pack;
    const std::int64_t piece_bytes = (pack * bits + 7) / 8;
    const std::int64_t in_piece = i % pack * bits;
    std::int64_t byte = 0;
    if (contiguous && cache == q_out && is_of_tokens(d)) {
        byte = (r * e.heads + h) * piece_bytes;
    } else if (contiguous) { // [N, H, D/pack, R, pack]
        byte = (((n * e.heads + h) * (e.dim / pack) + i / pack) * e.rows + r) * piece_bytes;
    } else {
        byte = n * s[0] + h * s[1] + r * s[2] + i / pack * (cache == k_cache ? d.k_piece_stride : d.v_piece_stride);
    }
    return {byte + in_piece / 8, static_cast<unsigned>(in_piece % 8)};
}

std::int64_t reference_scale(const kvappend_descriptor &d, TensorIndex cache, std::int64_t n, std::int64_t h,
                             std::int64_t r, std::int64_t group) {
    const kvappend_storage &storage = *storage_of(d, cache);
    const std::int64_t(&s)[4] = storage.scale_strides;
    if (storage.scale_order == KVAPPEND_SCALE_BY_FOUR_ROWS) {
        const std::int64_t groups =
            reference_extents(d, cache).dim / reference_group(storage, reference_extents(d, cache).dim);
        return n * s[0] + h * s[1] + r / 4 * 4 * groups + group * 4 + r % 4;
    }
    return n * s[0] + h * s[1] + r * s[2] + group * s[3];
}

bool scales_vary(const kvappend_descriptor &d, TensorIndex cache) {
    const kvappend_storage &storage = *storage_of(d, cache);
    const Extents e = reference_extents(d, cache);
    return storage.scale_order == KVAPPEND_SCALE_BY_FOUR_ROWS || (e.batch > 1 && storage.scale_strides[0] != 0) ||
           (e.rows > 1 && storage.scale_strides[2] != 0);
}

std::size_t scales_bytes(const kvappend_descriptor &d, TensorIndex cache) {
    const Extents e = reference_extents(d, cache);
    if (e.batch == 0 || e.heads == 0 || e.rows == 0 || e.dim == 0) {
        return 0;
    }
    const kvappend_storage &storage = *storage_of(d, cache);
    return static_cast<std::size_t>(reference_scale(d, cache, e.batch - 1, e.heads - 1, e.rows - 1,
                                                    e.dim / reference_group(storage, e.dim) - 1)) +
           reference_scale_bytes(storage.scale_type);
}

std::size_t tensor_bytes(const kvappend_descriptor &d, TensorIndex tensor) {
    const Extents e = reference_extents(d, tensor);
    if (e.batch == 0 || e.heads == 0 || e.rows == 0 || e.dim == 0) {
        return 0;
    }
    if (!is_new(tensor)) {
        return static_cast<std::size_t>(
            reference_code(d, tensor, e.batch - 1, e.heads - 1, e.rows - 1, e.dim - 1).byte +
            (code_bits_of(d, tensor) + 7) / 8);
    }
    return static_cast<std::size_t>(reference_index(d, tensor, e.batch - 1, e.heads - 1, e.rows - 1, e.dim - 1) + 1) *
           element_bytes(d.element_type);
}

bool places_differ(const std::vector<Row> &rows) {
    std::set<std::pair<std::int64_t, std::int64_t>> places;
    return std::ranges::all_of(rows, [&](const Row &row) {
        return row.outcome != Outcome::written || places.emplace(row.block, row.cache_row).second;
    });
}

bool samples_keep_apart(const std::vector<Row> &rows) {
    const auto uses = [](const Row &row, std::int64_t block, std::int64_t cache_row) {
        return (row.block == block && row.cache_row == cache_row) ||
               (row.from_block == block && row.from_row == cache_row);
    };
    return std::ranges::none_of(rows, [&](const Row &writer) {
        return writer.outcome == Outcome::written && std::ranges::any_of(rows, [&](const Row &other) {
                   return other.outcome == Outcome::written && other.sample != writer.sample &&
                          uses(other, writer.block, writer.cache_row);
               });
    });
}

void reference_run(const Scenario &scenario, std::vector<std::vector<unsigned char>> &blocks) {
    const std::vector<Row> rows = reference_rows(scenario);
    if (scenario.moves()) {
        move_one_tensor(scenario, rows, k_cache, blocks);
        move_one_tensor(scenario, rows, v_cache, blocks);
        return;
    }
    run_one_tensor(scenario, rows, k_new, k_cache, blocks);
    run_one_tensor(scenario, rows, v_new, v_cache, blocks);
    reference_rotate_queries(scenario, blocks);
}

void reference_rotate_queries(const Scenario &scenario, std::vector<std::vector<unsigned char>> &blocks) {
    const kvappend_descriptor &d = scenario.descriptor;
    const Memory memory(scenario, blocks);
    // With no K to append, nothing happens.
    if (tensor_bytes(d, k_new) == 0 || tensor_bytes(d, k_cache) == 0) {
        return;
    }
    for (Row row : reference_rows(scenario)) {
        // A row of q_out lies where its row of q does.
        row.block = row.batch;
        row.cache_row = row.source;
        for (std::int64_t h = 0; row.rotates_q && h < reference_extents(d, q_out).heads; ++h) {
            if (reference_keeps_bits(storage_of(d, q_out), d.element_type)) {
                store_rotated_row(scenario, memory, row, h, q_rows, q_out);
            } else {
                store_row(scenario, memory, row, h, q_rows, q_out);
            }
        }
    }
}

std::vector<std::int64_t> reference_advance(const Scenario &scenario) {
    const std::int64_t most = scenario.descriptor.offset_type == KVAPPEND_OFFSET_INT64
                                  ? std::numeric_limits<std::int64_t>::max()
                                  : std::numeric_limits<std::int32_t>::max();
    std::vector<std::int64_t> advanced;
    if ((scenario.descriptor.flags & KVAPPEND_FLAG_SHARED_OFFSET) != 0) {
        const std::int64_t offset = scenario.offsets.at(0);
        const Wide sum = Wide{offset} + scenario.descriptor.new_rows;
        advanced.push_back(sum <= 0 ? offset : static_cast<std::int64_t>(std::min<Wide>(sum, most)));
        return advanced;
    }
    for (std::size_t b = 0; b < scenario.offsets.size(); ++b) {
        Wide rows = 0;
        Wide below = 0;
        for (const Row &row : reference_rows(scenario)) {
            if (row.of_sample && row.sample == static_cast<std::int64_t>(b)) {
                rows += 1;
                below += scenario.offsets[b] + row.row < 0;
            }
        }
        const bool excluded =
            (scenario.descriptor.flags & KVAPPEND_FLAG_BATCH_INDEX) != 0 && scenario.batch_index[b] < 0;
        const bool left_out = excluded || below == rows;
        advanced.push_back(left_out ? scenario.offsets[b]
                                    : static_cast<std::int64_t>(std::min<Wide>(scenario.offsets[b] + rows, most)));
    }
    return advanced;
}

void reference_report(const Scenario &scenario, kvappend_report &report) {
    if ((scenario.descriptor.flags & KVAPPEND_FLAG_RESET_REPORT) != 0) {
        const std::size_t struct_size = report.struct_size;
        report = {};
        report.struct_size = struct_size;
    }
    // A first row below or above stays the first for all later runs.
    bool has_first = report.rows_below + report.rows_above > 0;
    const Row *first = nullptr;
    const std::vector<Row> rows = reference_rows(scenario);
    for (const Row &row : rows) {
        report.rows_written +=
            row.outcome == Outcome::written && (scenario.descriptor.flags & KVAPPEND_FLAG_COUNT_WRITTEN) != 0;
        report.rows_replaced += row.outcome == Outcome::replaced;
        report.rows_padding += row.outcome == Outcome::padding;
        report.rows_below += row.outcome == Outcome::below;
        report.rows_above += row.outcome == Outcome::above;
        if (row.outcome != Outcome::below && row.outcome != Outcome::above) {
            continue;
        }
        const bool earlier =
            first == nullptr || row.sample < first->sample || (row.sample == first->sample && row.row < first->row);
        // The rows of tokens are in the order of the tokens.
        if (scenario.descriptor.lengths == KVAPPEND_LENGTHS_PER_TOKEN ? first == nullptr : earlier) {
            first = &row;
        }
    }
    if (first != nullptr && !has_first) {
        report.first_sample = first->sample;
        report.first_row = static_cast<std::int64_t>(first->row);
        report.first_position = static_cast<std::int64_t>(std::clamp<Wide>(
            first->position, std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()));
    }
}
