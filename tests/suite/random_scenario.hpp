// SPDX-License-Identifier: Apache-2.0
// Random combinations of addressing, lengths, flags, layouts and policies, some of them with indices that are out of
// range.
#pragma once

#include "draw.hpp"
#include "random_storage.hpp"
#include "reference.hpp"

#include <numeric>

// Properties that make a scenario take a special way of a backend. Scenarios without a focus seldom take such a way,
// and seldom have indices at its edges.
struct Focus {
    enum class Places {
        drawn,
        pages,      // by a table, samples of one length, pages of a power of two
        slots,      // pages of a power of two
        dense_runs, // adjacent rows that begin before the cache, end after it, or both
        replaced    // more rows than a ring holds
    };
    enum class Widths {
        drawn,
        alike,   // K and V of one layout, in vectors of 16 bytes
        vectors, // in vectors of 16 bytes
        narrow   // no whole vectors, or rows in pieces
    };
    Places places = Places::drawn;
    Widths widths = Widths::drawn;
    std::int64_t least_bytes = 0; // of the new rows
    bool converts = false;        // K or V is stored in another format
    bool rotates = false;         // K is rotated, and Q sometimes; with `converts`, its element types
    bool wide = false;            // rows of hundreds of elements
    std::int32_t operation = -1;  // drawn

    static constexpr std::size_t count = 12;
    static constexpr Focus of(std::size_t number) {
        constexpr Places places[] = {Places::pages, Places::slots, Places::dense_runs, Places::replaced};
        constexpr Widths widths[] = {Widths::alike, Widths::vectors, Widths::narrow};
        return {places[number % 4], widths[number / 4 % 3]};
    }
};

// Draws a scenario field by field; what is drawn later depends on what was drawn before.
template <class Random>
class RandomScenario {
public:
    explicit RandomScenario(Random &random, const Focus &focus = {}) : random_(random), draw_(random), focus_(focus) {}

    // One whose outcome is defined: two rows of one place leave it open which is kept.
    Scenario draw() {
        do {
            draw_once();
        } while (!is_defined(scenario_));
        return scenario_;
    }
    // Whatever comes, so that a few numbers make one scenario.
    Scenario draw_once() {
        scenario_ = Scenario{};
        draw_extents();
        focus_extents();
        draw_policies();
        draw_layouts();
        RandomStorage<Random> storage(random_, scenario_);
        const bool converts = draw_storages(storage);
        draw_rotation(storage);
        draw_indices();
        draw_locations();
        if (converts) {
            storage.place();
        }
        draw_query_location(storage);
        return scenario_;
    }

    // Whether all rows of this number of runs have places of their own.
    static bool is_defined(Scenario scenario) {
        for (int run = 0; run < runs; ++run) {
            if (!scenario.gathers() && !places_differ(reference_rows(scenario))) {
                return false;
            }
            if (has(scenario.descriptor, KVAPPEND_FLAG_ADVANCE)) {
                scenario.offsets = reference_advance(scenario);
            }
        }
        return true;
    }

    static constexpr int runs = 2;

private:
    static bool has(const kvappend_descriptor &d, std::int32_t flag) { return (d.flags & flag) != 0; }

    Random &random_;
    Draw<Random> draw_;
    const Focus focus_;
    Scenario scenario_;
    kvappend_descriptor &d_ = scenario_.descriptor;
    bool pool_ = false;
    bool fused_ = false;
    bool projected_ = false; // k_new, v_new, q and perhaps q_out are parts of the rows of one tensor
    bool in_place_ = false;  // Q is rotated in place

    std::int64_t dim() {
        return focus_.wide ? draw_.template of<std::int64_t>({400, 513, 768, 1026, 1029, 1057, 1536})
                           : draw_.template of<std::int64_t>({0, 1, 2, 3, 5, 8, 16, 23, 40, 64, 80, 128});
    }
    bool of_samples() const {
        return d_.addressing == KVAPPEND_ADDRESSING_DENSE || d_.addressing == KVAPPEND_ADDRESSING_RING;
    }
    std::int64_t blocks() const { return reference_extents(d_, k_cache).batch; }
    bool by_position() const { return d_.lengths == KVAPPEND_LENGTHS_PER_TOKEN; }
    bool narrow_offsets() const { return d_.offset_type == KVAPPEND_OFFSET_INT32; }
    bool narrow_indices() const { return d_.index_type == KVAPPEND_INDEX_INT32; }

