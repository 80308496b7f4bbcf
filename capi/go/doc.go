// SPDX-License-Identifier: Apache-2.0

// Package kvappend writes new K and V rows into the KV caches of LLM runtimes, gathers rows from them, and moves rows
// within them. It is a wrapper of the C library libkvappend, which must be installed. The header kvappend/kvappend.h is
// the manual. It says what each setting means.
//
// A [Descriptor] says what is the same at every step: extents, strides, the addressing, the storage format, the
// rotation. [NewPlan] makes a [Plan] of it, which is run at every step with the buffers of that step: [Plan.Run] with
// an [Append], [Plan.Gather] with a [Gather], or [Plan.Move] with a [Move]. [RunLayers], [GatherLayers] and
// [MoveLayers] do several layers in one call.
//
// The three type parameters are the type of the elements ([Element]), that of offsets, slots and positions ([Offset]),
// and that of all other indices ([Index]).
//
// These functions take slices of Go's memory. The indices may have any values: no value makes a run access memory
// outside the slices. For memory of a CUDA device, set Descriptor.Backend to [CUDA], and use [Plan.RunRaw] or
// [RunLayersRaw] with pointers and a stream.
//
// Errors are of the type *[Error].
package kvappend
