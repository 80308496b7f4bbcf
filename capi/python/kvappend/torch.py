# SPDX-License-Identifier: Apache-2.0
"""Operators of PyTorch: torch.ops.kvappend.append, gather and move, and functions that call them. They work in
torch.compile(fullgraph=True) and in torch.export, on the CPU and on CUDA, there in the current stream.

    import kvappend.torch as kv

    @torch.compile(fullgraph=True)
    def step(k_new, v_new, k_cache, v_cache, offsets):
        kv.append(k_new=k_new, v_new=v_new, k_cache=k_cache, v_cache=v_cache, cache_offsets=offsets)

append, gather and move take the arguments of kvappend.append, kvappend.gather and kvappend.move, except:

- All tensors are PyTorch's. Numbers and lists are not taken: `cache_offsets` may be torch.tensor(3), and
  flags=Flag.ZERO_OFFSETS is an offset of 0.
- `q` is only read, and `q_out` is needed with it.
- `cache_offsets` is not advanced: add to it.
- There is no `stream` and no `kernel_name`.
- No gradients flow through them: tensors that require gradients are refused.

The operators declare what they write: the caches, their scales, `report`, `k_out`, `v_out`, `q_out` and `q_scales`."""

from __future__ import annotations

import collections.abc
import typing

import torch

from . import plan
from .abi import Error, Flag, Status
from .rotary import Rotary
from .storage import Storage

_INDICES = ("cache_offsets", "end_offsets", "last_page_lengths", "slots", "lengths", "left_pads", "batch_index",
            "page_table", "page_indptr", "token_samples", "token_positions", "token_count")
_CACHES = ("k_cache", "v_cache")
_SCALES = ("k_scales", "v_scales")
_GLOBAL_SCALES = ("k_global_scale", "v_global_scale")
# The tensors that each operator reads, and those that it writes.
_TENSORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "append": (("k_new", "v_new", *_INDICES, *_GLOBAL_SCALES, "rotary_cos", "rotary_sin", "positions", "q"),
               (*_CACHES, *_SCALES, "report", "q_out", "q_scales")),
    "gather": ((*_CACHES, *_INDICES, *_SCALES, *_GLOBAL_SCALES), ("k_out", "v_out", "report")),
    "move": (("from_slots", "slots", "lengths", "token_count", *_GLOBAL_SCALES), (*_CACHES, *_SCALES, "report")),
}
_OPTIONS = {"layout": "str?", "new_layout": 'str="HND"', "ring": "bool=False", "sink_rows": "int=0",
            "reserved_slot": "int?", "reserved_page": "int?", "flags": "int=0", "trap": "bool=False",
            "smaller_batch": "bool=False", "host_threads": "int=0"}
# The fields of a Storage and of a Rotary, as operators take no other objects.
_PARTS = {"k_storage": "float[]?", "v_storage": "float[]?", "q_storage": "float[]?", "rotary": "int[]?"}
_KINDS = typing.get_type_hints(Storage)


# A call with these arguments alone goes to the overload `few`. The time of a call grows with the number of arguments
# that an operator has, whether they are given or not.
_FEW = frozenset(("k_new", "v_new", "k_out", "v_out", *_CACHES, "cache_offsets", "slots", "from_slots", "page_table",
                  "layout", "flags", "trap"))


def _schema(name: str, names: collections.abc.Container[str] | None = None) -> str:
    """Of an operator with all of its arguments, or with those of `names`."""
    reads, writes = _TENSORS[name]
    arguments = {tensor: "Tensor?" for tensor in reads}
    arguments |= {tensor: f"Tensor({chr(ord('a') + number)}!)?" for number, tensor in enumerate(writes)}
    arguments |= _OPTIONS
    arguments |= {part: kind for part, kind in _PARTS.items() if name == "append" or part in ("k_storage", "v_storage")}
    parts = []
    for argument, kind in arguments.items():
        if names is None or argument in names:
            kind, _, default = kind.partition("=")
            parts.append(f"{kind} {argument}={default or 'None'}")
    return f"(*, {', '.join(parts)}) -> ()"


def _storage(fields: collections.abc.Sequence[float]) -> Storage:
    return Storage(*(kind(field) for kind, field in zip(_KINDS.values(), fields, strict=True)))


def _kernel(name: str) -> collections.abc.Callable[..., None]:
    """Called with the arguments that are not their defaults."""
    calls, prepare = plan.CALLS[name]
    _, writes = _TENSORS[name]

    def kernel(**arguments: typing.Any) -> None:
        if "flags" in arguments and arguments["flags"] & Flag.ADVANCE:
            raise ValueError("flags has ADVANCE: an operator does not advance offsets")
        # A backward pass that saved one of these tensors fails, as after any write in place.
        torch.autograd.graph.increment_version([arguments[tensor] for tensor in writes if tensor in arguments])
        try:
            plan.run_quick(arguments, None, calls, prepare)
        except Error as error:
            if error.status == Status.ERROR_SKIPPED:
                raise IndexError(str(error)) from error
            raise

    return kernel


def _kernel_of_all(name: str) -> collections.abc.Callable[..., None]:
    few = _kernel(name)

    def kernel(**arguments: typing.Any) -> None:
        for part in _PARTS.keys() & arguments.keys():
            arguments[part] = Rotary(*arguments[part]) if part == "rotary" else _storage(arguments[part])
        if "q" in arguments and "q_out" not in arguments:
            raise TypeError("q_out is missing, and q is given: an operator does not rotate Q in place")
        few(**arguments)

    return kernel


def _fake(**arguments: typing.Any) -> None:
    """What an operator does to tensors without memory: it returns nothing. It refuses gradients as the kernel does, as a
    compiled graph would leave them out silently."""
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(f"{name} requires gradients: expected {name}.detach(), or a call under torch.no_grad()")


_library = torch.library.Library("kvappend", "DEF")
for _name in _TENSORS:
    for _overload, _names, _run in ((_name, None, _kernel_of_all(_name)), (_name + ".few", _FEW, _kernel(_name))):
        _library.define(_overload + _schema(_name, _names), tags=(torch.Tag.pt2_compliant_tag,))
        for _backend in ("CPU", "CUDA"):
            _library.impl(_overload, _run, _backend)
        # The kernel refuses tensors that require gradients.
        _library.impl(_overload, torch.library.fallthrough_kernel, "Autograd")
        torch.library.register_fake("kvappend::" + _overload, _fake, lib=_library)


def _call(operator: typing.Any, arguments: dict[str, typing.Any]) -> None:
    if "flags" in arguments:
        arguments["flags"] = int(arguments["flags"])
    if _FEW.issuperset(arguments):
        operator.few(**arguments)
        return
    for part in ("k_storage", "v_storage", "q_storage"):
        if arguments.get(part) is not None:
            arguments[part] = [float(field) for field in arguments[part]]
    if arguments.get("rotary") is not None:
        arguments["rotary"] = [int(field) for field in arguments["rotary"]]
    operator.default(**arguments)


def append(**arguments: typing.Any) -> None:
    """Appends new rows to caches, as kvappend.append does. See the module."""
    _call(torch.ops.kvappend.append, arguments)


def gather(**arguments: typing.Any) -> None:
    """Reads rows from caches, as kvappend.gather does. See the module."""
    _call(torch.ops.kvappend.gather, arguments)


def move(**arguments: typing.Any) -> None:
    """Moves rows within caches, as kvappend.move does. See the module."""
    _call(torch.ops.kvappend.move, arguments)
