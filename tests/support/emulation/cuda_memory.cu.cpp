// SPDX-License-Identifier: Apache-2.0
#include "../memory/cuda_memory.cu"
