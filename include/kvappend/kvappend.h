/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libkvappend: append new K and V rows to running KV caches.
 *
 * At each step of autoregressive decoding a model produces new K and V rows for every sample of a batch. This library
 * writes them into the caches, each sample at its own position. Describe the problem once (a plan), then run the plan
 * at every step:
 *
 *     kvappend_descriptor d = KVAPPEND_DESCRIPTOR_INIT;      what is the same at every step:
 *     d.backend = KVAPPEND_BACKEND_CUDA;
 *     d.element_type = KVAPPEND_ELEMENT_BF16;
 *     d.batch = 64, d.heads = 8, d.new_rows = 1;
 *     d.cache_rows = 4096, d.k_dim = d.v_dim = 128;
 *     kvappend_plan_create(&d, NULL, &plan);
 *
 *     kvappend_args a = KVAPPEND_ARGS_INIT;                  and the buffers of one step, all on the device:
 *     a.k_new = ..., a.v_new = ..., a.k_cache = ..., a.v_cache = ..., a.cache_offsets = ...;
 *     kvappend_plan_run(plan, &a, NULL, 0, stream);          for each layer, with that layer's buffers (or
 *                                                            kvappend_plan_run_layers for all of them at once)
 *                                                            then add 1 to every offset, and so on
 *     kvappend_plan_destroy(plan);
 *
 * WHAT A RUN DOES. B samples, H heads, L_new new rows a sample, caches of L_max rows, rows of D_k and D_v elements:
 *
 *     for all b, h, l, with pos = cache_offsets[b] + l and 0 <= pos < L_max:
 *         k_cache[b, h, pos, :] = k_new[b, h, l, :]
 *         v_cache[b, h, pos, :] = v_new[b, h, l, :]
 *
 * This is the dense append, what a zero-filled descriptor means. Three things can be varied, each by itself:
 *
 * - where a row comes from: by strides, and with KVAPPEND_LENGTHS_PACKED from one tensor of all samples' tokens;
 * - how many rows a sample has: see enum kvappend_lengths, and KVAPPEND_FLAG_LEFT_PADS;
 * - where a row goes: see enum kvappend_addressing, and KVAPPEND_FLAG_BATCH_INDEX.
 *
 * A row with no place in the cache is skipped, and every other row of the call is still written. No sum wraps around:
 * every 64-bit offset is legal. Arrays of indices are read by the backend at each run, never by the host before it, and
 * may hold anything: no value makes a run read or write outside the tensors and arrays, not even one that changes while
 * the run reads it (which leaves open what is copied). No other byte of the caches changes. The copy is of bits: the
 * payload of a NaN and the sign of a zero survive. cache_offsets is read and not written: the caller advances it, or
 * asks for that by KVAPPEND_FLAG_ADVANCE. What a run skipped it tells where descriptor.skip_policy asks for it, and
 * kvappend_plan_validate looks for faults in the arrays of indices.
 *
 * RAGGED BATCHES. Samples stand at positions of their own, and KVAPPEND_LENGTHS_* gives each its own number of rows. To
 * leave a sample out of a step without that, give it an offset of -L_new or less: then all its rows are skipped.
 *
 * MEMORY. With the CUDA backend every buffer, cache_offsets too, is memory which the kernel can reach (device, managed
 * or pinned memory); the host does not look at its contents. With the host backend every buffer is ordinary memory.
 * The library keeps no pointer beyond the call that received it, owns no buffer, and needs no workspace. But the kernel
 * that a run launches reads the new rows and the indices when its turn in the stream comes: until it is done, they must
 * stay valid and unchanged. So advance the offsets in the order of the stream (by a kernel or a copy in it), or wait.
 *
 * ERRORS. Each call returns a status. When it is not KVAPPEND_SUCCESS, nothing was written to any cache (one exception:
 * kvappend_plan_run and kvappend_plan_run_layers, where a launch behind another one fails: those before it are under
 * way), results passed back through pointers are NULL or zero, and kvappend_last_error_message() names the argument,
 * its value and what was expected. What goes wrong after a launch, such as an access to a buffer that the GPU cannot
 * reach, CUDA tells only later; so KVAPPEND_ERROR_CUDA may also bring the failure of earlier work on the device. What
 * cudaGetLastError tells is left to CUDA: the library neither asks for it nor clears it. One thing has no status: where
 * the process has no memory left for a thread's first message, the C library may end the process.
 *
 * THREADS. Every function may be called from any thread at any time, but for two rules of CUDA: nothing that makes a
 * CUDA call may be called from a callback of cudaLaunchHostFunc, and see CAPTURE. A plan never changes after its
 * creation: any number of threads may run one plan at once. Only destroying a plan must not overlap another use of it.
 *
 * SIGNALS, FORK. A signal may interrupt any call. Its handler may make runs of the host backend, also of the plan whose
 * run it interrupts (one that fails may garble the message of the thread), and must return: a call that is left by
 * longjmp, or by cancelling its thread asynchronously, leaves its plan unusable and its buffers in use. In a child
 * process, plans of the host backend work on, without their threads; those of the CUDA backend can be asked and
 * destroyed only, as CUDA does not work there. A child that a handler made in the middle of a run of a plan with
 * threads must not go on with that run.
 *
 * CAPTURE. Apart from kvappend_plan_create and kvappend_plan_validate, no function waits for a device, and each may be
 * called while a stream is captured, with one exception that is CUDA's: kvappend_plan_run and kvappend_plan_run_layers
 * must not be given the default stream while a capture of a stream that synchronises with it is under way; they would
 * fail, and break that capture. kvappend_plan_create and kvappend_plan_validate must not be called by a thread that
 * captures a stream, nor by any thread during a capture in cudaStreamCaptureModeGlobal.
 *
 * UNLOADING. Unload the library (dlclose) only when all that it launched is done, and no graph that holds a launch of
 * it will be replayed: kernels live in the library. So do the threads of plans with host_threads: destroy these first.
 * Another plan that is still alive then only loses its memory; nothing may be called with it any more.
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

