/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libkvappend: append new K and V rows to running KV caches, gather rows from them, and move rows within them.
 *
 * At each step of autoregressive decoding, a model produces new K and V rows for every sample of a batch. This library
 * writes them into the caches, each sample at its own position. It runs on a GPU in the order of a stream (CUDA), or in
 * host memory. It can convert the rows to the format of the cache, and it can rotate them, in the same run. It does not
 * compute attention, it does not allocate pages, and it does not manage a cache.
 *
 * THE SIMPLE CALL. Describe the problem once, and create a plan. Run the plan at every step. Destroy it at the end:
 *
 *     #include <kvappend/kvappend.h>
 *     #include <stdio.h>
 *
 *     int main(void) {
 *         const float k_new[2][3] = {{1, 2, 3}, {4, 5, 6}};      // batch 2, heads 1, new_rows 1, k_dim 3
 *         const float v_new[2][3] = {{-1, -2, -3}, {-4, -5, -6}};
 *         float k_cache[2][4][3] = {{{0}}};                      // batch 2, heads 1, cache_rows 4, k_dim 3
 *         float v_cache[2][4][3] = {{{0}}};
 *         int64_t offsets[2] = {2, 0};                           // row 2 of one cache, row 0 of the other
 *
 *         kvappend_descriptor d = KVAPPEND_DESCRIPTOR(           // what is the same at every step
 *             .backend = KVAPPEND_BACKEND_HOST, .element_type = KVAPPEND_ELEMENT_F32,
 *             .batch = 2, .heads = 1, .new_rows = 1, .cache_rows = 4, .k_dim = 3, .v_dim = 3);
 *         kvappend_args a = KVAPPEND_ARGS(                       // the buffers of one step
 *             .k_new = k_new, .v_new = v_new, .k_cache = k_cache, .v_cache = v_cache, .cache_offsets = offsets);
 *         kvappend_plan *plan = NULL;
 *         if (kvappend_plan_create(&d, NULL, &plan) || kvappend_plan_run(plan, &a, NULL, 0, NULL)) {
 *             fprintf(stderr, "%s\n", kvappend_last_error_message());
 *             return 1;
 *         }
 *         printf("%g %g\n", k_cache[0][2][0], v_cache[1][0][2]); // 1 -6
 *         return kvappend_plan_destroy(plan);
 *     }
 *
 * For a GPU, change three things: set backend to KVAPPEND_BACKEND_CUDA, pass pointers that the device can reach
 * (cache_offsets too), and pass your cudaStream_t as the last argument of kvappend_plan_run. Run the plan for each
 * layer with that layer's buffers, or run all layers at once with kvappend_plan_run_layers. Then add 1 to every offset.
 *
 * WHAT A RUN DOES. A batch has B samples, H heads, and L_new new rows for each sample. Each cache has L_max rows. A row
 * has D_k elements in K and D_v elements in V. In the simple call, a run copies as follows:
 *
 *     for all b, h, l, with pos = cache_offsets[b] + l and 0 <= pos < L_max:
 *         k_cache[b, h, pos, :] = k_new[b, h, l, :]
 *         v_cache[b, h, pos, :] = v_new[b, h, l, :]
 *
 * This is the dense append. A descriptor that is zero apart from its extents means this. pos is the position of the
 * row: its number in the sequence of its sample. The place of the row is where the cache stores it. A row whose
 * position has no place is skipped, and every other row of the call is still written. No other byte of the caches
 * changes. The copy preserves all bits, including the payload of a NaN and the sign of a zero, unless a format or a
 * rotation asks for other values.
 *
 * The strides of the descriptor say how the tensors lie in memory. The advanced parts of this header change one thing
 * each. They can be combined:
 *
 * - ADDRESSING: where a row goes. Dense caches, rings, pages and slots.
 * - LENGTHS: how many rows each sample has, and whether the new rows are in one tensor of tokens.
 * - FLAGS: other meanings of the offsets, left padding, reserved pages and slots, and more.
 * - SKIPPED ROWS: what happens to rows without a place, and a report that counts them.
 * - FORMATS: rows that the cache stores as FP8, INT8, INT4, NVFP4 and others, with scales.
 * - GATHER: reading rows from the cache.
 * - MOVE: moving rows within the cache.
 * - ROTATION: rotary position embedding of K, and of Q with it.
 * - LAYERS: many appends, gathers or moves in one call.
 * - VALIDATION: looking for faults in the arrays of indices.
 * - CUDA: streams, launches and capture.
 * - THREADS: threads, signals and fork.
 * - WHAT WAS CHOSEN: the kernel of a plan, and what it guarantees.
 * - LOADING BY HAND: versions, and a table of all functions for dlopen.
 * - STATUSES: what each status means, and which functions return it.
 *
 * INDICES. The arrays of indices are cache_offsets, slots, from_slots, lengths, left_pads, batch_index, page_table,
 * page_indptr, token_samples, token_positions, token_count and positions. The backend reads them during each run. The
 * host does not read them before the run. They may hold any values: no value makes a run read or write outside the
 * tensors and arrays. This holds even if a value changes while the run reads it. In that case it is undefined which
 * rows are copied, and where to. No sum wraps around, so every 64-bit offset is legal. kvappend_plan_validate looks for
 * faults in these arrays. A run does not write cache_offsets, unless KVAPPEND_FLAG_ADVANCE is set: the caller advances
 * the offsets.
 *
 * MEMORY. With the host backend, every buffer is ordinary memory. With the CUDA backend, every buffer is memory that
 * the kernel can reach: device, managed or pinned memory. This includes cache_offsets. The host code of such a run does
 * not look at the contents of any buffer. The library owns no buffer and needs no workspace. It keeps no pointer after
 * the call that received it. However, a kernel that a run launches accesses the buffers only when the stream reaches
 * it. Therefore all buffers must stay valid until the kernel has finished. Those that the run reads must also stay
 * unchanged. An append reads the new rows, q unless it is rotated in place, the given scales, the global scales, the
 * rotary tables and the indices. A gather reads the caches, the scales, the global scales and the indices. A move reads
 * the indices, and it moves what the caches hold. Therefore advance the offsets in the order of the stream (by a kernel
 * or a copy in it), or wait for the kernel first.
 *
 * ERRORS. Every function that can fail returns a status, which is 0 (KVAPPEND_SUCCESS) if it succeeded. After a
 * failure, kvappend_last_error_message names the argument, its value, and what was expected. The results that are
 * passed back through pointers are then NULL or zero, with two exceptions: kvappend_plan_validate describes the fault,
 * and a struct whose init function fails does not change. A call that fails has written no buffer. There is one
 * exception: kvappend_plan_run and kvappend_plan_run_layers may launch several kernels. If one of these launches fails,
 * the kernels launched before it still do their work. One failure has no status: if no memory is left for the first
 * message of a thread, the C library may end the process.
 *
 * STRUCTS. Each struct starts with struct_size. The caller sets it to the size that the struct has in the caller's
 * header. A field that is zero has its documented default. Structs grow only at their end. There are three ways to
 * begin, shown here for kvappend_descriptor. In C99 and C++20, KVAPPEND_DESCRIPTOR(.batch = 2, ...) is a struct with
 * these fields. In any C and C++, kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT; sets all other fields to zero. A
 * static variable in C needs the second way, because the first is not a constant there. A caller that cannot use macros
 * calls kvappend_descriptor_init. C++20 requires the fields of a macro call in the order of their declaration. In C++,
 * GCC's -Wextra warns of the fields that are left out, unless the header is in a system directory:
 * -Wno-missing-field-initializers turns this off.
 *
 * If the library reads a struct, the struct may be smaller than the library's own (an older header): the missing fields
 * count as zero. It may also be larger (a newer header), if everything that this library does not know is zero. This is
 * the rule of Linux' openat2(2). If the library writes a struct, it fills the fields that both sides know and sets the
 * rest to zero. Sizes are multiples of 8 from 8 to 4096.
 *
 * The constants of enumerations are passed as int32_t and never change their values. Only 64-bit targets are supported.
 */
#ifndef KVAPPEND_KVAPPEND_H
#define KVAPPEND_KVAPPEND_H

#include <stddef.h>
#include <stdint.h>

#include "version.h"

#if UINTPTR_MAX != 0xffffffffffffffffu
#error "libkvappend supports 64-bit targets only"
#endif

/* No function throws. A C++ compiler that knows this generates no code for exceptions. */
#if defined(__GNUC__)
#define KVAPPEND_API __attribute__((visibility("default"), nothrow))
#else
#define KVAPPEND_API
#endif

/* A struct with its struct_size and the given fields. KVAPPEND_DESCRIPTOR(...) and the other macros of its kind use it.
 */
#ifdef __cplusplus
#define KVAPPEND_STRUCT(type, ...)                                                                                     \
    type {                                                                                                             \
        .struct_size = sizeof(type), __VA_ARGS__                                                                       \
    }
#else
#define KVAPPEND_STRUCT(type, ...) ((type){.struct_size = sizeof(type), __VA_ARGS__})
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The stream of CUDA. cudaStream_t and CUstream are both pointers to this type, so they need no conversion. */
struct CUstream_st;

/* The result of a call: a value of enum kvappend_status_code, at the end of this header. 0 is success. */
typedef int32_t kvappend_status;

/* ====================================================================================================================
 * THE DESCRIPTOR: what is the same at every run of a plan
 * ====================================================================================================================
 */

/* Where a plan runs. */
enum kvappend_backend {
    KVAPPEND_BACKEND_HOST = 0, /* In host memory. run returns when the rows are written. */
    KVAPPEND_BACKEND_CUDA = 1  /* On a CUDA device, in the order of a stream. run returns when the work is enqueued. */
};

/* What a plan does. */
enum kvappend_operation {
    KVAPPEND_OPERATION_APPEND = 0, /* It writes rows to their places: k_new to k_cache, and v_new to v_cache. */
    KVAPPEND_OPERATION_GATHER = 1, /* It reads rows from their places: k_cache to k_out, and v_cache to v_out. */
    KVAPPEND_OPERATION_MOVE = 2    /* It moves rows within k_cache and v_cache: from_slots[t] to slots[t]. */
};

/* The type of one element of K and V. Only its width matters, unless the rows are stored in another format or rotated.
 */
enum kvappend_element_type {
    KVAPPEND_ELEMENT_F32 = 0,  /* 4 bytes, IEEE 754 binary32 */
    KVAPPEND_ELEMENT_F64 = 1,  /* 8 bytes, IEEE 754 binary64 */
    KVAPPEND_ELEMENT_F16 = 2,  /* 2 bytes, IEEE 754 binary16 */
    KVAPPEND_ELEMENT_BF16 = 3, /* 2 bytes, bfloat16: the upper half of a binary32 */
    KVAPPEND_ELEMENT_E4M3 = 4, /* 1 byte, 4 bits of exponent and 3 of mantissa, without infinities (OCP OFP8) */
    KVAPPEND_ELEMENT_E5M2 = 5, /* 1 byte, 5 bits of exponent and 2 of mantissa (OCP OFP8) */
    KVAPPEND_ELEMENT_INT8 = 6, /* 1 byte */
    KVAPPEND_ELEMENT_UINT8 = 7 /* 1 byte; also for any other data of 1 byte, such as two 4-bit elements */
};

/* The meaning of the three entries of a stride array. */
enum kvappend_axis {
    KVAPPEND_AXIS_BATCH = 0, /* of a cache: the block, which is a sample's cache or a page */
    KVAPPEND_AXIS_HEAD = 1,  /* of K and V */
    KVAPPEND_AXIS_ROW = 2    /* of a new tensor: l, or the token; of a cache: the row in its block */
};

