# SPDX-License-Identifier: Apache-2.0
"""How an append rotates the rows of K and of Q."""

import typing

from . import abi


class Rotary(typing.NamedTuple):
    """The fields of kvappend_rotary, apart from those that follow from the tensors: the number of elements that are
    rotated is twice the number of entries in a row of rotary_cos. The first of them is `first` in a row of K, and
    `q_first` in a row of Q."""
    style: abi.RotaryStyle = abi.RotaryStyle.HALF
    first: int = 0
    q_first: int = 0

    def in_c(self, table_type: int, shape: tuple[int, ...], stride: int, query: dict[str, typing.Any]) -> typing.Any:
        """`shape` and `stride` are those of the tables [positions, dim / 2]. `query` has the fields of Q."""
        return abi.Rotary(table_type=table_type, dim=2 * shape[1], table_rows=shape[0], table_stride=stride,
                          **self._asdict(), **query)
