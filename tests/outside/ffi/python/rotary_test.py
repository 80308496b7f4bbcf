# SPDX-License-Identifier: Apache-2.0
"""Rows of K that are rotated on their way into the cache, and what is refused."""

import unittest

import numpy
from kvappend import Error, Plan, Rotary, RotaryStyle, Storage, Stored, append, append_layers

F32 = numpy.float32
ROWS = numpy.arange(1, 9, dtype=F32).reshape(1, 1, 2, 4)  # [B, H, L, D]
# No turn for position 0, and a quarter turn for position 1.
COS = numpy.array([[1, 1], [0, 0]], F32)
SIN = numpy.array([[0, 0], [1, 1]], F32)
HALVES = numpy.array([[1, 2, 3, 4], [-7, -8, 5, 6]], F32)
ADJACENT = numpy.array([[1, 2, 3, 4], [-6, 5, -8, 7]], F32)


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


if __name__ == "__main__":
    unittest.main()
