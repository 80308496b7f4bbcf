/* SPDX-License-Identifier: Apache-2.0 */
/* How a program takes the library in at run time: it comes to terms with what it finds, or says why it does not. */
#ifndef KVAPPEND_TESTS_LOADING_H
#define KVAPPEND_TESTS_LOADING_H

#include <kvappend/kvappend.h>

#include <dlfcn.h>
#include <stdio.h>

/* What came of it, also as exit codes. */
enum loading {
    LOADING_DONE = 0,
    LOADING_NO_LIBRARY = 3, /* no such file, or not a library for this machine */
    LOADING_NO_ENTRY = 4,   /* another library */
    LOADING_OTHER_ABI = 5,  /* built for programs of another time */
    LOADING_TOO_OLD = 6     /* of this ABI, but from before a function that the program cannot do without */
};

/* Whether the table goes as far as this function. A library that is older than the header has a shorter table, and what
 * lies behind its end must not be read. */
#define LOADING_HAS(api, function) ((api)->struct_size >= offsetof(kvappend_api, function) + sizeof((api)->function))

typedef kvappend_status (*get_api_function)(uint32_t abi_version, const kvappend_api **api);

/* Gives *library for dlclose, and *api. On failure nothing stays loaded, and stderr says why. */
static enum loading load(const char *path, void **library, const kvappend_api **api) {
    /* RTLD_LOCAL, so that no other part of the process takes the symbols for its own. */
    void *const handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    enum loading failed = LOADING_DONE;
    get_api_function get_api = NULL;
    *library = NULL;
    *api = NULL;
    if (handle == NULL) {
        fprintf(stderr, "no library: %s\n", dlerror());
        return LOADING_NO_LIBRARY;
    }
    *(void **)&get_api = dlsym(handle, "kvappend_get_api");
    if (get_api == NULL) {
        fprintf(stderr, "%s is not libkvappend: it has no kvappend_get_api\n", path);
        failed = LOADING_NO_ENTRY;
    } else if (get_api(KVAPPEND_ABI_VERSION, api) != KVAPPEND_SUCCESS) {
        fprintf(stderr, "%s does not have ABI %d, for which this program was built\n", path, KVAPPEND_ABI_VERSION);
        failed = LOADING_OTHER_ABI;
    } else if (!LOADING_HAS(*api, plan_run_layers)) {
        fprintf(stderr, "%s is version %u.%u.%u, which lacks plan_run_layers: %d.%d.%d has it\n", path,
                (*api)->version / 10000, (*api)->version / 100 % 100, (*api)->version % 100, KVAPPEND_VERSION_MAJOR,
                KVAPPEND_VERSION_MINOR, KVAPPEND_VERSION_PATCH);
        failed = LOADING_TOO_OLD;
    }
    if (failed != LOADING_DONE) {
        *api = NULL;
        dlclose(handle);
        return failed;
    }
    *library = handle;
    return LOADING_DONE;
}

#endif
