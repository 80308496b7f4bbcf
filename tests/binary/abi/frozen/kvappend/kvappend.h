/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libkvappend: append new K and V rows to running KV caches.
 *
 * At each step of autoregressive decoding a model produces new K and V rows for every sample of a batch. This library
 * writes them into the caches, each sample at its own position. Describe the problem once (a plan), then run the plan
 * at every step:
 *
 *     kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;      what is the same at every step
 *     kvappend_plan_create(&d, NULL, &plan);
 *     kvappend_args a = KVAPPEND_ARGS_INIT;                  the buffers of this step
 *     kvappend_plan_run(plan, &a, NULL, 0, stream);
 *     kvappend_plan_destroy(plan);
 *
 * WHAT A RUN DOES. B samples, H heads, L_new new rows a sample, caches of L_max rows, rows of D_k and D_v elements:
 *
 *     for all b, h, l, with pos = cache_offsets[b] + l and 0 <= pos < L_max:
 *         k_cache[b, h, pos, :] = k_new[b, h, l, :]
 *         v_cache[b, h, pos, :] = v_new[b, h, l, :]
 *
 * A row whose pos is negative or not below L_max is skipped, and every other row of the call is still written. The sum
 * never wraps around: every 64-bit offset is legal. No other byte of the caches changes. The copy is of bits: the
 * payload of a NaN and the sign of a zero survive. cache_offsets is read and never written: the caller advances it.
 *
 * MEMORY. With the CUDA backend every buffer, cache_offsets too, is memory which the kernel can reach (device, managed
 * or pinned memory); the host does not look at its contents. With the host backend every buffer is ordinary memory.
 * The library keeps no pointer beyond the call that received it, owns no buffer, and needs no workspace.
 *
 * ERRORS. Each call returns a status. When it is not KVAPPEND_SUCCESS, nothing was written to any cache, results
 * passed back through pointers are NULL or zero, and kvappend_last_error_message() names the argument, its value and
 * what was expected. Two failures are the device's and are told only later, by CUDA itself: a buffer that the GPU
 * cannot reach, and anything else that goes wrong after a launch.
 *
 * THREADS. Every function may be called from any thread at any time. A plan never changes after its creation: any
 * number of threads may run one plan at once. Only destroying a plan must not overlap another use of that plan.
 *
 * STRUCTS. Each struct starts with struct_size, which the caller sets to the sizeof it was compiled with: use the
 * _INIT macro, or the init function where macros are not at hand. A field that is zero has its documented default.
 * Structs grow only at their end. For a struct that is read, a smaller size (an older header) means that the missing
 * fields are zero, and a larger size (a newer header) is accepted when all that this library does not know is zero,
 * the rule of Linux' openat2(2). For a struct that is written, the library fills what both sides know and sets the
 * rest to zero. Sizes are multiples of 8 from 8 to 4096.
 *
 * Every int32_t that enumerates something keeps its values for ever. Only 64-bit targets are supported.
 */
#ifndef KVAPPEND_KVAPPEND_H
#define KVAPPEND_KVAPPEND_H

#include <stddef.h>
#include <stdint.h>

#include "version.h"

#if UINTPTR_MAX != 0xffffffffffffffffu
#error "libkvappend supports 64-bit targets only"
#endif

#if defined(__GNUC__)
#define KVAPPEND_API __attribute__((visibility("default")))
#else
#define KVAPPEND_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* CUDA's stream: cudaStream_t and CUstream are both pointers to it, so a stream passes unchanged. */
struct CUstream_st;

/* ---- status ---- */

/* What a call came to. In brackets: which functions can say it. */
typedef int32_t kvappend_status;
enum {
    KVAPPEND_SUCCESS = 0,
    /* A struct, plan or result pointer that must be given is NULL. [all that take one] */
    KVAPPEND_ERROR_NULL_ARGUMENT = 1,
    /* struct_size is not a multiple of 8 from 8 to 4096, or a field that this library does not know is not zero.
     * [all that take a struct] */
    KVAPPEND_ERROR_STRUCT_SIZE = 2,
    /* The requested ABI is not the one that this library has. [get_api] */
    KVAPPEND_ERROR_ABI_VERSION = 3,