    static std::int64_t greatest(bool narrow) {
        return narrow ? std::numeric_limits<std::int32_t>::max() : std::numeric_limits<std::int64_t>::max();
    }
    static std::int64_t least(bool narrow) { return -greatest(narrow) - 1; }
    // An index that is legal in no array. Its lower half is 1, so a read of that half alone would find a legal index.
    static std::int64_t beyond(bool narrow) { return narrow ? greatest(narrow) : (std::int64_t{1} << 32) + 1; }
    bool focused() const { return focus_.places != Focus::Places::drawn; }
    bool whole_vectors() const {
        return focus_.widths == Focus::Widths::alike || focus_.widths == Focus::Widths::vectors;
    }
    std::int64_t vector() const { return static_cast<std::int64_t>(16 / element_bytes(d_.element_type)); }

    void draw_extents() {
        d_.element_type = focus_.converts || focus_.rotates
                              ? draw_.of({KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16})
                              : draw_.element_type();
        d_.offset_type = draw_.of({KVAPPEND_OFFSET_INT64, KVAPPEND_OFFSET_INT32});
        d_.index_type = draw_.of({KVAPPEND_INDEX_INT64, KVAPPEND_INDEX_INT32, KVAPPEND_INDEX_INT32});
        d_.addressing = draw_.of({KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_RING,
                                  KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR, KVAPPEND_ADDRESSING_SLOTS});
        d_.batch = d_.addressing == KVAPPEND_ADDRESSING_SLOTS ? 1 : draw_.between(1, 5);
        d_.heads = draw_.template of<std::int64_t>({1, 2, 3, 8});
        d_.new_rows = draw_.template of<std::int64_t>({1, 1, 2, 3, 5, 9, 20});
        d_.cache_rows = draw_.template of<std::int64_t>({1, 2, 3, 4, 5, 7, 8, 16});
        d_.k_dim = dim();
        d_.v_dim = draw_.one_in(2) ? d_.k_dim : dim();
        if (!of_samples()) {
            d_.cache_blocks = draw_.between(1, 20);
        }
    }

    void focus_extents() {
        const auto rows = [this](std::initializer_list<std::int64_t> fresh, std::initializer_list<std::int64_t> held) {
            d_.new_rows = draw_.of(fresh);
            d_.cache_rows = draw_.of(held);
        };
        switch (focus_.places) {
        case Focus::Places::drawn:
            return;
        case Focus::Places::pages:
            d_.addressing = KVAPPEND_ADDRESSING_PAGED;
            d_.index_type = KVAPPEND_INDEX_INT32;
            rows({1, 1, 2, 3, 5}, {1, 2, 4, 8});
            break;
        case Focus::Places::slots:
            d_.addressing = KVAPPEND_ADDRESSING_SLOTS;
            rows({1, 3, 5, 9}, {1, 2, 4, 8});
            break;
        case Focus::Places::dense_runs:
            d_.addressing = KVAPPEND_ADDRESSING_DENSE;
            rows({1, 2, 3, 5, 9}, {1, 2, 3, 4, 7});
            break;
        case Focus::Places::replaced:
            d_.addressing = KVAPPEND_ADDRESSING_RING;
            rows({2, 4, 5, 9, 20}, {1, 2, 3, 4, 5});
            break;
        }
        d_.batch = d_.addressing == KVAPPEND_ADDRESSING_SLOTS ? 1 : std::max<std::int64_t>(d_.batch, 1);
        d_.cache_blocks = of_samples() ? 0 : draw_.between(1, 9);
        focus_dimensions();
    }

    void focus_dimensions() {
        const std::int64_t unit = whole_vectors() ? vector() : 1;
        const auto some = [&] { return unit * draw_.template of<std::int64_t>({1, 2, 3, 5, 9}); };
        d_.k_dim = some();
        d_.v_dim = focus_.widths == Focus::Widths::alike ? d_.k_dim : draw_.one_in(4) ? 0 : some();
        const auto bytes = [this] {
            return d_.batch * d_.heads * d_.new_rows * (d_.k_dim + d_.v_dim) *
                   static_cast<std::int64_t>(element_bytes(d_.element_type));
        };
        while (bytes() < focus_.least_bytes) {
            if (d_.k_dim < 40 * unit && draw_.one_in(2)) {
                d_.k_dim *= 2;
                d_.v_dim *= 2;
            } else {
                d_.new_rows *= 2;
                d_.cache_rows *= 2;
            }
        }
    }

