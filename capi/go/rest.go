// SPDX-License-Identifier: Apache-2.0

package kvappend

// #include <stdint.h>
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// This is a separate file, because the C preamble of a file with an exported function may contain declarations only.
//
//export kvappendGoRest
func kvappendGoRest(rest C.uintptr_t, last, result unsafe.Pointer) {
	cgo.Handle(rest).Value().(func(last, result unsafe.Pointer))(last, result)
}
