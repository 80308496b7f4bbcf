// SPDX-License-Identifier: Apache-2.0
// The rows that published models append, and how many of them at a step: what every benchmark measures.
#pragma once

#include <kvappend/kvappend.h>

#include <cstdint>

struct Model {
    const char *name;
    std::int64_t heads; // of K and V
    std::int64_t k_dim;
    std::int64_t v_dim;
    std::int32_t element_type; // KVAPPEND_ELEMENT_*
    // K and V come as two tensors, and lie side by side in one row of one cache.
    bool one_row;
    // Rows of the cache in layers with a sliding window; 0: the model has none.
    std::int64_t window;
};

// From each model's published config.json: num_key_value_heads, head_dim (or hidden_size / num_attention_heads where
// that is not given), and torch_dtype.
inline constexpr Model models[] = {
    // meta-llama/Meta-Llama-3-8B: 8; 4096 / 32; bfloat16. Meta-Llama-3-70B has the same rows: 8; 8192 / 64.
    {"llama3-8b", 8, 128, 128, KVAPPEND_ELEMENT_BF16, false, 0},
    // The 70B model as one of eight processes of a tensor-parallel group has it: one of its 8 heads.
    {"llama3-70b-tp8", 1, 128, 128, KVAPPEND_ELEMENT_BF16, false, 0},
    // Qwen/Qwen3-30B-A3B: 4; 128; bfloat16.
    {"qwen3-30b-a3b", 4, 128, 128, KVAPPEND_ELEMENT_BF16, false, 0},
    // deepseek-ai/DeepSeek-V3: what attention keeps is one latent row a token, kv_lora_rank 512 (here K) beside
    // qk_rope_head_dim 64 (here V); bfloat16.
    {"deepseek-v3", 1, 512, 64, KVAPPEND_ELEMENT_BF16, true, 0},
    // google/gemma-3-4b-it: 4; 256; bfloat16; sliding_window 1024 in five layers of six.
    {"gemma3-4b", 4, 256, 256, KVAPPEND_ELEMENT_BF16, false, 1024},
    // karpathy/tinyllamas stories15M: 6; 288 / 6; float32.
    {"stories15m", 6, 48, 48, KVAPPEND_ELEMENT_F32, false, 0},
};

// Of the element types that models and formats have.
constexpr std::int64_t element_bytes(std::int32_t element_type) {
    return element_type == KVAPPEND_ELEMENT_F32 ? 4 : 2;
}

enum class Phase {
    decode,
    speculative,
    prefill,
    gather
};

constexpr const char *name_of(Phase phase) {
    switch (phase) {
    case Phase::decode:
        return "decode";
    case Phase::speculative:
        return "speculative";
    case Phase::prefill:
        return "prefill";
    default:
        return "gather";
    }
}

// One call: the samples of a batch, and the rows of each that are appended or gathered.
struct Step {
    Phase phase;
    std::int64_t batch;
    std::int64_t rows;
};

inline constexpr Step steps[] = {
    {Phase::decode, 1, 1},      {Phase::decode, 8, 1},      {Phase::decode, 64, 1},     {Phase::decode, 256, 1},
    {Phase::speculative, 1, 4}, {Phase::speculative, 1, 8}, {Phase::speculative, 8, 8}, {Phase::speculative, 64, 4},
    {Phase::prefill, 1, 128},   {Phase::prefill, 1, 512},   {Phase::prefill, 1, 2048},  {Phase::prefill, 1, 4096},
    {Phase::prefill, 8, 512},
};

// A chunk of a prompt, prefixes of a batch, and long contexts.
inline constexpr Step gather_steps[] = {
    {Phase::gather, 1, 512},
    {Phase::gather, 64, 64},
    {Phase::gather, 1, 4096},
    {Phase::gather, 1, 32768},
};
