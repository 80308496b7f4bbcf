// SPDX-License-Identifier: Apache-2.0

// The program has a cache of pages that stores rows as INT8, with a scale for each row. It appends rows, gathers them,
// and moves one of them.
package main

import (
	"fmt"
	"log"
	"math"

	kvappend "kvappend.example/capi/go"
)

type plan = *kvappend.Plan[float32, int64, int32]

var (
	pageTable = []int32{3, 1, 0, 2} // the pages of sample 0, and those of sample 1
	offsets   = []int64{2, 0}       // sample 0 has two rows already
)

// Four pages of four rows of eight elements.
type cache struct {
	codes  []uint8
	scales []float32
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func newPlan(d kvappend.Descriptor) plan {
	p, err := kvappend.NewPlan[float32, int64, int32](d)
	must(err)
	return p
}

func (c *cache) gather(p plan) []float32 {
	kOut := make([]float32, 48)
	must(p.Gather(&kvappend.Gather[float32, int64, int32]{
		KStored: c.codes, KScales: kvappend.Bytes(c.scales), KOut: kOut, PageTable: pageTable, CacheOffsets: offsets,
	}))
	return kOut
}

func main() {
	storage, err := kvappend.PresetInt8Row.Storage()
	must(err)
	storage.ScaleStrides = [4]int64{4 * 4, 0, 4, 0} // in bytes, from page to page and from row to row

	// Two samples with three rows of K for each. There is no V: its rows have no elements.
	d := kvappend.Descriptor{
		Addressing: kvappend.Paged, TableEntries: 2, Batch: 2, Heads: 1, NewRows: 3, CacheBlocks: 4, CacheRows: 4,
		KDim: 8, KStorage: &storage,
	}
	appends := newPlan(d)
	defer appends.Close()
	d.Operation = kvappend.OperationGather
	gathers := newPlan(d)
	defer gathers.Close()
	moves := newPlan(kvappend.Descriptor{
		Operation: kvappend.OperationMove, Addressing: kvappend.Slots, Batch: 1, Heads: 1, NewRows: 1, CacheBlocks: 4,
		CacheRows: 4, KDim: 8, KStorage: &storage,
	})
	defer moves.Close()

	kNew := make([]float32, 48)
	for i := range kNew {
		kNew[i] = float32(i*7%48 - 24)
	}
	c := cache{make([]uint8, 4*4*8), make([]float32, 4*4)}
	must(appends.Run(&kvappend.Append[float32, int64, int32]{
		KNew: kNew, KStored: c.codes, KScales: kvappend.Bytes(c.scales), PageTable: pageTable, CacheOffsets: offsets,
	}))
	kOut := c.gather(gathers)
	largest := 0.0
	for i := range kOut {
		largest = math.Max(largest, math.Abs(float64(kOut[i]-kNew[i])))
	}
	fmt.Printf("largest error: %.4f\n", largest)

	// Row 4 of sample 0 (page 1, row 0) takes the place of its row 2 (page 3, row 2), with its scale.
	must(moves.Move(&kvappend.Move[float32, int64, int32]{
		KStored: c.codes, KScales: kvappend.Bytes(c.scales), FromSlots: []int64{4}, Slots: []int64{3*4 + 2},
	}))
	same := true
	for i, element := range c.gather(gathers)[:8] {
		same = same && element == kOut[16+i]
	}
	fmt.Println("row 4 is now row 2:", same)
}
