// SPDX-License-Identifier: Apache-2.0
#include "subject.hpp"

Memory &subject() {
    static const auto memory = another_subject();
    return *memory;
}
