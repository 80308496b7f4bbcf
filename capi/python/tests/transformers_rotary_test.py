# SPDX-License-Identifier: Apache-2.0
"""Rotations of Transformers' models, and the same by an append: K on its way into the cache, and Q in the same run.

In float32 both are the same two products and one sum, so they have the same bits. With 16 bits, Transformers rounds
each product and the sum to 16 bits, and the library rounds the formula of float32 once."""

import unittest

import torch
from kvappend import Rotary, append
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama

B, H, L, D, Q_HEADS, POSITIONS = 2, 2, 5, 64, 4, 40
SIZES = {"hidden_size": Q_HEADS * D, "num_attention_heads": Q_HEADS}
MODELS = ((modeling_llama, modeling_llama.LlamaRotaryEmbedding(LlamaConfig(**SIZES))),
          (modeling_gpt_neox, modeling_gpt_neox.GPTNeoXRotaryEmbedding(GPTNeoXConfig(**SIZES))))
OFFSETS = torch.tensor([0, POSITIONS - L])


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def rows(heads, dtype):
    """[B, H, L, D] as models have it, by a transpose. Few bits, so that sums of products are exact in float64."""
    return torch.randint(-255, 256, (B, L, heads, D)).div(64).to(dtype).transpose(1, 2)


def by_library(embedding, q, k, in_place):
    """Q and K, rotated by tables of all positions."""
    cos, sin = (table[0] for table in embedding(q, torch.arange(POSITIONS)[None]))
    cache, half = torch.zeros(B, H, POSITIONS, D, dtype=k.dtype), cos.shape[-1] // 2
    q = q.clone()
    q_out = q if in_place else torch.zeros_like(q)
    append(k_new=k, k_cache=cache, cache_offsets=OFFSETS, q=q, q_out=None if in_place else q_out, rotary=Rotary(),
           rotary_cos=cos[:, :half], rotary_sin=sin[:, :half])
    return q_out, torch.stack([cache[b, :, offset:offset + L] for b, offset in enumerate(OFFSETS)])


class Rotations(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(3)

    def test_in_float32_have_the_same_bits(self):
        for model, embedding in MODELS:
            for in_place in (False, True):
                with self.subTest(model=model.__name__, in_place=in_place):
                    q, k = (torch.randn(B, L, heads, D).transpose(1, 2) for heads in (Q_HEADS, H))
                    cos, sin = embedding(q, OFFSETS[:, None] + torch.arange(L))
                    self.assertEqual(cos.shape[-1], D if model is modeling_llama else D // 4)
                    expected = model.apply_rotary_pos_emb(q, k, cos, sin)
                    self.assertFalse(torch.equal(expected[0][0, :, 1:], q[0, :, 1:]))
                    for one, other in zip(expected, by_library(embedding, q, k, in_place), strict=True):
                        self.assertTrue(torch.equal(bits(one), bits(other)))

    def test_in_16_bits_are_rounded_once(self):
        for model, embedding in MODELS:
            for dtype in (torch.bfloat16, torch.float16):
                with self.subTest(model=model.__name__, dtype=dtype):
                    q, k = rows(Q_HEADS, dtype), rows(H, dtype)
                    cos, sin = embedding(q, OFFSETS[:, None] + torch.arange(L))
                    results = (by_library(embedding, q, k, True), model.apply_rotary_pos_emb(q, k, cos, sin),
                               model.apply_rotary_pos_emb(*(x.float() for x in (q, k, cos, sin))),
                               model.apply_rotary_pos_emb(*(x.double() for x in (q, k, cos, sin))))
                    for own, theirs, float32, exact in zip(*results, strict=True):
                        self.assertTrue(torch.equal(bits(own), bits(float32.to(dtype))))
                        self.check_errors(own.double() - exact, theirs.double() - exact, exact)

    def check_errors(self, own, theirs, exact):
        """Products of numbers of 16 bits are exact in float32, and their sum s in float32 is within 2**-24 * |exact| of
        the exact one. No number of 16 bits is closer to s than the library's, so none is closer to the exact sum by
        more than twice that distance."""
        self.assertTrue((own.abs() <= theirs.abs() + 2.0**-23 * exact.abs()).all())
        self.assertTrue((own.abs() < theirs.abs()).any())
        print(f"largest relative error {(own / exact).abs().nan_to_num().max():.2e}, Transformers' "
              f"{(theirs / exact).abs().nan_to_num().max():.2e}; {int((own != theirs).sum())} of {own.numel()} differ")


if __name__ == "__main__":
    unittest.main()
