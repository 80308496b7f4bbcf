# SPDX-License-Identifier: Apache-2.0
"""NumPy's arrays through every kind of append, byte by byte; what is refused, and in which words; and lifetimes."""

import gc
import itertools
import sys
import threading
import unittest
from unittest import mock

import numpy
from kvappend import Error, Flag, Layout, Plan, Report, Status, abi, append

B, H, L, R, K_DIM, V_DIM = 4, 3, 5, 9, 8, 6
TYPES = (numpy.float32, numpy.float64, numpy.float16, numpy.uint16)  # The last with bfloat16's bits.


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
                   batch_index=numpy.array(elsewhere, numpy.int32))

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

    def test_slots(self):
        slots = numpy.random.default_rng(1).permutation(6 * R)[:B * L]
        slots[3], slots[5] = -1, 17
        new, caches = tensors(blocks=6)
        places = [(divmod(token, L), divmod(slot, R)) for token, slot in enumerate(slots) if slot not in (-1, 17)]
        self.check(new, caches, places, given=by_token(new), slots=slots, reserved_slot=17)

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
        self.check(whole, caches, places, given=row, lengths=numpy.arange(0, B * L + 1, L, dtype=numpy.int32))

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
        append(k_new=new["k_new"], k_cache=cache.view)
        self.assertTrue(cache.is_as_expected())
        offsets = numpy.zeros(B, numpy.int64)
        for empty in (
                {"k_new": new["k_new"][:, :, :0], "k_cache": cache.view, "v_new": None, "cache_offsets": offsets},
                {"k_new": noise(B, H, 0, K_DIM), "k_cache": cache.view},
                {"k_new": noise(B, H, L, 0), "k_cache": noise(B, H, R, 0), "cache_offsets": offsets},
                {"k_new": noise(0, H, K_DIM), "k_cache": cache.view, "slots": numpy.zeros(7, numpy.int64)},
                {"k_new": noise(0, H, L, K_DIM), "k_cache": noise(0, H, R, K_DIM), "cache_offsets": offsets[:0]},
                {"k_new": new["k_new"], "k_cache": cache.view, "page_table": numpy.zeros((B, 0), numpy.int32)}):
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
        self.assertIn("args.k_new", error.message)
        self.refused(Error, "ERROR_STRIDE: .*k_new_strides.* -", k_new=self.good["k_new"][:, :, ::-1])
        self.refused(Error, "ERROR_KERNEL: .*no_such_kernel", kernel_name="no_such_kernel")
        self.refused(Error, "ERROR_HOST_THREADS: .*-1", host_threads=-1)
        self.refused(Error, "ERROR_CONFLICT: .*sink_rows", sink_rows=2)
        self.refused(Error, "ERROR_FLAGS", flags=1 << 20)
        self.refused(Error, "ERROR_CONFLICT: .*BATCH_INDEX", batch_index=numpy.zeros(B, numpy.int32),
                     page_table=numpy.zeros((B, 2), numpy.int32))
        self.refused(Error, "ERROR_BUFFER_TOO_SMALL: .*report", report=numpy.zeros(5, numpy.int64))
        self.refused(Error, "ERROR_NULL_BUFFER: .*report", report=numpy.zeros(0, numpy.int64))
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

    def test_of_tensors_that_do_not_go_together(self):
        good = self.good
        self.refused(TypeError, "a list has no __dlpack__", cache_offsets=[0, 0, 0, 0])
        self.refused(TypeError, "k_old: expected some of k_new, ", k_old=good["k_new"])
        self.refused(TypeError, "k_new and k_cache go together", k_cache=None)
        self.refused(TypeError, "v_new and v_cache go together", v_new=None)
        self.refused(TypeError, "expected k_new with k_cache", k_new=None, k_cache=None, v_new=None, v_cache=None)
        indices, table = numpy.zeros(B, numpy.int32), numpy.zeros((B, 2), numpy.int32)
        self.refused(TypeError, "page_indptr divides a page_table", page_indptr=indices)
        self.refused(TypeError, "slots and cache_offsets do not go together", slots=indices)
        self.refused(TypeError, "slots and page_table do not", slots=indices, page_table=table, cache_offsets=None)
        self.refused(TypeError, "slots and ring do not", slots=indices, ring=True, cache_offsets=None)
        self.refused(TypeError, "ring and page_table do not", page_table=table, ring=True)
        self.refused(TypeError, "report and trap do not", report=numpy.zeros(11, numpy.int64), trap=True)
        self.refused(ValueError, r"v_new has batch 2, and k_new has 4", v_new=good["v_new"][:2])
        self.refused(ValueError, r"k_cache has k_dim 6, and k_new has 8", k_cache=good["v_cache"])
        self.refused(ValueError, "v_cache has element_type", v_cache=noise(B, H, R, V_DIM, dtype=numpy.float16))
        self.refused(ValueError, r"k_new is \[4, 15, 8\]: expected \[B, H, L, D\]",
                     k_new=good["k_new"].reshape(B, H * L, K_DIM))
        self.refused(ValueError, "k_new has stride 2 in its last axis: expected 1", k_new=noise(B, H, L, 16)[..., ::2])
        self.refused(ValueError, "k_new is one row repeated along all of its axes",
                     k_new=numpy.broadcast_to(noise(K_DIM), (B, H, L, K_DIM)))
        self.refused(ValueError, r"k_new has elements of type INT 32: expected one of FLOAT 32, .*BFLOAT 16",
                     k_new=noise(B, H, L, K_DIM, dtype=numpy.int32))
        self.refused(ValueError, "lengths has elements of type INT 64: expected one of INT 32",
                     lengths=numpy.zeros(B, numpy.int64))
        self.refused(ValueError, "lengths has batch 3", lengths=numpy.zeros(3, numpy.int32))
        self.refused(ValueError, "left_pads has stride 2", left_pads=numpy.zeros(2 * B, numpy.int32)[::2])
        self.refused(ValueError, "page_table is one row repeated",
                     page_table=numpy.broadcast_to(numpy.zeros(3, numpy.int32), (B, 3)))
        self.refused(BufferError, "k_new: .*byte order", k_new=good["k_new"].astype(">f4"))

    def test_of_tensors_that_are_not_as_the_plan_was_told(self):
        with Plan(**self.good) as plan:
            with self.assertRaisesRegex(ValueError, r"k_new is \[4, 3, 5, 8\] by strides \[1, .*: the plan was made"):
                plan.run(**{**self.good, "k_new": numpy.asfortranarray(self.good["k_new"])})
            with self.assertRaisesRegex(TypeError, "the plan was made for .*cache_offsets, and not for "):
                plan.run(**{**self.good, "cache_offsets": None})
        with self.assertRaisesRegex(ValueError, "the plan is closed"):
            plan.run(**self.good)
        plan.close()


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
        float32, cpu = (2, 32), (1, 0)
        new, cache = (B, H, L, K_DIM), (B, H, R, K_DIM)
        layouts = {"k_new": Layout(new, (H * L * K_DIM, L * K_DIM, K_DIM, 1), float32, cpu),
                   "k_cache": Layout(cache, (H * R * K_DIM, R * K_DIM, K_DIM, 1), float32, cpu)}
        with Plan(**layouts) as plan:
            k_new, k_cache = noise(*new), numpy.zeros(cache, numpy.float32)
            plan.run(k_new=k_new, k_cache=k_cache)
            self.assertIn(b"host", plan.sku().kernel_name)
        self.assertEqual(k_cache[:, :, :L].tobytes(), k_new.tobytes())


if __name__ == "__main__":
    unittest.main()
