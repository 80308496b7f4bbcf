# SPDX-License-Identifier: Apache-2.0
"""Rows of K that are rotated on their way into the cache, rows of Q that are rotated with them, and what is refused."""

import unittest

import numpy
from kvappend import (Error, Flag, Plan, Preset, Rotary, RotaryStyle, Scaling, Storage, Stored, append, append_layers,
                      gather)

F32 = numpy.float32
ROWS = numpy.arange(1, 9, dtype=F32).reshape(1, 1, 2, 4)  # [B, H, L, D]
# No turn for position 0, and a quarter turn for position 1.
COS = numpy.array([[1, 1], [0, 0]], F32)
SIN = numpy.array([[0, 0], [1, 1]], F32)
HALVES = numpy.array([[1, 2, 3, 4], [-7, -8, 5, 6]], F32)
ADJACENT = numpy.array([[1, 2, 3, 4], [-6, 5, -8, 7]], F32)
# Two heads of Q, and the same rotated.
Q = numpy.arange(1, 17, dtype=F32).reshape(1, 2, 2, 4)
Q_HALVES = numpy.array([[[[1, 2, 3, 4], [-7, -8, 5, 6]], [[9, 10, 11, 12], [-15, -16, 13, 14]]]], F32)
E4M3 = Storage.preset(Preset.E4M3_DIVIDE)


def good(**changes):
    arguments = {"k_new": ROWS, "k_cache": numpy.zeros((1, 1, 2, 4), F32), "cache_offsets": 0, "rotary": Rotary(),
                 "rotary_cos": COS, "rotary_sin": SIN} | changes
    return {name: value for name, value in arguments.items() if value is not None}


def appended(**changes):
    arguments = good(**changes)
    append(**arguments)
    return arguments["k_cache"].reshape(-1, arguments["k_cache"].shape[-1])


class Appends(unittest.TestCase):
    def test_both_styles(self):
        numpy.testing.assert_array_equal(appended(), HALVES)
        numpy.testing.assert_array_equal(appended(rotary=Rotary(RotaryStyle.INTERLEAVED)), ADJACENT)

    def test_a_part_of_the_row(self):
        found = appended(rotary=Rotary(first=1), rotary_cos=COS[:, :1], rotary_sin=SIN[:, :1])
        numpy.testing.assert_array_equal(found, [[1, 2, 3, 4], [5, -7, 6, 8]])

    def test_one_table_and_tables_of_other_types(self):
        table = numpy.concatenate([COS, SIN], axis=1)
        numpy.testing.assert_array_equal(appended(rotary_cos=table[:, :2], rotary_sin=table[:, 2:]), HALVES)
        half = table.astype(numpy.float16)
        numpy.testing.assert_array_equal(appended(rotary_cos=half[:, :2], rotary_sin=half[:, 2:]), HALVES)
        bits = (table.view(numpy.uint32) >> 16).astype(numpy.uint16)  # bfloat16
        numpy.testing.assert_array_equal(appended(rotary_cos=bits[:, :2], rotary_sin=bits[:, 2:]), HALVES)

    def test_positions(self):
        numpy.testing.assert_array_equal(appended(positions=[[0, 1]]), HALVES)
        cache = numpy.zeros((1, 1, 2, 4), F32)
        tokens = ROWS.reshape(2, 1, 4)
        append(**good(k_new=tokens, k_cache=cache, cache_offsets=None, slots=[1, 0], positions=[0, 1]))
        numpy.testing.assert_array_equal(cache.reshape(2, 4), HALVES[::-1])
        # A position that the tables do not have.
        numpy.testing.assert_array_equal(appended(positions=numpy.array([[2, 1]])), [[0, 0, 0, 0], HALVES[1]])

    def test_with_a_storage_and_layers(self):
        cache = numpy.zeros((1, 1, 2, 4), numpy.int8)
        numpy.testing.assert_array_equal(appended(k_cache=cache, k_storage=Storage(type=Stored.INT8)), HALVES)
        caches = numpy.zeros((3, 1, 1, 2, 4), F32)
        append_layers([{"k_cache": cache} for cache in caches], **good(k_cache=None))
        numpy.testing.assert_array_equal(caches.reshape(3, 2, 4), [HALVES] * 3)

    def test_a_plan(self):
        arguments = good()
        with Plan(**arguments) as plan:
            self.assertEqual(plan.precision_guarantee().k_bit_exact, 0)
            self.assertIn("rotate", plan.sku().kernel_name.decode())
            tensors = {name: value for name, value in arguments.items() if name != "rotary"}
            plan.run(**tensors)
        numpy.testing.assert_array_equal(arguments["k_cache"].reshape(2, 4), HALVES)


