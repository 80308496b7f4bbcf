// SPDX-License-Identifier: Apache-2.0
#include "case.hpp"

#include "plan.hpp"
#include "reference.hpp"

#include <catch2/catch_get_random_seed.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstring>
#include <memory>
#include <sstream>
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

void put(const Case &c, std::size_t buffer, const void *bytes, std::size_t count,
         std::vector<std::vector<unsigned char>> &blocks) {
    if (count != 0 && asks_for(c.descriptor, buffer)) {
        std::memcpy(blocks[c.places[buffer].block].data() + c.places[buffer].start, bytes, count);
    }
}

// Offsets or slots, in their type.
void put_narrowed(const Case &c, std::size_t buffer, const std::vector<std::int64_t> &values,
                  std::vector<std::vector<unsigned char>> &blocks) {
    const std::size_t width = offset_bytes(c.descriptor.offset_type);
    std::vector<unsigned char> bytes(values.size() * width);
    for (std::size_t i = 0; i < values.size(); ++i) {
        // Little-endian, as every machine with CUDA: the low bytes of an int64 are the int32.
        std::memcpy(bytes.data() + i * width, &values[i], width);
    }
    put(c, buffer, bytes.data(), bytes.size(), blocks);
}

constexpr struct {
    std::size_t buffer;
    std::vector<std::int32_t> Case::*values;
} narrow_arrays[] = {{lengths_index, &Case::lengths},
                     {left_pads_index, &Case::left_pads},
                     {batch_index_index, &Case::batch_index},
                     {page_table_index, &Case::page_table},
                     {page_indptr_index, &Case::page_indptr}};

void put_indices(const Case &c, std::vector<std::vector<unsigned char>> &blocks) {
    put_narrowed(c, offsets_index, c.offsets, blocks);
    put_narrowed(c, slots_index, c.slots, blocks);
    for (const auto &array : narrow_arrays) {
        const std::vector<std::int32_t> &values = c.*array.values;
        put(c, array.buffer, values.data(), values.size() * sizeof(std::int32_t), blocks);
    }
}