    /* descriptor.backend is no KVAPPEND_BACKEND_*. [plan_create] */
    KVAPPEND_ERROR_BACKEND = 10,
    /* descriptor.element_type is no KVAPPEND_ELEMENT_*. [plan_create] */
    KVAPPEND_ERROR_ELEMENT_TYPE = 11,
    /* descriptor.offset_type is no KVAPPEND_OFFSET_*. [plan_create] */
    KVAPPEND_ERROR_OFFSET_TYPE = 12,
    /* descriptor.addressing is no KVAPPEND_ADDRESSING_*. [plan_create] */
    KVAPPEND_ERROR_ADDRESSING = 13,
    /* An extent is negative. [plan_create] */
    KVAPPEND_ERROR_EXTENT = 14,
    /* A stride is negative. [plan_create] */
    KVAPPEND_ERROR_STRIDE = 15,
    /* A tensor's bytes, or the distance between its first and last byte, do not fit in 63 bits. [plan_create] */
    KVAPPEND_ERROR_OVERFLOW = 16,
    /* Two rows of one cache share memory because of its strides [plan_create], or k_cache and v_cache share memory
     * [can_implement, run]. */
    KVAPPEND_ERROR_CACHE_OVERLAP = 17,
    /* preference.kernel_name names no kernel of the backend, or one that does not serve this problem. [plan_create] */
    KVAPPEND_ERROR_KERNEL = 18,

    /* This library was built without CUDA, or has no kernel for the current device. [plan_create] */
    KVAPPEND_ERROR_UNSUPPORTED = 20,
    /* There is no CUDA device, or no CUDA driver at all. [plan_create] */
    KVAPPEND_ERROR_NO_DEVICE = 21,
    /* The CUDA driver is too old for this library, or does not fit the device. [plan_create] */
    KVAPPEND_ERROR_DRIVER = 22,
    /* A CUDA call failed; the message names the call and CUDA's error. [plan_create, run] */
    KVAPPEND_ERROR_CUDA = 23,
    /* The device that is current is not the one the plan was created on. [run] */
    KVAPPEND_ERROR_WRONG_DEVICE = 24,
    /* Host memory ran out. [plan_create] */
    KVAPPEND_ERROR_OUT_OF_MEMORY = 25,

    /* A buffer that is needed is NULL. [can_implement, run] */
    KVAPPEND_ERROR_NULL_BUFFER = 30,
    /* A buffer is smaller than its tensor, or would run past the end of the address space. [can_implement, run] */
    KVAPPEND_ERROR_BUFFER_TOO_SMALL = 31,
    /* A buffer is not aligned to its element. [can_implement, run] */
    KVAPPEND_ERROR_MISALIGNED = 32,
    /* A new tensor or cache_offsets shares memory with a cache. [can_implement, run] */
    KVAPPEND_ERROR_ALIAS = 33,
    /* workspace is NULL although workspace_bytes is not 0. [run] */
    KVAPPEND_ERROR_WORKSPACE = 34,
    /* A stream was given to the host backend. [run] */
    KVAPPEND_ERROR_STREAM = 35
};

/* The status' constant as text, such as "KVAPPEND_ERROR_ALIAS"; "unknown kvappend_status" for a number that is none.
 * Never NULL; a static string, valid while the library is loaded. Cannot fail; legal under stream capture. */
KVAPPEND_API const char *kvappend_status_name(kvappend_status status);

/* Why the calling thread's latest failing call failed, as one English sentence of at most 511 bytes; "" if none has
 * failed. Never NULL. The text belongs to the calling thread and is valid until that thread's next failing call or its
 * end; a succeeding call leaves it alone. Legal under stream capture. */
KVAPPEND_API const char *kvappend_last_error_message(void);

/* ---- what is copied ---- */

/* Where a plan runs. */
enum {
    KVAPPEND_BACKEND_HOST = 0, /* On the calling thread, in host memory; run returns when the rows are written. */
    KVAPPEND_BACKEND_CUDA = 1  /* On a CUDA device, in the order of a stream; run returns when that is arranged. */
};

/* The type of one element of K and V. Only its width matters to the copy. */
enum {
    KVAPPEND_ELEMENT_F32 = 0, /* 4 bytes, IEEE 754 binary32 */
    KVAPPEND_ELEMENT_F64 = 1, /* 8 bytes, IEEE 754 binary64 */
    KVAPPEND_ELEMENT_F16 = 2, /* 2 bytes, IEEE 754 binary16 */
    KVAPPEND_ELEMENT_BF16 = 3 /* 2 bytes, bfloat16: the upper half of a binary32 */
};

/* The type of one element of cache_offsets. */
enum {
    KVAPPEND_OFFSET_INT64 = 0,
    KVAPPEND_OFFSET_INT32 = 1
};

