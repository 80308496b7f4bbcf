/* SPDX-License-Identifier: Apache-2.0 */
/* A program in pure C99, linked by the C compiler alone. */
#include "append.h"

int main(void) {
    const kvappend_api *api = NULL;
    if (kvappend_get_api(KVAPPEND_ABI_VERSION, &api) != KVAPPEND_SUCCESS || kvappend_version() != KVAPPEND_VERSION) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    REQUIRE(api->plan_run == kvappend_plan_run && api->version == kvappend_version());
    return append_ragged_batch(api);
}