/* No function throws: a C++ compiler that knows so needs no code for the case. */
#if defined(__GNUC__)
#define KVAPPEND_API __attribute__((visibility("default"), nothrow))
#else
#define KVAPPEND_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* CUDA's stream: cudaStream_t and CUstream are both pointers to it, so a stream passes unchanged. */
struct CUstream_st;

/* ---- status ---- */

/* What a call came to, by enum kvappend_status_code. */
typedef int32_t kvappend_status;
/* In brackets: which functions can say it; what run can say validate and run_layers can, too. */
enum kvappend_status_code {
    /* Done, or arranged in the stream. [all] */
    KVAPPEND_SUCCESS = 0,
    /* A struct, plan or result pointer that must be given is NULL. [all that take one] */
    KVAPPEND_ERROR_NULL_ARGUMENT = 1,
    /* struct_size is not a multiple of 8 from 8 to 4096, or a field that this library does not know is not zero.
     * [all that take a struct] */
    KVAPPEND_ERROR_STRUCT_SIZE = 2,
    /* The requested ABI is not the one that this library has. [get_api] */
    KVAPPEND_ERROR_ABI_VERSION = 3,

    /* descriptor.backend is no KVAPPEND_BACKEND_* [plan_create], or the plans of a call have different backends
     * [run_layers]. */
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
    /* A tensor's bytes, the distance between its first and last byte, or the bytes of an array of indices do not fit in
     * 63 bits. [plan_create] */
    KVAPPEND_ERROR_OVERFLOW = 16,
    /* Two rows of one cache share memory because of its strides [plan_create], or k_cache and v_cache share memory
     * [can_implement, run]. This is exact for all strides of practice: those for which the search for a shared byte is
     * given up, after 65536 steps (about a millisecond), are refused as well, and the message says so. */
    KVAPPEND_ERROR_CACHE_OVERLAP = 17,
    /* preference.kernel_name names no kernel of the backend, or one that does not serve this problem. [plan_create] */
    KVAPPEND_ERROR_KERNEL = 18,
    /* descriptor.lengths is no KVAPPEND_LENGTHS_*. [plan_create] */
    KVAPPEND_ERROR_LENGTHS = 19,

    /* This library was built without CUDA, or has no kernel for the current device. [plan_create, run] */
    KVAPPEND_ERROR_UNSUPPORTED = 20,
    /* There is no CUDA device, or no CUDA driver at all. [plan_create, run] */
    KVAPPEND_ERROR_NO_DEVICE = 21,
    /* The CUDA driver is too old for this library, or does not fit the device. [plan_create, run] */
    KVAPPEND_ERROR_DRIVER = 22,
    /* A CUDA call failed; the message names the call and CUDA's error. [plan_create, run] */
    KVAPPEND_ERROR_CUDA = 23,
    /* The device that is current is not the one the plan was created on. [run] */
    KVAPPEND_ERROR_WRONG_DEVICE = 24,
    /* Host memory ran out. [plan_create, validate] */
    KVAPPEND_ERROR_OUT_OF_MEMORY = 25,

    /* A buffer that is needed is NULL. [can_implement, run] */
    KVAPPEND_ERROR_NULL_BUFFER = 30,
    /* A buffer is smaller than its tensor, or would reach the end of the address space. [can_implement, run] */
    KVAPPEND_ERROR_BUFFER_TOO_SMALL = 31,
    /* A buffer is not aligned to its element. [can_implement, run] */
    KVAPPEND_ERROR_MISALIGNED = 32,
    /* The memory from the first to the last element of a new tensor, of an array of indices or of the report meets that
     * of a cache, or of another buffer that the run writes. This is told by addresses: two virtual addresses of the
     * same memory go unnoticed. [can_implement, run] */
    KVAPPEND_ERROR_ALIAS = 33,
    /* workspace is NULL although workspace_bytes is not 0. [run] */
    KVAPPEND_ERROR_WORKSPACE = 34,
    /* A stream was given to the host backend. [run] */
    KVAPPEND_ERROR_STREAM = 35,

