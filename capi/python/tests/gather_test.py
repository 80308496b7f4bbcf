# SPDX-License-Identifier: Apache-2.0
"""Rows that are appended to caches in NumPy's arrays and gathered from them, byte by byte; and what is refused."""

import unittest
from unittest import mock

import numpy
from kvappend import (Error, Flag, Operation, Plan, Preset, Report, Status, Storage, abi, append, append_layers, gather,
                      gather_layers)

B, H, L, R, K_DIM, V_DIM = 3, 2, 4, 9, 8, 6
OFFSETS = numpy.array([2, 0, 5])
F32, U8 = numpy.float32, numpy.uint8
BY_POSITION = (0, 2, 1, 3)
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


def untouched(*shape, dtype=F32):
    return numpy.full(int(numpy.prod(shape)) * numpy.dtype(dtype).itemsize, 0xee, U8).view(dtype).reshape(shape)


def new_rows(dtype=F32):
    return {"k_new": noise(B, H, L, K_DIM, dtype=dtype), "v_new": noise(B, H, L, V_DIM, dtype=dtype)}


def caches_of(blocks=B, rows=R, dtype=F32):
    return {name: noise(blocks, H, rows, dim, dtype=dtype) for name, dim in (("k_cache", K_DIM), ("v_cache", V_DIM))}


def outs_like(new):
    """Tensors for the rows, in memory of other strides."""
    outs = {}
    for name, array in new.items():
        wide = untouched(*array.shape[:-1], array.shape[-1] + 3, dtype=array.dtype)
        outs[name.replace("new", "out")] = wide[..., :array.shape[-1]]
    return outs


