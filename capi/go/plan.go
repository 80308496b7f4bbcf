// SPDX-License-Identifier: Apache-2.0

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

// The message belongs to the thread, and a goroutine may be on another thread at its next call. Therefore the message
// is fetched in the same call.
static outcome outcome_of(kvappend_status status) {
	const outcome result = {status, status == KVAPPEND_SUCCESS ? NULL : strdup(kvappend_last_error_message())};
	return result;
}

// One of several layers, with a link to the layer before it.
typedef struct layer {
	const kvappend_plan *plan;
	const kvappend_args *args;
	const struct layer *before;
} layer;

extern void kvappendGoRest(uintptr_t rest, void *last, void *result);

static outcome create(kvappend_descriptor descriptor, kvappend_preference preference, const kvappend_storage *k_storage,
                      const kvappend_storage *v_storage, const kvappend_rotary *rotary,
                      const kvappend_storage *q_storage, kvappend_plan **plan) {
	descriptor.k_storage = k_storage;
	descriptor.v_storage = v_storage;
	kvappend_rotary rotary_of_q = KVAPPEND_ROTARY_INIT;
	if (rotary != NULL) {
		rotary_of_q = *rotary;
		rotary_of_q.q_storage = q_storage;
		descriptor.rotary = &rotary_of_q;
	}
	return outcome_of(kvappend_plan_create(&descriptor, &preference, plan));
}

static outcome get_preset(int32_t preset, kvappend_storage *storage) {
	return outcome_of(kvappend_storage_preset(preset, storage, sizeof *storage));
}

static outcome get_precision_guarantee(const kvappend_plan *plan, kvappend_precision_guarantee *guarantee) {
	return outcome_of(kvappend_plan_get_precision_guarantee(plan, guarantee));
}

static outcome get_sku(const kvappend_plan *plan, kvappend_sku *sku) {
	return outcome_of(kvappend_plan_get_sku(plan, sku));
}

// Pointers to Go's memory may be passed to C as arguments, but not inside a struct. Therefore the struct is filled
// here. The type char * tells Go that the memory holds no pointers. With void *, Go would search the memory for
// pointers. It would refuse a slice of an array that lies next to pointers in a larger struct.
//
// C may keep them only until its function returns. Therefore, if they belong to one of several layers, this function
// keeps the struct on its stack and calls Go for the other layers (kvappendGoRest).
static outcome run(const kvappend_plan *plan, kvappend_args sizes, const char *k_new, const char *v_new, char *k_cache,
                   char *v_cache, char *k_out, char *v_out, char *cache_offsets, const char *slots,
                   const char *from_slots, const char *lengths, const char *left_pads, const char *batch_index,
                   const char *page_table, const char *page_indptr, const char *token_samples,
                   const char *token_positions, const char *token_count, char *k_scales, char *v_scales,
                   const char *k_global_scale, const char *v_global_scale, const char *rotary_cos,
                   const char *rotary_sin, const char *positions, const char *q, char *q_out, const char *q_scales,
                   kvappend_report *report, struct CUstream_st *stream, int validate, const layer *before,
                   uintptr_t rest) {
	sizes.k_new = k_new;
	sizes.v_new = v_new;
	sizes.k_cache = k_cache;
	sizes.v_cache = v_cache;
	sizes.k_out = k_out;
	sizes.v_out = v_out;
	sizes.cache_offsets = cache_offsets;
	sizes.slots = slots;
	sizes.from_slots = from_slots;
	sizes.lengths = lengths;
	sizes.left_pads = left_pads;
	sizes.batch_index = batch_index;
	sizes.page_table = page_table;
	sizes.page_indptr = page_indptr;
	sizes.token_samples = token_samples;
	sizes.token_positions = token_positions;
	sizes.token_count = token_count;
	sizes.k_scales = k_scales;
	sizes.v_scales = v_scales;
	sizes.k_global_scale = (const float *)k_global_scale;
	sizes.v_global_scale = (const float *)v_global_scale;
	sizes.rotary_cos = rotary_cos;
	sizes.rotary_sin = rotary_sin;
	sizes.positions = positions;
	sizes.q = q;
	sizes.q_out = q_out;
	sizes.q_scales = q_scales;
	sizes.report = report;
	if (validate) {
		return outcome_of(kvappend_plan_validate(plan, &sizes, NULL, 0, stream, NULL));
	}
	if (rest == 0) {
		return outcome_of(kvappend_plan_run(plan, &sizes, NULL, 0, stream));
	}
	layer here = {plan, &sizes, before};
	outcome result;
	kvappendGoRest(rest, &here, &result);
	return result;
}

