// SPDX-License-Identifier: Apache-2.0
// How other projects quantise rows into their caches, stated anew here with their own arithmetic and layout, and the
// same call through the header with its preset: all bytes are the same.
//
// Where a peer uses approximate instructions of a GPU, its formula is stated with the arithmetic of IEEE 754, and the
// comment says what differs on a GPU.
#include "quantised_call.hpp"

#include <catch2/generators/catch_generators.hpp>

#include <cfloat>

// ---- vLLM, scales that are given ----

TEST_CASE("vLLM's reshape_and_cache_flash with kv_cache_dtype fp8", "[format]") {
    // csrc/libtorch_stable/cache_kernels.cu, reshape_and_cache_flash_kernel; scaled_convert divides.
    auto random = seeded_random();
    const bool hnd = GENERATE(false, true);
    const bool per_head = GENERATE(false, true);
    const bool e5m2 = GENERATE(false, true);
    const NearestCode &nearest = e5m2 ? nearest_e5m2 : nearest_e4m3;
    for (const Shape &s : {Shape{1, 16, 4, 3, 5}, {8, 128, 16, 3, 33}, {3, 40, 16, 2, 7}}) {
        const Wish wish{.greatest = e5m2 ? 57344.0F : 448.0F, .nans = true};
        const Rows key = draw_rows(random, s.tokens, s.heads, s.dim, wish);
        const Rows value = draw_rows(random, s.tokens, s.heads, s.dim, wish);
        const std::int64_t block = s.block_size * s.heads * s.dim;
        const std::int64_t v_start = s.blocks * block;
        const std::int64_t row_stride = hnd ? s.dim : s.heads * s.dim;
        const std::int64_t head_stride = hnd ? s.block_size * s.dim : s.dim;
        std::vector<float> k_scale(at(per_head ? s.heads : 1));
        std::vector<float> v_scale(k_scale.size());
        std::ranges::generate(k_scale, [&] { return draw_scale(random); });
        std::ranges::generate(v_scale, [&] { return draw_scale(random); });
        const auto slots = draw_slots(random, s);
        const Bytes before = draw_pool(random, 2 * v_start);
        Bytes expected = before;
        for_each_place(s, slots, [&](auto token, auto page, auto row, auto head) {
            const std::int64_t to = page * block + row * row_stride + head * head_stride;
            const size_t scale = at(per_head ? head : 0);
            for (std::int64_t i = 0; i < s.dim; ++i) {
                expected[at(to + i)] = fp8(nearest, key.row(token, head)[i] / k_scale[scale]);
                expected[at(v_start + to + i)] = fp8(nearest, value.row(token, head)[i] / v_scale[scale]);
            }
        });

        const Side k{.rows = &key, .preset = KVAPPEND_PRESET_E4M3_DIVIDE, .given_scales = k_scale};
        const Side v{
            .rows = &value, .preset = KVAPPEND_PRESET_E4M3_DIVIDE, .cache = at(v_start), .given_scales = v_scale};
        Call call(k, v, s.blocks, s.block_size, slots);
        call.k_storage.type = call.v_storage.type = e5m2 ? KVAPPEND_STORED_E5M2 : KVAPPEND_STORED_E4M3;
        call.set_strides({block, head_stride, row_stride});
        call.set_scale_strides({0, per_head ? 4 : 0, 0, 0});
        INFO("HND " << hnd << ", per head " << per_head << ", E5M2 " << e5m2 << ", dim " << s.dim);
        call.check(before, expected);
    }
}

