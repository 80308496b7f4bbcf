// SPDX-License-Identifier: Apache-2.0

package kvappend

import (
	"bytes"
	"testing"
)

// Two samples: a chain from slot 0 on, and a swap of rows 5 and 9 by way of row 11. -1 is padding on either side.
var (
	fromSlots    = []int64{0, 1, 2, -1, 5, 9, 11, 7}
	toSlots      = []int64{1, 2, 3, 4, 11, 5, 9, -1}
	movedSamples = []int32{0, 4, 8}
)

// oneByteMoves has moves within three blocks of four rows of one byte.
func oneByteMoves(rows int64) Descriptor {
	d := oneByteRows(1, rows, 3)
	d.Operation = OperationMove
	d.Addressing = Slots
	return d
}

func numbered() []uint8 { return []uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11} }

func TestMoveInChain(t *testing.T) {
	plan := newPlan[uint8, int32, int64](t, oneByteMoves(3))
	cache := numbered()
	must(t, plan.Move(&Move[uint8, int32, int64]{KCache: cache, FromSlots: []int32{0, 1, 2}, Slots: []int32{1, 2, 3}}))
	holds(t, cache, 0, 0, 0, 0, 4, 5, 6, 7, 8, 9, 10, 11)
	sku, err := plan.Sku()
	must(t, err)
	if sku.Operation != int32(OperationMove) || sku.Addressing != int32(Slots) {
		t.Error(sku)
	}
}

// movedRows is a cache with the given sizes and strides after the moves, one after the other.
func movedRows[T Element](cache []T, block, head, row, dim int) []T {
	cache = clone(cache)
	at := func(slot int64, h int) []T {
		begin := int(slot)/4*block + h*head + int(slot)%4*row
		return cache[begin : begin+dim]
	}
	for i, to := range toSlots {
		for h := 0; h < heads && to >= 0 && fromSlots[i] >= 0; h++ {
			copy(at(to, h), at(fromSlots[i], h))
		}
	}
	return cache
}

func moveOfTwoSamples[T Element](t *testing.T) {
	d := oneByteMoves(8)
	d.Lengths, d.Batch, d.Heads, d.KDim, d.VDim = Packed, 2, heads, kDim, vDim
	d.VCacheStrides = Strides{4 * heads * vDim, vDim, heads * vDim}
	c := newCase[T](3)
	kSize, vSize := 12*heads*kDim, 12*heads*vDim
	k, v := c.kMemory[guard:guard+kSize], c.vMemory[guard:guard+vSize]
	kMoved := movedRows(k, heads*4*kDim, 4*kDim, kDim, kDim)
	vMoved := movedRows(v, 4*heads*vDim, vDim, heads*vDim, vDim)
	kExpected, vExpected := clone(c.kMemory), clone(c.vMemory)
	copy(kExpected[guard:], kMoved)
	copy(vExpected[guard:], vMoved)
	must(t, newPlan[T, int64, int32](t, d).Move(&Move[T, int64, int32]{
		KCache:    k,
		VCache:    v,
		FromSlots: fromSlots,
		Slots:     toSlots,
		Lengths:   movedSamples,
	}))
	c.check(t, kExpected, vExpected)
	if bytes.Equal(byteView(kMoved), byteView(newCase[T](3).kMemory[guard:guard+kSize])) {
		t.Error("nothing was to be moved")
	}
}

func TestMoveOfTwoSamples(t *testing.T) {
	t.Run("float32", moveOfTwoSamples[float32])
	t.Run("float64", moveOfTwoSamples[float64])
	t.Run("BF16", moveOfTwoSamples[BF16])
	t.Run("uint8", moveOfTwoSamples[uint8])
}

