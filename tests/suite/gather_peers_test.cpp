// SPDX-License-Identifier: Apache-2.0
// Independent implementations of the kernels by which other projects read rows from their caches. A gather gives the
// same bytes.
#include "quantised_call.hpp"

#include <catch2/generators/catch_generators.hpp>

namespace {

// A batch whose samples have pages by a table, and their tokens one after the other in the output.
struct Batch {
    std::int64_t blocks, block_size, entries; // of the table, for each sample
    std::vector<std::int32_t> block_table;
    std::vector<std::int32_t> cu_seq_lens; // known as workspace_starts, too
    std::vector<std::int32_t> seq_starts;

    std::int64_t tokens() const { return cu_seq_lens.back(); }
    std::int64_t samples() const { return static_cast<std::int64_t>(seq_starts.size()); }

    // Calls place(token, block, row of the block) for each token, as the kernels of vLLM do.
    template <class Place>
    void for_each_token(Place place) const {
        for (std::int64_t b = 0; b < samples(); ++b) {
            // A sample starts at a whole page.
            const std::int64_t first_page = seq_starts[at(b)] / block_size;
            for (std::int64_t t = 0; t < cu_seq_lens[at(b) + 1] - cu_seq_lens[at(b)]; ++t) {
                place(cu_seq_lens[at(b)] + t, block_table[at(b * entries + first_page + t / block_size)],
                      t % block_size);
            }
        }
    }
};

Batch draw_batch(std::mt19937_64 &random, std::int64_t samples, std::int64_t block_size) {
    Batch batch{24, block_size, 5, {}, {0}, {}};
    for (std::int64_t b = 0; b < samples; ++b) {
        const std::int64_t first_page = random_between(random, 0, 2);
        batch.seq_starts.push_back(static_cast<std::int32_t>(first_page * block_size));
        const std::int64_t tokens = random_between(random, 0, (batch.entries - first_page) * block_size);
        batch.cu_seq_lens.push_back(batch.cu_seq_lens.back() + static_cast<std::int32_t>(tokens));
        for (std::int64_t i = 0; i < batch.entries; ++i) {
            // Requests with a common prefix share its pages.
            batch.block_table.push_back(static_cast<std::int32_t>(random_between(random, 0, batch.blocks - 1)));
        }
    }
    return batch;
}

// The gather of K, or of K and V, that lie in one pool of bytes.
struct Gather {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    kvappend_args args = KVAPPEND_ARGS_INIT;

    explicit Gather(const Batch &batch) {
        d.backend = subject().backend();
        d.operation = KVAPPEND_OPERATION_GATHER;
        d.addressing = KVAPPEND_ADDRESSING_PAGED;
        d.lengths = KVAPPEND_LENGTHS_PACKED;
        d.offset_type = KVAPPEND_OFFSET_INT32;
        d.batch = batch.samples();
        d.heads = 1;
        d.new_rows = batch.tokens();
        d.cache_blocks = batch.blocks;
        d.cache_rows = batch.block_size;
        d.table_entries = batch.entries;
    }

