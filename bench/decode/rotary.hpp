// SPDX-License-Identifier: Apache-2.0
// Rotary embedding: its tables, their kvappend_rotary, and a second implementation of its arithmetic. The computation
// without a cache rotates Q and K by it. The one with a cache rotates those rows of K that attention reads from the
// projection.
#pragma once

#include <kvappend/kvappend.h>

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

class Rotary {
public:
    // `style` is half, interleaved or none. A head has `dim` elements, all of which are rotated, and the tables are for
    // the positions below `positions`.
    Rotary(std::string_view style, std::size_t dim, std::size_t positions);

    // NULL if nothing is rotated. The tables are empty then.
    const kvappend_rotary *description() const { return pairs_ != 0 ? &description_ : nullptr; }
    std::span<const float> cos() const { return cos_; }
    std::span<const float> sin() const { return sin_; }

    void rotate(std::span<float> head, std::size_t position) const;

private:
    kvappend_rotary description_ = KVAPPEND_ROTARY_INIT;
    std::size_t pairs_;
    std::vector<float> cos_; // [positions, pairs]
    std::vector<float> sin_;
};