TEST_CASE("vLLM's reshape_and_cache with kv_cache_dtype fp8", "[format]") {
    // csrc/libtorch_stable/cache_kernels.cu, reshape_and_cache_kernel: key_cache [blocks, heads, dim / 16, block_size,
    // 16], value_cache [blocks, heads, dim, block_size].
    auto random = seeded_random();
    const float k_scale = draw_scale(random);
    const float v_scale = draw_scale(random);
    for (const Shape &s : {Shape{1, 16, 8, 3, 9}, {8, 128, 16, 3, 33}, {3, 80, 32, 2, 7}}) {
        const Rows key = draw_rows(random, s.tokens, s.heads, s.dim, {.nans = true});
        const Rows value = draw_rows(random, s.tokens, s.heads, s.dim, {.nans = true});
        const std::int64_t v_start = s.rows() * s.heads * s.dim;
        const auto slots = draw_slots(random, s);
        const Bytes before = draw_pool(random, 2 * v_start);
        Bytes expected = before;
        for_each_place(s, slots, [&](auto token, auto page, auto row, auto head) {
            for (std::int64_t i = 0; i < s.dim; ++i) {
                const std::int64_t piece = (page * s.heads + head) * (s.dim / 16) + i / 16;
                const std::int64_t column = (page * s.heads + head) * s.dim + i;
                expected[at((piece * s.block_size + row) * 16 + i % 16)] = e4m3(key.row(token, head)[i] / k_scale);
                expected[at(v_start + column * s.block_size + row)] = e4m3(value.row(token, head)[i] / v_scale);
            }
        });

        const Side k{.rows = &key, .preset = KVAPPEND_PRESET_E4M3_DIVIDE, .given_scales = {k_scale}};
        const Side v{
            .rows = &value, .preset = KVAPPEND_PRESET_E4M3_DIVIDE, .cache = at(v_start), .given_scales = {v_scale}};
        Call call(k, v, s.blocks, s.block_size, slots);
        call.d.k_pack = 16;
        call.d.v_pack = 1;
        INFO("dim " << s.dim);
        call.check(before, expected);
    }
}

TEST_CASE("vLLM's concat_and_cache_mla with kv_cache_dtype fp8", "[format]") {
    // csrc/libtorch_stable/cache_kernels.cu, concat_and_cache_mla_kernel: one scale for both parts of a row.
    auto random = seeded_random();
    const float scale = draw_scale(random);
    const std::int64_t rank = GENERATE(512, 24);
    constexpr std::int64_t pe_dim = 64;
    const std::int64_t row_bytes = rank + pe_dim;
    const Shape s{1, rank, 64, 3, 100};
    const Rows kv_c = draw_rows(random, s.tokens, 1, rank, {.nans = true});
    const Rows k_pe = draw_rows(random, s.tokens, 1, pe_dim, {.nans = true});
    const auto slots = draw_slots(random, s);
    const Bytes before = draw_pool(random, s.rows() * row_bytes);
    Bytes expected = before;
    for_each_place(s, slots, [&](auto token, auto page, auto row, auto) {
        const std::int64_t to = (page * s.block_size + row) * row_bytes;
        for (std::int64_t i = 0; i < row_bytes; ++i) {
            expected[at(to + i)] = e4m3((i < rank ? kv_c.row(token)[i] : k_pe.row(token)[i - rank]) / scale);
        }
    });

    const Side k{.rows = &kv_c, .preset = KVAPPEND_PRESET_E4M3_DIVIDE, .given_scales = {scale}};
    const Side v{.rows = &k_pe, .preset = KVAPPEND_PRESET_E4M3_DIVIDE, .cache = at(rank), .given_scales = {scale}};
    Call call(k, v, s.blocks, s.block_size, slots);
    call.set_strides({s.block_size * row_bytes, row_bytes, row_bytes});
    call.check(before, expected);
}

// ---- other given scales ----

TEST_CASE("TensorRT-LLM's INT8 cache and FlashInfer's FP8 append multiply", "[format]") {
    // TensorRT-LLM: decoderMaskedMultiheadAttentionUtils.h, cast_to_int8 of x * kv_scale_orig_quant, which is
    // cvt.rni.sat.s8: NaN gives 0. FlashInfer: pos_enc.cuh, x * quant_scale_kv, of rows that are not rotated. Blocks
    // are [heads, block_size, dim].
    auto random = seeded_random();
    const bool int8 = GENERATE(false, true);
    constexpr float k_scale = 1.7F;
    constexpr float v_scale = 0.25F;
    const auto code = [&](float number, float scale) {
        const float y = number * scale;
        const float rounded = std::isnan(y) ? 0.0F : std::fmin(std::fmax(std::nearbyint(y), -128.0F), 127.0F);
        return int8 ? static_cast<unsigned char>(static_cast<int>(rounded)) : e4m3(y);
    };
    const Shape s{8, 64, 32, 3, 50};
    const Wish wish{.element_type = KVAPPEND_ELEMENT_F16,
                    .greatest = 127,
                    .exponents = {-9, 4},
                    .tiny_groups = false,
                    .nans = true};
    const Rows key = draw_rows(random, s.tokens, s.heads, s.dim, wish);
    const Rows value = draw_rows(random, s.tokens, s.heads, s.dim, wish);
    const std::int64_t v_start = s.rows() * s.heads * s.dim;
    const auto slots = draw_slots(random, s);
    const Bytes before = draw_pool(random, 2 * v_start);
    Bytes expected = before;
    for_each_place(s, slots, [&](auto token, auto page, auto row, auto head) {
        const std::int64_t to = ((page * s.heads + head) * s.block_size + row) * s.dim;
        for (std::int64_t i = 0; i < s.dim; ++i) {
            expected[at(to + i)] = code(key.row(token, head)[i], k_scale);
            expected[at(v_start + to + i)] = code(value.row(token, head)[i], v_scale);
        }
    });

    const std::int32_t preset = int8 ? KVAPPEND_PRESET_INT8_MULTIPLY : KVAPPEND_PRESET_E4M3_MULTIPLY;
    const Side k{.rows = &key, .preset = preset, .given_scales = {k_scale}};
    const Side v{.rows = &value, .preset = preset, .cache = at(v_start), .given_scales = {v_scale}};
    const Call call(k, v, s.blocks, s.block_size, slots);
    call.check(before, expected);
}

