/* SPDX-License-Identifier: Apache-2.0 */
/* A small decoder with attention over the rows of the caches. Its weights come from a hash, not from a file. */
#include "transfer_model.h"

#include <math.h>
#include <string.h>

enum {
    QUERY,
    KEY,
    VALUE,
    OUTPUT,
    TOKEN,
    POSITION
};

/* Gives a number from -1 to 1 for each element of each weight. */
static float weight(int what, int a, int b, int c) {
    uint32_t x = (uint32_t)what * 0x9e3779b9u + (uint32_t)a * 0x85ebca6bu + (uint32_t)b * 0xc2b2ae35u + (uint32_t)c;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    x ^= x >> 16;
    return (float)(x >> 8) / (1 << 23) - 1;
}

static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void normalise(float x[DIM]) {
    float sum = 0;
    for (int i = 0; i < DIM; ++i) {
        sum += x[i] * x[i];
    }
    const float factor = sqrtf(DIM / sum);
    for (int i = 0; i < DIM; ++i) {
        x[i] *= factor;
    }
}

/* One head: out = softmax(q * K) * V over the rows. */
static void attend(const float q[DIM], const uint16_t *k, const uint16_t *v, int rows, float out[DIM]) {
    float scores[MAX_ROWS], greatest = -INFINITY, sum = 0;
    for (int row = 0; row < rows; ++row) {
        scores[row] = 0;
        for (int i = 0; i < DIM; ++i) {
            scores[row] += q[i] * from_bf16(k[row * DIM + i]) / 4;
        }
        greatest = fmaxf(greatest, scores[row]);
    }
    memset(out, 0, DIM * sizeof *out);
    for (int row = 0; row < rows; ++row) {
        const float share = expf(scores[row] - greatest);
        sum += share;
        for (int i = 0; i < DIM; ++i) {
            out[i] += share * from_bf16(v[row * DIM + i]);
        }
    }
    for (int i = 0; i < DIM; ++i) {
        out[i] /= sum;
    }
}

/* Computes one layer for the heads of one rank. `first` is the number of its first head. */
static void attend_on(const struct cache *rank, int layer, int first, int position, const float x[DIM],
                      float out[HEADS][DIM]) {
    static uint16_t k_rows[HEADS][MAX_ROWS][DIM], v_rows[HEADS][MAX_ROWS][DIM];
    float q[HEADS][DIM];
    uint16_t k[HEADS][DIM], v[HEADS][DIM];
    for (int head = 0; head < rank->heads; ++head) {
        for (int i = 0; i < DIM; ++i) {
            const int place = (first + head) * DIM + i; /* counts the heads of all ranks */
            q[head][i] = weight(QUERY, layer, place, 0) * x[i];
            k[head][i] = to_bf16(weight(KEY, layer, place, 0) * x[(i + 1) % DIM]);
            v[head][i] = to_bf16(weight(VALUE, layer, place, 0) * x[(i + first + head) % DIM]);
        }
    }
    cache_append_row(rank, layer, position, k[0], v[0]);
    cache_read_rows(rank, layer, position + 1, k_rows[0][0], v_rows[0][0]);
    for (int head = 0; head < rank->heads; ++head) {
        attend(q[head], k_rows[head][0], v_rows[head][0], position + 1, out[first + head]);
    }
}

int model_step(const struct cache *ranks, int count, int position, int token, float logits[VOCABULARY]) {
    float x[DIM], out[HEADS][DIM];
    for (int i = 0; i < DIM; ++i) {
        x[i] = weight(TOKEN, token, i, 0) + weight(POSITION, position, i, 0) / 4;
    }
    for (int layer = 0; layer < LAYERS; ++layer) {
        normalise(x);
        for (int rank = 0, first = 0; rank < count; first += ranks[rank++].heads) {
            attend_on(&ranks[rank], layer, first, position, x, out);
        }
        for (int head = 0; head < HEADS; ++head) {
            for (int i = 0; i < DIM; ++i) {
                x[i] += weight(OUTPUT, layer, head * DIM + i, 0) * out[head][(i + head) % DIM];
            }
        }
    }
    int next = 0;
    for (int t = 0; t < VOCABULARY; ++t) {
        logits[t] = 0;
        for (int i = 0; i < DIM; ++i) {
            logits[t] += weight(TOKEN, t, i, 0) * x[i];
        }
        next = logits[t] > logits[next] ? t : next;
    }
    return next;
}

int model_prefill(const struct cache *ranks, int count, int rows) {
    float logits[VOCABULARY];
    int next = 0;
    for (int position = 0; position < rows; ++position) {
        next = model_step(ranks, count, position, position * position % VOCABULARY, logits);
    }
    return next;
}
