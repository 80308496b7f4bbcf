// SPDX-License-Identifier: Apache-2.0
// Rows that libkvappend gathered from the caches of all layers. Attention can read them in place of the caches.
#pragma once

#include "decoder.hpp"

#include <cstddef>
#include <string>
#include <vector>

struct Gathered {
    struct Layer {
        std::vector<std::byte> k; // [rows of all samples, head, dim]
        std::vector<std::byte> v;
    };

    const Shape *shape = nullptr;
    const Element *element = nullptr;
    std::vector<std::size_t> first_rows; // [samples + 1]: where the rows of each sample begin
    std::vector<Layer> layers;
    std::size_t bytes = 0;
    double seconds = 0;
    std::string kernel;

    // Of all heads. The rows of a sample are its first positions.
    std::size_t rows(std::size_t sample) const { return first_rows[sample + 1] - first_rows[sample]; }

    KeyAndValue row(std::size_t layer, std::size_t sample, std::size_t position) const {
        const std::size_t heads = (first_rows[sample] + position) * shape->kv_heads;
        return {{element, layers[layer].k.data() + heads * shape->k_dim * element->width, shape->k_dim},
                {element, layers[layer].v.data() + heads * shape->v_dim * element->width, shape->v_dim}};
    }
};
