/* SPDX-License-Identifier: Apache-2.0 */
/* The guide's operator for ggml without ggml: a graph of one node, whose bytes are those of F16 and Q8_0 as the header
 * defines them. The seed of the numbers is constant. */
#include <ggml_cells.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    row = 96,
    tokens = 5,
    cells_number = 9,
    largest_bytes = cells_number * row * 2
};

static ggml_custom_op_t operation;
static void *operation_data;

/* What ggml does with a custom operator. */
struct ggml_tensor *ggml_custom_inplace(struct ggml_context *ctx, struct ggml_tensor *a, struct ggml_tensor **args,
                                        int n_args, ggml_custom_op_t fun, int n_tasks, void *userdata) {
    static struct ggml_tensor node;
    (void)ctx;
    node = *a;
    node.src[0] = a;
    for (int i = 0; i < n_args; ++i) {
        node.src[i + 1] = args[i];
    }
    operation = fun;
    operation_data = userdata;
    return n_tasks == GGML_N_TASKS_MAX ? &node : NULL;
}

/* The code of F16 that is nearest to x, which is not too large, ties to even. */
static uint16_t half(float x) {
    const float magnitude = fabsf(x);
    int exponent;
    frexpf(magnitude, &exponent); /* magnitude < 2^exponent, and 0 for 0 */
    exponent = magnitude == 0 || exponent < -13 ? -13 : exponent;
    /* Eleven bits, or those above 2^-24. In a code, the next exponent follows the largest fraction. */
    const float fraction = nearbyintf(ldexpf(magnitude, 11 - exponent));
    const int code = (exponent + 13) * 1024 + (int)fraction;
    return (uint16_t)((signbit(x) ? 0x8000 : 0) | code);
}

static void store(unsigned char *to, uint16_t code) {
    to[0] = (unsigned char)(code & 0xff);
    to[1] = (unsigned char)(code >> 8);
}

/* A row as ggml's reference stores it: a scale, then the codes of 32 elements, ties away from zero. */
static void expected_row(enum ggml_type type, const float *x, unsigned char *to) {
    if (type == GGML_TYPE_F16) {
        for (int i = 0; i < row; ++i) {
            store(to + (size_t)i * 2, half(x[i]));
        }
        return;
    }
    for (int block = 0; block < row / 32; ++block, x += 32, to += 34) {
        float largest = 0;
        for (int i = 0; i < 32; ++i) {
            largest = fmaxf(largest, fabsf(x[i]));
        }
        const float scale = largest / 127, reciprocal = scale != 0 ? 1 / scale : 0;
        store(to, half(scale));
        for (int i = 0; i < 32; ++i) {
            to[2 + i] = (unsigned char)(signed char)roundf(x[i] * reciprocal);
        }
    }
}

static struct ggml_tensor tensor(enum ggml_type type, int64_t rows, size_t row_bytes, void *data) {
    const struct ggml_tensor t = {.type = type, .ne = {row, rows, 1, 1}, .nb = {0, row_bytes}, .data = data};
    return t;
}

static size_t row_bytes(enum ggml_type type) {
    return type == GGML_TYPE_F16 ? row * 2 : row / 32 * 34;
}

static int check(enum ggml_type k_type, enum ggml_type v_type, int threads) {
    static float k_rows[tokens][row], v_rows[tokens][row];
    static _Alignas(64) unsigned char k_bytes[largest_bytes], v_bytes[largest_bytes];
    static unsigned char k_expected[largest_bytes], v_expected[largest_bytes];
    int64_t numbers[tokens] = {7, 0, -1, 3, 8}; /* The third token is padding. */
    for (int t = 0; t < tokens; ++t) {
        for (int i = 0; i < row; ++i) {
            k_rows[t][i] = (float)(rand() - RAND_MAX / 2) / (float)(RAND_MAX >> (i / 32 * 5));
            v_rows[t][i] = t == 4 && i < 32 ? 0 : (float)(rand() % 255 - 127) * 0.5F; /* many ties, a block of zeros */
        }
    }
    memset(k_bytes, 0xa5, sizeof k_bytes);
    memset(v_bytes, 0xa5, sizeof v_bytes);
    memset(k_expected, 0xa5, sizeof k_expected);
    memset(v_expected, 0xa5, sizeof v_expected);
    for (int t = 0; t < tokens; ++t) {
        if (numbers[t] >= 0) {
            expected_row(k_type, k_rows[t], k_expected + (size_t)numbers[t] * row_bytes(k_type));
            expected_row(v_type, v_rows[t], v_expected + (size_t)numbers[t] * row_bytes(v_type));
        }
    }

    struct ggml_tensor k_cache = tensor(k_type, cells_number, row_bytes(k_type), k_bytes);
    struct ggml_tensor v_cache = tensor(v_type, cells_number, row_bytes(v_type), v_bytes);
    struct ggml_tensor k = tensor(GGML_TYPE_F32, tokens, sizeof *k_rows, k_rows);
    struct ggml_tensor v = tensor(GGML_TYPE_F32, tokens, sizeof *v_rows, v_rows);
    struct ggml_tensor cells = {.type = GGML_TYPE_I64, .ne = {tokens, 1, 1, 1}, .data = numbers};
    kvappend_plan *const plan = cells_plan(&k_cache, &v_cache);
    if (plan == NULL) {
        fprintf(stderr, "%s\n", kvappend_last_error_message());
        return 1;
    }
    struct ggml_tensor *const node = cells_append(NULL, plan, &k_cache, &v_cache, &k, &v, &cells);
    for (int thread = 0; node != NULL && thread < threads; ++thread) {
        operation(node, thread, threads, operation_data);
    }
    kvappend_plan_destroy(plan);
    for (size_t i = 0; i < largest_bytes; ++i) {
        if (k_bytes[i] != k_expected[i] || v_bytes[i] != v_expected[i]) {
            fprintf(stderr, "types %d and %d, %d threads, byte %zu: K %02x, not %02x; V %02x, not %02x\n", k_type,
                    v_type, threads, i, k_bytes[i], k_expected[i], v_bytes[i], v_expected[i]);
            return 1;
        }
    }
    return 0;
}

int main(void) {
    int failed = 0;
    for (int threads = 1; threads <= tokens + 2; ++threads) {
        failed |= check(GGML_TYPE_F16, GGML_TYPE_F16, threads);
        failed |= check(GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, threads);
        failed |= check(GGML_TYPE_F16, GGML_TYPE_Q8_0, threads);
    }
    return failed;
}