    /* descriptor.flags has a bit that is no KVAPPEND_FLAG_*. [plan_create] */
    KVAPPEND_ERROR_FLAGS = 40,
    /* Two fields do not go together, or a field is set that its addressing does not use; the message names them.
     * [plan_create] */
    KVAPPEND_ERROR_CONFLICT = 41,
    /* descriptor.skip_policy is no KVAPPEND_SKIP_*. [plan_create] */
    KVAPPEND_ERROR_SKIP_POLICY = 42,
    /* descriptor.k_pack or v_pack is no power of two, or does not divide its dimension. [plan_create] */
    KVAPPEND_ERROR_PACK = 43,
    /* A row has a position but no place, which the plan's policy forbids. [run, host backend; validate] */
    KVAPPEND_ERROR_SKIPPED = 44,
    /* lengths or page_indptr decreases, or leads out of the tensor or array that it divides. [validate] */
    KVAPPEND_ERROR_INDEX_ORDER = 45,
    /* A length, pad, block or page index is out of its range. [validate] */
    KVAPPEND_ERROR_INDEX_RANGE = 46,
    /* Two rows go to the same place. [validate] */
    KVAPPEND_ERROR_DUPLICATE = 47,

    /* preference.host_threads is negative or more than 1024, or the system starts no more threads. [plan_create] */
    KVAPPEND_ERROR_HOST_THREADS = 48
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
enum kvappend_backend {
    KVAPPEND_BACKEND_HOST = 0, /* In host memory; run returns when the rows are written. */
    KVAPPEND_BACKEND_CUDA = 1  /* On a CUDA device, in the order of a stream; run returns when that is arranged. */
};

/* The type of one element of K and V. Only its width matters to the copy: 8-bit elements, of an even dimension, are
 * copied as half as many of 16 bits. */
enum kvappend_element_type {
    KVAPPEND_ELEMENT_F32 = 0, /* 4 bytes, IEEE 754 binary32 */
    KVAPPEND_ELEMENT_F64 = 1, /* 8 bytes, IEEE 754 binary64 */
    KVAPPEND_ELEMENT_F16 = 2, /* 2 bytes, IEEE 754 binary16 */
    KVAPPEND_ELEMENT_BF16 = 3 /* 2 bytes, bfloat16: the upper half of a binary32 */
};

/* The type of one element of cache_offsets and of slots. */
enum kvappend_offset_type {
    KVAPPEND_OFFSET_INT64 = 0, /* int64_t */
    KVAPPEND_OFFSET_INT32 = 1  /* int32_t */
};

/* How the place of a row is found in a cache [N, H, R, D], where N is cache_blocks and R is cache_rows. The block n is
 * a sample's cache, or a page. Row l of sample b has the position pos = cache_offsets[b] + l. */
enum kvappend_addressing {
    /* n = b (with KVAPPEND_FLAG_BATCH_INDEX batch_index[b]), row pos, if 0 <= pos < R. */
    KVAPPEND_ADDRESSING_DENSE = 0,
    /* The same, but positions from sink_rows on go round in the rows sink_rows to R - 1: a sliding window, whose
     * first sink_rows rows stay ("attention sinks", Xiao et al., 2023). Row pos below sink_rows, else sink_rows +
     * (pos - sink_rows) mod (R - sink_rows), or none if R = sink_rows. Of several rows of one call that come to the
     * same place the last one is written, and the others are skipped. Negative positions are skipped. With sink_rows
     * = 0 this is the mode "circular" of ONNX' TensorScatter. */
    KVAPPEND_ADDRESSING_RING = 1,
    /* Pages of R rows, by a table [B, table_entries]: n = page_table[b, pos / R], row pos mod R, if pos >= 0,
     * pos / R < table_entries and 0 <= n < N. As FlashAttention's block_table. Where K and V have page ids of their
     * own, as TensorRT-LLM's tables [B, 2, entries] have, make a plan of K alone and one of V alone, with table_stride.
     */
    KVAPPEND_ADDRESSING_PAGED = 2,
    /* The same with tables of different lengths, one behind the other: with i = page_indptr[b] + pos / R,
     * n = page_table[i], if page_indptr[b] <= i < page_indptr[b + 1], 0 <= i < table_entries and 0 <= n < N. As
     * FlashInfer's paged_kv_indptr and paged_kv_indices, which tell the state behind the append: cache_offsets[b] is
     * (indptr[b + 1] - indptr[b] - 1) * R + last_page_len[b] less the number of the sample's new rows. */
    KVAPPEND_ADDRESSING_PAGED_CSR = 3,
    /* Pages of R rows, by a slot for each row: n = slots[l] / R, row slots[l] mod R, if slots[l] >= 0 and n < N. As
     * vLLM's slot_mapping. There are no samples: batch must be 1 and new_rows is the number T of tokens. More slots
     * than tokens, or a source of more tokens than slots, are no matter: T is the lesser number. Contiguous new tensors
     * are [T, H, D]. */
    KVAPPEND_ADDRESSING_SLOTS = 4
};

/* How many rows each sample has, and so what new_rows (L_new) counts. */
enum kvappend_lengths {
    /* Each sample has L_new rows, in tensors [B, H, L_new, D]. */
    KVAPPEND_LENGTHS_FIXED = 0,
    /* Sample b has lengths[b] rows, at most L_new, in tensors [B, H, L_new, D]; a negative length is none. What lies
     * behind them is padding, and skipped. */
    KVAPPEND_LENGTHS_PER_SAMPLE = 1,
    /* Sample b has the rows lengths[b] <= t < lengths[b + 1] of tensors [T, H, D], where T is new_rows: lengths is
     * known as cu_seqlens. A length beyond T counts as T, a negative one as 0. Rows outside every sample are padding,
     * and skipped; lengths must not decrease, else rows may be skipped or taken for another sample's. In the stride
     * arrays the row axis is that of tokens, and the batch axis is not used; all zero means contiguous [T, H, D]. */
    KVAPPEND_LENGTHS_PACKED = 2
};

/* Bits of descriptor.flags. */
enum kvappend_flag {
    /* args.batch_index [B] says which block of the cache is a sample's, with DENSE and RING. A sample whose index is
     * negative, or not below cache_blocks, is skipped. */
    KVAPPEND_FLAG_BATCH_INDEX = 1,
    /* args.left_pads [B] says how many rows of padding a sample begins with; a negative number is none. They are
     * skipped, and the row behind them is the sample's row 0, which goes to cache_offsets[b] (padding in the new
     * rows, not in the cache). KVAPPEND_LENGTHS_PER_SAMPLE counts from that row on. */
    KVAPPEND_FLAG_LEFT_PADS = 2,
    /* There is no args.cache_offsets: every offset is 0. */
    KVAPPEND_FLAG_ZERO_OFFSETS = 4,
    /* The slot descriptor.reserved_slot is padding, with SLOTS. */
    KVAPPEND_FLAG_RESERVED_SLOT = 8,
    /* After the copy, cache_offsets[b] grows by the number of the sample's rows, skipped ones too, or to the
     * greatest value of its type. But a sample that is left out, by a negative batch_index or because all its rows
     * have negative positions, keeps its offset. No row of the call is placed by a grown offset. Costs a further
     * launch, of one thread a sample, behind the copy; args.cache_offsets is then written, and must be memory that
     * the caller may write. With several layers, give it to the plan of the last one. */
    KVAPPEND_FLAG_ADVANCE = 16,
    /* The report is set to zero before the rows of this run are counted, which costs a launch of one thread. Else runs
     * add to it. */
    KVAPPEND_FLAG_RESET_REPORT = 32,
    /* The report counts the rows that were written, too. */
    KVAPPEND_FLAG_COUNT_WRITTEN = 64,
    /* CUDA backend: the copy is launched by programmatic dependent launch (the CUDA programming guide's name; the
     * attribute cudaLaunchAttributeProgrammaticStreamSerialization). It may start while the kernel before it in the
     * stream still runs, finds out what is to be copied where, and waits for that kernel's end before it touches any
     * buffer. A kernel behind it that is launched in the same way may start early, too, and must itself wait
     * (cudaGridDependencySynchronize) before it reads a cache, and before it writes what this one reads: new rows and
     * indices. What is copied does not change. Without effect below compute capability 9.0, and where the driver made
     * the kernel for the device from PTX for less than that. */
    KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH = 128
};

/* What happens when a row has a position but no place: it lies below the cache (a negative position) or above it (all
 * else: behind the last row or the last page of the sample's table; on a page or in a block that does not exist).
 * Padding has no position, and is never at fault. */
enum kvappend_skip {
    /* It is skipped, and nothing else. Costs nothing. */
    KVAPPEND_SKIP_SILENTLY = 0,
    /* It is skipped, and args.report says so. CUDA: costs two small launches behind the copy, which is as fast as
     * without them: one finds the place of each row once more and writes nothing unless it has something to count, the
     * other names the first row. Host: costs finding each place once more. Legal under stream capture. */
    KVAPPEND_SKIP_REPORT = 1,
    /* Host: run fails with KVAPPEND_ERROR_SKIPPED before anything is written; costs finding each place once more. CUDA:
     * the other rows have been written when a small launch behind the copy stops the device with a trap: the next
     * synchronising call of CUDA returns cudaErrorLaunchFailure, and the process' CUDA context is lost. For debugging.
     */
    KVAPPEND_SKIP_TRAP = 2
};

/* The meaning of the three entries of a stride array. */
enum kvappend_axis {
    KVAPPEND_AXIS_BATCH = 0, /* of a cache: the block, which is a sample's cache or a page */
    KVAPPEND_AXIS_HEAD = 1,  /* of K and V */
    KVAPPEND_AXIS_ROW = 2    /* of a new tensor: l, or the token; of a cache: the row in its block */
};

/* What is the same at every run of a plan. All zero is legal: a plan of the host backend with nothing to copy.
 *
 * Extents are counts and may be 0: then the tensors concerned are empty, and there is nothing to do for them, which is
 * success. A plan with nothing to copy does nothing else either: it counts no rows and advances no offset. L_new may
 * exceed L_max. B * H * L * D times the bytes of an element must fit in 63 bits for each tensor, and so must the bytes
 * of each array of indices.
 *
 * Strides are in elements, from one entry of an axis to the next; the elements of a row are adjacent (the head
 * dimension has stride 1). An array whose three entries are all zero means the contiguous tensor [B, H, L, D] (of new
 * rows by token, [T, H, D]). In any other array each entry is taken as it is. So a tensor [B, L, H, D] has the strides
 * { L*H*D, D, H*D }. In a fused projection, each token of which is one row of R = H_q*D_k + H*D_k + H*D_v elements (its
 * queries, its K, its V), K has the strides { L*R, D_k, R } and a base pointer H_q*D_k elements into the row; V has {
 * L*R, D_v, R } and a base pointer (H_q + H)*D_k elements into it.
 *
 * A stride of a new tensor may be 0: one row, repeated along that axis, as a broadcast or expanded tensor has it. (One
 * row for all three axes at once cannot be said that way, as three zeros mean contiguous: give an axis of extent 1, if
 * there is one, a stride other than 0.) The rows of a cache must not overlap (not checked where there is nothing to
 * copy). The stride of an axis whose extent is 0 or 1 does not matter, but must not be negative.
 *
 * Mind that contiguous caches have the head axis outside ("HND"). A cache with tokens outside ("NHD": [N, R, H, D], as
 * vLLM's and FlashAttention's pages) has the strides { R*H*D, D, H*D }. With a pack, the stride of rows is the pack as
 * a rule, and the elements of a piece are adjacent.
 *
 * With DLPack: a tensor [B, H, L, D] gives shape[] to the extents and strides[0..2] to the stride array (three zeros
 * where strides is NULL), if strides[3] is 1 and not all of strides[0..2] are 0; the pointer is data + byte_offset. */
typedef struct kvappend_descriptor {
    size_t struct_size;
    int32_t backend;      /* KVAPPEND_BACKEND_* */
    int32_t element_type; /* KVAPPEND_ELEMENT_*, of all four tensors */
    int32_t offset_type;  /* KVAPPEND_OFFSET_*, of cache_offsets and slots */
    int32_t addressing;   /* KVAPPEND_ADDRESSING_* */

    int64_t batch;      /* B: samples */
    int64_t heads;      /* H: K/V heads */
    int64_t new_rows;   /* L_new: new rows of each sample; T with LENGTHS_PACKED and ADDRESSING_SLOTS */
    int64_t cache_rows; /* R: rows that each sample's cache holds (L_max), or each page */
    int64_t k_dim;      /* D_k: elements of a K row; 0: there is no K */
    int64_t v_dim;      /* D_v: elements of a V row; 0: there is no V */

    int64_t k_new_strides[3];   /* by KVAPPEND_AXIS_*, of k_new [B, H, L_new, D_k] */
    int64_t v_new_strides[3];   /* of v_new [B, H, L_new, D_v] */
    int64_t k_cache_strides[3]; /* of k_cache [N, H, R, D_k] */
    int64_t v_cache_strides[3]; /* of v_cache [N, H, R, D_v] */

    int32_t lengths;       /* KVAPPEND_LENGTHS_* */
    int32_t flags;         /* KVAPPEND_FLAG_*, or'ed */
    int64_t cache_blocks;  /* N. DENSE and RING: samples' caches, 0 meaning B; others: pages, at least 1 */
    int64_t sink_rows;     /* RING: rows that stay, 0 to R */
    int64_t table_entries; /* PAGED: page ids of each sample; PAGED_CSR: page ids in all */
    int64_t table_stride;  /* PAGED: elements of page_table from sample to sample; 0 meaning table_entries */
    int64_t reserved_slot; /* SLOTS, with KVAPPEND_FLAG_RESERVED_SLOT */

    /* A row of a cache may consist of pieces of so many elements each, a power of two that divides the dimension: the
     * cache is then [N, H, D/pack, R, pack]. 0: rows are contiguous. vLLM's classic layout has
     * k_pack = 16 / (bytes of an element) and v_pack = 1 (which costs a store for each element). The piece strides are
     * the elements from piece to piece of a row; they count where the cache's strides are not all zero. */
    int64_t k_pack;
    int64_t v_pack;
    int64_t k_piece_stride;
    int64_t v_piece_stride;

    int32_t skip_policy; /* KVAPPEND_SKIP_* */
    int32_t reserved;    /* must be 0 */
} kvappend_descriptor;

/* Wishes about how a plan does its work; none changes what is copied. */
typedef struct kvappend_preference {
    size_t struct_size;
    /* The kernel to use, by its name in the kernel table (kvappend_kernel_name), as a NUL-terminated string that is
     * read during plan creation only. NULL: the library chooses. For measuring and testing. */
    const char *kernel_name;
    /* Host backend: so many threads, the one that calls run among them, share the copying of a large run; 0 and 1 mean
     * the calling thread alone. At most 1024; with the CUDA backend at most 1. The other threads are started by plan
     * creation, belong to the plan and end with it; in between they sleep, with all signals blocked. A run wakes them
     * when it has at least 8 MiB to copy and they are not at another run of the plan: else its thread works alone,
     * so that any number of threads may still run one plan at once. It waits for nothing but the parts that others have
     * begun; so a plan still works in a child process after fork, where they do not exist. What is written does not
     * depend on the number of threads. */
    int32_t host_threads;
    int32_t reserved; /* must be 0 */
} kvappend_preference;

/* The buffers of one run. Each is given by a pointer to element [0, 0, 0, 0] and the number of bytes that may be
 * accessed from there on. A size of 0 means unknown, and is not checked; any other must cover the tensor up to its
 * last element. A pointer must be aligned to its element. The buffer of a tensor without elements may be NULL, and all
 * may be NULL when there is nothing to do.
 *
 * What a run writes (the caches, the report, offsets that it advances) must not meet any other buffer of the call, from
 * the first to the last element of each. But k_cache and v_cache may be interleaved (one pool for both), as long as no
 * element belongs to both. */
typedef struct kvappend_args {
    size_t struct_size;
    const void *k_new; /* [B, H, L_new, D_k], read */
    size_t k_new_bytes;
    const void *v_new; /* [B, H, L_new, D_v], read */
    size_t v_new_bytes;
    void *k_cache; /* [N, H, R, D_k], written in place */
    size_t k_cache_bytes;
    void *v_cache; /* [N, H, R, D_v], written in place */
    size_t v_cache_bytes;
    /* [B], contiguous: the position of each sample's row 0; read, and with FLAG_ADVANCE written. Not with SLOTS. */
    void *cache_offsets;
    size_t cache_offsets_bytes;
    /* What the descriptor asks for, contiguous and read; else ignored. These are int32, but for slots. */
    const void *slots; /* [T], of the descriptor's offset_type: SLOTS */
    size_t slots_bytes;
    const int32_t *lengths; /* [B]: LENGTHS_PER_SAMPLE; [B + 1]: LENGTHS_PACKED */
    size_t lengths_bytes;
    const int32_t *left_pads; /* [B]: FLAG_LEFT_PADS */
    size_t left_pads_bytes;
    const int32_t *batch_index; /* [B]: FLAG_BATCH_INDEX */
    size_t batch_index_bytes;
    const int32_t *page_table; /* [B, table_entries], by table_stride: PAGED; [table_entries]: PAGED_CSR */
    size_t page_table_bytes;
    const int32_t *page_indptr; /* [B + 1]: PAGED_CSR */
    size_t page_indptr_bytes;
    struct kvappend_report *report; /* read and written: SKIP_REPORT */
    size_t report_bytes;
} kvappend_args;

/* What became of the rows of all runs since the report was zero. A row counts once, with all its heads of K and of V.
 * The report lives where the caches live, 8-byte aligned; set it to zero before its first use, or let a run do so by
 * KVAPPEND_FLAG_RESET_REPORT. Two runs must not use one report at the same time; the host may read it when the stream
 * has come past the run. args.report_bytes says how much of it there is: 0 means the fields below, and fields of later
 * releases will be written only where report_bytes covers them. */
typedef struct kvappend_report {
    size_t struct_size;    /* the caller's: neither read nor written */
    int64_t rows_written;  /* counted with KVAPPEND_FLAG_COUNT_WRITTEN */
    int64_t rows_replaced; /* RING: by a later row of the same run */
    int64_t rows_padding;  /* of no sample, or of one with a negative batch_index; with a negative or reserved slot */
    int64_t rows_below;    /* with a negative position */
    int64_t rows_above;    /* with a position that the cache does not have */
    /* The first row below or above, where there is one: of the first run that had any, the least sample (0 with SLOTS),
     * and of that the least row l (with SLOTS the token), and its position (the slot; at most INT64_MAX). */
    int64_t first_sample;
    int64_t first_row;
    int64_t first_position;
    int64_t state[2]; /* the library's own */
} kvappend_report;

/* clang-format off */
#define KVAPPEND_DESCRIPTOR_INIT                                                                                       \
    { sizeof(kvappend_descriptor), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0},           \
      0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define KVAPPEND_PREFERENCE_INIT                                                                                       \
    { sizeof(kvappend_preference), NULL, 0, 0 }
#define KVAPPEND_ARGS_INIT                                                                                             \
    { sizeof(kvappend_args), NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0,                                              \
      NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0, NULL, 0 }
#define KVAPPEND_REPORT_INIT                                                                                           \
    { sizeof(kvappend_report), 0, 0, 0, 0, 0, 0, 0, 0, {0, 0} }
/* clang-format on */

/* The same for callers without macros: set *s to zero, as far as struct_size bytes go, and its struct_size to
 * struct_size, which is the size of the struct as the caller knows it. Fails with KVAPPEND_ERROR_NULL_ARGUMENT, or with
 * KVAPPEND_ERROR_STRUCT_SIZE when the size is no legal one; *s is then left alone. Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_descriptor_init(kvappend_descriptor *s, size_t struct_size);
KVAPPEND_API kvappend_status kvappend_preference_init(kvappend_preference *s, size_t struct_size);
KVAPPEND_API kvappend_status kvappend_args_init(kvappend_args *s, size_t struct_size);
KVAPPEND_API kvappend_status kvappend_report_init(kvappend_report *s, size_t struct_size); /* s in host memory */

/* ---- plans ---- */

/* A problem, checked, with the kernel chosen for it. */
typedef struct kvappend_plan kvappend_plan;

/* Checks *descriptor, chooses a kernel by *preference (NULL: no wishes) and puts a new plan in *plan, which the caller
 * gives back with kvappend_plan_destroy. Neither struct is kept.
 *
 * A plan is small and quick to make, but not free: keep one for each shape that recurs, such as one for decoding steps
 * and one for each padded length of prompts.
 *
 * CUDA backend: the plan belongs to the device that is current for the calling thread, in its primary context. All that
 * CUDA does lazily happens here (that context, loading the kernel), so this call may synchronise with the device, and
 * may not be made during some captures: see CAPTURE. Where there is neither device nor driver it fails with
 * KVAPPEND_ERROR_NO_DEVICE.
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
 * CUDA backend: stream is the stream to work in; NULL is CUDA's legacy default stream, also in programs compiled for a
 * default stream per thread, whose stream is the handle cudaStreamPerThread. The plan's device must be current and must
 * be the stream's. One kernel is launched for all of K and V, or none when there is nothing to do, and further ones
 * only where ADVANCE, REPORT or TRAP ask for them; should one of those fail to launch, the copy is under way all the
 * same. The call allocates nothing and synchronises with nothing; it is legal while the stream is being captured, and
 * the graph then replays the copy with these pointers and the offsets that the memory holds at each replay. The buffers
 * must stay valid, and what is read unchanged, until the stream has come past the kernel.
 *
 * Host backend: stream must be NULL. The rows are written when the call returns, by the calling thread and, where
 * preference.host_threads asks for them, by others. Without others a run makes no allocation, lock or system call.
 *
 * Two runs that write the same cache rows at once leave those rows in an undefined state. So do two rows of one run
 * with the same place (a slot, page or batch index given twice), but for those of a ring: such a row holds bytes of
 * one, or of each in part. Padding slots that all name one place belong under KVAPPEND_FLAG_RESERVED_SLOT. */
KVAPPEND_API kvappend_status kvappend_plan_run(const kvappend_plan *plan, const kvappend_args *args, void *workspace,
                                               size_t workspace_bytes, struct CUstream_st *stream);

/* Several appends as one, such as those of all layers, for callers who hold the rows of all of them: when speculated
 * tokens are accepted, a chunk of a prompt is done, or a cache is brought in. plans[i] and args[i] are what run would
 * be given for append i; the arrays and structs are read during the call only. A plan may stand there any number of
 * times, and plans may differ in all but their backend (KVAPPEND_ERROR_BACKEND) and device. layers = 0 is nothing to
 * do, and then both arrays may be NULL.
 *
 * All appends are checked first, as by run; when one is refused nothing has been written, and the message begins with
 * "layer i: ". Where a launch fails that is not the first, what was launched before it is under way. Apart from each
 * other they must not share memory where one writes, but for what they all may read or count in (indices, and the
 * report): a row of two appends with one place is undefined, and this is not checked. All rows are placed and
 * counted by the offsets as they are before the call; then the appends that advance do so, one after the other.
 *
 * CUDA backend: up to 80 appends go in one launch, if they have no more than two geometries, that is, pairs of a plan
 * and arrays of indices (layers with a sliding window and layers without make two); more take as many launches as that
 * comes to, in the given order; should one of these fail, those before it are under way. If every plan is a plain dense
 * one ([B, H, L, D] rows by cache_offsets alone), rows are copied in runs, else row by row. The kernel is one for
 * several layers ("cuda_dense_layers_b16", "cuda_rows_layers_b16"), whichever the plans have by themselves. The flag
 * PROGRAMMATIC_LAUNCH counts for a launch where all its plans have it. Else the same holds as for run. Legal under
 * stream capture.
 *
 * Host backend: the appends are done one after the other. */
KVAPPEND_API kvappend_status kvappend_plan_run_layers(const kvappend_plan *const *plans,
                                                      const kvappend_args *const *args, size_t layers, void *workspace,
                                                      size_t workspace_bytes, struct CUstream_st *stream);

/* The first fault that validate found. Filled by the library; the caller sets struct_size. All zero but for struct_size
 * where there is none. */
typedef struct kvappend_fault {
    size_t struct_size;
    const char *array; /* the argument at fault, such as "page_table", or NULL for a place; a static string */
    int64_t index;     /* of its element at fault */
    int64_t value;     /* of that element */
    int64_t sample;    /* DUPLICATE, SKIPPED: the row at fault */
    int64_t row;
    int64_t position;
    int64_t other_sample; /* DUPLICATE: the earlier row with the same place */
    int64_t other_row;
} kvappend_fault;

#define KVAPPEND_FAULT_INIT                                                                                            \
    { sizeof(kvappend_fault), NULL, 0, 0, 0, 0, 0, 0, 0 }

KVAPPEND_API kvappend_status kvappend_fault_init(kvappend_fault *s, size_t struct_size);

/* Checks what run does not: the contents of the arrays of indices, for a call with these arguments. For development and
 * tests; its time is proportional to n log n for n rows. It looks, in this order, for
 * - KVAPPEND_ERROR_INDEX_ORDER: lengths (PACKED) or page_indptr that decreases, begins below 0, or ends beyond T or
 *   table_entries;
 * - KVAPPEND_ERROR_INDEX_RANGE: a pad or a length that is negative or more than the rows there are, a batch_index not
 *   below cache_blocks; then an entry of page_table that a row needs and that is no page of the cache;
 * - KVAPPEND_ERROR_SKIPPED: a row with a position below or above its cache (see enum kvappend_skip). Samples left out
 *   by an offset are found, too: leave them out by their length;
 * - KVAPPEND_ERROR_DUPLICATE: two rows with the same place, but for rows that a ring replaces;
 * and returns the first of these statuses that applies, with *fault (which may be NULL) saying where. Before all these
 * comes what can_implement refuses, and a wrong stream or device; with nothing to copy there is no fault. Nothing is
 * written to a cache, an offset or a report.
 *
 * workspace is as for run: none is needed. CUDA backend: the arrays are copied to host memory in the stream, which is
 * then waited for: not legal under stream capture. It needs host memory for that copy and 40 bytes a row
 * (KVAPPEND_ERROR_OUT_OF_MEMORY). The plan's device must be current. */
KVAPPEND_API kvappend_status kvappend_plan_validate(const kvappend_plan *plan, const kvappend_args *args,
                                                    void *workspace, size_t workspace_bytes, struct CUstream_st *stream,
                                                    kvappend_fault *fault);

/* Ends a plan's life. NULL is allowed and does nothing. Launches already made are not disturbed: a kernel keeps nothing
 * of the plan. Waits for the plan's own threads to end, where it has any. Makes no CUDA call, and always succeeds.
 * Legal under stream capture. */
KVAPPEND_API kvappend_status kvappend_plan_destroy(kvappend_plan *plan);

/* ---- what was chosen ---- */

/* What a plan does. */
enum kvappend_operation {
    KVAPPEND_OPERATION_DENSE_APPEND = 1, /* The append of KVAPPEND_ADDRESSING_DENSE. */
    KVAPPEND_OPERATION_RING_APPEND = 2,  /* of KVAPPEND_ADDRESSING_RING */
    KVAPPEND_OPERATION_PAGED_APPEND = 3, /* of KVAPPEND_ADDRESSING_PAGED and _PAGED_CSR */
    KVAPPEND_OPERATION_SLOT_APPEND = 4   /* of KVAPPEND_ADDRESSING_SLOTS */
};

/* What a plan is made of. Filled by the library; the caller sets struct_size. */
typedef struct kvappend_sku {
    size_t struct_size;
    int32_t operation;    /* KVAPPEND_OPERATION_* */
    int32_t backend;      /* KVAPPEND_BACKEND_* */
    int32_t element_type; /* KVAPPEND_ELEMENT_* */
    int32_t architecture; /* CUDA: ten times the device's compute capability, such as 90; host: 0 */
    /* CUDA: bytes of one load or store of K and of V when the pointers are aligned to as much (16, 8, 4, 2 or 1; less
     * aligned pointers get the widest that they allow); 0 for an absent tensor. Host: 0. */
    int32_t k_vector_bytes;
    int32_t v_vector_bytes;
    const char *kernel_name; /* in the kernel table; a static string, valid while the library is loaded */
} kvappend_sku;

/* What a plan promises of the values that it writes. Filled by the library; the caller sets struct_size. */
typedef struct kvappend_precision_guarantee {
    size_t struct_size;
    int32_t bit_exact; /* 1: every written element has the bits of its source, NaN payloads and -0 too */
    int32_t
        deterministic; /* 1: the same call on the same memory leaves the same bytes, if no two rows have one place */
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
    kvappend_status (*report_init)(kvappend_report *s, size_t struct_size);
    kvappend_status (*fault_init)(kvappend_fault *s, size_t struct_size);
    kvappend_status (*plan_validate)(const kvappend_plan *plan, const kvappend_args *args, void *workspace,
                                     size_t workspace_bytes, struct CUstream_st *stream, kvappend_fault *fault);
    kvappend_status (*plan_run_layers)(const kvappend_plan *const *plans, const kvappend_args *const *args,
                                       size_t layers, void *workspace, size_t workspace_bytes,
                                       struct CUstream_st *stream);
} kvappend_api;

/* Puts a pointer to the library's table in *api: static memory, valid while the library is loaded. abi_version is the
 * caller's KVAPPEND_ABI_VERSION; a library of another ABI fails with KVAPPEND_ERROR_ABI_VERSION, and *api is NULL. */
KVAPPEND_API kvappend_status kvappend_get_api(uint32_t abi_version, const kvappend_api **api);

#ifdef __cplusplus
}
#endif

#endif
