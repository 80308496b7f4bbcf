// SPDX-License-Identifier: Apache-2.0
#include "check_scenario.hpp"

#include "plan.hpp"
#include "reference.hpp"
#include "reference_format.hpp"
#include "tame.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

namespace {

// Memory of the subject that ends with its scope.
class Block {
public:
    explicit Block(std::size_t bytes) : pointer_(static_cast<unsigned char *>(subject().allocate(bytes))) {}
    Block(const Block &) = delete;
    Block(Block &&other) noexcept : pointer_(std::exchange(other.pointer_, nullptr)) {}
    Block &operator=(const Block &) = delete;
    Block &operator=(Block &&) = delete;
    ~Block() {
        if (pointer_ != nullptr) {
            subject().release(pointer_);
        }
    }
    unsigned char *data() const { return pointer_; }

private:
    unsigned char *pointer_;
};

void fill(std::vector<unsigned char> &bytes, std::mt19937_64 &random) {
    std::size_t i = 0;
    for (; i + 8 <= bytes.size(); i += 8) {
        const std::uint64_t word = random();
        std::memcpy(&bytes[i], &word, 8);
    }
    for (; i < bytes.size(); ++i) {
        bytes[i] = static_cast<unsigned char>(random());
    }
}

void put(const Scenario &scenario, std::size_t buffer, const void *bytes, std::size_t count,
         std::vector<std::vector<unsigned char>> &blocks) {
    if (count != 0 && asks_for(scenario.descriptor, buffer)) {
        std::memcpy(blocks[scenario.locations[buffer].block].data() + scenario.locations[buffer].start, bytes, count);
    }
}

// Writes the arrays of indices in their types.
void put_indices(const Scenario &scenario, std::vector<std::vector<unsigned char>> &blocks) {
    for (const IndexArray &array : index_arrays) {
        const std::vector<std::int64_t> &values = scenario.*array.values;
        const std::size_t width = array.element_bytes(scenario.descriptor);
        std::vector<unsigned char> bytes(values.size() * width);
        for (std::size_t i = 0; i < values.size(); ++i) {
            // Every machine with CUDA is little-endian: the low bytes of an int64 are the int32.
            std::memcpy(bytes.data() + i * width, &values[i], width);
        }
        put(scenario, array.buffer, bytes.data(), bytes.size(), blocks);
    }
}

// Takes the rows that a gather writes.
void take_rows(const Scenario &scenario, TensorIndex tensor, const std::vector<std::vector<unsigned char>> &from,
               std::vector<std::vector<unsigned char>> &to) {
    const kvappend_descriptor &d = scenario.descriptor;
    const Extents e = reference_extents(d, tensor);
    const BufferLocation &location = scenario.locations[tensor];
    const std::size_t width = element_bytes(d.element_type);
    for (std::int64_t b = 0; b < e.batch; ++b) {
        for (std::int64_t h = 0; h < e.heads; ++h) {
            for (std::int64_t l = 0; l < e.rows; ++l) {
                for (std::int64_t i = 0; i < e.dim; ++i) {
                    const std::size_t at =
                        location.start + static_cast<std::size_t>(reference_index(d, tensor, b, h, l, i)) * width;
                    std::memcpy(&to[location.block][at], &from[location.block][at], width);
                }
            }
        }
    }
}

// Takes the rows of a cache, and its computed scales.
void take_cache(const Scenario &scenario, TensorIndex cache, const std::vector<std::vector<unsigned char>> &from,
                std::vector<std::vector<unsigned char>> &to) {
    const kvappend_descriptor &d = scenario.descriptor;
    const Extents e = reference_extents(d, cache);
    const kvappend_storage *const storage = storage_of(d, cache);
    const bool keeps_bits = reference_keeps_bits(storage, d.element_type);
    const std::size_t width = keeps_bits ? element_bytes(d.element_type) : (reference_code_bits(storage->type) + 7) / 8;
    const auto take_bytes = [&](std::size_t buffer, std::int64_t byte, std::size_t count) {
        const BufferLocation &location = scenario.locations[buffer];
        std::memcpy(&to[location.block][location.start + static_cast<std::size_t>(byte)],
                    &from[location.block][location.start + static_cast<std::size_t>(byte)], count);
    };
    const std::size_t scales = scales_index_of(cache);
    const bool computed = storage != nullptr && storage->scaling == KVAPPEND_SCALING_COMPUTED;
    const bool writes_scales = (computed || scenario.moves()) && asks_for(d, scales);
    for (std::int64_t n = 0; n < e.batch; ++n) {
        for (std::int64_t h = 0; h < e.heads; ++h) {
            for (std::int64_t r = 0; r < e.rows; ++r) {
                for (std::int64_t i = 0; i < e.dim; ++i) {
                    take_bytes(cache, reference_code(d, cache, n, h, r, i).byte, width);
                    if (writes_scales) {
                        take_bytes(scales, reference_scale(d, cache, n, h, r, i / reference_group(*storage, e.dim)),
                                   reference_scale_bytes(storage->scale_type));
                    }
                }
            }
        }
    }
}

void take(const Scenario &scenario, std::size_t buffer, const std::vector<std::vector<unsigned char>> &from,
          std::vector<std::vector<unsigned char>> &to) {
    const BufferLocation &location = scenario.locations[buffer];
    for (std::size_t i = 0; i < buffer_bytes(scenario, buffer); ++i) {
        to[location.block][location.start + i] = from[location.block][location.start + i];
    }
}

// By name, for the reader of a failure; the bytes are compared all the same.
void check_report(const kvappend_report &found, const kvappend_report &expected) {
    CHECK(found.rows_written == expected.rows_written);
    CHECK(found.rows_replaced == expected.rows_replaced);
    CHECK(found.rows_padding == expected.rows_padding);
    CHECK(found.rows_below == expected.rows_below);
    CHECK(found.rows_above == expected.rows_above);
    CHECK(found.first_sample == expected.first_sample);
    CHECK(found.first_row == expected.first_row);
    CHECK(found.first_position == expected.first_position);
}

// A scenario with its plan and its memory on the subject, for one run after another.
class Trial {
public:
    // With `sharer`, a scenario that differs in its blocks only, whose plan and arrays of indices are used.
    explicit Trial(const Scenario &scenario, const Trial *sharer = nullptr)
        : scenario_(scenario), now_(scenario), owns_indices_(sharer == nullptr), sharer_(sharer) {
        require_entries(scenario);
        d_ = scenario.descriptor;
        d_.backend = subject().backend();
        kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
        preference.kernel_name = scenario.kernel.empty() ? nullptr : scenario.kernel.c_str();
        preference.host_threads = scenario.host_threads;
        plan_ = sharer != nullptr ? sharer->plan_ : std::shared_ptr<kvappend_plan>(make_plan(d_, &preference));
        for (const std::size_t bytes : scenario.block_bytes) {
            memory_.emplace_back(bytes);
        }
        // The tensors of the other operation are ignored.
        args_.k_new = args_.v_new = args_.k_out = args_.v_out = reinterpret_cast<void *>(std::uintptr_t{1});
        if (scenario.gathers()) {
            give(k_new, args_.k_out, args_.k_out_bytes);
            give(v_new, args_.v_out, args_.v_out_bytes);
        } else {
            give(k_new, args_.k_new, args_.k_new_bytes);
            give(v_new, args_.v_new, args_.v_new_bytes);
        }
        give(k_cache, args_.k_cache, args_.k_cache_bytes);
        give(v_cache, args_.v_cache, args_.v_cache_bytes);
        const Trial &index_owner = sharer != nullptr ? *sharer : *this;
        index_owner.give(offsets_index, args_.cache_offsets, args_.cache_offsets_bytes);
        index_owner.give(slots_index, args_.slots, args_.slots_bytes);
        index_owner.give(from_slots_index, args_.from_slots, args_.from_slots_bytes);
        index_owner.give(lengths_index, args_.lengths, args_.lengths_bytes);
        index_owner.give(left_pads_index, args_.left_pads, args_.left_pads_bytes);
        index_owner.give(batch_index_index, args_.batch_index, args_.batch_index_bytes);
        index_owner.give(page_table_index, args_.page_table, args_.page_table_bytes);
        index_owner.give(page_indptr_index, args_.page_indptr, args_.page_indptr_bytes);
        index_owner.give(token_samples_index, args_.token_samples, args_.token_samples_bytes);
        index_owner.give(token_positions_index, args_.token_positions, args_.token_positions_bytes);
        index_owner.give(token_count_index, args_.token_count, args_.token_count_bytes);
        give(k_scales_index, args_.k_scales, args_.k_scales_bytes);
        give(v_scales_index, args_.v_scales, args_.v_scales_bytes);
        give(k_global_scale_index, args_.k_global_scale, args_.k_global_scale_bytes);
        give(v_global_scale_index, args_.v_global_scale, args_.v_global_scale_bytes);
        give(report_index, args_.report, args_.report_bytes);
        index_owner.give(rotary_cos_index, args_.rotary_cos, args_.rotary_cos_bytes);
        index_owner.give(rotary_sin_index, args_.rotary_sin, args_.rotary_sin_bytes);
        index_owner.give(positions_index, args_.positions, args_.positions_bytes);
        give(q_rows, args_.q, args_.q_bytes);
        give(q_out, args_.q_out, args_.q_out_bytes);
        give(q_scales_index, args_.q_scales, args_.q_scales_bytes);
    }

