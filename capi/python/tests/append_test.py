# SPDX-License-Identifier: Apache-2.0
"""NumPy's arrays through every kind of append, byte by byte; what is refused, and in which words; and lifetimes."""

import gc
import itertools
import sys
import threading
import unittest
from unittest import mock

import numpy
from kvappend import Error, Flag, Layout, Plan, Report, Status, abi, append, append_layers, plan
from kvappend import tensors as tensors_

B, H, L, R, K_DIM, V_DIM = 4, 3, 5, 9, 8, 6
TYPES = [numpy.float32, numpy.float64, numpy.float16, numpy.uint16, numpy.int8, numpy.uint8]
try:
    import ml_dtypes
    TYPES += [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
except ImportError:
    pass


def noise(*shape, dtype=numpy.float32):
    """Any bits: NaNs of all kinds, too."""
    count = int(numpy.prod(shape))
    random = numpy.random.default_rng(count)
    return numpy.frombuffer(random.bytes(count * numpy.dtype(dtype).itemsize), dtype).reshape(shape).copy()


class Cache:
    """Lies in the middle of something larger, all of which is compared."""

    def __init__(self, *shape, dtype=numpy.float32, axes=(0, 1, 2, 3)):
        whole = noise(*(shape[axis] + 3 for axis in axes), dtype=dtype)
        self.whole, self.expected = whole, whole.copy()
        inside = (slice(1, -2),) * len(shape)
        self.view, self.expected_view = (array[inside].transpose(numpy.argsort(axes))
                                         for array in (self.whole, self.expected))

    def expect(self, new, places):
        for (sample, row), (block, place) in places:
            self.expected_view[block, :, place] = new[sample, :, row]

    def is_as_expected(self):
        return self.whole.tobytes() == self.expected.tobytes()


def tensors(new_rows=L, blocks=B, rows=R, dtype=numpy.float32, new_axes=(0, 1, 2, 3), cache_axes=(0, 1, 2, 3)):
    """New rows [B, H, L, D] and caches [N, H, R, D], whose axes lie in memory in the given order."""
    new = {}
    for name, dim in (("k_new", K_DIM), ("v_new", V_DIM)):
        shape = (B, H, new_rows, dim)
        new[name] = noise(*(shape[axis] for axis in new_axes), dtype=dtype).transpose(numpy.argsort(new_axes))
    caches = [Cache(blocks, H, rows, dim, dtype=dtype, axes=cache_axes) for dim in (K_DIM, V_DIM)]
    return new, caches


def by_token(new):
    """[B, H, L, D] as the tokens [B * L, H, D] that it is."""
    return {name: numpy.ascontiguousarray(array.transpose(0, 2, 1, 3)).reshape(-1, H, array.shape[3])
            for name, array in new.items()}


class Appends(unittest.TestCase):
    def check(self, new, caches, places, given=None, **arguments):
        """`given` are the new tensors as they go in, if not as they are."""
        places = list(places)
        self.assertGreater(len(places), 0)
        for array, cache in zip(new.values(), caches):
            cache.expect(array, places)
        k_cache, v_cache = caches
        given = given or new
        before = [array.tobytes() for array in given.values()]
        append(**given, k_cache=k_cache.view, v_cache=v_cache.view, **arguments)
        self.assertTrue(k_cache.is_as_expected())
        self.assertTrue(v_cache.is_as_expected())
        self.assertEqual(before, [array.tobytes() for array in given.values()])

    def test_a_ragged_batch(self):
        lengths, offsets = [3, 0, 2, 5], [0, 4, R - 1, -2]
        places = [((b, l), (b, offsets[b] + l)) for b in range(B) for l in range(lengths[b])
                  if 0 <= offsets[b] + l < R]
        self.assertEqual(len(places), 7)
        by_position = (0, 2, 1, 3)
        for dtype, offset_type, new_axes, cache_axes in itertools.product(
                TYPES, (numpy.int64, numpy.int32), ((0, 1, 2, 3), by_position), ((0, 1, 2, 3), by_position)):
            with self.subTest(dtype=dtype, offset_type=offset_type, new_axes=new_axes, cache_axes=cache_axes):
                new, caches = tensors(dtype=dtype, new_axes=new_axes, cache_axes=cache_axes)
                self.check(new, caches, places, cache_offsets=numpy.array(offsets, offset_type),
                           lengths=numpy.array(lengths, numpy.int32))

    def test_a_ragged_batch_without_padding(self):
        bounds, offsets = [0, 4, 4, 11, 18], [2, 0, 1, 5]
        new, caches = tensors()
        places = [(divmod(token, L), (b, offsets[b] + token - bounds[b]))
                  for b in range(B) for token in range(bounds[b], bounds[b + 1]) if offsets[b] + token - bounds[b] < R]
        self.check(new, caches, places, given=by_token(new), cache_offsets=numpy.array(offsets),
                   lengths=numpy.array(bounds, numpy.int32))

    def test_left_pads_and_samples_elsewhere(self):
        pads, elsewhere = [0, 4, 2, 1], [6, 0, -1, 3]
        new, caches = tensors(blocks=7)
        places = [((b, l), (elsewhere[b], l - pads[b])) for b in (0, 1, 3) for l in range(pads[b], L)]
        self.check(new, caches, places, left_pads=numpy.array(pads, numpy.int32),
                   batch_index=numpy.array(elsewhere, numpy.int32), cache_offsets=0)

    def test_a_ring_with_sinks(self):
        offsets, sinks = [0, 7, 8, 123], 2
        new, caches = tensors()
        positions = [((b, l), offsets[b] + l) for b in range(B) for l in range(L)]
        places = [((b, l), (b, p if p < sinks else sinks + (p - sinks) % (R - sinks))) for (b, l), p in positions]
        self.check(new, caches, places, cache_offsets=numpy.array(offsets), ring=True, sink_rows=sinks)

    def test_pages(self):
        page, offsets = 4, [0, 3, 6, 10]
        table = numpy.arange(B * 4, dtype=numpy.int32)[::-1].reshape(B, 4)
        positions = [((b, l), offsets[b] + l) for b in range(B) for l in range(L)]
        places = [((b, l), (table[b, p // page], p % page)) for (b, l), p in positions]
        wide = numpy.full((B, 7), -1, numpy.int32)
        wide[:, 2:6] = table
        for pages in (wide[:, 2:6], numpy.ascontiguousarray(table)):
            new, caches = tensors(blocks=B * 4, rows=page)
            self.check(new, caches, places, cache_offsets=numpy.array(offsets), page_table=pages)
        new, caches = tensors(blocks=B * 4, rows=page)
        self.check(new, caches, places, cache_offsets=numpy.array(offsets), page_table=pages.reshape(-1),
                   page_indptr=numpy.arange(0, 4 * B + 1, 4, dtype=numpy.int32))

    def test_axes_in_the_other_order(self):
        """[B, L, H, D] and [N, R, H, D] as they are, without a transposed view."""
        by_position, offsets = (0, 2, 1, 3), numpy.array([1, 0, 4, 2])
        places = [((b, l), (b, offsets[b] + l)) for b in range(B) for l in range(L)]
        for new_layout, layout in itertools.product(("HND", "NHD"), repeat=2):
            new, caches = tensors()
            given = {name: array.transpose(by_position) if new_layout == "NHD" else array
                     for name, array in new.items()}
            for cache in caches:
                cache.view = cache.view.transpose(by_position) if layout == "NHD" else cache.view
            self.check(new, caches, places, given=given, cache_offsets=offsets, layout=layout, new_layout=new_layout)

    def test_latent_rows_without_an_axis_of_heads(self):
        """As MLA has them: K alone, one row for each token."""
        new, offsets = noise(B, L, K_DIM), numpy.array([1, 0, 4, 2])
        cache, expected = noise(B, R, K_DIM), None
        for tokens in (False, True):
            cache[...] = expected = noise(B, R, K_DIM)
            for b, offset in enumerate(offsets):
                expected[b, offset:offset + L] = new[b]
            more = {"lengths": list(range(0, B * L + 1, L))} if tokens else {}
            append(k_new=new.reshape(-1, K_DIM) if tokens else new, k_cache=cache, cache_offsets=offsets, **more)
            self.assertEqual(cache.tobytes(), expected.tobytes())
        pages = noise(6, R, K_DIM)
        expected, slots = pages.copy(), numpy.random.default_rng(1).permutation(6 * R)[:B * L]
        expected.reshape(-1, K_DIM)[slots] = new.reshape(-1, K_DIM)
        append(k_new=new.reshape(-1, K_DIM), k_cache=pages, slots=slots)
        self.assertEqual(pages.tobytes(), expected.tobytes())

    def test_numbers_and_lists_of_python(self):
        def places(offsets, lengths=(L,) * B):
            return [((b, l), (b, offsets[b] + l)) for b in range(B) for l in range(lengths[b])]

        for offsets in (3, numpy.int32(3), numpy.array(3), numpy.array(3, numpy.int32),
                        numpy.broadcast_to(numpy.array([3]), B), [3] * B, (3,) * B):
            with self.subTest(offsets=offsets):
                new, caches = tensors()
                self.check(new, caches, places([3] * B), cache_offsets=offsets)
        new, caches = tensors()
        self.check(new, caches, places(range(B)), cache_offsets=range(B))
        new, caches = tensors()
        self.check(new, caches, places([1, 0, 2, 0], [5, 2, 0, 1]), cache_offsets=[1, 0, 2, 0], lengths=[5, 2, 0, 1])
        new, caches = tensors(blocks=B * 2, rows=8)
        self.check(new, caches, [((b, l), (2 * b + (6 + l) // 8, (6 + l) % 8)) for b in range(B) for l in range(L)],
                   cache_offsets=6, page_table=[[0, 1], [2, 3], [4, 5], [6, 7]])

    def test_one_number_which_differs_at_each_run(self):
        new, caches = tensors()
        arguments = dict(new, k_cache=caches[0].view, v_cache=caches[1].view)
        with Plan(**arguments, cache_offsets=0) as plan:
            for run in (plan.run, append):
                for position in (4, 0, 2):
                    for array, cache in zip(new.values(), caches):
                        array[...] = numpy.roll(array, position)
                        cache.expect(array, [((b, l), (b, position + l)) for b in range(B) for l in range(L)])
                    run(**arguments, cache_offsets=position)
                    self.assertTrue(all(cache.is_as_expected() for cache in caches))

    def test_slots(self):
        slots = numpy.random.default_rng(1).permutation(6 * R)[:B * L]
        slots[3], slots[5] = -1, 17
        new, caches = tensors(blocks=6)
        places = [(divmod(token, L), divmod(slot, R)) for token, slot in enumerate(slots) if slot not in (-1, 17)]
        self.check(new, caches, places, given=by_token(new), slots=slots, reserved_slot=17)

    def test_offsets_that_include_the_new_rows(self):
        ends, lengths = [5, 3, 9, 4], [5, 0, 4, 2]
        for kind in (numpy.int64, numpy.int32):
            new, caches = tensors()
            places = [((b, l), (b, ends[b] - lengths[b] + l)) for b in range(B) for l in range(lengths[b])]
            self.check(new, caches, places, end_offsets=numpy.array(ends, kind), lengths=lengths)
        new, caches = tensors()
        self.check(new, caches, [((b, l), (b, 7 - L + l)) for b in range(B) for l in range(L)], end_offsets=7)

    def test_the_arrays_of_flashinfer(self):
        page, pages, last = 4, [2, 3, 2, 4], [1, 2, 3, 4]
        indptr, table = numpy.cumsum([0, *pages]), numpy.random.default_rng(2).permutation(sum(pages))
        starts = [(pages[b] - 1) * page + last[b] - L for b in range(B)]
        places = [((b, l), (table[indptr[b] + (starts[b] + l) // page], (starts[b] + l) % page))
                  for b in range(B) for l in range(L)]
        bounds = numpy.arange(0, B * L + 1, L)
        for kind in (numpy.int32, numpy.int64):
            for more in ({"last_page_lengths": numpy.array(last, kind)}, {"cache_offsets": starts},
                         {"token_samples": numpy.repeat(numpy.arange(B, dtype=kind), L),
                          "token_positions": numpy.concatenate([numpy.arange(s, s + L) for s in starts]).astype(kind)}):
                new, caches = tensors(blocks=sum(pages), rows=page, cache_axes=(0, 2, 1, 3))
                for cache in caches:
                    cache.view = cache.view.transpose(0, 2, 1, 3)
                lengths = {} if "token_samples" in more else {"lengths": bounds.astype(kind)}
                self.check(new, caches, places, given=by_token(new), page_indptr=indptr.astype(kind),
                           page_table=table.astype(kind), layout="NHD", **lengths, **more)

    def test_tokens_with_a_sample_and_a_position_each(self):
        samples, positions = [0, 3, -1, 2, 3, 1] + [0] * 14, [4, 0, 2, 8, 1, -1] + [7] * 14
        places = [((0, 0), (0, 4)), ((0, 1), (3, 0)), ((0, 3), (2, 8)), ((0, 4), (3, 1))]
        for count in (6, numpy.array([6], numpy.int64), numpy.array(6, numpy.int32)):
            new, caches = tensors()
            self.check(new, caches, places, given=by_token(new), token_samples=samples, token_positions=positions,
                       token_count=count)

    def test_a_number_of_slots_and_a_page_that_are_padding(self):
        new, caches = tensors(blocks=6)
        self.check(new, caches, [((0, 0), (0, 7)), ((0, 1), (1, 0))], given=by_token(new), slots=[7, R, -1] + [5] * 17,
                   token_count=3)
        new, caches = tensors(blocks=6)
        self.check(new, caches, [((b, l), (b, l)) for b in (0, 2) for l in range(L)], cache_offsets=0, reserved_page=5,
                   page_table=[[0], [5], [2], [5]])

    def test_indices_of_both_widths(self):
        """As they are, without a copy."""
        lengths, offsets, pads, elsewhere = [3, 0, 2, 4], [0, 4, 1, 2], [0, 4, 2, 1], [6, 0, -1, 3]
        for kind in (numpy.int32, numpy.int64):
            new, caches = tensors(blocks=7)
            places = [((b, pads[b] + l), (elsewhere[b], offsets[b] + l)) for b in (0, 1, 3) for l in range(lengths[b])
                      if pads[b] + l < L]
            self.check(new, caches, places, lengths=numpy.array(lengths, kind),
                       cache_offsets=numpy.array(offsets, kind), left_pads=numpy.array(pads, kind),
                       batch_index=elsewhere)
            new, caches = tensors(blocks=B * 2, rows=8)
            self.check(new, caches, [((b, l), (2 * b + l // 8, l % 8)) for b in range(B) for l in range(L)],
                       cache_offsets=0, page_table=numpy.arange(2 * B, dtype=kind).reshape(B, 2))

    def test_one_offset_that_advances(self):
        offset = numpy.array(1)
        new, caches = tensors()
        for start in (1, 1 + L):
            self.check(new, caches, [((b, l), (b, start + l)) for b in range(B) for l in range(L) if start + l < R],
                       cache_offsets=offset, flags=Flag.ADVANCE)
        self.assertEqual(offset, 1 + 2 * L)

    def test_rows_in_pieces(self):
        """As vLLM's classic layout has them: K in pieces of some elements, V in pieces of one."""
        new, pack = tensors()[0], 4
        k_cache, v_cache = noise(B, H, K_DIM // pack, R, pack), noise(B, H, V_DIM, R)
        expected_k, expected_v = k_cache.copy(), v_cache.copy()
        expected_k[:, :, :, 2:2 + L] = new["k_new"].reshape(B, H, L, -1, pack).transpose(0, 1, 3, 2, 4)
        expected_v[..., 2:2 + L] = new["v_new"].transpose(0, 1, 3, 2)
        append(**new, k_cache=k_cache, v_cache=v_cache[..., None], cache_offsets=numpy.full(B, 2))
        self.assertEqual(k_cache.tobytes(), expected_k.tobytes())
        self.assertEqual(v_cache.tobytes(), expected_v.tobytes())

    def test_a_part_of_a_fused_projection_and_one_row_for_all_heads(self):
        projection = noise(B, L, 2 * H * K_DIM)
        k_new = projection[..., H * K_DIM:].reshape(B, L, H, K_DIM).transpose(0, 2, 1, 3)
        self.assertTrue(numpy.shares_memory(k_new, projection))
        v_new = numpy.broadcast_to(noise(B, 1, L, V_DIM), (B, H, L, V_DIM))
        _, caches = tensors()
        places = [((b, l), (b, l + 1)) for b in range(B) for l in range(L)]
        self.check({"k_new": k_new, "v_new": v_new}, caches, places, cache_offsets=numpy.full(B, 1))

    def test_one_row_for_all_tokens(self):
        new, caches = tensors()
        row = {name: numpy.broadcast_to(noise(array.shape[3]), (B * L, H, array.shape[3]))
               for name, array in new.items()}
        whole = {name: numpy.broadcast_to(array[0, 0], new[name].shape) for name, array in row.items()}
        places = [((b, l), (b, l)) for b in range(B) for l in range(L)]
        self.check(whole, caches, places, given=row, lengths=numpy.arange(0, B * L + 1, L, dtype=numpy.int32),
                   flags=Flag.ZERO_OFFSETS)

    def test_a_report_and_offsets_that_advance(self):
        offsets, report = numpy.array([0, R - 1, -2, 3]), numpy.zeros(11, numpy.int64)
        new, caches = tensors()
        places = [((b, l), (b, offsets[b] + l)) for b in range(B) for l in range(L) if 0 <= offsets[b] + l < R]
        self.check(new, caches, places, cache_offsets=offsets, report=report,
                   flags=Flag.ADVANCE | Flag.COUNT_WRITTEN)
        self.assertEqual(offsets.tolist(), [L, R - 1 + L, L - 2, 3 + L])
        found = Report.from_buffer(report)
        self.assertEqual((found.rows_written, found.rows_below, found.rows_above), (len(places), 2, 4))
        self.assertEqual((found.first_sample, found.first_row, found.first_position), (1, 1, R))

    def test_k_alone_and_nothing_at_all(self):
        new, (cache, _) = tensors()
        cache.expect(new["k_new"], [((b, l), (b, l)) for b in range(B) for l in range(L)])
        append(k_new=new["k_new"], k_cache=cache.view, cache_offsets=0)
        self.assertTrue(cache.is_as_expected())
        offsets = numpy.zeros(B, numpy.int64)
        for empty in (
                {"k_new": new["k_new"][:, :, :0], "k_cache": cache.view, "v_new": None, "cache_offsets": offsets},
                {"k_new": noise(B, H, 0, K_DIM), "k_cache": cache.view, "cache_offsets": 0},
                {"k_new": noise(B, H, L, 0), "k_cache": noise(B, H, R, 0), "cache_offsets": offsets},
                {"k_new": noise(0, H, K_DIM), "k_cache": cache.view, "slots": numpy.zeros(7, numpy.int64)},
                {"k_new": noise(0, H, L, K_DIM), "k_cache": noise(0, H, R, K_DIM), "cache_offsets": offsets[:0]},
                {"k_new": new["k_new"], "k_cache": cache.view, "page_table": numpy.zeros((B, 0), numpy.int32),
                 "cache_offsets": offsets}):
            append(**empty)
            self.assertTrue(cache.is_as_expected())

    def test_one_plan_in_many_threads(self):
        new, caches = tensors()
        like = dict(new, k_cache=caches[0].view, v_cache=caches[1].view, cache_offsets=numpy.zeros(B, numpy.int64))
        results = []

        def work(plan):
            for start in range(0, 40):
                own, offset = tensors()[1], start % (R - L)
                for array, cache in zip(new.values(), own):
                    cache.expect(array, [((b, l), (b, offset + l)) for b in range(B) for l in range(L)])
                plan.run(**new, k_cache=own[0].view, v_cache=own[1].view, cache_offsets=numpy.full(B, offset))
                results.append(all(cache.is_as_expected() for cache in own))

        with Plan(**like) as plan:
            threads = [threading.Thread(target=work, args=[plan]) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(results, [True] * 160)


class Layers(unittest.TestCase):
    def setUp(self):
        self.layers, self.caches = [], []
        for layer in range(5):
            new, caches = tensors(dtype=TYPES[layer], rows=R + layer)
            self.layers.append(dict(new, k_cache=caches[0].view, v_cache=caches[1].view))
            self.caches.append(caches)

    def check(self, written):
        for layer, caches in zip(self.layers, self.caches):
            for array, cache in zip((layer["k_new"], layer["v_new"]), caches):
                cache.expect(array, [((b, l), (b, 2 + l)) for b in range(B) for l in range(L)] if written else [])
                self.assertTrue(cache.is_as_expected())

    def test_are_appended_together(self):
        offsets = numpy.full(B, 2)
        with mock.patch.object(abi.library(), "plan_run_layers", side_effect=abi.library().plan_run_layers) as run:
            for _ in range(2):
                append_layers(self.layers, cache_offsets=offsets)
            append_layers(iter(self.layers), cache_offsets=[2] * B)
        self.assertEqual([call.args[2] for call in run.call_args_list], [5] * 3)
        self.check(written=True)
        append_layers([])

    def test_advance_their_offsets_once(self):
        offsets = numpy.full(B, 2)
        append_layers(self.layers, cache_offsets=offsets, flags=Flag.ADVANCE)
        self.check(written=True)
        self.assertEqual(offsets.tolist(), [2 + L] * B)

    def test_with_arguments_of_their_own(self):
        self.layers[1] |= {"ring": True, "sink_rows": 1}
        self.layers[2]["cache_offsets"] = numpy.full(B, 2, numpy.int32)
        append_layers(self.layers, cache_offsets=numpy.full(B, 2))
        self.check(written=True)

    def test_are_all_refused_with_one(self):
        for words, kind, changed in ((r"^layer 3: B is 4 in k_new .*, and 3 in v_new", ValueError,
                                      {"v_new": self.layers[3]["v_new"][:3]}),
                                     ("^layer 3: v_new is missing", TypeError, {"v_new": None}),
                                     ("^layer 3: k_new is a list", TypeError, {"k_new": [1]}),
                                     (r"ALIAS: layer 3: k_new \[", Error,
                                      {"k_new": self.layers[3]["k_cache"][:, :, :L]})):
            layers = [*self.layers[:3], self.layers[3] | changed, self.layers[4]]
            with self.assertRaisesRegex(kind, words):
                append_layers(layers, cache_offsets=numpy.full(B, 2))
            self.check(written=False)


class RepeatedCalls(unittest.TestCase):
    """What is remembered of a call must not serve another one."""

    def setUp(self):
        self.new, self.caches = tensors()
        self.arguments = dict(self.new, k_cache=self.caches[0].view, v_cache=self.caches[1].view,
                              cache_offsets=numpy.zeros(B, numpy.int64))
        append(**self.arguments)
        for array, cache in zip(self.new.values(), self.caches):
            cache.expect(array, [((b, l), (b, l)) for b in range(B) for l in range(L)])

    def test_are_quick(self):
        """The library is called, and nothing else is looked at thoroughly."""
        with mock.patch("kvappend.plan.borrow") as borrow:
            append(**self.arguments)
            append(**{name: array.copy() if "new" in name else array for name, array in self.arguments.items()})
            self.assertEqual(borrow.call_count, 0)
            with self.assertRaises(Exception):
                append(**self.arguments, ring=True)
            self.assertGreater(borrow.call_count, 0)
        self.assertTrue(all(cache.is_as_expected() for cache in self.caches))

    def test_with_other_memory_go_there(self):
        for start in range(3):
            new, caches = tensors()
            for array in new.values():
                array[...] = array[::-1].copy()
            for array, cache in zip(new.values(), caches):
                cache.expect(array, [((b, l), (b, start + l)) for b in range(B) for l in range(L)])
            append(**new, k_cache=caches[0].view, v_cache=caches[1].view, cache_offsets=numpy.full(B, start))
            self.assertTrue(all(cache.is_as_expected() for cache in caches))

    def test_see_what_has_changed(self):
        arguments, (k_cache, _) = self.arguments, self.caches
        read_only = arguments["k_cache"].view()
        read_only.flags.writeable = False
        for kind, words, changed in (
                (ValueError, "k_cache is read-only", {"k_cache": read_only}),
                (ValueError, "k_new has the type int32", {"k_new": arguments["k_new"].view(numpy.int32)}),
                (ValueError, "k_new has the type >f4", {"k_new": arguments["k_new"].view(">f4")}),
                (ValueError, "stride -8 along L", {"k_new": arguments["k_new"][:, :, ::-1]}),
                (ValueError, "N is 2 in k_cache", {"k_cache": arguments["k_cache"][:2]}),
                (TypeError, "v_new is missing", {"v_new": None}),
                (TypeError, "cache_offsets is missing", {"cache_offsets": None})):
            with self.assertRaisesRegex(kind, words):
                append(**{**arguments, **changed})
        self.assertTrue(k_cache.is_as_expected())
        shifted = arguments["k_new"].transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)
        with self.assertRaisesRegex(ValueError, "stride 5 along D"):
            append(**{**arguments, "k_new": shifted})

    def test_with_some_tensors_bound(self):
        arguments = self.arguments
        caches, rest = {}, dict(arguments)
        with Plan(**arguments) as plan_:
            for name in ("v_cache", "cache_offsets", "k_new", "k_cache"):
                caches[name] = rest.pop(name)
                bound = plan_.bind(**caches)
                for position in range(2):
                    arguments["v_new"][...] = noise(*arguments["v_new"].shape)[::-1]
                    arguments["cache_offsets"][...] = position
                    for array, cache in zip(self.new.values(), self.caches):
                        cache.expect(array, [((b, l), (b, position + l)) for b in range(B) for l in range(L)])
                    bound.run(**dict(reversed(rest.items())))
                    self.assertTrue(all(cache.is_as_expected() for cache in self.caches))
            for kind, words, changed in ((TypeError, "k_new is given, and is bound", {"k_new": arguments["k_new"]}),
                                         (TypeError, "v_new is missing: the plan", {"v_new": None}),
                                         (TypeError, "slots is given: the plan was made without it", {"slots": [1]}),
                                         (ValueError, "v_new is .*: the plan was made", {"v_new": self.new["k_new"]})):
                with self.assertRaisesRegex(kind, words):
                    bound.run(**{**rest, **changed})
            with self.assertRaisesRegex(ValueError, "k_cache is .*: the plan was made for"):
                plan_.bind(k_cache=arguments["v_cache"])
            with self.assertRaisesRegex(TypeError, "ring: expected some of k_new"):
                plan_.bind(ring=True)
        for _ in range(2):
            with self.assertRaisesRegex(ValueError, "the plan is closed"):
                bound.run(**rest)
        self.assertTrue(all(cache.is_as_expected() for cache in self.caches))

    def test_take_names_and_not_an_order(self):
        append(**dict(reversed(self.arguments.items())))
        self.assertTrue(all(cache.is_as_expected() for cache in self.caches))

    def test_of_too_many_kinds_are_forgotten(self):
        with mock.patch("kvappend.plan._MOST_CALLS", 3):
            for rows in range(1, L + 1):
                append(**{**self.arguments, "k_new": self.new["k_new"][:, :, :rows],
                          "v_new": self.new["v_new"][:, :, :rows]})
                self.assertLessEqual(len(plan._calls), 3)  # pylint: disable=protected-access
        self.assertTrue(all(cache.is_as_expected() for cache in self.caches))

    def test_where_numpy_is_not_as_expected_are_not_quick_and_right(self):
        with mock.patch("kvappend.tensors._BEFORE_ADDRESS", 0), mock.patch.dict("kvappend.tensors._GLANCES"):
            tensors_._GLANCES.pop(numpy.ndarray)  # pylint: disable=protected-access
            append(**self.arguments)
            self.assertNotIn(numpy.ndarray, tensors_._GLANCES)  # pylint: disable=protected-access
        self.assertTrue(all(cache.is_as_expected() for cache in self.caches))


class Refusals(unittest.TestCase):
    def setUp(self):
        new, (k_cache, v_cache) = tensors()
        self.wholes = (k_cache, v_cache)
        self.good = dict(new, k_cache=k_cache.view, v_cache=v_cache.view, cache_offsets=numpy.zeros(B, numpy.int64))

    def refused(self, kind, words, **changed):
        with self.assertRaisesRegex(kind, words) as caught:
            append(**{**self.good, **changed})
        for cache in self.wholes:
            self.assertTrue(cache.is_as_expected())
        return caught.exception

    def test_by_the_library(self):
        cache = self.good["k_cache"]
        error = self.refused(Error, "KVAPPEND_ERROR_ALIAS: .*k_new.*k_cache.*share memory", k_new=cache[:, :, :L])
        self.assertEqual((error.status, error.name), (Status.ERROR_ALIAS, "KVAPPEND_ERROR_ALIAS"))
        self.assertRegex(error.message, r"^k_new \[0x")
        self.refused(Error, "ERROR_KERNEL: .*no_such_kernel", kernel_name="no_such_kernel")
        self.refused(Error, "ERROR_HOST_THREADS: .*-1", host_threads=-1)
        self.refused(Error, "ERROR_CONFLICT: sink_rows is 10 and cache_rows is 9: expected no more", ring=True,
                     sink_rows=10)
        self.refused(Error, "ERROR_FLAGS", flags=1 << 20)
        self.refused(Error, "ERROR_SKIPPED: row 1 of sample 0 has the position 9", trap=True,
                     cache_offsets=numpy.array([R - 1, 0, 0, 0]))

    def test_by_validate_which_says_where(self):
        offsets = numpy.array([0, 1, 2, R])
        with Plan(**self.good) as plan, self.assertRaisesRegex(Error, "ERROR_SKIPPED") as caught:
            plan.validate(**{**self.good, "cache_offsets": offsets})
        self.assertEqual((caught.exception.fault.sample, caught.exception.fault.position), (3, R))

    def test_of_what_may_not_be_written(self):
        read_only = self.good["k_cache"].view()
        read_only.flags.writeable = False
        self.refused(ValueError, "k_cache is read-only", k_cache=read_only)
        with Plan(**self.good) as plan_:
            plan_.run(**self.good)
            with self.assertRaisesRegex(ValueError, "k_cache is read-only"):
                plan_.run(**{**self.good, "k_cache": read_only})
        self.wholes[0].whole[...] = self.wholes[0].expected
        self.wholes[1].whole[...] = self.wholes[1].expected
        offsets = self.good["cache_offsets"].view()
        offsets.flags.writeable = False
        self.refused(ValueError, "cache_offsets is read-only", cache_offsets=offsets, flags=Flag.ADVANCE)
        for name in ("k_new", "cache_offsets"):
            self.good[name].flags.writeable = False
        places = [((b, l), (b, l)) for b in range(B) for l in range(L)]
        for cache, name in zip(self.wholes, ("k_new", "v_new")):
            cache.expect(self.good[name], places)
        append(**self.good)
        self.assertTrue(all(cache.is_as_expected() for cache in self.wholes))

    def test_of_what_is_missing(self):
        table, indices = numpy.zeros((B, 2), numpy.int32), numpy.zeros(B, numpy.int32)
        long = indices.astype(numpy.int64)
        for words, changed in (
                ("cache_offsets is missing: expected the position of each sample.* or one number for all samples",
                 {"cache_offsets": None}),
                ("k_cache is missing, and k_new is given", {"k_cache": None}),
                ("v_new is missing, and v_cache is given", {"v_new": None}),
                ("k_new, k_cache, v_new and v_cache are missing",
                 {"k_new": None, "k_cache": None, "v_new": None, "v_cache": None}),
                ("page_table is missing, and page_indptr is given", {"page_indptr": indices}),
                ("ring is missing, and sink_rows is given", {"sink_rows": 2}),
                ("slots is missing, and reserved_slot is given", {"reserved_slot": 0}),
                ("report is missing, and flags.COUNT_WRITTEN is given", {"flags": Flag.COUNT_WRITTEN}),
                ("page_table is missing, and reserved_page is given", {"reserved_page": 0}),
                ("token_positions is missing, and token_samples is given", {"token_samples": indices}),
                ("page_indptr is missing, and last_page_lengths is given", {"last_page_lengths": indices}),
                ("token_count is given: expected it with slots or token_samples", {"token_count": 1}),
                ("cache_offsets is missing, and flags has ADVANCE",
                 {"cache_offsets": None, "flags": Flag.ADVANCE | Flag.ZERO_OFFSETS})):
            self.refused(TypeError, words, **changed)
        for one, other, changed in (
                ("slots", "cache_offsets", {"slots": long}),
                ("slots", "page_table", {"slots": long, "page_table": table, "cache_offsets": None}),
                ("slots", "ring", {"slots": long, "ring": True, "cache_offsets": None}),
                ("slots", "lengths", {"slots": long, "lengths": indices, "cache_offsets": None}),
                ("page_table", "ring", {"page_table": table, "ring": True}),
                ("page_table", "batch_index", {"page_table": table, "batch_index": indices}),
                ("cache_offsets", "end_offsets", {"end_offsets": long}),
                ("token_samples", "cache_offsets", {"token_samples": indices, "token_positions": long}),
                ("flags.ZERO_OFFSETS", "cache_offsets", {"flags": Flag.ZERO_OFFSETS}),
                ("report", "trap", {"report": numpy.zeros(11, numpy.int64), "trap": True})):
            self.refused(TypeError, f"{one} and {other} do not go together", **changed)
        self.refused(TypeError, "k_old: expected some of k_new, .*smaller_batch", k_old=self.good["k_new"])

    def test_of_types_by_their_names(self):
        good = self.good
        for dtype in ("int32", "int64", "uint64", "bool", "complex64"):
            self.refused(ValueError, f"k_new has the type {dtype}: expected float32 or .*bfloat16 or .*float8_e5m2",
                         k_new=noise(B, H, L, K_DIM, dtype=numpy.uint8).astype(dtype))
        self.refused(ValueError, "k_new has the type float32, and v_cache float16: expected one type",
                     v_cache=noise(B, H, R, V_DIM, dtype=numpy.float16))
        self.refused(ValueError, "k_new has the type int8, and k_cache float32: expected one type",
                     k_new=noise(B, H, L, K_DIM, dtype=numpy.int8))
        self.refused(ValueError, "lengths has the type int16: expected int32 or int64",
                     lengths=numpy.zeros(B, numpy.int16))
        self.refused(ValueError, "lengths has the type int64, and left_pads int32: expected one type for both",
                     lengths=numpy.zeros(B, numpy.int64), left_pads=numpy.zeros(B, numpy.int32))
        self.refused(ValueError, "cache_offsets has the type float64: expected int64 or int32",
                     cache_offsets=numpy.zeros(B))
        self.refused(ValueError, "k_new has the type >f4: expected the byte order", k_new=good["k_new"].astype(">f4"))
        self.refused(TypeError, "k_new is a list: expected a tensor", k_new=good["k_new"].tolist())

    def test_of_numbers(self):
        self.refused(TypeError, "cache_offsets is a float: expected a tensor", cache_offsets=1.5)
        self.refused(TypeError, "cache_offsets: 'str' object", cache_offsets=["1"] * B)
        self.refused(OverflowError, "lengths: ", lengths=[1 << 31] * B)
        self.refused(OverflowError, "cache_offsets: ", cache_offsets=1 << 63)
        self.refused(ValueError, "page_table is a list of parts that differ in length", page_table=[[0], [1, 2]])
        self.refused(TypeError, "cache_offsets is a plain number or list, and flags has ADVANCE", cache_offsets=0,
                     flags=Flag.ADVANCE)

    def test_of_numbers_after_offsets_of_each_sample(self):
        with Plan(**self.good) as plan_, self.assertRaisesRegex(ValueError, r"cache_offsets is \[\] with strides"):
            plan_.run(**{**self.good, "cache_offsets": 0})

    def test_in_terms_of_the_arguments(self):
        offsets = self.good.pop("cache_offsets")
        self.good["end_offsets"] = self.wholes[0].whole.reshape(-1)[1000:1000 + 2 * B].view(numpy.int64)
        self.refused(Error, r"ERROR_ALIAS: .*\bend_offsets \[")
        self.refused(Error, r"ERROR_CONFLICT: .*Flag.ADVANCE", end_offsets=offsets[0:1].reshape(()),
                     flags=Flag.ADVANCE, lengths=[1] * B)

    def test_of_axes_in_another_order(self):
        good = self.good
        self.refused(ValueError, r"H is 5 in k_new \[B, H, L, D\] \[4, 5, 3, 8\], and 3 in k_cache \[N, H, R, D\] "
                     r"\[4, 3, 9, 8\]: if k_new is \[B, L, H, D\], say new_layout=\"NHD\"$",
                     k_new=noise(B, L, H, K_DIM))
        self.refused(ValueError, r"H is 3 in k_new .*, and 9 in k_cache \[N, H, R, D\] \[4, 9, 3, 8\]: if k_cache is "
                     r"\[N, R, H, D\], say layout=\"NHD\"$", k_cache=noise(B, R, H, K_DIM))
        self.refused(ValueError, r"H is 9 in k_new .*: if k_new is \[B, H, L, D\], say new_layout=\"HND\"$",
                     k_new=noise(B, H, R, K_DIM), v_new=noise(B, H, R, V_DIM), new_layout="NHD")
        self.refused(ValueError, r"k_new has the shape \[4, 15, 8\]: expected the axes \[B, H, L, D\]$",
                     k_new=good["k_new"].reshape(B, H * L, K_DIM))
        self.refused(ValueError, r"expected the axes \[B, H, L, D\] or \[T, H, D\]$", lengths=[L] * B,
                     k_new=good["k_new"].reshape(-1, K_DIM))
        self.refused(ValueError, "layout is 'nhd': expected", layout="nhd")
        self.refused(ValueError, "new_layout is None: expected", new_layout=None)

    def test_of_tensors_that_do_not_go_together(self):
        good = self.good
        self.refused(ValueError, r"B is 4 in k_new \[B, H, L, D\] \[4, 3, 5, 8\], and 2 in v_new \[B, H, L, D\] \[2, ",
                     v_new=good["v_new"][:2])
        self.refused(ValueError, r"D is 8 in k_new .*, and 6 in k_cache \[N, H, R, D\] \[4, 3, 9, 6\]$",
                     k_cache=good["v_cache"])
        self.refused(ValueError, r"B is 4 in k_new .*, and 3 in lengths \[B\] \[3\]", lengths=[0] * 3)
        self.refused(ValueError, "k_new has the stride -8 along L of .*: expected 0 or more",
                     k_new=good["k_new"][:, :, ::-1])
        self.refused(ValueError, "k_new has the stride 2 along D, its last axis: expected 1",
                     k_new=noise(B, H, L, 16)[..., ::2])
        self.refused(ValueError, "left_pads has the stride 2 along B", left_pads=numpy.zeros(2 * B, numpy.int32)[::2])
        self.refused(ValueError, "k_new is one row repeated along all of its axes",
                     k_new=numpy.broadcast_to(noise(K_DIM), (B, H, L, K_DIM)))
        self.refused(ValueError, "page_table is one row repeated",
                     page_table=numpy.broadcast_to(numpy.zeros(3, numpy.int32), (B, 3)))
        for entries in (0, 5):
            self.refused(ValueError, rf"report has the shape \[{entries}\]: expected \[11\]",
                         report=numpy.zeros(entries, numpy.int64))
        unequal = numpy.frombuffer(b"0123456789", numpy.dtype([("a", "f4"), ("b", "u1")]))["a"]
        self.refused(ValueError, r"k_new has strides of \[5\] bytes: expected multiples of the 4", k_new=unequal)

    def test_of_a_batch_of_another_size(self):
        good = self.good
        small = {"k_new": good["k_new"][:2], "v_new": good["v_new"][:2], "cache_offsets": good["cache_offsets"][:2]}
        self.refused(ValueError, r"B is 2 in k_new .* \[2, 3, 5, 8\], and N is 4 in k_cache .*: expected a cache for "
                     "each sample, or batch_index, or smaller_batch=True", **small)
        self.refused(ValueError, "B is 4 in k_new .*, and N is 3 in k_cache", smaller_batch=True,
                     k_cache=good["k_cache"][:3], v_cache=good["v_cache"][:3])
        append(**{**good, **small}, smaller_batch=True)
        for cache, new in zip(self.wholes, ("k_new", "v_new")):
            cache.expect(good[new], [((b, l), (b, l)) for b in range(2) for l in range(L)])
            self.assertTrue(cache.is_as_expected())

    def test_of_pages_that_may_be_either_way(self):
        square = numpy.zeros((6, H, H, K_DIM), numpy.float32)
        tokens = {"k_new": noise(2, H, K_DIM), "v_new": None, "v_cache": None, "cache_offsets": None, "slots": [0, 4]}
        self.refused(ValueError, r"k_cache has the shape \[6, 3, 3, 8\], which may be \[N, H, R, D\] or \[N, R, H, D\]",
                     **tokens, k_cache=square)
        for layout, view in (("HND", square.transpose(0, 2, 1, 3)), ("NHD", square)):
            square[...] = 0
            append(**{**self.good, **tokens, "k_cache": square}, layout=layout)
            expected = numpy.zeros_like(square)
            expected[0, 0], expected[1, 1] = tokens["k_new"]
            self.assertEqual(view.tobytes(), expected.tobytes())

    def test_of_tensors_that_are_not_as_the_plan_was_told(self):
        with Plan(**self.good) as plan_:
            with self.assertRaisesRegex(ValueError, r"k_new is \[4, 3, 5, 8\] with strides \[1, .*: the plan was made"):
                plan_.run(**{**self.good, "k_new": numpy.asfortranarray(self.good["k_new"])})
            with self.assertRaisesRegex(TypeError, "^cache_offsets is missing: the plan was made with it$"):
                plan_.run(**{**self.good, "cache_offsets": None})
            with self.assertRaisesRegex(TypeError, "^lengths is given: the plan was made without it$"):
                plan_.run(**self.good, lengths=[L] * B)
            with self.assertRaisesRegex(TypeError, "trap: expected some of k_new"):
                plan_.run(**self.good, trap=True)
            plan_.run(**self.good)
        for _ in range(2):
            with self.assertRaisesRegex(ValueError, "the plan is closed"):
                plan_.run(**self.good)
        plan_.close()


class Lifetimes(unittest.TestCase):
    def setUp(self):
        new, (k_cache, v_cache) = tensors()
        self.tensors = dict(new, k_cache=k_cache.view, v_cache=v_cache.view,
                            cache_offsets=numpy.zeros(B, numpy.int64))
        self.inside_k_cache = k_cache.whole.reshape(-1)[1000:1000 + 2 * B].view(numpy.int64)

    def references(self):
        return [sys.getrefcount(array) for array in self.tensors.values()]

    def test_nothing_is_kept_of_a_tensor(self):
        before = self.references()
        plan = Plan(**self.tensors)
        self.assertEqual(self.references(), before)
        plan.run(**self.tensors)
        append(**self.tensors)
        self.assertEqual(self.references(), before)
        for _ in range(100):
            with self.assertRaisesRegex(Error, "ERROR_ALIAS"):
                plan.run(**{**self.tensors, "cache_offsets": self.inside_k_cache})
        gc.collect()
        self.assertEqual(self.references(), before)

    def test_a_plan_goes_with_its_last_reference(self):
        library = abi.library()
        with mock.patch.object(library, "plan_destroy", side_effect=library.plan_destroy) as destroy:
            plan = Plan(**self.tensors)
            plan.run(**self.tensors)
            self.assertEqual(destroy.call_count, 0)
            del plan
            self.assertEqual(destroy.call_count, 1)
            with Plan(**self.tensors) as plan:
                pass
            self.assertEqual(destroy.call_count, 2)
            plan.close()
            del plan
            with self.assertRaises(Error):
                Plan(**self.tensors, host_threads=-1)
            self.assertEqual(destroy.call_count, 2)

    def test_a_plan_of_layouts_needs_no_tensor(self):
        new, cache = (B, H, L, K_DIM), (B, H, R, K_DIM)
        layouts = {"k_new": Layout(new, (H * L * K_DIM, L * K_DIM, K_DIM, 1)),
                   "k_cache": Layout(cache, (H * R * K_DIM, R * K_DIM, K_DIM, 1), "float32", (1, 0)),
                   "cache_offsets": Layout((B,), (1,), "int64")}
        with Plan(**layouts) as plan:
            k_new, k_cache = noise(*new), numpy.zeros(cache, numpy.float32)
            plan.run(k_new=k_new, k_cache=k_cache, cache_offsets=[0] * B)
            self.assertIn(b"host", plan.sku().kernel_name)
        self.assertEqual(k_cache[:, :, :L].tobytes(), k_new.tobytes())


if __name__ == "__main__":
    unittest.main()
