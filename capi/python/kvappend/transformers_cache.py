# SPDX-License-Identifier: Apache-2.0
"""A drop-in for Transformers' StaticCache whose new rows are written by libkvappend:

    model.generate(**inputs, past_key_values=KvappendCache(config=model.config, max_cache_len=4096))

It has the same tensors of the same shapes, masks, positions, reset and crop. It works with torch.compile, as it uses
the operators of kvappend.torch. With storages, the layers with full attention store their rows in another format, and
each update returns all rows as they are decoded:

    q8_0 = Storage.preset(Preset.Q8_0)
    KvappendCache(config=model.config, max_cache_len=4096, k_storage=q8_0, v_storage=q8_0)"""

from __future__ import annotations

import typing

import torch
from transformers.cache_utils import (LinearAttentionAndStaticFullAttentionLayer,
                                      LinearAttentionAndStaticSlidingWindowAttentionLayer, StaticCache, StaticLayer,
                                      StaticSlidingWindowLayer)

from . import torch as operators
from .abi import Flag, ScaleType, Scaling, Stored
from .storage import Storage

if not hasattr(StaticLayer(1), "cumulative_length"):
    raise ImportError("this Transformers is too old: its static layers do not count their tokens, as those of 5 do")

Rows = tuple[torch.Tensor, torch.Tensor]
# The types of the tensors of codes and of scales. All others have one byte, except codes of Stored.AS_IS.
_CODES = {Stored.F32: torch.float32, Stored.F16: torch.float16, Stored.BF16: torch.bfloat16}
_SCALES = {ScaleType.F32: torch.float32, ScaleType.F16: torch.float16}


def _append(layer: StaticLayer, key_states: torch.Tensor, value_states: torch.Tensor, **options: typing.Any) -> None:
    """Appends after the last token. Beyond the end of the cache this fails, as in the static cache, and the rows do not
    count. On a GPU both stop the device."""
    try:
        operators.append(k_new=key_states, v_new=value_states, k_cache=layer.keys, v_cache=layer.values, layout="HND",
                         cache_offsets=layer.cumulative_length, trap=True, **options)
    except IndexError as error:
        raise IndexError(f"the cache is full: it has {layer.max_cache_len} rows (max_cache_len), and "
                         f"{key_states.shape[-2]} new ones begin at position {int(layer.cumulative_length)}") from error
    layer.cumulative_length.add_(key_states.shape[-2])


