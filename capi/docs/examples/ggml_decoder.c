/* SPDX-License-Identifier: Apache-2.0 */
/* A small decoder in ggml that writes its KV cache with ggml_set_rows, and with this library. It compares the bytes of
 * the caches and the logits, and then measures both, unless it is told to `compare` only:
 * ggml_decoder THREADS [compare] */
#include "ggml_cells.h"

#include <ggml-cpu.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    layers = 4,
    heads = 8,
    dim = 128,
    row = heads * dim, /* the elements of a cell, and the width of the model */
    inner = 2 * row,
    words = 1000,
    cells_number = 1024,
    prompt = 128,
    steps = 32,
    rounds = 31
};

typedef struct {
    struct ggml_tensor *q, *k, *v, *out, *up, *down;
} layer;

typedef struct {
    struct ggml_tensor *k[layers], *v[layers];
    const kvappend_plan *plan; /* NULL: ggml_set_rows writes the rows */
} cache;

/* One step: its inputs, its graph, and what ggml needs to run it. */
typedef struct {
    struct ggml_context *context;
    struct ggml_tensor *embeddings, *positions, *cells, *mask, *logits;
    struct ggml_cgraph *graph;
    struct ggml_cplan plan;
} step;

static layer model[layers];
static struct ggml_tensor *head;
static int threads = 1, only_compares;

static struct ggml_context *memory(size_t bytes) {
    const struct ggml_init_params params = {.mem_size = bytes};
    return ggml_init(params);
}

static float number(void) { /* in [-1, 1), the same in each run */
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(state >> 32) / 2147483648.0f;
}

static struct ggml_tensor *weights(struct ggml_context *context, int64_t in, int64_t out) {
    struct ggml_tensor *tensor = ggml_new_tensor_2d(context, GGML_TYPE_F16, in, out);
    for (int64_t i = 0; i < in * out; ++i) {
        ((ggml_fp16_t *)tensor->data)[i] = ggml_fp32_to_fp16(number() * sqrtf(3.0f / (float)in));
    }
    return tensor;
}

static struct ggml_tensor *heads_of(struct ggml_context *context, struct ggml_tensor *tensor, int64_t tokens) {
    return ggml_reshape_3d(context, tensor, dim, heads, tokens);
}

/* The first rows of a cache, [dim, rows, heads]. */
static struct ggml_tensor *read_cache(struct ggml_context *context, struct ggml_tensor *tensor) {
    return ggml_view_3d(context, tensor, dim, cells_number, heads, tensor->nb[1], ggml_row_size(tensor->type, dim), 0);
}

/* [write] */
static void write_cache(step *s, const cache *c, int l, struct ggml_tensor *k, struct ggml_tensor *v) {
    if (c->plan != NULL) {
        ggml_build_forward_expand(s->graph, cells_append(s->context, c->plan, c->k[l], c->v[l], k, v, s->cells));
    } else {
        ggml_build_forward_expand(s->graph, ggml_set_rows(s->context, c->k[l], k, s->cells));
        ggml_build_forward_expand(s->graph, ggml_set_rows(s->context, c->v[l], v, s->cells));
    }
}
/* [write] */

