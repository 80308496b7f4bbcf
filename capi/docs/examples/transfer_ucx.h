/* SPDX-License-Identifier: Apache-2.0 */
/* A connection of two processes by UCX. Every wait ends with the answer, or with an error if the other process dies or
 * does not answer. */
#ifndef TRANSFER_UCX_H
#define TRANSFER_UCX_H
#include <stdint.h>
#include <ucp/api/ucp.h>

enum message_kind {
    MESSAGE_OFFER = 1, /* from decode: put the rows into this buffer */
    MESSAGE_ARRIVED,   /* from prefill: all bytes are in the buffer */
    MESSAGE_TAKEN,     /* from decode: the buffer may be written again */
    MESSAGE_END        /* from prefill: there are no more rows */
};

struct message {
    int32_t kind;
    int32_t rows;     /* ARRIVED: rows of the request */
    int32_t token;    /* ARRIVED: the first generated token */
    int32_t probe;    /* ARRIVED: 1 if the put was only a measurement */
    uint64_t address; /* OFFER: the address of the staging buffer, its size, and the key to write it with UCX */
    uint64_t bytes;
    uint64_t key_bytes;
    unsigned char key[256];
};

struct channel {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_listener_h listener;
    ucp_conn_request_h request;
    ucp_ep_h peer;
    ucp_mem_h memory;
    ucp_rkey_h key;
    ucs_status_t failure; /* why the connection was lost */
    int has_message;
    struct message message;
};

ucs_status_t channel_open(struct channel *channel);
/* Sets *port to the port, which UCX chooses. */
ucs_status_t channel_listen(struct channel *channel, const char *address, int *port);
ucs_status_t channel_accept(struct channel *channel);
ucs_status_t channel_connect(struct channel *channel, const char *address, int port);
void channel_close(struct channel *channel);

ucs_status_t channel_send(struct channel *channel, struct message message);
/* Waits for the next message. */
ucs_status_t channel_receive(struct channel *channel, struct message *message);

/* The receiver's side of a put: it registers the buffer and tells the sender where it is. */
ucs_status_t channel_offer(struct channel *channel, void *buffer, size_t bytes);
/* The receiver handles what has arrived, which may be a part of a put, and returns. */
void channel_progress(struct channel *channel);
/* The sender's side: when it returns UCS_OK, the bytes are in the buffer of the receiver. */
ucs_status_t channel_put(struct channel *channel, const struct message *offer, const void *bytes, size_t count);

#endif
