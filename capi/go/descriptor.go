// SPDX-License-Identifier: Apache-2.0

package kvappend

// #include <kvappend/kvappend.h>
import "C"

import "unsafe"

// Operation is what a plan does.
type Operation int32

// Backend is where a plan runs.
type Backend int32

// Addressing is how the place of a row is found in a cache.
type Addressing int32

// Lengths is how many new rows each sample has.
type Lengths int32

// Flags are bits, combined by |.
type Flags int32

// SkipPolicy is what happens when a row has no place.
type SkipPolicy int32

// The header says what each of these means.
const (
	OperationAppend Operation = C.KVAPPEND_OPERATION_APPEND
	OperationGather Operation = C.KVAPPEND_OPERATION_GATHER
	OperationMove   Operation = C.KVAPPEND_OPERATION_MOVE

	Host Backend = C.KVAPPEND_BACKEND_HOST
	CUDA Backend = C.KVAPPEND_BACKEND_CUDA

	Dense    Addressing = C.KVAPPEND_ADDRESSING_DENSE
	Ring     Addressing = C.KVAPPEND_ADDRESSING_RING
	Paged    Addressing = C.KVAPPEND_ADDRESSING_PAGED
	PagedCSR Addressing = C.KVAPPEND_ADDRESSING_PAGED_CSR
	Slots    Addressing = C.KVAPPEND_ADDRESSING_SLOTS

	Fixed     Lengths = C.KVAPPEND_LENGTHS_FIXED
	PerSample Lengths = C.KVAPPEND_LENGTHS_PER_SAMPLE
	Packed    Lengths = C.KVAPPEND_LENGTHS_PACKED
	PerToken  Lengths = C.KVAPPEND_LENGTHS_PER_TOKEN

	BatchIndex         Flags = C.KVAPPEND_FLAG_BATCH_INDEX
	LeftPads           Flags = C.KVAPPEND_FLAG_LEFT_PADS
	ZeroOffsets        Flags = C.KVAPPEND_FLAG_ZERO_OFFSETS
	ReservedSlot       Flags = C.KVAPPEND_FLAG_RESERVED_SLOT
	Advance            Flags = C.KVAPPEND_FLAG_ADVANCE
	ResetReport        Flags = C.KVAPPEND_FLAG_RESET_REPORT
	CountWritten       Flags = C.KVAPPEND_FLAG_COUNT_WRITTEN
	ProgrammaticLaunch Flags = C.KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH
	SharedOffset       Flags = C.KVAPPEND_FLAG_SHARED_OFFSET
	EndOffsets         Flags = C.KVAPPEND_FLAG_END_OFFSETS
	LastPageLengths    Flags = C.KVAPPEND_FLAG_LAST_PAGE_LENGTHS
	TokenCount         Flags = C.KVAPPEND_FLAG_TOKEN_COUNT
	ReservedPage       Flags = C.KVAPPEND_FLAG_RESERVED_PAGE
	ZeroSkipped        Flags = C.KVAPPEND_FLAG_ZERO_SKIPPED
	Positions          Flags = C.KVAPPEND_FLAG_POSITIONS

	SkipSilently SkipPolicy = C.KVAPPEND_SKIP_SILENTLY
	SkipReport   SkipPolicy = C.KVAPPEND_SKIP_REPORT
	SkipTrap     SkipPolicy = C.KVAPPEND_SKIP_TRAP
)

// F16 holds the bits of an IEEE 754 binary16.
type F16 uint16

// BF16 holds the bits of a bfloat16.
type BF16 uint16

// E4M3 holds the bits of an 8-bit float with 4 bits of exponent and 3 of mantissa, without infinities.
type E4M3 uint8

// E5M2 holds the bits of an 8-bit float with 5 bits of exponent and 2 of mantissa.
type E5M2 uint8

// Element is the type of one element of K and V.
type Element interface {
	float32 | float64 | F16 | BF16 | E4M3 | E5M2 | int8 | uint8
}

// Offset is the type of one element of CacheOffsets, Slots, FromSlots, TokenPositions and Positions.
type Offset interface {
	~int64 | ~int32
}

// Index is the type of one element of every other array of indices, such as Lengths and PageTable.
type Index interface {
	~int32 | ~int64
}

// Strides are in elements, from one batch entry (or block), head and row to the next; zero means contiguous.
type Strides [3]int64