func TestMoveOfRowsWithoutPlace(t *testing.T) {
	d := oneByteMoves(5)
	d.Flags = ReservedSlot | TokenCount | CountWritten
	d.ReservedSlot = 7
	d.SkipPolicy = SkipReport
	cache, report := numbered(), &Report{}
	must(t, newPlan[uint8, int64, int32](t, d).Move(&Move[uint8, int64, int32]{
		KCache:     cache,
		FromSlots:  []int64{0, 7, 12, 3, 1},
		Slots:      []int64{5, 6, 8, -1, 2},
		TokenCount: []int32{4},
		Report:     report,
	}))
	holds(t, cache, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 10, 11)
	_, row, position := report.First()
	if report.Written() != 1 || report.Padding() != 3 || report.Above() != 1 || row != 2 || position != 12 {
		t.Error(report)
	}
}

// The scale of each row is moved with its codes: INT8 codes with the scale of the row after them.
func TestMoveOfStoredRows(t *testing.T) {
	d := oneByteMoves(1)
	d.CacheBlocks, d.CacheRows, d.KDim = 1, 2, 4
	d.KStorage = storageOf(t, PresetInt8Row, [4]int64{0, 0, 8, 0})
	d.KCacheStrides = Strides{16, 0, 8}
	d.VDim = 2
	d.VStorage = storageOf(t, PresetE4M3Divide, [4]int64{}) // one scale, which need not be given
	kCache := []uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	vCache := []uint8{1, 2, 3, 4}
	must(t, newPlan[float32, int64, int32](t, d).Move(&Move[float32, int64, int32]{
		KStored:   kCache,
		VStored:   vCache,
		KScales:   kCache[4:],
		FromSlots: []int64{1},
		Slots:     []int64{0},
	}))
	holds(t, kCache, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15)
	holds(t, vCache, 3, 4, 3, 4)
}

func TestMoveOfLayers(t *testing.T) {
	plan := newPlan[uint8, int64, int32](t, oneByteMoves(2))
	var layers []MoveLayer[uint8, int64, int32]
	for i := int64(0); i < 3; i++ {
		layers = append(layers, MoveLayer[uint8, int64, int32]{plan, &Move[uint8, int64, int32]{
			KCache:    numbered(),
			FromSlots: []int64{i, 5},
			Slots:     []int64{5, 4},
		}})
	}
	must(t, MoveLayers(layers))
	for i, layer := range layers {
		holds(t, layer.Move.KCache, 0, 1, 2, 3, uint8(i), uint8(i), 6, 7, 8, 9, 10, 11)
	}
	d := oneByteMoves(2)
	d.Operation = OperationAppend
	layers[2].Plan = newPlan[uint8, int64, int32](t, d)
	refused(t, MoveLayers(layers), ErrorOperation, "layer 2: ")
}

func TestMovesByOtherPlans(t *testing.T) {
	d := oneByteMoves(2)
	moves := newPlan[uint8, int64, int32](t, d)
	cache := numbered()
	m := &Move[uint8, int64, int32]{KCache: cache, FromSlots: []int64{0, 1}, Slots: []int64{1, 2}}
	for operation, words := range map[Operation]string{
		OperationAppend: "args.k_new is NULL",
		OperationGather: "args.k_out is NULL",
	} {
		d.Operation = operation
		refused(t, newPlan[uint8, int64, int32](t, d).Move(m), ErrorNullBuffer, words)
	}
	slots := []int64{1, 2}
	rows := &Append[uint8, int64, int32]{KNew: []uint8{7, 7}, KCache: cache, Slots: slots}
	refused(t, moves.Run(rows), ErrorNullBuffer, "args.from_slots is NULL")
	out := &Gather[uint8, int64, int32]{KOut: []uint8{7, 7}, KCache: cache, Slots: slots}
	refused(t, moves.Gather(out), ErrorNullBuffer, "args.from_slots is NULL")
	m.FromSlots = m.FromSlots[:1]
	refused(t, moves.Move(m), ErrorBufferTooSmall, "args.from_slots_bytes")
	holds(t, cache, numbered()...)
	d = oneByteMoves(2)
	d.KNewStrides[2] = 1
	_, err := NewPlan[uint8, int64, int32](d)
	refused(t, err, ErrorConflict, "k_new_strides[2] is 1")
}