/* What is the same at every run of a plan. All zero is legal: this is a plan of the host backend with nothing to copy.
 *
 * EXTENTS are counts and may be 0. In that case the tensors concerned are empty, there is nothing to do for them, and
 * the call succeeds. A plan with nothing to copy does nothing else either: it counts no rows and advances no offset.
 * L_new may exceed L_max. For each tensor, B * H * L * D times the bytes of an element must fit in 63 bits. The same
 * holds for the number of bytes of each array of indices.
 *
 * STRIDES. A stride is the number of elements from one entry of an axis to the next. The elements of a row are
 * adjacent: the head dimension has stride 1. A stride array of three zeros means the contiguous tensor [B, H, L, D], or
 * [T, H, D] where new rows are tokens. In any other array, each entry is taken as it is. Two examples:
 *
 * - A tensor [B, L, H, D] has the strides { L*H*D, D, H*D }.
 * - In a fused projection, each token is one row of R = H_q*D_k + H*D_k + H*D_v elements: its queries, its K, its V. K
 *   has the strides { L*R, D_k, R } and a base pointer H_q*D_k elements into the row.
 *   V has the strides { L*R, D_v, R } and a base pointer (H_q + H)*D_k elements into the row.
 *
 * A stride of a new tensor may be 0: one row is repeated along that axis, as in a broadcast or expanded tensor. Three
 * zeros cannot express one row for all three axes, because they mean contiguous. If one of the axes has extent 1, give
 * that axis a stride other than 0 to express this.
 *
 * The rows of a cache must not overlap, nor those of k_out, of v_out or of q_out. This is not checked if there is
 * nothing to copy. The stride of an axis of extent 0 or 1 has no effect, but it must not be negative.
 *
 * In a contiguous cache, the head axis is outside the row axis ("HND"). A cache with tokens outside ("NHD": [N, R, H,
 * D], as in vLLM's and FlashAttention's pages) has the strides { R*H*D, D, H*D }. With a pack, the row stride is
 * usually the pack, and the elements of a piece are adjacent.
 *
 * With DLPack: take the extents from shape[] of a tensor [B, H, L, D], and the stride array from strides[0..2], or
 * three zeros if strides is NULL. This requires that strides[3] is 1 and that strides[0..2] are not all 0. The pointer
 * is data + byte_offset. */
typedef struct kvappend_descriptor {
    size_t struct_size;
    int32_t backend;      /* KVAPPEND_BACKEND_* */
    int32_t element_type; /* KVAPPEND_ELEMENT_*, of rows and caches; of the rows alone, if a cache has a storage */
    int32_t offset_type;  /* KVAPPEND_OFFSET_*, of cache_offsets, slots, from_slots, token_positions and positions */
    int32_t addressing;   /* KVAPPEND_ADDRESSING_* */

    int64_t batch;      /* B: samples */
    int64_t heads;      /* H: K/V heads */
    int64_t new_rows;   /* L_new: new rows of each sample; LENGTHS_PACKED, _PER_TOKEN and SLOTS: T, all tokens */
    int64_t cache_rows; /* R: rows of each sample's cache (L_max), or of each page */
    int64_t k_dim;      /* D_k: elements of a K row; 0 means that there is no K */
    int64_t v_dim;      /* D_v: elements of a V row; 0 means that there is no V */

    int64_t k_new_strides[3];   /* of k_new or k_out [B, H, L_new, D_k], by KVAPPEND_AXIS_* */
    int64_t v_new_strides[3];   /* of v_new or v_out [B, H, L_new, D_v] */
    int64_t k_cache_strides[3]; /* of k_cache [N, H, R, D_k] */
    int64_t v_cache_strides[3]; /* of v_cache [N, H, R, D_v] */

    int32_t lengths;       /* KVAPPEND_LENGTHS_* */
    int32_t flags;         /* KVAPPEND_FLAG_*, combined by bitwise or */
    int64_t cache_blocks;  /* N. DENSE and RING: number of caches, 0 means B; others: number of pages, at least 1 */
    int64_t sink_rows;     /* RING: number of rows that stay, 0 to R */
    int64_t table_entries; /* PAGED: number of page ids of each sample; PAGED_CSR: of all samples */
    int64_t table_stride;  /* PAGED: elements of page_table from sample to sample; 0 means table_entries */
    int64_t reserved_slot; /* SLOTS, with KVAPPEND_FLAG_RESERVED_SLOT */
    int64_t reserved_page; /* PAGED and PAGED_CSR, with KVAPPEND_FLAG_RESERVED_PAGE */

    /* A row of a cache may consist of pieces. The cache is then [N, H, D/pack, R, pack]. k_pack and v_pack are the
     * number of elements of a piece, a power of two that divides the dimension. 0 means that rows are contiguous.
     * vLLM's classic layout has k_pack = 16 / (bytes of an element) and v_pack = 1 (which costs a store for each
     * element). The piece strides are the number of elements from one piece of a row to the next. They have an effect
     * only if the cache's strides are not all zero. */
    int64_t k_pack;
    int64_t v_pack;
    int64_t k_piece_stride;
    int64_t v_piece_stride;

    int32_t skip_policy; /* KVAPPEND_SKIP_* */
    int32_t index_type;  /* KVAPPEND_INDEX_*, of all other arrays of indices */

    /* How the caches store their rows: see FORMATS. NULL: with the bits of the new rows. They are read by
     * kvappend_plan_create only. */
    const struct kvappend_storage *k_storage;
    const struct kvappend_storage *v_storage;

    int32_t operation; /* KVAPPEND_OPERATION_* */
    int32_t reserved;  /* must be 0 */

    /* How OPERATION_APPEND rotates the rows of K, and those of Q: see ROTATION. NULL: they are not rotated. It is read
     * by kvappend_plan_create only. */
    const struct kvappend_rotary *rotary;
} kvappend_descriptor;

#define KVAPPEND_DESCRIPTOR(...) KVAPPEND_STRUCT(kvappend_descriptor, __VA_ARGS__)
/* clang-format off */
#define KVAPPEND_DESCRIPTOR_INIT                                                                                       \
    { sizeof(kvappend_descriptor), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0},           \
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, NULL }
/* clang-format on */

/* The init functions do the same as the _INIT macros, for callers that cannot use macros. They set the first
 * struct_size bytes of *s to zero, and then the field struct_size to struct_size, which is the size of the struct as
 * the caller knows it. They fail with KVAPPEND_ERROR_NULL_ARGUMENT, or with KVAPPEND_ERROR_STRUCT_SIZE if the size is
 * not legal. On failure *s does not change. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_descriptor_init(kvappend_descriptor *s, size_t struct_size);

/* ====================================================================================================================
 * THE ARGUMENTS: the buffers of one run
 * ====================================================================================================================
 */

/* The buffers of one run. Each has a pointer to its element [0, 0, 0, 0] and the number of bytes that may be accessed
 * from there on. A size of 0 means that the size is unknown and is not checked. Any other size must cover the tensor up
 * to its last element. A pointer must be aligned to the size of an element. The buffer of a tensor without elements may
 * be NULL. If there is nothing to do, every buffer may be NULL.
 *
 * The operation decides which buffers a run uses:
 *
 * - An append writes the caches, the scales that it computes, q_out, the report, and the offsets that it advances. It
 *   ignores k_out and v_out.
 * - A gather writes k_out, v_out and the report. It ignores k_new and v_new.
 * - A move writes the caches, the scales that it moves, and the report. It ignores k_new, v_new, k_out and v_out.
 *
 * OVERLAP. No buffer that a run writes may overlap another buffer of the call. There are two exceptions. First, caches,
 * scales, new tensors, k_out, v_out, q and q_out may be interleaved with each other, as long as no element that is
 * written belongs to two of them. Examples are one pool for K and V, scales at the end of each row, and q_out in a
 * fused projection. New rows may even lie in the memory of their cache. Second, Q may be rotated in place: see
 * ROTATION. In all other cases, each buffer counts as the whole range from its first to its last element. */
typedef struct kvappend_args {
    size_t struct_size;
    const void *k_new; /* [B, H, L_new, D_k], read: OPERATION_APPEND */
    size_t k_new_bytes;
    const void *v_new; /* [B, H, L_new, D_v], read: OPERATION_APPEND */
    size_t v_new_bytes;
    void *k_cache; /* [N, H, R, D_k], written in place; only read by OPERATION_GATHER */
    size_t k_cache_bytes;
    void *v_cache; /* [N, H, R, D_v], written and read as k_cache */
    size_t v_cache_bytes;
    /* [B], or [1] with FLAG_SHARED_OFFSET; contiguous: the position of each sample's row 0, unless a flag says
     * otherwise. A run reads it, and writes it with FLAG_ADVANCE. Not used with SLOTS or LENGTHS_PER_TOKEN. */
    void *cache_offsets;
    size_t cache_offsets_bytes;
    /* The following arrays are contiguous. A run reads those that the descriptor asks for, and ignores the others. The
     * elements of slots, from_slots and token_positions have the type descriptor.offset_type. Those of the other arrays
     * have the type descriptor.index_type. */
    const void *slots; /* [T]: SLOTS */
    size_t slots_bytes;
    const void *from_slots; /* [T]: OPERATION_MOVE */
    size_t from_slots_bytes;
    const void *lengths; /* [B]: LENGTHS_PER_SAMPLE; [B + 1]: LENGTHS_PACKED */
    size_t lengths_bytes;
    const void *left_pads; /* [B]: FLAG_LEFT_PADS */
    size_t left_pads_bytes;
    const void *batch_index; /* [B]: FLAG_BATCH_INDEX */
    size_t batch_index_bytes;
    const void *page_table; /* [B, table_entries], by table_stride: PAGED; [table_entries]: PAGED_CSR */
    size_t page_table_bytes;
    const void *page_indptr; /* [B + 1]: PAGED_CSR */
    size_t page_indptr_bytes;
    const void *token_samples; /* [T]: LENGTHS_PER_TOKEN */
    size_t token_samples_bytes;
    const void *token_positions; /* [T]: LENGTHS_PER_TOKEN */
    size_t token_positions_bytes;
    const void *token_count; /* [1]: FLAG_TOKEN_COUNT */
    size_t token_count_bytes;
    /* [N, H, R, D / group], by storage.scale_strides. An append reads them with SCALING_GIVEN, and writes them with
     * SCALING_COMPUTED. A gather reads them. A move moves the scales that belong to one row, and ignores the others. */
    void *k_scales;
    size_t k_scales_bytes;
    void *v_scales;
    size_t v_scales_bytes;
    const float *k_global_scale; /* [1], read: storage.global_scale */
    size_t k_global_scale_bytes;
    const float *v_global_scale;
    size_t v_global_scale_bytes;
    struct kvappend_report *report; /* read and written: SKIP_REPORT */
    size_t report_bytes;
    void *k_out; /* [B, H, L_new, D_k], written: OPERATION_GATHER */
    size_t k_out_bytes;
    void *v_out; /* [B, H, L_new, D_v], written: OPERATION_GATHER */
    size_t v_out_bytes;
    const void *rotary_cos; /* [table_rows, dim / 2], by rotary->table_stride, read: descriptor.rotary */
    size_t rotary_cos_bytes;
    const void *rotary_sin; /* the same */
    size_t rotary_sin_bytes;
    const void *positions; /* [B, L_new] or [T], contiguous, of the type descriptor.offset_type: FLAG_POSITIONS */
    size_t positions_bytes;
    const void *q; /* [B, H_q, L_new, D_q], read: rotary->q_heads */
    size_t q_bytes;
    void *q_out; /* the same, written; it may be q: see ROTATION */
    size_t q_out_bytes;
    const void *q_scales; /* [H_q, D_q / group], by q_storage->scale_strides, read: SCALING_GIVEN */
    size_t q_scales_bytes;
} kvappend_args;

