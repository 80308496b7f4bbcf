// SPDX-License-Identifier: Apache-2.0
// The combinations of model, layout and step that are measured.
#pragma once

#include "../formats.hpp"
#include "../models.hpp"
#include "arrangement.hpp"

#include <string>
#include <vector>

struct Configuration {
    const Model *model;
    const Arrangement *arrangement;
    const Step *step;
    // The destination, and with a gather also the source: places that were not touched for long, or the same ones in
    // each call.
    bool cold;
    // To 64 bytes; else the new rows begin one element behind that, and the caches two.
    bool aligned;
    const Format *format = nullptr; // of the cache; NULL: that of the new rows
    bool pinned = false;            // CUDA: a gather writes to pinned host memory

    std::string name() const;
    bool gathers() const { return step->phase == Phase::gather; }
    // Of the new rows.
    std::int32_t element_type() const { return format == nullptr ? model->element_type : format->element_type; }
};

// All, or the few of a brief look. None of them is `pinned`.
std::vector<Configuration> all_configurations(bool brief);
