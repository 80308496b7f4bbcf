// SPDX-License-Identifier: Apache-2.0

package kvappend

import "testing"

// rotatedTokens has two tokens in slots, with one head of K and two of Q. The table is [positions, cos | sin].
func rotatedTokens(r Rotary) Descriptor {
	r.Dim, r.TableRows, r.TableStride = 4, 2, 4
	return Descriptor{
		Addressing:  Slots,
		Flags:       Positions,
		Batch:       1,
		Heads:       1,
		NewRows:     2,
		CacheRows:   2,
		KDim:        4,
		CacheBlocks: 1,
		Rotary:      &r,
	}
}

// tokens has the buffers of one run. The second token is rotated by a quarter turn.
func tokens(kCache []float32) *Append[float32, int64, int32] {
	table := Bytes([]float32{1, 1, 0, 0, 0, 0, 1, 1})
	return &Append[float32, int64, int32]{
		KNew:      []float32{1, 2, 3, 4, 5, 6, 7, 8},
		KCache:    kCache,
		Slots:     []int64{1, 0},
		Positions: []int64{0, 1},
		RotaryCos: table,
		RotarySin: table[8:],
		Q:         []float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
	}
}

func equal(t *testing.T, found []float32, expected ...float32) {
	t.Helper()
	holds(t, Bytes(found), Bytes(expected)...)
}

func TestRotatedRows(t *testing.T) {
	plan := newPlan[float32, int64, int32](t, rotatedTokens(Rotary{QHeads: 2, QDim: 4}))
	kCache := make([]float32, 8)
	a := tokens(kCache)
	q, qOut := a.Q, make([]float32, 16)
	a.QOut = qOut
	must(t, plan.Run(a))
	rotated := []float32{1, 2, 3, 4, 5, 6, 7, 8, -11, -12, 9, 10, -15, -16, 13, 14}
	equal(t, kCache, -7, -8, 5, 6, 1, 2, 3, 4)
	equal(t, qOut, rotated...)
	equal(t, q, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	a.QOut = nil // in place
	must(t, RunLayers([]Layer[float32, int64, int32]{{plan, a}}))
	equal(t, q, rotated...)

	// Without Q, and with adjacent elements as pairs.
	plan = newPlan[float32, int64, int32](t, rotatedTokens(Rotary{Style: RotaryInterleaved}))
	a.Q = nil
	must(t, plan.Run(a))
	equal(t, kCache, -6, 5, -8, 7, 1, 2, 3, 4)
}

// The rotated rows of Q as [H, T, D], with a scale for each head.
func TestRotatedRowsOfQInE4M3(t *testing.T) {
	plan := newPlan[float32, int64, int32](t, rotatedTokens(Rotary{
		QHeads:      2,
		QDim:        4,
		QOutStrides: Strides{16, 8, 4},
		QStorage:    storageOf(t, PresetE4M3Divide, [4]int64{0, 4}),
	}))
	a := tokens(make([]float32, 8))
	a.QStored, a.QScales = untouched(16), Bytes([]float32{2, 4})
	must(t, plan.Run(a))
	holds(t, a.QStored, 0x30, 0x38, 0x3c, 0x40, 0xcb, 0xcc, 0x49, 0x4a, // 0.5, 1, 1.5, 2; -5.5, -6, 4.5, 5
		0x3a, 0x3c, 0x3e, 0x40, 0xc7, 0xc8, 0x45, 0x46) // 1.25, 1.5, 1.75, 2; -3.75, -4, 3.25, 3.5
}

// The library names each field, so each reaches it.
func TestRotationsThatAreRefused(t *testing.T) {
	for words, change := range map[string]func(*Rotary){
		"style is 9":         func(r *Rotary) { r.Style = 9 },
		"table_type is 9":    func(r *Rotary) { r.TableType = 9 },
		"dim is 6":           func(r *Rotary) { r.Dim = 6 },
		"first is 1":         func(r *Rotary) { r.First = 1 },
		"table_rows is -1":   func(r *Rotary) { r.TableRows = -1 },
		"table_stride is -1": func(r *Rotary) { r.TableStride = -1 },
		"q_heads is -1":      func(r *Rotary) { r.QHeads = -1 },
		"q_dim is 3":         func(r *Rotary) { r.QDim = 3 },
		"q_first is 1":       func(r *Rotary) { r.QFirst = 1 },
	} {
		d := rotatedTokens(Rotary{QHeads: 2, QDim: 4})
		change(d.Rotary)
		_, err := NewPlan[float32, int64, int32](d)
		refused(t, err, ErrorRotary, "rotary->"+words)
	}
	plan := newPlan[float32, int64, int32](t, rotatedTokens(Rotary{QHeads: 2, QDim: 4, QStrides: Strides{16, 4, 8}}))
	a := tokens(make([]float32, 8))
	a.QOut = a.Q[1:]
	refused(t, plan.Run(a), ErrorBufferTooSmall, "q_out_bytes is 60")
}
