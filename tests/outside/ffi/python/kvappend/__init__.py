# SPDX-License-Identifier: Apache-2.0
"""Appends new K and V rows to KV caches, by libkvappend: NumPy's arrays and any other tensor with __dlpack__.

    import numpy, kvappend

    k_new = v_new = numpy.ones((2, 8, 1, 64), numpy.float32)           # [B, H, L, D]: one new row for each of 2 samples
    k_cache, v_cache = numpy.zeros((2, 2, 8, 100, 64), numpy.float32)  # each [B, H, R, D]
    offsets = numpy.array([17, 3])                                     # where each sample stands
    kvappend.append(k_new=k_new, v_new=v_new, k_cache=k_cache, v_cache=v_cache, cache_offsets=offsets)

This package is ctypes and nothing else: copy it, install libkvappend where the loader finds it (or say where by
KVAPPEND_LIBRARY), and it works. Only arrays that are read-only need NumPy 2.1: an older one does not lend them.
kvappend.abi has the C interface as it is, for what Plan does not offer."""

from .abi import Error, Flag, Report, Status
from .layout import Layout
from .plan import Plan, append, append_layers

__all__ = ["Error", "Flag", "Layout", "Plan", "Report", "Status", "append", "append_layers"]
