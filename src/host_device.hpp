// SPDX-License-Identifier: Apache-2.0
// Marks functions that both the host and the device call.
#pragma once

#if defined(__CUDACC__)
#define KVAPPEND_HOST_DEVICE __host__ __device__
#else
#define KVAPPEND_HOST_DEVICE
#endif
