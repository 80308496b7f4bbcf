// SPDX-License-Identifier: Apache-2.0

package kvappend

import (
	"bytes"
	"sync"
	"testing"
	"unsafe"
)

// oneByteRows has K caches of blocks of four rows of one byte, and no V.
func oneByteRows(samples, newRows, blocks int64) Descriptor {
	return Descriptor{Batch: samples, Heads: 1, NewRows: newRows, CacheRows: 4, CacheBlocks: blocks, KDim: 1}
}

func holds(t *testing.T, cache []uint8, expected ...uint8) {
	t.Helper()
	if !bytes.Equal(cache, expected) {
		t.Errorf("the cache holds %v: expected %v", cache, expected)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func converted[To Index](from ...int8) []To {
	to := make([]To, len(from))
	for i, value := range from {
		to[i] = To(value)
	}
	return to
}

// namedIndex is an index type of the caller's own.
type namedIndex int64

func tokensWithPositions[O Offset, I Index](t *testing.T) {
	d := oneByteRows(2, 6, 3)
	d.Addressing = Paged
	d.TableEntries = 2
	d.Lengths = PerToken
	d.Flags = TokenCount | ReservedPage | CountWritten
	d.ReservedPage = 0
	d.SkipPolicy = SkipReport
	plan := newPlan[uint8, O, I](t, d)
	cache := make([]uint8, 12)
	var report Report
	// A token of no sample, one on the reserved page, one beyond its table, and one after the count.
	must(t, plan.Run(&Append[uint8, O, I]{
		KNew:           []uint8{1, 2, 3, 4, 5, 6},
		KCache:         cache,
		TokenSamples:   converted[I](1, 0, -1, 1, 0, 0),
		TokenPositions: converted[O](5, 2, 0, 0, 8, 3),
		TokenCount:     []I{5},
		PageTable:      []I{2, 0, 0, 1},
		Report:         &report,
	}))
	holds(t, cache, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0)
	if counts := [...]int64{report.Written(), report.Padding(), report.Above()}; counts != [...]int64{2, 3, 1} {
		t.Error(counts)
	}
	if sample, row, position := report.First(); sample != 0 || row != 4 || position != 8 {
		t.Error(sample, row, position)
	}
}

func TestTokensWithPositions(t *testing.T) {
	t.Run("int64, int32", tokensWithPositions[int64, int32])
	t.Run("int64, int64", tokensWithPositions[int64, int64])
	t.Run("int32, int32", tokensWithPositions[int32, int32])
	t.Run("int32, named", tokensWithPositions[int32, namedIndex])
}

func TestSharedOffset(t *testing.T) {
	d := oneByteRows(2, 2, 2)
	d.Flags = SharedOffset | Advance
	plan := newPlan[uint8, int64, int32](t, d)
	cache, offset := make([]uint8, 8), []int64{1}
	must(t, plan.Run(&Append[uint8, int64, int32]{KNew: []uint8{1, 2, 3, 4}, KCache: cache, CacheOffsets: offset}))
	holds(t, cache, 0, 1, 2, 0, 0, 3, 4, 0)
	if offset[0] != 3 {
		t.Error(offset)
	}
}

func TestEndOffsets(t *testing.T) {
	d := oneByteRows(2, 2, 2)
	d.Lengths = PerSample
	d.Flags = EndOffsets
	plan := newPlan[uint8, int32, int64](t, d)
	cache := make([]uint8, 8)
	must(t, plan.Run(&Append[uint8, int32, int64]{
		KNew:         []uint8{1, 2, 3, 4},
		KCache:       cache,
		CacheOffsets: []int32{4, 1},
		Lengths:      []int64{2, 1},
	}))
	holds(t, cache, 0, 0, 1, 2, 3, 0, 0, 0)
}

func TestLastPageLengths(t *testing.T) {
	d := oneByteRows(2, 2, 3)
	d.Addressing = PagedCSR
	d.TableEntries = 3
	d.Flags = LastPageLengths | ReservedPage
	d.ReservedPage = 1
	plan := newPlan[uint8, int32, int64](t, d)
	cache := make([]uint8, 12)
	must(t, plan.Run(&Append[uint8, int32, int64]{
		KNew:         []uint8{1, 2, 3, 4},
		KCache:       cache,
		CacheOffsets: []int32{1, 3},
		PageTable:    []int64{2, 0, 1},
		PageIndptr:   []int64{0, 2, 3},
	}))
	holds(t, cache, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
}

func TestLayersAdvanceTheirOffsetsOnce(t *testing.T) {
	d := oneByteRows(1, 1, 1)
	d.Flags = Advance | CountWritten | ResetReport
	d.SkipPolicy = SkipReport
	plan := newPlan[uint8, int64, int32](t, d)
	var report Report
	var layers []Layer[uint8, int64, int32]
	offsets := []int64{2}
	for i := uint8(1); i <= 3; i++ {
		layers = append(layers, Layer[uint8, int64, int32]{plan, &Append[uint8, int64, int32]{
			KNew:         []uint8{i},
			KCache:       make([]uint8, 4),
			CacheOffsets: offsets,
			Report:       &report,
		}})
	}
	must(t, RunLayers(layers))
	for i, layer := range layers {
		holds(t, layer.Append.KCache, 0, 0, uint8(i+1), 0)
	}
	if offsets[0] != 3 || report.Written() != 3 {
		t.Error(offsets, report.Written())
	}
	must(t, RunLayers[uint8, int64, int32](nil))

	// A refused layer is named, and none is written.
	layers[2].Append.CacheOffsets = nil
	refused(t, RunLayers(layers), ErrorNullBuffer, "layer 2: args.cache_offsets is NULL")
	holds(t, layers[0].Append.KCache, 0, 0, 1, 0)
	if offsets[0] != 3 {
		t.Error(offsets)
	}
	// A stream reaches the library, which has no use for it in host memory.
	raw := []RawLayer[uint8, int64, int32]{{plan, layers[0].Append.raw()}}
	refused(t, RunLayersRaw(raw, unsafe.Pointer(new(int64))), ErrorStream, "stream")
}

// Each layer is a call within that of the layer before it: many of them, in several goroutines at once.
func TestManyLayers(t *testing.T) {
	plan := newPlan[uint8, int64, int32](t, oneByteRows(1, 1, 1))
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			layers := make([]Layer[uint8, int64, int32], 200)
			for l := range layers {
				layers[l] = Layer[uint8, int64, int32]{plan, &Append[uint8, int64, int32]{
					KNew:         []uint8{uint8(l + 1)},
					KCache:       make([]uint8, 4),
					CacheOffsets: []int64{int64(l % 4)},
				}}
			}
			if err := RunLayers(layers); err != nil {
				t.Error(err)
			}
			for l, layer := range layers {
				expected := make([]uint8, 4)
				expected[l%4] = uint8(l + 1)
				holds(t, layer.Append.KCache, expected...)
			}
		}()
	}
	group.Wait()
}

func TestSku(t *testing.T) {
	sku, err := newPlan[uint8, int64, int32](t, oneByteRows(1, 1, 1)).Sku()
	must(t, err)
	if sku.Operation != int32(OperationAppend) || sku.Backend != int32(Host) || sku.Device != 0 {
		t.Error(sku)
	}
	d := oneByteRows(1, 1, 1)
	d.KernelName = sku.KernelName
	newPlan[uint8, int64, int32](t, d)
}

func TestFaultsOfIndices(t *testing.T) {
	d := oneByteRows(1, 2, 2)
	d.Addressing = Slots
	cache := make([]uint8, 8)
	appends := &Append[uint8, int64, int32]{KNew: []uint8{1, 2}, KCache: cache, Slots: []int64{5, 5}}
	plan := newPlan[uint8, int64, int32](t, d)
	refused(t, plan.Validate(appends), ErrorDuplicate, "both go to row 1 of block 1")
	appends.Slots[1] = 6
	must(t, plan.Validate(appends))

	d.Operation = OperationGather
	out := &Gather[uint8, int64, int32]{KOut: []uint8{1, 2}, KCache: cache, Slots: []int64{5, 8}}
	refused(t, newPlan[uint8, int64, int32](t, d).ValidateGather(out), ErrorSkipped, "8")
	d.Operation = OperationMove
	moves := &Move[uint8, int64, int32]{KCache: cache, FromSlots: []int64{0, 8}, Slots: []int64{1, 2}}
	refused(t, newPlan[uint8, int64, int32](t, d).ValidateMove(moves), ErrorSkipped, "8")
	holds(t, cache, 0, 0, 0, 0, 0, 0, 0, 0)
}