    const kvappend_plan *plan() const { return plan_.get(); }
    const kvappend_args *args() const { return &args_; }

    void prepare(std::mt19937_64 &random) {
        if (!started_) {
            started_ = true;
            report_.struct_size = random(); // neither read nor written
            if ((d_.flags & KVAPPEND_FLAG_RESET_REPORT) != 0) {
                report_.rows_below = report_.first_row = report_.state[0] = report_.state[1] = -7;
            }
        }
        expected_.clear();
        for (const std::size_t bytes : scenario_.block_bytes) {
            fill(expected_.emplace_back(bytes), random);
        }
        if (scenario_.tame) {
            put_tame_rows(scenario_, random, expected_);
            put_tame_tables(scenario_, random, expected_);
            put_given_scales(scenario_, expected_,
                             [&](auto scale_type, auto /*bits*/) { return tame_scale(scale_type, random); });
        } else {
            put_given_scales(scenario_, expected_,
                             [&](auto /*scale_type*/, auto bits) { return random() % 8 == 0 ? 0 : bits; });
        }
        take_tables();
        put_indices(now_, expected_);
        put(now_, k_global_scale_index, &scenario_.k_global_scale, sizeof(float), expected_);
        put(now_, v_global_scale_index, &scenario_.v_global_scale, sizeof(float), expected_);
        put(now_, report_index, &report_, sizeof report_, expected_);
        for (std::size_t i = 0; i < memory_.size(); ++i) {
            subject().upload(memory_[i].data(), expected_[i].data(), expected_[i].size());
        }
    }

