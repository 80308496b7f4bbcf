# SPDX-License-Identifier: Apache-2.0
"""Rows of float32 and 16-bit floats in caches of other types, byte by byte, and what is refused."""

import unittest
from unittest import mock

import numpy
from kvappend import (Error, Nibbles, Plan, Preset, ScaleType, ScaleUse, Scaling, Status, Storage, Stored, append,
                      append_layers)

F32, U8 = numpy.float32, numpy.uint8
OFFSETS = numpy.array([1, 0])  # The new row of sample 0 goes to row 1, and that of sample 1 to row 0.
E4M3, INT8_ROW, NVFP4 = map(Storage.preset, (Preset.E4M3_DIVIDE, Preset.INT8_ROW, Preset.NVFP4))
EE = b"\xee"
# What each of the presets makes of these rows. Two rows for two samples.
E4M3_ROWS = numpy.array([[2, -3, 896, 0.5], [1000, 0, -0.0, 2.125]], F32)
E4M3_CODES = b"\x38\xbc\x7e\x28", b"\x7e\x00\x80\x38"  # by 2: 1, -1.5, 448, 0.25; 500, 0, -0, 1.0625
INT8_ROWS = numpy.array([[127, -63.5, 1, 0.5], [254, 1, -3, 5]], F32)
INT8_CODES = b"\x7f\xc0\x01\x01", b"\x7f\x01\xfe\x03"  # 127, -64, 1, 1; 127, 1, -2, 3
INT8_SCALES = b"\x00\x00\x80\x3f", b"\x00\x00\x00\x40"  # 1; 2
NVFP4_ROWS = numpy.array([[0, 1, 2, 3, 4, 6, 8, 12, -1, -2, -3, -4, -6, -8, -12, 0.5],
                          [6, 5, -0.25, 2.5, 1.75, -3.5, 0.75, numpy.nan, 0, 0, 0, 0, 0, 0, 0, 0]], F32)
# By 4 * 0.5 and by 2 * 0.5.
NVFP4_CODES = b"\x10\x32\x54\x76\xa9\xcb\xed\x0f", b"\x67\x48\xe4\x02\x00\x00\x00\x00"


def new(rows):
    """Rows as [B, H, L, D] with one head and one new row."""
    return rows.reshape(2, 1, 1, -1)


def untouched(*shape, dtype=U8):
    return numpy.full(numpy.prod(shape) * numpy.dtype(dtype).itemsize, 0xee, U8).view(dtype).reshape(shape)


def placed(rows):
    """The bytes of caches [2, 1, 2, D] after an append of these rows at OFFSETS."""
    gap = EE * len(rows[0])
    return gap + rows[0] + rows[1] + gap


