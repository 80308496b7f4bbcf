// SPDX-License-Identifier: Apache-2.0

package kvappend

// #include <kvappend/kvappend.h>
import "C"

import "unsafe"

// StoredType is the type of one element in a cache.
type StoredType int32

// Scaling is where scales come from.
type Scaling int32

// ScaleUse is how an element is scaled.
type ScaleUse int32

// ScaleType is the type of a scale in memory.
type ScaleType int32

// ScaleRounding is how a computed scale is rounded to its type.
type ScaleRounding int32

// ScaleOrder is the order of the scales in memory.
type ScaleOrder int32

// Rounding is how numbers halfway between two codes of Int8 and Int4 are rounded.
type Rounding int32

// Nibbles is which elements share a byte in Int4 and E2M1.
type Nibbles int32

// Preset is the storage of a known cache.
type Preset int32

// The header says what each of these means.
const (
	StoredAsIs StoredType = C.KVAPPEND_STORED_AS_IS
	StoredF32  StoredType = C.KVAPPEND_STORED_F32
	StoredF16  StoredType = C.KVAPPEND_STORED_F16
	StoredBF16 StoredType = C.KVAPPEND_STORED_BF16
	StoredE4M3 StoredType = C.KVAPPEND_STORED_E4M3
	StoredE5M2 StoredType = C.KVAPPEND_STORED_E5M2
	StoredInt8 StoredType = C.KVAPPEND_STORED_INT8
	StoredInt4 StoredType = C.KVAPPEND_STORED_INT4
	StoredE2M1 StoredType = C.KVAPPEND_STORED_E2M1

	ScalingNone     Scaling = C.KVAPPEND_SCALING_NONE
	ScalingGiven    Scaling = C.KVAPPEND_SCALING_GIVEN
	ScalingComputed Scaling = C.KVAPPEND_SCALING_COMPUTED

	ScaleDivide              ScaleUse = C.KVAPPEND_SCALE_DIVIDE
	ScaleReciprocal          ScaleUse = C.KVAPPEND_SCALE_RECIPROCAL
	ScaleMultiply            ScaleUse = C.KVAPPEND_SCALE_MULTIPLY
	ScaleUnroundedReciprocal ScaleUse = C.KVAPPEND_SCALE_UNROUNDED_RECIPROCAL

	ScaleF32   ScaleType = C.KVAPPEND_SCALE_F32
	ScaleF16   ScaleType = C.KVAPPEND_SCALE_F16
	ScaleE4M3  ScaleType = C.KVAPPEND_SCALE_E4M3
	ScaleUE8M0 ScaleType = C.KVAPPEND_SCALE_UE8M0

	ScaleNearest    ScaleRounding = C.KVAPPEND_SCALE_NEAREST
	ScalePowerOfTwo ScaleRounding = C.KVAPPEND_SCALE_POWER_OF_TWO

	ScaleLinear     ScaleOrder = C.KVAPPEND_SCALE_LINEAR
	ScaleByFourRows ScaleOrder = C.KVAPPEND_SCALE_BY_FOUR_ROWS

	RoundingHalfEven Rounding = C.KVAPPEND_ROUNDING_HALF_EVEN
	RoundingHalfAway Rounding = C.KVAPPEND_ROUNDING_HALF_AWAY

	NibblesPairs  Nibbles = C.KVAPPEND_NIBBLES_PAIRS
	NibblesHalves Nibbles = C.KVAPPEND_NIBBLES_HALVES

	PresetF16                  Preset = C.KVAPPEND_PRESET_F16
	PresetBF16                 Preset = C.KVAPPEND_PRESET_BF16
	PresetE4M3Divide           Preset = C.KVAPPEND_PRESET_E4M3_DIVIDE
	PresetE4M3Reciprocal       Preset = C.KVAPPEND_PRESET_E4M3_RECIPROCAL
	PresetE4M3Multiply         Preset = C.KVAPPEND_PRESET_E4M3_MULTIPLY
	PresetInt8Multiply         Preset = C.KVAPPEND_PRESET_INT8_MULTIPLY
	PresetInt8Channel          Preset = C.KVAPPEND_PRESET_INT8_CHANNEL
	PresetInt4Channel          Preset = C.KVAPPEND_PRESET_INT4_CHANNEL
	PresetInt8Row              Preset = C.KVAPPEND_PRESET_INT8_ROW
	PresetE4M3Row              Preset = C.KVAPPEND_PRESET_E4M3_ROW
	PresetDeepSeekV3           Preset = C.KVAPPEND_PRESET_DEEPSEEK_V3
	PresetDeepSeekV3PowerOfTwo Preset = C.KVAPPEND_PRESET_DEEPSEEK_V3_POWER_OF_TWO
	PresetDeepSeekV4           Preset = C.KVAPPEND_PRESET_DEEPSEEK_V4
	PresetIndexer              Preset = C.KVAPPEND_PRESET_INDEXER
	PresetIndexerPowerOfTwo    Preset = C.KVAPPEND_PRESET_INDEXER_POWER_OF_TWO
	PresetNVFP4                Preset = C.KVAPPEND_PRESET_NVFP4
	PresetNVFP4ByFourRows      Preset = C.KVAPPEND_PRESET_NVFP4_BY_FOUR_ROWS
	PresetQ8_0                 Preset = C.KVAPPEND_PRESET_Q8_0
	PresetQ4_0                 Preset = C.KVAPPEND_PRESET_Q4_0
)