namespace {

// group_query_attention_qdq.cuh, QuantizeKernel: it multiplies by fl(1 / scale), or by 0 if the scale is 0. `row` has
// the codes of a row. The last half byte of an odd row of INT4 is that of 0.
void store_onnx(std::int32_t preset, unsigned char *row, std::int64_t channel, float x, float scale) {
    const float y = x * (scale == 0 ? 0 : 1 / scale);
    const auto limited = [y](float least, float greatest) {
        return static_cast<int>(std::fmin(std::fmax(std::nearbyint(y), least), greatest));
    };
    if (preset == KVAPPEND_PRESET_E4M3_RECIPROCAL) {
        row[channel] = e4m3(std::fmin(std::fmax(y, -448.0F), 448.0F));
    } else if (preset == KVAPPEND_PRESET_INT8_CHANNEL) {
        row[channel] = static_cast<unsigned char>(limited(-128, 127));
    } else {
        const int code = limited(-8, 7) + 8;
        unsigned char &byte = row[channel / 2];
        byte = static_cast<unsigned char>(channel % 2 == 0 ? code | 0x80 : (byte & 0xf) | code << 4);
    }
}

} // namespace

TEST_CASE("ONNX Runtime's quantised GroupQueryAttention", "[format]") {
    // A scale for each head and channel, or one. The cache is [batch, heads, rows, bytes of a row].
    auto random = seeded_random();
    const std::int32_t preset =
        GENERATE(KVAPPEND_PRESET_INT8_CHANNEL, KVAPPEND_PRESET_INT4_CHANNEL, KVAPPEND_PRESET_E4M3_RECIPROCAL);
    const bool per_channel = GENERATE(false, true);
    const std::int64_t dim = GENERATE(128, 7);
    // FP8: ONNX Runtime keeps the signs of elements whose scale is 0, and the library stores 0.
    const bool zero_scale = preset != KVAPPEND_PRESET_E4M3_RECIPROCAL && GENERATE(false, true);
    constexpr std::int64_t batch = 3;
    constexpr std::int64_t heads = 2;
    constexpr std::int64_t cache_rows = 40;
    constexpr std::int64_t new_rows = 32;
    const std::int64_t row_bytes = preset == KVAPPEND_PRESET_INT4_CHANNEL ? (dim + 1) / 2 : dim;
    const Wish wish{.element_type = KVAPPEND_ELEMENT_F16, .greatest = 7, .exponents = {-7, 4}, .tiny_groups = false};
    Rows key = draw_rows(random, batch, heads * new_rows, dim, wish);
    std::vector<float> scales(at(per_channel ? heads * dim : 1));
    std::ranges::generate(scales, [&] { return draw_scale(random); });
    scales[0] = zero_scale ? 0.0F : scales[0];
    const std::vector<std::int64_t> past = {0, 5, 3};
    const Bytes before = draw_pool(random, batch * heads * cache_rows * row_bytes);
    Bytes expected = before;
    for (std::int64_t b = 0; b < batch; ++b) {
        for (std::int64_t i = 0; i < heads * new_rows * dim; ++i) {
            const std::int64_t head = i / dim / new_rows;
            const std::int64_t row = (b * heads + head) * cache_rows + past[at(b)] + i / dim % new_rows;
            store_onnx(preset, &expected[at(row * row_bytes)], i % dim, key.row(b)[i],
                       scales[at(per_channel ? head * dim + i % dim : 0)]);
        }
    }

    key.heads = heads;
    const Side k{.rows = &key, .preset = preset, .given_scales = scales};
    const Side v{};
    Call call(k, v, batch, cache_rows, past);
    call.d.addressing = KVAPPEND_ADDRESSING_DENSE;
    call.d.batch = batch;
    call.d.new_rows = new_rows;
    call.k_storage.group = per_channel ? 1 : 0;
    if (per_channel) {
        set(call.k_storage.scale_strides, {0, dim * 4, 0, 4});
    }
    INFO("preset " << preset << ", per channel " << per_channel << ", dim " << dim << ", a scale of 0 " << zero_scale);
    call.check(before, expected, zero_scale ? KVAPPEND_ERROR_SCALE : KVAPPEND_SUCCESS);
}