class Appends(unittest.TestCase):
    def test_e4m3_with_given_scales(self):
        one = numpy.array([2], F32)
        for scales in (one, one.reshape(()), one.reshape(1, 1, 1, 1), numpy.full((2, 1, 2, 1), 2, F32),
                       numpy.broadcast_to(one, (2, 1, 2, 1))):
            with self.subTest(shape=scales.shape):
                scales.flags.writeable = False
                cache = untouched(2, 1, 2, 4)
                append(k_new=new(E4M3_ROWS), k_cache=cache, k_scales=scales, k_storage=E4M3, cache_offsets=OFFSETS)
                self.assertEqual(cache.tobytes(), placed(E4M3_CODES))

    def test_scales_of_each_axis(self):
        """E4M3 has 0x38 for 1. Each scale divides by another power of two."""
        b, h, l, d = 2, 2, 3, 4
        rows, offsets = numpy.full((b, h, l, d), 4, F32), numpy.array([0, 1])
        by_channel = E4M3._replace(group=1)
        for shape, storage in (((b, 1, 1, 1), E4M3), ((h, 1, 1), E4M3), ((4, 1), E4M3), ((h, 1, d), by_channel),
                               ((d,), by_channel), ((b, h, 4, 2), E4M3._replace(group=2))):
            with self.subTest(shape=shape):
                scales = (2.0 ** (numpy.arange(numpy.prod(shape)) % 5)).astype(F32).reshape(shape)
                groups = d // storage.group if storage.group else 1
                exponents = numpy.log2(numpy.broadcast_to(scales, (b, h, 4, groups)).repeat(d // groups, axis=3))
                expected = untouched(b, h, 4, d)
                for sample, offset in enumerate(offsets):
                    here = (sample, slice(None), slice(offset, offset + l))
                    expected[here] = 0x38 + 8 * (2 - exponents[here])
                cache = untouched(b, h, 4, d)
                append(k_new=rows, k_cache=cache, k_scales=scales, k_storage=storage, cache_offsets=offsets)
                self.assertEqual(cache.tobytes(), expected.tobytes())
                # Pages [N, R, H, D] have scales in the same order of axes.
                pages = untouched(b, 4, h, d)
                scales = numpy.broadcast_to(scales, (b, h, 4, groups)).transpose(0, 2, 1, 3)
                append(k_new=rows, k_cache=pages, k_scales=scales, k_storage=storage, cache_offsets=offsets,
                       layout="NHD")
                self.assertEqual(pages.tobytes(), expected.transpose(0, 2, 1, 3).tobytes())

    def test_int8_with_scales_in_the_same_rows(self):
        pool = untouched(2, 1, 2, 8)
        append(k_new=new(INT8_ROWS), k_cache=pool[..., :4].view(numpy.int8), k_scales=pool[..., 4:].view(F32),
               k_storage=INT8_ROW, cache_offsets=OFFSETS)
        self.assertEqual(pool.tobytes(), placed([INT8_CODES[i] + INT8_SCALES[i] for i in range(2)]))

    def test_latent_caches_without_heads(self):
        pool = untouched(2, 2, 8)
        append(k_new=INT8_ROWS.reshape(2, 1, 4), k_cache=pool[..., :4], k_scales=pool[..., 4:].view(F32),
               k_storage=INT8_ROW, cache_offsets=OFFSETS)
        self.assertEqual(pool.tobytes(), placed([INT8_CODES[i] + INT8_SCALES[i] for i in range(2)]))

    def test_nvfp4_with_a_global_scale(self):
        cache, scales, factor = untouched(2, 1, 2, 8), untouched(2, 1, 2, 1), numpy.array([0.5], F32)
        append(k_new=new(NVFP4_ROWS), k_cache=cache, k_scales=scales, k_global_scale=factor, k_storage=NVFP4,
               cache_offsets=OFFSETS)
        self.assertEqual(cache.tobytes(), placed(NVFP4_CODES))
        self.assertEqual(scales.tobytes(), b"\xee\x48\x40\xee")  # 4; 2

    def test_nvfp4_scales_by_four_rows(self):
        """Scale g of row r is byte (r / 4) * 4 * S + g * 4 + r % 4 of its tile."""
        rows = numpy.concatenate([NVFP4_ROWS, NVFP4_ROWS[::-1]], axis=1).reshape(1, 2, 1, 32)
        cache, scales = untouched(1, 8, 2, 16), untouched(1, 2, 8, 2)
        expected = untouched(2, 16)
        # Row 5 of heads 0 and 1, with the groups 0 and 1.
        expected[:, 8 + 1], expected[:, 8 + 4 + 1] = (0x48, 0x40), (0x40, 0x48)
        append(k_new=rows, k_cache=cache, k_scales=scales, k_global_scale=numpy.array(0.5, F32), cache_offsets=5,
               k_storage=Storage.preset(Preset.NVFP4_BY_FOUR_ROWS), layout="NHD")
        self.assertEqual(scales.tobytes(), expected.tobytes())
        self.assertEqual(cache[0, 5].tobytes(), NVFP4_CODES[0] + NVFP4_CODES[1] + NVFP4_CODES[1] + NVFP4_CODES[0])

    def test_k_and_v_apart(self):
        """K in E4M3, and V as it is."""
        v_rows = numpy.arange(4, dtype=F32).reshape(2, 2)
        k_cache, v_cache = untouched(2, 1, 2, 4), untouched(2, 1, 2, 2, dtype=F32)
        arguments = {"k_new": new(E4M3_ROWS), "v_new": new(v_rows), "k_cache": k_cache, "v_cache": v_cache,
                     "k_scales": numpy.array([2], F32), "k_storage": E4M3, "cache_offsets": OFFSETS}
        with Plan(**arguments) as plan:
            guarantee = plan.precision_guarantee()
        self.assertEqual((guarantee.k_bit_exact, guarantee.v_bit_exact), (0, 1))
        self.assertEqual((guarantee.k_error, guarantee.v_error), (0.0625, 0))
        append_layers([arguments])
        self.assertEqual(k_cache.tobytes(), placed(E4M3_CODES))
        self.assertEqual(v_cache.tobytes(), placed([v_rows[0].tobytes(), v_rows[1].tobytes()]))

    def test_casts_and_rows_in_pieces(self):
        rows = numpy.array([[1, -2, 0.5, 65536], [3, 4, 5, 6]], F32)
        half, wide = Storage.preset(Preset.F16), untouched(2, 3, 2, 5, dtype=numpy.float16)
        expected = wide.copy()
        with numpy.errstate(over="ignore"):
            expected[0, 0, 1, :4], expected[1, 0, 0, :4] = rows.astype(numpy.float16)
        append(k_new=new(rows), k_cache=wide[:, :1, :, :4], k_storage=half, cache_offsets=OFFSETS)
        self.assertEqual(wide.tobytes(), expected.tobytes())

        one = untouched(1, 1, 1, 4, dtype=numpy.float16)
        append(k_new=rows[1:, None, None], k_cache=one, k_storage=half, cache_offsets=0)
        self.assertEqual(one.tobytes(), rows[1].astype(numpy.float16).tobytes())

        pieces = untouched(2, 1, 2, 2, 2, dtype=numpy.float16)
        append(k_new=new(rows), k_cache=pieces, k_storage=half, cache_offsets=OFFSETS)
        self.assertEqual(numpy.concatenate([pieces[0, 0, :, 1], pieces[1, 0, :, 0]]).tobytes(),
                         expected[0, 0, 1, :4].tobytes() + expected[1, 0, 0, :4].tobytes())

        # [N, H, D/pack, R, pack] of two entries of uint8, which are four elements of 4 bits.
        cache = untouched(2, 1, 4, 2, 2)
        append(k_new=new(NVFP4_ROWS), k_cache=cache, k_storage=NVFP4, k_scales=untouched(2, 1, 2, 1),
               k_global_scale=numpy.array(0.5, F32), cache_offsets=OFFSETS)
        self.assertEqual(cache[0, 0, :, 1].tobytes() + cache[1, 0, :, 0].tobytes(), b"".join(NVFP4_CODES))
        self.assertEqual(cache[0, 0, :, 0].tobytes() + cache[1, 0, :, 1].tobytes(), EE * 16)

    def test_an_odd_row_of_pairs(self):
        cache, int4 = untouched(2, 1, 2, 2), Storage(type=Stored.INT4, scaling=Scaling.GIVEN)
        append(k_new=new(numpy.array([[1, -8, 7], [0, 2.5, -1]], F32)), k_cache=cache, k_storage=int4,
               k_scales=numpy.array([1], F32), cache_offsets=OFFSETS)
        self.assertEqual(cache.tobytes(), placed([b"\x09\x8f", b"\xa8\x87"]))

    def test_repeated_calls_are_quick(self):
        arguments = {"k_new": new(E4M3_ROWS), "k_cache": untouched(2, 1, 2, 4), "k_scales": numpy.array([2], F32),
                     "k_storage": E4M3, "cache_offsets": OFFSETS}
        append(**arguments)
        cache = untouched(2, 1, 2, 4)
        with mock.patch("kvappend.plan.borrow") as borrow:
            append(**arguments | {"k_cache": cache})
            self.assertEqual(borrow.call_count, 0)
        self.assertEqual(cache.tobytes(), placed(E4M3_CODES))
        append(**arguments | {"k_cache": cache, "k_storage": E4M3._replace(type=Stored.E5M2)})
        self.assertEqual(cache[1, 0, 0].tobytes(), b"\x60\x00\x80\x3c")  # 512, 0, -0, 1


class Presets(unittest.TestCase):
    def test_are_values(self):
        self.assertEqual(NVFP4, Storage(type=Stored.E2M1, scaling=Scaling.COMPUTED, scale_use=ScaleUse.RECIPROCAL,
                                        scale_type=ScaleType.E4M3, global_scale=True, group=16))
        self.assertEqual(repr(NVFP4.scale_type), "<ScaleType.E4M3: 2>")
        self.assertEqual(Storage.preset(Preset.Q4_0).nibbles, Nibbles.HALVES)
        with self.assertRaisesRegex(Error, "ERROR_STORAGE: preset is 99") as caught:
            Storage.preset(99)
        self.assertEqual(caught.exception.status, Status.ERROR_STORAGE)


class Refusals(unittest.TestCase):
    def refused(self, kind, words, **changed):
        cache = untouched(2, 1, 2, 4)
        arguments = {"k_new": new(INT8_ROWS), "k_cache": cache, "k_scales": untouched(2, 1, 2, 1, dtype=F32),
                     "k_storage": INT8_ROW, "cache_offsets": OFFSETS} | changed
        with self.assertRaisesRegex(kind, words):
            append(**arguments)
        self.assertEqual(cache.tobytes(), EE * 16)

    def test_of_types(self):
        self.refused(ValueError, "k_cache has the type float32: expected int8 or uint8",
                     k_cache=untouched(2, 1, 2, 4, dtype=F32))
        self.refused(ValueError, "k_scales has the type float16: expected float32",
                     k_scales=untouched(2, 1, 2, 1, dtype=numpy.float16))
        self.refused(ValueError, "k_global_scale has the type float64: expected float32", k_global_scale=numpy.ones(1),
                     k_storage=INT8_ROW._replace(global_scale=True))
        self.refused(TypeError, "k_scales is a float: expected a tensor", k_scales=1.0)
        self.refused(ValueError, "k_new has the type float32, and k_cache uint8: expected one type", k_storage=None,
                     k_scales=None)
        self.refused(Error, "ERROR_CONFLICT: k_storage->type is 6 and element_type is 1",
                     k_new=new(INT8_ROWS).astype(numpy.float64))
        self.refused(ValueError, "99 is not a valid Stored", k_storage=INT8_ROW._replace(type=99))
        self.refused(Error, "ERROR_STORAGE: k_storage->rounding is 9", k_storage=INT8_ROW._replace(rounding=9))

    def test_of_shapes(self):
        self.refused(ValueError, r"k_scales has the shape \[2, 1, 1, 1\]: expected \[N, H, R, D/group\] "
                     r"\[2, 1, 2, 1\]$", k_scales=untouched(2, 1, 1, 1, dtype=F32))
        self.refused(ValueError, r"k_scales has the shape \[3, 1\]: .*\[2, 1, 2, 1\], or a shape that NumPy broadcasts",
                     k_scales=untouched(3, 1, dtype=F32), k_storage=E4M3)
        self.refused(ValueError, "k_cache has 4 entries in a row: expected 2, with two elements of 4 bits in each",
                     k_storage=INT8_ROW._replace(type=Stored.INT4), k_cache=untouched(2, 1, 2, 4))
        self.refused(ValueError, r"D is 4 in k_new .*, and 3 in k_cache", k_cache=untouched(2, 1, 2, 3))
        self.refused(ValueError, r"k_global_scale has the shape \[2\]: expected \[1\]",
                     k_global_scale=untouched(2, dtype=F32), k_storage=INT8_ROW._replace(global_scale=True))
        tiles = Storage.preset(Preset.NVFP4_BY_FOUR_ROWS)._replace(group=2, global_scale=False)
        self.refused(ValueError, "k_scales has the strides .*: expected its last two axes to be contiguous",
                     k_storage=tiles, k_cache=untouched(2, 1, 4, 2),
                     k_scales=untouched(2, 1, 2, 4).transpose(0, 1, 3, 2))

    def test_of_what_is_missing(self):
        factor = numpy.array([1], F32)
        self.refused(TypeError, "k_scales is missing, and k_storage has it", k_scales=None)
        self.refused(TypeError, "k_scales is given, and k_storage does not have it",
                     k_storage=Storage(type=Stored.INT8, scaling=Scaling.NONE))
        self.refused(TypeError, "k_global_scale is given, and k_storage does not have it", k_global_scale=factor)
        self.refused(TypeError, "k_global_scale is missing", k_storage=INT8_ROW._replace(global_scale=True))
        for v_storage in (None, INT8_ROW):
            self.refused(TypeError, "v_scales is given: expected it with v_storage and v_cache", v_scales=factor,
                         v_storage=v_storage)
        self.refused(TypeError, "k_scales is given: expected it with k_storage and k_cache", k_storage=None,
                     k_cache=untouched(2, 1, 2, 4, dtype=F32))

    def test_of_scales_that_are_computed_and_read_only_or_shared(self):
        read_only = untouched(2, 1, 2, 1, dtype=F32)
        read_only.flags.writeable = False
        self.refused(ValueError, "k_scales is read-only, and would be written", k_scales=read_only)
        rows = new(INT8_ROWS)
        self.refused(Error, "ERROR_ALIAS: .*k_scales", k_new=rows, k_scales=rows.reshape(-1)[4:].reshape(2, 1, 2, 1))

    def test_of_given_scales_by_validate(self):
        arguments = {"k_new": new(E4M3_ROWS), "k_cache": untouched(2, 1, 2, 4), "k_storage": E4M3,
                     "cache_offsets": OFFSETS}
        with Plan(**arguments, k_scales=numpy.array([2], F32)) as plan:
            arguments.pop("k_storage")
            plan.validate(**arguments, k_scales=numpy.array([2], F32))
            with self.assertRaisesRegex(Error, "ERROR_SCALE"):
                plan.validate(**arguments, k_scales=numpy.array([-1], F32))


if __name__ == "__main__":
    unittest.main()
