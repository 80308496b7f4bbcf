// SPDX-License-Identifier: Apache-2.0
// Arrays of indices that another thread fills with anything while they are read. What a run then copies is open; but
// every access stays inside the buffers, which the memory of the subject sees to, and no row of a source changes.
#include "../../suite/plan.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <thread>
#include <vector>

namespace {

constexpr std::int64_t batch = 4, heads = 2, new_rows = 6, cache_rows = 4, blocks = 5, entries = 3, dim = 8;

// A block of exactly so many bytes of the subject's memory, all zero.
class Block {
public:
    explicit Block(std::int64_t bytes) : bytes_(static_cast<std::size_t>(bytes)), pointer_(subject().allocate(bytes_)) {
        set(0);
    }
    Block(const Block &) = delete;
    Block &operator=(const Block &) = delete;
    ~Block() { subject().release(pointer_); }

    void set(unsigned char byte) {
        const std::vector<unsigned char> image(bytes_, byte);
        subject().upload(pointer_, image.data(), bytes_);
    }
    bool holds_only(unsigned char byte) const {
        std::vector<unsigned char> found(bytes_);
        subject().download(found.data(), pointer_, bytes_);
        return found == std::vector<unsigned char>(bytes_, byte);
    }
    template <class T>
    T *as() const {
        return static_cast<T *>(pointer_);
    }
    std::size_t bytes() const { return bytes_; }

private:
    std::size_t bytes_;
    void *pointer_;
};

// Writes into an array whatever there may be: what leads into the cache, just beside it, and far away.
template <class T>
class Scribbler {
public:
    explicit Scribbler(const Block &block) : array_(block.as<T>()), count_(block.bytes() / sizeof(T)) {}
    void write(std::minstd_rand &random) const {
        static constexpr std::array<T, 16> values = {0,
                                                     1,
                                                     2,
                                                     3,
                                                     4,
                                                     5,
                                                     6,
                                                     19,
                                                     20,
                                                     std::numeric_limits<T>::max(),
                                                     std::numeric_limits<T>::min(),
                                                     -1,
                                                     T{1000},
                                                     T{-1000000},
                                                     std::numeric_limits<T>::max() - 3,
                                                     12};
        for (std::size_t i = 0; i < count_; ++i) {
            // Nearly every read of a run shall find another value than the one before.
            std::atomic_ref(array_[i]).store(values[random() / 16 % values.size()], std::memory_order_relaxed);
        }
    }

private:
    T *array_;
    std::size_t count_;
};

struct Arrays {
    Block offsets{batch * 8};
    Block slots{new_rows * 8};
    Block from_slots{new_rows * 8};
    Block lengths{(batch + 1) * 4};
    Block left_pads{batch * 4};
    Block batch_index{batch * 4};
    Block page_table{batch * entries * 4};
    Block page_indptr{(batch + 1) * 4};
    Block token_count{4};
    Block positions{batch * new_rows * 8};
};

// While it lives, a thread scribbles over all arrays. Offsets are 64 bits of anything, of either type.
class Scribbling {
public:
    explicit Scribbling(const Arrays &a)
        : thread_([this, &a] {
              std::minstd_rand random;
              const std::vector<Scribbler<std::int32_t>> narrow = {
                  Scribbler<std::int32_t>(a.lengths),     Scribbler<std::int32_t>(a.left_pads),
                  Scribbler<std::int32_t>(a.batch_index), Scribbler<std::int32_t>(a.page_table),
                  Scribbler<std::int32_t>(a.page_indptr), Scribbler<std::int32_t>(a.token_count)};
              const std::vector<Scribbler<std::int64_t>> wide = {
                  Scribbler<std::int64_t>(a.offsets), Scribbler<std::int64_t>(a.slots),
                  Scribbler<std::int64_t>(a.from_slots), Scribbler<std::int64_t>(a.positions)};
              while (!over_) {
                  for (const auto &array : narrow) {
                      array.write(random);
                  }
                  for (const auto &array : wide) {
                      array.write(random);
                  }
                  ++rounds_;
              }
          }) {
        while (rounds_ == 0) {
            std::this_thread::yield();
        }
    }
    Scribbling(const Scribbling &) = delete;
    Scribbling &operator=(const Scribbling &) = delete;
    ~Scribbling() {
        over_ = true;
        thread_.join();
    }
    std::int64_t rounds() const { return rounds_; }

private:
    std::atomic<bool> over_ = false;
    std::atomic<std::int64_t> rounds_ = 0;
    std::thread thread_;
};

std::vector<kvappend_descriptor> descriptors() {
    std::vector<kvappend_descriptor> all;
    for (const std::int32_t addressing :
         {KVAPPEND_ADDRESSING_DENSE, KVAPPEND_ADDRESSING_RING, KVAPPEND_ADDRESSING_PAGED, KVAPPEND_ADDRESSING_PAGED_CSR,
          KVAPPEND_ADDRESSING_SLOTS}) {
        const bool slots = addressing == KVAPPEND_ADDRESSING_SLOTS;
        const bool of_samples = addressing <= KVAPPEND_ADDRESSING_RING;
        const bool paged = !of_samples && !slots;
        for (const std::int32_t lengths :
             {KVAPPEND_LENGTHS_FIXED, KVAPPEND_LENGTHS_PER_SAMPLE, KVAPPEND_LENGTHS_PACKED}) {
            for (const std::int32_t flags :
                 {0, KVAPPEND_FLAG_LEFT_PADS | KVAPPEND_FLAG_ADVANCE, +KVAPPEND_FLAG_BATCH_INDEX}) {
                if ((slots && (lengths != KVAPPEND_LENGTHS_FIXED || flags != 0)) ||
                    (flags == KVAPPEND_FLAG_BATCH_INDEX && !of_samples)) {
                    continue;
                }
                for (const std::int32_t policy : {KVAPPEND_SKIP_SILENTLY, KVAPPEND_SKIP_REPORT, KVAPPEND_SKIP_TRAP}) {
                    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
                    d.backend = subject().backend();
                    d.addressing = addressing;
                    d.lengths = lengths;
                    d.flags = flags;
                    d.skip_policy = policy;
                    d.offset_type = all.size() % 2 == 0 ? KVAPPEND_OFFSET_INT64 : KVAPPEND_OFFSET_INT32;
                    d.batch = slots ? 1 : batch;
                    d.heads = heads;
                    d.new_rows = new_rows;
                    d.cache_rows = cache_rows;
                    d.cache_blocks = blocks;
                    d.table_entries = addressing == KVAPPEND_ADDRESSING_PAGED_CSR ? batch * entries
                                      : paged                                     ? entries
                                                                                  : 0;
                    d.sink_rows = addressing == KVAPPEND_ADDRESSING_RING ? 1 : 0;
                    d.k_dim = d.v_dim = dim;
                    if (d.backend != KVAPPEND_BACKEND_CUDA || policy != KVAPPEND_SKIP_TRAP) { // A trap ends the device.
                        all.push_back(d);
                    }
                }
            }
        }
    }
    return all;
}

// Codes of 8 bits in caches for elements of 32 bits, each row with a scale in every head.
const kvappend_storage with_scales = [] {
    kvappend_storage storage = KVAPPEND_STORAGE_INIT;
    storage.type = KVAPPEND_STORED_E4M3;
    storage.scaling = KVAPPEND_SCALING_GIVEN;
    storage.scale_strides[KVAPPEND_AXIS_BATCH] = 4 * heads * cache_rows;
    storage.scale_strides[KVAPPEND_AXIS_HEAD] = 4 * cache_rows;
    storage.scale_strides[KVAPPEND_AXIS_ROW] = 4;
    return storage;
}();

// The tables have the positions 0 to 5.
constexpr std::int64_t table_rows = 6;
const kvappend_rotary halves = [] {
    kvappend_rotary rotary = KVAPPEND_ROTARY_INIT;
    rotary.dim = dim;
    rotary.table_rows = table_rows;
    return rotary;
}();

// The same, and Q with the heads of K.
const kvappend_rotary halves_of_both = [] {
    kvappend_rotary rotary = halves;
    rotary.q_heads = heads;
    rotary.q_dim = dim;
    return rotary;
}();

// Appends that rotate K, by positions of their own and by those of their rows, without and with Q.
std::vector<kvappend_descriptor> rotations() {
    std::vector<kvappend_descriptor> all;
    for (kvappend_descriptor d : descriptors()) {
        if (d.skip_policy != KVAPPEND_SKIP_REPORT) {
            continue;
        }
        d.rotary = all.size() % 2 == 0 ? &halves : &halves_of_both;
        d.flags |= KVAPPEND_FLAG_POSITIONS;
        all.push_back(d);
        if (d.addressing != KVAPPEND_ADDRESSING_SLOTS && d.lengths == KVAPPEND_LENGTHS_FIXED) {
            d.flags &= ~KVAPPEND_FLAG_POSITIONS;
            all.push_back(d);
        }
    }
    return all;
}

// Moves of one sample and of several.
std::vector<kvappend_descriptor> moves() {
    std::vector<kvappend_descriptor> all;
    for (const std::int32_t lengths : {KVAPPEND_LENGTHS_FIXED, KVAPPEND_LENGTHS_PACKED}) {
        for (kvappend_descriptor d : descriptors()) {
            if (d.addressing == KVAPPEND_ADDRESSING_SLOTS) {
                d.operation = KVAPPEND_OPERATION_MOVE;
                d.lengths = lengths;
                d.batch = lengths == KVAPPEND_LENGTHS_PACKED ? batch : 1;
                all.push_back(d);
                d.flags = KVAPPEND_FLAG_TOKEN_COUNT | KVAPPEND_FLAG_RESERVED_SLOT;
                d.reserved_slot = 3;
                d.k_storage = d.v_storage = &with_scales;
                all.push_back(d);
            }
        }
    }
    return all;
}

bool ran(kvappend_status status) {
    return status == KVAPPEND_SUCCESS || status == KVAPPEND_ERROR_SKIPPED;
}

} // namespace