// ---- DeepSeek ----

namespace {

// Rows of 656 bytes: 512 codes, the scales of four groups as float32, and 64 elements as they are.
template <class ScaleOf>
void check_rows_of_656(std::int32_t preset, std::int64_t block_rows, bool nans, ScaleOf scale_of) {
    auto random = seeded_random();
    const Shape s{1, 512, 64, 3, 130};
    const std::int64_t block = block_rows * 656;
    const Rows latent = draw_rows(random, s.tokens, 1, 512, {.group = 128, .nans = nans});
    const Rows rope = draw_rows(random, s.tokens, 1, 64, {.nans = true});
    const auto slots = draw_slots(random, s);
    const Bytes before = draw_pool(random, s.blocks * block);
    Bytes expected = before;
    for_each_place(s, slots, [&](auto token, auto page, auto row, auto) {
        const size_t to = at(page * block + row * 656);
        for (std::int64_t tile = 0; tile < 4; ++tile) {
            const float *const x = latent.row(token) + tile * 128;
            const float scale = scale_of(largest_magnitude(x, 128));
            put(expected, to + 512 + at(tile) * 4, scale);
            for (std::int64_t i = 0; i < 128; ++i) {
                expected[to + at(tile * 128 + i)] = e4m3(x[i] / scale);
            }
        }
        std::memcpy(expected.data() + to + 528, rope.bytes.data() + token * 128, 128);
    });

    const Side k{.rows = &latent, .preset = preset, .scales = 512};
    const Side v{.rows = &rope, .cache = 528};
    Call call(k, v, s.blocks, s.block_size, slots);
    set(call.d.k_cache_strides, {block, 656, 656});
    set(call.d.v_cache_strides, {block / 2, 328, 328}); // in elements, as these rows are not converted
    set(call.k_storage.scale_strides, {block, 656, 656, 4});
    call.check(before, expected);
}

} // namespace

TEST_CASE("vLLM's concat_and_cache_ds_mla, 656 bytes a row", "[format]") {
    // csrc/libtorch_stable/cache_kernels.cu, concat_and_cache_ds_mla_kernel, of bfloat16.
    check_rows_of_656(KVAPPEND_PRESET_DEEPSEEK_V3, 64, true,
                      [](float largest) { return std::fmax(largest / 448, FLT_MIN); });
}

TEST_CASE("FlashMLA's quantize_k_cache, 656 bytes a row with powers of two", "[format]") {
    // tests/quant.py, V32_FP8Sparse: on a GPU, PyTorch multiplies by fl(1 / 448) instead of dividing. A block has room
    // for another row.
    check_rows_of_656(KVAPPEND_PRESET_DEEPSEEK_V3_POWER_OF_TWO, 65, false, [](float largest) {
        return std::exp2(std::ceil(std::log2(std::fmax(largest * (1.0F / 448), 1e-4F))));
    });
}

