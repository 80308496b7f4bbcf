// SPDX-License-Identifier: Apache-2.0

package kvappend

import (
	"bytes"
	"math"
	"testing"
)

// storedRows has K caches of two rows for each of two samples. The new row of sample 0 goes to row 1, that of sample 1
// to row 0.
func storedRows(dim int64, storage *Storage) Descriptor {
	return Descriptor{Batch: 2, Heads: 1, NewRows: 1, CacheRows: 2, KDim: dim, KStorage: storage}
}

var storedAt = []int64{1, 0}

func storageOf(t *testing.T, preset Preset, scaleStrides [4]int64) *Storage {
	t.Helper()
	storage, err := preset.Storage()
	must(t, err)
	storage.ScaleStrides = scaleStrides
	return &storage
}

// untouched is memory for caches and scales.
func untouched(size int) []uint8 {
	return bytes.Repeat([]uint8{0xee}, size)
}

func TestE4M3WithGivenScales(t *testing.T) {
	d := storedRows(4, storageOf(t, PresetE4M3Divide, [4]int64{}))
	d.VDim = 2
	d.VStorage = storageOf(t, PresetE4M3Divide, [4]int64{4}) // a scale for each sample
	plan := newPlan[float32, int64, int32](t, d)
	kCache, vCache := untouched(16), untouched(8)
	must(t, plan.Run(&Append[float32, int64, int32]{
		KNew:         []float32{2, -3, 896, 0.5, 1000, 0, float32(math.Copysign(0, -1)), 2.125},
		VNew:         []float32{4, -6, 2, 1},
		KStored:      kCache,
		VStored:      vCache,
		KScales:      Bytes([]float32{2}),
		VScales:      Bytes([]float32{4, 2}),
		CacheOffsets: storedAt,
	}))
	holds(t, kCache, 0xee, 0xee, 0xee, 0xee, 0x38, 0xbc, 0x7e, 0x28, // 1, -1.5, 448, 0.25
		0x7e, 0x00, 0x80, 0x38, 0xee, 0xee, 0xee, 0xee) // 500, 0, -0, 1.0625
	holds(t, vCache, 0xee, 0xee, 0x38, 0xbc, 0x38, 0x30, 0xee, 0xee) // 1, -1.5; 1, 0.5

	guarantee, err := plan.PrecisionGuarantee()
	must(t, err)
	expected := PrecisionGuarantee{Deterministic: true, SameOnAllBackends: true, KError: 0.0625, VError: 0.0625}
	if guarantee != expected {
		t.Error(guarantee)
	}
}

// Rows of four codes and the scale of the row, in memory of floats, so that scales are aligned.
func TestInt8WithScalesInTheSameRows(t *testing.T) {
	d := storedRows(4, storageOf(t, PresetInt8Row, [4]int64{16, 0, 8, 0}))
	d.KCacheStrides = Strides{16, 0, 8}
	plan := newPlan[float32, int64, int32](t, d)
	cache := Bytes(make([]float32, 8))
	copy(cache, untouched(32))
	must(t, plan.Run(&Append[float32, int64, int32]{
		KNew:         []float32{127, -63.5, 1, 0.5, 254, 1, -3, 5},
		KStored:      cache,
		KScales:      cache[4:],
		CacheOffsets: storedAt,
	}))
	holds(t, cache, append(append(untouched(8),
		0x7f, 0xc0, 0x01, 0x01, 0x00, 0x00, 0x80, 0x3f, // 127, -64, 1, 1; 1.0
		0x7f, 0x01, 0xfe, 0x03, 0x00, 0x00, 0x00, 0x40), // 127, 1, -2, 3; 2.0
		untouched(8)...)...)
}

func TestNVFP4WithAGlobalScale(t *testing.T) {
	plan := newPlan[float32, int64, int32](t, storedRows(16, storageOf(t, PresetNVFP4, [4]int64{2, 0, 1, 0})))
	kNew := []float32{0, 1, 2, 3, 4, 6, 8, 12, -1, -2, -3, -4, -6, -8, -12, 0.5, // by 4 * 0.5
		6, 5, -0.25, 2.5, 1.75, -3.5, 0.75, float32(math.NaN()), 0, 0, 0, 0, 0, 0, 0, 0} // by 2 * 0.5
	cache, scales := untouched(32), untouched(4)
	must(t, plan.Run(&Append[float32, int64, int32]{
		KNew:         kNew,
		KStored:      cache,
		KScales:      scales,
		KGlobalScale: []float32{0.5},
		CacheOffsets: storedAt,
	}))
	holds(t, cache, append(append(untouched(8),
		0x10, 0x32, 0x54, 0x76, 0xa9, 0xcb, 0xed, 0x0f,
		0x67, 0x48, 0xe4, 0x02, 0x00, 0x00, 0x00, 0x00),
		untouched(8)...)...)
	holds(t, scales, 0xee, 0x48, 0x40, 0xee) // 4 and 2
}

func TestPresets(t *testing.T) {
	for preset, expected := range map[Preset]Storage{
		PresetF16:     {Type: StoredF16},
		PresetIndexer: {Type: StoredE4M3, Scaling: ScalingComputed, AmaxFloor: 1e-4},
		PresetNVFP4ByFourRows: {
			Type:        StoredE2M1,
			Scaling:     ScalingComputed,
			ScaleUse:    ScaleReciprocal,
			ScaleType:   ScaleE4M3,
			ScaleOrder:  ScaleByFourRows,
			GlobalScale: true,
			Group:       16,
		},
		PresetDeepSeekV3PowerOfTwo: {
			Type:          StoredE4M3,
			Scaling:       ScalingComputed,
			ScaleRounding: ScalePowerOfTwo,
			ScaleFloor:    1e-4,
			Group:         128,
		},
		PresetQ4_0: {
			Type:      StoredInt4,
			Scaling:   ScalingComputed,
			ScaleUse:  ScaleUnroundedReciprocal,
			ScaleType: ScaleF16,
			Rounding:  RoundingHalfAway,
			Nibbles:   NibblesHalves,
			Group:     32,
		},
	} {
		storage, err := preset.Storage()
		must(t, err)
		if storage != expected {
			t.Errorf("preset %d is %+v: expected %+v", preset, storage, expected)
		}
	}
	_, err := Preset(99).Storage()
	refused(t, err, ErrorStorage, "preset is 99")
}

// The library names each field, so each reaches it.
func TestStoragesThatAreRefused(t *testing.T) {
	for words, storage := range map[string]Storage{
		"type is 99":           {Type: 99},
		"scaling is 99":        {Scaling: 99},
		"scale_use is 99":      {ScaleUse: 99},
		"scale_type is 99":     {ScaleType: 99},
		"scale_rounding is 99": {ScaleRounding: 99},
		"scale_order is 99":    {ScaleOrder: 99},
		"rounding is 99":       {Rounding: 99},
		"nibbles is 99":        {Nibbles: 99},
		"amax_floor is -1":     {AmaxFloor: -1},
		"scale_floor is -1":    {ScaleFloor: -1},
		"group is 3":           {Group: 3},
	} {
		storage := storage
		_, err := NewPlan[float32, int64, int32](storedRows(4, &storage))
		refused(t, err, ErrorStorage, "k_storage->"+words)
	}
	plan := newPlan[float32, int64, int32](t, storedRows(4, storageOf(t, PresetE4M3Divide, [4]int64{})))
	args := &Append[float32, int64, int32]{KNew: make([]float32, 8), KStored: make([]uint8, 16), CacheOffsets: storedAt}
	refused(t, plan.Run(args), ErrorNullBuffer, "k_scales is NULL")
}
