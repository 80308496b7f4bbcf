// SPDX-License-Identifier: Apache-2.0
#include "subject.hpp"

const bool subject_is_emulated = false;

Memory &subject() {
    static const auto memory = host_memory();
    return *memory;
}