TEST_CASE("DeepSeek V4's cache, 584 bytes a row", "[format]") {
    // vLLM: fused_deepseek_v4_qnorm_rope_kv_insert_kernel.cu; SGLang's store for FlashMLA is the same. A page has rows
    // of 576 bytes, then 8 bytes for each row, of which 7 are scales. SGLang and FlashMLA leave the eighth as it is;
    // vLLM sets it to 0.
    auto random = seeded_random();
    const bool flash_mla = GENERATE(false, true);
    const Shape s{1, 448, GENERATE(64, 3), 3, 9};
    const std::int64_t footer = s.block_size * 576;
    const std::int64_t page_bytes = (s.block_size * 584 + 575) / 576 * 576;
    const Rows nope = draw_rows(random, s.tokens, 1, 448, {.group = 64});
    const Rows rope = draw_rows(random, s.tokens, 1, 64, {.nans = true});
    const auto slots = draw_slots(random, s);
    const Bytes before = draw_pool(random, s.blocks * page_bytes);
    Bytes expected = before;
    for_each_place(s, slots, [&](auto token, auto page, auto row, auto) {
        const size_t to = at(page * page_bytes + row * 576);
        for (std::int64_t group = 0; group < 7; ++group) {
            const float *const x = nope.row(token) + group * 64;
            const float largest = largest_magnitude(x, 64);
            const float scale = flash_mla ? std::fmax(largest * (1.0F / 448), 1e-4F) : std::fmax(largest, 1e-4F) / 448;
            const float exponent = std::ceil(std::log2(scale));
            expected[at(page * page_bytes + footer + row * 8 + group)] = static_cast<unsigned char>(exponent + 127);
            for (std::int64_t i = 0; i < 64; ++i) {
                const float y = x[i] * std::exp2(-exponent);
                expected[to + at(group * 64 + i)] = e4m3(std::fmin(std::fmax(y, -448.0F), 448.0F));
            }
        }
        std::memcpy(expected.data() + to + 448, rope.bytes.data() + token * 128, 128);
    });

    const Side k{.rows = &nope, .preset = KVAPPEND_PRESET_DEEPSEEK_V4, .scales = at(footer)};
    const Side v{.rows = &rope, .preset = KVAPPEND_PRESET_BF16, .cache = 448};
    Call call(k, v, s.blocks, s.block_size, slots);
    call.set_strides({page_bytes, 576, 576});
    if (flash_mla) {
        call.k_storage.amax_floor = 0;
        call.k_storage.scale_floor = 1e-4F;
    }
    INFO("rows " << s.block_size << ", FlashMLA " << flash_mla);
    set(call.k_storage.scale_strides, {page_bytes, 0, 8, 1});
    call.check(before, expected);
}

TEST_CASE("The keys of DeepSeek V3.2's indexer, 132 bytes a row", "[format]") {
    // vLLM: cache_kernels.cu, indexer_k_quant_and_cache_kernel, which divides. SGLang's fused_store_index_cache.cuh and
    // DeepGEMM's kv_cache_cast_to_fp8 multiply by the reciprocal.
    auto random = seeded_random();
    const bool ue8m0 = GENERATE(false, true);
    const bool reciprocal = GENERATE(false, true);
    const Shape s{1, 128, 64, 3, 130};
    const std::int64_t block = s.block_size * 132;
    const Rows key = draw_rows(random, s.tokens, 1, 128, {});
    const auto slots = draw_slots(random, s);
    const Bytes before = draw_pool(random, s.blocks * block);
    Bytes expected = before;
    for_each_place(s, slots, [&](auto token, auto page, auto row, auto) {
        const float *const x = key.row(token);
        float scale = std::fmax(largest_magnitude(x, 128), 1e-4F) / 448;
        if (ue8m0) {
            scale = std::exp2(std::ceil(std::log2(scale)));
        }
        put(expected, at(page * block + s.block_size * 128 + row * 4), scale);
        for (std::int64_t i = 0; i < 128; ++i) {
            expected[at(page * block + row * 128 + i)] = e4m3(reciprocal ? x[i] * (1 / scale) : x[i] / scale);
        }
    });

    const Side k{.rows = &key,
                 .preset = ue8m0 ? KVAPPEND_PRESET_INDEXER_POWER_OF_TWO : KVAPPEND_PRESET_INDEXER,
                 .scales = at(s.block_size * 128)};
    const Side v{};
    Call call(k, v, s.blocks, s.block_size, slots);
    call.k_storage.scale_use = reciprocal ? KVAPPEND_SCALE_RECIPROCAL : KVAPPEND_SCALE_DIVIDE;
    set(call.d.k_cache_strides, {block, 0, 128});
    set(call.k_storage.scale_strides, {block, 0, 4, 0});
    INFO("powers of two " << ue8m0 << ", reciprocal " << reciprocal);
    call.check(before, expected);
}

// ---- a scale for each row of a head ----