#define KVAPPEND_ARGS(...) KVAPPEND_STRUCT(kvappend_args, __VA_ARGS__)
/* clang-format off */
#define KVAPPEND_ARGS_INIT                                                                                             \
    { sizeof(kvappend_args), NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0,                                              \
      NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0,               \
      NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0,                                 \
      NULL, 0, NULL, 0, NULL, 0 }
/* clang-format on */

KVAPPEND_API kvappend_status kvappend_args_init(kvappend_args *s, size_t struct_size);

/* ====================================================================================================================
 * PLANS: create, run, destroy
 * ====================================================================================================================
 */

/* Preferences for how a plan does its work. None of them changes what is copied. */
typedef struct kvappend_preference {
    size_t struct_size;
    /* The kernel to use, by its name in the kernel table (kvappend_kernel_name). The string ends with a NUL and is read
     * during plan creation only. NULL: the library chooses. For measuring and testing. */
    const char *kernel_name;
    /* Host backend: the number of threads that share the copying of a large run, including the thread that calls run. 0
     * and 1 mean the calling thread alone. The maximum is 1024; with the CUDA backend it is 1. See THREADS. */
    int32_t host_threads;
    int32_t reserved; /* must be 0 */
} kvappend_preference;

#define KVAPPEND_PREFERENCE(...) KVAPPEND_STRUCT(kvappend_preference, __VA_ARGS__)
/* clang-format off */
#define KVAPPEND_PREFERENCE_INIT                                                                                       \
    { sizeof(kvappend_preference), NULL, 0, 0 }
/* clang-format on */

KVAPPEND_API kvappend_status kvappend_preference_init(kvappend_preference *s, size_t struct_size);

/* A checked problem, together with the kernel chosen for it. A plan does not change after its creation. */
typedef struct kvappend_plan kvappend_plan;

/* Checks *descriptor, chooses a kernel according to *preference (NULL: no preferences), and puts a new plan in *plan.
 * The caller destroys the plan with kvappend_plan_destroy. The library does not keep the two structs. On failure *plan
 * is NULL.
 *
 * A plan is small and quick to create, but not free. Keep one for each shape that recurs, such as one for decoding
 * steps and one for each padded length of prompts.
 *
 * CUDA backend: the plan belongs to the device that is current for the calling thread, in its primary context. This
 * call triggers everything that CUDA does lazily: it creates that context, and it loads the kernel. Therefore it may
 * synchronise with the device, and it must not be called during some captures: see CUDA. It fails with
 * KVAPPEND_ERROR_NO_DEVICE if there is no device or no driver. */
KVAPPEND_API kvappend_status kvappend_plan_create(const kvappend_descriptor *descriptor,
                                                  const kvappend_preference *preference, kvappend_plan **plan);

/* Appends, gathers or moves, as the plan says. *args is read during the call only.
 *
 * workspace is workspace_bytes bytes for the library's use, in memory of the backend. NULL and 0 are enough, because
 * the needed size is 0.
 *
 * Host backend: stream must be NULL. The rows are written when the call returns. The calling thread writes them,
 * together with the threads that preference.host_threads asks for. Without such threads, a run makes no allocation,
 * lock or system call.
 *
 * CUDA backend: the call is legal under stream capture. stream is the stream to work in. NULL is CUDA's legacy default
 * stream, even in programs that are compiled for a default stream per thread. The handle of that per-thread stream is
 * cudaStreamPerThread. The plan's device must be current and must be the device of the stream. The call allocates
 * nothing and synchronises with nothing. The rows are written when the stream has reached the end of the work: see
 * CUDA.
 *
 * If two runs write the same rows at once, the contents of those rows are undefined. If a gather or a move reads a
 * cache row while another run writes it, the row that it gives is undefined. Two rows of one append with the same place
 * (a slot, page or batch index given twice) also leave undefined contents there, unless one replaces the other in a
 * ring. Such a place holds bytes of one of them, or parts of each. If all padding slots name one place, use
 * KVAPPEND_FLAG_RESERVED_SLOT for it. */
KVAPPEND_API kvappend_status kvappend_plan_run(const kvappend_plan *plan, const kvappend_args *args, void *workspace,
                                               size_t workspace_bytes, struct CUstream_st *stream);

/* Destroys a plan. NULL is allowed and has no effect. Launches that were already made are not affected: a kernel keeps
 * nothing of the plan. If the plan has threads, the call waits for them to end. It makes no CUDA call and always
 * succeeds. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_destroy(kvappend_plan *plan);

/* Returns why the calling thread's latest failing call failed: one English sentence of at most 511 bytes, or "" if no
 * call has failed. The result is never NULL. The text belongs to the calling thread. It is valid until the next failing
 * call of that thread, or until the thread ends. A successful call does not change it. Legal under stream capture. */
KVAPPEND_API const char *kvappend_last_error_message(void);

/* Tells whether run would accept *args. It makes the checks that run makes of the buffers, and no others. It makes no
 * CUDA call, reads no buffer, and does not depend on the current device. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_can_implement(const kvappend_plan *plan, const kvappend_args *args);

/* Puts the number of bytes of workspace that a run needs in *bytes. It is 0 for every plan of this release. Query it
 * anyway if your program should work with later releases. Needs no device. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_workspace_size(const kvappend_plan *plan, size_t *bytes);

/* ====================================================================================================================
 * ADDRESSING: where a row goes
 * ====================================================================================================================
 *
 * Each row has a position: its number in the sequence of its sample. Row l of sample b has the position
 * pos = cache_offsets[b] + l, unless descriptor.lengths or a flag says otherwise. descriptor.addressing decides how a
 * position becomes a place in a cache [N, H, R, D], where N is cache_blocks and R is cache_rows. The place is a block n
 * and a row in that block. A block is the cache of one sample, or a page. With SLOTS, an array gives the place of each
 * token, and there is no position.
 */

/* How a row's position becomes its place. */
enum kvappend_addressing {
    /* n = b, or n = batch_index[b] with KVAPPEND_FLAG_BATCH_INDEX. The row is pos, if 0 <= pos < R. */
    KVAPPEND_ADDRESSING_DENSE = 0,
    /* As DENSE, but positions from sink_rows on wrap around in the rows sink_rows to R - 1. This is a sliding window
     * whose first sink_rows rows stay ("attention sinks", Xiao et al., 2023). A position pos below sink_rows has row
     * pos. Any other position has row sink_rows + (pos - sink_rows) mod (R - sink_rows), or no place if R = sink_rows.
     * If several rows of one sample have the same place, the run writes the last one, or reads it with a gather. The
     * others are skipped. Rows with negative positions are skipped. With sink_rows = 0 this is the mode "circular" of
     * ONNX TensorScatter. */
    KVAPPEND_ADDRESSING_RING = 1,
    /* Pages of R rows, found by a table [B, table_entries]: n = page_table[b, pos / R], and the row is pos mod R. The
     * place exists if pos >= 0, pos / R < table_entries and 0 <= n < N. FlashAttention calls this table block_table. K
     * and V may have separate page ids, as in TensorRT-LLM's tables [B, 2, entries]. In that case create one plan for K
     * alone and one for V alone, with table_stride. */
    KVAPPEND_ADDRESSING_PAGED = 2,
    /* As PAGED, but the samples' tables have different lengths and are stored one after the other. With
     * i = page_indptr[b] + pos / R, n = page_table[i], and the row is pos mod R. The place exists if pos >= 0,
     * page_indptr[b] <= i < page_indptr[b + 1], 0 <= i < table_entries and 0 <= n < N. FlashInfer calls these arrays
     * paged_kv_indptr and paged_kv_indices. Pass its paged_kv_last_page_len as cache_offsets with
     * KVAPPEND_FLAG_LAST_PAGE_LENGTHS. */
    KVAPPEND_ADDRESSING_PAGED_CSR = 3,
    /* Pages of R rows, found by a slot for each token: n = slots[l] / R, and the row is slots[l] mod R. The place
     * exists if slots[l] >= 0 and n < N. vLLM calls this array slot_mapping. A negative slot is padding. A slot of
     * N * R or more lies above the cache. There are no samples, and batch must be 1, except in a move with
     * LENGTHS_PACKED. new_rows is the number T of tokens. The array may have more slots than there are tokens, or the
     * new tensors more tokens than there are slots. T is then the smaller number. Contiguous new tensors are [T, H, D].
     */
    KVAPPEND_ADDRESSING_SLOTS = 4
};

/* The type of one element of cache_offsets, slots, from_slots, token_positions and positions. */
enum kvappend_offset_type {
    KVAPPEND_OFFSET_INT64 = 0, /* int64_t */
    KVAPPEND_OFFSET_INT32 = 1  /* int32_t */
};

/* The type of one element of lengths, left_pads, batch_index, page_table, page_indptr, token_samples and token_count.
 * The default is 32 bits, and that of enum kvappend_offset_type is 64 bits. A run cannot tell whether an array has
 * elements of another width. kvappend_plan_validate usually can: see KVAPPEND_ERROR_INDEX_WIDTH. */
enum kvappend_index_type {
    KVAPPEND_INDEX_INT32 = 0, /* int32_t */
    KVAPPEND_INDEX_INT64 = 1  /* int64_t */
};

/* ====================================================================================================================
 * LENGTHS: how many rows each sample has
 * ====================================================================================================================
 *
 * Each sample has its own position, so a batch may be ragged in the cache. With descriptor.lengths, each sample can
 * also have its own number of new rows. An offset of -L_new or less leaves a sample out of a step as well: all its rows
 * have negative positions, and are skipped.
 */

/* How many rows each sample has. This decides what new_rows (L_new) counts. */
enum kvappend_lengths {
    /* Each sample has L_new rows, in tensors [B, H, L_new, D]. */
    KVAPPEND_LENGTHS_FIXED = 0,
    /* Sample b has lengths[b] rows in tensors [B, H, L_new, D]. A length above L_new counts as L_new, and a negative
     * length as 0. The rows after those of the sample are padding and are skipped. */
    KVAPPEND_LENGTHS_PER_SAMPLE = 1,
    /* Sample b has the rows lengths[b] <= t < lengths[b + 1] of tensors [T, H, D], where T is new_rows. This array is
     * known as cu_seqlens. An entry above T counts as T, and a negative entry as 0. Rows outside every sample are
     * padding and are skipped. The entries must not decrease. If they do, rows may be skipped or be taken for rows of
     * another sample. In the stride arrays, the row axis is the axis of tokens, and the batch axis is not used. All
     * zero means contiguous [T, H, D]. With SLOTS, only LENGTHS_FIXED is allowed, and in a move also this value. */
    KVAPPEND_LENGTHS_PACKED = 2,
    /* Each row is a token of tensors [T, H, D], where T is new_rows. Token t belongs to sample token_samples[t] and has
     * the position token_positions[t]. The tokens may be in any order. FlashInfer calls these arrays batch_indices and
     * positions. A token is padding, and is skipped, if its sample or its position is negative. If its sample is not
     * below B, the token lies above the cache. cache_offsets is not used. With RING no token replaces another: if two
     * tokens of a sample go to the same row, the contents of that row are undefined. The stride arrays mean the same as
     * with LENGTHS_PACKED. */
    KVAPPEND_LENGTHS_PER_TOKEN = 3
};

/* ====================================================================================================================
 * FLAGS: options that can be combined
 * ====================================================================================================================
 */

