// SPDX-License-Identifier: Apache-2.0
#include "configuration.hpp"

#include <string_view>

namespace {

// Llama has every arrangement, the others the plainest and the one they are served with.
bool wanted(const Configuration &configuration) {
    const std::string_view model = configuration.model->name;
    const std::string_view arrangement = configuration.arrangement->name;
    if (!configuration.aligned) {
        return (model == "llama3-8b" || model == "stories15m") &&
               (arrangement == "dense-bhsd" || arrangement == "slots16");
    }
    if (model == "llama3-8b") {
        return arrangement != "slots64";
    }
    if (configuration.model->one_row) { // Its one head makes other arrangements the same.
        return arrangement == "dense-bshd" || arrangement == "slots64";
    }
    return arrangement == "dense-bhsd" || arrangement == "slots16" ||
           (arrangement == "ring" && configuration.model->window != 0);
}

// Llama's rows, from whole caches, from pages of either order, and from slots.
bool wanted_as_gather(const Configuration &configuration) {
    const std::string_view arrangement = configuration.arrangement->name;
    return configuration.aligned && std::string_view(configuration.model->name) == "llama3-8b" &&
           (arrangement == "dense-bhsd" || arrangement == "paged16" || arrangement == "paged64-hnd" ||
            arrangement == "slots16");
}

// Llama's decoding and prompts, by samples and by slots.
bool wanted_in_formats(const Configuration &configuration) {
    const std::string_view arrangement = configuration.arrangement->name;
    const Step &step = *configuration.step;
    const bool decode = step.phase == Phase::decode && step.batch <= 64;
    const bool prompt = step.phase == Phase::prefill && step.batch == 1 && (step.rows == 512 || step.rows == 4096);
    return configuration.aligned && std::string_view(configuration.model->name) == "llama3-8b" &&
           (arrangement == "dense-bhsd" || arrangement == "slots16") && (decode || prompt);
}

bool wanted_briefly(const Configuration &configuration) {
    const std::string_view model = configuration.model->name;
    const std::string_view arrangement = configuration.arrangement->name;
    const Step &step = *configuration.step;
    const bool few_rows = step.batch * step.rows <= 64;
    const bool prompt = step.phase == Phase::prefill && step.batch == 1 && step.rows <= 2048;
    if (configuration.gathers()) {
        return arrangement == "paged16" && step.rows <= 512;
    }
    if (configuration.format != nullptr) {
        return arrangement == "slots16" && step.batch * step.rows == 64;
    }
    if (model == "llama3-8b" && (arrangement == "dense-bhsd" || arrangement == "slots16")) {
        return configuration.aligned && (few_rows || prompt);
    }
    return configuration.aligned && model == "deepseek-v3" && arrangement == "slots64" && few_rows &&
           step.phase == Phase::decode;
}

} // namespace

std::string Configuration::name() const {
    return std::string(model->name) + "/" + arrangement->name + "/" + name_of(step->phase) + "-" +
           std::to_string(step->batch) + "x" + std::to_string(step->rows) + (cold ? "/cold" : "/warm") +
           (aligned ? "" : "/unaligned") + (format == nullptr ? "" : std::string("/") + format->name) +
           (pinned ? "/pinned" : "");
}

namespace {

void add_formats(Configuration configuration, bool brief, std::vector<Configuration> &configurations) {
    for (const Format &format : formats) {
        configuration.format = &format;
        if (wanted_in_formats(configuration) && (!brief || wanted_briefly(configuration))) {
            configurations.push_back(configuration);
        }
    }
}

} // namespace

std::vector<Configuration> all_configurations(bool brief) {
    std::vector<Configuration> configurations;
    for (const bool aligned : {true, false}) {
        for (const Model &model : models) {
            for (const Arrangement &arrangement : arrangements) {
                for (const Step &step : steps) {
                    for (const bool cold : {true, false}) {
                        const Configuration configuration{&model, &arrangement, &step, cold, aligned};
                        if (wanted(configuration) && (!brief || wanted_briefly(configuration))) {
                            configurations.push_back(configuration);
                        }
                        add_formats(configuration, brief, configurations);
                    }
                }
                for (const Step &step : gather_steps) {
                    for (const bool cold : {true, false}) {
                        const Configuration configuration{&model, &arrangement, &step, cold, aligned};
                        if (wanted_as_gather(configuration) && (!brief || wanted_briefly(configuration))) {
                            configurations.push_back(configuration);
                        }
                    }
                }
            }
        }
    }
    return configurations;
}
