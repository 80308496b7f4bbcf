/* SPDX-License-Identifier: Apache-2.0 */
/* A libkvappend of this ABI, from before plan_run_layers. Its table ends where that would stand: behind it lies a page
 * that cannot be read, so that a program which reads too far does not get away with it. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <kvappend/kvappend.h>

#include <sys/mman.h>
#include <unistd.h>

kvappend_status kvappend_get_api(uint32_t abi_version, const kvappend_api **api) {
    const size_t size = offsetof(kvappend_api, plan_run_layers);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    static char *memory;
    kvappend_api *table;
    *api = NULL;
    if (abi_version != KVAPPEND_ABI_VERSION) {
        return KVAPPEND_ERROR_ABI_VERSION;
    }
    if (memory == NULL) {
        memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory + page, page, PROT_NONE) != 0) {
            return KVAPPEND_ERROR_OUT_OF_MEMORY;
        }
    }
    table = (kvappend_api *)(void *)(memory + page - size);
    table->struct_size = size;
    table->abi_version = KVAPPEND_ABI_VERSION;
    table->version = 203; /* 0.2.3 */
    *api = table;
    return KVAPPEND_SUCCESS;
}
