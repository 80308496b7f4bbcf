// SPDX-License-Identifier: Apache-2.0

// Package kvappend appends new K and V rows to the KV caches of LLM runtimes, by libkvappend. Its header,
// kvappend/kvappend.h, is the manual of what each setting means.
package kvappend

/*
#cgo pkg-config: kvappend
#include <kvappend/kvappend.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
	kvappend_status status;
	char *message;
} outcome;

// The message belongs to the thread, and a goroutine may be on another one at its next call: so it is fetched in this.
static outcome outcome_of(kvappend_status status) {
	const outcome result = {status, status == KVAPPEND_SUCCESS ? NULL : strdup(kvappend_last_error_message())};
	return result;
}

static outcome create(kvappend_descriptor descriptor, kvappend_preference preference, kvappend_plan **plan) {
	return outcome_of(kvappend_plan_create(&descriptor, &preference, plan));
}

// Go's pointers may be passed to C as arguments, but not inside of a struct: so the struct is put together here. They
// come as char *, which tells Go that there are no pointers behind them: for void * it would look, and object to a
// slice of an array that lies beside pointers in a larger struct.
static outcome run(const kvappend_plan *plan, kvappend_args sizes, const char *k_new, const char *v_new, char *k_cache,
                   char *v_cache, char *cache_offsets, const char *slots, const char *lengths, const char *left_pads,
                   const char *batch_index, const char *page_table, const char *page_indptr, kvappend_report *report,
                   struct CUstream_st *stream) {
	sizes.k_new = k_new;
	sizes.v_new = v_new;
	sizes.k_cache = k_cache;
	sizes.v_cache = v_cache;
	sizes.cache_offsets = cache_offsets;
	sizes.slots = slots;
	sizes.lengths = (const int32_t *)lengths;
	sizes.left_pads = (const int32_t *)left_pads;
	sizes.batch_index = (const int32_t *)batch_index;
	sizes.page_table = (const int32_t *)page_table;
	sizes.page_indptr = (const int32_t *)page_indptr;
	sizes.report = report;
	return outcome_of(kvappend_plan_run(plan, &sizes, NULL, 0, stream));
}
*/
import "C"

import "unsafe"

// Plan is a problem, checked, with the kernel chosen for it. Any number of goroutines may run one plan at once.
type Plan[T Element, O Offset] struct {
	plan    *C.kvappend_plan
	backend Backend
}

// Append holds the buffers of one run in Go's memory. What the plan does not ask for may be nil.
//
// A slice begins at element [0, 0, 0, 0] of its tensor and may be longer than that. K and V may lie in one pool.
type Append[T Element, O Offset] struct {
	KNew, VNew     []T
	KCache, VCache []T // written
	CacheOffsets   []O // written by a plan with Advance
	Slots          []O
	Lengths        []int32
	LeftPads       []int32
	BatchIndex     []int32
	PageTable      []int32
	PageIndptr     []int32
	Report         *Report // written by a plan with SkipReport
}

// Buffer is memory for RawAppend. Without bytes it is none.
type Buffer struct {
	Pointer unsafe.Pointer
	Bytes   int
}

// RawAppend holds the buffers of one run in memory that the plan's backend can reach, such as that of a device.
type RawAppend struct {
	KNew, VNew     Buffer
	KCache, VCache Buffer
	CacheOffsets   Buffer
	Slots          Buffer
	Lengths        Buffer
	LeftPads       Buffer
	BatchIndex     Buffer
	PageTable      Buffer
	PageIndptr     Buffer
	Report         unsafe.Pointer // to a kvappend_report
}

// Report tells what became of the rows of all runs that counted in it.
type Report struct {
	raw C.kvappend_report
}

// Written is the number of rows written, by plans with CountWritten.
func (r *Report) Written() int64 { return int64(r.raw.rows_written) }

// Replaced is the number of rows that a later row of the same run replaced.
func (r *Report) Replaced() int64 { return int64(r.raw.rows_replaced) }

// Padding is the number of rows of no sample, or of one that is left out.
func (r *Report) Padding() int64 { return int64(r.raw.rows_padding) }

// Below is the number of rows with a negative position.
func (r *Report) Below() int64 { return int64(r.raw.rows_below) }

// Above is the number of rows with a position that the cache does not have.
func (r *Report) Above() int64 { return int64(r.raw.rows_above) }

// First is the first row below or above, where there is one.
func (r *Report) First() (sample, row, position int64) {
	return int64(r.raw.first_sample), int64(r.raw.first_row), int64(r.raw.first_position)
}

