# SPDX-License-Identifier: Apache-2.0
"""A drop-in for Transformers' StaticCache whose new rows are appended by libkvappend:

    model.generate(**inputs, past_key_values=KvappendCache(config=model.config, max_cache_len=4096))

It is the static cache in all but `update`: the same tensors of the same shapes, masks, positions, reset and crop."""

import torch
from transformers.cache_utils import StaticCache, StaticLayer

from .abi import Error, Status
from .plan import append


if not hasattr(StaticLayer(1), "cumulative_length"):
    raise ImportError("this Transformers is too old: its static layers do not count their tokens, as those of 5 do")


class KvappendLayer(StaticLayer):
    # torch.compile cannot look into a C library. `is_compileable` must not say so: Transformers takes a cache without
    # it for one that has no rows after the last token, and leaves out their mask.
    @torch.compiler.disable
    def update(self, key_states, value_states, *_args, **_kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        try:
            # The append runs on the device of the tensors, in PyTorch's current stream. Beyond the end of the cache it
            # fails, as in the static cache. On a GPU both stop the device.
            append(k_new=key_states, v_new=value_states, k_cache=self.keys, v_cache=self.values, layout="HND",
                   cache_offsets=self.cumulative_length, trap=True)
        except Error as error:
            if error.status != Status.ERROR_SKIPPED:
                raise
            raise IndexError(f"the cache is full: it has {self.max_cache_len} rows (max_cache_len), and "
                             f"{key_states.shape[-2]} new ones begin at position {int(self.cumulative_length)}"
                             ) from error
        self.cumulative_length.add_(key_states.shape[-2])
        return self.keys, self.values


class KvappendCache(StaticCache):
    """Layers that are not plain attention over all that came before, such as sliding windows, stay as they are."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for index, layer in enumerate(self.layers):
            if type(layer) is StaticLayer:  # pylint: disable=unidiomatic-typecheck
                self.layers[index] = KvappendLayer(layer.max_cache_len)
