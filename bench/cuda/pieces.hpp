// SPDX-License-Identifier: Apache-2.0
// What a call copies, stated apart from the library: so its bytes can be checked, and others can be told to copy them.
#pragma once

#include "../host/workload.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

// A run of adjacent bytes: from this number of bytes into the source to that number of bytes into the target.
struct Piece {
    std::size_t from;
    std::size_t to;
    std::size_t bytes;
};

// As few as there can be: rows that are adjacent on both sides are one piece.
std::vector<Piece> pieces_of(const Workload &workload, const Indices &indices);

// Which sample each token belongs to, where samples have rows of their own in one tensor [T, H, D].
std::vector<std::int32_t> samples_of_tokens(const Indices &indices);