/* Bits of descriptor.flags. */
enum kvappend_flag {
    /* With DENSE and RING, args.batch_index [B] gives the block of the cache for each sample. A sample is skipped if
     * its index is negative or not below cache_blocks. */
    KVAPPEND_FLAG_BATCH_INDEX = 1,
    /* args.left_pads [B] gives the number of padding rows at the start of each sample. A negative number counts as 0.
     * The padding rows are skipped. The row after them is row 0 of the sample, and its position is cache_offsets[b]:
     * the new rows are padded, the cache is not. With KVAPPEND_LENGTHS_PER_SAMPLE, the length counts from row 0 on. */
    KVAPPEND_FLAG_LEFT_PADS = 2,
    /* Every offset is 0, and args.cache_offsets is not used. */
    KVAPPEND_FLAG_ZERO_OFFSETS = 4,
    /* With SLOTS, the slot descriptor.reserved_slot is padding, too. */
    KVAPPEND_FLAG_RESERVED_SLOT = 8,
    /* Only with OPERATION_APPEND. After the copy, the run adds the number of sample b's rows to cache_offsets[b].
     * Skipped rows of the sample count, too. If the sum exceeds the greatest value of the offset type, the offset
     * becomes that value. A sample that is left out keeps its offset: its batch_index is negative, or all its rows have
     * negative positions. Every row of the call is placed by the offset from before the call. The run writes
     * args.cache_offsets, so the caller must have write access to that memory. CUDA backend: this costs the one further
     * launch that is described under CUDA.
     *
     * All layers of a model usually share one array of offsets, which must advance once in each step. In one call of
     * kvappend_plan_run_layers it does, even if every append has this flag. If each layer has a call of
     * kvappend_plan_run, only the plan of the last one may have this flag:
     *
     *     kvappend_plan_create(&d, NULL, &plan);
     *     d.flags |= KVAPPEND_FLAG_ADVANCE;
     *     kvappend_plan_create(&d, NULL, &last);
     *     for (i = 0; i < layers; ++i)
     *         kvappend_plan_run(i < layers - 1 ? plan : last, &args[i], NULL, 0, stream); */
    KVAPPEND_FLAG_ADVANCE = 16,
    /* The report is set to zero before the rows of this run are counted. Without this flag, runs add to the report.
     * Only with KVAPPEND_SKIP_REPORT. CUDA backend: the kernel that counts the rows also sets the report to zero, so
     * this flag costs no launch of its own. */
    KVAPPEND_FLAG_RESET_REPORT = 32,
    /* The report also counts the rows that were appended, gathered or moved. Only with KVAPPEND_SKIP_REPORT. */
    KVAPPEND_FLAG_COUNT_WRITTEN = 64,
    /* The kernel of the copy may start while the kernel before it in the stream still runs. Only with the CUDA backend:
     * see CUDA. */
    KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH = 128,
    /* All samples have the same offset, and args.cache_offsets has one element. KVAPPEND_FLAG_ADVANCE adds L_new to it
     * once, unless all rows have negative positions. Both flags together require LENGTHS_FIXED without LEFT_PADS,
     * because all samples must have the same number of rows. */
    KVAPPEND_FLAG_SHARED_OFFSET = 256,
    /* cache_offsets[b] is the number of rows that sample b has after the call, including the new rows. If the sample
     * has n new rows, its row l has the position cache_offsets[b] - n + l. So a gather reads the n rows before position
     * cache_offsets[b]. */
    KVAPPEND_FLAG_END_OFFSETS = 512,
    /* With PAGED_CSR, cache_offsets[b] is the number of rows that sample b has on its last page after the call. If the
     * sample has p pages and n new rows, its row l has the position (p - 1) * R + cache_offsets[b] - n + l. The number
     * of pages is page_indptr[b + 1] - page_indptr[b]. A number below 1 counts as 1, and a number above table_entries
     * as table_entries. table_entries * R must fit in 63 bits. */
    KVAPPEND_FLAG_LAST_PAGE_LENGTHS = 1024,
    /* With SLOTS or LENGTHS_PER_TOKEN, args.token_count[0] gives the number of tokens. Later tokens are padding,
     * whatever the arrays hold for them. So a graph that was captured for T tokens also serves steps with fewer tokens.
     * A negative number counts as 0, and a number above T counts as T. */
    KVAPPEND_FLAG_TOKEN_COUNT = 2048,
    /* With PAGED and PAGED_CSR, page descriptor.reserved_page is neither written nor read. A row whose entry in
     * page_table is this page is padding. Use this if a runtime gives one page to all padded requests. reserved_page
     * need not be a page of the cache: it may be -1, for example. */
    KVAPPEND_FLAG_RESERVED_PAGE = 4096,
    /* With OPERATION_GATHER, the run sets the rows of k_out and v_out to zero that it does not read from a cache. These
     * are rows without a place, padding, and rows that a later row of a ring replaces. Without this flag, these rows
     * keep their contents. If there are no samples, or if the caches have no elements, there is nothing to gather, and
     * all rows keep their contents. */
    KVAPPEND_FLAG_ZERO_SKIPPED = 8192,
    /* Only with descriptor.rotary, and required for it with SLOTS. args.positions gives the position by which each row
     * of K, and of Q, is rotated. It does not change where a row goes. The array has one element for each new row,
     * padding included: [B, L_new], or [T] where new rows are tokens. Row l of k_new[b] has the element b * L_new + l,
     * and token t has element t. */
    KVAPPEND_FLAG_POSITIONS = 16384
};

/* ====================================================================================================================
 * SKIPPED ROWS: rows without a place, and reports
 * ====================================================================================================================
 *
 * A run skips a row that has no place, and still does every other row of the call. descriptor.skip_policy says whether
 * it reports such rows. There are two kinds of them. Padding belongs to no sequence, so it has no position, and every
 * policy allows it. Any other row without a place has a position. It lies below the cache if its position is negative.
 * It lies above the cache in every other case: after the last row or the last page of the sample's table, or in a page
 * or block that does not exist. With descriptor.rotary, a row also lies below or above if the rotary tables do not have
 * its position: see ROTATION.
 */

/* What a run does with a row that has a position but no place. This policy does not concern padding. */
enum kvappend_skip {
    /* The run skips the row and reports nothing. This costs nothing. */
    KVAPPEND_SKIP_SILENTLY = 0,
    /* The run skips the row and counts it in args.report. CUDA backend: this costs the one further launch that is
     * described under CUDA. The copy itself is as fast as without a report. The further kernel finds the place of each
     * row again, counts the rows, and names the first row without a place. Without KVAPPEND_FLAG_RESET_REPORT, it
     * writes to the report only if it has something to count. Host backend: this costs finding each place a second
     * time. Legal under stream capture. */
    KVAPPEND_SKIP_REPORT = 1,
    /* Host backend: run fails with KVAPPEND_ERROR_SKIPPED and writes nothing. This costs finding each place a second
     * time. CUDA backend: the copy writes the other rows. After it, the one further kernel that is described under CUDA
     * stops the device with a trap. The next synchronising call of CUDA then returns cudaErrorLaunchFailure, and the
     * CUDA context of the process is lost. For debugging. */
    KVAPPEND_SKIP_TRAP = 2
};

/* Counts what happened to the rows of all runs since the report was zero. A row counts once, together with all its
 * heads of K and of V. The report is in the same kind of memory as the caches, aligned to 8 bytes. Set it to zero
 * before its first use, or let a run do that with KVAPPEND_FLAG_RESET_REPORT. Two runs must not use one report at the
 * same time. The host may read it once the work of the run in the stream has finished. args.report_bytes is the size of
 * the report. 0 means the fields below. A later release writes additional fields only if report_bytes covers them. */
typedef struct kvappend_report {
    size_t struct_size;    /* for the caller; the library neither reads nor writes it */
    int64_t rows_written;  /* appended, gathered or moved rows, counted with KVAPPEND_FLAG_COUNT_WRITTEN only */
    int64_t rows_replaced; /* RING: skipped, because a later row of the same run has the same place */
    /* Rows that belong to no sample, or to a sample with a negative batch_index. Rows on the reserved page. Tokens with
     * a negative slot, sample or position, or with the reserved slot. Tokens from number token_count[0] on. */
    int64_t rows_padding;
    int64_t rows_below; /* skipped, because the position is negative */
    int64_t rows_above; /* skipped, because the cache, or a rotary table, does not have the position */
    /* The first row below or above, if there is one. It comes from the first run that had such a row: the smallest
     * sample (0 with SLOTS), and in that sample the smallest row l (with SLOTS, the token). With LENGTHS_PER_TOKEN,
     * first_row is the smallest such token, and first_sample is its sample. With SLOTS, first_position is the slot. If
     * the rotary tables do not have the row's position, first_position is that position. In a move it is the slot in
     * from_slots if that slot has no place, else the one in slots. In a move with LENGTHS_PACKED, first_sample is the
     * sample of the row. first_row is then counted from the first row of that sample. A position below INT64_MIN or
     * above INT64_MAX is given as that limit. */
    int64_t first_sample;
    int64_t first_row;
    int64_t first_position;
    int64_t state[2]; /* used by the library */
} kvappend_report;

/* clang-format off */
#define KVAPPEND_REPORT_INIT                                                                                           \
    { sizeof(kvappend_report), 0, 0, 0, 0, 0, 0, 0, 0, {0, 0} }
/* clang-format on */

KVAPPEND_API kvappend_status kvappend_report_init(kvappend_report *s, size_t struct_size); /* s in host memory */

/* ====================================================================================================================
 * FORMATS: how a cache stores its rows
 * ====================================================================================================================
 *
 * By default a cache holds the bits of the new rows. With descriptor.k_storage or v_storage, an append converts each
 * row to another format, such as FP8, INT8 or NVFP4. A gather converts it back. K, V and Q are independent of each
 * other. Begin with a preset (kvappend_storage_preset), then set the strides of the scales.
 *
 * UNITS. With a type other than AS_IS, the strides of the cache and its piece stride are in BYTES, because an element
 * may be smaller than a byte. A row of D elements has ceil(D * bits / 8) bytes. Rows share no byte: if half a byte is
 * left, it holds the code of 0. All zero still means contiguous. A pack still counts elements. The strides of new rows
 * stay in elements.
 *
 * THE ARITHMETIC is that of IEEE 754 binary32, rounded to nearest even after each operation. No multiplication is fused
 * with an addition, and no reciprocal is approximate. Every backend and every device stores the same bytes.
 *
 * 1. x is the new element (F32, F16 or BF16), as a binary32.
 * 2. COMPUTED: a is the largest |x| of the group; NaN is ignored. Q is the greatest number of the type (E4M3 448, E5M2
 *    57344, INT8 127, INT4 7, E2M1 6), times the global scale if there is one. The scale is s = max(max(a,
 *    amax_floor) / Q, scale_floor), in which NaN counts as less than any number. It is rounded to the type of scales,
 *    at most to the greatest finite number of that type. The rounded scale is stored, and it is used from here on,
 *    except by UNROUNDED_RECIPROCAL.
 * 3. y is x / s, x * (1 / s) or x * s, or x without scales. With a global scale g, s * g takes the place of s. A
 *    product or scale of zero gives y = 0 for every x.
 * 4. y is rounded to the nearest code. In F32, F16 and BF16 this may be infinity. In every other type, the greatest
 *    finite number takes its place. NaN becomes the NaN of the type, with all its bits set but the sign; in a type
 *    without NaN it becomes 0. -0 stays -0 in floating-point types.
 *
 * If the stored type is that of the new rows, all bits stay as they are: this is AS_IS with strides in bytes.
 *
 * A GATHER decodes. x is the number that a code stands for, as a binary32, and s is the scale of its group. With a
 * global scale g, s * g takes the place of s. The result is x / s if the use is MULTIPLY, x * s with any other use, and
 * x without scales. A product or scale of zero gives 0 for every code. The result is rounded to the element type, as in
 * step 4. A gather only reads scales, even COMPUTED ones. Their strides must be legal for an append. The fields that
 * say how scales are computed, and how numbers are rounded to codes, have no effect.
 *
 * SCALES. args.k_scales has a scale for each block, head, row and group [N, H, R, D / group], by scale_strides. The
 * scales of a place may lie anywhere: in a tensor of their own, at the end of each row, or at the end of each page.
 * They may be interleaved with the caches and with each other, as long as no byte belongs to two of them. Given scales
 * may be repeated by strides of 0; all zero is one scale for everything. Computed scales are written together with the
 * row, and must not overlap. A scale is never taken to be 1: a missing buffer is an error.
 *
 * The arithmetic needs the default floating-point environment: the host backend must not be called by a thread that
 * rounds in another direction or flushes subnormal numbers to zero.
 */

