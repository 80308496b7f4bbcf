// SPDX-License-Identifier: Apache-2.0
#include "subject.hpp"

std::unique_ptr<Memory> another_subject() {
    return host_memory();
}
