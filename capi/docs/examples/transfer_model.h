/* SPDX-License-Identifier: Apache-2.0 */
/* A small decoder whose logits depend on all rows of its caches. */
#ifndef TRANSFER_MODEL_H
#define TRANSFER_MODEL_H
#include "transfer_cache.h"

enum {
    VOCABULARY = 64
};

/* Appends K and V of the token at this position in all layers, and attends to all rows up to it. The caches of the
 * ranks divide the heads among them, in order. Returns the token with the greatest logit. */
int model_step(const struct cache *ranks, int count, int position, int token, float logits[VOCABULARY]);

/* Does the steps of a prompt, from position 0 on. Returns the first generated token. */
int model_prefill(const struct cache *ranks, int count, int rows);

#endif
