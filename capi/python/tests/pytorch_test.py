# SPDX-License-Identifier: Apache-2.0
"""PyTorch's tensors, as views of every kind that models hand on."""

import itertools
import unittest
from unittest import mock

import numpy
import torch
from kvappend import Error, Plan, Preset, ScaleRounding, ScaleType, Scaling, Storage, Stored, append, gather

B, H, L, R, K_DIM, V_DIM = 3, 2, 4, 11, 8, 6
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
         torch.int8, torch.uint8)


def noise(*shape, dtype=torch.float32):
    width = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[dtype.itemsize]
    limits = torch.iinfo(width)
    return torch.randint(limits.min, limits.max, shape, dtype=width).view(dtype)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


class Appends(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)

    def check(self, k_new, v_new, k_cache, v_cache, offsets):
        expected = []
        for new, cache in ((k_new, k_cache), (v_new, v_cache)):
            whole = cache._base if cache._base is not None else cache  # pylint: disable=protected-access
            copy = whole.clone()
            view = copy.as_strided(cache.shape, cache.stride(), cache.storage_offset())
            for b, offset in enumerate(offsets.tolist()):
                view[b, :, offset:offset + new.shape[2]] = new[b]
            expected.append((whole, bits(copy)))
        append(k_new=k_new, v_new=v_new, k_cache=k_cache, v_cache=v_cache, cache_offsets=offsets)
        # A gather reads what was appended, into tensors of the same axes.
        k_out, v_out = torch.empty_like(k_new), torch.empty_like(v_new)
        gather(k_out=k_out, v_out=v_out, k_cache=k_cache, v_cache=v_cache, cache_offsets=offsets)
        self.assertTrue(torch.equal(bits(k_out), bits(k_new)))
        self.assertTrue(torch.equal(bits(v_out), bits(v_new)))
        for whole, copy in expected:
            self.assertTrue(torch.equal(bits(whole), copy))

    def test_every_type_and_layout(self):
        """[B, H, L, D] and [B, L, H, D], whole and cut out of something larger, on either side."""

        def tensor(rows, dim, dtype, by_position, sliced):
            extra = 3 if sliced else 0
            shape = (B, rows + extra, H, dim + extra) if by_position else (B, H, rows + extra, dim + extra)
            whole = noise(*shape, dtype=dtype)
            view = whole.transpose(1, 2) if by_position else whole
            return view[:, :, 1:1 + rows, 2:2 + dim] if sliced else view

        for dtype, new_by_position, cache_by_position, sliced, offset_type in itertools.product(
                TYPES, (False, True), (False, True), (False, True), (torch.int64, torch.int32)):
            with self.subTest(dtype=dtype, new=new_by_position, cache=cache_by_position, sliced=sliced):
                new = [tensor(L, dim, dtype, new_by_position, sliced) for dim in (K_DIM, V_DIM)]
                caches = [tensor(R, dim, dtype, cache_by_position, sliced) for dim in (K_DIM, V_DIM)]
                self.check(*new, *caches, torch.tensor([0, 5, R - L], dtype=offset_type))

    def test_a_fused_projection_an_expanded_head_and_one_pool_for_both(self):
        projection = noise(B, L, 3 * H * K_DIM, dtype=torch.bfloat16)
        _, k_new, _ = (part.view(B, L, H, K_DIM).transpose(1, 2) for part in projection.chunk(3, dim=-1))
        v_new = noise(B, 1, L, K_DIM, dtype=torch.bfloat16).expand(B, H, L, K_DIM)
        pool = noise(B, 2, R, H, K_DIM, dtype=torch.bfloat16)
        k_cache, v_cache = (pool[:, part].transpose(1, 2) for part in range(2))
        expected = pool.clone()
        expected[:, 0, 3:3 + L], expected[:, 1, 3:3 + L] = k_new.transpose(1, 2), v_new.transpose(1, 2)
        append(k_new=k_new, v_new=v_new, k_cache=k_cache, v_cache=v_cache, cache_offsets=torch.full((B,), 3))
        self.assertTrue(torch.equal(bits(pool), bits(expected)))

    def test_steps_of_decoding_go_by_one_plan(self):
        k_cache = torch.zeros(B, H, R, K_DIM)
        steps = [noise(B, 1, H, K_DIM).transpose(1, 2) for _ in range(R)]
        with Plan(k_new=steps[0], k_cache=k_cache, cache_offsets=torch.zeros(B, dtype=torch.int64)) as plan:
            for position, k_new in enumerate(steps):
                # The stride from the one row to the next, which is not there, is what it happens to be.
                k_new = k_new.as_strided(k_new.shape, (H * K_DIM, K_DIM, 1000 * position, 1))
                plan.run(k_new=k_new, k_cache=k_cache, cache_offsets=torch.full((B,), position))
        self.assertTrue(torch.equal(bits(k_cache), bits(torch.cat(steps, dim=2))))