/* How a destination row is found. */
enum {
    KVAPPEND_ADDRESSING_DENSE = 0 /* Row cache_offsets[b] + l of a cache [B, H, L_max, D]. */
};

/* The meaning of the three entries of a stride array. */
enum {
    KVAPPEND_AXIS_BATCH = 0,
    KVAPPEND_AXIS_HEAD = 1,
    KVAPPEND_AXIS_ROW = 2
};

/* What is the same at every run of a plan. All zero is legal: a plan of the host backend with nothing to copy.
 *
 * Extents are counts and may be 0: then the tensors concerned are empty, and there is nothing to do for them, which is
 * success. L_new may exceed L_max. B * H * L * D times the bytes of an element must fit in 63 bits for each tensor.
 *
 * Strides are in elements, from one entry of an axis to the next; the elements of a row are adjacent (the head
 * dimension has stride 1). An array whose three entries are all zero means the contiguous tensor [B, H, L, D]. In any
 * other array each entry is taken as it is. So a tensor [B, L, H, D] has the strides { L*H*D, D, H*D }, and K inside
 * the rows of a fused projection [B, L, (H + H_k + H_v) * D] has { L*R, D, R } with R = (H + H_k + H_v) * D, its base
 * pointer being that of its first element. A stride of a new tensor may be 0 (one row repeated along that axis, as a
 * broadcast or expanded tensor has it). The rows of a cache must not overlap. The stride of an axis whose extent is 0
 * or 1 does not matter, but must not be negative.
 *
 * With DLPack: a tensor [B, H, L, D] gives shape[] to the extents and strides[0..2] to the stride array, if
 * strides[3] is 1. */
typedef struct kvappend_descriptor {
    size_t struct_size;
    int32_t backend;      /* KVAPPEND_BACKEND_* */
    int32_t element_type; /* KVAPPEND_ELEMENT_*, of all four tensors */
    int32_t offset_type;  /* KVAPPEND_OFFSET_*, of cache_offsets */
    int32_t addressing;   /* KVAPPEND_ADDRESSING_* */

    int64_t batch;      /* B: samples */
    int64_t heads;      /* H: K/V heads */
    int64_t new_rows;   /* L_new: new rows of each sample */
    int64_t cache_rows; /* L_max: rows that each sample's cache holds */
    int64_t k_dim;      /* D_k: elements of a K row; 0: there is no K */
    int64_t v_dim;      /* D_v: elements of a V row; 0: there is no V */

    int64_t k_new_strides[3];   /* by KVAPPEND_AXIS_*, of k_new [B, H, L_new, D_k] */
    int64_t v_new_strides[3];   /* of v_new [B, H, L_new, D_v] */
    int64_t k_cache_strides[3]; /* of k_cache [B, H, L_max, D_k] */
    int64_t v_cache_strides[3]; /* of v_cache [B, H, L_max, D_v] */
} kvappend_descriptor;

/* Wishes about how a plan does its work; none changes what is copied. */
typedef struct kvappend_preference {
    size_t struct_size;
    /* The kernel to use, by its name in the kernel table (kvappend_kernel_name), as a NUL-terminated string that is
     * read during plan creation only. NULL: the library chooses. For measuring and testing. */
    const char *kernel_name;
} kvappend_preference;

/* The buffers of one run. Each is given by a pointer to element [0, 0, 0, 0] and the number of bytes that may be
 * accessed from there on. A size of 0 means unknown, and is not checked; any other must cover the tensor up to its
 * last element. A pointer must be aligned to its element. The buffer of a tensor without elements may be NULL, and all
 * may be NULL when there is nothing to do.
 *
 * The memory from the first to the last element of a new tensor must not meet that of a cache, nor may cache_offsets.
 * k_cache and v_cache may be interleaved (one pool for both), as long as no element belongs to both. */
typedef struct kvappend_args {
    size_t struct_size;
    const void *k_new; /* [B, H, L_new, D_k], read */
    size_t k_new_bytes;
    const void *v_new; /* [B, H, L_new, D_v], read */
    size_t v_new_bytes;
    void *k_cache; /* [B, H, L_max, D_k], written in place */
    size_t k_cache_bytes;
    void *v_cache; /* [B, H, L_max, D_v], written in place */
    size_t v_cache_bytes;
    const void *cache_offsets; /* [B], contiguous: the row of the cache that new row 0 of each sample goes to; read */
    size_t cache_offsets_bytes;
} kvappend_args;

