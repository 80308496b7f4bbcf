# SPDX-License-Identifier: Apache-2.0
"""Arguments of any kind: what they are, and where their memory is.

`borrow` looks at a tensor thoroughly, and refuses what an append cannot use. `glance` is for the calls after that: it
reads the few attributes that decide whether the tensors are of the same kind as before, and the addresses."""

from __future__ import annotations

import array
import collections.abc
import ctypes
import math
import operator
import sys
import typing

from . import abi, dlpack
from .layout import HOST, OFFSET_NAMES, Layout, Tensor, make_layout
from .rotary import Rotary
from .storage import Storage

# The arguments that may be plain numbers of Python, in the two groups that have one type each, and the type that plain
# numbers get if no tensor of the group has another.
_OFFSETS = (*OFFSET_NAMES, "slots", "from_slots", "token_positions", "positions")
_INDICES = ("lengths", "left_pads", "batch_index", "page_table", "page_indptr", "token_samples", "token_count")
_PLAIN = {name: (_OFFSETS, "int64") for name in _OFFSETS} | {name: (_INDICES, "int32") for name in _INDICES}
_LISTS = (list, tuple, range)
_TYPE_CODES = {"int64": "q", "int32": "i"}  # of the module array


class Numbers:
    """Plain numbers of Python, in memory of their own."""

    def __init__(self, layout: Layout, memory: typing.Any) -> None:
        self.layout, self.memory = layout, memory


# The first field of NumPy's array object after Python's own is the address of its data, in every release: programs in C
# read it there, too. It takes a tenth of the time that __array_interface__ or ctypes.data take. `learn` checks it.
_BEFORE_ADDRESS = object.__basicsize__
_pointer_at = ctypes.c_size_t.from_address


def _glance_numpy(tensor: typing.Any) -> typing.Any:
    return ((tensor.shape, tensor.strides, tensor.dtype, tensor.flags.writeable),
            _pointer_at(id(tensor) + _BEFORE_ADDRESS).value)


def _glance_torch(tensor: typing.Any) -> typing.Any:
    return ((tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad, tensor.is_neg()),
            tensor.data_ptr())


def _glance_numbers(numbers: typing.Any) -> typing.Any:
    return numbers.layout, numbers.memory.buffer_info()[0]


# How to glance at an argument of a type. None: the value itself is all that matters.
_GLANCES = {Numbers: _glance_numbers} | dict.fromkeys((bool, int, str, type(None), abi.Flag, Rotary, Storage))


