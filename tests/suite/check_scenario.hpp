// SPDX-License-Identifier: Apache-2.0
// Runs a scenario on the subject, and compares every byte of every block with what the reference says.
#pragma once

#include "scenario.hpp"

#include <random>
#include <vector>

// Fills all blocks with random bytes, runs the scenario on the subject, and requires every byte of every block to be
// what the reference makes of them. Runs the same plan `runs` times, with new bytes each time; but offsets that the
// plan advances, and a report that it does not reset, go on from run to run.
void check_scenario(const Scenario &scenario, std::mt19937_64 &random, int runs = 1);

// Runs an append, and then a gather by the same descriptor that sets skipped rows to zero. Requires every byte to be as
// after the reference's append and gather.
void check_round_trip(const Scenario &scenario, std::mt19937_64 &random);

// What validate says of the scenario, and that it leaves every byte unchanged.
kvappend_status check_validate(const Scenario &scenario, std::mt19937_64 &random);

// A layer of a call for several. One that shares with an earlier layer (else -1) has the same plan, arrays of
// indices and rotary tables. Its scenario differs only in where the tensors lie, and neither advances offsets.
struct ScenarioLayer {
    Scenario scenario;
    int shares_with = -1;
};

// The same for kvappend_plan_run_layers.
void check_layers(const std::vector<ScenarioLayer> &layers, std::mt19937_64 &random, int runs = 1);