static outcome run_layers(const layer *last, size_t count, struct CUstream_st *stream) {
	const kvappend_plan *plans[count + 1]; // an array in C has at least one element
	const kvappend_args *args[count + 1];
	for (size_t i = count; i-- > 0; last = last->before) {
		plans[i] = last->plan;
		args[i] = last->args;
	}
	return outcome_of(kvappend_plan_run_layers(plans, args, count, NULL, 0, stream));
}
*/
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// Plan is a checked problem, together with the kernel chosen for it. Any number of goroutines may run one plan at once.
type Plan[T Element, O Offset, I Index] struct {
	plan    *C.kvappend_plan
	backend Backend
}

// Append holds the buffers of one append in Go's memory. Buffers that the plan does not use may be nil.
//
// A slice begins at element [0, 0, 0, 0] of its tensor and may be longer than that. K and V may lie in one pool.
type Append[T Element, O Offset, I Index] struct {
	KNew, VNew     []T
	KCache, VCache []T // written
	CacheOffsets   []O // written by a plan with Advance
	Slots          []O
	Lengths        []I
	LeftPads       []I
	BatchIndex     []I
	PageTable      []I
	PageIndptr     []I
	TokenSamples   []I
	TokenPositions []O
	TokenCount     []I // one element

	// The caches with a storage, in bytes, instead of KCache and VCache. Bytes gives the bytes of other slices.
	KStored, VStored []uint8
	KScales, VScales []uint8 // written by a plan that computes them
	KGlobalScale     []float32
	VGlobalScale     []float32

	// For a plan that rotates. The tables are in bytes, as scales are. Without QOut and QStored, Q is rotated in place,
	// and the run writes it. QStored is in bytes, with a storage, instead of QOut.
	RotaryCos, RotarySin []uint8
	Positions            []O // by a plan with Positions
	Q                    []T
	QOut                 []T     // written
	QStored              []uint8 // written
	QScales              []uint8

	Report *Report // written by a plan with SkipReport
}

// Gather holds the buffers of one gather in Go's memory, in the same way. The caches and their scales are only read.
type Gather[T Element, O Offset, I Index] struct {
	KCache, VCache []T
	KOut, VOut     []T // written
	CacheOffsets   []O
	Slots          []O
	Lengths        []I
	LeftPads       []I
	BatchIndex     []I
	PageTable      []I
	PageIndptr     []I
	TokenSamples   []I
	TokenPositions []O
	TokenCount     []I // one element

	// The caches with a storage, in bytes, instead of KCache and VCache.
	KStored, VStored []uint8
	KScales, VScales []uint8
	KGlobalScale     []float32
	VGlobalScale     []float32

	Report *Report // written by a plan with SkipReport
}

// Move holds the buffers of one move in Go's memory, in the same way.
type Move[T Element, O Offset, I Index] struct {
	KCache, VCache []T // written
	FromSlots      []O // where the rows come from
	Slots          []O // where they go
	Lengths        []I
	TokenCount     []I // one element

	// The caches with a storage, in bytes, instead of KCache and VCache.
	KStored, VStored []uint8
	KScales, VScales []uint8 // written if they differ between rows, else ignored

	Report *Report // written by a plan with SkipReport
}

// Buffer is memory for RawBuffers. With 0 bytes it is passed as NULL.
type Buffer struct {
	Pointer unsafe.Pointer
	Bytes   int
}

// RawBuffers holds the buffers of one append, gather or move in memory that the plan's backend can reach, such as that
// of a device.
type RawBuffers struct {
	KNew, VNew     Buffer // of an append
	KCache, VCache Buffer
	KOut, VOut     Buffer // of a gather
	CacheOffsets   Buffer
	Slots          Buffer
	FromSlots      Buffer // of a move
	Lengths        Buffer
	LeftPads       Buffer
	BatchIndex     Buffer
	PageTable      Buffer
	PageIndptr     Buffer
	TokenSamples   Buffer
	TokenPositions Buffer
	TokenCount     Buffer
	KScales        Buffer // written by an append that computes them, and by a move if they differ between rows
	VScales        Buffer
	KGlobalScale   Buffer
	VGlobalScale   Buffer
	RotaryCos      Buffer
	RotarySin      Buffer
	Positions      Buffer
	Q              Buffer
	QOut           Buffer // written; it may be Q
	QScales        Buffer
	Report         unsafe.Pointer // to a kvappend_report
}