TEST_CASE("vLLM's int8_per_token_head and fp8_per_token_head", "[format]") {
    // triton_reshape_and_cache_flash.py, _reshape_cache_per_token_head, from vLLM 45361 on. The backend's cache is
    // [blocks, 2, block_size, heads, dim + 4]: the scale lies after the codes of a head. On a GPU, both divisions have
    // an error of up to 2 ulp, so that scales and a few codes differ there.
    auto random = seeded_random();
    const bool int8 = GENERATE(false, true);
    const auto code = [&](float y) {
        if (!int8) {
            return e4m3(std::fmin(std::fmax(y, -448.0F), 448.0F));
        }
        // vLLM adds 0.5 as float32. For the number 0.49999997 and no other, the sum differs: it is 1 there.
        const double sum = y >= 0 ? double{y} + 0.5 : double{y} - 0.5;
        return static_cast<unsigned char>(static_cast<int>(std::fmin(std::fmax(sum, -128.0), 127.0)));
    };
    const float greatest = int8 ? 127 : 448;
    for (const Shape &s : {Shape{1, 128, 16, 3, 40}, {8, 64, 32, 2, 17}, {3, 256, 16, 2, 9}}) {
        const Rows key = draw_rows(random, s.tokens, s.heads, s.dim, {.greatest = greatest});
        const Rows value = draw_rows(random, s.tokens, s.heads, s.dim, {.greatest = greatest});
        const std::int64_t head_bytes = s.dim + 4;
        const std::int64_t side = s.block_size * s.heads * head_bytes;
        const auto slots = draw_slots(random, s);
        const Bytes before = draw_pool(random, s.blocks * 2 * side);
        Bytes expected = before;
        for_each_place(s, slots, [&](auto token, auto page, auto row, auto head) {
            std::int64_t to = page * 2 * side + (row * s.heads + head) * head_bytes;
            for (const Rows *rows : {&key, &value}) {
                const float *const x = rows->row(token, head);
                const float scale = std::fmax(largest_magnitude(x, s.dim) / greatest, 1e-6F);
                put(expected, at(to + s.dim), scale);
                for (std::int64_t i = 0; i < s.dim; ++i) {
                    expected[at(to + i)] = code(x[i] * (1 / scale));
                }
                to += side;
            }
        });

        const std::int32_t preset = int8 ? KVAPPEND_PRESET_INT8_ROW : KVAPPEND_PRESET_E4M3_ROW;
        const Side k{.rows = &key, .preset = preset, .scales = at(s.dim)};
        const Side v{.rows = &value, .preset = preset, .cache = at(side), .scales = at(side + s.dim)};
        Call call(k, v, s.blocks, s.block_size, slots);
        call.set_strides({2 * side, head_bytes, s.heads * head_bytes});
        call.set_scale_strides({2 * side, head_bytes, s.heads * head_bytes, 0});
        INFO("INT8 " << int8 << ", dim " << s.dim);
        call.check(before, expected);
    }
}

// ---- NVFP4 ----

