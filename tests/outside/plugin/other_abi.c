/* SPDX-License-Identifier: Apache-2.0 */
/* A libkvappend of another ABI: it refuses, as every libkvappend does. */
#include <kvappend/kvappend.h>

kvappend_status kvappend_get_api(uint32_t abi_version, const kvappend_api **api) {
    *api = NULL;
    return abi_version == KVAPPEND_ABI_VERSION + 1 ? KVAPPEND_SUCCESS : KVAPPEND_ERROR_ABI_VERSION;
}