    // Special ways serve plain samples only, and plans that copy something.
    void focus_policies() {
        constexpr std::int32_t not_plain = KVAPPEND_FLAG_BATCH_INDEX | KVAPPEND_FLAG_LEFT_PADS |
                                           KVAPPEND_FLAG_ZERO_OFFSETS | KVAPPEND_FLAG_END_OFFSETS |
                                           KVAPPEND_FLAG_LAST_PAGE_LENGTHS | KVAPPEND_FLAG_TOKEN_COUNT;
        if (focused() && (focus_.places != Focus::Places::replaced || by_position())) {
            d_.lengths = KVAPPEND_LENGTHS_FIXED;
            d_.flags &= ~not_plain;
        }
    }

    void draw_policies() {
        const bool slots = d_.addressing == KVAPPEND_ADDRESSING_SLOTS;
        if (!slots) {
            d_.lengths = draw_.of({KVAPPEND_LENGTHS_FIXED, KVAPPEND_LENGTHS_FIXED, KVAPPEND_LENGTHS_PER_SAMPLE,
                                   KVAPPEND_LENGTHS_PACKED, KVAPPEND_LENGTHS_PER_TOKEN});
        }
        const auto maybe = [&](bool allowed, std::int64_t n, std::int32_t flag) {
            if (allowed && draw_.one_in(n)) {
                d_.flags |= flag;
            }
        };
        maybe(of_samples(), 2, KVAPPEND_FLAG_BATCH_INDEX);
        maybe(slots, 2, KVAPPEND_FLAG_RESERVED_SLOT);
        maybe(!slots && !of_samples(), 3, KVAPPEND_FLAG_RESERVED_PAGE);
        maybe(slots || by_position(), 3, KVAPPEND_FLAG_TOKEN_COUNT);
        const bool gathers = draw_.one_in(3);
        d_.operation = focus_.operation >= 0 ? focus_.operation
                       : gathers             ? KVAPPEND_OPERATION_GATHER
                                             : KVAPPEND_OPERATION_APPEND;
        maybe(scenario_.gathers(), 2, KVAPPEND_FLAG_ZERO_SKIPPED);
        draw_offset_flags(maybe);
        d_.skip_policy = draw_.of({KVAPPEND_SKIP_SILENTLY, KVAPPEND_SKIP_REPORT});
        maybe(d_.skip_policy == KVAPPEND_SKIP_REPORT, 3, KVAPPEND_FLAG_RESET_REPORT);
        maybe(d_.skip_policy == KVAPPEND_SKIP_REPORT, 2, KVAPPEND_FLAG_COUNT_WRITTEN);
        focus_policies();
        if (of_samples()) {
            const std::int64_t fewest = has(d_, KVAPPEND_FLAG_BATCH_INDEX) ? 1 : d_.batch;
            d_.cache_blocks = draw_.one_in(2) ? 0 : draw_.between(fewest, d_.batch + 4);
        }
        if (d_.addressing == KVAPPEND_ADDRESSING_RING && draw_.one_in(2)) {
            d_.sink_rows = draw_.between(0, d_.cache_rows);
        }
        // With nothing to copy, no row is counted and no offset advances, which the reference does not know.
        const bool copies_alone = d_.skip_policy == KVAPPEND_SKIP_SILENTLY && !has(d_, KVAPPEND_FLAG_ADVANCE);
        if (!copies_alone && d_.k_dim == 0 && d_.v_dim == 0) {
            d_.v_dim = 4;
        }
        if (copies_alone && !focused()) {
            for (std::int64_t *const extent : {&d_.heads, &d_.new_rows, &d_.cache_rows}) {
                if (draw_.one_in(60)) {
                    *extent = 0;
                }
            }
            d_.sink_rows = std::min(d_.sink_rows, d_.cache_rows);
        }
    }

