// SPDX-License-Identifier: Apache-2.0
// The parameters of the kernels that append and gather rows.
#pragma once

#include "layout.hpp"

#include <cuda_runtime.h>

namespace kvappend {

// Kernel parameters are 4096 bytes at most, for every driver. That is enough for two geometries, such as those of
// layers with a sliding window and of layers without, and all layers of most models.
template <class Geometry, unsigned Layers>
struct Parameters {
    static constexpr unsigned most_geometries = Layers == 1 ? 1 : 2;

    Geometry geometries[most_geometries];
    std::uint32_t batch_step; // as in Grid
    std::uint32_t apart;
    std::uint32_t programmatic; // 1: wait for the launch before this one
    typename Geometry::Layer layers[Layers];
    std::uint8_t geometry_of[Layers];
};

} // namespace kvappend
