# SPDX-License-Identifier: Apache-2.0
"""What the package knows of a tensor, whichever library it comes from."""

from __future__ import annotations

import collections.abc
import enum
import typing


class Device(enum.IntEnum):
    """DLDeviceType of DLPack, as far as the library can reach the memory."""
    CPU = 1
    CUDA = 2
    CUDA_HOST = 3  # Pinned memory: both can reach it.
    CUDA_MANAGED = 13


ON_DEVICE = (Device.CUDA, Device.CUDA_MANAGED)
HOST = (Device.CPU, 0)

# The bytes of an element of each type that some argument can have, by the name that NumPy and PyTorch have for it.
ELEMENT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "uint16": 2, "float8_e4m3fn": 1,
                 "float8_e5m2": 1, "float8_e8m0fnu": 1, "int8": 1, "uint8": 1, "int64": 8, "int32": 4}
# The names of args.cache_offsets, one for each meaning: where the new rows of a sample begin, how many rows the sample
# has including these, or how many rows it then has on its last page.
OFFSET_NAMES = ("cache_offsets", "end_offsets", "last_page_lengths")


def device_name(device: tuple[int, int]) -> str:
    kind, number = device
    names: dict[int, str] = {
        Device.CPU: "cpu", Device.CUDA: f"cuda:{number}", Device.CUDA_HOST: "pinned memory of the cpu",
        Device.CUDA_MANAGED: f"managed memory of cuda:{number}"}
    return names.get(kind, f"device {number} of DLPack's type {kind}")


class Layout(typing.NamedTuple):
    """All of a tensor except its address. A stride, in elements, is 0 if the axis has no second entry."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    type: str = "float32"  # as NumPy and PyTorch call it
    device: tuple[int, int] = HOST  # DLPack's type of the device, and its number

    def __str__(self) -> str:
        return (f"{list(self.shape)} with strides {list(self.strides)}, of type {self.type}, on "
                f"{device_name(self.device)}")

    @property
    def is_empty(self) -> bool:
        return 0 in self.shape

    @property
    def size(self) -> int:
        """The number of bytes from the first element to the end of the last one."""
        if self.is_empty:
            return 0
        last = sum((extent - 1) * stride for extent, stride in zip(self.shape, self.strides))
        return (1 + last) * ELEMENT_BYTES[self.type]


def make_layout(shape: collections.abc.Sequence[int], strides: collections.abc.Sequence[int],
                *type_and_device: typing.Any) -> Layout:
    """A Layout whose meaningless strides are 0."""
    if 0 in shape:
        return Layout(tuple(shape), (0,) * len(shape), *type_and_device)
    strides = tuple(stride if extent > 1 else 0 for extent, stride in zip(shape, strides))
    return Layout(tuple(shape), strides, *type_and_device)


class Tensor(typing.NamedTuple):
    """A borrowed tensor: its memory exists as long as this does."""
    layout: Layout
    data: int
    read_only: bool
    lender: object
