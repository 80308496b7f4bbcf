# SPDX-License-Identifier: Apache-2.0
"""Rows that are moved within caches in NumPy's arrays, byte by byte; and what is refused."""

import unittest
from unittest import mock

import numpy
from kvappend import (Error, Flag, Operation, Plan, Preset, Report, Status, Storage, abi, append, gather, move,
                      move_layers)

N, H, R, K_DIM, V_DIM = 3, 2, 4, 8, 6
# Two samples: a chain from slot 0 on, and a swap of rows 5 and 9 by way of row 11. -1 is padding on either side.
FROM, TO, LENGTHS = [0, 1, 2, -1, 5, 9, 11, 7], [1, 2, 3, 4, 11, 5, 9, -1], [0, 4, 8]
F32, U8 = numpy.float32, numpy.uint8
TYPES = [F32, numpy.float64, numpy.float16, numpy.uint16, numpy.int8, U8]
try:
    import ml_dtypes
    TYPES += [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
except ImportError:
    pass


def noise(*shape, dtype=F32):
    """Any bits: NaNs of all kinds, too."""
    count = int(numpy.prod(shape))
    random = numpy.random.default_rng(count)
    return numpy.frombuffer(random.bytes(count * numpy.dtype(dtype).itemsize), dtype).reshape(shape).copy()


def caches_of(dtype=F32):
    return {name: noise(N, H, R, dim, dtype=dtype) for name, dim in (("k_cache", K_DIM), ("v_cache", V_DIM))}


def moved(array, rows_axis=2, slots=(FROM, TO)):
    """A copy of a cache, or of scales, after the moves, one after the other."""
    array = array.copy()
    rows = numpy.moveaxis(array, rows_axis, 1)  # [N, R, ...]
    for one, other in zip(*slots):
        if one >= 0 and other >= 0:
            rows[divmod(other, R)] = rows[divmod(one, R)]
    return array


def read_only(array):
    view = array.view()
    view.flags.writeable = False
    return view


class Moves(unittest.TestCase):
    def check(self, arrays, rows_axis=2, others=(), **arguments):
        """Moves rows of these arrays. `others` are arrays that stay as they are."""
        expected = {name: array if name in others else moved(array, rows_axis) for name, array in arrays.items()}
        expected = {name: array.tobytes() for name, array in expected.items()}
        move(**arrays, from_slots=FROM, slots=TO, lengths=LENGTHS, **arguments)
        self.assertEqual({name: array.tobytes() for name, array in arrays.items()}, expected)

    def test_in_a_chain(self):
        for dtype in TYPES:
            with self.subTest(dtype=dtype):
                caches = caches_of(dtype)
                before = {name: array.copy() for name, array in caches.items()}
                move(**caches, from_slots=[0, 1, 2], slots=[1, 2, 3])
                for name, array in caches.items():
                    before[name][0, :, 1:] = before[name][0, :, :1]
                    self.assertEqual(array.tobytes(), before[name].tobytes())

    def test_of_two_samples(self):
        for dtype in TYPES:
            with self.subTest(dtype=dtype):
                self.check(caches_of(dtype))

    def test_by_indices_of_each_type(self):
        for offset, index in ((numpy.int64, numpy.int64), (numpy.int32, numpy.int32), (numpy.int32, numpy.int64)):
            caches = {"k_cache": noise(N, H, R, K_DIM)}
            expected = moved(caches["k_cache"])
            move(**caches, from_slots=numpy.array(FROM, offset), slots=numpy.array(TO, offset),
                 lengths=numpy.array(LENGTHS, index))
            self.assertEqual(caches["k_cache"].tobytes(), expected.tobytes())

    def test_of_axes_in_another_order(self):
        nhd = {name: numpy.ascontiguousarray(array.transpose(0, 2, 1, 3)) for name, array in caches_of().items()}
        self.check(nhd, rows_axis=1, layout="NHD")
        self.check({"k_cache": noise(N, R, K_DIM)}, rows_axis=1)
        self.check({"k_cache": noise(N, H, K_DIM // 4, R, 4), "v_cache": noise(N, H, V_DIM, R, 1)}, rows_axis=3)

    def test_of_pages(self):
        """A row may be a whole page."""
        pages = noise(4, 5, 6)
        expected = pages[[0, 3, 2, 3]]
        move(k_cache=pages.reshape(4, 1, -1), from_slots=[3], slots=[1])
        self.assertEqual(pages.tobytes(), expected.tobytes())

    def test_of_rows_without_a_place(self):
        caches, report = caches_of(), numpy.zeros(11, numpy.int64)
        expected = moved(caches["k_cache"], slots=([0], [5]))
        move(**caches, from_slots=[0, -1, 3, N * R, 7], slots=[5, 1, -2, 1, 4], report=report, reserved_slot=7,
             flags=Flag.COUNT_WRITTEN)
        self.assertEqual(caches["k_cache"].tobytes(), expected.tobytes())
        found = Report.from_buffer(report)
        self.assertEqual((found.rows_written, found.rows_padding, found.rows_above), (1, 3, 1))
        self.assertEqual((found.first_row, found.first_position), (3, N * R))

    def test_of_part_of_the_tokens(self):
        caches = caches_of()
        expected = moved(caches["k_cache"], slots=([0], [5]))
        move(**caches, from_slots=[0, 1, 2], slots=[5, 6, 7], token_count=[1])
        self.assertEqual(caches["k_cache"].tobytes(), expected.tobytes())

    def test_of_stored_rows(self):
        """The codes are moved, and the scales that differ between rows."""
        pool = noise(N, H, R, K_DIM + 4, dtype=U8)
        expected = moved(pool)
        int8 = {"k_cache": pool[..., :K_DIM], "k_scales": pool[..., K_DIM:].view(F32),
                "k_storage": Storage.preset(Preset.INT8_ROW)}
        move(**int8, from_slots=FROM, slots=TO, lengths=LENGTHS)
        self.assertEqual(pool.tobytes(), expected.tobytes())
        # Two elements in each entry; the global scale is not used.
        self.check({"k_cache": noise(N, H, R, 16, dtype=U8), "k_scales": noise(N, H, R, 2, dtype=U8)},
                   k_storage=Storage.preset(Preset.NVFP4))
        e4m3 = Storage.preset(Preset.E4M3_DIVIDE)
        self.check({"v_cache": noise(N, H, R, V_DIM, dtype=U8), "v_scales": noise(N, H, R, 1)}, v_storage=e4m3)
        # Scales of heads are those of all rows.
        self.check({"v_cache": noise(N, H, R, V_DIM, dtype=U8), "v_scales": read_only(noise(H, 1, 1))},
                   others=("v_scales",), v_storage=e4m3)

    def test_of_layers(self):
        layers = [caches_of(dtype) for dtype in TYPES[:4]]
        expected = [{name: moved(array).tobytes() for name, array in layer.items()} for layer in layers]
        shared = {"from_slots": numpy.array(FROM), "slots": numpy.array(TO), "lengths": numpy.array(LENGTHS)}
        with mock.patch.object(abi.library(), "plan_run_layers", side_effect=abi.library().plan_run_layers) as run:
            move_layers(layers, **shared)
        self.assertEqual([call.args[2] for call in run.call_args_list], [4])
        self.assertEqual([{name: array.tobytes() for name, array in layer.items()} for layer in layers], expected)
        with self.assertRaisesRegex(TypeError, "^layer 1: k_new: expected some of k_cache"):
            move_layers([layers[0], {"k_new": noise(8, H, K_DIM)} | layers[1]], **shared)

    def test_by_one_plan(self):
        caches, slots = caches_of(), {"from_slots": FROM, "slots": TO, "lengths": LENGTHS}
        expected = moved(caches["v_cache"])
        with Plan(**caches, **slots) as plan:
            sku = plan.sku()
            self.assertEqual((sku.operation, sku.addressing), (Operation.MOVE, abi.Addressing.SLOTS))
            self.assertEqual(plan.precision_guarantee().k_bit_exact, 1)
            with self.assertRaisesRegex(Error, "^KVAPPEND_ERROR_DUPLICATE: row 0 of sample 0 and row 3 of sample 1"):
                plan.validate(**caches, **slots | {"slots": [*TO[:7], 0]})
            plan.bind(**caches).run(**slots)
        self.assertEqual(caches["v_cache"].tobytes(), expected.tobytes())

    def test_repeated_are_quick(self):
        slots = {"from_slots": numpy.array(FROM), "slots": numpy.array(TO)}
        move(**caches_of(), **slots)
        caches = caches_of()
        expected = moved(caches["k_cache"])
        with mock.patch("kvappend.plan.borrow") as borrow:
            move(**caches, **slots)
            self.assertEqual(borrow.call_count, 0)
        self.assertEqual(caches["k_cache"].tobytes(), expected.tobytes())


class Refusals(unittest.TestCase):
    def setUp(self):
        self.good = caches_of() | {"from_slots": FROM, "slots": TO}
        move(**self.good)
        self.before = self.good["k_cache"].tobytes()

    def refused(self, kind, words, run=move, **changed):
        with self.assertRaisesRegex(kind, words) as caught:
            run(**self.good | changed)
        self.assertEqual(self.good["k_cache"].tobytes(), self.before)
        return caught.exception

    def test_of_the_other_operations_tensors(self):
        rows, slots = noise(len(TO), H, K_DIM), {"slots": TO}
        cache = {"k_cache": caches_of()["k_cache"]}
        self.refused(TypeError, "^k_new: expected some of k_cache, v_cache, ", k_new=rows)
        self.refused(TypeError, "^v_out: expected some of k_cache, v_cache, ", v_out=rows)
        self.refused(TypeError, "^from_slots: expected some of k_new, v_new, ", run=append)
        self.refused(TypeError, "^from_slots: expected some of k_cache, v_cache, ", run=gather)
        self.refused(TypeError, "^from_slots and k_new do not go together", run=Plan, k_new=rows)
        self.refused(TypeError, "^from_slots and v_out do not go together", run=Plan, v_out=rows)
        self.refused(TypeError, "^slots and cache_offsets do not go together", cache_offsets=0)
        # Nor does a move take what is remembered of an append.
        append(k_new=rows, **cache, **slots)
        with self.assertRaisesRegex(TypeError, "^k_new: expected some of"):
            move(k_new=rows, **cache, **slots)

    def test_of_plans_of_other_operations(self):
        rows, slots = noise(len(TO), H, K_DIM), {"slots": TO}
        cache = {"k_cache": self.good["k_cache"]}
        with Plan(**cache, **slots, from_slots=FROM) as plan:
            with self.assertRaisesRegex(TypeError, "^from_slots is missing: the plan was made with it"):
                plan.run(k_new=rows, **cache, **slots)
        for name in ("k_new", "k_out"):
            with Plan(**{name: rows}, **cache, **slots) as plan:
                with self.assertRaisesRegex(TypeError, f"^{name} is missing"):
                    plan.run(**cache, **slots, from_slots=FROM)
        self.assertEqual(self.good["k_cache"].tobytes(), self.before)

    def test_of_what_is_missing(self):
        self.refused(TypeError, "^from_slots is missing", from_slots=None)
        self.refused(TypeError, "^slots is missing, and from_slots is given", slots=None)
        self.refused(TypeError, "^k_cache and v_cache are missing", k_cache=None, v_cache=None)
        self.refused(ValueError, r"T is 8 in slots \[T\] \[8\], and 7 in from_slots \[T\] \[7\]", from_slots=FROM[:7])
        stored = {"k_cache": noise(N, H, R, K_DIM, dtype=U8), "v_cache": None,
                  "k_storage": Storage.preset(Preset.INT8_ROW)}
        self.refused(TypeError, "^k_scales is missing", **stored)

    def test_of_what_may_not_be_written(self):
        self.refused(ValueError, "k_cache is read-only", k_cache=read_only(self.good["k_cache"]))
        stored = {"k_cache": noise(N, H, R, K_DIM, dtype=U8), "v_cache": None,
                  "k_storage": Storage.preset(Preset.E4M3_DIVIDE)}
        self.refused(ValueError, "k_scales is read-only", **stored, k_scales=read_only(noise(N, H, R, 1)))

    def test_of_flags_of_other_operations(self):
        self.refused(Error, "ERROR_CONFLICT: flags & Flag.ZERO_SKIPPED", flags=Flag.ZERO_SKIPPED)
        self.refused(TypeError, "flags has ADVANCE", flags=Flag.ADVANCE)

    def test_of_caches_that_lie_over_each_other(self):
        error = self.refused(Error, "KVAPPEND_ERROR_OVERLAP: k_cache", v_cache=self.good["k_cache"][..., :V_DIM])
        self.assertEqual(error.status, Status.ERROR_OVERLAP)


if __name__ == "__main__":
    unittest.main()