    // Flags that say how the offsets give positions.
    template <class Maybe>
    void draw_offset_flags(const Maybe &maybe) {
        const bool by_offset = d_.addressing != KVAPPEND_ADDRESSING_SLOTS && !by_position();
        constexpr std::int32_t ends = KVAPPEND_FLAG_END_OFFSETS | KVAPPEND_FLAG_LAST_PAGE_LENGTHS;
        maybe(by_offset, 3, KVAPPEND_FLAG_LEFT_PADS);
        maybe(by_offset, 6, KVAPPEND_FLAG_ZERO_OFFSETS);
        const bool has_offsets = by_offset && !has(d_, KVAPPEND_FLAG_ZERO_OFFSETS);
        maybe(has_offsets, 6, KVAPPEND_FLAG_SHARED_OFFSET);
        maybe(has_offsets && d_.addressing == KVAPPEND_ADDRESSING_PAGED_CSR, 3, KVAPPEND_FLAG_LAST_PAGE_LENGTHS);
        maybe(has_offsets && !has(d_, ends), 4, KVAPPEND_FLAG_END_OFFSETS);
        const bool alike = d_.lengths == KVAPPEND_LENGTHS_FIXED && !has(d_, KVAPPEND_FLAG_LEFT_PADS);
        maybe(!scenario_.gathers() && has_offsets && !has(d_, ends) && (alike || !has(d_, KVAPPEND_FLAG_SHARED_OFFSET)),
              3, KVAPPEND_FLAG_ADVANCE);
    }

    // A cache [N, H, D/pack, R, pack], by four axes in any order.
    void draw_pieces(std::int64_t dim, std::int64_t &pack, std::int64_t &piece_stride, std::int64_t (&strides)[3]) {
        if (dim == 0) {
            return;
        }
        pack = std::int64_t{1} << draw_.between(0, 4);
        while (dim % pack != 0) {
            pack /= 2;
        }
        if (draw_.one_in(3)) {
            std::ranges::fill(strides, 0);
            return;
        }
        const std::array<std::int64_t, 4> extents{blocks(), d_.heads, d_.cache_rows, dim / pack};
        std::array<std::size_t, 4> order{0, 1, 2, 3};
        std::ranges::shuffle(order, random_);
        std::int64_t step = pack;
        for (const std::size_t axis : order) {
            step += draw_.one_in(3) ? draw_.between(1, 9) : 0;
            (axis == 3 ? piece_stride : strides[axis]) = step;
            step *= std::max<std::int64_t>(extents[axis], 1);
        }
    }

    // Adjacent rows, or rows apart, with gaps of whole vectors or of any number of elements.
    void focus_strides(std::int64_t (&out)[3], const Extents &extents) {
        std::ranges::fill(out, 0);
        if (draw_.one_in(2)) {
            return;
        }
        const auto gap = [this] { return draw_.one_in(2) ? 0 : whole_vectors() ? vector() : draw_.between(1, 3); };
        const bool adjacent = focus_.places == Focus::Places::dense_runs || draw_.one_in(2);
        out[KVAPPEND_AXIS_ROW] = extents.dim + (adjacent ? 0 : gap());
        out[KVAPPEND_AXIS_HEAD] = out[KVAPPEND_AXIS_ROW] * extents.rows + gap();
        out[KVAPPEND_AXIS_BATCH] = out[KVAPPEND_AXIS_HEAD] * extents.heads + gap();
    }

    void focus_layouts() {
        fused_ = pool_ = false;
        focus_strides(d_.k_new_strides, reference_extents(d_, k_new));
        focus_strides(d_.k_cache_strides, reference_extents(d_, k_cache));
        if (focus_.widths == Focus::Widths::alike) {
            std::ranges::copy(d_.k_new_strides, d_.v_new_strides);
            std::ranges::copy(d_.k_cache_strides, d_.v_cache_strides);
            return;
        }
        focus_strides(d_.v_new_strides, reference_extents(d_, v_new));
        focus_strides(d_.v_cache_strides, reference_extents(d_, v_cache));
        if (focus_.widths == Focus::Widths::narrow && focus_.places != Focus::Places::dense_runs && draw_.one_in(2)) {
            draw_pieces(d_.k_dim, d_.k_pack, d_.k_piece_stride, d_.k_cache_strides);
            draw_pieces(d_.v_dim, d_.v_pack, d_.v_piece_stride, d_.v_cache_strides);
        }
    }

