// SPDX-License-Identifier: Apache-2.0

package kvappend

// #include <kvappend/kvappend.h>
import "C"

// Status is the result of a call. The header says for each status which functions return it, and why.
type Status int32

// The statuses of failures.
const (
	ErrorNullArgument   Status = C.KVAPPEND_ERROR_NULL_ARGUMENT
	ErrorStructSize     Status = C.KVAPPEND_ERROR_STRUCT_SIZE
	ErrorABIVersion     Status = C.KVAPPEND_ERROR_ABI_VERSION
	ErrorBackend        Status = C.KVAPPEND_ERROR_BACKEND
	ErrorElementType    Status = C.KVAPPEND_ERROR_ELEMENT_TYPE
	ErrorOffsetType     Status = C.KVAPPEND_ERROR_OFFSET_TYPE
	ErrorAddressing     Status = C.KVAPPEND_ERROR_ADDRESSING
	ErrorExtent         Status = C.KVAPPEND_ERROR_EXTENT
	ErrorStride         Status = C.KVAPPEND_ERROR_STRIDE
	ErrorOverflow       Status = C.KVAPPEND_ERROR_OVERFLOW
	ErrorOverlap        Status = C.KVAPPEND_ERROR_OVERLAP
	ErrorKernel         Status = C.KVAPPEND_ERROR_KERNEL
	ErrorLengths        Status = C.KVAPPEND_ERROR_LENGTHS
	ErrorUnsupported    Status = C.KVAPPEND_ERROR_UNSUPPORTED
	ErrorNoDevice       Status = C.KVAPPEND_ERROR_NO_DEVICE
	ErrorDriver         Status = C.KVAPPEND_ERROR_DRIVER
	ErrorCUDA           Status = C.KVAPPEND_ERROR_CUDA
	ErrorWrongDevice    Status = C.KVAPPEND_ERROR_WRONG_DEVICE
	ErrorOutOfMemory    Status = C.KVAPPEND_ERROR_OUT_OF_MEMORY
	ErrorNullBuffer     Status = C.KVAPPEND_ERROR_NULL_BUFFER
	ErrorBufferTooSmall Status = C.KVAPPEND_ERROR_BUFFER_TOO_SMALL
	ErrorMisaligned     Status = C.KVAPPEND_ERROR_MISALIGNED
	ErrorAlias          Status = C.KVAPPEND_ERROR_ALIAS
	ErrorWorkspace      Status = C.KVAPPEND_ERROR_WORKSPACE
	ErrorStream         Status = C.KVAPPEND_ERROR_STREAM
	ErrorFlags          Status = C.KVAPPEND_ERROR_FLAGS
	ErrorConflict       Status = C.KVAPPEND_ERROR_CONFLICT
	ErrorSkipPolicy     Status = C.KVAPPEND_ERROR_SKIP_POLICY
	ErrorPack           Status = C.KVAPPEND_ERROR_PACK
	ErrorSkipped        Status = C.KVAPPEND_ERROR_SKIPPED
	ErrorIndexOrder     Status = C.KVAPPEND_ERROR_INDEX_ORDER
	ErrorIndexRange     Status = C.KVAPPEND_ERROR_INDEX_RANGE
	ErrorDuplicate      Status = C.KVAPPEND_ERROR_DUPLICATE
	ErrorHostThreads    Status = C.KVAPPEND_ERROR_HOST_THREADS
	ErrorIndexWidth     Status = C.KVAPPEND_ERROR_INDEX_WIDTH
	ErrorIndexType      Status = C.KVAPPEND_ERROR_INDEX_TYPE
	ErrorStorage        Status = C.KVAPPEND_ERROR_STORAGE
	ErrorScale          Status = C.KVAPPEND_ERROR_SCALE
	ErrorOperation      Status = C.KVAPPEND_ERROR_OPERATION
	ErrorRotary         Status = C.KVAPPEND_ERROR_ROTARY
)

// String is the constant's name in C, such as "KVAPPEND_ERROR_ALIAS".
func (s Status) String() string {
	return C.GoString(C.kvappend_status_name(C.kvappend_status(s)))
}

// Error is why a call failed. Its message names the argument, its value and what was expected.
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string {
	return e.Status.String() + ": " + e.Message
}
