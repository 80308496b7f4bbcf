// SPDX-License-Identifier: Apache-2.0
// Statuses as text, and the thread's last error.
#include "../../src/status.hpp"

KVAPPEND_API const char *kvappend_status_name(kvappend_status status) {
    switch (status) {
#define NAME(constant)                                                                                                 \
    case constant:                                                                                                     \
        return #constant
        NAME(KVAPPEND_SUCCESS);
        NAME(KVAPPEND_ERROR_NULL_ARGUMENT);
        NAME(KVAPPEND_ERROR_STRUCT_SIZE);
        NAME(KVAPPEND_ERROR_ABI_VERSION);
        NAME(KVAPPEND_ERROR_BACKEND);
        NAME(KVAPPEND_ERROR_ELEMENT_TYPE);
        NAME(KVAPPEND_ERROR_OFFSET_TYPE);
        NAME(KVAPPEND_ERROR_ADDRESSING);
        NAME(KVAPPEND_ERROR_EXTENT);
        NAME(KVAPPEND_ERROR_STRIDE);
        NAME(KVAPPEND_ERROR_OVERFLOW);
        NAME(KVAPPEND_ERROR_OVERLAP);
        NAME(KVAPPEND_ERROR_KERNEL);
        NAME(KVAPPEND_ERROR_LENGTHS);
        NAME(KVAPPEND_ERROR_UNSUPPORTED);
        NAME(KVAPPEND_ERROR_NO_DEVICE);
        NAME(KVAPPEND_ERROR_DRIVER);
        NAME(KVAPPEND_ERROR_CUDA);
        NAME(KVAPPEND_ERROR_WRONG_DEVICE);
        NAME(KVAPPEND_ERROR_OUT_OF_MEMORY);
        NAME(KVAPPEND_ERROR_NULL_BUFFER);
        NAME(KVAPPEND_ERROR_BUFFER_TOO_SMALL);
        NAME(KVAPPEND_ERROR_MISALIGNED);
        NAME(KVAPPEND_ERROR_ALIAS);
        NAME(KVAPPEND_ERROR_WORKSPACE);
        NAME(KVAPPEND_ERROR_STREAM);
        NAME(KVAPPEND_ERROR_FLAGS);
        NAME(KVAPPEND_ERROR_CONFLICT);
        NAME(KVAPPEND_ERROR_SKIP_POLICY);
        NAME(KVAPPEND_ERROR_PACK);
        NAME(KVAPPEND_ERROR_SKIPPED);
        NAME(KVAPPEND_ERROR_INDEX_ORDER);
        NAME(KVAPPEND_ERROR_INDEX_RANGE);
        NAME(KVAPPEND_ERROR_DUPLICATE);
        NAME(KVAPPEND_ERROR_HOST_THREADS);
        NAME(KVAPPEND_ERROR_INDEX_WIDTH);
        NAME(KVAPPEND_ERROR_INDEX_TYPE);
        NAME(KVAPPEND_ERROR_STORAGE);
        NAME(KVAPPEND_ERROR_SCALE);
        NAME(KVAPPEND_ERROR_OPERATION);
        NAME(KVAPPEND_ERROR_ROTARY);
#undef NAME
    default:
        return "unknown kvappend_status";
    }
}

KVAPPEND_API const char *kvappend_last_error_message(void) {
    return kvappend::last_error_message();
}
