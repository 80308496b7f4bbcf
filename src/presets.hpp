// SPDX-License-Identifier: Apache-2.0
// The storages of known caches.
#pragma once

#include "status.hpp"

#include <cstdint>

namespace kvappend {

// Fills the numeric fields of the storage, apart from strides.
Status fill_preset(std::int32_t preset, kvappend_storage &storage);

} // namespace kvappend
