// SPDX-License-Identifier: Apache-2.0

package kvappend

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

const (
	batch     = 4
	heads     = 2
	newRows   = 3
	cacheRows = 6
	kDim      = 5
	vDim      = 3
	guard     = 7 // elements before and behind each cache
)

// One sample in the middle of its cache, one at its end, one with no row, one that begins before its cache.
var (
	offsets = []int64{1, 4, 2, -1}
	lengths = []int32{3, 3, 0, 2}
)

// raggedBatch has contiguous tensors but for VNew, whose tokens are outside heads.
var raggedBatch = Descriptor{
	Lengths:     PerSample,
	Batch:       batch,
	Heads:       heads,
	NewRows:     newRows,
	CacheRows:   cacheRows,
	KDim:        kDim,
	VDim:        vDim,
	VNewStrides: Strides{newRows * heads * vDim, vDim, heads * vDim},
}

// byteView is the memory of a slice.
func byteView[T Element](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// noise has arbitrary bits, NaNs among them.
func noise[T Element](random *rand.Rand, count int) []T {
	s := make([]T, count)
	random.Read(byteView(s))
	return s
}

func clone[T any](s []T) []T {
	return append([]T(nil), s...)
}

// testCase holds a call's memory, the caches' with their guards.
type testCase[T Element] struct {
	kNew, vNew, kMemory, vMemory []T
}

func newCase[T Element](seed int64) *testCase[T] {
	random := rand.New(rand.NewSource(seed))
	return &testCase[T]{
		kNew:    noise[T](random, batch*heads*newRows*kDim),
		vNew:    noise[T](random, batch*heads*newRows*vDim),
		kMemory: noise[T](random, batch*heads*cacheRows*kDim+2*guard),
		vMemory: noise[T](random, batch*heads*cacheRows*vDim+2*guard),
	}
}

func (c *testCase[T]) args(offsets []int64) *Append[T, int64, int32] {
	return &Append[T, int64, int32]{
		KNew:         c.kNew,
		VNew:         c.vNew,
		KCache:       c.kMemory[guard : len(c.kMemory)-guard],
		VCache:       c.vMemory[guard : len(c.vMemory)-guard],
		CacheOffsets: offsets,
		Lengths:      lengths,
	}
}

// expected is the memory after an append by the header's words.
func (c *testCase[T]) expected() (k, v []T) {
	k, v = clone(c.kMemory), clone(c.vMemory)
	for b, offset := range offsets {
		for l := int64(0); l < int64(lengths[b]); l++ {
			position := offset + l
			if position < 0 || position >= cacheRows {
				continue
			}
			for h := 0; h < heads; h++ {
				row := (b*heads+h)*cacheRows + int(position)
				copy(k[guard+row*kDim:][:kDim], c.kNew[((b*heads+h)*newRows+int(l))*kDim:])
				copy(v[guard+row*vDim:][:vDim], c.vNew[((b*newRows+int(l))*heads+h)*vDim:])
			}
		}
	}
	return k, v
}

func (c *testCase[T]) check(t *testing.T, k, v []T) {
	t.Helper()
	if !bytes.Equal(byteView(k), byteView(c.kMemory)) || !bytes.Equal(byteView(v), byteView(c.vMemory)) {
		t.Error("the caches, or the memory around them, do not have the bytes that they should")
	}
}

func newPlan[T Element, O Offset, I Index](t *testing.T, d Descriptor) *Plan[T, O, I] {
	t.Helper()
	plan, err := NewPlan[T, O, I](d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plan.Close(); err != nil {
			t.Error(err)
		}
	})
	return plan
}

// refused wants an error with this status, and these words in its message.
func refused(t *testing.T, err error, status Status, words string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Status != status || !strings.Contains(e.Message, words) {
		t.Errorf("%v: expected %v and %q", err, status, words)
	}
}

// appendRaggedBatch takes the number that the header gives the element type.
func appendRaggedBatch[T Element](elementType int32) func(t *testing.T) {
	return func(t *testing.T) {
		plan := newPlan[T, int64, int32](t, raggedBatch)
		if sku, err := plan.Sku(); err != nil || sku.ElementType != elementType {
			t.Error(sku, err)
		}
		c := newCase[T](1)
		k, v := c.expected()
		if err := plan.Run(c.args(offsets)); err != nil {
			t.Fatal(err)
		}
		c.check(t, k, v)
	}
}

func TestRaggedBatch(t *testing.T) {
	t.Run("float32", appendRaggedBatch[float32](0))
	t.Run("float64", appendRaggedBatch[float64](1))
	t.Run("F16", appendRaggedBatch[F16](2))
	t.Run("BF16", appendRaggedBatch[BF16](3))
	t.Run("E4M3", appendRaggedBatch[E4M3](4))
	t.Run("E5M2", appendRaggedBatch[E5M2](5))
	t.Run("int8", appendRaggedBatch[int8](6))
	t.Run("uint8", appendRaggedBatch[uint8](7))
}

