/* SPDX-License-Identifier: Apache-2.0 */
/* An operator for ggml's CPU backend: it writes rows of F32 to cells of a K cache and a V cache of F16 or Q8_0. */
#pragma once

#include <ggml.h>
#include <kvappend/kvappend.h>

/* A plan for one token and caches [row, cells] of these types. It serves all layers, any number of tokens and any
 * number of threads. NULL: kvappend_last_error_message says why there is none. */
kvappend_plan *cells_plan(const struct ggml_tensor *k_cache, const struct ggml_tensor *v_cache);

/* The node that writes row t of k and v, [row, tokens] of F32, to cell cells[t] of the caches. cells is [tokens], of
 * I64. A negative cell is padding. The node is a view of k_cache. Add it to the graph before what reads the caches. */
struct ggml_tensor *cells_append(struct ggml_context *context, const kvappend_plan *plan, struct ggml_tensor *k_cache,
                                 struct ggml_tensor *v_cache, struct ggml_tensor *k, struct ggml_tensor *v,
                                 struct ggml_tensor *cells);
