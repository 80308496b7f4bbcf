// SPDX-License-Identifier: Apache-2.0
// The storage formats that every benchmark measures.
#pragma once

#include <kvappend/kvappend.h>

#include <cstdint>

struct Format {
    const char *name;
    std::int32_t element_type; // of the new rows
    std::int32_t preset;       // KVAPPEND_PRESET_*
};

inline constexpr Format formats[] = {
    {"f32-to-f16", KVAPPEND_ELEMENT_F32, KVAPPEND_PRESET_F16},
    {"f32-to-q8_0", KVAPPEND_ELEMENT_F32, KVAPPEND_PRESET_Q8_0},
    {"bf16-to-e4m3", KVAPPEND_ELEMENT_BF16, KVAPPEND_PRESET_E4M3_DIVIDE},
    {"bf16-to-e4m3-row", KVAPPEND_ELEMENT_BF16, KVAPPEND_PRESET_E4M3_ROW},
    {"bf16-to-int8-row", KVAPPEND_ELEMENT_BF16, KVAPPEND_PRESET_INT8_ROW},
    {"bf16-to-nvfp4", KVAPPEND_ELEMENT_BF16, KVAPPEND_PRESET_NVFP4},
};