TEST_CASE("indices that change while they are read lead nowhere outside the buffers", "[hostile]") {
    const int runs = subject().backend() == KVAPPEND_BACKEND_CUDA ? 40 : 4000;
    std::vector<kvappend_descriptor> all = descriptors();
    std::ranges::copy(moves(), std::back_inserter(all));
    std::ranges::copy(rotations(), std::back_inserter(all));
    for (const kvappend_descriptor &d : all) {
        INFO("operation " << d.operation << ", addressing " << d.addressing << ", lengths " << d.lengths << ", flags "
                          << d.flags << ", policy " << d.skip_policy << ", offset type " << d.offset_type);
        const bool tokens = d.lengths == KVAPPEND_LENGTHS_PACKED || d.addressing == KVAPPEND_ADDRESSING_SLOTS;
        const std::int64_t source_bytes = (tokens ? 1 : batch) * heads * new_rows * dim * 4;
        Block source(source_bytes);
        Block k(blocks * heads * cache_rows * dim * 4);
        Block v(blocks * heads * cache_rows * dim * 4);
        Block k_scales(blocks * heads * cache_rows * 4);
        Block v_scales(blocks * heads * cache_rows * 4);
        Block q_out(source_bytes);
        Block report(sizeof(kvappend_report));
        const Block cos(table_rows * dim / 2 * 4);
        const Block sin(table_rows * dim / 2 * 4);
        const Arrays arrays;
        source.set(0xff);
        kvappend_args args = KVAPPEND_ARGS_INIT;
        args.k_new = args.v_new = args.q = source.as<void>();
        args.k_new_bytes = args.v_new_bytes = args.q_bytes = source.bytes();
        args.q_out = q_out.as<void>();
        args.q_out_bytes = q_out.bytes();
        args.k_cache = k.as<void>();
        args.v_cache = v.as<void>();
        args.k_cache_bytes = args.v_cache_bytes = d.k_storage == nullptr ? k.bytes() : k.bytes() / 4;
        args.k_scales = k_scales.as<void>();
        args.v_scales = v_scales.as<void>();
        args.cache_offsets = arrays.offsets.as<void>();
        args.slots = arrays.slots.as<void>();
        args.from_slots = arrays.from_slots.as<void>();
        args.lengths = arrays.lengths.as<std::int32_t>();
        args.left_pads = arrays.left_pads.as<std::int32_t>();
        args.batch_index = arrays.batch_index.as<std::int32_t>();
        args.page_table = arrays.page_table.as<std::int32_t>();
        args.page_indptr = arrays.page_indptr.as<std::int32_t>();
        args.token_count = arrays.token_count.as<std::int32_t>();
        args.rotary_cos = cos.as<void>();
        args.rotary_sin = sin.as<void>();
        args.positions = arrays.positions.as<void>();
        args.report = report.as<kvappend_report>();
        const PlanPointer plan = make_plan(d);
        const kvappend_plan *const plans[] = {plan.get(), plan.get()};
        const kvappend_args *const both[] = {&args, &args};
        {
            const Scribbling scribbling(arrays);
            for (int run = 0; run < runs; ++run) {
                REQUIRE(ran(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())));
                if (run % 8 == 0) {
                    REQUIRE(ran(kvappend_plan_run_layers(plans, both, 2, nullptr, 0, subject().stream())));
                    // It may find whatever there is to find.
                    kvappend_fault fault = KVAPPEND_FAULT_INIT;
                    const kvappend_status status =
                        kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), &fault);
                    REQUIRE((status == KVAPPEND_SUCCESS || status >= KVAPPEND_ERROR_SKIPPED));
                }
                subject().synchronize();
            }
            CHECK(scribbling.rounds() > 0);
        }
        CHECK(source.holds_only(0xff));
    }
}