    // Requires every byte of every block to be as it was prepared.
    void compare_untouched() { require_expected(download()); }

    // Starts from the memory that another trial expects after its run.
    void continue_from(const Trial &other) {
        std::ranges::copy(other.expected_, expected_.begin());
        put_indices(now_, expected_); // Offsets may have advanced.
        for (std::size_t i = 0; i < memory_.size(); ++i) {
            subject().upload(memory_[i].data(), expected_[i].data(), expected_[i].size());
        }
    }

    // Requires every byte of every block to be as the reference has it after a run.
    void compare() {
        INFO(scenario_.text());
        const std::vector<std::vector<unsigned char>> found = download();
        if ((scenario_.caches_open || scenario_.rows_open) && scenario_.gathers()) {
            take_rows(scenario_, k_new, found, expected_);
            take_rows(scenario_, v_new, found, expected_);
        } else if (scenario_.caches_open || scenario_.rows_open) {
            take_cache(scenario_, k_cache, found, expected_);
            take_cache(scenario_, v_cache, found, expected_);
            take_queries(found);
        } else {
            reference_run(now_, expected_);
        }
        if (scenario_.rows_open) {
            take(scenario_, offsets_index, found, expected_);
            take(scenario_, report_index, found, expected_);
        } else if (asks_for(d_, report_index)) {
            kvappend_report told_report{};
            std::memcpy(&told_report,
                        found[scenario_.locations[report_index].block].data() + scenario_.locations[report_index].start,
                        sizeof told_report);
            reference_report(now_, report_);
            std::ranges::copy(told_report.state, report_.state);
            check_report(told_report, report_);
            put(now_, report_index, &report_, sizeof report_, expected_);
        }
        if ((d_.flags & KVAPPEND_FLAG_ADVANCE) != 0 && !scenario_.rows_open) {
            now_.offsets = reference_advance(now_);
            if (owns_indices_) {
                put_indices(now_, expected_);
            }
        }
        require_expected(found);
    }

private:
    // Rows of Q do not depend on which of two rows of one place is kept.
    void take_queries(const std::vector<std::vector<unsigned char>> &found) {
        if (scenario_.rows_open) {
            take_cache(scenario_, q_out, found, expected_);
        } else {
            reference_rotate_queries(now_, expected_);
        }
    }

