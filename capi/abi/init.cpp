// SPDX-License-Identifier: Apache-2.0
// The init functions: the _INIT macros for callers that cannot use macros.
#include "../../src/presets.hpp"
#include "structs.hpp"

namespace {

kvappend_status init(const char *name, void *s, std::size_t struct_size) {
    if (s == nullptr) {
        return kvappend::fail(KVAPPEND_ERROR_NULL_ARGUMENT, "%s is NULL: expected a struct to initialise", name);
    }
    TRY(kvappend::check_struct_size(name, struct_size));
    std::memset(s, 0, struct_size);
    std::memcpy(s, &struct_size, sizeof struct_size);
    return KVAPPEND_SUCCESS;
}

} // namespace

KVAPPEND_API kvappend_status kvappend_descriptor_init(kvappend_descriptor *s, size_t struct_size) {
    return init("descriptor", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_preference_init(kvappend_preference *s, size_t struct_size) {
    return init("preference", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_args_init(kvappend_args *s, size_t struct_size) {
    return init("args", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_storage_init(kvappend_storage *s, size_t struct_size) {
    return init("storage", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_rotary_init(kvappend_rotary *s, size_t struct_size) {
    return init("rotary", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_sku_init(kvappend_sku *s, size_t struct_size) {
    return init("sku", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_precision_guarantee_init(kvappend_precision_guarantee *s, size_t struct_size) {
    return init("guarantee", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_fault_init(kvappend_fault *s, size_t struct_size) {
    return init("fault", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_report_init(kvappend_report *s, size_t struct_size) {
    return init("report", s, struct_size);
}

KVAPPEND_API kvappend_status kvappend_storage_preset(int32_t preset, kvappend_storage *storage, size_t struct_size) {
    TRY(kvappend_storage_init(storage, struct_size));
    kvappend_storage filled{};
    TRY(kvappend::fill_preset(preset, filled));
    kvappend::write_struct(filled, storage);
    return KVAPPEND_SUCCESS;
}