/* A step of some tokens. With only_writes, it writes the embeddings to the caches as K and V, and does nothing else. */
static step make_step(const cache *c, int64_t tokens, int only_writes) {
    step s = {.context = memory((size_t)256 << 20)};
    struct ggml_context *const x = s.context;
    s.embeddings = ggml_new_tensor_2d(x, GGML_TYPE_F32, row, tokens);
    s.positions = ggml_new_tensor_1d(x, GGML_TYPE_I32, tokens);
    s.cells = ggml_new_tensor_1d(x, GGML_TYPE_I64, tokens);
    s.mask = ggml_new_tensor_2d(x, GGML_TYPE_F16, cells_number, tokens);
    s.graph = ggml_new_graph(x);
    struct ggml_tensor *now = s.embeddings;
    for (int l = 0; l < layers && only_writes; ++l) {
        write_cache(&s, c, l, s.embeddings, s.embeddings);
    }
    for (int l = 0; l < layers && !only_writes; ++l) {
        struct ggml_tensor *const norm = ggml_rms_norm(x, now, 1e-5f);
        struct ggml_tensor *const q = heads_of(x, ggml_mul_mat(x, model[l].q, norm), tokens);
        struct ggml_tensor *const k = heads_of(x, ggml_mul_mat(x, model[l].k, norm), tokens);
        struct ggml_tensor *const rotated_q = ggml_rope(x, q, s.positions, dim, 0);
        struct ggml_tensor *const rotated_k = ggml_rope(x, k, s.positions, dim, 0);
        write_cache(&s, c, l, ggml_reshape_2d(x, rotated_k, row, tokens), ggml_mul_mat(x, model[l].v, norm));
        struct ggml_tensor *const attention =
            ggml_flash_attn_ext(x, ggml_permute(x, rotated_q, 0, 2, 1, 3), read_cache(x, c->k[l]),
                                read_cache(x, c->v[l]), s.mask, 1.0f / sqrtf(dim), 0.0f, 0.0f);
        now = ggml_add(x, now, ggml_mul_mat(x, model[l].out, ggml_reshape_2d(x, attention, row, tokens)));
        struct ggml_tensor *const wide = ggml_mul_mat(x, model[l].up, ggml_rms_norm(x, now, 1e-5f));
        now = ggml_add(x, now, ggml_mul_mat(x, model[l].down, ggml_silu(x, wide)));
    }
    if (!only_writes) {
        s.logits = ggml_mul_mat(x, head, ggml_rms_norm(x, now, 1e-5f));
        ggml_build_forward_expand(s.graph, s.logits);
    }
    s.plan = ggml_graph_plan(s.graph, threads, NULL);
    s.plan.work_data = malloc(s.plan.work_size + 1);
    return s;
}

static void free_step(step *s) {
    free(s->plan.work_data);
    ggml_free(s->context);
}

/* Tokens at adjacent positions. The cell of a position is not the position itself. */
static void set_inputs(step *s, int first, const float *embeddings) {
    const int tokens = (int)s->cells->ne[0];
    memcpy(s->embeddings->data, embeddings, ggml_nbytes(s->embeddings));
    memset(s->mask->data, 0, ggml_nbytes(s->mask));
    for (int t = 0; t < tokens; ++t) {
        ((int32_t *)s->positions->data)[t] = first + t;
        ((int64_t *)s->cells->data)[t] = (first + t) ^ 5;
        for (int cell = 0; cell < cells_number; ++cell) {
            const int seen = (cell ^ 5) <= first + t;
            ((ggml_fp16_t *)s->mask->data)[t * cells_number + cell] = seen ? 0 : 0xfc00; /* -infinity */
        }
    }
}

static void compute(step *s) {
    if (ggml_graph_compute(s->graph, &s->plan) != GGML_STATUS_SUCCESS) {
        abort();
    }
}

/* The bytes of two tensors that differ. */
static int64_t different(const struct ggml_tensor *a, const struct ggml_tensor *b) {
    int64_t count = 0;
    for (size_t i = 0; i < ggml_nbytes(a); ++i) {
        count += ((const char *)a->data)[i] != ((const char *)b->data)[i];
    }
    return count;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double seconds(step *s, int repeats) {
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < repeats; ++i) {
        compute(s);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec)) / repeats;
}

/* Times both ways in turn, and prints the medians. */
static void measure(const char *what, const cache c[2], int tokens, int only_writes, int repeats,
                    const float *embeddings) {
    double time[2][rounds], ratio[rounds];
    step s[2];
    for (int i = 0; i < 2; ++i) {
        s[i] = make_step(&c[i], tokens, only_writes);
        set_inputs(&s[i], tokens == 1 ? prompt : 0, embeddings);
        compute(&s[i]);
    }
    for (int round = 0; round < rounds; ++round) {
        const int first = round % 2;
        time[first][round] = seconds(&s[first], repeats);
        time[!first][round] = seconds(&s[!first], repeats);
        ratio[round] = time[0][round] / time[1][round];
    }
    qsort(time[0], (size_t)rounds, sizeof(double), by_value);
    qsort(time[1], (size_t)rounds, sizeof(double), by_value);
    qsort(ratio, (size_t)rounds, sizeof(double), by_value);
    printf("  %s: ggml_set_rows %.1f us, library %.1f us, ratio %.2f (quartiles %.2f, %.2f)\n", what,
           1e6 * time[0][rounds / 2], 1e6 * time[1][rounds / 2], ratio[rounds / 2], ratio[rounds / 4],
           ratio[rounds * 3 / 4]);
    free_step(&s[0]);
    free_step(&s[1]);
}

