// SPDX-License-Identifier: Apache-2.0

package kvappend

// #include <kvappend/kvappend.h>
import "C"

// RotaryStyle says which elements of a row are rotated together.
type RotaryStyle int32

// TableType is the type of the numbers in a rotary table.
type TableType int32

// The header says what each of these means.
const (
	RotaryHalf        RotaryStyle = C.KVAPPEND_ROTARY_HALF
	RotaryInterleaved RotaryStyle = C.KVAPPEND_ROTARY_INTERLEAVED

	TableF32  TableType = C.KVAPPEND_ELEMENT_F32
	TableF16  TableType = C.KVAPPEND_ELEMENT_F16
	TableBF16 TableType = C.KVAPPEND_ELEMENT_BF16
)

// Rotary says how an append rotates the rows of K before it stores them, and the rows of Q with them.
type Rotary struct {
	Style       RotaryStyle
	TableType   TableType
	Dim         int64 // elements of a row that are rotated
	First       int64 // the first of them in a row of K
	TableRows   int64 // positions that the tables have
	TableStride int64 // elements from one row of a table to the next; 0: Dim / 2

	QHeads      int64 // query heads; 0: there is no Q
	QDim        int64 // elements of a Q row
	QFirst      int64 // the first of them that is rotated
	QStrides    Strides
	QOutStrides Strides  // with a storage, in bytes
	QStorage    *Storage // how the rotated rows of Q are stored; nil: with their bits
}

// The storage of Q is passed to C as an argument of its own.
func (r *Rotary) inC() (*C.kvappend_rotary, *C.kvappend_storage) {
	if r == nil {
		return nil, nil
	}
	return &C.kvappend_rotary{
		struct_size:   C.sizeof_kvappend_rotary,
		style:         C.int32_t(r.Style),
		table_type:    C.int32_t(r.TableType),
		dim:           C.int64_t(r.Dim),
		first:         C.int64_t(r.First),
		table_rows:    C.int64_t(r.TableRows),
		table_stride:  C.int64_t(r.TableStride),
		q_heads:       C.int64_t(r.QHeads),
		q_dim:         C.int64_t(r.QDim),
		q_first:       C.int64_t(r.QFirst),
		q_strides:     r.QStrides.inC(),
		q_out_strides: r.QOutStrides.inC(),
	}, r.QStorage.inC()
}