/* The type of one element in a cache: its code. The element types of the new rows are those of enum
 * kvappend_element_type. Codes of 8 bits and less are as in OCP OFP8 (E4M3, E5M2) and OCP Microscaling Formats (E2M1,
 * and UE8M0 for scales, which is called E8M0 there). */
enum kvappend_stored_type {
    KVAPPEND_STORED_AS_IS = 0, /* the bits of the new rows; the cache has strides in elements */
    KVAPPEND_STORED_F32 = 1,   /* 4 bytes */
    KVAPPEND_STORED_F16 = 2,   /* 2 bytes */
    KVAPPEND_STORED_BF16 = 3,  /* 2 bytes */
    KVAPPEND_STORED_E4M3 = 4,  /* 1 byte, up to 448 */
    KVAPPEND_STORED_E5M2 = 5,  /* 1 byte, up to 57344 */
    KVAPPEND_STORED_INT8 = 6,  /* 1 byte, -128 to 127 */
    KVAPPEND_STORED_INT4 = 7,  /* half a byte, -8 to 7, stored as the number plus 8 */
    KVAPPEND_STORED_E2M1 = 8   /* half a byte: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives */
};

/* Where scales come from. */
enum kvappend_scaling {
    KVAPPEND_SCALING_NONE = 0,    /* There are none. */
    KVAPPEND_SCALING_GIVEN = 1,   /* A run reads them from args.k_scales, v_scales or q_scales. */
    KVAPPEND_SCALING_COMPUTED = 2 /* An append computes them and writes them to args.k_scales or v_scales. */
};

/* What an append makes of an element x, if s is the scale of its group (with a global scale g: s * g). A gather does
 * the opposite: see FORMATS. */
enum kvappend_scale_use {
    KVAPPEND_SCALE_DIVIDE = 0,     /* x / s */
    KVAPPEND_SCALE_RECIPROCAL = 1, /* x * (1 / s) */
    KVAPPEND_SCALE_MULTIPLY = 2,   /* x * s. With GIVEN only: the caller passes the reciprocals of the scales. */
    /* As RECIPROCAL, but of the scale before it was rounded to its type. With COMPUTED only. */
    KVAPPEND_SCALE_UNROUNDED_RECIPROCAL = 3
};

/* The type of a scale in memory. */
enum kvappend_scale_type {
    KVAPPEND_SCALE_F32 = 0,  /* 4 bytes */
    KVAPPEND_SCALE_F16 = 1,  /* 2 bytes */
    KVAPPEND_SCALE_E4M3 = 2, /* 1 byte */
    KVAPPEND_SCALE_UE8M0 = 3 /* 1 byte: the code e stands for 2^(e - 127), and 255 for NaN */
};

/* How a computed scale is rounded to its type. */
enum kvappend_scale_rounding {
    KVAPPEND_SCALE_NEAREST = 0,     /* to the nearest number, ties to even; not with UE8M0 */
    KVAPPEND_SCALE_POWER_OF_TWO = 1 /* up to a power of two from 2^-127 to 2^127; with F32 and UE8M0 */
};

/* The order of the scales in memory. */
enum kvappend_scale_order {
    /* By scale_strides. */
    KVAPPEND_SCALE_LINEAR = 0,
    /* The scales of four rows are interleaved, as the V scales of NVFP4 for the kernels of TensorRT-LLM. The rows of a
     * block and a head form a tile. With S groups in a row, the scale of group g of row r is
     * (r / 4) * 4 * S + g * 4 + r % 4 bytes after the begin of the tile. The array scale_strides has the strides of
     * blocks and of heads, and 0 for rows and groups. The scales have 1 byte, and 4 divides cache_rows. */
    KVAPPEND_SCALE_BY_FOUR_ROWS = 1
};

/* How numbers halfway between two codes of INT8 and INT4 are rounded. Floating-point codes are rounded to even. */
enum kvappend_rounding {
    KVAPPEND_ROUNDING_HALF_EVEN = 0, /* to the even one: rint of C */
    KVAPPEND_ROUNDING_HALF_AWAY = 1  /* away from zero: round of C */
};

/* Which elements share a byte in INT4 and E2M1. */
enum kvappend_nibbles {
    KVAPPEND_NIBBLES_PAIRS = 0, /* elements 2j (the low half) and 2j + 1 (the high half) */
    KVAPPEND_NIBBLES_HALVES = 1 /* elements j (low) and j + group / 2 (high) of a group, as in ggml's Q4_0 */
};

/* How the rows of K or of V are stored in their cache, or those of Q in q_out. All zero is AS_IS. FORMATS explains how
 * the fields work together. */
typedef struct kvappend_storage {
    size_t struct_size;
    int32_t type;           /* KVAPPEND_STORED_* */
    int32_t scaling;        /* KVAPPEND_SCALING_*. F32, F16 and BF16: NONE */
    int32_t scale_use;      /* KVAPPEND_SCALE_DIVIDE, ... */
    int32_t scale_type;     /* KVAPPEND_SCALE_F32, ... */
    int32_t scale_rounding; /* COMPUTED: KVAPPEND_SCALE_NEAREST or _POWER_OF_TWO */
    int32_t scale_order;    /* KVAPPEND_SCALE_LINEAR or _BY_FOUR_ROWS */
    int32_t rounding;       /* INT8 and INT4: KVAPPEND_ROUNDING_* */
    int32_t nibbles;        /* INT4 and E2M1: KVAPPEND_NIBBLES_* */
    int32_t global_scale;   /* 1: args.k_global_scale or v_global_scale is a factor of all scales; 0: there is none */
    float amax_floor;       /* COMPUTED: the least value for the largest magnitude of a group; finite, not negative */
    float scale_floor;      /* COMPUTED: the least scale; finite, not negative */
    int32_t reserved;       /* must be 0 */
    /* The number of adjacent elements of a row that share a scale. It divides the dimension. 0: the whole row. COMPUTED
     * needs an even number or the whole row. */
    int64_t group;
    int64_t scale_strides[4]; /* of the scales [N, H, R, D / group], in bytes; each is taken as it is */
} kvappend_storage;

#define KVAPPEND_STORAGE(...) KVAPPEND_STRUCT(kvappend_storage, __VA_ARGS__)
/* clang-format off */
#define KVAPPEND_STORAGE_INIT                                                                                          \
    { sizeof(kvappend_storage), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0, 0} }
/* clang-format on */

KVAPPEND_API kvappend_status kvappend_storage_init(kvappend_storage *s, size_t struct_size);

/* Storages of known caches. A preset sets all numeric fields but the strides. Change any of them afterwards. The guide
 * "Quantised caches" (capi/docs/quantised.md) shows the layout and the strides of each. */
enum kvappend_preset {
    KVAPPEND_PRESET_F16 = 1,  /* casts, such as llama.cpp's default cache of F32 rows */
    KVAPPEND_PRESET_BF16 = 2, /* the same for BF16 */
    /* E4M3 with given scales: x / s, as in vLLM's reshape_and_cache, reshape_and_cache_flash and concat_and_cache_mla.
     * For E5M2, change the type. */
    KVAPPEND_PRESET_E4M3_DIVIDE = 3,
    KVAPPEND_PRESET_E4M3_RECIPROCAL = 4, /* x * (1 / s), as in ONNX Runtime */
    KVAPPEND_PRESET_E4M3_MULTIPLY = 5,   /* x * s, as in FlashInfer's rope_quantize_fp8_append_paged_kv_cache */
    KVAPPEND_PRESET_INT8_MULTIPLY = 6,   /* x * s, as in TensorRT-LLM's kv_scale_orig_quant */
    /* One given scale for each head and element of a row, as in ONNX Runtime's GroupQueryAttention. scale_strides is
     * {0, D * 4, 0, 4}. */
    KVAPPEND_PRESET_INT8_CHANNEL = 7,
    KVAPPEND_PRESET_INT4_CHANNEL = 8, /* the same for INT4 */
    /* One computed F32 scale for each row of a head, as in vLLM's int8_per_token_head and fp8_per_token_head. */
    KVAPPEND_PRESET_INT8_ROW = 9,
    KVAPPEND_PRESET_E4M3_ROW = 10, /* the same for E4M3 */
    /* DeepSeek V3.2: rows of 656 bytes, as vLLM writes them (fp8_ds_mla). K has 512 codes in groups of 128, and four
     * F32 scales from byte 512 on. V, without a storage, has the 64 BF16 elements from byte 528 on. */
    KVAPPEND_PRESET_DEEPSEEK_V3 = 11,
    KVAPPEND_PRESET_DEEPSEEK_V3_POWER_OF_TWO = 12, /* the same with powers of two, as in FlashMLA's tests */
    KVAPPEND_PRESET_DEEPSEEK_V4 = 13, /* groups of 64 with UE8M0 scales at the end of the page: 584 bytes a row */
    /* The keys of DeepSeek V3.2's indexer: an F32 scale for each row, at the end of the page: 132 bytes a row. */
    KVAPPEND_PRESET_INDEXER = 14,
    KVAPPEND_PRESET_INDEXER_POWER_OF_TWO = 15, /* the same with powers of two */
    /* NVFP4: E2M1 in groups of 16, with E4M3 scales and a global scale. V scales BY_FOUR_ROWS for the kernels of
     * TensorRT-LLM, and LINEAR otherwise. */
    KVAPPEND_PRESET_NVFP4 = 16,
    KVAPPEND_PRESET_NVFP4_BY_FOUR_ROWS = 17, /* the same with scales BY_FOUR_ROWS */
    KVAPPEND_PRESET_Q8_0 = 18,               /* ggml's blocks of 32 elements with an F16 scale */
    KVAPPEND_PRESET_Q4_0 = 19 /* ggml's layout. The codes differ from ggml's: ggml scales by a signed maximum. */
};

/* Fills the first struct_size bytes of *storage: struct_size, the fields of the preset, and zeros. It fails with
 * KVAPPEND_ERROR_STORAGE for an unknown preset, and as the init functions do. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_storage_preset(int32_t preset, kvappend_storage *storage, size_t struct_size);

/* ====================================================================================================================
 * GATHER: reading rows from the cache
 * ====================================================================================================================
 *
 * With descriptor.operation = KVAPPEND_OPERATION_GATHER, the same descriptor works backwards: where an append writes a
 * row to its place, a gather reads the row from that place. It is meant for chunked prefill, for reuse of a prefix, and
 * for export to other memory or to another machine.
 *
 *     for all b, h, l, with pos = cache_offsets[b] + l and 0 <= pos < L_max:
 *         k_out[b, h, l, :] = k_cache[b, h, pos, :]
 *         v_out[b, h, l, :] = v_cache[b, h, pos, :]
 *
 * k_out and v_out have the shapes of new rows, and the strides k_new_strides and v_new_strides. args.k_new and v_new
 * are ignored. What this header says of new rows also holds for the rows of k_out and v_out, with these differences:
 *
 * - Rows of k_out or v_out must not overlap, so no stride may repeat a row.
 * - A skipped row is left as it is: a row without a place, padding, or a row that a later row of a ring replaces. With
 *   KVAPPEND_FLAG_ZERO_SKIPPED, the run sets it to zero. Reports and skip policies treat it as in an append.
 * - Two rows may be read from one place.
 * - A gather does not write the caches and the scales. They may be memory that can only be read.
 * - KVAPPEND_FLAG_ADVANCE and descriptor.rotary are refused.
 * - Rows that are stored in another format are decoded: see FORMATS.
 *
 * A gather can also give the stored bytes. Declare the codes as K and their scales as V, with UINT8 elements and
 * without a storage. The K cache and the V cache then have a plan each.
 */

