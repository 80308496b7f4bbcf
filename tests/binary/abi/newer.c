/* SPDX-License-Identifier: Apache-2.0 */
/* A program of a header that is still to come, in which each struct has grown: what it leaves at zero does no harm,
 * what it asks for and this library does not know is refused, by name and without damage, and it can find out
 * beforehand. */
#include "guarded.h"

/* Each struct with a further field behind it. */
#define GROWN(name)                                                                                                    \
    struct newer_##name {                                                                                              \
        kvappend_##name known;                                                                                         \
        int64_t wish;                                                                                                  \
    }
GROWN(descriptor);
GROWN(storage);
GROWN(rotary);
GROWN(preference);
GROWN(args);
GROWN(fault);
GROWN(sku);
GROWN(precision_guarantee);
GROWN(report);
struct newer_api {
    kvappend_api known;
    kvappend_status (*plan_rewind)(const kvappend_plan *plan);
};

#define NEW(name) ((struct newer_##name *)guarded(sizeof(struct newer_##name)))
#define REFUSED(call, words)                                                                                           \
    do {                                                                                                               \
        REQUIRE((call) == KVAPPEND_ERROR_STRUCT_SIZE);                                                                 \
        REQUIRE(told(words) && told("is not zero: expected zero in all but the first"));                               \
    } while (0)

static double k_new[2] = {1, 2}, k_cache[4];
static int64_t offset = 1;

static void check_cache(double first) {
    REQUIRE(k_cache[0] == -1 && k_cache[1] == first && k_cache[2] == first + 1 && k_cache[3] == -1);
}

static void fill(double first) {
    k_cache[0] = k_cache[1] = k_cache[2] = k_cache[3] = -1;
    k_new[0] = first;
    k_new[1] = first + 1;
}

static void check_table(void) {
    const kvappend_api *api = NULL;
    REQUIRE(kvappend_get_api(KVAPPEND_ABI_VERSION, &api) == KVAPPEND_SUCCESS);
    /* A function behind the table's end is one that this library does not have. */
    REQUIRE(api->struct_size == sizeof *api && api->struct_size <= offsetof(struct newer_api, plan_rewind));
    REQUIRE(kvappend_get_api(KVAPPEND_ABI_VERSION + 1, &api) == KVAPPEND_ERROR_ABI_VERSION && api == NULL);
    REQUIRE(told("abi_version is 2: expected 1"));
}

static void check_read(void) {
    struct newer_descriptor *const d = NEW(descriptor);
    struct newer_storage *const s = NEW(storage);
    struct newer_rotary *const r = NEW(rotary);
    struct newer_preference *const p = NEW(preference);
    struct newer_args *const a = NEW(args);
    kvappend_plan *plan = NULL;

    REQUIRE(kvappend_descriptor_init(&d->known, sizeof *d) == KVAPPEND_SUCCESS && d->wish == 0);
    REQUIRE(kvappend_storage_init(&s->known, sizeof *s) == KVAPPEND_SUCCESS && s->wish == 0);
    REQUIRE(kvappend_rotary_init(&r->known, sizeof *r) == KVAPPEND_SUCCESS && r->wish == 0);
    REQUIRE(kvappend_preference_init(&p->known, sizeof *p) == KVAPPEND_SUCCESS && p->wish == 0);
    REQUIRE(kvappend_args_init(&a->known, sizeof *a) == KVAPPEND_SUCCESS && a->wish == 0);
    d->known.element_type = KVAPPEND_ELEMENT_F64;
    d->known.batch = d->known.heads = d->known.k_dim = 1;
    d->known.new_rows = 2;
    d->known.cache_rows = 4;
    a->known.k_new = k_new, a->known.k_new_bytes = sizeof k_new;
    a->known.k_cache = k_cache, a->known.k_cache_bytes = sizeof k_cache;
    a->known.cache_offsets = &offset, a->known.cache_offsets_bytes = sizeof offset;

    d->wish = 1;
    REFUSED(kvappend_plan_create(&d->known, NULL, &plan), "descriptor.struct_size is 304 and byte 296");
    REQUIRE(plan == NULL);
    d->wish = 0;
    d->known.k_storage = &s->known;
    s->wish = 1;
    REFUSED(kvappend_plan_create(&d->known, NULL, &plan), "descriptor.k_storage.struct_size is 104 and byte 96");
    REQUIRE(plan == NULL);
    s->wish = 0;
    d->known.rotary = &r->known;
    r->wish = 1;
    REFUSED(kvappend_plan_create(&d->known, NULL, &plan), "descriptor.rotary.struct_size is 136 and byte 128");
    REQUIRE(plan == NULL);
    r->wish = 0;
    r->known.q_heads = 1;
    r->known.q_storage = &s->known;
    s->wish = 1;
    d->known.k_storage = NULL;
    REFUSED(kvappend_plan_create(&d->known, NULL, &plan),
            "descriptor.rotary->q_storage.struct_size is 104 and byte 96");
    REQUIRE(plan == NULL);
    s->wish = 0;
    d->known.rotary = NULL;
    p->wish = INT64_MIN; /* its last byte alone */
    REFUSED(kvappend_plan_create(&d->known, &p->known, &plan), "preference.struct_size is 32 and byte 31");
    REQUIRE(plan == NULL);
    p->wish = 0;
    REQUIRE(kvappend_plan_create(&d->known, &p->known, &plan) == KVAPPEND_SUCCESS);

    fill(10);
    REQUIRE(kvappend_plan_run(plan, &a->known, NULL, 0, NULL) == KVAPPEND_SUCCESS);
    check_cache(10);
    fill(20);
    a->wish = 7;
    REFUSED(kvappend_plan_can_implement(plan, &a->known), "args.struct_size is 464 and byte 456");
    REFUSED(kvappend_plan_run(plan, &a->known, NULL, 0, NULL), "args.struct_size is 464 and byte 456");
    REQUIRE(k_cache[1] == -1 && k_cache[2] == -1);
    a->wish = 0;
    REQUIRE(kvappend_plan_run(plan, &a->known, NULL, 0, NULL) == KVAPPEND_SUCCESS);
    check_cache(20);
    REQUIRE(kvappend_plan_destroy(plan) == KVAPPEND_SUCCESS);
}