    void draw_layouts() {
        if (focused()) {
            focus_layouts();
            return;
        }
        const std::int64_t fresh[3] = {reference_extents(d_, k_new).batch, d_.heads, d_.new_rows};
        const std::int64_t held[3] = {blocks(), d_.heads, d_.cache_rows};
        const std::int64_t both = d_.k_dim + d_.v_dim;
        fused_ = draw_.one_in(4);
        draw_.strides(d_.k_new_strides, fresh, fused_ ? both : d_.k_dim, !scenario_.gathers());
        draw_.strides(d_.v_new_strides, fresh, d_.v_dim, !scenario_.gathers());
        pool_ = draw_.one_in(4);
        draw_.strides(d_.k_cache_strides, held, pool_ ? both : d_.k_dim, false);
        draw_.strides(d_.v_cache_strides, held, d_.v_dim, false);
        const auto contiguous = [](const std::int64_t(&strides)[3]) {
            return std::ranges::all_of(strides, [](std::int64_t stride) { return stride == 0; });
        };
        if (fused_ = fused_ && !contiguous(d_.k_new_strides); fused_) {
            std::ranges::copy(d_.k_new_strides, d_.v_new_strides);
        }
        if (pool_ = pool_ && !contiguous(d_.k_cache_strides); pool_) {
            std::ranges::copy(d_.k_cache_strides, d_.v_cache_strides);
        } else if (draw_.one_in(3)) {
            draw_pieces(d_.k_dim, d_.k_pack, d_.k_piece_stride, d_.k_cache_strides);
            if (draw_.one_in(2)) {
                draw_pieces(d_.v_dim, d_.v_pack, d_.v_piece_stride, d_.v_cache_strides);
            }
        }
    }

    bool draw_storages(RandomStorage<Random> &storage) {
        if (!focus_.converts && (focused() || draw_.one_in(2))) {
            return false;
        }
        if (!RandomStorage<Random>::serves(d_.element_type) || (d_.k_dim == 0 && d_.v_dim == 0)) {
            return false;
        }
        pool_ = false;
        storage.draw();
        return true;
    }

    // The whole row, parts of it that are whole vectors, or any part.
    void draw_rotation(RandomStorage<Random> &storage) {
        projected_ = in_place_ = false;
        const bool wanted = focus_.rotates || (!focused() && draw_.one_in(4));
        if (!wanted || d_.operation != KVAPPEND_OPERATION_APPEND || d_.k_dim < 2 ||
            !RandomStorage<Random>::serves(d_.element_type)) {
            return;
        }
        kvappend_rotary r = KVAPPEND_ROTARY_INIT;
        r.style = draw_.of({KVAPPEND_ROTARY_HALF, KVAPPEND_ROTARY_INTERLEAVED});
        r.table_type = draw_.of({KVAPPEND_ELEMENT_F32, KVAPPEND_ELEMENT_F16, KVAPPEND_ELEMENT_BF16});
        const std::int64_t unit = draw_.template of<std::int64_t>({1, 1, 8, 16});
        const std::int64_t pairs = std::max<std::int64_t>(d_.k_dim / 2 / unit, 1);
        r.dim = draw_.one_in(2) ? d_.k_dim / 2 * 2 : std::min(2 * unit * draw_.between(1, pairs), d_.k_dim / 2 * 2);
        r.first = draw_.one_in(2) ? 0 : draw_.between(0, (d_.k_dim - r.dim) / unit) * unit;
        r.table_rows = draw_.template of<std::int64_t>({0, 1, 3, 9, 40, 200, 200});
        r.table_stride = draw_.template of<std::int64_t>({0, r.dim, r.dim, r.dim / 2 + draw_.between(1, 9)});
        if (d_.addressing == KVAPPEND_ADDRESSING_SLOTS || draw_.one_in(3)) {
            d_.flags |= KVAPPEND_FLAG_POSITIONS;
        }
        kvappend_storage q_storage;
        if (draw_.one_in(2)) {
            r.q_heads = draw_.template of<std::int64_t>({1, 2, 3, 5, 8});
            r.q_dim = r.dim + (draw_.one_in(2) ? 0 : draw_.between(1, 9));
            r.q_first = draw_.one_in(2) ? 0 : draw_.between(0, r.q_dim - r.dim);
            if (!draw_.one_in(3)) {
                q_storage = storage.draw_query(r.q_heads, r.q_dim);
                r.q_storage = &q_storage;
            }
            draw_query_layout(r);
        }
        scenario_.rotate(r);
        scenario_.tame = draw_.one_in(2);
    }