// Report counts what happened to the rows of all runs that had this report.
type Report struct {
	raw C.kvappend_report
}

// Written is the number of rows written, by plans with CountWritten.
func (r *Report) Written() int64 { return int64(r.raw.rows_written) }

// Replaced is the number of rows that a later row of the same run replaced.
func (r *Report) Replaced() int64 { return int64(r.raw.rows_replaced) }

// Padding is the number of rows that belong to no sample, or to a sample that is left out.
func (r *Report) Padding() int64 { return int64(r.raw.rows_padding) }

// Below is the number of rows with a negative position.
func (r *Report) Below() int64 { return int64(r.raw.rows_below) }

// Above is the number of rows with a position that the cache does not have.
func (r *Report) Above() int64 { return int64(r.raw.rows_above) }

// First is the first row below or above, if there is one.
func (r *Report) First() (sample, row, position int64) {
	return int64(r.raw.first_sample), int64(r.raw.first_row), int64(r.raw.first_position)
}

// NewPlan checks the descriptor and chooses a kernel. Call Close when the plan is no longer needed.
func NewPlan[T Element, O Offset, I Index](d Descriptor) (*Plan[T, O, I], error) {
	descriptor := d.inC()
	descriptor.element_type = elementType[T]()
	descriptor.offset_type = offsetType[O]()
	descriptor.index_type = indexType[I]()
	preference := C.kvappend_preference{
		struct_size:  C.sizeof_kvappend_preference,
		host_threads: C.int32_t(d.HostThreads),
	}
	if d.KernelName != "" {
		preference.kernel_name = C.CString(d.KernelName)
		defer C.free(unsafe.Pointer(preference.kernel_name))
	}
	plan := &Plan[T, O, I]{backend: d.Backend}
	rotary, qStorage := d.Rotary.inC()
	created := C.create(descriptor, preference, d.KStorage.inC(), d.VStorage.inC(), rotary, qStorage, &plan.plan)
	if err := failure(created); err != nil {
		return nil, err
	}
	return plan, nil
}

// Close destroys the plan. Later runs fail. It must not overlap another use of the plan. Closing a plan again has no
// effect.
func (p *Plan[T, O, I]) Close() error {
	plan := p.plan
	p.plan = nil
	return failure(C.outcome{status: C.kvappend_plan_destroy(plan)})
}

// Run appends in Go's memory. The rows are written when it returns. It accesses nothing outside the slices.
func (p *Plan[T, O, I]) Run(a *Append[T, O, I]) error {
	if err := p.needHost(); err != nil {
		return err
	}
	return p.RunRaw(a.raw(), nil)
}

// Gather reads rows in Go's memory, by a plan with OperationGather. The rows are in KOut and VOut when it returns. It
// accesses nothing outside the slices.
func (p *Plan[T, O, I]) Gather(g *Gather[T, O, I]) error {
	if err := p.needHost(); err != nil {
		return err
	}
	return p.RunRaw(g.raw(), nil)
}

// Move moves rows within caches in Go's memory, by a plan with OperationMove. They have been moved when it returns. It
// accesses nothing outside the slices.
func (p *Plan[T, O, I]) Move(m *Move[T, O, I]) error {
	if err := p.needHost(); err != nil {
		return err
	}
	return p.RunRaw(m.raw(), nil)
}

// RunRaw appends, or gathers or moves if the plan does, in the order of a cudaStream_t; with the host backend the
// stream must be nil. A CUDA run may not have finished when this returns, so use device memory, never Go's memory.
func (p *Plan[T, O, I]) RunRaw(b *RawBuffers, stream unsafe.Pointer) error {
	return failure(p.run(b, stream, 0, nil, 0))
}

// Validate looks for faults in the arrays of indices and in the scales of an append in Go's memory: indices out of
// range, rows without a place, two rows with the same place. The run itself skips rows without a place. The error names
// the fault. This is meant for development and tests.
func (p *Plan[T, O, I]) Validate(a *Append[T, O, I]) error {
	return p.validate(a.raw())
}

// ValidateGather does the same for a gather.
func (p *Plan[T, O, I]) ValidateGather(g *Gather[T, O, I]) error {
	return p.validate(g.raw())
}

