// SPDX-License-Identifier: Apache-2.0
// The same tests, against the emulated runtime.
#include "cuda_test.cu"
