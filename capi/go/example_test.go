// SPDX-License-Identifier: Apache-2.0

package kvappend_test

import (
	"fmt"
	"log"

	kvappend "kvappend.example/capi/go"
)

// One sample with one head: two rows of one element, in a cache of four rows.
var small = kvappend.Descriptor{Batch: 1, Heads: 1, NewRows: 2, CacheRows: 4, KDim: 1, VDim: 1}

func planOf(d kvappend.Descriptor) *kvappend.Plan[float32, int64, int32] {
	plan, err := kvappend.NewPlan[float32, int64, int32](d)
	if err != nil {
		log.Fatal(err)
	}
	return plan
}

func ExamplePlan_Run() {
	plan := planOf(small)
	defer plan.Close()
	kCache, vCache := make([]float32, 4), make([]float32, 4)
	err := plan.Run(&kvappend.Append[float32, int64, int32]{
		KNew:         []float32{1, 2},
		VNew:         []float32{-1, -2},
		KCache:       kCache,
		VCache:       vCache,
		CacheOffsets: []int64{1},
	})
	fmt.Println(kCache, vCache, err)
	// Output: [0 1 2 0] [0 -1 -2 0] <nil>
}

func ExamplePlan_Gather() {
	d := small
	d.Operation = kvappend.OperationGather
	plan := planOf(d)
	defer plan.Close()
	kOut, vOut := make([]float32, 2), make([]float32, 2)
	err := plan.Gather(&kvappend.Gather[float32, int64, int32]{
		KCache:       []float32{1, 2, 3, 4},
		VCache:       []float32{-1, -2, -3, -4},
		KOut:         kOut,
		VOut:         vOut,
		CacheOffsets: []int64{1},
	})
	fmt.Println(kOut, vOut, err)
	// Output: [2 3] [-2 -3] <nil>
}

func ExamplePlan_Move() {
	d := small
	d.Operation = kvappend.OperationMove
	d.Addressing = kvappend.Slots
	d.CacheBlocks = 1
	plan := planOf(d)
	defer plan.Close()
	kCache, vCache := []float32{1, 2, 3, 4}, []float32{-1, -2, -3, -4}
	err := plan.Move(&kvappend.Move[float32, int64, int32]{
		KCache:    kCache,
		VCache:    vCache,
		FromSlots: []int64{2, 3},
		Slots:     []int64{1, 2},
	})
	fmt.Println(kCache, vCache, err)
	// Output: [1 3 4 4] [-1 -3 -4 -4] <nil>
}

func ExamplePlan_Validate() {
	plan := planOf(small)
	defer plan.Close()
	err := plan.Validate(&kvappend.Append[float32, int64, int32]{
		KNew:         []float32{1, 2},
		VNew:         []float32{-1, -2},
		KCache:       make([]float32, 4),
		VCache:       make([]float32, 4),
		CacheOffsets: []int64{3},
	})
	fmt.Println(err.(*kvappend.Error).Status)
	// Output: KVAPPEND_ERROR_SKIPPED
}

// Layers that share their offsets advance them once.
func ExampleRunLayers() {
	d := small
	d.Flags = kvappend.Advance
	plan := planOf(d)
	defer plan.Close()
	offsets := []int64{1}
	caches := make([][]float32, 3)
	layers := make([]kvappend.Layer[float32, int64, int32], len(caches))
	for i := range layers {
		caches[i] = make([]float32, 8) // K, then V
		layers[i] = kvappend.Layer[float32, int64, int32]{
			Plan: plan,
			Append: &kvappend.Append[float32, int64, int32]{
				KNew:         []float32{1, 2},
				VNew:         []float32{-1, -2},
				KCache:       caches[i][:4],
				VCache:       caches[i][4:],
				CacheOffsets: offsets,
			},
		}
	}
	err := kvappend.RunLayers(layers)
	fmt.Println(caches[2], offsets, err)
	// Output: [0 1 2 0 0 -1 -2 0] [3] <nil>
}

// The rows are stored as INT8, with a scale for each row.
func ExamplePreset_Storage() {
	storage, err := kvappend.PresetInt8Row.Storage()
	if err != nil {
		log.Fatal(err)
	}
	storage.ScaleStrides = [4]int64{8, 0, 4, 0} // in bytes, for a cache of two rows
	plan := planOf(kvappend.Descriptor{
		Batch: 1, Heads: 1, NewRows: 1, CacheRows: 2, KDim: 4, KStorage: &storage,
	})
	defer plan.Close()
	codes, scales := make([]uint8, 8), make([]float32, 2)
	err = plan.Run(&kvappend.Append[float32, int64, int32]{
		KNew:         []float32{254, 2, 4, 10},
		KStored:      codes,
		KScales:      kvappend.Bytes(scales),
		CacheOffsets: []int64{1},
	})
	fmt.Println(codes, scales, err)
	// Output: [0 0 0 0 127 1 2 5] [0 2] <nil>
}

// The position p is rotated by p quarter turns.
func ExampleRotary() {
	plan := planOf(kvappend.Descriptor{
		Batch: 1, Heads: 1, NewRows: 1, CacheRows: 4, KDim: 2,
		Rotary: &kvappend.Rotary{Dim: 2, TableRows: 4},
	})
	defer plan.Close()
	kCache := make([]float32, 8)
	err := plan.Run(&kvappend.Append[float32, int64, int32]{
		KNew:         []float32{3, 4},
		KCache:       kCache,
		CacheOffsets: []int64{1},
		RotaryCos:    kvappend.Bytes([]float32{1, 0, -1, 0}),
		RotarySin:    kvappend.Bytes([]float32{0, 1, 0, -1}),
	})
	fmt.Println(kCache, err)
	// Output: [0 0 -4 3 0 0 0 0] <nil>
}
