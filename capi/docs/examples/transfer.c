/* SPDX-License-Identifier: Apache-2.0 */
/* Prefill in one process and decoding in another, over UCX. The caches of the two processes have different layouts. */
#define _POSIX_C_SOURCE 200809L
#include "transfer_model.h"
#include "transfer_ucx.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    PROMPT = 300, /* The last page is not full, on both sides. */
    STEPS = MAX_ROWS - PROMPT,
    RANKS = 2,        /* of the decode side */
    UNWRITTEN = 0xa5, /* what is in the staging buffer before a put */
    ROUNDS = 20
};
static const struct layout heads_outside = {.page_rows = 16, .tokens_outside = 0};
static const struct layout rows_outside = {.page_rows = 64, .tokens_outside = 1};

static void print_failure(const struct channel *channel, ucs_status_t status, const char *consequence) {
    fprintf(stderr, "transfer failed: %s%s%s\n",
            channel->failure ? "there is no connection to the other process: " : "", ucs_status_string(status),
            consequence);
}

struct prefill {
    struct channel channel;
    struct cache cache;
    struct message offer;
    unsigned char *staging;
    int token;
};

/* [send] */
static ucs_status_t send_rows(struct prefill *p) {
    cache_move(&p->cache, KVAPPEND_OPERATION_GATHER, RANKS, PROMPT, p->staging);
    return channel_put(&p->channel, &p->offer, p->staging, p->offer.bytes);
}
/* [send] */

/* Does one transfer, from the gather to the answer that the rows are appended. A probe is a put without a gather or an
 * append. */
static ucs_status_t transfer(struct prefill *p, int probe) {
    ucs_status_t status = probe ? channel_put(&p->channel, &p->offer, p->staging, p->offer.bytes) : send_rows(p);
    const struct message arrived = {.kind = MESSAGE_ARRIVED, .rows = PROMPT, .token = p->token, .probe = probe};
    if (!status) {
        status = channel_send(&p->channel, arrived);
    }
    struct message answer;
    if (!status) {
        status = channel_receive(&p->channel, &answer);
    }
    return status ? status : answer.kind == MESSAGE_TAKEN ? UCS_OK : UCS_ERR_INVALID_PARAM;
}

static double seconds_of_transfer(struct prefill *p, int probe, ucs_status_t *status) {
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    *status = transfer(p, probe);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
}

/* Takes the fastest of the rounds, because other programs can only make a round slower. */
static ucs_status_t measure(struct prefill *p) {
    double whole = 1e9, put = 1e9;
    for (int i = 0; i < 2 * ROUNDS; ++i) {
        ucs_status_t status;
        const double time = seconds_of_transfer(p, i % 2, &status);
        if (status) {
            return status;
        }
        double *const fastest = i % 2 ? &put : &whole;
        *fastest = time < *fastest ? time : *fastest;
    }
    const double gigabytes = (double)p->offer.bytes / 1e9;
    printf("%s: %.2f GB/s with gather and append, %.2f GB/s for the put alone, ratio %.2f\n", p->cache.format->name,
           gigabytes / whole, gigabytes / put, put / whole);
    return UCS_OK;
}

/* For the test: sends all bytes of one rank and half of the bytes of the other rank, and then kills this process. */
static ucs_status_t die(struct prefill *p) {
    cache_move(&p->cache, KVAPPEND_OPERATION_GATHER, RANKS, PROMPT, p->staging);
    const ucs_status_t status = channel_put(&p->channel, &p->offer, p->staging, p->offer.bytes / 4 * 3);
    if (!status) {
        raise(SIGKILL);
    }
    return status;
}

static ucs_status_t prefill(const struct format *format, const char *address, int port, int dies) {
    struct prefill p = {.cache = cache_create(format, heads_outside, HEADS)};
    p.token = model_prefill(&p.cache, 1, PROMPT);
    ucs_status_t status = channel_open(&p.channel);
    if (!status) {
        status = channel_connect(&p.channel, address, port);
    }
    if (!status) {
        status = channel_receive(&p.channel, &p.offer);
    }
    if (!status && (p.offer.kind != MESSAGE_OFFER || p.offer.bytes != staging_bytes(format, HEADS, PROMPT))) {
        status = UCS_ERR_INVALID_PARAM;
    }
    p.staging = status ? NULL : malloc(p.offer.bytes);
    if (!status) {
        status = !p.staging ? UCS_ERR_NO_MEMORY : dies ? die(&p) : transfer(&p, 0);
    }
    if (!status) {
        status = measure(&p);
    }
    if (!status) {
        status = channel_send(&p.channel, (struct message){.kind = MESSAGE_END});
    }
    if (!status) {
        /* A close could discard the message. Therefore the decode process closes the connection first. */
        struct message none;
        channel_receive(&p.channel, &none);
    }
    if (status) {
        print_failure(&p.channel, status, "");
    }
    channel_close(&p.channel);
    free(p.staging);
    cache_destroy(&p.cache);
    return status;
}

struct decode {
    struct channel channel;
    struct cache ranks[RANKS];
    struct cache reference[RANKS]; /* filled by a prefill in the decode process itself */
    unsigned char *staging;
    int appended;
};

static void create_ranks(struct cache ranks[RANKS], const struct format *format) {
    for (int rank = 0; rank < RANKS; ++rank) {
        ranks[rank] = cache_create(format, rows_outside, HEADS / RANKS);
    }
}

static int ranks_equal(const struct cache a[RANKS], const struct cache b[RANKS]) {
    return cache_equal(&a[0], &b[0]) && cache_equal(&a[1], &b[1]);
}

