// SPDX-License-Identifier: Apache-2.0
// Checks how rows of K and of Q are rotated: the fields of kvappend_rotary.
#pragma once

#include "buffers.hpp"
#include "rotation.hpp"
#include "status.hpp"

namespace kvappend {

// Checks descriptor.rotary and fills the rotations of K and of Q. Without a rotation both are empty, and without Q that
// of Q is. The caller has checked that no extent is negative.
Status check_rotary(const kvappend_descriptor &descriptor, Rotation &k, Rotation &q);

// Adds the tables.
void add_table_buffers(const Rotation &rotation, NeededBuffers &buffers);

inline RotaryTables tables_of(const Rotation &rotation, const kvappend_args &args) {
    return rotation.dim == 0 ? RotaryTables{}
                             : RotaryTables{static_cast<const std::byte *>(args.rotary_cos),
                                            static_cast<const std::byte *>(args.rotary_sin)};
}

} // namespace kvappend
