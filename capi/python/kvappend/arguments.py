# SPDX-License-Identifier: Apache-2.0
"""The types of the arguments, for type checkers and editors. kvappend.Plan says what each argument means."""

from __future__ import annotations

import collections.abc
import typing

from .layout import Layout
from .rotary import Rotary
from .storage import Storage


class SupportsDLPack(typing.Protocol):
    """A tensor of NumPy, PyTorch and others."""

    def __dlpack__(self, *, stream: typing.Any = ...) -> typing.Any: ...

    def __dlpack_device__(self) -> typing.Any: ...


# A plan can be made of layouts, too. Places and positions may be numbers of Python.
Tensor = SupportsDLPack | None
Numbers = SupportsDLPack | int | collections.abc.Sequence[typing.Any] | None


class Common(typing.TypedDict, total=False):
    """What an append, a gather and a move have."""
    k_cache: Tensor
    v_cache: Tensor
    k_scales: Tensor
    v_scales: Tensor
    k_global_scale: Tensor
    v_global_scale: Tensor
    report: Tensor
    slots: Numbers
    lengths: Numbers
    token_count: Numbers
    layout: str | None
    new_layout: str
    ring: bool
    sink_rows: int
    reserved_slot: int | None
    reserved_page: int | None
    flags: int
    trap: bool
    smaller_batch: bool
    k_storage: Storage | None
    v_storage: Storage | None
    kernel_name: str | None
    host_threads: int


class Places(Common, total=False):
    """Where the rows of an append or of a gather are."""
    cache_offsets: Numbers
    end_offsets: Numbers
    last_page_lengths: Numbers
    token_positions: Numbers
    left_pads: Numbers
    batch_index: Numbers
    page_table: Numbers
    page_indptr: Numbers
    token_samples: Numbers


class Append(Places, total=False):
    """The arguments of an append."""
    k_new: Tensor
    v_new: Tensor
    rotary_cos: Tensor
    rotary_sin: Tensor
    q: Tensor
    q_out: Tensor
    q_scales: Tensor
    positions: Numbers
    rotary: Rotary | None
    q_storage: Storage | None


class Gather(Places, total=False):
    """The arguments of a gather."""
    k_out: Tensor
    v_out: Tensor


class Move(Common, total=False):
    """The arguments of a move."""
    from_slots: Numbers


class RunTensors(typing.TypedDict, total=False):
    """The tensors of a run of a plan, whatever it does."""
    k_new: Tensor
    v_new: Tensor
    k_out: Tensor
    v_out: Tensor
    k_cache: Tensor
    v_cache: Tensor
    k_scales: Tensor
    v_scales: Tensor
    k_global_scale: Tensor
    v_global_scale: Tensor
    report: Tensor
    rotary_cos: Tensor
    rotary_sin: Tensor
    q: Tensor
    q_out: Tensor
    q_scales: Tensor
    cache_offsets: Numbers
    end_offsets: Numbers
    last_page_lengths: Numbers
    slots: Numbers
    from_slots: Numbers
    token_positions: Numbers
    positions: Numbers
    lengths: Numbers
    left_pads: Numbers
    batch_index: Numbers
    page_table: Numbers
    page_indptr: Numbers
    token_samples: Numbers
    token_count: Numbers


class PlanTensors(typing.TypedDict, total=False):
    """The tensors that a plan is made for, or their layouts."""
    k_new: Tensor | Layout
    v_new: Tensor | Layout
    k_out: Tensor | Layout
    v_out: Tensor | Layout
    k_cache: Tensor | Layout
    v_cache: Tensor | Layout
    k_scales: Tensor | Layout
    v_scales: Tensor | Layout
    k_global_scale: Tensor | Layout
    v_global_scale: Tensor | Layout
    report: Tensor | Layout
    rotary_cos: Tensor | Layout
    rotary_sin: Tensor | Layout
    q: Tensor | Layout
    q_out: Tensor | Layout
    q_scales: Tensor | Layout
    cache_offsets: Numbers | Layout
    end_offsets: Numbers | Layout
    last_page_lengths: Numbers | Layout
    slots: Numbers | Layout
    from_slots: Numbers | Layout
    token_positions: Numbers | Layout
    positions: Numbers | Layout
    lengths: Numbers | Layout
    left_pads: Numbers | Layout
    batch_index: Numbers | Layout
    page_table: Numbers | Layout
    page_indptr: Numbers | Layout
    token_samples: Numbers | Layout
    token_count: Numbers | Layout
