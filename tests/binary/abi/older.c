/* SPDX-License-Identifier: Apache-2.0 */
/* A program of an older header, which is all that it sees: frozen/ holds the first public header, of 0.1.0 in the
 * making, 24 November 2026, when there was nothing but the dense append. Since then the descriptor, the preference, the
 * arguments, the guarantee and the function table have grown. It must append, be refused and be answered as on its own
 * day. Of the guarantee, it reads the fields for K and for V as bit_exact and deterministic. Of the sku, its operation
 * no longer tells the addressing, so it has a number for the append that its header does not have: 0. */
#include "guarded.h"

/* A header that is not the old one would prove nothing. */
typedef char descriptor_is_the_old_one[sizeof(kvappend_descriptor) == 168 ? 1 : -1];
typedef char preference_is_the_old_one[sizeof(kvappend_preference) == 16 ? 1 : -1];
typedef char args_are_the_old_ones[sizeof(kvappend_args) == 88 ? 1 : -1];
typedef char api_is_the_old_one[sizeof(kvappend_api) == 136 ? 1 : -1];

enum {
    batch = 3,
    heads = 2,
    rows = 2,
    cache_rows = 5,
    k_dim = 4,
    v_dim = 3
};

static float k_new[batch][heads][rows][k_dim], v_new[batch][rows][heads][v_dim];
static float k_cache[batch][heads][cache_rows][k_dim], v_cache[batch][cache_rows][heads][v_dim];
/* The second sample's second row is above its cache, the third's first row below it. */
static int32_t offsets[batch] = {1, 4, -1};

static int written(int b, int row) {
    const int l = row - offsets[b];
    return l >= 0 && l < rows;
}

static float value(int b, int h, int l, int i) {
    return (float)(b * 1000 + h * 100 + l * 10 + i + 1);
}

static void fill(void) {
    int b, h, l, i;
    memset(k_cache, 0x5a, sizeof k_cache);
    memset(v_cache, 0x5a, sizeof v_cache);
    for (b = 0; b < batch; ++b) {
        for (h = 0; h < heads; ++h) {
            for (l = 0; l < rows; ++l) {
                for (i = 0; i < k_dim; ++i) {
                    k_new[b][h][l][i] = value(b, h, l, i);
                }
                for (i = 0; i < v_dim; ++i) {
                    v_new[b][l][h][i] = -value(b, h, l, i);
                }
            }
        }
    }
}

static void check_element(const float *found, int b, int row, float expected) {
    float untouched;
    memset(&untouched, 0x5a, sizeof untouched);
    REQUIRE(memcmp(found, written(b, row) ? &expected : &untouched, sizeof expected) == 0);
}

static void check_caches(void) {
    int b, h, row, i;
    for (b = 0; b < batch; ++b) {
        for (h = 0; h < heads; ++h) {
            for (row = 0; row < cache_rows; ++row) {
                const int l = row - offsets[b];
                for (i = 0; i < k_dim; ++i) {
                    check_element(&k_cache[b][h][row][i], b, row, value(b, h, l, i));
                }
                for (i = 0; i < v_dim; ++i) {
                    check_element(&v_cache[b][row][h][i], b, row, -value(b, h, l, i));
                }
            }
        }
    }
}

static void describe(const kvappend_api *api, kvappend_descriptor *d) {
    REQUIRE(api->descriptor_init(d, sizeof *d) == KVAPPEND_SUCCESS);
    d->backend = KVAPPEND_BACKEND_HOST;
    d->element_type = KVAPPEND_ELEMENT_F32;
    d->offset_type = KVAPPEND_OFFSET_INT32;
    d->addressing = KVAPPEND_ADDRESSING_DENSE;
    d->batch = batch;
    d->heads = heads;
    d->new_rows = rows;
    d->cache_rows = cache_rows;
    d->k_dim = k_dim;
    d->v_dim = v_dim;
    /* V is [B, L, H, D]. */
    d->v_new_strides[KVAPPEND_AXIS_BATCH] = rows * heads * v_dim;
    d->v_new_strides[KVAPPEND_AXIS_HEAD] = v_dim;
    d->v_new_strides[KVAPPEND_AXIS_ROW] = heads * v_dim;
    d->v_cache_strides[KVAPPEND_AXIS_BATCH] = cache_rows * heads * v_dim;
    d->v_cache_strides[KVAPPEND_AXIS_HEAD] = v_dim;
    d->v_cache_strides[KVAPPEND_AXIS_ROW] = heads * v_dim;
}

static void give(const kvappend_api *api, kvappend_args *a) {
    REQUIRE(api->args_init(a, sizeof *a) == KVAPPEND_SUCCESS);
    a->k_new = k_new, a->k_new_bytes = sizeof k_new;
    a->v_new = v_new, a->v_new_bytes = sizeof v_new;
    a->k_cache = k_cache, a->k_cache_bytes = sizeof k_cache;
    a->v_cache = v_cache, a->v_cache_bytes = sizeof v_cache;
    a->cache_offsets = offsets, a->cache_offsets_bytes = sizeof offsets;
}