def is_torch(tensor: typing.Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(tensor, torch.Tensor)


def _is_numpy(tensor: typing.Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(tensor, numpy.ndarray)


def learn(tensors: collections.abc.Iterable[typing.Any]) -> None:
    """Makes the types of these tensors known to `glance`. The package imports neither NumPy nor PyTorch. Subclasses
    stay unknown, as they may do everything differently."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    for tensor in tensors:
        if numpy and type(tensor) is numpy.ndarray:  # pylint: disable=unidiomatic-typecheck
            if _glance_numpy(tensor)[1] == tensor.__array_interface__["data"][0]:
                _GLANCES[numpy.ndarray] = _glance_numpy
        elif torch and type(tensor) in (torch.Tensor, torch.nn.Parameter):
            _GLANCES[type(tensor)] = _glance_torch


def _flattened(name: str, values: typing.Any) -> typing.Any:
    """The shape of nested lists, and their numbers."""
    if type(values) not in _LISTS:
        return (), [operator.index(values)]
    parts = [_flattened(name, value) for value in values]
    if len({shape for shape, _ in parts}) > 1:
        raise ValueError(f"{name} is a list of parts that differ in length: expected the same length for all")
    return (len(parts), *(parts[0][0] if parts else ())), [number for _, numbers in parts for number in numbers]


def _numbers(name: str, value: typing.Any, kind: str) -> Numbers:
    try:
        shape, numbers = _flattened(name, value)
        memory = array.array(_TYPE_CODES[kind], numbers)
    except (TypeError, OverflowError) as error:
        raise type(error)(f"{name}: {error}") from error
    strides = [math.prod(shape[axis + 1:]) for axis in range(len(shape))]
    return Numbers(make_layout(shape, strides, kind, HOST), memory)


def _type_of_plain(name: str, arguments: collections.abc.Mapping[str, typing.Any]) -> str:
    """That of the tensors of the group."""
    group, kind = _PLAIN[name]
    for other in group:
        tensor = arguments.get(other)
        text = str(getattr(tensor, "type" if isinstance(tensor, Layout) else "dtype", ""))
        kind = next((end for end in _TYPE_CODES if text.endswith(end)), kind)
    return kind


_ONE_OFFSET = _numbers("cache_offsets", 0, "int64").layout


def glance(arguments: collections.abc.Mapping[str, typing.Any]) -> typing.Any:
    """A key that equals another one if the arguments differ only in their memory; the addresses of the tensors; and
    what must be kept for these to be valid. The key is None if this needs a thorough look."""
    key: list[typing.Any] = []
    addresses: list[int] = []
    kept, glances = None, _GLANCES
    try:
        for name, value in arguments.items():
            look = glances[type(value)]
            if look is not None:
                kind, address = look(value)
                addresses.append(address)
            elif name in _PLAIN and value is not None:
                if name not in OFFSET_NAMES:
                    return None, None, None
                # One position for all samples, which may differ at each step.
                kept = array.array("q", (value,))
                kind = _ONE_OFFSET
                addresses.append(kept.buffer_info()[0])
            else:
                kind = value
            key += (name, kind)
    # Not a known type, a tensor of PyTorch that has no strides or no address, or not an offset.
    except (KeyError, RuntimeError, TypeError, OverflowError):
        return None, None, None
    return tuple(key), addresses, kept


def in_memory(arguments: collections.abc.Mapping[str, typing.Any],
              flags: int) -> collections.abc.Mapping[str, typing.Any]:
    """The arguments, with tensors for those that are numbers or lists. PyTorch brings them to the GPU of its caches."""
    plain: dict[str, typing.Any] = {}
    for name in _PLAIN.keys() & arguments.keys():
        value = arguments[name]
        if type(value) in _LISTS or hasattr(value, "__index__") and not hasattr(value, "__dlpack__"):
            plain[name] = _numbers(name, value, _type_of_plain(name, arguments))
            if name in OFFSET_NAMES and flags & abi.Flag.ADVANCE:
                raise TypeError(f"{name} is a plain number or list, and flags has ADVANCE: expected a tensor, which "
                                "the run advances")
    cache: typing.Any = arguments.get("k_cache", arguments.get("v_cache"))
    if plain and is_torch(cache) and cache.is_cuda:
        torch = sys.modules["torch"]
        plain = {name: torch.tensor(numbers.memory, dtype=getattr(torch, numbers.layout.type),
                                    device=cache.device).view(numbers.layout.shape)
                 for name, numbers in plain.items()}
    return {**arguments, **plain} if plain else arguments


def device_of(name: str, tensor: typing.Any) -> tuple[int, int]:
    """(DLPack's type of the device, its number)."""
    return tensor.layout.device if isinstance(tensor, Numbers) else dlpack.device_of(name, tensor)


def _borrow_numpy(name: str, tensor: typing.Any) -> Tensor:
    """The same as dlpack.borrow, but without DLPack. By DLPack, NumPy does not export the types of ml_dtypes, nor
    read-only arrays before version 2.1."""
    dtype, size = tensor.dtype, tensor.dtype.itemsize
    if not dtype.isnative:
        raise ValueError(f"{name} has the type {dtype.str}: expected the byte order of this machine")
    if size == 0 or any(stride % size for stride in tensor.strides):
        raise ValueError(f"{name} has strides of {list(tensor.strides)} bytes: expected multiples of the {size} bytes "
                         "of an element")
    layout = make_layout(tensor.shape, [stride // size for stride in tensor.strides], dtype.name, HOST)
    return Tensor(layout, tensor.__array_interface__["data"][0], not tensor.flags.writeable, tensor)


def borrow(name: str, tensor: typing.Any, stream: int | None = None) -> Tensor:
    """The tensor, called `name` in errors, to be used in `stream`. Its device must be current."""
    if isinstance(tensor, Numbers):
        return Tensor(tensor.layout, tensor.memory.buffer_info()[0], True, tensor)
    if _is_numpy(tensor):
        return _borrow_numpy(name, tensor)
    if is_torch(tensor) and tensor.is_neg():
        # PyTorch lends its memory, which has the other sign.
        raise BufferError(f"{name} is a negative view, such as x.conj().imag: expected the result of resolve_neg()")
    return dlpack.borrow(name, tensor, stream)