// ValidateMove does the same for a move.
func (p *Plan[T, O, I]) ValidateMove(m *Move[T, O, I]) error {
	return p.validate(m.raw())
}

func (p *Plan[T, O, I]) validate(b *RawBuffers) error {
	if err := p.needHost(); err != nil {
		return err
	}
	return failure(p.run(b, nil, 1, nil, 0))
}

// Layer is one append of a call of RunLayers.
type Layer[T Element, O Offset, I Index] struct {
	Plan   *Plan[T, O, I]
	Append *Append[T, O, I]
}

// GatherLayer is one gather of a call of GatherLayers.
type GatherLayer[T Element, O Offset, I Index] struct {
	Plan   *Plan[T, O, I]
	Gather *Gather[T, O, I]
}

// MoveLayer is one move of a call of MoveLayers.
type MoveLayer[T Element, O Offset, I Index] struct {
	Plan *Plan[T, O, I]
	Move *Move[T, O, I]
}

// RawLayer is one append, gather or move of a call of RunLayersRaw, in memory that the plan's backend can reach.
type RawLayer[T Element, O Offset, I Index] struct {
	Plan    *Plan[T, O, I]
	Buffers *RawBuffers
}

// RunLayers does several appends in Go's memory as one, such as those of all layers. If one of them is refused, nothing
// is written. All rows are placed by the offsets from before the call. CacheOffsets that several layers share advance
// once.
func RunLayers[T Element, O Offset, I Index](layers []Layer[T, O, I]) error {
	raw := make([]RawLayer[T, O, I], len(layers))
	for i, layer := range layers {
		if err := layer.Plan.needHost(); err != nil {
			return err
		}
		raw[i] = RawLayer[T, O, I]{layer.Plan, layer.Append.raw()}
	}
	return RunLayersRaw(raw, nil)
}

// GatherLayers does several gathers in Go's memory as one, such as those of all layers. If one of them is refused,
// nothing is written.
func GatherLayers[T Element, O Offset, I Index](layers []GatherLayer[T, O, I]) error {
	raw := make([]RawLayer[T, O, I], len(layers))
	for i, layer := range layers {
		if err := layer.Plan.needHost(); err != nil {
			return err
		}
		raw[i] = RawLayer[T, O, I]{layer.Plan, layer.Gather.raw()}
	}
	return RunLayersRaw(raw, nil)
}

// MoveLayers does several moves in Go's memory as one, such as those of all layers. If one of them is refused, nothing
// is written.
func MoveLayers[T Element, O Offset, I Index](layers []MoveLayer[T, O, I]) error {
	raw := make([]RawLayer[T, O, I], len(layers))
	for i, layer := range layers {
		if err := layer.Plan.needHost(); err != nil {
			return err
		}
		raw[i] = RawLayer[T, O, I]{layer.Plan, layer.Move.raw()}
	}
	return RunLayersRaw(raw, nil)
}

// RunLayersRaw does several appends, gathers or moves as one in the order of a cudaStream_t. The rules of RunRaw for
// memory apply.
func RunLayersRaw[T Element, O Offset, I Index](layers []RawLayer[T, O, I], stream unsafe.Pointer) error {
	var self cgo.Handle
	next := 0
	rest := func(before *C.layer) C.outcome {
		if next == len(layers) {
			return C.run_layers(before, C.size_t(next), (*C.struct_CUstream_st)(stream))
		}
		layer := layers[next]
		next++
		return layer.Plan.run(layer.Buffers, stream, 0, before, self)
	}
	self = cgo.NewHandle(func(before, result unsafe.Pointer) {
		*(*C.outcome)(result) = rest((*C.layer)(before))
	})
	defer self.Delete()
	return failure(rest(nil))
}

// Sku is what the library chose for a plan. The header says what each field means.
type Sku struct {
	Operation, Backend, ElementType, Architecture, KVectorBytes, VVectorBytes, Device, Addressing int32
	KernelName                                                                                    string
}

// Sku returns what the library chose for the plan, such as its device.
func (p *Plan[T, O, I]) Sku() (Sku, error) {
	s := C.kvappend_sku{struct_size: C.sizeof_kvappend_sku}
	if err := failure(C.get_sku(p.plan, &s)); err != nil {
		return Sku{}, err
	}
	return Sku{
		Operation:    int32(s.operation),
		Backend:      int32(s.backend),
		ElementType:  int32(s.element_type),
		Architecture: int32(s.architecture),
		KVectorBytes: int32(s.k_vector_bytes),
		VVectorBytes: int32(s.v_vector_bytes),
		Device:       int32(s.device),
		Addressing:   int32(s.addressing),
		KernelName:   C.GoString(s.kernel_name),
	}, nil
}