    // The rotary tables of the sharer, which has been prepared, are used.
    void take_tables() {
        for (const std::size_t table : {rotary_cos_index, rotary_sin_index}) {
            const std::size_t bytes = buffer_bytes(scenario_, table);
            if (sharer_ != nullptr && asks_for(d_, table) && bytes != 0) { // An empty block has no data.
                const BufferLocation &from = sharer_->scenario_.locations[table];
                put(scenario_, table, sharer_->expected_[from.block].data() + from.start, bytes, expected_);
            }
        }
    }

    std::vector<std::vector<unsigned char>> download() const {
        std::vector<std::vector<unsigned char>> found;
        for (std::size_t i = 0; i < memory_.size(); ++i) {
            subject().download(found.emplace_back(expected_[i].size()).data(), memory_[i].data(), expected_[i].size());
        }
        return found;
    }

    void require_expected(const std::vector<std::vector<unsigned char>> &found) const {
        for (std::size_t i = 0; i < memory_.size(); ++i) {
            if (expected_[i] == found[i]) { // told much faster than where they differ
                continue;
            }
            const auto differ = std::ranges::mismatch(expected_[i], found[i]);
            INFO("block " << i << " of " << memory_.size() << ", first difference at byte "
                          << differ.in1 - expected_[i].begin() << " of " << found[i].size());
            REQUIRE((differ.in1 == expected_[i].end() && differ.in2 == found[i].end()));
        }
    }

    // What the descriptor does not ask for is ignored, so that an address which is none does no harm.
    template <class Pointer>
    void give(std::size_t buffer, Pointer &pointer, std::size_t &bytes) const {
        if (asks_for(d_, buffer)) {
            pointer = reinterpret_cast<Pointer>(memory_[scenario_.locations[buffer].block].data() +
                                                scenario_.locations[buffer].start);
            bytes = scenario_.pass_sizes ? buffer_bytes(scenario_, buffer) : 0;
        } else {
            pointer = reinterpret_cast<Pointer>(std::uintptr_t{1});
            bytes = 1;
        }
    }

    const Scenario scenario_;
    Scenario now_; // with the offsets that the runs so far have left
    bool owns_indices_;
    const Trial *sharer_;
    kvappend_descriptor d_{};
    std::shared_ptr<kvappend_plan> plan_;
    std::vector<Block> memory_;
    kvappend_args args_ = KVAPPEND_ARGS_INIT;
    bool started_ = false;
    kvappend_report report_{};
    std::vector<std::vector<unsigned char>> expected_;
};

} // namespace