/* ====================================================================================================================
 * MOVE: moving rows within the cache
 * ====================================================================================================================
 *
 * With descriptor.operation = KVAPPEND_OPERATION_MOVE, a run moves rows within the caches, from one slot to another.
 * Examples are accepted rows of draft tokens, rows that stay after an eviction, copies of shared pages, and reordered
 * beams.
 *
 *     for all t, one after the other, for all h:
 *         k_cache[slots[t], h, :] = k_cache[from_slots[t], h, :]
 *         v_cache[slots[t], h, :] = v_cache[from_slots[t], h, :]
 *
 * The addressing is KVAPPEND_ADDRESSING_SLOTS. new_rows is the number T of rows to move. What this header says of
 * appends also holds for moves, and what it says of slots also holds for from_slots, with these differences:
 *
 * - A row is skipped if either of its two slots is padding or does not exist. Reports, skip policies and
 *   KVAPPEND_FLAG_RESERVED_SLOT apply to both slots. If one slot has no place, the row counts by that slot. If neither
 *   has one, the row counts as padding if one of them is padding, and by its slot in from_slots if none of them is.
 * - With KVAPPEND_LENGTHS_PACKED, batch is the number of samples, and sample b has the rows
 *   lengths[b] <= t < lengths[b + 1]. The rows of a sample are moved one after the other. Therefore a row may come from
 *   a place to which an earlier row of its sample went. Different samples are moved at the same time. No sample may
 *   write a place that another sample reads or writes. Otherwise the contents of that place are undefined, and so is
 *   every row that is moved from it. Two samples may read one place. Without PACKED, batch is 1: there is one sample.
 *   Rows that do not depend on each other are moved faster if each of them is a sample of its own.
 * - There are no new rows. k_new, v_new, k_out and v_out are ignored. k_new_strides and v_new_strides must be 0.
 *   descriptor.rotary is refused.
 * - The stored bytes are moved, in every format. With a storage, element_type must be F32, F16 or BF16, as in an
 *   append, and has no other effect. Scales that belong to one row move with the row. Scales that are the same for all
 *   rows stay as they are. Scales that only some rows share are refused. If K and V have scales that move, each needs a
 *   tensor of its own. The global scale is not used.
 * - A row may be a whole page: with cache_rows = 1, a slot is the number of a page. Describe it with heads = 1, and
 *   with the number of elements of a page as k_dim.
 */

/* ====================================================================================================================
 * ROTATION: rotary position embedding of K and Q
 * ====================================================================================================================
 *
 * With descriptor.rotary, an append rotates the rows of K before it stores them (rotary position embedding, Su et al.,
 * 2021). It also rotates the rows of Q, if Q is given. It does not change k_new, and it never rotates V. element_type
 * must be F32, F16 or BF16.
 *
 * THE TABLES args.rotary_cos and rotary_sin have table_rows rows of dim / 2 numbers. Row p is for position p, and its
 * number i is for pair i. Each row begins table_stride elements after the one before it. Two tables of their own have
 * table_stride 0. One table [positions, cos | sin] has table_stride dim, and rotary_sin is rotary_cos plus dim / 2
 * elements.
 *
 * THE POSITION of a row is its position in its sequence: pos, or token_positions[t] with KVAPPEND_LENGTHS_PER_TOKEN.
 * The position does not wrap around in a ring. With KVAPPEND_FLAG_POSITIONS, it is the row's element of args.positions.
 * SLOTS requires this flag, because a slot is a place and not a position. If two rows have the same position, both are
 * rotated by it.
 *
 * A row whose position is negative or not below table_rows has no place: neither its K nor its V is written. It is
 * treated as a row below or above the cache, and its position here is the one that is reported. This holds for rows
 * that otherwise have a place. Padding stays padding, and a row that lies outside the cache keeps the position that it
 * has there. A row of a ring that a later row replaces is skipped even if the tables do not have the later one. No
 * value of a position makes a run read outside the tables.
 *
 * THE ARITHMETIC is that of IEEE 754 binary32. Each product and each sum is rounded to nearest even by itself. The
 * elements of a pair are x1 and x2, and its numbers in the tables are c and s, all of them as binary32:
 *
 *     y1 = x1 * c - x2 * s
 *     y2 = x2 * c + x1 * s
 *
 * Both y are rounded to the element type, as FORMATS says of F32, F16 and BF16 codes: to the nearest number, which may
 * be infinity. NaN becomes the NaN of the type with all its bits set but the sign. The elements before `first` and from
 * first + dim on keep all their bits. In Q, q_first takes the place of `first`. Then the row is stored with its bits,
 * or in the format of k_storage. The stored bytes are those of two separate steps: a rotation, and an append of the
 * rotated rows.
 *
 * Q has one row for each new row of K, with q_heads heads of q_dim elements. The run rotates each row of args.q by the
 * position of the row of K, from element q_first on, and writes it to the same row of args.q_out. Q is rotated in place
 * if q_out is q. Then q_strides and q_out_strides must lay out the same tensor, and q_out must have the element type.
 * If a row is skipped, its rows of q and q_out do not change. There is one exception: a row of a ring that a later row
 * of the run replaces. Q of the replaced row is rotated if the tables have its position. Reports do not count rows of
 * Q. With q_storage, q_out has codes of 8, 16 or 32 bits, without scales or with given ones that are the same for all
 * rows: args.q_scales are [H_q, D_q / group]. If there is no K to append, such as with heads 0, nothing is done for Q
 * either.
 *
 * With multi-head latent attention, K is the part of the row that is rotated, such as 64 elements, and V is the latent
 * part, such as 512 elements. Both caches are views of one tensor: their strides are those of the whole row.
 */

/* Which elements of a row form a pair that is rotated together. They are counted from the first rotated element. */
enum kvappend_rotary_style {
    KVAPPEND_ROTARY_HALF = 0,       /* i and i + dim / 2, as in GPT-NeoX, and in Llama of Transformers (rotate_half) */
    KVAPPEND_ROTARY_INTERLEAVED = 1 /* 2 * i and 2 * i + 1, as in GPT-J */
};

/* How an append rotates the rows of K, and those of Q: see ROTATION. */
typedef struct kvappend_rotary {
    size_t struct_size;
    int32_t style;        /* KVAPPEND_ROTARY_* */
    int32_t table_type;   /* of the elements of the tables: KVAPPEND_ELEMENT_F32, _F16 or _BF16 */
    int64_t dim;          /* elements of a row that are rotated; even, 2 to k_dim; with Q, at most q_dim */
    int64_t first;        /* the first of them in a row of K, 0 to k_dim - dim */
    int64_t table_rows;   /* positions that the tables have, 0 or more */
    int64_t table_stride; /* elements from one row of a table to the next; 0 means dim / 2 */

    int64_t q_heads;          /* H_q: query heads; 0 means that there is no Q, and the fields below are ignored */
    int64_t q_dim;            /* D_q: elements of a Q row */
    int64_t q_first;          /* the first of them that is rotated, 0 to q_dim - dim */
    int64_t q_strides[3];     /* of q [B, H_q, L_new, D_q], by KVAPPEND_AXIS_* */
    int64_t q_out_strides[3]; /* of q_out [B, H_q, L_new, D_q]; in bytes if q_storage has a type, as those of a cache */
    /* How q_out stores its rows. NULL: with the bits of the rotated rows. scale_strides[0] and [2] must be 0. It is
     * read by kvappend_plan_create only. */
    const struct kvappend_storage *q_storage;
} kvappend_rotary;

#define KVAPPEND_ROTARY(...) KVAPPEND_STRUCT(kvappend_rotary, __VA_ARGS__)
/* clang-format off */
#define KVAPPEND_ROTARY_INIT                                                                                           \
    { sizeof(kvappend_rotary), 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0}, {0, 0, 0}, NULL }
/* clang-format on */

KVAPPEND_API kvappend_status kvappend_rotary_init(kvappend_rotary *s, size_t struct_size);

/* ====================================================================================================================
 * LAYERS: many appends, gathers or moves in one call
 * ====================================================================================================================
 */

/* Does several appends, gathers or moves as one, such as those of all layers. This is for callers who have the rows of
 * all layers at once. They have them when speculated tokens are accepted, when a chunk of a prompt is done, or when a
 * cache is imported. Gathers of all layers are of use for an export.
 *
 * plans[i] and args[i] are what run would take for layer i. The arrays and structs are read during the call only. One
 * plan may occur any number of times. All plans must have the same backend (KVAPPEND_ERROR_BACKEND), the same operation
 * (KVAPPEND_ERROR_OPERATION) and the same device, and may differ in everything else. If layers is 0, there is nothing
 * to do, and both arrays may be NULL.
 *
 * First all layers are checked, as run checks them. If one of them is refused, nothing has been written, and the
 * message begins with "layer i: ". If a launch after the first one fails, the kernels launched before it still do their
 * work.
 *
 * A layer must not write memory that another layer reads or writes. There are two exceptions: all layers may count in
 * the same report, and they may share the offsets that advance. If rows of two appends have the same place, the
 * contents of that place are undefined. This is not checked.
 *
 * All rows are placed and counted by the offsets from before the call. After that, each array of offsets advances once:
 * if several appends with KVAPPEND_FLAG_ADVANCE have the same pointer in args.cache_offsets, only the first of them
 * advances it. A report is reset once, before any layer counts in it, if one of the layers with the same pointer in
 * args.report has KVAPPEND_FLAG_RESET_REPORT.
 *
 * Host backend: the layers are done one after the other.
 *
 * CUDA backend: one launch takes up to 80 layers, if they have at most two geometries. A geometry is a pair of a plan
 * and its arrays of indices: layers with a sliding window and layers without one have two. If there are more layers or
 * more geometries, the call makes as many launches as necessary. After the copies, each layer that reports or traps
 * costs one further launch, and so does each array of offsets that advances. The kernels are the following. They do not
 * depend on the kernels of the single plans.
 *
 * - If every plan is a plain dense one ([B, H, L, D] rows by cache_offsets alone), cuda_dense_layers_b16 copies runs of
 *   adjacent rows. Otherwise cuda_rows_layers_b16 copies row by row.
 * - Plans that convert rows have launches of their own, with up to 36 in each: cuda_convert_layers_b16.
 * - Plans that rotate rows also have launches of their own, with up to 32 in each: cuda_rotate_layers_b16. The rotary
 *   tables count as arrays of indices here.
 * - Gathers have cuda_gather_dense_layers_b16, cuda_gather_rows_layers_b16 and cuda_gather_convert_layers_b16.
 * - Moves have cuda_move_rows_layers_b16.
 * - Two kinds of plans have a launch for each plan, by its own kernel: appends and gathers whose extents or strides
 *   need 64-bit indices, and plans that rotate Q.
 *
 * KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH has an effect on a launch if all plans of that launch have it. In all other
 * respects the same holds as for run. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_run_layers(const kvappend_plan *const *plans,
                                                      const kvappend_args *const *args, size_t layers, void *workspace,
                                                      size_t workspace_bytes, struct CUstream_st *stream);

/* ====================================================================================================================
 * VALIDATION: looking for faults in the arrays of indices
 * ====================================================================================================================
 */

