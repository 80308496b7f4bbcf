// SPDX-License-Identifier: Apache-2.0
// Calls whose cost beside the copying is of interest: ready to be made any number of times.
#pragma once

#include <functional>
#include <string>
#include <vector>

struct Call {
    std::string name;
    std::function<void()> make; // throws std::runtime_error if the library refuses
};

// Those of the host backend, with beside each what it copies, copied by hand; and those of the CUDA backend where a
// plan for it can be created. Buffers live as long as the calls.
std::vector<Call> calls();
