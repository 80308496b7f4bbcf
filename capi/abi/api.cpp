// SPDX-License-Identifier: Apache-2.0
// The library's numbers, and the table of its functions for programs that load it by hand.
#include "../../src/status.hpp"

#include <cinttypes>

KVAPPEND_API uint32_t kvappend_version(void) {
    return KVAPPEND_VERSION;
}

KVAPPEND_API kvappend_status kvappend_get_api(uint32_t abi_version, const kvappend_api **api) {
    static constexpr kvappend_api table = {sizeof(kvappend_api),
                                           KVAPPEND_ABI_VERSION,
                                           KVAPPEND_VERSION,
                                           kvappend_status_name,
                                           kvappend_last_error_message,
                                           kvappend_descriptor_init,
                                           kvappend_preference_init,
                                           kvappend_args_init,
                                           kvappend_sku_init,
                                           kvappend_precision_guarantee_init,
                                           kvappend_plan_create,
                                           kvappend_plan_workspace_size,
                                           kvappend_plan_can_implement,
                                           kvappend_plan_run,
                                           kvappend_plan_destroy,
                                           kvappend_plan_get_sku,
                                           kvappend_plan_get_precision_guarantee,
                                           kvappend_kernel_name,
                                           kvappend_report_init,
                                           kvappend_fault_init,
                                           kvappend_plan_validate,
                                           kvappend_plan_run_layers,
                                           kvappend_storage_init,
                                           kvappend_storage_preset,
                                           kvappend_rotary_init};
    if (api == nullptr) {
        return kvappend::fail(KVAPPEND_ERROR_NULL_ARGUMENT, "api is NULL: expected a pointer");
    }
    *api = nullptr;
    if (abi_version != KVAPPEND_ABI_VERSION) {
        return kvappend::fail(KVAPPEND_ERROR_ABI_VERSION, "abi_version is %" PRIu32 ": expected %d", abi_version,
                              KVAPPEND_ABI_VERSION);
    }
    *api = &table;
    return KVAPPEND_SUCCESS;
}