// PrecisionGuarantee is what a plan guarantees for the values that it writes. The header says what each field means.
type PrecisionGuarantee struct {
	KBitExact, VBitExact, Deterministic, SameOnAllBackends bool
	KError, VError                                         float32
}

// PrecisionGuarantee returns what the plan guarantees.
func (p *Plan[T, O, I]) PrecisionGuarantee() (PrecisionGuarantee, error) {
	g := C.kvappend_precision_guarantee{struct_size: C.sizeof_kvappend_precision_guarantee}
	if err := failure(C.get_precision_guarantee(p.plan, &g)); err != nil {
		return PrecisionGuarantee{}, err
	}
	return PrecisionGuarantee{
		KBitExact:         g.k_bit_exact != 0,
		VBitExact:         g.v_bit_exact != 0,
		Deterministic:     g.deterministic != 0,
		SameOnAllBackends: g.same_on_all_backends != 0,
		KError:            float32(g.k_error),
		VError:            float32(g.v_error),
	}, nil
}

func (p *Plan[T, O, I]) needHost() error {
	if p.backend == Host {
		return nil
	}
	return &Error{ErrorBackend, "the plan is not of the host backend: expected RunRaw or RunLayersRaw"}
}

// If validate is not 0, the arrays of indices are checked, and nothing is run. If rest is given, the buffers are those
// of one of several layers, and rest continues with the layers that follow.
func (p *Plan[T, O, I]) run(a *RawBuffers, stream unsafe.Pointer, validate C.int, before *C.layer,
	rest cgo.Handle) C.outcome {
	sizes := C.kvappend_args{
		struct_size:           C.sizeof_kvappend_args,
		k_new_bytes:           a.KNew.bytes(),
		v_new_bytes:           a.VNew.bytes(),
		k_cache_bytes:         a.KCache.bytes(),
		v_cache_bytes:         a.VCache.bytes(),
		k_out_bytes:           a.KOut.bytes(),
		v_out_bytes:           a.VOut.bytes(),
		cache_offsets_bytes:   a.CacheOffsets.bytes(),
		slots_bytes:           a.Slots.bytes(),
		from_slots_bytes:      a.FromSlots.bytes(),
		lengths_bytes:         a.Lengths.bytes(),
		left_pads_bytes:       a.LeftPads.bytes(),
		batch_index_bytes:     a.BatchIndex.bytes(),
		page_table_bytes:      a.PageTable.bytes(),
		page_indptr_bytes:     a.PageIndptr.bytes(),
		token_samples_bytes:   a.TokenSamples.bytes(),
		token_positions_bytes: a.TokenPositions.bytes(),
		token_count_bytes:     a.TokenCount.bytes(),
		k_scales_bytes:        a.KScales.bytes(),
		v_scales_bytes:        a.VScales.bytes(),
		k_global_scale_bytes:  a.KGlobalScale.bytes(),
		v_global_scale_bytes:  a.VGlobalScale.bytes(),
		rotary_cos_bytes:      a.RotaryCos.bytes(),
		rotary_sin_bytes:      a.RotarySin.bytes(),
		positions_bytes:       a.Positions.bytes(),
		q_bytes:               a.Q.bytes(),
		q_out_bytes:           a.QOut.bytes(),
		q_scales_bytes:        a.QScales.bytes(),
		report_bytes:          C.sizeof_kvappend_report,
	}
	return C.run(p.plan, sizes, a.KNew.pointer(), a.VNew.pointer(), a.KCache.pointer(), a.VCache.pointer(),
		a.KOut.pointer(), a.VOut.pointer(), a.CacheOffsets.pointer(), a.Slots.pointer(), a.FromSlots.pointer(),
		a.Lengths.pointer(), a.LeftPads.pointer(), a.BatchIndex.pointer(), a.PageTable.pointer(),
		a.PageIndptr.pointer(), a.TokenSamples.pointer(), a.TokenPositions.pointer(), a.TokenCount.pointer(),
		a.KScales.pointer(), a.VScales.pointer(), a.KGlobalScale.pointer(), a.VGlobalScale.pointer(),
		a.RotaryCos.pointer(), a.RotarySin.pointer(), a.Positions.pointer(), a.Q.pointer(), a.QOut.pointer(),
		a.QScales.pointer(), (*C.kvappend_report)(a.Report), (*C.struct_CUstream_st)(stream), validate, before,
		C.uintptr_t(rest))
}

