// SPDX-License-Identifier: Apache-2.0

package kvappend

// #include <stdint.h>
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// In a file of its own, because C code beside an exported function may only declare.
//
//export kvappendGoRest
func kvappendGoRest(rest C.uintptr_t, last, result unsafe.Pointer) {
	cgo.Handle(rest).Value().(func(last, result unsafe.Pointer))(last, result)
}
