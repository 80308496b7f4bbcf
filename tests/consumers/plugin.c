/* SPDX-License-Identifier: Apache-2.0 */
/* Loads and unloads the library three times by dlopen, and looks up one symbol only. On a machine without GPU or
 * driver that must work as well; and a thread that met an error may end after the library is gone. */
#define _POSIX_C_SOURCE 200112L
#include "append.h"

#include <dlfcn.h>
#include <pthread.h>

typedef kvappend_status (*get_api_function)(uint32_t abi_version, const kvappend_api **api);

struct Outlives {
    const kvappend_api *api;
    pthread_barrier_t failed, unloaded;
};

static void *fail_and_outlive(void *argument) {
    struct Outlives *const shared = argument;
    shared->api->plan_create(NULL, NULL, NULL);
    pthread_barrier_wait(&shared->failed);
    pthread_barrier_wait(&shared->unloaded);
    return NULL;
}

static int use(const kvappend_api *api, get_api_function get_api) {
    const kvappend_api *other = api;
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    kvappend_plan *plan = NULL;
    kvappend_status status;

    REQUIRE(api->struct_size == sizeof *api && api->abi_version == KVAPPEND_ABI_VERSION);
    if (append_ragged_batch(api) != 0) {
        return 1;
    }
    REQUIRE(get_api(KVAPPEND_ABI_VERSION + 1, &other) == KVAPPEND_ERROR_ABI_VERSION && other == NULL);
    REQUIRE(strcmp(api->last_error_message(), "abi_version is 2: expected 1") == 0);

    d.backend = KVAPPEND_BACKEND_CUDA;
    status = api->plan_create(&d, NULL, &plan);
    REQUIRE(status == KVAPPEND_SUCCESS || status == KVAPPEND_ERROR_NO_DEVICE || status == KVAPPEND_ERROR_UNSUPPORTED);
    REQUIRE((plan != NULL) == (status == KVAPPEND_SUCCESS));
    if (status == KVAPPEND_ERROR_NO_DEVICE) {
        REQUIRE(strstr(api->last_error_message(), "there is no CUDA d") == api->last_error_message());
    } else if (status == KVAPPEND_ERROR_UNSUPPORTED) {
        REQUIRE(strstr(api->last_error_message(), "built without CUDA") != NULL);
    }
    printf("a CUDA plan: %s\n", status == KVAPPEND_SUCCESS ? "created" : api->last_error_message());
    return api->plan_destroy(plan);
}

int main(int argc, char **argv) {
    int turn;
    if (argc != 2) {
        fprintf(stderr, "usage: plugin LIBRARY\n");
        return 2;
    }
    for (turn = 0; turn < 3; ++turn) {
        struct Outlives shared;
        pthread_t thread;
        get_api_function get_api = NULL;
        void *const library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        *(void **)&get_api = dlsym(library, "kvappend_get_api");
        if (get_api == NULL || get_api(KVAPPEND_ABI_VERSION, &shared.api) != KVAPPEND_SUCCESS) {
            return 1;
        }
        if (use(shared.api, get_api) != 0) {
            return 1;
        }
        pthread_barrier_init(&shared.failed, NULL, 2);
        pthread_barrier_init(&shared.unloaded, NULL, 2);
        if (pthread_create(&thread, NULL, fail_and_outlive, &shared) != 0) {
            return 1;
        }
        pthread_barrier_wait(&shared.failed);
        if (dlclose(library) != 0) {
            return 1;
        }
        pthread_barrier_wait(&shared.unloaded);
        pthread_join(thread, NULL);
        if (dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL) {
            printf("the library stays loaded after dlclose\n");
        }
    }
    return 0;
}
