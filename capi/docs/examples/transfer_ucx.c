/* SPDX-License-Identifier: Apache-2.0 */
/* A connection by UCX that reports an error if the other process dies. */
#define _POSIX_C_SOURCE 200809L
#include "transfer_ucx.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <time.h>

enum {
    PATIENCE = 60 /* seconds until a silent peer counts as dead, unless UCX reports a failure before */
};

static time_t seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

void channel_progress(struct channel *channel) {
    if (!ucp_worker_progress(channel->worker)) {
        sched_yield(); /* The other process may need this core. */
    }
}

/* Waits until a UCX operation is complete. */
static ucs_status_t finish(struct channel *channel, ucs_status_ptr_t operation) {
    if (!UCS_PTR_IS_PTR(operation)) {
        return UCS_PTR_STATUS(operation);
    }
    const time_t end = seconds() + PATIENCE;
    ucs_status_t status = ucp_request_check_status(operation);
    while (status == UCS_INPROGRESS && seconds() < end) {
        channel_progress(channel);
        status = ucp_request_check_status(operation);
    }
    ucp_request_free(operation);
    return status == UCS_INPROGRESS ? UCS_ERR_TIMED_OUT : status;
}

static ucs_status_t on_message(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
                               const ucp_am_recv_param_t *param) {
    struct channel *const channel = arg;
    (void)header;
    (void)header_bytes;
    if (bytes == sizeof channel->message && !(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
        memcpy(&channel->message, data, bytes);
        channel->has_message = 1;
    }
    return UCS_OK;
}

static void on_request(ucp_conn_request_h request, void *arg) {
    struct channel *const channel = arg;
    if (channel->request || channel->peer) {
        ucp_listener_reject(channel->listener, request); /* Only one prefill process may connect. */
        return;
    }
    channel->request = request;
}

/* [failure] */
static void on_failure(void *arg, ucp_ep_h peer, ucs_status_t status) {
    struct channel *const channel = arg;
    (void)peer;
    channel->failure = status;
}

/* UCP_ERR_HANDLING_MODE_PEER has this effect: if the other process dies, all operations on the endpoint end with an
 * error, and UCX calls on_failure. */
static ucs_status_t open_endpoint(struct channel *channel, ucp_ep_params_t params) {
    params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler = (ucp_err_handler_t){.cb = on_failure, .arg = channel};
    return ucp_ep_create(channel->worker, &params, &channel->peer);
}
/* [failure] */

ucs_status_t channel_open(struct channel *channel) {
    memset(channel, 0, sizeof *channel);
    const ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM | UCP_FEATURE_RMA};
    ucs_status_t status = ucp_init(&params, NULL, &channel->context);
    if (status) {
        return status;
    }
    const ucp_worker_params_t worker_params = {0};
    status = ucp_worker_create(channel->context, &worker_params, &channel->worker);
    if (status) {
        return status;
    }
    const ucp_am_handler_param_t handler = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = 0,
        .cb = on_message,
        .arg = channel,
    };
    return ucp_worker_set_am_recv_handler(channel->worker, &handler);
}

static ucs_status_t set_address(struct sockaddr_in *to, const char *address, int port) {
    memset(to, 0, sizeof *to);
    to->sin_family = AF_INET;
    to->sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, address, &to->sin_addr) == 1 ? UCS_OK : UCS_ERR_INVALID_ADDR;
}

ucs_status_t channel_listen(struct channel *channel, const char *address, int *port) {
    struct sockaddr_in at;
    ucs_status_t status = set_address(&at, address, 0);
    if (status) {
        return status;
    }
    const ucp_listener_params_t params = {
        .field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
        .sockaddr = {.addr = (struct sockaddr *)&at, .addrlen = sizeof at},
        .conn_handler = {.cb = on_request, .arg = channel},
    };
    status = ucp_listener_create(channel->worker, &params, &channel->listener);
    ucp_listener_attr_t attributes = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
    if (!status) {
        status = ucp_listener_query(channel->listener, &attributes);
    }
    if (!status) {
        memcpy(&at, &attributes.sockaddr, sizeof at);
        *port = ntohs(at.sin_port);
    }
    return status;
}