/* The first fault that validate found. The library fills it, and the caller sets struct_size. If there is no fault,
 * every field except struct_size is zero. */
typedef struct kvappend_fault {
    size_t struct_size;
    /* INDEX_*, SCALE: the name of the faulty argument, such as "page_table", a static string; else NULL */
    const char *array;
    int64_t index;  /* INDEX_*, SCALE: the faulty element, counted from the array's pointer in elements */
    int64_t value;  /* INDEX_*: the value of that element; SCALE: its bits */
    int64_t sample; /* SKIPPED, DUPLICATE: the faulty row */
    int64_t row;
    int64_t position;     /* with SLOTS: the slot */
    int64_t other_sample; /* DUPLICATE: the earlier row with the same place */
    int64_t other_row;
} kvappend_fault;

#define KVAPPEND_FAULT_INIT                                                                                            \
    { sizeof(kvappend_fault), NULL, 0, 0, 0, 0, 0, 0, 0 }

KVAPPEND_API kvappend_status kvappend_fault_init(kvappend_fault *s, size_t struct_size);

/* Checks what run does not check: the contents of the arrays of indices, for a call with these arguments. It is meant
 * for development and tests. For n rows, its time is proportional to n log n, and to the size of what it copies. It
 * looks for these faults in this order:
 *
 * - KVAPPEND_ERROR_INDEX_WIDTH: an array that is declared as 32-bit indices looks like one of int64. Its size in *args
 *   is exactly twice what it needs. Read as 64-bit numbers, all its elements fit in 32 bits, and at least one differs
 *   from the 32-bit index that a run reads. To be found, an array must be given with its own size, not with that of a
 *   larger buffer.
 * - KVAPPEND_ERROR_INDEX_ORDER: lengths (PACKED) or page_indptr decreases, begins below 0, or ends beyond T or
 *   table_entries.
 * - KVAPPEND_ERROR_INDEX_RANGE: token_count is negative or more than T. Or a sample in token_samples is not below B,
 *   unless the token is padding. Or a pad or a length is negative or more than the number of rows. Or a batch_index is
 *   not below cache_blocks. Or an entry of page_table that a row needs is not a page of the cache.
 * - KVAPPEND_ERROR_SKIPPED: a row has a position below or above its cache: see SKIPPED ROWS. This includes the rows of
 *   samples that an offset leaves out. To avoid this, leave samples out by their length.
 * - KVAPPEND_ERROR_DUPLICATE: two rows of an append have the same place, and it is not a ring that replaces one of
 *   them. Or two samples of a move use the same place, and at least one of them writes it.
 * - KVAPPEND_ERROR_SCALE: a global scale, or a scale that a row of the call reads, is NaN, infinite, zero or negative.
 *   A computed scale may be zero. The scales of a move are not checked, because it does not use their values.
 *
 * It returns the first of these statuses that applies, and describes the fault in *fault. fault may be NULL. Before
 * these checks, it fails for everything that can_implement refuses, and for a wrong stream or device. If there is
 * nothing to copy, there is no fault. It writes to no buffer.
 *
 * workspace is the same as for run: none is needed. The call copies the arrays of indices to host memory, and each
 * tensor of scales that a run reads, from its first to its last scale. If scales lie within the rows, this is about as
 * much memory as the cache. In addition, an append needs 24 bytes for each row, and a move of several samples needs 64
 * (KVAPPEND_ERROR_OUT_OF_MEMORY). CUDA backend: the copies are in the order of the stream, and the call waits for the
 * stream. Therefore it is not legal under stream capture. The plan's device must be current. */
KVAPPEND_API kvappend_status kvappend_plan_validate(const kvappend_plan *plan, const kvappend_args *args,
                                                    void *workspace, size_t workspace_bytes, struct CUstream_st *stream,
                                                    kvappend_fault *fault);

/* ====================================================================================================================
 * CUDA: launches, capture and early starts
 * ====================================================================================================================
 *
 * This part describes the CUDA backend alone.
 *
 * LAUNCHES. One kernel copies or moves all of K and V. If there is nothing to do, nothing is launched.
 * KVAPPEND_SKIP_REPORT, KVAPPEND_SKIP_TRAP and KVAPPEND_FLAG_ADVANCE, alone or together, launch exactly one further
 * kernel after the copy. It has one block. It resets the report, counts the rows, names the first row without a place
 * or traps, and advances the offsets, as far as the plan asks for these. If its launch fails, the copy still does its
 * work.
 *
 * LATE FAILURES. CUDA reports some failures only after the launch, such as an access to a buffer that the GPU cannot
 * reach. Therefore KVAPPEND_ERROR_CUDA can also report a failure of earlier work on the device. The library neither
 * reads nor clears the error that cudaGetLastError returns.
 *
 * CAPTURE. Only kvappend_plan_create and kvappend_plan_validate may wait for a device. A thread that captures a stream
 * must not call these two. During a capture in cudaStreamCaptureModeGlobal, no thread may call them. Every other
 * function may be called while a stream is being captured. CUDA makes one exception: while a capture is active,
 * kvappend_plan_run and kvappend_plan_run_layers must not be given the default stream if the captured stream
 * synchronises with it. The call would fail and would invalidate the capture.
 *
 * A captured graph replays the copy with the pointers of the captured call, and with the offsets and other indices that
 * memory holds at each replay. Until the kernels have finished, the buffers must stay valid, and what they read must
 * stay unchanged.
 *
 * EARLY STARTS. With KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH, the copy uses programmatic dependent launch (the name in the
 * CUDA programming guide; the attribute is cudaLaunchAttributeProgrammaticStreamSerialization). The kernel of the copy
 * may start while the kernel before it in the stream still runs. It works out which thread copies what, and then waits
 * for the end of the kernel before it. Only after that does it access any buffer. A kernel after the copy that is
 * launched in the same way may start early, too. That kernel must call cudaGridDependencySynchronize before it reads
 * what the copy writes, and before it writes what the copy reads:
 *
 * - An append writes the caches, the computed scales and q_out. It reads new rows, q, given scales, global scales,
 *   rotary tables and indices.
 * - A gather writes k_out and v_out. It reads caches, all scales and indices.
 * - A move reads and writes the caches and the scales that it moves. It reads indices.
 *
 * The flag does not change what is copied. It has no effect below compute capability 9.0. It also has no effect if the
 * driver compiled the kernel for the device from PTX for a compute capability below 9.0.
 */

/* ====================================================================================================================
 * THREADS: threads, signals and fork
 * ====================================================================================================================
 *
 * This part says what may happen at the same time.
 *
 * CALLS FROM ANY THREAD. Any thread may call any function at any time, with two exceptions that are rules of CUDA. A
 * callback of cudaLaunchHostFunc must not call a function that makes a CUDA call. The other exception is the capture of
 * a stream: see CUDA. A plan does not change after its creation, so any number of threads may run one plan at once.
 * Only kvappend_plan_destroy must not overlap another use of the plan.
 *
 * THREADS OF A PLAN. With preference.host_threads, kvappend_plan_create starts further threads. They belong to the plan
 * and end with it. Between runs they sleep. They block all signals except SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP and
 * SIGSYS, which a thread's own instructions raise. If the program handles accesses to protected pages of a cache, its
 * handler therefore also receives the accesses of these threads. A run uses them if it has at least 8 MiB to copy and
 * they are not busy with another run of the plan. Otherwise the calling thread works alone, so any number of threads
 * may still run one plan at once. A run waits only for parts of its copy that other threads have begun. The number of
 * threads does not change what is written.
 *
 * SIGNALS. A signal may interrupt any call. The signal handler may run plans of the host backend, including the plan
 * whose run it interrupted. If a run in the handler fails, it may garble the error message of the thread. The handler
 * must return. If longjmp or asynchronous cancellation leaves a call, the plan of that call becomes unusable, and its
 * buffers stay in use.
 *
 * If the library was loaded by dlopen, the C library allocates the error message of a thread when the thread first uses
 * it. If the first use is a failing run in a signal handler, that run allocates memory, which may deadlock. Therefore a
 * thread whose signal handler runs plans must call kvappend_last_error_message once beforehand.
 *
 * FORK. In a child process made by fork, plans of the host backend still work, but without their threads: those do not
 * exist there, and no run waits for them. A plan of the CUDA backend can only be queried and destroyed there, because
 * CUDA does not work in a child process. If a signal handler forks during a run of a plan with threads, the child
 * process must not continue that run.
 */

/* ====================================================================================================================
 * WHAT WAS CHOSEN: the kernel of a plan, and what it guarantees
 * ====================================================================================================================
 */

/* What the library chose for a plan. The library fills it, and the caller sets struct_size. */
typedef struct kvappend_sku {
    size_t struct_size;
    int32_t operation;    /* KVAPPEND_OPERATION_* */
    int32_t backend;      /* KVAPPEND_BACKEND_* */
    int32_t element_type; /* KVAPPEND_ELEMENT_* */
    int32_t architecture; /* CUDA: ten times the compute capability of the device, such as 90. Host: 0 */
    /* CUDA: the number of bytes of one load or store of K and of V (16, 8, 4, 2 or 1) if the pointers are aligned to
     * that number. For pointers with less alignment, the kernel uses the widest accesses that they allow. 0 for an
     * absent tensor. Host: 0. */
    int32_t k_vector_bytes;
    int32_t v_vector_bytes;
    const char *kernel_name; /* the name in the kernel table; a static string, valid while the library is loaded */
    int32_t device;          /* CUDA: the number of the device that the plan belongs to. Host: 0 */
    int32_t addressing;      /* KVAPPEND_ADDRESSING_* */
} kvappend_sku;

/* What a plan guarantees for the values that it writes. The library fills it, and the caller sets struct_size. */
typedef struct kvappend_precision_guarantee {
    size_t struct_size;
    /* 1: every written element has the bits of its source, including NaN payloads and -0. K has 0 if it is rotated. */
    int32_t k_bit_exact;
    int32_t v_bit_exact;
    /* 1: the same call on the same memory leaves the same bytes, unless two rows have the same place. In a move: unless
     * a sample writes a place that another one uses. */
    int32_t deterministic;
    /* 1: these bytes do not depend on the backend, the device or the kernel. */
    int32_t same_on_all_backends;
    /* The largest error of a code, compared with the number y that was rounded to it (see FORMATS). It holds if |y| is
     * at most the greatest number of the type. For floating-point types it is relative to |y|, which must be at least
     * the least normal number. For INT8 and INT4 it is 0.5. A gather that decodes rounds to the element type, so this
     * is the largest error of that rounding (0 for F32). If rotated rows are stored without a format, it is the largest
     * error of the rounding to the element type. 0 if all bits are kept. */
    float k_error;
    float v_error;
} kvappend_precision_guarantee;

#define KVAPPEND_SKU_INIT                                                                                              \
    { sizeof(kvappend_sku), 0, 0, 0, 0, 0, 0, NULL, 0, 0 }
#define KVAPPEND_PRECISION_GUARANTEE_INIT                                                                              \
    { sizeof(kvappend_precision_guarantee), 0, 0, 0, 0, 0, 0 }

KVAPPEND_API kvappend_status kvappend_sku_init(kvappend_sku *s, size_t struct_size);
KVAPPEND_API kvappend_status kvappend_precision_guarantee_init(kvappend_precision_guarantee *s, size_t struct_size);

