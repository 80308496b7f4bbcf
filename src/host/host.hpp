// SPDX-License-Identifier: Apache-2.0
// What the host backend consists of, for its table.
#pragma once

#include "../kernel.hpp"

namespace kvappend {

Status host_append_dense(const Problem &problem, const Target &target, const kvappend_args &args, CUstream_st *stream);
Status host_append_rows(const Problem &problem, const Target &target, const kvappend_args &args, CUstream_st *stream);

Status host_admit(const Problem &problem, const kvappend_args &args);
Status host_settle(const Problem &problem, const kvappend_args &args, CUstream_st *stream);

} // namespace kvappend