func TestGoroutinesShareAPlan(t *testing.T) {
	d := raggedBatch
	d.Flags = Advance
	plan := newPlan[float32, int64, int32](t, d)
	var group sync.WaitGroup
	for i := 1; i <= 16; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			for step := 0; step < 200 && !t.Failed(); step++ {
				c := newCase[float32](int64(1000*i + step))
				k, v := c.expected()
				advanced := clone(offsets)
				if err := plan.Run(c.args(advanced)); err != nil {
					t.Error(err)
				}
				c.check(t, k, v)
				for b, offset := range []int64{4, 7, 2, 1} {
					if advanced[b] != offset {
						t.Errorf("offset %d is %d: expected %d", b, advanced[b], offset)
					}
				}
				// Each goroutine gets the message of its own call, whatever thread it is on.
				c.kNew = c.kNew[:i]
				words := fmt.Sprintf("args.k_new_bytes is %d:", 4*i)
				refused(t, plan.Run(c.args(advanced)), ErrorBufferTooSmall, words)
			}
		}(i)
	}
	group.Wait()
}

func TestErrors(t *testing.T) {
	plan := newPlan[float64, int64, int32](t, raggedBatch)
	c := newCase[float64](2)
	k, v := clone(c.kMemory), clone(c.vMemory)
	args := c.args(offsets)
	args.VCache = args.VCache[1:]
	err := plan.Run(args)
	refused(t, err, ErrorBufferTooSmall, "args.v_cache_bytes is 1144: expected at least 1152")
	if !strings.HasPrefix(err.Error(), "KVAPPEND_ERROR_BUFFER_TOO_SMALL: args.v_cache_bytes") {
		t.Error(err)
	}
	// An empty slice is not one of unknown size.
	args = c.args([]int64{})
	refused(t, plan.Run(args), ErrorNullBuffer, "args.cache_offsets is NULL")
	args = c.args(offsets)
	args.KNew = args.KCache
	refused(t, plan.Run(args), ErrorAlias, "k_new")
	c.check(t, k, v)

	d := raggedBatch
	d.KernelName = "no such"
	if plan, err := NewPlan[float64, int64, int32](d); plan != nil {
		t.Error("a plan in spite of an error")
	} else {
		refused(t, err, ErrorKernel, "no such")
	}
	d = raggedBatch
	d.VDim = -1
	_, err = NewPlan[float64, int64, int32](d)
	refused(t, err, ErrorExtent, "v_dim is -1")
}

func TestClosed(t *testing.T) {
	plan, err := NewPlan[F16, int32, int32](raggedBatch)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 2; i++ {
		if err := plan.Close(); err != nil {
			t.Error(err)
		}
	}
	refused(t, plan.Run(&Append[F16, int32, int32]{}), ErrorNullArgument, "plan")
}

// K and V side by side in each row of one pool of pages, which tokens reach by slots; beside a pointer, which is no
// matter to Go's checks of what is passed to C.
func TestPoolBySlots(t *testing.T) {
	const tokens, pages, row = 4, 3, kDim + vDim
	pool := &struct {
		memory [pages * cacheRows * row]F16
		owner  *testing.T
	}{owner: t}
	random := rand.New(rand.NewSource(3))
	copy(pool.memory[:], noise[F16](random, len(pool.memory)))
	kNew, vNew := noise[F16](random, tokens*kDim), noise[F16](random, tokens*vDim)
	sideBySide := Strides{cacheRows * row, row, row}
	plan := newPlan[F16, int32, int32](t, Descriptor{
		Addressing:    Slots,
		Flags:         ReservedSlot | CountWritten | ResetReport,
		SkipPolicy:    SkipReport,
		Batch:         1,
		Heads:         1,
		NewRows:       tokens,
		CacheRows:     cacheRows,
		CacheBlocks:   pages,
		KDim:          kDim,
		VDim:          vDim,
		KCacheStrides: sideBySide,
		VCacheStrides: sideBySide,
	})
	// The second token is padding, and the third has a slot of no page.
	slots := []int32{17, 0, 18, 5}
	expected := pool.memory
	for _, token := range []int{0, 3} {
		begin := int(slots[token]) * row
		copy(expected[begin:][:kDim], kNew[token*kDim:])
		copy(expected[begin+kDim:][:vDim], vNew[token*vDim:])
	}
	var report Report
	err := plan.Run(&Append[F16, int32, int32]{
		KNew:   kNew,
		VNew:   vNew,
		KCache: pool.memory[:],
		VCache: pool.memory[kDim:],
		Slots:  slots,
		Report: &report,
	})
	if err != nil {
		t.Fatal(err)
	}
	if expected != pool.memory {
		t.Error("the pool does not have the bytes that it should")
	}
	counts := [...]int64{report.Written(), report.Replaced(), report.Padding(), report.Below(), report.Above()}
	if counts != [...]int64{2, 0, 1, 0, 1} {
		t.Error(counts)
	}
	if sample, row, position := report.First(); sample != 0 || row != 2 || position != 18 {
		t.Error(sample, row, position)
	}
}

// A stream reaches the library, which has no use for it in host memory.
func TestStream(t *testing.T) {
	plan := newPlan[float32, int64, int32](t, Descriptor{}) // of no rows, so that no buffer is missing
	refused(t, plan.RunRaw(&RawBuffers{}, unsafe.Pointer(new(int64))), ErrorStream, "stream")
}

// With no device NewPlan says so; a plan for one refuses Go's memory.
func TestDevice(t *testing.T) {
	d := raggedBatch
	d.Backend = CUDA
	plan, err := NewPlan[float32, int64, int32](d)
	if err == nil {
		defer plan.Close()
		refused(t, plan.Run(&Append[float32, int64, int32]{}), ErrorBackend, "RunRaw")
		return
	}
	var e *Error
	if !errors.As(err, &e) || e.Status != ErrorUnsupported && e.Status != ErrorNoDevice && e.Status != ErrorDriver {
		t.Error(err)
	}
}