    // q_out is q, or a tensor of its own, or a part of a projection.
    void draw_query_layout(kvappend_rotary &r) {
        const bool keeps_bits = reference_keeps_bits(r.q_storage, d_.element_type);
        in_place_ = keeps_bits && draw_.one_in(2);
        projected_ = !focused() && !fused_ && draw_.one_in(3);
        const std::int64_t extents[3] = {reference_extents(d_, k_new).batch, r.q_heads, d_.new_rows};
        if (projected_) {
            draw_projection(r);
        } else {
            draw_.strides(r.q_strides, extents, r.q_dim, !in_place_);
        }
        if (in_place_ || (projected_ && keeps_bits)) {
            std::ranges::copy(r.q_strides, r.q_out_strides);
        } else {
            draw_.strides(r.q_out_strides, extents, r.q_dim, false);
        }
        if (r.q_storage != nullptr && r.q_storage->type != KVAPPEND_STORED_AS_IS) {
            for (std::int64_t &stride : r.q_out_strides) {
                stride *= static_cast<std::int64_t>(reference_code_bits(r.q_storage->type) / 8);
            }
        }
    }

    // All heads of Q, then those of K, of V, and again those of Q for q_out.
    void draw_projection(kvappend_rotary &r) {
        const std::int64_t row =
            2 * r.q_heads * r.q_dim + d_.heads * (d_.k_dim + d_.v_dim) + (draw_.one_in(2) ? 0 : draw_.between(1, 9));
        const auto lay_out = [&](std::int64_t(&strides)[3], std::int64_t head) {
            strides[KVAPPEND_AXIS_BATCH] = d_.new_rows * row;
            strides[KVAPPEND_AXIS_HEAD] = head;
            strides[KVAPPEND_AXIS_ROW] = row;
        };
        lay_out(r.q_strides, r.q_dim);
        lay_out(d_.k_new_strides, d_.k_dim);
        lay_out(d_.v_new_strides, d_.v_dim);
    }

    void draw_query_location(RandomStorage<Random> &storage) {
        const kvappend_rotary *const r = d_.rotary;
        if (r == nullptr || r->q_heads == 0) {
            return;
        }
        if (projected_) {
            share_block(scenario_, k_new, q_rows, r->q_heads * r->q_dim);
            share_block(scenario_, v_new, k_new, d_.heads * d_.k_dim);
        }
        if (in_place_) {
            share_block(scenario_, q_out, q_rows, 0);
        } else if (projected_ && reference_keeps_bits(r->q_storage, d_.element_type)) {
            share_block(scenario_, q_out, v_new, d_.heads * d_.v_dim);
        } else {
            storage.align(q_out);
        }
    }

    void draw_rotary_positions() {
        const bool by_token = d_.addressing == KVAPPEND_ADDRESSING_SLOTS || d_.lengths >= KVAPPEND_LENGTHS_PACKED;
        const std::int64_t rows = d_.rotary->table_rows;
        const bool narrow = narrow_offsets();
        for (std::int64_t i = 0; i < (by_token ? 1 : d_.batch) * d_.new_rows; ++i) {
            scenario_.positions.push_back(rows == 0 || draw_.one_in(8)
                                              ? draw_.template of<std::int64_t>({-1, rows, rows + 1, beyond(narrow),
                                                                                 greatest(narrow), least(narrow)})
                                              : draw_.between(0, rows - 1));
        }
    }

    std::vector<std::int64_t> shuffled(std::int64_t count) {
        std::vector<std::int64_t> values(static_cast<std::size_t>(count));
        std::iota(values.begin(), values.end(), 0);
        std::ranges::shuffle(values, random_);
        return values;
    }

    // With a focus, it is usually the number just before or just after the blocks.
    std::int64_t draw_no_block() {
        return focused() && !draw_.one_in(3)
                   ? draw_.template of<std::int64_t>({blocks(), -1})
                   : draw_.template of<std::int64_t>({-1, -1, -2, blocks(), blocks() + 1, beyond(narrow_indices()),
                                                      greatest(narrow_indices()), least(narrow_indices())});
    }

    // Different blocks, as far as there are enough; some are replaced by what is no block.
    std::vector<std::int64_t> different_blocks(std::int64_t count) {
        std::vector<std::int64_t> all = shuffled(blocks());
        std::vector<std::int64_t> chosen;
        const std::int64_t hostility = draw_.template of<std::int64_t>({4, 10, 1000});
        for (std::int64_t i = 0; i < count; ++i) {
            if (all.empty() || draw_.one_in(hostility)) {
                chosen.push_back(draw_no_block());
            } else {
                chosen.push_back(all.back());
                all.pop_back();
            }
        }
        return chosen;
    }