class Storages(unittest.TestCase):
    def test_of_pages_in_e4m3_and_int8(self):
        """vLLM's pages [N, R, H, D]: K in E4M3 with one scale, V in int8 with a scale for each head."""
        k_new, v_new = (torch.arange(2 * H * K_DIM, dtype=torch.bfloat16).view(2, H, K_DIM) for _ in range(2))
        k_cache = torch.zeros(3, R, H, K_DIM, dtype=torch.float8_e4m3fn)
        v_cache = torch.zeros(3, R, H, K_DIM, dtype=torch.int8)
        k_scale, v_scales = torch.tensor(4.0), torch.tensor([0.5, 0.25])
        append(k_new=k_new, v_new=v_new, k_cache=k_cache, v_cache=v_cache, slots=torch.tensor([R + 1, 0]), layout="NHD",
               k_storage=Storage.preset(Preset.E4M3_DIVIDE), k_scales=k_scale,
               v_storage=Storage.preset(Preset.INT8_MULTIPLY), v_scales=v_scales[:, None])
        k_codes = bits((k_new.float() / 4).to(torch.float8_e4m3fn))
        v_codes = (v_new.float() * v_scales[:, None]).round().to(torch.int8)
        for cache, codes in ((bits(k_cache), k_codes), (v_cache, v_codes)):
            self.assertTrue(torch.equal(cache[1, 1], codes[0]) and torch.equal(cache[0, 0], codes[1]))
            self.assertEqual(cache.count_nonzero(), codes.count_nonzero())

    def test_with_scales_of_eight_bits(self):
        ue8m0 = Storage(type=Stored.E5M2, scaling=Scaling.COMPUTED, scale_type=ScaleType.UE8M0,
                        scale_rounding=ScaleRounding.POWER_OF_TWO, group=2)
        k_new = torch.tensor([57344.0, -1, 3, 57345 * 2]).view(1, 1, 1, 4)
        cache = torch.zeros(1, 1, 1, 4, dtype=torch.float8_e5m2)
        scales = torch.zeros(1, 1, 1, 2, dtype=torch.float8_e8m0fnu)
        append(k_new=k_new, k_cache=cache, k_scales=scales, k_storage=ue8m0, cache_offsets=0)
        self.assertEqual(bits(scales).flatten().tolist(), [127, 129])  # 1 and 4
        self.assertEqual(bits(cache).flatten().tolist(), [0x7b, 0xbc, 0x3a, 0x77])  # 57344, -1, 0.75, 28672