/* clang-format off */
#define KVAPPEND_DESCRIPTOR_INIT                                                                                       \
    { sizeof(kvappend_descriptor), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0} }
#define KVAPPEND_PREFERENCE_INIT                                                                                       \
    { sizeof(kvappend_preference), NULL }
#define KVAPPEND_ARGS_INIT                                                                                             \
    { sizeof(kvappend_args), NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0 }
/* clang-format on */

/* The same for callers without macros: set *s to zero, as far as struct_size bytes go, and its struct_size to
 * struct_size, which is the size of the struct as the caller knows it. Fails with KVAPPEND_ERROR_NULL_ARGUMENT, or with
 * KVAPPEND_ERROR_STRUCT_SIZE when the size is no legal one; *s is then left alone. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_descriptor_init(kvappend_descriptor *s, size_t struct_size);
KVAPPEND_API kvappend_status kvappend_preference_init(kvappend_preference *s, size_t struct_size);
KVAPPEND_API kvappend_status kvappend_args_init(kvappend_args *s, size_t struct_size);

/* ---- plans ---- */

/* A problem, checked, with the kernel chosen for it. */
typedef struct kvappend_plan kvappend_plan;

/* Checks *descriptor, chooses a kernel by *preference (NULL: no wishes) and puts a new plan in *plan, which the caller
 * gives back with kvappend_plan_destroy. Neither struct is kept.
 *
 * CUDA backend: the plan belongs to the device that is current for the calling thread. All that CUDA does lazily
 * happens here (the context, loading the kernel), so this call may synchronise with the device, and must not be made
 * while a stream is being captured. Where there is neither device nor driver it fails with KVAPPEND_ERROR_NO_DEVICE.
 *
 * On failure *plan is NULL. */
KVAPPEND_API kvappend_status kvappend_plan_create(const kvappend_descriptor *descriptor,
                                                  const kvappend_preference *preference, kvappend_plan **plan);

/* Puts in *bytes how much workspace a run needs. It is 0 for every plan of this release; ask all the same if you mean
 * to work with later ones. Needs no device; legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_workspace_size(const kvappend_plan *plan, size_t *bytes);

/* Whether run would accept *args: the checks that run makes of the buffers, and nothing else. It makes no CUDA call,
 * reads no buffer, does not depend on the current device, and is legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_can_implement(const kvappend_plan *plan, const kvappend_args *args);

/* Appends: see "what a run does" above. *args is read during the call only.
 *
 * workspace: workspace_bytes bytes for the library's use, of the memory the backend works in; NULL and 0 will do, as
 * the needed size is 0.
 *
 * CUDA backend: stream is the stream to work in; NULL is CUDA's default stream. The plan's device must be current and
 * must be the stream's. One kernel is launched, or none when there is nothing to do. The call allocates nothing and
 * synchronises with nothing; it is legal while the stream is being captured, and the graph then replays the copy with
 * these pointers and the offsets that the memory holds at each replay. The buffers must stay valid until the stream
 * has come past the kernel.
 *
 * Host backend: stream must be NULL. The rows are written by the calling thread when the call returns.
 *
 * Two runs that write the same cache rows at once leave those rows in an undefined state. */
KVAPPEND_API kvappend_status kvappend_plan_run(const kvappend_plan *plan, const kvappend_args *args, void *workspace,
                                               size_t workspace_bytes, struct CUstream_st *stream);

/* Ends a plan's life. NULL is allowed and does nothing. Launches already made are not disturbed: a kernel keeps nothing
 * of the plan. Makes no CUDA call, and always succeeds. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_destroy(kvappend_plan *plan);

/* ---- what was chosen ---- */

enum {
    KVAPPEND_OPERATION_DENSE_APPEND = 1 /* The append of KVAPPEND_ADDRESSING_DENSE. */
};

/* What a plan is made of. Filled by the library; the caller sets struct_size. */
typedef struct kvappend_sku {
    size_t struct_size;
    int32_t operation;    /* KVAPPEND_OPERATION_* */
    int32_t backend;      /* KVAPPEND_BACKEND_* */
    int32_t element_type; /* KVAPPEND_ELEMENT_* */
    int32_t architecture; /* CUDA: ten times the device's compute capability, such as 90; host: 0 */
    /* CUDA: bytes of one load or store of K and of V when the pointers are aligned to as much (16, 8, 4, 2 or 1; less
     * aligned pointers get the widest that they allow); 0 for an absent tensor. Host: 0, whole rows go to memcpy. */
    int32_t k_vector_bytes;
    int32_t v_vector_bytes;
    const char *kernel_name; /* in the kernel table; a static string, valid while the library is loaded */
} kvappend_sku;