// Storage says how the rows of K, or of V, are stored in their cache. Its zero value keeps the bits of the new rows.
type Storage struct {
	Type          StoredType
	Scaling       Scaling
	ScaleUse      ScaleUse
	ScaleType     ScaleType
	ScaleRounding ScaleRounding
	ScaleOrder    ScaleOrder
	Rounding      Rounding
	Nibbles       Nibbles
	GlobalScale   bool
	AmaxFloor     float32
	ScaleFloor    float32
	Group         int64    // elements that share a scale; 0: the whole row
	ScaleStrides  [4]int64 // in bytes, by block, head, row and group
}

// Storage returns the storage of a known cache. Change any of its fields, above all ScaleStrides.
func (p Preset) Storage() (Storage, error) {
	var s C.kvappend_storage
	if err := fillPreset(p, &s); err != nil {
		return Storage{}, err
	}
	return Storage{
		Type:          StoredType(s._type),
		Scaling:       Scaling(s.scaling),
		ScaleUse:      ScaleUse(s.scale_use),
		ScaleType:     ScaleType(s.scale_type),
		ScaleRounding: ScaleRounding(s.scale_rounding),
		ScaleOrder:    ScaleOrder(s.scale_order),
		Rounding:      Rounding(s.rounding),
		Nibbles:       Nibbles(s.nibbles),
		GlobalScale:   s.global_scale != 0,
		AmaxFloor:     float32(s.amax_floor),
		ScaleFloor:    float32(s.scale_floor),
		Group:         int64(s.group),
	}, nil
}

// Bytes is the memory of a slice, such as that of scales.
func Bytes[E Element](s []E) []uint8 {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*uint8)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

func (s *Storage) inC() *C.kvappend_storage {
	if s == nil {
		return nil
	}
	storage := &C.kvappend_storage{
		struct_size:    C.sizeof_kvappend_storage,
		_type:          C.int32_t(s.Type),
		scaling:        C.int32_t(s.Scaling),
		scale_use:      C.int32_t(s.ScaleUse),
		scale_type:     C.int32_t(s.ScaleType),
		scale_rounding: C.int32_t(s.ScaleRounding),
		scale_order:    C.int32_t(s.ScaleOrder),
		rounding:       C.int32_t(s.Rounding),
		nibbles:        C.int32_t(s.Nibbles),
		amax_floor:     C.float(s.AmaxFloor),
		scale_floor:    C.float(s.ScaleFloor),
		group:          C.int64_t(s.Group),
	}
	if s.GlobalScale {
		storage.global_scale = 1
	}
	for i, stride := range s.ScaleStrides {
		storage.scale_strides[i] = C.int64_t(stride)
	}
	return storage
}