static void compare(enum ggml_type type, const char *name, const float *embeddings) {
    struct ggml_context *const context = memory((size_t)64 << 20);
    cache c[2] = {{.plan = NULL}};
    for (int i = 0; i < 2; ++i) {
        for (int l = 0; l < layers; ++l) {
            c[i].k[l] = ggml_new_tensor_2d(context, type, row, cells_number);
            c[i].v[l] = ggml_new_tensor_2d(context, type, row, cells_number);
            memset(c[i].k[l]->data, 0, ggml_nbytes(c[i].k[l]));
            memset(c[i].v[l]->data, 0, ggml_nbytes(c[i].v[l]));
        }
    }
    kvappend_plan *const plan = cells_plan(c[1].k[0], c[1].v[0]);
    if (plan == NULL) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        exit(1);
    }
    c[1].plan = plan;

    int64_t logits = 0, bytes = 0;
    float error = 0, largest = 0;
    for (int position = 0; position < prompt + steps; position += position == 0 ? prompt : 1) {
        step s[2];
        for (int i = 0; i < 2; ++i) {
            s[i] = make_step(&c[i], position == 0 ? prompt : 1, 0);
            set_inputs(&s[i], position, embeddings + (size_t)position * row);
            compute(&s[i]);
        }
        for (int64_t i = 0; i < words * s[0].cells->ne[0]; ++i) {
            const float x = ((const float *)s[0].logits->data)[i], y = ((const float *)s[1].logits->data)[i];
            logits += x != y;
            error = fmaxf(error, fabsf(x - y));
            largest = fmaxf(largest, fabsf(x));
        }
        free_step(&s[0]);
        free_step(&s[1]);
    }
    for (int l = 0; l < layers; ++l) {
        bytes += different(c[0].k[l], c[1].k[l]) + different(c[0].v[l], c[1].v[l]);
    }
    const int64_t all = (prompt + steps) * (int64_t)ggml_row_size(type, row) * 2;
    printf("%s, %d threads, after %d tokens:\n", name, threads, prompt + steps);
    printf("  %lld of %lld bytes of the caches differ; %lld of %lld in layer 0\n", (long long)bytes,
           (long long)all * layers, (long long)(different(c[0].k[0], c[1].k[0]) + different(c[0].v[0], c[1].v[0])),
           (long long)all);
    printf("  %lld of %d logits differ, by up to %g; the largest is %g\n", (long long)logits, words * (prompt + steps),
           error, largest);
    fflush(stdout);
    if (!only_compares) {
        measure("step of 1 token", c, 1, 0, 1, embeddings);
        measure("its writes alone", c, 1, 1, 200, embeddings);
        measure("step of 128 tokens", c, prompt, 0, 1, embeddings);
        measure("its writes alone", c, prompt, 1, 10, embeddings);
    }
    kvappend_plan_destroy(plan);
    ggml_free(context);
}

int main(int argc, char **argv) {
    static float embeddings[(prompt + steps) * row];
    threads = argc > 1 ? atoi(argv[1]) : 1;
    only_compares = argc > 2;
    struct ggml_context *const context = memory((size_t)256 << 20);
    for (int l = 0; l < layers; ++l) {
        model[l] = (layer){weights(context, row, row), weights(context, row, row),   weights(context, row, row),
                           weights(context, row, row), weights(context, row, inner), weights(context, inner, row)};
    }
    head = weights(context, row, words);
    for (size_t i = 0; i < sizeof embeddings / sizeof *embeddings; ++i) {
        embeddings[i] = number();
    }
    compare(GGML_TYPE_F16, "f16", embeddings);
    compare(GGML_TYPE_Q8_0, "q8_0", embeddings);
    ggml_free(context);
    return 0;
}