class KvappendLayer(StaticLayer):
    """The rows of all tokens."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: typing.Any,
               **_kwargs: typing.Any) -> Rows:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        _append(self, key_states, value_states)
        return self.keys, self.values


class KvappendSlidingLayer(StaticSlidingWindowLayer):
    """The rows of the last tokens, the oldest one first."""

    def lazy_initialization(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().lazy_initialization(*args, **kwargs)
        if self.keys is not None:
            slots = torch.arange(self.batch_size * self.max_cache_len, device=self.device)
            by_sample = slots.view(self.batch_size, self.max_cache_len)
            self._from_slots, self._slots = by_sample[:, 1:].flatten(), by_sample[:, :-1].flatten()
            self._last = torch.tensor(self.max_cache_len - 1, device=self.device)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: typing.Any,
               **kwargs: typing.Any) -> Rows:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = key_states.shape[-2]
        if self.cumulative_length_int + rows <= self.max_cache_len:
            _append(self, key_states, value_states)
        elif self.cumulative_length_int >= self.max_cache_len and rows == 1:
            caches = {"k_cache": self.keys, "v_cache": self.values, "layout": "HND"}
            operators.move(from_slots=self._from_slots, slots=self._slots, **caches)
            operators.append(k_new=key_states, v_new=value_states, cache_offsets=self._last, **caches)
        else:
            # More rows are returned than the layer keeps, so they are put into new tensors.
            return super().update(key_states, value_states, *args, **kwargs)
        self.cumulative_length_int += rows
        return self.keys, self.values


class KvappendHybridLayer(KvappendLayer, LinearAttentionAndStaticFullAttentionLayer):
    """Full attention beside linear attention."""


class KvappendHybridSlidingLayer(KvappendSlidingLayer, LinearAttentionAndStaticSlidingWindowAttentionLayer):
    """A sliding window beside linear attention."""


class KvappendStoredLayer(StaticLayer):
    """The rows of all tokens in other formats. `keys` and `values` are their codes."""

    def __init__(self, max_cache_len: int, k_storage: Storage, v_storage: Storage) -> None:
        super().__init__(max_cache_len)
        for storage in (k_storage, v_storage):
            if storage.scaling == Scaling.GIVEN:
                raise ValueError(f"{storage} has scales that are given: expected scales that are computed, or none")
        self.storages = {"k_storage": k_storage, "v_storage": v_storage}

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states[..., :0], value_states[..., :0])
        self.dtype, self.k_head_dim, self.v_head_dim = key_states.dtype, key_states.shape[-1], value_states.shape[-1]
        self.keys, k_scales = self._empty(self.storages["k_storage"], self.k_head_dim)
        self.values, v_scales = self._empty(self.storages["v_storage"], self.v_head_dim)
        self.scales = {"k_" + name: scale for name, scale in k_scales.items()}
        self.scales |= {"v_" + name: scale for name, scale in v_scales.items()}

    def _empty(self, storage: Storage, dim: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows = (self.batch_size, self.num_heads, self.max_cache_len)
        entries = (dim + 1) // 2 if storage.type in (Stored.INT4, Stored.E2M1) else dim
        kind = self.dtype if storage.type == Stored.AS_IS else _CODES.get(storage.type, torch.uint8)
        codes = torch.zeros(*rows, entries, dtype=kind, device=self.device)
        scales = {}
        if storage.scaling == Scaling.COMPUTED:
            kind = _SCALES.get(storage.scale_type, torch.uint8)
            groups = dim // storage.group if storage.group else 1
            scales["scales"] = torch.zeros(*rows, groups, dtype=kind, device=self.device)
        if storage.global_scale:
            scales["global_scale"] = torch.ones(1, device=self.device)
        return codes, scales

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: typing.Any,
               **_kwargs: typing.Any) -> Rows:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        formats = {**self.scales, **self.storages}
        _append(self, key_states, value_states, **formats)
        rows = (self.batch_size, self.num_heads, self.max_cache_len)
        keys = torch.empty(*rows, self.k_head_dim, dtype=self.dtype, device=self.device)
        values = torch.empty(*rows, self.v_head_dim, dtype=self.dtype, device=self.device)
        operators.gather(k_out=keys, v_out=values, k_cache=self.keys, v_cache=self.values, layout="HND",
                         flags=Flag.ZERO_OFFSETS, **formats)
        return keys, values

    def _scales_of_rows(self) -> list[str]:
        return [name for name in self.scales if name.endswith("_scales")]

    def reset(self) -> None:
        super().reset()
        if self.is_initialized:
            for name in self._scales_of_rows():
                self.scales[name].zero_()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        super().reorder_cache(beam_idx)
        if self.get_seq_length() > 0:
            for name in self._scales_of_rows():
                self.scales[name] = self.scales[name].index_select(0, beam_idx.to(self.device))


_LAYERS: dict[type, type] = {
    StaticLayer: KvappendLayer, StaticSlidingWindowLayer: KvappendSlidingLayer,
    LinearAttentionAndStaticFullAttentionLayer: KvappendHybridLayer,
    LinearAttentionAndStaticSlidingWindowAttentionLayer: KvappendHybridSlidingLayer}


class KvappendCache(StaticCache):
    """Layers with full attention and with sliding windows are the library's, also where a layer has linear attention
    beside them. Other layers stay Transformers' own. With k_storage and v_storage, layers with full attention store
    their rows in these formats. Layers with sliding windows are small, and store rows as they are."""

    def __init__(self, *args: typing.Any, k_storage: Storage | None = None, v_storage: Storage | None = None,
                 **kwargs: typing.Any) -> None:
        super().__init__(*args, **kwargs)
        if (k_storage is None) != (v_storage is None):
            raise TypeError("one of k_storage and v_storage is missing: expected both or none")
        for index, layer in enumerate(self.layers):
            if k_storage is not None and v_storage is not None and type(layer) is StaticLayer:
                self.layers[index] = KvappendStoredLayer(layer.max_cache_len, k_storage, v_storage)
            else:
                # The layer stays as StaticCache has made it, and changes only how it is updated.
                layer.__class__ = _LAYERS.get(type(layer), type(layer))