class RepeatedCalls(unittest.TestCase):
    """What is remembered of a call must not serve another one."""

    def setUp(self):
        self.k_new, self.k_cache = noise(B, H, L, K_DIM), torch.zeros(B, H, R, K_DIM)
        self.offsets = torch.zeros(B, dtype=torch.int64)
        self.append()

    def append(self, **changed):
        append(**{"k_new": self.k_new, "k_cache": self.k_cache, "cache_offsets": self.offsets, **changed})

    def test_are_quick(self):
        with mock.patch("kvappend.plan.borrow") as borrow:
            k_new = torch.nn.Parameter(noise(B, H, L, K_DIM), requires_grad=False)
            self.append(k_new=noise(B, H, L, K_DIM))
            self.assertEqual(borrow.call_count, 0)
        self.append(k_new=k_new)
        self.append(k_new=k_new.data, cache_offsets=self.offsets + R - L)
        self.assertTrue(torch.equal(bits(self.k_cache[:, :, :L]), bits(k_new.data)))
        self.assertTrue(torch.equal(bits(self.k_cache[:, :, -L:]), bits(k_new.data)))

    def test_see_what_has_changed(self):
        before = self.k_cache.clone()
        # As x.conj().imag of a complex x: its memory has the other sign.
        negative = torch._neg_view(self.k_new)  # pylint: disable=protected-access
        self.assertTrue(negative.is_neg() and negative.stride() == self.k_new.stride())
        for kind, words, k_new in (
                (BufferError, "k_new: .*require gradient", self.k_new.clone().requires_grad_()),
                (ValueError, "k_new has the type int32", self.k_new.view(torch.int32)),
                (BufferError, "k_new: .*layout", self.k_new.to_sparse()),
                (BufferError, "k_new is a negative view", negative),
                (ValueError, "k_new has the type float64", self.k_new.to(torch.float64))):
            with self.subTest(words), self.assertRaisesRegex(kind, words):
                self.append(k_new=k_new)
        self.assertTrue(torch.equal(bits(before), bits(self.k_cache)))

    def test_with_one_offset_for_all(self):
        for offset in (torch.tensor(2), torch.tensor(2, dtype=torch.int32), torch.tensor([2]).expand(B), 2, [2] * B,
                       numpy.full(B, 2)):
            with self.subTest(offset=offset):
                self.k_cache.zero_()
                self.append(cache_offsets=offset)
                expected = torch.zeros(B, H, R, K_DIM)
                expected[:, :, 2:2 + L] = self.k_new
                self.assertTrue(torch.equal(bits(self.k_cache), bits(expected)))


class Refusals(unittest.TestCase):
    def refused(self, kind, words, k_new, k_cache=None):
        cache = torch.zeros(B, H, R, K_DIM) if k_cache is None else k_cache
        with self.assertRaisesRegex(kind, words):
            append(k_new=k_new, k_cache=cache, cache_offsets=torch.zeros(B, dtype=torch.int64))
        self.assertFalse(cache.any())

    def test_of_what_cannot_be_lent(self):
        shape = (B, H, L, K_DIM)
        self.refused(BufferError, "k_new: .*require gradient", torch.zeros(shape, requires_grad=True))
        self.refused(BufferError, "k_new: .*conjugate", torch.zeros(shape, dtype=torch.complex64).conj())
        self.refused(BufferError, "k_new: .*layout", torch.zeros(shape).to_sparse())

    def test_of_what_is_no_append(self):
        shape = (B, H, L, K_DIM)
        self.refused(ValueError, "k_new has the type int64: expected float32 or ",
                     torch.zeros(shape, dtype=torch.int64))
        self.refused(ValueError, "k_new has the type float8_e4m3fnuz: expected",
                     torch.zeros(shape).to(torch.float8_e4m3fnuz))
        self.refused(ValueError, "k_new has the type float8_e4m3fn, and k_cache float32: expected one type",
                     torch.zeros(shape).to(torch.float8_e4m3fn))
        self.refused(ValueError, "k_new has the type bool: expected", torch.zeros(shape, dtype=torch.bool))
        self.refused(ValueError, "k_new has the stride 4 along D, its last axis",
                     torch.zeros(B, H, K_DIM, L).transpose(2, 3))
        self.refused(ValueError, "k_new has the type float32, and k_cache bfloat16", torch.zeros(shape),
                     torch.zeros(B, H, R, K_DIM, dtype=torch.bfloat16))

    def test_of_a_cache_that_lies_over_itself(self):
        with self.assertRaisesRegex(Error, "ERROR_OVERLAP: .*k_cache"):
            append(k_new=torch.zeros(B, H, L, K_DIM), k_cache=torch.zeros(B, 1, R, K_DIM).expand(B, H, R, K_DIM),
                   cache_offsets=[0] * B)


if __name__ == "__main__":
    unittest.main()