class Queries(unittest.TestCase):
    def test_in_place(self):
        q = Q.copy()
        numpy.testing.assert_array_equal(appended(q=q), HALVES)
        numpy.testing.assert_array_equal(q, Q_HALVES)
        q = Q.copy()
        append(**good(q=q, q_out=q))
        numpy.testing.assert_array_equal(q, Q_HALVES)

    def test_to_another_tensor(self):
        q, q_out = Q.copy(), numpy.zeros_like(Q)
        q.flags.writeable = False
        numpy.testing.assert_array_equal(appended(q=q, q_out=q_out), HALVES)
        numpy.testing.assert_array_equal(q_out, Q_HALVES)
        numpy.testing.assert_array_equal(q, Q)

    def test_within_a_fused_projection(self):
        """[B, L, heads of Q and of K, D]"""
        fused = numpy.concatenate([Q, ROWS], axis=1).transpose(0, 2, 1, 3).copy()
        cache = numpy.zeros((1, 2, 1, 4), F32)
        append(**good(q=fused[:, :, :2], k_new=fused[:, :, 2:], k_cache=cache, layout="NHD", new_layout="NHD"))
        numpy.testing.assert_array_equal(fused[:, :, :2], Q_HALVES.transpose(0, 2, 1, 3))
        numpy.testing.assert_array_equal(fused[:, :, 2:], ROWS.transpose(0, 2, 1, 3))
        numpy.testing.assert_array_equal(cache.reshape(2, 4), HALVES)

    def test_to_e4m3_with_given_scales(self):
        first = "30 38 3c 40 c6 c8 42 44"  # by 2: 0.5, 1, 1.5, 2; -3.5, -4, 2.5, 3
        by_two = first + "49 4a 4b 4c cf d0 4d 4e"  # 4.5, 5, 5.5, 6; -7.5, -8, 6.5, 7
        by_four = first + "41 42 43 44 c7 c8 45 46"  # 2.25, 2.5, 2.75, 3; -3.75, -4, 3.25, 3.5
        for scales, codes in ((2, by_two), ([2], by_two), ([[2], [4]], by_four)):
            with self.subTest(scales=scales):
                q_out = numpy.zeros(Q.shape, numpy.uint8)
                append(**good(q=Q, q_out=q_out, q_storage=E4M3, q_scales=numpy.array(scales, F32)))
                self.assertEqual(q_out.tobytes(), bytes.fromhex(codes))
        # A scale for each channel, in rows with a gap after them.
        wide = numpy.zeros((*Q.shape[:3], 6), numpy.uint8)
        append(**good(q=Q, q_out=wide[..., :4], q_storage=E4M3._replace(group=1), q_scales=numpy.full(4, 2, F32)))
        self.assertEqual(wide[..., :4].tobytes(), bytes.fromhex(by_two))
        self.assertFalse(wide[..., 4:].any())

    def test_of_another_type_without_scales(self):
        q_out = numpy.zeros(Q.shape, numpy.float16)
        append(**good(q=Q, q_out=q_out, q_storage=Storage.preset(Preset.F16)))
        numpy.testing.assert_array_equal(q_out, Q_HALVES)

    def test_tokens(self):
        """[T, H, D] by slots and by lengths. A token without a slot keeps its Q."""
        q, k_new = Q.transpose(0, 2, 1, 3).reshape(2, 2, 4).copy(), ROWS.reshape(2, 1, 4)
        append(**good(k_new=k_new, q=q, cache_offsets=None, slots=[-1, 0], positions=[1, 1]))
        numpy.testing.assert_array_equal(q, [Q[0, :, 0], Q_HALVES[0, :, 1]])
        q = q[:, ::-1].copy()
        q_out = numpy.zeros_like(q)
        append(**good(k_new=k_new, q=q, q_out=q_out, lengths=[0, 2], cache_offsets=[0], positions=[1, 0]))
        numpy.testing.assert_array_equal(q_out, [[[-11, -12, 9, 10], [-3, -4, 1, 2]], q[1]])

    def test_latent_attention(self):
        """K has no heads. The rotated part is the last of each row of Q."""
        q, k_new = Q.transpose(0, 2, 1, 3).reshape(2, 2, 4).copy(), ROWS.reshape(2, 4)[:, :2]
        cache = numpy.zeros((1, 2, 2), F32)
        append(**good(k_new=k_new, k_cache=cache, q=q, cache_offsets=None, slots=[0, 1], positions=[0, 1],
                      rotary=Rotary(q_first=2), rotary_cos=COS[:, :1], rotary_sin=SIN[:, :1]))
        numpy.testing.assert_array_equal(cache[0], [[1, 2], [-6, 5]])
        numpy.testing.assert_array_equal(q, [[[1, 2, 3, 4], [9, 10, 11, 12]], [[5, 6, -8, 7], [13, 14, -16, 15]]])

    def test_layers_and_plans(self):
        queries, caches = numpy.stack([Q, Q]), numpy.zeros((2, 1, 1, 2, 4), F32)
        append_layers([{"q": q, "k_cache": cache} for q, cache in zip(queries, caches)], **good(k_cache=None))
        numpy.testing.assert_array_equal(queries, [Q_HALVES] * 2)
        numpy.testing.assert_array_equal(caches.reshape(2, 2, 4), [HALVES] * 2)
        tensors = good()
        rotary = tensors.pop("rotary")
        with Plan(**tensors, q=Q, rotary=rotary) as plan:
            q = Q.copy()
            plan.bind(k_cache=tensors.pop("k_cache")).run(**tensors, q=q)
            numpy.testing.assert_array_equal(q, Q_HALVES)
            q = Q.copy()
            q.flags.writeable = False
            with self.assertRaisesRegex(ValueError, "^q is read-only, and would be written"):
                plan.run(**tensors, k_cache=numpy.zeros((1, 1, 2, 4), F32), q=q)


