/* SPDX-License-Identifier: Apache-2.0 */
/* A host program that knows several places where the library may be, and uses the first that serves: it says what is
 * wrong with the others, and its exit code is that of the last when none serves. It loads and unloads the library three
 * times. On a machine without GPU or driver that must work as well; and a thread that met an error may end after the
 * library is gone. */
#define _POSIX_C_SOURCE 200112L
#include "../consumers/append.h"
#include "loading.h"

#include <pthread.h>

enum {
    HOST_MISUSED = 1, /* what it was given, or what it found, is not as it should be */
    HOST_ROUNDS = 3
};

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

/* Also, a CUDA plan is created or refused with a reason, by a library that was loaded without a driver, too. */
static int use(const kvappend_api *api) {
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    kvappend_plan *plan = NULL;
    kvappend_status status;

    REQUIRE(api->struct_size == sizeof *api && api->abi_version == KVAPPEND_ABI_VERSION);
    if (append_ragged_batch(api) != 0) {
        return HOST_MISUSED;
    }
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

/* The library itself refuses a program of another ABI. */
static int negotiate(void *library, const kvappend_api *api) {
    const kvappend_api *other = api;
    get_api_function get_api = NULL;
    *(void **)&get_api = dlsym(library, "kvappend_get_api");
    REQUIRE(get_api(KVAPPEND_ABI_VERSION + 1, &other) == KVAPPEND_ERROR_ABI_VERSION && other == NULL);
    REQUIRE(strcmp(api->last_error_message(), "abi_version is 2: expected 1") == 0);
    return 0;
}

static int load_use_and_unload(const char *path) {
    struct Outlives shared;
    pthread_t thread;
    void *library = NULL;
    const enum loading loading = load(path, &library, &shared.api);
    if (loading != LOADING_DONE) {
        return (int)loading;
    }
    if (use(shared.api) != 0 || negotiate(library, shared.api) != 0) {
        return HOST_MISUSED;
    }
    pthread_barrier_init(&shared.failed, NULL, 2);
    pthread_barrier_init(&shared.unloaded, NULL, 2);
    if (pthread_create(&thread, NULL, fail_and_outlive, &shared) != 0) {
        return HOST_MISUSED;
    }
    pthread_barrier_wait(&shared.failed);
    if (dlclose(library) != 0) {
        return HOST_MISUSED;
    }
    pthread_barrier_wait(&shared.unloaded);
    pthread_join(thread, NULL);
    if (dlopen(path, RTLD_NOW | RTLD_NOLOAD) != NULL) {
        printf("the library stays loaded after dlclose\n");
    }
    return 0;
}

int main(int argc, char **argv) {
    int code = HOST_MISUSED;
    int i;
    for (i = 1; i < argc && code != 0; ++i) {
        int round;
        code = load_use_and_unload(argv[i]);
        for (round = 1; round < HOST_ROUNDS && code == 0; ++round) {
            code = load_use_and_unload(argv[i]);
        }
        if (code == HOST_MISUSED) {
            return code;
        }
        if (code == 0) {
            printf("used %s\n", argv[i]);
        }
    }
    return code;
}