/* [append] */
static void append_rows(const struct cache ranks[RANKS], unsigned char *staging) {
    for (int rank = 0; rank < RANKS; ++rank) { /* In practice each rank is a process with its own staging buffer. */
        cache_move(&ranks[rank], KVAPPEND_OPERATION_APPEND, 1, PROMPT, staging);
        staging += staging_bytes(ranks[rank].format, ranks[rank].heads, PROMPT);
    }
}
/* [append] */

/* Checks that the caches, and the logits of further steps, have the bytes of a single process. */
static ucs_status_t verify(struct decode *d, int token, int expected_token) {
    if (token != expected_token || !ranks_equal(d->ranks, d->reference)) {
        fprintf(stderr, "%s: other bytes than in one process\n", d->ranks[0].format->name);
        return UCS_ERR_IO_ERROR;
    }
    int next = token;
    for (int position = PROMPT; position < PROMPT + STEPS; ++position) {
        float logits[VOCABULARY], expected[VOCABULARY];
        const int other = model_step(d->reference, RANKS, position, next, expected);
        next = model_step(d->ranks, RANKS, position, next, logits);
        if (next != other || memcmp(logits, expected, sizeof logits)) {
            fprintf(stderr, "%s: other logits than in one process\n", d->ranks[0].format->name);
            return UCS_ERR_IO_ERROR;
        }
    }
    printf("%s: %zu bytes arrived, and the caches and the logits of %d steps are those of one process\n",
           d->ranks[0].format->name, RANKS * staging_bytes(d->ranks[0].format, d->ranks[0].heads, PROMPT), STEPS);
    return UCS_OK;
}

/* [receive] */
static ucs_status_t receive(struct decode *d, int expected_token) {
    for (;;) {
        struct message message;
        ucs_status_t status = channel_receive(&d->channel, &message);
        if (status || message.kind == MESSAGE_END) {
            return status;
        }
        /* Until now, the sender wrote bytes only to the staging buffer. Now all bytes are there. */
        if (message.kind != MESSAGE_ARRIVED || message.rows != PROMPT) {
            return UCS_ERR_INVALID_PARAM;
        }
        if (!message.probe) {
            append_rows(d->ranks, d->staging);
            if (!d->appended++) {
                status = verify(d, message.token, expected_token);
            }
        }
        if (!status) {
            status = channel_send(&d->channel, (struct message){.kind = MESSAGE_TAKEN});
        }
        if (status) {
            return status;
        }
    }
}
/* [receive] */

static void report_failure(const struct decode *d, ucs_status_t status) {
    struct cache empty[RANKS];
    create_ranks(empty, d->ranks[0].format);
    print_failure(&d->channel, status,
                  ranks_equal(d->ranks, empty) ? "; nothing was appended" : "; rows were appended");
    cache_destroy(&empty[0]);
    cache_destroy(&empty[1]);
}

/* For the test: kills this process when the first bytes of a put are in the staging buffer. */
static void die_in_put(struct decode *d, size_t bytes) {
    const volatile unsigned char *const staging = d->staging;
    size_t i = 0;
    while (staging[i] == UNWRITTEN) {
        channel_progress(&d->channel);
        i = (i + 1) % bytes;
    }
    raise(SIGKILL);
}

static ucs_status_t decode(const struct format *format, const char *address, int dies) {
    struct decode d = {0};
    create_ranks(d.ranks, format);
    create_ranks(d.reference, format);
    const int expected_token = model_prefill(d.reference, RANKS, PROMPT);
    const size_t bytes = staging_bytes(format, HEADS, PROMPT);
    d.staging = malloc(bytes);
    int port = 0;
    ucs_status_t status = d.staging ? channel_open(&d.channel) : UCS_ERR_NO_MEMORY;
    if (!status) {
        status = channel_listen(&d.channel, address, &port);
    }
    if (!status) {
        printf("port %d\n", port);
        fflush(stdout);
        status = channel_accept(&d.channel);
    }
    if (!status) {
        memset(d.staging, UNWRITTEN, bytes);
        status = channel_offer(&d.channel, d.staging, bytes);
    }
    if (!status && dies) {
        die_in_put(&d, bytes);
    }
    if (!status) {
        status = receive(&d, expected_token);
    }
    if (status) {
        report_failure(&d, status);
    }
    channel_close(&d.channel);
    free(d.staging);
    for (int rank = 0; rank < RANKS; ++rank) {
        cache_destroy(&d.ranks[rank]);
        cache_destroy(&d.reference[rank]);
    }
    return status;
}

int main(int argc, char **argv) {
    const struct format *const format = argc < 4                   ? NULL
                                        : !strcmp(argv[2], "bf16") ? &bf16
                                        : !strcmp(argv[2], "e4m3") ? &e4m3
                                                                   : NULL;
    const int dies = argc > 4 && !strcmp(argv[argc - 1], "dies");
    if (format && argc - dies == 4 && !strcmp(argv[1], "decode")) {
        return decode(format, argv[3], dies) != UCS_OK;
    }
    if (format && argc - dies == 5 && !strcmp(argv[1], "prefill")) {
        return prefill(format, argv[3], atoi(argv[4]), dies) != UCS_OK;
    }
    fprintf(stderr, "usage: transfer decode bf16|e4m3 ADDRESS [dies], which prints its port, and then\n"
                    "       transfer prefill bf16|e4m3 ADDRESS PORT [dies]\n");
    return 2;
}