def between_rows(out):
    """The bytes of what outs_like has between the rows."""
    bytes_of_row = out.strides[-2]
    memory = numpy.lib.stride_tricks.as_strided(out.view(U8), (out.size // out.shape[-1], bytes_of_row),
                                                (bytes_of_row, 1))
    return memory[:, out.shape[-1] * out.itemsize:].tobytes()


def by_token(new):
    """[B, H, L, D] as the tokens [B * L, H, D] that it is."""
    return {name: numpy.ascontiguousarray(array.transpose(BY_POSITION)).reshape(-1, H, array.shape[3])
            for name, array in new.items()}


def transposed(arrays):
    return {name: array.transpose(BY_POSITION) for name, array in arrays.items()}


def read_only(arrays):
    """Views that may not be written."""
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


class Gathers(unittest.TestCase):
    def check(self, new, caches, **arguments):
        """Appends the rows, and gathers the same ones. All of them must have a place."""
        append(**new, **caches, **arguments)
        before = {name: array.tobytes() for name, array in caches.items()}
        outs = outs_like(new)
        gather(**outs, **read_only(caches), **arguments)
        for name, array in new.items():
            out = outs[name.replace("new", "out")]
            self.assertEqual(out.tobytes(), array.tobytes())
            self.assertEqual(set(between_rows(out)), {0xee})
        self.assertEqual({name: array.tobytes() for name, array in caches.items()}, before)

    def test_of_each_type(self):
        for dtype in TYPES:
            with self.subTest(dtype=dtype):
                self.check(new_rows(dtype), caches_of(dtype=dtype), cache_offsets=OFFSETS)

    def test_of_each_addressing(self):
        new, tokens = new_rows(), by_token(new_rows())
        table = numpy.random.default_rng(1).permutation(4 * B).astype(numpy.int32)
        pages = caches_of(4 * B, 3)
        self.check(new, caches_of(), cache_offsets=[100, 0, 7], ring=True, sink_rows=1)
        self.check(new, pages, cache_offsets=OFFSETS, page_table=table.reshape(B, 4))
        self.check(new, pages, cache_offsets=OFFSETS, page_table=table, page_indptr=[0, 4, 8, 12])
        self.check(tokens, pages, slots=numpy.random.default_rng(2).permutation(12 * B)[:B * L])
        self.check(tokens, caches_of(), token_samples=[0, 1, 2] * L,
                   token_positions=[8 - 2 * (token // B) for token in range(B * L)])
        self.check(tokens, caches_of(), cache_offsets=1, lengths=[0, 5, 9, 12])

    def test_of_axes_in_another_order(self):
        self.check(transposed(new_rows()), transposed(caches_of()), cache_offsets=OFFSETS, layout="NHD",
                   new_layout="NHD")
        latent = {"k_new": noise(B, L, K_DIM)}
        self.check(latent, {"k_cache": noise(B, R, K_DIM)}, cache_offsets=OFFSETS)
        pieces = {"k_cache": noise(B, H, K_DIM // 4, R, 4), "v_cache": noise(B, H, V_DIM, R, 1)}
        self.check(new_rows(), pieces, cache_offsets=OFFSETS)

    def test_of_rows_without_a_place(self):
        caches, lengths = caches_of(), numpy.array([4, 0, 3], numpy.int32)
        for flags, rest in ((0, b"\xee"), (Flag.ZERO_SKIPPED, b"\0")):
            outs, report = outs_like(new_rows()), numpy.zeros(11, numpy.int64)
            # Row 0 of sample 0 is below the cache, and rows 1 and 2 of sample 2 are above it.
            gather(**outs, **caches, cache_offsets=[-1, 0, R - 1], lengths=lengths, report=report,
                   flags=flags | Flag.COUNT_WRITTEN)
            for kind in "kv":
                out, cache = outs[kind + "_out"], caches[kind + "_cache"]
                expected = numpy.frombuffer(rest * out.nbytes, F32).reshape(out.shape).copy()
                expected[0, :, 1:] = cache[0, :, :3]
                expected[2, :, 0] = cache[2, :, R - 1]
                self.assertEqual(out.tobytes(), expected.tobytes())
            found = Report.from_buffer(report)
            self.assertEqual((found.rows_written, found.rows_below, found.rows_above), (4, 1, 2))

    def test_of_stored_rows(self):
        """Each is a code times its scale."""
        rows = numpy.array([[2, -3, 896, 0.5], [1000, 0, -0.0, 2.125]], F32).reshape(2, 1, 1, 4)
        # By 2, the codes are 1, -1.5, 448, 0.25 and 448, 0, -0, 1.
        decoded = numpy.array([[2, -3, 896, 0.5], [896, 0, -0.0, 2]], F32)
        cache, scales = untouched(2, 1, 2, 4, dtype=U8), numpy.array([2], F32)
        arguments = {"k_cache": cache, "k_scales": scales, "cache_offsets": [1, 0],
                     "k_storage": Storage.preset(Preset.E4M3_DIVIDE)}
        append(k_new=rows, **arguments)
        self.check_decoded(decoded, arguments)

        rows = numpy.array([[127, -63.5, 1, 0.5], [254, 1, -3, 5]], F32).reshape(2, 1, 1, 4)
        # The codes are 127, -64, 1, 1 with the scale 1, and 127, 1, -2, 3 with the scale 2.
        decoded = numpy.array([[127, -64, 1, 1], [254, 2, -4, 6]], F32)
        pool = untouched(2, 1, 2, 8, dtype=U8)
        arguments = {"k_cache": pool[..., :4], "k_scales": pool[..., 4:].view(F32), "cache_offsets": [1, 0],
                     "k_storage": Storage.preset(Preset.INT8_ROW)}
        append(k_new=rows, **arguments)
        # A gather reads computed scales, too.
        self.check_decoded(decoded, arguments | read_only({name: arguments[name] for name in ("k_cache", "k_scales")}))

    def check_decoded(self, decoded, arguments):
        for dtype in (F32, numpy.float16):
            out = untouched(2, 1, 1, 4, dtype=dtype)
            gather(k_out=out, **arguments)
            self.assertEqual(out.tobytes(), decoded.astype(dtype).tobytes())

    def test_of_layers(self):
        new = [new_rows(dtype) for dtype in TYPES[:4]]
        caches = [caches_of(rows=R + layer, dtype=dtype) for layer, dtype in enumerate(TYPES[:4])]
        outs = [outs_like(rows) for rows in new]
        append_layers([rows | own for rows, own in zip(new, caches)], cache_offsets=OFFSETS)
        layers = [rows | read_only(own) for rows, own in zip(outs, caches)]
        with mock.patch.object(abi.library(), "plan_run_layers", side_effect=abi.library().plan_run_layers) as run:
            gather_layers(layers, cache_offsets=OFFSETS)
        self.assertEqual([call.args[2] for call in run.call_args_list], [4])
        for rows, out in zip(new, outs):
            self.assertEqual([array.tobytes() for array in out.values()], [array.tobytes() for array in rows.values()])
        with self.assertRaisesRegex(TypeError, "^layer 1: k_new, v_new: expected some of k_cache"):
            gather_layers([layers[0], new[1] | caches[1]], cache_offsets=OFFSETS)

    def test_by_one_plan(self):
        new, caches = new_rows(), caches_of()
        append(**new, **caches, cache_offsets=OFFSETS)
        outs = outs_like(new)
        with Plan(**outs, **caches, cache_offsets=OFFSETS) as plan:
            sku = plan.sku()
            self.assertEqual((sku.operation, sku.addressing), (Operation.GATHER, abi.Addressing.DENSE))
            plan.validate(**outs, **caches, cache_offsets=OFFSETS)
            plan.bind(**read_only(caches)).run(**outs, cache_offsets=OFFSETS)
        for name, array in new.items():
            self.assertEqual(outs[name.replace("new", "out")].tobytes(), array.tobytes())
        with Plan(**new, **caches, cache_offsets=OFFSETS) as plan:
            self.assertEqual(plan.sku().operation, Operation.APPEND)

    def test_repeated_are_quick(self):
        new, caches = new_rows(), caches_of()
        append(**new, **caches, cache_offsets=OFFSETS)
        gather(**outs_like(new), **caches, cache_offsets=OFFSETS)
        outs = outs_like(new)
        with mock.patch("kvappend.plan.borrow") as borrow:
            gather(**outs, **caches, cache_offsets=OFFSETS)
            self.assertEqual(borrow.call_count, 0)
        self.assertEqual(outs["k_out"].tobytes(), new["k_new"].tobytes())


class Refusals(unittest.TestCase):
    def setUp(self):
        self.good = outs_like(new_rows()) | caches_of() | {"cache_offsets": OFFSETS}
        # An append does not take what is remembered of a gather.
        gather(**self.good)

    def refused(self, kind, words, run=gather, **changed):
        with self.assertRaisesRegex(kind, words) as caught:
            run(**self.good | changed)
        return caught.exception

    def test_of_the_other_operations_tensors(self):
        new = new_rows()
        self.refused(TypeError, "^k_out, v_out: expected some of k_new, v_new, k_cache, v_cache, cache_offsets",
                     run=append)
        self.refused(TypeError, "^k_new, v_new: expected some of k_cache, v_cache, ", **new)
        # Nor does a gather take what is remembered of an append.
        appended = new | caches_of() | {"cache_offsets": OFFSETS}
        append(**appended)
        with self.assertRaisesRegex(TypeError, "^k_new, v_new: expected some of"):
            gather(**appended)
        self.refused(TypeError, "^k_new and v_out do not go together", run=Plan, k_new=new["k_new"], k_out=None)
        self.refused(TypeError, "^k_out and v_out are missing", k_out=None, v_out=None)
        self.refused(TypeError, "^v_out is missing, and v_cache is given", v_out=None)

    def test_of_what_may_not_be_written(self):
        self.refused(ValueError, "k_out is read-only", **read_only({"k_out": self.good["k_out"]}))

    def test_of_flags_of_the_other_operation(self):
        self.refused(Error, "ERROR_CONFLICT: flags & Flag.ADVANCE", flags=Flag.ADVANCE)
        new = new_rows()
        with self.assertRaisesRegex(Error, "ERROR_CONFLICT: flags & Flag.ZERO_SKIPPED"):
            append(**new, **caches_of(), cache_offsets=OFFSETS, flags=Flag.ZERO_SKIPPED)

    def test_of_rows_that_lie_over_each_other(self):
        error = self.refused(Error, "KVAPPEND_ERROR_OVERLAP: k_out", v_out=self.good["k_out"][..., :V_DIM])
        self.assertEqual(error.status, Status.ERROR_OVERLAP)
        self.refused(Error, "ERROR_ALIAS: .*k_out", k_out=self.good["k_cache"][:, :, :L])

    def test_of_an_operation_that_does_not_exist(self):
        descriptor = abi.Descriptor(operation=3)
        with self.assertRaisesRegex(Error, "operation is 3") as caught:
            abi.library().plan_create(descriptor, None, abi.PlanPointer())
        self.assertEqual(caught.exception.status, Status.ERROR_OPERATION)

    def test_of_fewer_slots_than_rows(self):
        """The other rows would not even be set to zero."""
        outs = {"k_out": untouched(5, H, K_DIM), "v_out": None, "v_cache": None, "cache_offsets": None}
        self.refused(ValueError, r"T is 5 in k_out .*, and 3 in slots \[T\] \[3\]", **outs, slots=[0, 1, 2])


if __name__ == "__main__":
    unittest.main()