// Descriptor says what is the same at every run of a plan. Its zero value is the dense append of contiguous tensors.
type Descriptor struct {
	Operation  Operation
	Backend    Backend
	Addressing Addressing
	Lengths    Lengths
	Flags      Flags
	SkipPolicy SkipPolicy

	Batch     int64 // B: samples
	Heads     int64 // H: K/V heads
	NewRows   int64 // rows of each sample, new ones or those to be read; Packed, PerToken, Slots and moves: all of them
	CacheRows int64 // R: rows of each sample's cache, or of a page
	KDim      int64 // elements of a K row; 0: there is no K
	VDim      int64 // elements of a V row; 0: there is no V

	KNewStrides   Strides // of [B, H, NewRows, KDim], also of the rows of a gather; a move has none
	VNewStrides   Strides
	KCacheStrides Strides // of [CacheBlocks, H, CacheRows, KDim]
	VCacheStrides Strides

	CacheBlocks  int64 // samples' caches, 0 meaning Batch, or pages
	SinkRows     int64 // Ring: rows that stay
	TableEntries int64 // Paged: page ids of each sample; PagedCSR: in all
	TableStride  int64 // Paged: from sample to sample; 0 meaning TableEntries
	ReservedSlot int64
	ReservedPage int64

	KPack, VPack               int64 // elements of each piece of a cache's row; 0: rows are contiguous
	KPieceStride, VPieceStride int64

	// How the caches store their rows; nil: with the bits of the new rows. With a storage, the strides of a cache and
	// its piece stride are in bytes.
	KStorage, VStorage *Storage

	Rotary *Rotary // how an append rotates the rows of K, and those of Q; nil: they are not rotated

	HostThreads int32  // the number of threads that share a large run
	KernelName  string // to use that kernel; "": the library chooses
}

func elementType[T Element]() C.int32_t {
	switch any(*new(T)).(type) {
	case float32:
		return C.KVAPPEND_ELEMENT_F32
	case float64:
		return C.KVAPPEND_ELEMENT_F64
	case F16:
		return C.KVAPPEND_ELEMENT_F16
	case BF16:
		return C.KVAPPEND_ELEMENT_BF16
	case E4M3:
		return C.KVAPPEND_ELEMENT_E4M3
	case E5M2:
		return C.KVAPPEND_ELEMENT_E5M2
	case int8:
		return C.KVAPPEND_ELEMENT_INT8
	default:
		return C.KVAPPEND_ELEMENT_UINT8
	}
}

func offsetType[O Offset]() C.int32_t {
	if unsafe.Sizeof(*new(O)) == 8 {
		return C.KVAPPEND_OFFSET_INT64
	}
	return C.KVAPPEND_OFFSET_INT32
}

func indexType[I Index]() C.int32_t {
	if unsafe.Sizeof(*new(I)) == 8 {
		return C.KVAPPEND_INDEX_INT64
	}
	return C.KVAPPEND_INDEX_INT32
}

func (s Strides) inC() [3]C.int64_t {
	return [3]C.int64_t{C.int64_t(s[0]), C.int64_t(s[1]), C.int64_t(s[2])}
}

func (d *Descriptor) inC() C.kvappend_descriptor {
	return C.kvappend_descriptor{
		struct_size:     C.sizeof_kvappend_descriptor,
		backend:         C.int32_t(d.Backend),
		addressing:      C.int32_t(d.Addressing),
		batch:           C.int64_t(d.Batch),
		heads:           C.int64_t(d.Heads),
		new_rows:        C.int64_t(d.NewRows),
		cache_rows:      C.int64_t(d.CacheRows),
		k_dim:           C.int64_t(d.KDim),
		v_dim:           C.int64_t(d.VDim),
		k_new_strides:   d.KNewStrides.inC(),
		v_new_strides:   d.VNewStrides.inC(),
		k_cache_strides: d.KCacheStrides.inC(),
		v_cache_strides: d.VCacheStrides.inC(),
		lengths:         C.int32_t(d.Lengths),
		flags:           C.int32_t(d.Flags),
		cache_blocks:    C.int64_t(d.CacheBlocks),
		sink_rows:       C.int64_t(d.SinkRows),
		table_entries:   C.int64_t(d.TableEntries),
		table_stride:    C.int64_t(d.TableStride),
		reserved_slot:   C.int64_t(d.ReservedSlot),
		reserved_page:   C.int64_t(d.ReservedPage),
		k_pack:          C.int64_t(d.KPack),
		v_pack:          C.int64_t(d.VPack),
		k_piece_stride:  C.int64_t(d.KPieceStride),
		v_piece_stride:  C.int64_t(d.VPieceStride),
		skip_policy:     C.int32_t(d.SkipPolicy),
		operation:       C.int32_t(d.Operation),
	}
}
