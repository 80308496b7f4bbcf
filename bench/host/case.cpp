// SPDX-License-Identifier: Apache-2.0
#include "case.hpp"

#include <string_view>

namespace {

// Llama has every layout, the others the plainest and the one they are served with.
bool wanted(const Case &c) {
    const std::string_view model = c.model->name;
    const std::string_view layout = c.layout->name;
    if (!c.aligned) {
        return (model == "llama3-8b" || model == "stories15m") && (layout == "dense-bhsd" || layout == "slots16");
    }
    if (model == "llama3-8b") {
        return layout != "slots64";
    }
    if (c.model->one_row) { // Its one head makes other layouts the same.
        return layout == "dense-bshd" || layout == "slots64";
    }
    return layout == "dense-bhsd" || layout == "slots16" || (layout == "ring" && c.model->window != 0);
}

bool wanted_briefly(const Case &c) {
    const std::string_view model = c.model->name;
    const std::string_view layout = c.layout->name;
    const Step &step = *c.step;
    const bool few_rows = step.batch * step.rows <= 64;
    const bool prompt = step.phase == Phase::prefill && step.batch == 1 && step.rows <= 2048;
    if (model == "llama3-8b" && (layout == "dense-bhsd" || layout == "slots16")) {
        return c.aligned && (few_rows || prompt);
    }
    return c.aligned && model == "deepseek-v3" && layout == "slots64" && few_rows && step.phase == Phase::decode;
}

} // namespace

std::string Case::name() const {
    return std::string(model->name) + "/" + layout->name + "/" + name_of(step->phase) + "-" +
           std::to_string(step->batch) + "x" + std::to_string(step->rows) + (cold ? "/cold" : "/warm") +
           (aligned ? "" : "/unaligned");
}

std::vector<Case> all_cases(bool brief) {
    std::vector<Case> cases;
    for (const bool aligned : {true, false}) {
        for (const Model &model : models) {
            for (const Layout &layout : layouts) {
                for (const Step &step : steps) {
                    for (const bool cold : {true, false}) {
                        const Case c{&model, &layout, &step, cold, aligned};
                        if (wanted(c) && (!brief || wanted_briefly(c))) {
                            cases.push_back(c);
                        }
                    }
                }
            }
        }
    }
    return cases;
}
