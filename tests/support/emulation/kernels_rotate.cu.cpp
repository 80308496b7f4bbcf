// SPDX-License-Identifier: Apache-2.0
#include "../../../src/cuda/kernels_rotate.cu"
