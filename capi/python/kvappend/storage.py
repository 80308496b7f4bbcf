# SPDX-License-Identifier: Apache-2.0
"""How a cache stores its rows."""

import collections.abc
import ctypes
import typing

from . import abi


class Storage(typing.NamedTuple):
    """The fields of kvappend_storage, apart from the strides. These are those of the tensor of scales. To change a
    field of a preset: Storage.preset(Preset.E4M3_DIVIDE)._replace(type=Stored.E5M2)."""
    type: abi.Stored = abi.Stored.AS_IS
    scaling: abi.Scaling = abi.Scaling.NONE
    scale_use: abi.ScaleUse = abi.ScaleUse.DIVIDE
    scale_type: abi.ScaleType = abi.ScaleType.F32
    scale_rounding: abi.ScaleRounding = abi.ScaleRounding.NEAREST
    scale_order: abi.ScaleOrder = abi.ScaleOrder.LINEAR
    rounding: abi.Rounding = abi.Rounding.HALF_EVEN
    nibbles: abi.Nibbles = abi.Nibbles.PAIRS
    global_scale: bool = False
    amax_floor: float = 0.0
    scale_floor: float = 0.0
    group: int = 0

    @classmethod
    def preset(cls, preset: int) -> typing.Self:
        """The storage of a known cache: one of Preset."""
        filled = abi.Storage()
        abi.library().storage_preset(preset, filled, ctypes.sizeof(filled))
        return cls(*(kind(getattr(filled, name)) for name, kind in typing.get_type_hints(cls).items()))

    def in_c(self, scale_strides: collections.abc.Iterable[int]) -> typing.Any:
        return abi.Storage(scale_strides=abi.ScaleStrides(*scale_strides), **self._asdict())
