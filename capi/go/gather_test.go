// SPDX-License-Identifier: Apache-2.0

package kvappend

import (
	"bytes"
	"testing"
)

// gatherOf has rows of KNew's and VNew's layouts from the caches of a case.
func (c *testCase[T]) gatherOf(offsets []int64) *Gather[T, int64, int32] {
	return &Gather[T, int64, int32]{
		KCache:       c.kMemory[guard : len(c.kMemory)-guard],
		VCache:       c.vMemory[guard : len(c.vMemory)-guard],
		KOut:         make([]T, len(c.kNew)),
		VOut:         make([]T, len(c.vNew)),
		CacheOffsets: offsets,
		Lengths:      lengths,
	}
}

// placed is new rows with zeros in place of those that the ragged batch has no place for.
func placed[T Element](rows []T, at func(b, h, l int) int, dim int) []T {
	placed := make([]T, len(rows))
	for b, offset := range offsets {
		for l := 0; l < int(lengths[b]); l++ {
			if position := offset + int64(l); position < 0 || position >= cacheRows {
				continue
			}
			for h := 0; h < heads; h++ {
				begin := at(b, h, l) * dim
				copy(placed[begin:begin+dim], rows[begin:])
			}
		}
	}
	return placed
}

func gatherRaggedBatch[T Element](t *testing.T) {
	d := raggedBatch
	appends := newPlan[T, int64, int32](t, d)
	d.Operation = OperationGather
	gathers := newPlan[T, int64, int32](t, d)
	d.Flags = ZeroSkipped
	zeroes := newPlan[T, int64, int32](t, d)
	c := newCase[T](1)
	must(t, appends.Run(c.args(offsets)))
	k, v := clone(c.kMemory), clone(c.vMemory)
	kRows := placed(c.kNew, func(b, h, l int) int { return (b*heads+h)*newRows + l }, kDim)
	vRows := placed(c.vNew, func(b, h, l int) int { return (b*newRows+l)*heads + h }, vDim)
	g := c.gatherOf(offsets)
	must(t, gathers.Gather(g))
	same := func() bool {
		return bytes.Equal(byteView(g.KOut), byteView(kRows)) && bytes.Equal(byteView(g.VOut), byteView(vRows))
	}
	if !same() {
		t.Error("the rows do not have the bytes that were appended, or others were written")
	}
	// Rows without a place keep what they have, or are set to zero.
	copy(g.KOut, c.kNew)
	copy(g.VOut, c.vNew)
	must(t, gathers.Gather(g))
	if !bytes.Equal(byteView(g.KOut), byteView(c.kNew)) || !bytes.Equal(byteView(g.VOut), byteView(c.vNew)) {
		t.Error("rows without a place were written")
	}
	must(t, zeroes.Gather(g))
	if !same() {
		t.Error("rows without a place are not zero")
	}
	c.check(t, k, v)
}

func TestGatherOfRaggedBatch(t *testing.T) {
	t.Run("float32", gatherRaggedBatch[float32])
	t.Run("float64", gatherRaggedBatch[float64])
	t.Run("BF16", gatherRaggedBatch[BF16])
	t.Run("uint8", gatherRaggedBatch[uint8])
}

// Each element is a code times its scale: INT8 codes followed by the scale of the row, and E4M3 codes.
func TestGatherOfStoredRows(t *testing.T) {
	d := storedRows(4, storageOf(t, PresetInt8Row, [4]int64{16, 0, 8, 0}))
	d.KCacheStrides = Strides{16, 0, 8}
	d.VDim = 4
	d.VStorage = storageOf(t, PresetE4M3Divide, [4]int64{})
	kCache, vCache := Bytes(make([]float32, 8)), untouched(16)
	scale := Bytes([]float32{2})
	must(t, newPlan[float32, int64, int32](t, d).Run(&Append[float32, int64, int32]{
		KNew:         []float32{127, -63.5, 1, 0.5, 254, 1, -3, 5},
		VNew:         []float32{2, -3, 896, 0.5, 1000, 0, -2, 2.125},
		KStored:      kCache,
		VStored:      vCache,
		KScales:      kCache[4:],
		VScales:      scale,
		CacheOffsets: storedAt,
	}))
	d.Operation = OperationGather
	g := &Gather[float32, int64, int32]{
		KStored:      kCache,
		VStored:      vCache,
		KOut:         make([]float32, 8),
		VOut:         make([]float32, 8),
		KScales:      kCache[4:],
		VScales:      scale,
		CacheOffsets: storedAt,
	}
	must(t, newPlan[float32, int64, int32](t, d).Gather(g))
	holds(t, Bytes(g.KOut), Bytes([]float32{127, -64, 1, 1, 254, 2, -4, 6})...)
	holds(t, Bytes(g.VOut), Bytes([]float32{2, -3, 896, 0.5, 896, 0, -2, 2})...)
}

func TestGatherOfLayers(t *testing.T) {
	d := oneByteRows(1, 2, 1)
	appends := newPlan[uint8, int64, int32](t, d)
	d.Operation = OperationGather
	gathers := newPlan[uint8, int64, int32](t, d)
	var layers []GatherLayer[uint8, int64, int32]
	for i := uint8(0); i < 3; i++ {
		layers = append(layers, GatherLayer[uint8, int64, int32]{gathers, &Gather[uint8, int64, int32]{
			KCache:       []uint8{i, i + 1, i + 2, i + 3},
			KOut:         make([]uint8, 2),
			CacheOffsets: []int64{int64(i)},
		}})
	}
	must(t, GatherLayers(layers))
	for i, layer := range layers {
		holds(t, layer.Gather.KOut, uint8(2*i), uint8(2*i+1))
	}
	layers[2].Plan = appends
	refused(t, GatherLayers(layers), ErrorOperation, "layer 2: ")
}

func TestOperations(t *testing.T) {
	d := raggedBatch
	d.Operation = OperationGather
	plan := newPlan[float32, int64, int32](t, d)
	sku, err := plan.Sku()
	must(t, err)
	if sku.Operation != int32(OperationGather) || sku.Addressing != int32(Dense) {
		t.Error(sku)
	}
	c := newCase[float32](2)
	refused(t, plan.Run(c.args(offsets)), ErrorNullBuffer, "args.k_out is NULL")
	g := c.gatherOf(offsets)
	refused(t, newPlan[float32, int64, int32](t, raggedBatch).Gather(g), ErrorNullBuffer, "args.k_new is NULL")
	g.VOut = g.KOut
	refused(t, plan.Gather(g), ErrorOverlap, "args.k_out")
	d.Operation = 3
	_, err = NewPlan[float32, int64, int32](d)
	refused(t, err, ErrorOperation, "operation is 3")
	if ErrorOperation.String() != "KVAPPEND_ERROR_OPERATION" || ErrorOverlap.String() != "KVAPPEND_ERROR_OVERLAP" {
		t.Error(ErrorOperation, ErrorOverlap)
	}
}