void check_scenario(const Scenario &scenario, std::mt19937_64 &random, int runs) {
    INFO(scenario.text());
    Trial trial(scenario);
    for (int run = 0; run < runs; ++run) {
        INFO("run " << run);
        trial.prepare(random);
        REQUIRE(told(kvappend_plan_can_implement(trial.plan(), trial.args())) == "KVAPPEND_SUCCESS");
        REQUIRE(told(kvappend_plan_run(trial.plan(), trial.args(), nullptr, 0, subject().stream())) ==
                "KVAPPEND_SUCCESS");
        subject().synchronize();
        trial.compare();
    }
}

void check_round_trip(const Scenario &scenario, std::mt19937_64 &random) {
    INFO(scenario.text());
    Trial append(scenario);
    append.prepare(random);
    REQUIRE(told(kvappend_plan_run(append.plan(), append.args(), nullptr, 0, subject().stream())) ==
            "KVAPPEND_SUCCESS");
    subject().synchronize();
    append.compare();

    Scenario backwards = scenario;
    backwards.rotate_nothing();
    kvappend_descriptor &d = backwards.descriptor;
    d.operation = KVAPPEND_OPERATION_GATHER;
    d.flags &= ~(KVAPPEND_FLAG_ADVANCE | KVAPPEND_FLAG_RESET_REPORT | KVAPPEND_FLAG_COUNT_WRITTEN);
    d.flags |= KVAPPEND_FLAG_ZERO_SKIPPED;
    d.skip_policy = KVAPPEND_SKIP_SILENTLY;
    std::ranges::fill(d.k_new_strides, 0); // New rows may be repeated, and outputs may not.
    std::ranges::fill(d.v_new_strides, 0);
    for (const TensorIndex rows : {k_new, v_new}) {
        backwards.locations[rows] = {backwards.block_bytes.size(), 64};
        backwards.block_bytes.push_back(128 + buffer_bytes(backwards, rows));
    }
    Trial gather(backwards);
    gather.prepare(random);
    gather.continue_from(append);
    REQUIRE(told(kvappend_plan_run(gather.plan(), gather.args(), nullptr, 0, subject().stream())) ==
            "KVAPPEND_SUCCESS");
    subject().synchronize();
    gather.compare();
}

kvappend_status check_validate(const Scenario &scenario, std::mt19937_64 &random) {
    INFO(scenario.text());
    Trial trial(scenario);
    trial.prepare(random);
    const kvappend_status status =
        kvappend_plan_validate(trial.plan(), trial.args(), nullptr, 0, subject().stream(), nullptr);
    trial.compare_untouched();
    return status;
}

void check_layers(const std::vector<ScenarioLayer> &layers, std::mt19937_64 &random, int runs) {
    std::vector<std::unique_ptr<Trial>> trials;
    std::vector<const kvappend_plan *> plans;
    std::vector<const kvappend_args *> args;
    for (const ScenarioLayer &layer : layers) {
        const Trial *const sharer =
            layer.shares_with < 0 ? nullptr : trials[static_cast<std::size_t>(layer.shares_with)].get();
        trials.push_back(std::make_unique<Trial>(layer.scenario, sharer));
        plans.push_back(trials.back()->plan());
        args.push_back(trials.back()->args());
    }
    for (int run = 0; run < runs; ++run) {
        INFO("run " << run);
        for (const auto &trial : trials) {
            trial->prepare(random);
        }
        REQUIRE(told(kvappend_plan_run_layers(plans.data(), args.data(), plans.size(), nullptr, 0,
                                              subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
        for (std::size_t i = 0; i < trials.size(); ++i) {
            INFO("layer " << i << " of " << trials.size());
            trials[i]->compare();
        }
    }
}