/* These two fill *sku or *guarantee up to its struct_size. On failure, every field except struct_size is zero. If
 * struct_size itself is at fault, the struct does not change. They need no device. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_get_sku(const kvappend_plan *plan, kvappend_sku *sku);
KVAPPEND_API kvappend_status kvappend_plan_get_precision_guarantee(const kvappend_plan *plan,
                                                                   kvappend_precision_guarantee *guarantee);

/* Returns the name of entry `index` (from 0) in the table of all kernels of this library, those of all backends. Past
 * the end of the table it returns NULL. A name states the backend, the operation ("gather", "move", or nothing for an
 * append), and how the kernel finds rows. "wide" means 64-bit indices; the kernels of moves have them, too. For CUDA
 * the name ends with the widest access in bytes ("cuda_dense_b16"). Such a kernel uses narrower accesses if base
 * addresses, strides or the bytes of a row are not multiples of 16. The result is a static string, valid while the
 * library is loaded. This function cannot fail. Legal under stream capture. */
KVAPPEND_API const char *kvappend_kernel_name(size_t index);

/* ====================================================================================================================
 * LOADING BY HAND: versions, dlopen and dlclose
 * ====================================================================================================================
 *
 * A program that links the library needs none of this. A program that loads it with dlopen looks up kvappend_get_api,
 * and calls all other functions through the table that it gives.
 *
 * UNLOADING. The kernels are part of the library. Unload it (dlclose) only when everything that it launched has
 * finished, and when no graph that contains such a launch will be replayed. The code of a plan's threads is part of it,
 * too, so destroy every plan with host_threads first. Any other plan that still exists leaks its memory and must not be
 * used any more.
 */

/* Returns the KVAPPEND_VERSION of the loaded library. The macro is that of the header, so the two can be compared. */
KVAPPEND_API uint32_t kvappend_version(void);

/* All functions of the library, for programs that load it with dlopen and want to look up one symbol only. The table
 * can grow like every struct: struct_size tells how much of it this library has. This library does not have a function
 * beyond that. */
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
    kvappend_status (*report_init)(kvappend_report *s, size_t struct_size);
    kvappend_status (*fault_init)(kvappend_fault *s, size_t struct_size);
    kvappend_status (*plan_validate)(const kvappend_plan *plan, const kvappend_args *args, void *workspace,
                                     size_t workspace_bytes, struct CUstream_st *stream, kvappend_fault *fault);
    kvappend_status (*plan_run_layers)(const kvappend_plan *const *plans, const kvappend_args *const *args,
                                       size_t layers, void *workspace, size_t workspace_bytes,
                                       struct CUstream_st *stream);
    kvappend_status (*storage_init)(kvappend_storage *s, size_t struct_size);
    kvappend_status (*storage_preset)(int32_t preset, kvappend_storage *storage, size_t struct_size);
    kvappend_status (*rotary_init)(kvappend_rotary *s, size_t struct_size);
} kvappend_api;

/* Puts a pointer to the library's table in *api. The table is static memory, valid while the library is loaded.
 * abi_version is the KVAPPEND_ABI_VERSION of the caller. A library with another ABI fails with
 * KVAPPEND_ERROR_ABI_VERSION, and *api is NULL. */
KVAPPEND_API kvappend_status kvappend_get_api(uint32_t abi_version, const kvappend_api **api);

/* ====================================================================================================================
 * STATUSES: what each status means, and which functions return it
 * ====================================================================================================================
 */

/* The brackets name the functions that can return the status. validate and run_layers can return whatever run can. */
enum kvappend_status_code {
    /* The work is done, or it is enqueued in the stream. [all] */
    KVAPPEND_SUCCESS = 0,
    /* A required pointer to a struct, a plan or a result is NULL. [all that take one] */
    KVAPPEND_ERROR_NULL_ARGUMENT = 1,
    /* struct_size is not a multiple of 8 from 8 to 4096, or a field that this library does not know is not zero.
     * [all that take a struct] */
    KVAPPEND_ERROR_STRUCT_SIZE = 2,
    /* The library does not have the requested ABI. [get_api] */
    KVAPPEND_ERROR_ABI_VERSION = 3,

    /* descriptor.backend is not a KVAPPEND_BACKEND_* value [plan_create], or the plans of a call have different
     * backends [run_layers]. */
    KVAPPEND_ERROR_BACKEND = 10,
    /* descriptor.element_type is not a KVAPPEND_ELEMENT_* value. [plan_create] */
    KVAPPEND_ERROR_ELEMENT_TYPE = 11,
    /* descriptor.offset_type is not a KVAPPEND_OFFSET_* value. [plan_create] */
    KVAPPEND_ERROR_OFFSET_TYPE = 12,
    /* descriptor.addressing is not a KVAPPEND_ADDRESSING_* value. [plan_create] */
    KVAPPEND_ERROR_ADDRESSING = 13,
    /* An extent is negative. [plan_create] */
    KVAPPEND_ERROR_EXTENT = 14,
    /* A stride is negative, or a stride in bytes is not a multiple of an element's size. Or a stride of computed scales
     * is 0 although its axis has more than one entry. [plan_create] */
    KVAPPEND_ERROR_STRIDE = 15,
    /* A number does not fit in 63 bits: the bytes of a tensor, of a rotary table or of an array of indices. Or the
     * distance between the first and the last byte of a tensor or of a table does not. [plan_create] */
    KVAPPEND_ERROR_OVERFLOW = 16,
    /* Strides make two rows of one tensor share memory: of a cache, of k_out, of v_out or of q_out. Or they do so for
     * two scales of a cache that are computed or moved [plan_create]. Or two tensors share memory [can_implement, run]:
     * k_cache and v_cache with an append or a move, k_out and v_out with a gather. The check is exact for all strides
     * that occur in practice. It gives up after 65536 steps for each tensor in plan_create (about a millisecond), and
     * after 256 steps for each pair of tensors in a run (a few microseconds). If it gives up, the strides are refused
     * as well, and the message says so. */
    KVAPPEND_ERROR_OVERLAP = 17,
    /* preference.kernel_name does not name a kernel of the backend, or that kernel does not support this problem.
     * [plan_create] */
    KVAPPEND_ERROR_KERNEL = 18,
    /* descriptor.lengths is not a KVAPPEND_LENGTHS_* value. [plan_create] */
    KVAPPEND_ERROR_LENGTHS = 19,

    /* This library was built without CUDA, or it has no kernel for the current device. [plan_create, run] */
    KVAPPEND_ERROR_UNSUPPORTED = 20,
    /* There is no CUDA device, or there is no CUDA driver. [plan_create, run] */
    KVAPPEND_ERROR_NO_DEVICE = 21,
    /* The CUDA driver is too old for this library, or it does not match the device. [plan_create, run] */
    KVAPPEND_ERROR_DRIVER = 22,
    /* A CUDA call failed. The message names the call and the error of CUDA. [plan_create, run] */
    KVAPPEND_ERROR_CUDA = 23,
    /* The current device is not the device on which the plan was created. [run] */
    KVAPPEND_ERROR_WRONG_DEVICE = 24,
    /* Host memory ran out. [plan_create, validate] */
    KVAPPEND_ERROR_OUT_OF_MEMORY = 25,

    /* A required buffer is NULL. [can_implement, run] */
    KVAPPEND_ERROR_NULL_BUFFER = 30,
    /* A buffer is smaller than its tensor, or it would reach the end of the address space. [can_implement, run] */
    KVAPPEND_ERROR_BUFFER_TOO_SMALL = 31,
    /* A buffer is not aligned to the size of its elements. [can_implement, run] */
    KVAPPEND_ERROR_MISALIGNED = 32,
    /* A buffer shares memory with a buffer that the run writes. An append writes the caches, the computed scales,
     * q_out, the report and the offsets that advance. A gather writes k_out, v_out and the report. A move writes the
     * caches, the scales that it moves and the report. A new tensor may lie in the gaps of a cache, and a cache in
     * those of a new tensor. They share memory only if an element belongs to both. The same holds for scales, q and
     * q_out. q_out may be q if Q is rotated in place: see ROTATION. This is checked as for KVAPPEND_ERROR_OVERLAP. An
     * array of indices, a rotary table, a global scale or a report may not lie in a gap. It and the buffer that it is
     * compared with count as the whole range from their first to their last element. The check compares addresses, so
     * it does not notice two virtual addresses of the same memory. [can_implement, run] */
    KVAPPEND_ERROR_ALIAS = 33,
    /* workspace is NULL although workspace_bytes is not 0. [run] */
    KVAPPEND_ERROR_WORKSPACE = 34,
    /* A stream was given to the host backend. [run] */
    KVAPPEND_ERROR_STREAM = 35,

    /* descriptor.flags has a bit that is not a KVAPPEND_FLAG_* value. [plan_create] */
    KVAPPEND_ERROR_FLAGS = 40,
    /* Two fields contradict each other. Or a field is set that the operation, the addressing, the storage or the
     * backend does not use. Or rotary->q_storage has a value that Q does not allow. The message names the fields.
     * [plan_create]
     */
    KVAPPEND_ERROR_CONFLICT = 41,
    /* descriptor.skip_policy is not a KVAPPEND_SKIP_* value. [plan_create] */
    KVAPPEND_ERROR_SKIP_POLICY = 42,
    /* descriptor.k_pack or v_pack is not a power of two, or it does not divide its dimension, or a piece is not a
     * number of whole bytes. [plan_create] */
    KVAPPEND_ERROR_PACK = 43,
    /* A row has a position but no place. run of the host backend returns this with KVAPPEND_SKIP_TRAP, validate with
     * every policy. [run, validate] */
    KVAPPEND_ERROR_SKIPPED = 44,
    /* lengths or page_indptr decreases, or it points outside the tensor or array that it divides. [validate] */
    KVAPPEND_ERROR_INDEX_ORDER = 45,
    /* A length, pad, block, page, sample or number of tokens is out of its range. [validate] */
    KVAPPEND_ERROR_INDEX_RANGE = 46,
    /* Two rows of an append go to the same place, or a sample of a move writes a place that another sample uses.
     * [validate] */
    KVAPPEND_ERROR_DUPLICATE = 47,

    /* preference.host_threads is negative or more than 1024, or the system cannot start more threads. With the CUDA
     * backend, more than one thread is a CONFLICT. [plan_create] */
    KVAPPEND_ERROR_HOST_THREADS = 48,

    /* An array of indices seems to have 64-bit elements, and the descriptor says 32 bits. [validate] */
    KVAPPEND_ERROR_INDEX_WIDTH = 49,
    /* descriptor.index_type is not a KVAPPEND_INDEX_* value. [plan_create] */
    KVAPPEND_ERROR_INDEX_TYPE = 50,

    /* A field of descriptor.k_storage, v_storage or rotary->q_storage is not one of its constants or is out of its
     * range [plan_create]. Or a preset is not a KVAPPEND_PRESET_* value [storage_preset]. */
    KVAPPEND_ERROR_STORAGE = 51,
    /* A scale that the run reads, or a global scale, is NaN, infinite, zero or negative. A computed scale may be zero.
     * [validate] */
    KVAPPEND_ERROR_SCALE = 52,
    /* descriptor.operation is not a KVAPPEND_OPERATION_* value [plan_create], or the plans of a call have different
     * operations [run_layers]. */
    KVAPPEND_ERROR_OPERATION = 53,
    /* A field of descriptor.rotary is not one of its constants or is out of its range. [plan_create] */
    KVAPPEND_ERROR_ROTARY = 54
};

/* Returns the name of the constant as text, such as "KVAPPEND_ERROR_ALIAS". For a number that is not a status, it
 * returns "unknown kvappend_status". The result is never NULL; it is a static string, valid while the library is
 * loaded. This function cannot fail. Legal under stream capture. */
KVAPPEND_API const char *kvappend_status_name(kvappend_status status);

#ifdef __cplusplus
}
#endif

#endif
