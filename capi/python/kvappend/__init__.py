# SPDX-License-Identifier: Apache-2.0
"""Appends new K and V rows to KV caches, reads rows from them, and moves rows within them, by libkvappend: NumPy's
arrays and any other tensor with __dlpack__.

    import numpy, kvappend

    k_new = v_new = numpy.ones((2, 8, 1, 64), numpy.float32)           # [B, H, L, D]: one new row for each of 2 samples
    k_cache, v_cache = numpy.zeros((2, 2, 8, 100, 64), numpy.float32)  # each [B, H, R, D]
    offsets = numpy.array([17, 3])                                     # the position of each sample's new row
    kvappend.append(k_new=k_new, v_new=v_new, k_cache=k_cache, v_cache=v_cache, cache_offsets=offsets)

    k_rows, v_rows = numpy.empty((2, 2, 8, 18, 64), numpy.float32)     # rows 0 to 17 of each sample
    kvappend.gather(k_out=k_rows, v_out=v_rows, k_cache=k_cache, v_cache=v_cache, cache_offsets=0)

    # Row 19 of sample 0 becomes its row 18, and row 5 of sample 1 its row 4.
    kvappend.move(k_cache=k_cache, v_cache=v_cache, from_slots=[19, 105], slots=[18, 104])

PyTorch's tensors are used in the same way, on the CPU or on a GPU. Indices of int32 and of int64 are used as they are.
Plan describes all arguments.

A cache may store its rows in another type, such as E4M3 with a scale for the whole cache:

    e4m3 = kvappend.Storage.preset(kvappend.Preset.E4M3_DIVIDE)
    k_cache, v_cache = numpy.zeros((2, 2, 8, 100, 64), numpy.uint8)
    kvappend.append(..., k_storage=e4m3, v_storage=e4m3, k_scales=numpy.float32([2]), v_scales=numpy.float32([2]))

A gather with the same storage gives the rows as floats again.

An append may rotate K (rotary embedding), by tables [positions, D/2], and Q with it: in place, or to q_out.

    kvappend.append(..., rotary=kvappend.Rotary(), rotary_cos=cos, rotary_sin=sin)
    kvappend.append(..., rotary=kvappend.Rotary(), rotary_cos=cos, rotary_sin=sin, q=q, q_out=q_out)

The package needs nothing except ctypes. It uses the library that KVAPPEND_LIBRARY names, else the one that its wheel
has inside, else the one that the loader finds. kvappend.abi has the C interface itself, for what Plan does not offer.

kvappend.torch has operators for torch.compile, and kvappend.transformers_cache a cache for Transformers."""

from .abi import (Error, Flag, Nibbles, Operation, Preset, Report, RotaryStyle, Rounding, ScaleOrder, ScaleRounding,
                  ScaleType, ScaleUse, Scaling, Status, Stored)
from .layout import Layout
from .plan import Plan, append, append_layers, gather, gather_layers, move, move_layers
from .rotary import Rotary
from .storage import Storage

__all__ = ["Error", "Flag", "Layout", "Nibbles", "Operation", "Plan", "Preset", "Report", "Rotary", "RotaryStyle",
           "Rounding", "ScaleOrder", "ScaleRounding", "ScaleType", "ScaleUse", "Scaling", "Status", "Storage",
           "Stored", "append", "append_layers", "gather", "gather_layers", "move", "move_layers"]
