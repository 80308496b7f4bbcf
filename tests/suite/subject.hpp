// SPDX-License-Identifier: Apache-2.0
// What the suite is run on. Each executable links one definition: the host, the emulated device, or a real one.
#pragma once

#include "../support/memory/memory.hpp"

#include <memory>

// The memory and stream of the backend under test. Throws std::runtime_error, which says why, where there is none.
Memory &subject();

// The same with a stream of its own, for a thread that works beside others.
std::unique_ptr<Memory> another_subject();