static void check_errors(const kvappend_api *api, const kvappend_plan *plan, kvappend_args *a) {
    kvappend_descriptor *const d = (kvappend_descriptor *)guarded(sizeof *d);
    kvappend_preference *const p = (kvappend_preference *)guarded(sizeof *p);
    kvappend_plan *refused = NULL;
    kvappend_status status;

    describe(api, d);
    REQUIRE(api->preference_init(p, sizeof *p) == KVAPPEND_SUCCESS);
    p->kernel_name = "no such kernel";
    REQUIRE(api->plan_create(d, p, &refused) == KVAPPEND_ERROR_KERNEL && refused == NULL);
    REQUIRE(told("preference.kernel_name is \"no such kernel\""));
    d->batch = -1;
    REQUIRE(api->plan_create(d, NULL, &refused) == KVAPPEND_ERROR_EXTENT && refused == NULL);
    REQUIRE(told("descriptor.batch is -1"));
    /* What was no addressing in the old days needs fields that this program does not have; and a status of which it
     * knows nothing can still be told. */
    describe(api, d);
    d->addressing = 2;
    status = api->plan_create(d, NULL, &refused);
    REQUIRE(status > KVAPPEND_ERROR_STREAM && refused == NULL);
    REQUIRE(strcmp(api->status_name(status), "KVAPPEND_ERROR_CONFLICT") == 0 && told("descriptor.cache_blocks is 0"));

    a->k_cache_bytes -= 1;
    REQUIRE(api->plan_run(plan, a, NULL, 0, NULL) == KVAPPEND_ERROR_BUFFER_TOO_SMALL);
    REQUIRE(told("args.k_cache_bytes is 479: expected at least 480"));
    REQUIRE(strcmp(api->status_name(KVAPPEND_ERROR_BUFFER_TOO_SMALL), "KVAPPEND_ERROR_BUFFER_TOO_SMALL") == 0);
    a->k_cache_bytes += 1;
    a->v_new = NULL;
    REQUIRE(api->plan_can_implement(plan, a) == KVAPPEND_ERROR_NULL_BUFFER);
    a->v_new = k_cache;
    REQUIRE(api->plan_can_implement(plan, a) == KVAPPEND_ERROR_ALIAS);
    a->v_new = v_new;
    REQUIRE(api->plan_run(plan, a, NULL, 1, NULL) == KVAPPEND_ERROR_WORKSPACE);
    REQUIRE(api->plan_run(NULL, a, NULL, 0, NULL) == KVAPPEND_ERROR_NULL_ARGUMENT);
}

static void check_answers(const kvappend_api *api, const kvappend_plan *plan) {
    kvappend_sku *const sku = (kvappend_sku *)guarded(sizeof *sku);
    kvappend_precision_guarantee *const guarantee = (kvappend_precision_guarantee *)guarded(sizeof *guarantee);
    size_t bytes = 1;

    REQUIRE(api->sku_init(sku, sizeof *sku) == KVAPPEND_SUCCESS);
    REQUIRE(api->plan_get_sku(plan, sku) == KVAPPEND_SUCCESS);
    REQUIRE(sku->operation == 0 && sku->backend == KVAPPEND_BACKEND_HOST);
    REQUIRE(sku->element_type == KVAPPEND_ELEMENT_F32 && strncmp(sku->kernel_name, "host_", 5) == 0);
    REQUIRE(api->precision_guarantee_init(guarantee, sizeof *guarantee) == KVAPPEND_SUCCESS);
    REQUIRE(api->plan_get_precision_guarantee(plan, guarantee) == KVAPPEND_SUCCESS);
    REQUIRE(guarantee->bit_exact == 1 && guarantee->deterministic == 1);
    REQUIRE(api->plan_workspace_size(plan, &bytes) == KVAPPEND_SUCCESS && bytes == 0);
    REQUIRE(api->kernel_name(0) != NULL && api->kernel_name(1000) == NULL);
}

int main(void) {
    const kvappend_api *api = NULL;
    kvappend_descriptor *const d = (kvappend_descriptor *)guarded(sizeof *d);
    kvappend_args *const a = (kvappend_args *)guarded(sizeof *a);
    kvappend_plan *plan = NULL;
    int run;

    REQUIRE(kvappend_get_api(KVAPPEND_ABI_VERSION, &api) == KVAPPEND_SUCCESS);
    REQUIRE(api->struct_size >= sizeof *api && api->abi_version == KVAPPEND_ABI_VERSION);
    REQUIRE(kvappend_version() >= KVAPPEND_VERSION);
    /* What the old table's places hold are the functions of those names. */
    REQUIRE(api->plan_run == kvappend_plan_run && api->kernel_name == kvappend_kernel_name);

    describe(api, d);
    REQUIRE(api->plan_create(d, NULL, &plan) == KVAPPEND_SUCCESS);
    give(api, a);
    for (run = 0; run < 2; ++run) {
        fill();
        REQUIRE(api->plan_can_implement(plan, a) == KVAPPEND_SUCCESS);
        REQUIRE(api->plan_run(plan, a, NULL, 0, NULL) == KVAPPEND_SUCCESS);
        check_caches();
        /* After refusals all goes on, and nothing was written. */
        check_errors(api, plan, a);
        check_caches();
    }
    check_answers(api, plan);
    REQUIRE(api->plan_destroy(plan) == KVAPPEND_SUCCESS);
    return 0;
}
