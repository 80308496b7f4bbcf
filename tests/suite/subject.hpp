// SPDX-License-Identifier: Apache-2.0
// What the suite is run on. Each executable links one definition: the host, the emulated device, or a real one.
#pragma once

#include "../memory/memory.hpp"

#include <string>

// The memory and stream of the backend under test. Throws std::runtime_error, which says why, where there is none.
Memory &subject();

// Whether `subject` is emulated, so that it may be slow, and may be told to fail.
extern const bool subject_is_emulated;