class Refusals(unittest.TestCase):
    def refused(self, kind, message, **changes):
        with self.assertRaisesRegex(kind, message):
            append(**good(**changes))

    def test_what_is_missing(self):
        self.refused(TypeError, "^rotary is missing, and rotary_cos is given", rotary=None)
        self.refused(TypeError, "^rotary_cos is missing, and rotary_sin is given", rotary_cos=None)
        self.refused(TypeError, "^rotary_sin is missing, and rotary_cos is given", rotary_sin=None)
        self.refused(TypeError, "^rotary is missing, and positions is given", rotary=None, rotary_cos=None,
                     rotary_sin=None, positions=[[0, 1]])
        self.refused(Error, "expected Flag.POSITIONS in the flags, because a slot of KVAPPEND_ADDRESSING_SLOTS",
                     k_new=ROWS.reshape(2, 1, 4), cache_offsets=None, slots=[0, 1])

    def test_tables_that_do_not_fit(self):
        self.refused(ValueError, "^rotary_cos has the type float64: expected float32", rotary_cos=COS.astype(float))
        self.refused(ValueError, r"^rotary_sin has the shape \[4\]: expected the axes \[P, D/2\]",
                     rotary_sin=SIN.ravel())
        self.refused(ValueError, "expected one type, shape and strides for both", rotary_sin=SIN[:1])
        self.refused(ValueError, "^rotary_cos is one row repeated", rotary_cos=numpy.broadcast_to(COS[:1], (2, 2)),
                     rotary_sin=numpy.broadcast_to(SIN[:1], (2, 2)))
        self.refused(Error, "rotary->dim is 8: expected an even number from 2 to k_dim",
                     rotary_cos=numpy.zeros((2, 4), F32), rotary_sin=numpy.zeros((2, 4), F32))

    def test_positions_that_do_not_fit(self):
        self.refused(ValueError, r"^positions has the shape \[2\]: expected the axes \[B, L\]", positions=[0, 1])
        self.refused(ValueError, r"^L is 2 in .*, and 3 in positions \[B, L\] \[1, 3\]", positions=[[0, 1, 2]])
        apart = numpy.zeros((2, 4), int)[:, :2]
        self.refused(ValueError, "^positions has the strides .*: expected both axes to be contiguous", positions=apart,
                     k_new=numpy.zeros((2, 1, 2, 4), F32), k_cache=numpy.zeros((2, 1, 2, 4), F32))

    def test_queries_that_lack_something(self):
        none = {"rotary": None, "rotary_cos": None, "rotary_sin": None}
        self.refused(TypeError, "^rotary is missing, and q is given", q=Q, **none)
        self.refused(TypeError, "^q is missing, and q_out is given", q_out=Q)
        self.refused(TypeError, "^q_out is missing, and q_storage is given", q=Q, q_storage=E4M3)
        self.refused(TypeError, "^q_storage is missing, and q_scales is given", q=Q, q_out=Q.copy(),
                     q_scales=numpy.ones(1, F32))
        self.refused(TypeError, "^q_scales is missing, and q_storage has it", q=Q,
                     q_out=numpy.zeros(Q.shape, numpy.uint8), q_storage=E4M3)
        with self.assertRaisesRegex(TypeError, "^q: expected some of"):
            gather(k_out=ROWS.copy(), k_cache=ROWS, q=Q, flags=Flag.ZERO_OFFSETS)

    def test_queries_that_do_not_fit(self):
        self.refused(ValueError, "^k_new has the type float32, and q float16: expected one type",
                     q=Q.astype(numpy.float16))
        self.refused(ValueError, r"^q has the shape \[2, 2, 4\]: expected the axes \[B, H, L, D\]", q=Q[0])
        self.refused(ValueError, r"^L is 2 in k_new .*, and 1 in q \[B, H, L, D\] \[1, 2, 1, 4\]", q=Q[:, :, :1])
        self.refused(ValueError, r"^H is 2 in q .*, and 1 in q_out \[B, H, L, D\] \[1, 1, 2, 4\]", q=Q,
                     q_out=numpy.zeros((1, 1, 2, 4), F32))
        self.refused(Error, "rotary->q_dim is 2: expected at least dim", q=Q[..., :2].copy())
        self.refused(Error, "rotary->q_first is 1: expected 0 to q_dim - dim", q=Q.copy(), rotary=Rotary(q_first=1))
        fused = numpy.concatenate([Q, Q], axis=1)
        self.refused(Error, "ERROR_ALIAS: .*q_out", q=fused[:, :2], q_out=fused[:, 1:3])
        repeated = numpy.broadcast_to(Q[:, :1], Q.shape)
        repeated.flags.writeable = True
        self.refused(Error, "ERROR_OVERLAP: .*q_out", q=repeated)

    def test_storages_that_queries_do_not_have(self):
        codes, scales = numpy.zeros(Q.shape, numpy.uint8), numpy.ones((2, 1), F32)
        self.refused(Error, "rotary->q_storage->scaling is 2: expected KVAPPEND_SCALING_NONE or", q=Q, q_out=codes,
                     q_storage=E4M3._replace(scaling=Scaling.COMPUTED), q_scales=scales)
        self.refused(Error, "rotary->q_storage->type is 7: expected codes of 8 bits or more", q=Q,
                     q_out=codes[..., :2].copy(), q_storage=Storage(type=Stored.INT4))
        self.refused(Error, "rotary->q_storage->global_scale is 1: expected 0", q=Q, q_out=codes, q_scales=scales,
                     q_storage=E4M3._replace(global_scale=True))
        self.refused(ValueError, r"^q_scales has the shape \[3, 1\]: expected \[H, D/group\] \[2, 1\], or a shape that",
                     q=Q, q_out=codes, q_storage=E4M3, q_scales=numpy.ones((3, 1), F32))
        self.refused(ValueError, "^q_out has the type float32: expected uint8 or float8_e4m3fn", q=Q,
                     q_out=numpy.zeros_like(Q), q_storage=E4M3, q_scales=scales)


if __name__ == "__main__":
    unittest.main()
