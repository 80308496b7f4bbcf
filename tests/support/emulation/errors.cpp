// SPDX-License-Identifier: Apache-2.0
// Names and short explanations of the errors.
#include <cuda_runtime.h>

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define EMULATION_ERROR(name, value, text)                                                                             \
    case name:                                                                                                         \
        return #name;
#include "errors.inc"
#undef EMULATION_ERROR
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
#define EMULATION_ERROR(name, value, text)                                                                             \
    case name:                                                                                                         \
        return text;
#include "errors.inc"
#undef EMULATION_ERROR
    }
    return "unrecognized error code";
}