    // Bounds from 0 to `end` in order.
    std::vector<std::int64_t> bounds(std::int64_t end) {
        std::vector<std::int64_t> values;
        for (std::int64_t b = 0; b <= d_.batch; ++b) {
            values.push_back(draw_.between(0, end));
        }
        std::ranges::sort(values);
        if (draw_.one_in(2)) {
            values.front() = 0;
            values.back() = end;
        }
        return values;
    }

    std::int64_t length(std::int64_t most) {
        const bool narrow = narrow_indices();
        return draw_.one_in(12)
                   ? draw_.template of<std::int64_t>({-1, most + 1, beyond(narrow), greatest(narrow), least(narrow)})
                   : draw_.between(0, most);
    }

    // Leaves room between the samples' tables, of entries that are not pages.
    void draw_tables_apart() {
        d_.table_stride = d_.table_entries + draw_.between(1, 3);
        std::vector<std::int64_t> spread(static_cast<std::size_t>((d_.batch - 1) * d_.table_stride + d_.table_entries),
                                         greatest(narrow_indices()));
        for (std::int64_t b = 0; b < d_.batch; ++b) {
            std::copy_n(scenario_.page_table.begin() + b * d_.table_entries, d_.table_entries,
                        spread.begin() + b * d_.table_stride);
        }
        scenario_.page_table = std::move(spread);
    }

    void draw_indices() {
        if (d_.addressing == KVAPPEND_ADDRESSING_PAGED || d_.addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
            const bool csr = d_.addressing == KVAPPEND_ADDRESSING_PAGED_CSR;
            d_.table_entries = draw_.between(0, csr ? 16 : 6);
            scenario_.page_table = different_blocks(d_.table_entries * (csr ? 1 : d_.batch));
            if (!csr && d_.batch > 0 && d_.table_entries > 0 && draw_.one_in(3)) {
                draw_tables_apart();
            }
        }
        if (d_.addressing == KVAPPEND_ADDRESSING_PAGED_CSR) {
            scenario_.page_indptr = bounds(d_.table_entries);
            if (draw_.one_in(4)) {
                scenario_.page_indptr[static_cast<std::size_t>(draw_.between(0, d_.batch))] =
                    draw_.template of<std::int64_t>({-1, -2, 0, d_.table_entries, d_.table_entries + 2,
                                                     greatest(narrow_indices()), least(narrow_indices())});
            }
        }
        if (d_.addressing == KVAPPEND_ADDRESSING_SLOTS) {
            draw_slots();
        }
        d_.reserved_page = has(d_, KVAPPEND_FLAG_RESERVED_PAGE) ? draw_.between(-1, d_.cache_blocks) : 0;
        if (by_position()) {
            draw_positions();
        }
        if (has(d_, KVAPPEND_FLAG_TOKEN_COUNT)) {
            scenario_.token_count.push_back(length(d_.new_rows));
        }
        for (std::int64_t b = 0; b < d_.batch; ++b) {
            draw_sample();
        }
        if (has(d_, KVAPPEND_FLAG_SHARED_OFFSET)) {
            scenario_.offsets.resize(1);
        }
        if (d_.lengths == KVAPPEND_LENGTHS_PACKED) {
            scenario_.lengths = bounds(d_.new_rows);
            if (draw_.one_in(8)) {
                scenario_.lengths.back() += draw_.between(1, 30);
            }
            // How far an offset then advances by rows that are not there is left open.
            if (draw_.one_in(8) && !has(d_, KVAPPEND_FLAG_ADVANCE)) {
                scenario_.lengths.front() -= draw_.between(1, 30);
            }
        }
        if (has(d_, KVAPPEND_FLAG_BATCH_INDEX)) {
            scenario_.batch_index = different_blocks(d_.batch);
        }
        if (has(d_, KVAPPEND_FLAG_POSITIONS)) {
            draw_rotary_positions();
        }
    }

    std::int64_t capacity() {
        return of_samples() ? d_.cache_rows * draw_.template of<std::int64_t>({1, 1, 5})
                            : d_.cache_rows * std::min<std::int64_t>(d_.table_entries, 6);
    }

