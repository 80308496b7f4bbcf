// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log"

	kvappend "kvappend.example/capi/go"
)

func main() {
	// Two samples with one head: one new row for each, for caches of four rows of three elements.
	plan, err := kvappend.NewPlan[float32, int64, int32](kvappend.Descriptor{
		Batch: 2, Heads: 1, NewRows: 1, CacheRows: 4, KDim: 3, VDim: 3,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer plan.Close()

	kCache, vCache := make([]float32, 24), make([]float32, 24)
	err = plan.Run(&kvappend.Append[float32, int64, int32]{
		KNew:         []float32{1, 2, 3, 4, 5, 6},
		VNew:         []float32{-1, -2, -3, -4, -5, -6},
		KCache:       kCache,
		VCache:       vCache,
		CacheOffsets: []int64{2, 0}, // the first sample has two rows already
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("K of sample 0:", kCache[:12])
	fmt.Println("V of sample 1:", vCache[12:])
}