    void run(const Batch &batch) {
        const Held<std::int32_t> table(batch.block_table);
        const Held<std::int32_t> lengths(batch.cu_seq_lens);
        const Held<std::int32_t> starts(batch.seq_starts);
        args.page_table = table.data(), args.page_table_bytes = table.bytes();
        args.lengths = lengths.data(), args.lengths_bytes = lengths.bytes();
        args.cache_offsets = starts.data(), args.cache_offsets_bytes = starts.bytes();
        const PlanPointer plan = make_plan(d);
        CHECK(told(kvappend_plan_validate(plan.get(), &args, nullptr, 0, subject().stream(), nullptr)) ==
              "KVAPPEND_SUCCESS");
        REQUIRE(told(kvappend_plan_run(plan.get(), &args, nullptr, 0, subject().stream())) == "KVAPPEND_SUCCESS");
        subject().synchronize();
    }
};

// Decodes E4M3 by its definition.
float e4m3_number(unsigned char code) {
    const float magnitude =
        (code & 0x7f) == 0x7f ? std::numeric_limits<float>::quiet_NaN() : nearest_e4m3.number(code & 0x7fU);
    return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// Rounds to bfloat16, ties to even. NaN has all its bits but the sign.
std::uint16_t to_bf16(float number) {
    const auto bits = std::bit_cast<std::uint32_t>(number);
    return std::isnan(number) ? std::uint16_t{0x7fff}
                              : static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <class T>
T get(const Bytes &bytes, std::int64_t at_byte) {
    T value;
    std::memcpy(&value, bytes.data() + at_byte, sizeof value);
    return value;
}

} // namespace

TEST_CASE("vLLM's cp_gather_cache", "[gather]") {
    // csrc/libtorch_stable/cache_kernels.cu, cp_gather_cache: src_cache [blocks, block_size, entry].
    auto random = seeded_random();
    for (const std::int64_t entry : {1, 64, 576}) {
        const Batch batch = draw_batch(random, 4, 16);
        const auto cache = random_elements<std::uint16_t>(random, batch.blocks * batch.block_size * entry);
        std::vector<std::uint16_t> expected(at(batch.tokens() * entry), 0x1234);
        const Held<std::uint16_t> out(expected);
        batch.for_each_token([&](auto token, auto block, auto row) {
            std::copy_n(cache.begin() + (block * batch.block_size + row) * entry, entry,
                        expected.begin() + token * entry);
        });
        const Held<std::uint16_t> pool(cache);
        Gather gather(batch);
        gather.d.element_type = KVAPPEND_ELEMENT_BF16;
        gather.d.k_dim = entry;
        gather.args.k_cache = pool.data(), gather.args.k_cache_bytes = pool.bytes();
        gather.args.k_out = out.data(), gather.args.k_out_bytes = out.bytes();
        gather.run(batch);
        CHECK(out.holds(expected));
        CHECK(pool.holds(cache));
    }
}

TEST_CASE("vLLM's gather_and_maybe_dequant_cache with kv_cache_dtype fp8", "[gather]") {
    // csrc/libtorch_stable/cache_kernels.cu: scaled_convert from fp8 multiplies by the scale.
    auto random = seeded_random();
    const Batch batch = draw_batch(random, 5, 16);
    constexpr std::int64_t entry = 576;
    const float scale = draw_scale(random);
    const Bytes cache = draw_pool(random, batch.blocks * batch.block_size * entry);
    std::vector<std::uint16_t> expected(at(batch.tokens() * entry));
    const Held<std::uint16_t> out(expected);
    batch.for_each_token([&](auto token, auto block, auto row) {
        for (std::int64_t i = 0; i < entry; ++i) {
            const unsigned char code = cache[at((block * batch.block_size + row) * entry + i)];
            expected[at(token * entry + i)] = to_bf16(e4m3_number(code) * scale);
        }
    });
    const Held<unsigned char> pool(cache);
    const Held<float> scales(std::vector<float>{scale});
    Gather gather(batch);
    const kvappend_storage storage = preset(KVAPPEND_PRESET_E4M3_DIVIDE);
    gather.d.element_type = KVAPPEND_ELEMENT_BF16;
    gather.d.k_dim = entry;
    gather.d.k_storage = &storage;
    gather.args.k_cache = pool.data(), gather.args.k_cache_bytes = pool.bytes();
    gather.args.k_scales = scales.data();
    gather.args.k_out = out.data(), gather.args.k_out_bytes = out.bytes();
    gather.run(batch);
    CHECK(out.holds(expected));
}

TEST_CASE("vLLM's cp_gather_and_upconvert_fp8_kv_cache, 656 bytes to bf16", "[gather]") {
    // csrc/libtorch_stable/cache_kernels.cu: 512 codes with 4 scales after them, then 64 elements of bf16, become 576
    // elements of bf16.
    auto random = seeded_random();
    const Batch batch = draw_batch(random, 3, 64);
    constexpr std::int64_t row_bytes = 656;
    constexpr std::int64_t nope = 512;
    constexpr std::int64_t entry = 576;
    Bytes cache = draw_pool(random, batch.blocks * batch.block_size * row_bytes);
    for (std::int64_t row = 0; row < batch.blocks * batch.block_size; ++row) {
        for (std::int64_t tile = 0; tile < 4; ++tile) {
            put(cache, at(row * row_bytes + nope + tile * 4), draw_scale(random));
        }
    }
    std::vector<std::uint16_t> expected(at(batch.tokens() * entry));
    const Held<std::uint16_t> out(expected);
    batch.for_each_token([&](auto token, auto block, auto row) {
        const std::int64_t from = (block * batch.block_size + row) * row_bytes;
        for (std::int64_t i = 0; i < entry; ++i) {
            expected[at(token * entry + i)] =
                i < nope ? to_bf16(e4m3_number(cache[at(from + i)]) * get<float>(cache, from + nope + i / 128 * 4))
                         : get<std::uint16_t>(cache, from + nope + 16 + (i - nope) * 2);
        }
    });
    const Held<unsigned char> pool(cache);
    Gather gather(batch);
    kvappend_storage storage = preset(KVAPPEND_PRESET_DEEPSEEK_V3);
    set(storage.scale_strides, {batch.block_size * row_bytes, 0, row_bytes, 4});
    kvappend_descriptor &d = gather.d;
    d.element_type = KVAPPEND_ELEMENT_BF16;
    d.k_dim = nope;
    d.v_dim = entry - nope;
    d.k_storage = &storage;
    set(d.k_cache_strides, {batch.block_size * row_bytes, 0, row_bytes});
    set(d.v_cache_strides, {batch.block_size * row_bytes / 2, 0, row_bytes / 2});
    set(d.k_new_strides, {0, 0, entry});
    set(d.v_new_strides, {0, 0, entry});
    gather.args.k_cache = pool.data();
    gather.args.k_scales = pool.data() + nope;
    gather.args.v_cache = pool.data() + nope + 16;
    gather.args.k_out = out.data();
    gather.args.v_out = out.data() + nope;
    gather.run(batch);
    CHECK(out.holds(expected));
    CHECK(pool.holds(cache));
}

TEST_CASE("vLLM's cp_gather_indexer_k_quant_cache: codes and scales as they are stored", "[gather]") {
    // csrc/libtorch_stable/cache_kernels.cu: a page has 128 codes for each token, then a scale of 4 bytes for each.
    // dst_k [tokens, 128] and dst_scale [tokens, 4] get the bytes. The codes are K here and the scales V.
    auto random = seeded_random();
    const Batch batch = draw_batch(random, 4, 64);
    const std::int64_t page = batch.block_size * 132;
    const Bytes cache = draw_pool(random, batch.blocks * page);
    Bytes expected_k(at(batch.tokens() * 128));
    Bytes expected_scale(at(batch.tokens() * 4));
    const Held<unsigned char> dst_k(expected_k);
    const Held<unsigned char> dst_scale(expected_scale);
    batch.for_each_token([&](auto token, auto block, auto row) {
        std::copy_n(cache.begin() + block * page + row * 128, 128, expected_k.begin() + token * 128);
        std::copy_n(cache.begin() + block * page + batch.block_size * 128 + row * 4, 4,
                    expected_scale.begin() + token * 4);
    });
    const Held<unsigned char> pool(cache);
    Gather gather(batch);
    gather.d.element_type = KVAPPEND_ELEMENT_UINT8;
    gather.d.k_dim = 128;
    gather.d.v_dim = 4;
    set(gather.d.k_cache_strides, {page, 0, 128});
    set(gather.d.v_cache_strides, {page, 0, 4});
    gather.args.k_cache = pool.data();
    gather.args.v_cache = pool.data() + batch.block_size * 128;
    gather.args.k_out = dst_k.data(), gather.args.k_out_bytes = dst_k.bytes();
    gather.args.v_out = dst_scale.data(), gather.args.v_out_bytes = dst_scale.bytes();
    gather.run(batch);
    CHECK(dst_k.holds(expected_k));
    CHECK(dst_scale.holds(expected_scale));
}

TEST_CASE("LMCache's multi_layer_kv_transfer in both directions", "[gather]") {
    // csrc/mem_kernels.cu, load_and_reshape_multi_layer_kernel: key_value [2, layers, tokens, hidden], and for each
    // layer a paged buffer [2, page_buffer_size, hidden]. A token with a negative slot is left out.
    auto random = seeded_random();
    const bool to_pages = GENERATE(false, true);
    constexpr std::int64_t layers = 5;
    constexpr std::int64_t tokens = 33;
    constexpr std::int64_t hidden = 192;
    constexpr std::int64_t pages = 8;
    constexpr std::int64_t page_size = 16;
    auto key_value = random_elements<std::uint16_t>(random, 2 * layers * tokens * hidden);
    std::vector<std::vector<std::uint16_t>> paged;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        paged.push_back(random_elements<std::uint16_t>(random, 2 * pages * page_size * hidden));
    }
    const auto slots = draw_slots(random, {1, hidden, page_size, pages, tokens});

    const Held<std::uint16_t> staging(key_value);
    std::vector<std::unique_ptr<Held<std::uint16_t>>> caches;
    const Held<std::int64_t> slot_mapping(slots);
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    d.backend = subject().backend();
    d.operation = to_pages ? KVAPPEND_OPERATION_APPEND : KVAPPEND_OPERATION_GATHER;
    d.addressing = KVAPPEND_ADDRESSING_SLOTS;
    d.element_type = KVAPPEND_ELEMENT_BF16;
    d.batch = d.heads = 1;
    d.new_rows = tokens;
    d.cache_blocks = pages;
    d.cache_rows = page_size;
    d.k_dim = d.v_dim = hidden;
    const PlanPointer plan = make_plan(d);
    std::vector<kvappend_args> args(at(layers), kvappend_args KVAPPEND_ARGS_INIT);
    std::vector<const kvappend_args *> pointers;
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        caches.push_back(std::make_unique<Held<std::uint16_t>>(paged[at(layer)]));
        kvappend_args &a = args[at(layer)];
        std::uint16_t *const keys = staging.data() + layer * tokens * hidden;
        std::uint16_t *const values = staging.data() + (layers + layer) * tokens * hidden;
        a.k_new = to_pages ? keys : nullptr;
        a.v_new = to_pages ? values : nullptr;
        a.k_out = to_pages ? nullptr : keys;
        a.v_out = to_pages ? nullptr : values;
        a.k_cache = caches.back()->data();
        a.v_cache = caches.back()->data() + pages * page_size * hidden;
        a.slots = slot_mapping.data();
        pointers.push_back(&a);
        for (std::int64_t i = 0; i < 2 * tokens; ++i) {
            const std::int64_t slot = slots[at(i % tokens)];
            if (slot < 0) {
                continue;
            }
            const auto row = key_value.begin() + ((i / tokens * layers + layer) * tokens + i % tokens) * hidden;
            const auto place = paged[at(layer)].begin() + (i / tokens * pages * page_size + slot) * hidden;
            to_pages ? std::copy_n(row, hidden, place) : std::copy_n(place, hidden, row);
        }
    }
    const std::vector<const kvappend_plan *> plans(at(layers), plan.get());
    REQUIRE(told(kvappend_plan_run_layers(plans.data(), pointers.data(), at(layers), nullptr, 0, subject().stream())) ==
            "KVAPPEND_SUCCESS");
    CHECK(staging.holds(key_value));
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        CHECK(caches[at(layer)]->holds(paged[at(layer)]));
    }
}