namespace {

// Where K or V of a page lies. Strides in bytes, those of codes and those of scales.
struct Nvfp4Side {
    size_t codes, scales;
    std::int64_t block, head, row;
    std::int64_t scale_block, scale_head, scale_row;
    bool by_four_rows;
};

// FlashInfer's nvfp4_append_quantize_block, page.cuh. On a GPU it is built with approximate division; TensorRT-LLM and
// vLLM use approximate reciprocals instead. A few codes then differ.
void store_nvfp4(Bytes &pool, const Nvfp4Side &side, const Shape &s, const float *x, float global_scale,
                 std::int64_t page, std::int64_t row, std::int64_t head) {
    const std::int64_t groups = s.dim / 16;
    for (std::int64_t g = 0; g < groups; ++g, x += 16) {
        const unsigned code = nearest_e4m3(largest_magnitude(x, 16) / (6 * global_scale));
        const float scale = nearest_e4m3.number(code);
        const std::int64_t in_tile =
            side.by_four_rows ? row / 4 * 4 * groups + g * 4 + row % 4 : row * side.scale_row + g;
        pool[side.scales + at(page * side.scale_block + head * side.scale_head + in_tile)] =
            static_cast<unsigned char>(code);
        const float factor = scale > 0 ? 1 / (scale * global_scale) : 0;
        for (std::int64_t i = 0; i < 16; i += 2) {
            pool[side.codes + at(page * side.block + head * side.head + row * side.row + g * 8 + i / 2)] =
                static_cast<unsigned char>(e2m1(x[i] * factor) | e2m1(x[i + 1] * factor) << 4);
        }
    }
}

void check_nvfp4(std::mt19937_64 &random, const Shape &s, const Nvfp4Side &k_side, const Nvfp4Side &v_side,
                 std::int64_t pool_bytes) {
    // In a group whose scale is 0, FlashInfer keeps the signs, and TensorRT-LLM stores the greatest numbers.
    const Wish wish{.group = 16, .greatest = 6, .exponents = {-6, 6}, .tiny_groups = false, .negative_zeros = false};
    const Rows key = draw_rows(random, s.tokens, s.heads, s.dim, wish);
    const Rows value = draw_rows(random, s.tokens, s.heads, s.dim, wish);
    constexpr float k_global = 0.034F;
    constexpr float v_global = 0.0625F;
    const auto slots = draw_slots(random, s);
    const Bytes before = draw_pool(random, pool_bytes);
    Bytes expected = before;
    for_each_place(s, slots, [&](auto token, auto page, auto row, auto head) {
        store_nvfp4(expected, k_side, s, key.row(token, head), k_global, page, row, head);
        store_nvfp4(expected, v_side, s, value.row(token, head), v_global, page, row, head);
    });

    const auto side = [](const Rows &rows, const Nvfp4Side &place, float global) {
        return Side{.rows = &rows,
                    .preset = place.by_four_rows ? KVAPPEND_PRESET_NVFP4_BY_FOUR_ROWS : KVAPPEND_PRESET_NVFP4,
                    .cache = place.codes,
                    .scales = place.scales,
                    .global_scale = global};
    };
    const Side k = side(key, k_side, k_global);
    const Side v = side(value, v_side, v_global);
    Call call(k, v, s.blocks, s.block_size, slots);
    const auto set_all = [](const Nvfp4Side &place, std::int64_t(&strides)[3], kvappend_storage &storage) {
        set(strides, {place.block, place.head, place.row});
        set(storage.scale_strides, {place.scale_block, place.scale_head, place.by_four_rows ? 0 : place.scale_row,
                                    place.by_four_rows ? 0 : 1});
    };
    set_all(k_side, call.d.k_cache_strides, call.k_storage);
    set_all(v_side, call.d.v_cache_strides, call.v_storage);
    call.check(before, expected);
}

constexpr Shape nvfp4_shapes[] = {{1, 16, 4, 3, 7}, {8, 128, 16, 3, 33}, {3, 64, 32, 2, 40}};

} // namespace

TEST_CASE("FlashInfer's nvfp4_quantize_append_paged_kv_cache", "[format]") {
    // Four tensors: codes and scales, [pages, heads, rows, ...] or [pages, rows, heads, ...], all in rows.
    auto random = seeded_random();
    const bool hnd = GENERATE(false, true);
    for (const Shape &s : nvfp4_shapes) {
        const std::int64_t codes = s.dim / 2;
        const std::int64_t scales = s.dim / 16;
        const std::int64_t page = s.block_size * s.heads;
        const std::int64_t head = hnd ? s.block_size : 1; // in rows
        const std::int64_t row = hnd ? 1 : s.heads;
        Nvfp4Side k{0, 0, page * codes, head * codes, row * codes, page * scales, head * scales, row * scales, false};
        Nvfp4Side v = k;
        v.codes = at(s.blocks * page * codes);
        k.scales = 2 * v.codes;
        v.scales = k.scales + at(s.blocks * page * scales);
        check_nvfp4(random, s, k, v, 2 * s.blocks * page * (codes + scales));
    }
}

TEST_CASE("NVFP4 for TensorRT-LLM's kernels: V scales by four rows", "[format]") {
    // TensorRT-LLM, and FlashInfer's nvfp4_quantize_paged_kv_cache: two pools [blocks, 2, heads, rows, ...]. vLLM's
    // reshape_and_cache_nvfp4_kernel: pages of K codes, K scales, V codes, V scales.
    auto random = seeded_random();
    const bool vllm = GENERATE(false, true);
    for (const Shape &s : nvfp4_shapes) {
        const std::int64_t codes = s.block_size * s.dim / 2; // of a head
        const std::int64_t scales = s.block_size * s.dim / 16;
        const std::int64_t page = 2 * s.heads * (codes + scales);
        Nvfp4Side k{0, 0, 2 * s.heads * codes, codes, s.dim / 2, 2 * s.heads * scales, scales, s.dim / 16, false};
        if (vllm) {
            k.block = k.scale_block = page;
        }
        k.scales = at((vllm ? 1 : s.blocks * 2) * s.heads * codes);
        Nvfp4Side v = k;
        v.by_four_rows = true;
        v.codes += at(s.heads * (vllm ? codes + scales : codes));
        v.scales += at(s.heads * (vllm ? codes + scales : scales));
        check_nvfp4(random, s, k, v, s.blocks * page);
    }
}

