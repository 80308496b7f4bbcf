// SPDX-License-Identifier: Apache-2.0
// Checks how a cache stores its rows: the fields of kvappend_storage.
#pragma once

#include "format.hpp"
#include "status.hpp"
#include "tensor.hpp"

#include <cstdint>

namespace kvappend {

std::uint32_t bits_of_stored_type(std::int32_t stored_type);
std::uint32_t bytes_of_scale(std::int32_t scale_type);
// The stored type whose codes are the elements of a type that is converted.
std::int32_t stored_type_of(std::int32_t element_type);
// The largest error of a code, as kvappend_precision_guarantee tells it.
float error_of(std::int32_t stored_type);

// What a storage depends on.
struct StorageInput {
    const kvappend_descriptor &descriptor;
    const kvappend_storage *storage; // NULL: AS_IS
    const char *name;                // "k_storage"
    const char *scales_name;         // "k_scales"
    const char *scale_strides_name;  // "k_storage->scale_strides"
    std::int64_t dim;
    std::int64_t pack;
};

// Checks the storage and fills the format. The type is AS_IS if the codes are the bits of the elements.
Status check_storage(const StorageInput &input, Format &format);

// Measures the tensor of scales, which is empty without scales. `cache` is the cache's description.
Status create_scales(const StorageInput &input, const Format &format, const TensorDescription &cache, Tensor &scales);

} // namespace kvappend
