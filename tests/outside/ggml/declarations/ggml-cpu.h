/* SPDX-License-Identifier: Apache-2.0 */
/* What the guide's decoder uses of ggml's CPU backend. See ggml.h. */
#pragma once

#include "ggml.h"

struct ggml_threadpool;
struct ggml_cplan {
    size_t work_size;
    uint8_t *work_data;
};

struct ggml_cplan ggml_graph_plan(const struct ggml_cgraph *cgraph, int n_threads, struct ggml_threadpool *threadpool);
enum ggml_status ggml_graph_compute(struct ggml_cgraph *cgraph, struct ggml_cplan *cplan);