    void draw_sample() {
        const std::int64_t rows = has(d_, KVAPPEND_FLAG_LAST_PAGE_LENGTHS) ? d_.cache_rows : capacity();
        const bool edge = focused() && !draw_.one_in(4);
        std::int64_t offset = edge ? draw_edge(rows) : draw_.offset(d_.new_rows, rows, narrow_offsets());
        // Sometimes `offset` is taken as the number of rows before the append. The end is then new_rows later.
        if (has(d_, KVAPPEND_FLAG_END_OFFSETS) && offset >= 0 && offset <= rows && draw_.one_in(2)) {
            offset += d_.new_rows;
        }
        scenario_.offsets.push_back(offset);
        if (d_.lengths == KVAPPEND_LENGTHS_PER_SAMPLE) {
            scenario_.lengths.push_back(length(d_.new_rows));
        }
        if (has(d_, KVAPPEND_FLAG_LEFT_PADS)) {
            scenario_.left_pads.push_back(draw_.one_in(3) ? 0 : length(d_.new_rows));
        }
    }

    // Positions that rise within each sample, so that most of them have places of their own.
    void draw_positions() {
        std::vector<std::int64_t> next;
        for (std::int64_t b = 0; b < d_.batch; ++b) {
            next.push_back(draw_.between(0, std::max<std::int64_t>(capacity() - d_.new_rows, 0)));
        }
        for (std::int64_t t = 0; t < d_.new_rows; ++t) {
            const auto sample = static_cast<std::size_t>(draw_.between(0, d_.batch - 1));
            const bool narrow = narrow_indices();
            scenario_.token_samples.push_back(
                draw_.one_in(10)
                    ? draw_.template of<std::int64_t>({-1, d_.batch, beyond(narrow), greatest(narrow), least(narrow)})
                    : static_cast<std::int64_t>(sample));
            scenario_.token_positions.push_back(draw_.one_in(10) ? draw_.offset(1, d_.cache_rows, narrow_offsets())
                                                                 : next[sample]);
            next[sample] += draw_.one_in(4) ? 2 : 1;
        }
    }

    // An offset that puts rows on both sides of one end of the cache, or of both ends.
    std::int64_t draw_edge(std::int64_t capacity) {
        return draw_.one_in(2) ? draw_.between(-d_.new_rows, 0) : capacity - draw_.between(0, d_.new_rows + 1);
    }

    void draw_slots() {
        const std::int64_t count = d_.cache_blocks * d_.cache_rows;
        d_.reserved_slot = has(d_, KVAPPEND_FLAG_RESERVED_SLOT) ? draw_.between(0, count) : 0;
        std::vector<std::int64_t> all = shuffled(count);
        const bool narrow = narrow_offsets();
        for (std::int64_t t = 0; t < d_.new_rows; ++t) {
            if (focused() && draw_.one_in(4)) {
                scenario_.slots.push_back(count);
            } else if (all.empty() || draw_.one_in(4)) {
                scenario_.slots.push_back(draw_.template of<std::int64_t>(
                    {-1, -1, -2, count, count + 1, d_.reserved_slot, greatest(narrow), least(narrow)}));
            } else {
                scenario_.slots.push_back(all.back());
                all.pop_back();
            }
        }
    }

    // Guard bands or none, and starts off by some elements, as in the random tests of dense caches.
    void draw_locations() {
        scenario_.pass_sizes = !draw_.one_in(4);
        const bool guarded = draw_.one_in(2);
        place_apart(scenario_, guarded ? 256 : 0, guarded ? 256 : 0);
        if (draw_.one_in(2) && !whole_vectors()) {
            for (std::size_t buffer = 0; buffer < tensor_count; ++buffer) {
                const auto shift = static_cast<std::size_t>(draw_.template of<std::int64_t>({0, 0, 1, 2, 3, 4, 8})) *
                                   element_bytes(d_.element_type);
                scenario_.locations[buffer].start += shift;
                scenario_.block_bytes[buffer] += shift;
            }
        }
        if (fused_) {
            share_block(scenario_, v_new, k_new, d_.k_dim);
        }
        if (pool_) {
            share_block(scenario_, v_cache, k_cache, d_.k_dim);
        }
        if (d_.rotary != nullptr) {
            draw_tables();
        }
    }

    // Tables that begin anywhere, and some in one block.
    void draw_tables() {
        for (const std::size_t table : {rotary_cos_index, rotary_sin_index}) {
            const std::size_t shift = draw_.one_in(3) ? element_bytes(d_.rotary->table_type) : 0;
            scenario_.locations[table].start += shift;
            scenario_.block_bytes[scenario_.locations[table].block] += shift;
        }
        if (d_.rotary->table_stride == d_.rotary->dim && draw_.one_in(2)) {
            join_tables(scenario_);
        }
    }
};
