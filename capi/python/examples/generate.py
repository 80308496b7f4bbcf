# SPDX-License-Identifier: Apache-2.0
"""A small Llama with random weights generates with KvappendCache: pip install torch transformers"""

import inspect

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from kvappend import Preset, Storage
from kvappend.transformers_cache import KvappendCache

torch.manual_seed(1)
model = LlamaForCausalLM(LlamaConfig(vocab_size=512, hidden_size=128, intermediate_size=256, num_attention_heads=4,
                                     num_hidden_layers=2)).eval()
prompt = torch.tensor([[1, 2, 3, 4]])


# Newer releases of Transformers call the argument so.
keyword = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def generate(cache):
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), **{keyword: cache}, max_new_tokens=12,
                          do_sample=False, pad_token_id=0)[0].tolist()


q8_0 = Storage.preset(Preset.Q8_0)
stock = generate(StaticCache(config=model.config, max_cache_len=64))
own = generate(KvappendCache(config=model.config, max_cache_len=64))
small = generate(KvappendCache(config=model.config, max_cache_len=64, k_storage=q8_0, v_storage=q8_0))
print("StaticCache:          ", stock)
print("KvappendCache:        ", own, "the same" if own == stock else "different")
print("KvappendCache in q8_0:", small)
