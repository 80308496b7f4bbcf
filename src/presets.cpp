// SPDX-License-Identifier: Apache-2.0
#include "presets.hpp"

#include <cfloat>
#include <cinttypes>

namespace kvappend {

namespace {

kvappend_storage of_type(std::int32_t type) {
    kvappend_storage s{};
    s.type = type;
    return s;
}

kvappend_storage given(std::int32_t type, std::int32_t scale_use, std::int64_t group = 0) {
    kvappend_storage s = of_type(type);
    s.scaling = KVAPPEND_SCALING_GIVEN;
    s.scale_use = scale_use;
    s.group = group;
    return s;
}

kvappend_storage computed(std::int32_t type, std::int32_t scale_use, std::int64_t group, float amax_floor,
                          float scale_floor) {
    kvappend_storage s = of_type(type);
    s.scaling = KVAPPEND_SCALING_COMPUTED;
    s.scale_use = scale_use;
    s.group = group;
    s.amax_floor = amax_floor;
    s.scale_floor = scale_floor;
    return s;
}

kvappend_storage with_powers_of_two(kvappend_storage s, std::int32_t scale_type) {
    s.scale_type = scale_type;
    s.scale_rounding = KVAPPEND_SCALE_POWER_OF_TWO;
    return s;
}

kvappend_storage nvfp4(std::int32_t scale_order) {
    kvappend_storage s = computed(KVAPPEND_STORED_E2M1, KVAPPEND_SCALE_RECIPROCAL, 16, 0, 0);
    s.scale_type = KVAPPEND_SCALE_E4M3;
    s.scale_order = scale_order;
    s.global_scale = 1;
    return s;
}

kvappend_storage ggml_block(std::int32_t type, std::int32_t nibbles) {
    kvappend_storage s = computed(type, KVAPPEND_SCALE_UNROUNDED_RECIPROCAL, 32, 0, 0);
    s.scale_type = KVAPPEND_SCALE_F16;
    s.rounding = KVAPPEND_ROUNDING_HALF_AWAY;
    s.nibbles = nibbles;
    return s;
}

kvappend_storage int8_row() {
    kvappend_storage s = computed(KVAPPEND_STORED_INT8, KVAPPEND_SCALE_RECIPROCAL, 0, 0, 1e-6F);
    s.rounding = KVAPPEND_ROUNDING_HALF_AWAY;
    return s;
}

kvappend_storage indexer() {
    return computed(KVAPPEND_STORED_E4M3, KVAPPEND_SCALE_DIVIDE, 0, 1e-4F, 0);
}

} // namespace

Status fill_preset(std::int32_t preset, kvappend_storage &storage) {
    const auto fill = [&storage](const kvappend_storage &s) -> Status {
        storage = s;
        return KVAPPEND_SUCCESS;
    };
    switch (preset) {
    case KVAPPEND_PRESET_F16:
        return fill(of_type(KVAPPEND_STORED_F16));
    case KVAPPEND_PRESET_BF16:
        return fill(of_type(KVAPPEND_STORED_BF16));
    case KVAPPEND_PRESET_E4M3_DIVIDE:
        return fill(given(KVAPPEND_STORED_E4M3, KVAPPEND_SCALE_DIVIDE));
    case KVAPPEND_PRESET_E4M3_RECIPROCAL:
        return fill(given(KVAPPEND_STORED_E4M3, KVAPPEND_SCALE_RECIPROCAL));
    case KVAPPEND_PRESET_E4M3_MULTIPLY:
        return fill(given(KVAPPEND_STORED_E4M3, KVAPPEND_SCALE_MULTIPLY));
    case KVAPPEND_PRESET_INT8_MULTIPLY:
        return fill(given(KVAPPEND_STORED_INT8, KVAPPEND_SCALE_MULTIPLY));
    case KVAPPEND_PRESET_INT8_CHANNEL:
        return fill(given(KVAPPEND_STORED_INT8, KVAPPEND_SCALE_RECIPROCAL, 1));
    case KVAPPEND_PRESET_INT4_CHANNEL:
        return fill(given(KVAPPEND_STORED_INT4, KVAPPEND_SCALE_RECIPROCAL, 1));
    case KVAPPEND_PRESET_INT8_ROW:
        return fill(int8_row());
    case KVAPPEND_PRESET_E4M3_ROW:
        return fill(computed(KVAPPEND_STORED_E4M3, KVAPPEND_SCALE_RECIPROCAL, 0, 0, 1e-6F));
    case KVAPPEND_PRESET_DEEPSEEK_V3:
        return fill(computed(KVAPPEND_STORED_E4M3, KVAPPEND_SCALE_DIVIDE, 128, 0, FLT_MIN));
    case KVAPPEND_PRESET_DEEPSEEK_V3_POWER_OF_TWO:
        return fill(with_powers_of_two(computed(KVAPPEND_STORED_E4M3, KVAPPEND_SCALE_DIVIDE, 128, 0, 1e-4F),
                                       KVAPPEND_SCALE_F32));
    case KVAPPEND_PRESET_DEEPSEEK_V4:
        return fill(with_powers_of_two(computed(KVAPPEND_STORED_E4M3, KVAPPEND_SCALE_DIVIDE, 64, 1e-4F, 0),
                                       KVAPPEND_SCALE_UE8M0));
    case KVAPPEND_PRESET_INDEXER:
        return fill(indexer());
    case KVAPPEND_PRESET_INDEXER_POWER_OF_TWO:
        return fill(with_powers_of_two(indexer(), KVAPPEND_SCALE_F32));
    case KVAPPEND_PRESET_NVFP4:
        return fill(nvfp4(KVAPPEND_SCALE_LINEAR));
    case KVAPPEND_PRESET_NVFP4_BY_FOUR_ROWS:
        return fill(nvfp4(KVAPPEND_SCALE_BY_FOUR_ROWS));
    case KVAPPEND_PRESET_Q8_0:
        return fill(ggml_block(KVAPPEND_STORED_INT8, KVAPPEND_NIBBLES_PAIRS));
    case KVAPPEND_PRESET_Q4_0:
        return fill(ggml_block(KVAPPEND_STORED_INT4, KVAPPEND_NIBBLES_HALVES));
    default:
        return fail(KVAPPEND_ERROR_STORAGE, "preset is %" PRId32 ": expected a KVAPPEND_PRESET_* constant", preset);
    }
}

} // namespace kvappend