ucs_status_t channel_accept(struct channel *channel) {
    const time_t end = seconds() + PATIENCE;
    while (!channel->request) {
        if (seconds() >= end) {
            return UCS_ERR_TIMED_OUT;
        }
        channel_progress(channel);
    }
    return open_endpoint(
        channel, (ucp_ep_params_t){.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST, .conn_request = channel->request});
}

ucs_status_t channel_connect(struct channel *channel, const char *address, int port) {
    struct sockaddr_in to;
    const ucs_status_t status = set_address(&to, address, port);
    if (status) {
        return status;
    }
    return open_endpoint(channel,
                         (ucp_ep_params_t){.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR,
                                           .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
                                           .sockaddr = {.addr = (const struct sockaddr *)&to, .addrlen = sizeof to}});
}

void channel_close(struct channel *channel) {
    if (channel->key) {
        ucp_rkey_destroy(channel->key);
    }
    if (channel->peer) {
        const ucp_request_param_t force = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_EP_CLOSE_FLAG_FORCE};
        finish(channel, ucp_ep_close_nbx(channel->peer, &force));
    }
    if (channel->listener) {
        ucp_listener_destroy(channel->listener);
    }
    if (channel->memory) {
        ucp_mem_unmap(channel->context, channel->memory);
    }
    if (channel->worker) {
        ucp_worker_destroy(channel->worker);
    }
    if (channel->context) {
        ucp_cleanup(channel->context);
    }
}

ucs_status_t channel_send(struct channel *channel, struct message message) {
    const ucp_request_param_t eager = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS, .flags = UCP_AM_SEND_FLAG_EAGER};
    return finish(channel, ucp_am_send_nbx(channel->peer, 0, NULL, 0, &message, sizeof message, &eager));
}

ucs_status_t channel_receive(struct channel *channel, struct message *message) {
    const time_t end = seconds() + PATIENCE;
    while (!channel->has_message) {
        if (channel->failure) {
            return channel->failure;
        }
        if (seconds() >= end) {
            return UCS_ERR_TIMED_OUT;
        }
        channel_progress(channel);
    }
    channel->has_message = 0;
    *message = channel->message;
    return UCS_OK;
}

ucs_status_t channel_offer(struct channel *channel, void *buffer, size_t bytes) {
    const ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH,
        .address = buffer,
        .length = bytes,
    };
    ucs_status_t status = ucp_mem_map(channel->context, &params, &channel->memory);
    if (status) {
        return status;
    }
    void *key = NULL;
    size_t key_bytes = 0;
    status = ucp_rkey_pack(channel->context, channel->memory, &key, &key_bytes);
    if (status) {
        return status;
    }
    struct message offer = {
        .kind = MESSAGE_OFFER, .address = (uintptr_t)buffer, .bytes = bytes, .key_bytes = key_bytes};
    if (key_bytes <= sizeof offer.key) {
        memcpy(offer.key, key, key_bytes);
        status = channel_send(channel, offer);
    } else {
        status = UCS_ERR_BUFFER_TOO_SMALL;
    }
    ucp_rkey_buffer_release(key);
    return status;
}

/* [put] */
ucs_status_t channel_put(struct channel *channel, const struct message *offer, const void *bytes, size_t count) {
    if (!channel->key) {
        const ucs_status_t status = ucp_ep_rkey_unpack(channel->peer, offer->key, &channel->key);
        if (status) {
            return status;
        }
    }
    const ucp_request_param_t param = {0};
    const ucs_status_t status =
        finish(channel, ucp_put_nbx(channel->peer, bytes, count, offer->address, channel->key, &param));
    if (status) {
        return status;
    }
    /* After the put, this process may reuse its buffer. After the flush, the bytes are in the receiver's buffer. */
    return finish(channel, ucp_ep_flush_nbx(channel->peer, &param));
}
/* [put] */