// ---- ggml ----

TEST_CASE("ggml's quantize_row_q8_0_ref into llama.cpp's cache", "[format]") {
    // ggml-quants.c: blocks of 34 bytes, a float16 scale and 32 codes. The cache is [cells, heads * dim]; set_rows
    // takes the cell of each token. The code for AVX2 multiplies by fl(127 / largest) and rounds to even, so a few
    // codes differ.
    auto random = seeded_random();
    for (const Shape &s : {Shape{1, 32, 16, 1, 9}, {8, 128, 64, 1, 30}}) {
        const Wish wish{.element_type = KVAPPEND_ELEMENT_F32,
                        .group = 32,
                        .greatest = 127,
                        .exponents = {-60, 8},
                        .tiny_groups = false};
        const Rows key = draw_rows(random, s.tokens, s.heads, s.dim, wish);
        const Rows value = draw_rows(random, s.tokens, s.heads, s.dim, wish);
        const std::int64_t head_bytes = s.dim / 32 * 34;
        const std::int64_t cell = s.heads * head_bytes;
        const std::int64_t v_start = s.rows() * cell;
        const auto slots = draw_slots(random, s);
        const Bytes before = draw_pool(random, 2 * v_start);
        Bytes expected = before;
        const auto quantize = [&](const float *x, std::int64_t to) {
            for (std::int64_t block = 0; block < s.dim / 32; ++block, x += 32, to += 34) {
                const float d = largest_magnitude(x, 32) / 127;
                const float id = d != 0 ? 1 / d : 0;
                put(expected, at(to), static_cast<std::uint16_t>(nearest_f16(d)));
                for (std::int64_t i = 0; i < 32; ++i) {
                    expected[at(to + 2 + i)] = static_cast<unsigned char>(static_cast<int>(std::round(x[i] * id)));
                }
            }
        };
        for_each_place(s, slots, [&](auto token, auto, auto row, auto head) {
            quantize(key.row(token, head), row * cell + head * head_bytes);
            quantize(value.row(token, head), v_start + row * cell + head * head_bytes);
        });

        const Side k{.rows = &key, .preset = KVAPPEND_PRESET_Q8_0, .cache = 2};
        const Side v{.rows = &value, .preset = KVAPPEND_PRESET_Q8_0, .cache = at(v_start + 2), .scales = at(v_start)};
        Call call(k, v, s.blocks, s.block_size, slots);
        call.d.k_pack = call.d.v_pack = 32;
        call.d.k_piece_stride = call.d.v_piece_stride = 34;
        call.set_strides({s.rows() * cell, head_bytes, cell});
        call.set_scale_strides({s.rows() * cell, head_bytes, cell, 34});
        INFO("dim " << s.dim);
        call.check(before, expected);
    }
}

TEST_CASE("llama.cpp's F16 cache of F32 rows", "[format]") {
    auto random = seeded_random();
    const Shape s{2, 64, 32, 1, 20};
    const Rows key =
        draw_rows(random, s.tokens, s.heads, s.dim, {.element_type = KVAPPEND_ELEMENT_F32, .exponents = {-40, 12}});
    const auto slots = draw_slots(random, s);
    const Bytes before = draw_pool(random, s.rows() * s.heads * s.dim * 2);
    Bytes expected = before;
    for_each_place(s, slots, [&](auto token, auto, auto row, auto head) {
        for (std::int64_t i = 0; i < s.dim; ++i) {
            const float x = key.row(token, head)[i];
            constexpr float infinite_from = 65520; // halfway to the number that would follow the greatest one
            const unsigned magnitude = std::fabs(x) >= infinite_from ? 0x7c00 : nearest_f16(x);
            put(expected, at((row * s.heads + head) * s.dim + i) * 2,
                static_cast<std::uint16_t>(magnitude | (std::signbit(x) ? 0x8000 : 0)));
        }
    });

    const Side k{.rows = &key, .preset = KVAPPEND_PRESET_F16};
    const Side v{};
    Call call(k, v, s.blocks, s.block_size, slots);
    set(call.d.k_cache_strides, {s.rows() * s.heads * s.dim * 2, s.dim * 2, s.heads * s.dim * 2});
    call.check(before, expected);
}