func (a *Append[T, O, I]) raw() *RawBuffers {
	qOut := cache(a.QOut, a.QStored)
	if qOut.Bytes == 0 {
		qOut = buffer(a.Q)
	}
	return &RawBuffers{
		KNew:           buffer(a.KNew),
		VNew:           buffer(a.VNew),
		KCache:         cache(a.KCache, a.KStored),
		VCache:         cache(a.VCache, a.VStored),
		CacheOffsets:   buffer(a.CacheOffsets),
		Slots:          buffer(a.Slots),
		Lengths:        buffer(a.Lengths),
		LeftPads:       buffer(a.LeftPads),
		BatchIndex:     buffer(a.BatchIndex),
		PageTable:      buffer(a.PageTable),
		PageIndptr:     buffer(a.PageIndptr),
		TokenSamples:   buffer(a.TokenSamples),
		TokenPositions: buffer(a.TokenPositions),
		TokenCount:     buffer(a.TokenCount),
		KScales:        buffer(a.KScales),
		VScales:        buffer(a.VScales),
		KGlobalScale:   buffer(a.KGlobalScale),
		VGlobalScale:   buffer(a.VGlobalScale),
		RotaryCos:      buffer(a.RotaryCos),
		RotarySin:      buffer(a.RotarySin),
		Positions:      buffer(a.Positions),
		Q:              buffer(a.Q),
		QOut:           qOut,
		QScales:        buffer(a.QScales),
		Report:         unsafe.Pointer(a.Report),
	}
}

func (g *Gather[T, O, I]) raw() *RawBuffers {
	return &RawBuffers{
		KCache:         cache(g.KCache, g.KStored),
		VCache:         cache(g.VCache, g.VStored),
		KOut:           buffer(g.KOut),
		VOut:           buffer(g.VOut),
		CacheOffsets:   buffer(g.CacheOffsets),
		Slots:          buffer(g.Slots),
		Lengths:        buffer(g.Lengths),
		LeftPads:       buffer(g.LeftPads),
		BatchIndex:     buffer(g.BatchIndex),
		PageTable:      buffer(g.PageTable),
		PageIndptr:     buffer(g.PageIndptr),
		TokenSamples:   buffer(g.TokenSamples),
		TokenPositions: buffer(g.TokenPositions),
		TokenCount:     buffer(g.TokenCount),
		KScales:        buffer(g.KScales),
		VScales:        buffer(g.VScales),
		KGlobalScale:   buffer(g.KGlobalScale),
		VGlobalScale:   buffer(g.VGlobalScale),
		Report:         unsafe.Pointer(g.Report),
	}
}

func (m *Move[T, O, I]) raw() *RawBuffers {
	return &RawBuffers{
		KCache:     cache(m.KCache, m.KStored),
		VCache:     cache(m.VCache, m.VStored),
		Slots:      buffer(m.Slots),
		FromSlots:  buffer(m.FromSlots),
		Lengths:    buffer(m.Lengths),
		TokenCount: buffer(m.TokenCount),
		KScales:    buffer(m.KScales),
		VScales:    buffer(m.VScales),
		Report:     unsafe.Pointer(m.Report),
	}
}

// To the library, 0 bytes mean that the size is unknown, so an empty buffer must be NULL.
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

func buffer[E Element | Offset | Index](s []E) Buffer {
	if len(s) == 0 {
		return Buffer{}
	}
	return Buffer{unsafe.Pointer(&s[0]), len(s) * int(unsafe.Sizeof(s[0]))}
}

func fillPreset(p Preset, s *C.kvappend_storage) error {
	return failure(C.get_preset(C.int32_t(p), s))
}

func cache[T Element](as []T, stored []uint8) Buffer {
	if len(stored) != 0 {
		return buffer(stored)
	}
	return buffer(as)
}

func failure(o C.outcome) error {
	if o.status == C.KVAPPEND_SUCCESS {
		return nil
	}
	defer C.free(unsafe.Pointer(o.message))
	return &Error{Status(o.status), C.GoString(o.message)}
}