/* What the library writes, it fills as far as it knows; behind that is zero, which the newer program takes for "no". */
static void check_written(void) {
    struct newer_sku *const sku = NEW(sku);
    struct newer_precision_guarantee *const guarantee = NEW(precision_guarantee);
    struct newer_fault *const fault = NEW(fault);
    struct newer_storage *const storage = NEW(storage);
    struct newer_report *const report = NEW(report);
    kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;
    kvappend_args a = KVAPPEND_ARGS_INIT;
    kvappend_plan *plan = NULL;

    d.element_type = KVAPPEND_ELEMENT_F64;
    d.batch = d.heads = d.k_dim = 1;
    d.new_rows = 2;
    d.cache_rows = 2; /* so that the second row is above it */
    d.skip_policy = KVAPPEND_SKIP_REPORT;
    REQUIRE(kvappend_plan_create(&d, NULL, &plan) == KVAPPEND_SUCCESS);

    sku->known.struct_size = sizeof *sku;
    REQUIRE(kvappend_plan_get_sku(plan, &sku->known) == KVAPPEND_SUCCESS);
    REQUIRE(sku->known.operation == KVAPPEND_OPERATION_APPEND && sku->known.kernel_name != NULL);
    REQUIRE(sku->wish == 0 && sku->known.struct_size == sizeof *sku);
    guarantee->known.struct_size = sizeof *guarantee;
    REQUIRE(kvappend_plan_get_precision_guarantee(plan, &guarantee->known) == KVAPPEND_SUCCESS);
    REQUIRE(guarantee->known.k_bit_exact == 1 && guarantee->wish == 0);

    REQUIRE(kvappend_storage_preset(KVAPPEND_PRESET_NVFP4, &storage->known, sizeof *storage) == KVAPPEND_SUCCESS);
    REQUIRE(storage->known.struct_size == sizeof *storage && storage->known.group == 16 && storage->wish == 0);

    a.k_new = k_new;
    a.k_cache = k_cache;
    a.cache_offsets = &offset;
    REQUIRE(kvappend_report_init(&report->known, sizeof *report) == KVAPPEND_SUCCESS && report->wish == 0);
    report->wish = 5; /* not this library's to touch */
    a.report = &report->known;
    a.report_bytes = sizeof *report;
    fault->known.struct_size = sizeof *fault;
    REQUIRE(kvappend_plan_validate(plan, &a, NULL, 0, NULL, &fault->known) == KVAPPEND_ERROR_SKIPPED);
    REQUIRE(fault->known.row == 1 && fault->known.position == 2 && fault->wish == 0);
    REQUIRE(kvappend_plan_run(plan, &a, NULL, 0, NULL) == KVAPPEND_SUCCESS);
    REQUIRE(report->known.rows_above == 1 && report->wish == 5);
    REQUIRE(kvappend_plan_destroy(plan) == KVAPPEND_SUCCESS);
}

int main(void) {
    check_table();
    check_read();
    check_written();
    return 0;
}