// How many elements an array of indices has, by the header.
std::int64_t entries_of(const kvappend_descriptor &d, std::size_t buffer) {
    switch (buffer) {
    case slots_index:
        return d.new_rows;
    case lengths_index:
        return d.lengths == KVAPPEND_LENGTHS_PACKED ? d.batch + 1 : d.batch;
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

std::size_t buffer_bytes(const Case &c, std::size_t buffer) {
    const kvappend_descriptor &d = c.descriptor;
    if (!asks_for(d, buffer)) {
        return 0;
    }
    if (buffer < tensor_count) {
        return tensor_bytes(d, static_cast<TensorIndex>(buffer));
    }
    if (buffer == report_index) {
        return sizeof(kvappend_report);
    }
    const bool wide = buffer == offsets_index || buffer == slots_index;
    return static_cast<std::size_t>(entries_of(d, buffer)) * (wide ? offset_bytes(d.offset_type) : 4);
}

// A case whose arrays do not fit its descriptor would be a fault of the test.
void require_entries(const Case &c) {
    const kvappend_descriptor &d = c.descriptor;
    const auto require = [&](std::size_t buffer, std::size_t size) {
        INFO("buffer " << buffer);
        REQUIRE((!asks_for(d, buffer) || static_cast<std::int64_t>(size) == entries_of(d, buffer)));
    };
    require(offsets_index, c.offsets.size());
    require(slots_index, c.slots.size());
    for (const auto &array : narrow_arrays) {
        require(array.buffer, (c.*array.values).size());
    }
}

void take_tensor(const Case &c, TensorIndex tensor, const std::vector<unsigned char> &from,
                 std::vector<unsigned char> &to) {
    const Extents e = reference_extents(c.descriptor, tensor);
    const std::size_t width = element_bytes(c.descriptor.element_type);
    for (std::int64_t b = 0; b < e.batch; ++b) {
        for (std::int64_t h = 0; h < e.heads; ++h) {
            for (std::int64_t l = 0; l < e.rows; ++l) {
                for (std::int64_t i = 0; i < e.dim; ++i) {
                    const auto at = c.places[tensor].start +
                                    static_cast<std::size_t>(reference_index(c.descriptor, tensor, b, h, l, i)) * width;
                    std::memcpy(&to[at], &from[at], width);
                }
            }
        }
    }
}

void take(const Case &c, std::size_t buffer, const std::vector<std::vector<unsigned char>> &from,
          std::vector<std::vector<unsigned char>> &to) {
    const Place &place = c.places[buffer];
    for (std::size_t i = 0; i < buffer_bytes(c, buffer); ++i) {
        to[place.block][place.start + i] = from[place.block][place.start + i];
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

std::string list(const std::int64_t (&values)[3]) {
    std::ostringstream out;
    out << '{' << values[0] << ", " << values[1] << ", " << values[2] << '}';
    return out.str();
}

} // namespace

std::mt19937_64 seeded_random() {
    return std::mt19937_64(Catch::getSeed());
}

std::string Case::text() const {
    std::ostringstream out;
    const kvappend_descriptor &d = descriptor;
    out << "element type " << d.element_type << ", offset type " << d.offset_type << ", addressing " << d.addressing
        << ", lengths " << d.lengths << ", flags " << d.flags << ", skip policy " << d.skip_policy << ", B " << d.batch
        << ", H " << d.heads << ", L_new " << d.new_rows << ", N " << d.cache_blocks << ", R " << d.cache_rows
        << ", D_k " << d.k_dim << ", D_v " << d.v_dim << ", sink rows " << d.sink_rows << ", table entries "
        << d.table_entries << " by " << d.table_stride << ", reserved slot " << d.reserved_slot << ", packs "
        << d.k_pack << ' ' << d.v_pack << ", piece strides " << d.k_piece_stride << ' ' << d.v_piece_stride
        << ", strides k_new " << list(d.k_new_strides) << " v_new " << list(d.v_new_strides) << " k_cache "
        << list(d.k_cache_strides) << " v_cache " << list(d.v_cache_strides) << ", kernel \"" << kernel << "\", starts";
    for (const Place &place : places) {
        out << ' ' << place.block << ':' << place.start;
    }
    write(out, "offsets", offsets);
    write(out, "slots", slots);
    write(out, "lengths", lengths);
    write(out, "left_pads", left_pads);
    write(out, "batch_index", batch_index);
    write(out, "page_table", page_table);
    write(out, "page_indptr", page_indptr);
    return out.str();
}

bool asks_for(const kvappend_descriptor &d, std::size_t buffer) {
    const bool slots = d.addressing == KVAPPEND_ADDRESSING_SLOTS;
    const bool csr = d.addressing == KVAPPEND_ADDRESSING_PAGED_CSR;
    switch (buffer) {
    case offsets_index:
        return !slots && (d.flags & KVAPPEND_FLAG_ZERO_OFFSETS) == 0;
    case slots_index:
        return slots;
    case lengths_index:
        return d.lengths != KVAPPEND_LENGTHS_FIXED;
    case left_pads_index:
        return (d.flags & KVAPPEND_FLAG_LEFT_PADS) != 0;
    case batch_index_index:
        return (d.flags & KVAPPEND_FLAG_BATCH_INDEX) != 0;
    case page_table_index:
        return csr || d.addressing == KVAPPEND_ADDRESSING_PAGED;
    case page_indptr_index:
        return csr;
    case report_index:
        return d.skip_policy == KVAPPEND_SKIP_REPORT;
    default:
        return true;
    }
}

void place_apart(Case &c, std::size_t before, std::size_t after) {
    c.block_bytes.clear();
    for (std::size_t buffer = 0; buffer < buffer_count; ++buffer) {
        c.places[buffer] = {buffer, before};
        c.block_bytes.push_back(asks_for(c.descriptor, buffer) ? before + buffer_bytes(c, buffer) + after : 0);
    }
}

void share_block(Case &c, TensorIndex tensor, TensorIndex with, std::int64_t elements) {
    const Place &place = c.places[with];
    const std::size_t start =
        place.start + static_cast<std::size_t>(elements) * element_bytes(c.descriptor.element_type);
    const std::size_t after = c.block_bytes[place.block] - place.start - tensor_bytes(c.descriptor, with);
    c.block_bytes[c.places[tensor].block] = 0;
    c.places[tensor] = {place.block, start};
    c.block_bytes[place.block] =
        std::max(c.block_bytes[place.block], start + tensor_bytes(c.descriptor, tensor) + after);
}

namespace {

// A case with its plan and its memory on the subject, for one run after another.
class Trial {
public:
    // With `sharer`, a case that is alike but for its blocks, whose plan and arrays of indices are used.
    explicit Trial(const Case &c, const Trial *sharer = nullptr) : c_(c), now_(c) {
        require_entries(c);
        d_ = c.descriptor;
        d_.backend = subject().backend();
        kvappend_preference preference = KVAPPEND_PREFERENCE_INIT;
        preference.kernel_name = c.kernel.empty() ? nullptr : c.kernel.c_str();
        preference.host_threads = c.host_threads;
        plan_ = sharer != nullptr ? sharer->plan_ : std::shared_ptr<kvappend_plan>(make_plan(d_, &preference));
        for (const std::size_t bytes : c.block_bytes) {
            memory_.emplace_back(bytes);
        }
        give(k_new, args_.k_new, args_.k_new_bytes);
        give(v_new, args_.v_new, args_.v_new_bytes);
        give(k_cache, args_.k_cache, args_.k_cache_bytes);
        give(v_cache, args_.v_cache, args_.v_cache_bytes);
        const Trial &index_owner = sharer != nullptr ? *sharer : *this;
        index_owner.give(offsets_index, args_.cache_offsets, args_.cache_offsets_bytes);
        index_owner.give(slots_index, args_.slots, args_.slots_bytes);
        index_owner.give(lengths_index, args_.lengths, args_.lengths_bytes);
        index_owner.give(left_pads_index, args_.left_pads, args_.left_pads_bytes);
        index_owner.give(batch_index_index, args_.batch_index, args_.batch_index_bytes);
        index_owner.give(page_table_index, args_.page_table, args_.page_table_bytes);
        index_owner.give(page_indptr_index, args_.page_indptr, args_.page_indptr_bytes);
        give(report_index, args_.report, args_.report_bytes);
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
        for (const std::size_t bytes : c_.block_bytes) {
            fill(expected_.emplace_back(bytes), random);
        }
        put_indices(now_, expected_);
        put(now_, report_index, &report_, sizeof report_, expected_);
        for (std::size_t i = 0; i < memory_.size(); ++i) {
            subject().upload(memory_[i].data(), expected_[i].data(), expected_[i].size());
        }
    }

    // Requires every byte of every block to be as it was prepared.
    void compare_untouched() { require_expected(download()); }

    // Requires every byte of every block to be as the reference has it after a run.
    void compare() {
        INFO(c_.text());
        const std::vector<std::vector<unsigned char>> found = download();
        if (c_.caches_open || c_.rows_open) {
            take_tensor(c_, k_cache, found[c_.places[k_cache].block], expected_[c_.places[k_cache].block]);
            take_tensor(c_, v_cache, found[c_.places[v_cache].block], expected_[c_.places[v_cache].block]);
        } else {
            reference_append(now_, expected_);
        }
        if (c_.rows_open) {
            take(c_, offsets_index, found, expected_);
            take(c_, report_index, found, expected_);
        } else if (asks_for(d_, report_index)) {
            kvappend_report told_report{};
            std::memcpy(&told_report, found[c_.places[report_index].block].data() + c_.places[report_index].start,
                        sizeof told_report);
            reference_report(now_, report_);
            std::ranges::copy(told_report.state, report_.state);
            check_report(told_report, report_);
            put(now_, report_index, &report_, sizeof report_, expected_);
        }
        if ((d_.flags & KVAPPEND_FLAG_ADVANCE) != 0 && !c_.rows_open) {
            now_.offsets = reference_advance(now_);
            put_indices(now_, expected_);
        }
        require_expected(found);
    }

private:
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
            pointer = reinterpret_cast<Pointer>(memory_[c_.places[buffer].block].data() + c_.places[buffer].start);
            bytes = c_.pass_sizes ? buffer_bytes(c_, buffer) : 0;
        } else {
            pointer = reinterpret_cast<Pointer>(std::uintptr_t{1});
            bytes = 1;
        }
    }

    const Case c_;
    Case now_; // with the offsets that the runs so far have left
    kvappend_descriptor d_{};
    std::shared_ptr<kvappend_plan> plan_;
    std::vector<Block> memory_;
    kvappend_args args_ = KVAPPEND_ARGS_INIT;
    bool started_ = false;
    kvappend_report report_{};
    std::vector<std::vector<unsigned char>> expected_;
};

} // namespace

void check_case(const Case &c, std::mt19937_64 &random, int runs) {
    INFO(c.text());
    Trial trial(c);
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

kvappend_status check_validate(const Case &c, std::mt19937_64 &random) {
    INFO(c.text());
    Trial trial(c);
    trial.prepare(random);
    const kvappend_status status =
        kvappend_plan_validate(trial.plan(), trial.args(), nullptr, 0, subject().stream(), nullptr);
    trial.compare_untouched();
    return status;
}

void check_layers(const std::vector<LayerCase> &layers, std::mt19937_64 &random, int runs) {
    std::vector<std::unique_ptr<Trial>> trials;
    std::vector<const kvappend_plan *> plans;
    std::vector<const kvappend_args *> args;
    for (const LayerCase &layer : layers) {
        const Trial *const sharer =
            layer.shares_with < 0 ? nullptr : trials[static_cast<std::size_t>(layer.shares_with)].get();
        trials.push_back(std::make_unique<Trial>(layer.c, sharer));
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
