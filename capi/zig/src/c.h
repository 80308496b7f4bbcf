/* SPDX-License-Identifier: Apache-2.0 */
/* What Zig translates. */
#include <kvappend/kvappend.h>