/* What a plan promises of the values that it writes. Filled by the library; the caller sets struct_size. */
typedef struct kvappend_precision_guarantee {
    size_t struct_size;
    int32_t bit_exact;     /* 1: every written element has the bits of its source, NaN payloads and -0 too */
    int32_t deterministic; /* 1: the same call on the same memory leaves the same bytes, on every run */
} kvappend_precision_guarantee;

#define KVAPPEND_SKU_INIT                                                                                              \
    { sizeof(kvappend_sku), 0, 0, 0, 0, 0, 0, NULL }
#define KVAPPEND_PRECISION_GUARANTEE_INIT                                                                              \
    { sizeof(kvappend_precision_guarantee), 0, 0 }

KVAPPEND_API kvappend_status kvappend_sku_init(kvappend_sku *s, size_t struct_size);
KVAPPEND_API kvappend_status kvappend_precision_guarantee_init(kvappend_precision_guarantee *s, size_t struct_size);

/* Fill *sku, or *guarantee, up to its struct_size. On failure every field but struct_size is zero, unless struct_size
 * itself is at fault: then the struct is left alone. Need no device; legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_get_sku(const kvappend_plan *plan, kvappend_sku *sku);
KVAPPEND_API kvappend_status kvappend_plan_get_precision_guarantee(const kvappend_plan *plan,
                                                                   kvappend_precision_guarantee *guarantee);

/* The name of entry `index` of the table of all kernels in this library, every backend's, from 0; NULL past its end.
 * A name says backend, operation and, for CUDA, the widest access in bytes: "cuda_dense_b16". A static string, valid
 * while the library is loaded. Cannot fail; legal under stream capture. */
KVAPPEND_API const char *kvappend_kernel_name(size_t index);

/* ---- versions and loading by hand ---- */

/* KVAPPEND_VERSION of the library that is loaded. Compare with the macro, which is that of the header. */
KVAPPEND_API uint32_t kvappend_version(void);

/* All functions of the library, for programs that load it with dlopen and want to look up one symbol only. The table is
 * extensible like every struct: struct_size says how much of it this library has, and a function beyond that does not
 * exist in it. */
typedef struct kvappend_api {
    size_t struct_size;
    uint32_t abi_version; /* KVAPPEND_ABI_VERSION of the library */
    uint32_t version;     /* KVAPPEND_VERSION of the library */
    const char *(*status_name)(kvappend_status status);
    const char *(*last_error_message)(void);
    kvappend_status (*descriptor_init)(kvappend_descriptor *s, size_t struct_size);
    kvappend_status (*preference_init)(kvappend_preference *s, size_t struct_size);
    kvappend_status (*args_init)(kvappend_args *s, size_t struct_size);
    kvappend_status (*sku_init)(kvappend_sku *s, size_t struct_size);
    kvappend_status (*precision_guarantee_init)(kvappend_precision_guarantee *s, size_t struct_size);
    kvappend_status (*plan_create)(const kvappend_descriptor *descriptor, const kvappend_preference *preference,
                                   kvappend_plan **plan);
    kvappend_status (*plan_workspace_size)(const kvappend_plan *plan, size_t *bytes);
    kvappend_status (*plan_can_implement)(const kvappend_plan *plan, const kvappend_args *args);
    kvappend_status (*plan_run)(const kvappend_plan *plan, const kvappend_args *args, void *workspace,
                                size_t workspace_bytes, struct CUstream_st *stream);
    kvappend_status (*plan_destroy)(kvappend_plan *plan);
    kvappend_status (*plan_get_sku)(const kvappend_plan *plan, kvappend_sku *sku);
    kvappend_status (*plan_get_precision_guarantee)(const kvappend_plan *plan, kvappend_precision_guarantee *guarantee);
    const char *(*kernel_name)(size_t index);
} kvappend_api;

/* Puts a pointer to the library's table in *api: static memory, valid while the library is loaded. abi_version is the
 * caller's KVAPPEND_ABI_VERSION; a library of another ABI fails with KVAPPEND_ERROR_ABI_VERSION, and *api is NULL. */
KVAPPEND_API kvappend_status kvappend_get_api(uint32_t abi_version, const kvappend_api **api);

#ifdef __cplusplus
}
#endif

#endif
