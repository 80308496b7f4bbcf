// SPDX-License-Identifier: Apache-2.0
// What follows a copy on a device: counting or trapping rows that have no place, and advancing the offsets.
#pragma once

#include "../kernel.hpp"

namespace kvappend {

Status cuda_prepare(const Problem &problem);
Status cuda_admit(const Problem &problem, const kvappend_args &args);
Status cuda_count(const Problem &problem, const kvappend_args &args, CUstream_st *stream);
Status cuda_advance(const Problem &problem, const kvappend_args &args, CUstream_st *stream);

} // namespace kvappend