// NewPlan makes a plan, which Close gives back.
func NewPlan[T Element, O Offset](d Descriptor) (*Plan[T, O], error) {
	descriptor := d.inC()
	descriptor.element_type = elementType[T]()
	descriptor.offset_type = offsetType[O]()
	preference := C.kvappend_preference{
		struct_size:  C.sizeof_kvappend_preference,
		host_threads: C.int32_t(d.HostThreads),
	}
	if d.KernelName != "" {
		preference.kernel_name = C.CString(d.KernelName)
		defer C.free(unsafe.Pointer(preference.kernel_name))
	}
	plan := &Plan[T, O]{backend: d.Backend}
	if err := failure(C.create(descriptor, preference, &plan.plan)); err != nil {
		return nil, err
	}
	return plan, nil
}

// Close ends the plan's life, after which runs fail. It must not overlap another use of the plan; closing it again does
// nothing.
func (p *Plan[T, O]) Close() error {
	plan := p.plan
	p.plan = nil
	return failure(C.outcome{status: C.kvappend_plan_destroy(plan)})
}

// Run appends in Go's memory: the rows are written when it returns. The slices' lengths are kept to.
func (p *Plan[T, O]) Run(a *Append[T, O]) error {
	if p.backend != Host {
		return &Error{ErrorBackend, "the plan is not of the host backend: expected RunRaw"}
	}
	raw := RawAppend{
		KNew:         buffer(a.KNew),
		VNew:         buffer(a.VNew),
		KCache:       buffer(a.KCache),
		VCache:       buffer(a.VCache),
		CacheOffsets: buffer(a.CacheOffsets),
		Slots:        buffer(a.Slots),
		Lengths:      buffer(a.Lengths),
		LeftPads:     buffer(a.LeftPads),
		BatchIndex:   buffer(a.BatchIndex),
		PageTable:    buffer(a.PageTable),
		PageIndptr:   buffer(a.PageIndptr),
		Report:       unsafe.Pointer(a.Report),
	}
	return p.RunRaw(&raw, nil)
}

// RunRaw appends in the order of a cudaStream_t; with the host backend the stream must be nil. A CUDA run may still be
// under way when this returns, which is no time to give Go's memory to it: use the device's.
func (p *Plan[T, O]) RunRaw(a *RawAppend, stream unsafe.Pointer) error {
	sizes := C.kvappend_args{
		struct_size:         C.sizeof_kvappend_args,
		k_new_bytes:         a.KNew.bytes(),
		v_new_bytes:         a.VNew.bytes(),
		k_cache_bytes:       a.KCache.bytes(),
		v_cache_bytes:       a.VCache.bytes(),
		cache_offsets_bytes: a.CacheOffsets.bytes(),
		slots_bytes:         a.Slots.bytes(),
		lengths_bytes:       a.Lengths.bytes(),
		left_pads_bytes:     a.LeftPads.bytes(),
		batch_index_bytes:   a.BatchIndex.bytes(),
		page_table_bytes:    a.PageTable.bytes(),
		page_indptr_bytes:   a.PageIndptr.bytes(),
		report_bytes:        C.sizeof_kvappend_report,
	}
	return failure(C.run(p.plan, sizes, a.KNew.pointer(), a.VNew.pointer(), a.KCache.pointer(), a.VCache.pointer(),
		a.CacheOffsets.pointer(), a.Slots.pointer(), a.Lengths.pointer(), a.LeftPads.pointer(), a.BatchIndex.pointer(),
		a.PageTable.pointer(), a.PageIndptr.pointer(), (*C.kvappend_report)(a.Report),
		(*C.struct_CUstream_st)(stream)))
}

// To the library 0 bytes are an unknown number: a buffer without bytes has to be NULL.
func (b Buffer) pointer() *C.char {
	if b.Bytes <= 0 {
		return nil
	}
	return (*C.char)(b.Pointer)
}

func (b Buffer) bytes() C.size_t {
	if b.Bytes <= 0 {
		return 0
	}
	return C.size_t(b.Bytes)
}

func buffer[E Element | Offset](s []E) Buffer {
	if len(s) == 0 {
		return Buffer{}
	}
	return Buffer{unsafe.Pointer(&s[0]), len(s) * int(unsafe.Sizeof(s[0]))}
}

func failure(o C.outcome) error {
	if o.status == C.KVAPPEND_SUCCESS {
		return nil
	}
	defer C.free(unsafe.Pointer(o.message))
	return &Error{Status(o.status), C.GoString(o.message)}
}
