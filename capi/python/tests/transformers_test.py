# SPDX-License-Identifier: Apache-2.0
"""KvappendCache instead of Transformers' own StaticCache: the same tokens, logits and caches, to the bit, from small
models with random weights, with full attention and with sliding windows, also when it is compiled; and rows in other
formats. Prints what a step takes with either, for information."""

import inspect
import itertools
import statistics
import time
import unittest

import torch
import transformers
from kvappend import Preset, ScaleType, Scaling, Storage, Stored, append, gather
from kvappend.transformers_cache import (KvappendCache, KvappendHybridLayer, KvappendHybridSlidingLayer, KvappendLayer,
                                         KvappendSlidingLayer)
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, StaticCache

PROMPT, NEW, ROWS, WORDS = 9, 40, 64, 256
SIZES = {"vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2, "num_hidden_layers": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
CACHES = (StaticCache, KvappendCache)
WINDOW = {"use_sliding_window": True, "sliding_window": 16}
Q8_0, Q4_0, E4M3 = map(Storage.preset, (Preset.Q8_0, Preset.Q4_0, Preset.E4M3_ROW))


def small(kind, config, dtype):
    torch.manual_seed(7)
    return kind(config).to(dtype).eval()


def llama(dtype=torch.float32):
    return small(LlamaForCausalLM, LlamaConfig(**SIZES), dtype)


def keyword(model):
    """past_key_values, or what newer releases call it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def prompts(batch):
    """The samples but the first are shorter, and padded on the left."""
    tokens, mask = torch.randint(2, WORDS, (batch, PROMPT)), torch.ones(batch, PROMPT, dtype=torch.int64)
    for sample in range(1, batch):
        tokens[sample, :2 * sample], mask[sample, :2 * sample] = 0, 0
    return {"input_ids": tokens, "attention_mask": mask}


def generate(model, cache, inputs, **options):
    return model.generate(**inputs, **{keyword(model): cache}, max_new_tokens=NEW, do_sample=False, output_logits=True,
                          return_dict_in_generate=True, disable_compile=True, **options)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def decoded(storage, rows):
    """The rows as they come back from a cache of their own."""
    batch, heads, length, dim = rows.shape
    wide = {Stored.F16: torch.float16, Stored.BF16: torch.bfloat16}.get(storage.type, torch.uint8)
    entries = dim // 2 if storage.type in (Stored.INT4, Stored.E2M1) else dim
    cache = torch.zeros(batch, heads, length, entries, dtype=wide)
    arguments = {"k_cache": cache, "k_storage": storage, "cache_offsets": 0, "layout": "HND"}
    if storage.scaling == Scaling.COMPUTED:
        kind = {ScaleType.F32: torch.float32, ScaleType.F16: torch.float16}.get(storage.scale_type, torch.uint8)
        arguments["k_scales"] = torch.zeros(batch, heads, length, dim // (storage.group or dim), dtype=kind)
    if storage.global_scale:
        arguments["k_global_scale"] = torch.ones(1)
    result = torch.empty_like(rows, memory_format=torch.contiguous_format)
    append(k_new=rows, **arguments)
    gather(k_out=result, **arguments)
    return result


class Generation(unittest.TestCase):
    tokens = 0

    def setUp(self):
        torch.manual_seed(5)

    def assert_same_bits(self, one, other):
        self.assertEqual((one.shape, one.dtype), (other.shape, other.dtype))
        self.assertTrue(torch.equal(bits(one), bits(other)))

    def assert_same_caches(self, stock, own):
        self.assertEqual(int(stock.get_seq_length()), int(own.get_seq_length()))
        for one, other in zip(stock.layers, own.layers, strict=True):
            self.assertTrue(one.keys.any())
            self.assert_same_bits(one.keys, other.keys)
            self.assert_same_bits(one.values, other.values)

    def check(self, model, inputs, kinds=(KvappendLayer,) * SIZES["num_hidden_layers"], **options):
        stock, own = (kind(config=model.config, max_cache_len=ROWS) for kind in CACHES)
        self.assertEqual([type(layer) for layer in own.layers], [*kinds])
        expected, found = (generate(model, cache, inputs, **options) for cache in (stock, own))
        self.assertEqual(expected.sequences.tolist(), found.sequences.tolist())
        self.assertEqual(found.sequences.shape, (len(inputs["input_ids"]), PROMPT + NEW))
        self.assertEqual(len(found.logits), NEW)
        for one, other in zip(expected.logits, found.logits):
            self.assert_same_bits(one, other)
        self.assert_same_caches(stock, own)
        Generation.tokens += found.sequences[:, PROMPT:].numel()

    def test_equals_stock(self):
        for dtype, batch in itertools.product((torch.float32, torch.bfloat16), (1, 3)):
            with self.subTest(dtype=dtype, batch=batch):
                self.check(llama(dtype), prompts(batch))

    def test_equals_stock_with_beams(self):
        """Which put the samples of the cache in another order at each step."""
        self.check(llama(), prompts(2), num_beams=3)

    def test_equals_stock_where_windows_slide(self):
        """Layers of both kinds, and sliding windows alone."""
        for full in (0, 2):
            with self.subTest(full=full):
                config = Qwen2Config(**SIZES, **WINDOW | {"max_window_layers": full})
                self.check(small(Qwen2ForCausalLM, config, torch.float32), prompts(2),
                           kinds=[KvappendLayer] * full + [KvappendSlidingLayer] * (3 - full))

    def test_equals_stock_by_chunks_and_after_crop_and_reset(self):
        model, tokens = llama(), torch.randint(2, WORDS, (2, 30))
        caches = [kind(config=model.config, max_cache_len=ROWS) for kind in CACHES]
        for again in range(2):
            for start, end in ((0, 11), (11, 12), (12, 30)):
                with torch.no_grad():
                    one, other = (model(tokens[:, start:end], **{keyword(model): cache}).logits for cache in caches)
                self.assert_same_bits(one, other)
                self.assert_same_caches(*caches)
            for cache in caches:
                if again:
                    cache.reset()
                else:
                    cache.crop(-30)

    def check_compiled(self, config, steps=(5, 1, 1), **options):
        """Compiled as one graph, updates return and store the same bytes."""
        def step(cache, keys, values):
            keys, values = cache.update(2 * keys, values - 1, 0)
            return keys + values

        cache, expected = (KvappendCache(config=config, max_cache_len=ROWS, **options) for _ in range(2))
        torch.compiler.reset()
        compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
        for one in (cache, expected):
            one.early_initialization(2, 2, 32, torch.float32, torch.device("cpu"))
        for rows in steps:
            keys, values = torch.randn(2, 2, 2, rows, 32)
            self.assert_same_bits(compiled(cache, keys, values), step(expected, keys, values))
        self.assert_same_bits(cache.layers[0].keys, expected.layers[0].keys)
        self.assert_same_bits(cache.layers[0].values, expected.layers[0].values)

    def test_torch_compile_has_one_graph(self):
        self.check_compiled(LlamaConfig(**SIZES))
        self.check_compiled(Qwen2Config(**SIZES, **WINDOW | {"max_window_layers": 0}), steps=(14, 1, 1, 1, 1, 3))
        self.check_compiled(LlamaConfig(**SIZES), k_storage=Q8_0, v_storage=Q4_0)

    def test_equals_stock_when_compiled(self):
        model, tokens = llama(), torch.randint(2, WORDS, (1, 6))
        results = []
        for kind in CACHES:
            cache = kind(config=model.config, max_cache_len=ROWS)
            torch.compiler.reset()
            forward = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
            with torch.no_grad():
                model(tokens[:, :3], **{keyword(model): cache})
                results.append([forward(tokens[:, i:i + 1], **{keyword(model): cache}).logits for i in range(3, 6)])
        for one, other in zip(*results, strict=True):
            self.assert_same_bits(one, other)

    def test_update_by_itself(self):
        model = llama()
        caches = [kind(config=model.config, max_cache_len=ROWS) for kind in CACHES]
        for position, rows in ((0, 5), (5, 1), (6, 58)):
            keys, values = torch.randn(2, rows, 2, 16).transpose(1, 2), torch.randn(2, 2, rows, 16)
            cache_kwargs = {"cache_position": torch.arange(position, position + rows)}
            for layer in range(3):
                results = [cache.update(keys, values, layer, cache_kwargs) for cache in caches]
                for one, other in zip(*results):
                    self.assert_same_bits(one, other)
                self.assertIs(results[1][0], caches[1].layers[layer].keys)
        self.assert_same_caches(*caches)
        # The cache is full.
        with self.assertRaises(IndexError):
            caches[0].update(keys[:, :, :1], values[:, :, :1], 0, {"cache_position": torch.tensor([ROWS])})
        with self.assertRaisesRegex(IndexError, fr"the cache is full: it has {ROWS} rows \(max_cache_len\), and 1 new "
                                    f"ones begin at position {ROWS}$"):
            caches[1].update(keys[:, :, :1], values[:, :, :1], 0)
        # The rows of a failed update count for neither.
        self.assertEqual(int(caches[1].layers[0].cumulative_length), ROWS)

    def test_windows_by_themselves(self):
        """Updates of every length at every fill: within the window, over its end, and beyond it."""
        config = Qwen2Config(**SIZES, **WINDOW | {"max_window_layers": 0})
        for steps in ((1,) * 20, (16, 1, 1, 2, 1), (15, 2, 1), (20, 1), (3, 13, 5, 1)):
            with self.subTest(steps=steps):
                caches = [kind(config=config, max_cache_len=ROWS) for kind in CACHES]
                for again in range(2):
                    for rows in steps:
                        keys, values = torch.randn(2, 3, 2, rows, 16)
                        sizes = [cache.get_mask_sizes(rows, 0) for cache in caches]
                        self.assertEqual(*sizes)
                        for one, other in zip(*(cache.update(keys, values, 0) for cache in caches)):
                            self.assert_same_bits(one, other)
                        for one, other in zip(*((cache.layers[0].keys, cache.layers[0].values) for cache in caches)):
                            self.assert_same_bits(one, other)
                    for cache in caches:
                        cache.reset()

    def test_attention_beside_linear_attention(self):
        """A layer of both: the rows as in Transformers' layer, and the states of its other half."""
        for name, kind in (("hybrid", KvappendHybridLayer), ("hybrid_sliding", KvappendHybridSlidingLayer)):
            with self.subTest(name):
                config = Qwen2Config(**SIZES, **WINDOW)
                config.layer_types = [name] * 3
                caches = [cache(config=config, max_cache_len=ROWS) for cache in CACHES]
                self.assertEqual({type(layer) for layer in caches[1].layers}, {kind})
                for rows in (14, 1, 1, 1, 1, 1):
                    keys, values, states = torch.randn(3, 2, 2, rows, 16)
                    for one, other in zip(*(cache.update(keys, values, 1) for cache in caches)):
                        self.assert_same_bits(one, other)
                    self.assert_same_bits(*(cache.update_recurrent_state(states, 1) for cache in caches))

    def test_stored_rows(self):
        """Equal an append and a gather by the package, in every format whose scales are computed, or that has none."""
        for preset in (Preset.F16, Preset.BF16, Preset.INT8_ROW, Preset.E4M3_ROW, Preset.Q8_0, Preset.Q4_0,
                       Preset.NVFP4, Preset.INDEXER):
            for dtype in (torch.float32, torch.bfloat16):
                with self.subTest(preset=preset, dtype=dtype):
                    storage = Storage.preset(preset)
                    if storage.type in (Stored.F16, Stored.BF16) and dtype != torch.float32:
                        continue
                    cache = KvappendCache(config=LlamaConfig(**SIZES), max_cache_len=ROWS, k_storage=storage,
                                          v_storage=Q8_0)
                    position, beams = 0, torch.tensor([1, 1])
                    expected = torch.zeros(2, 2, ROWS, 128, dtype=dtype)
                    for rows in (5, 1, 1):
                        keys, values = torch.randn(2, 2, 2, rows, 128).to(dtype)
                        found = cache.update(keys, values, 0)
                        expected[:, :, position:position + rows] = decoded(storage, keys)
                        position += rows
                        self.assert_same_bits(found[0], expected)
                        self.assertEqual((found[1].shape, found[1].dtype), (expected.shape, dtype))
                        self.assertEqual(int(cache.get_seq_length()), position)
                    self.assertFalse(torch.equal(found[0][:, :, position - 1:position], keys))
                    # Beams, and a crop.
                    cache.reorder_cache(beams)
                    cache.crop(-1)
                    expected = expected[beams]
                    expected[:, :, position - 1] = decoded(storage, keys[:, :, -1:])[:, :, 0]
                    self.assert_same_bits(cache.update(keys[:, :, -1:], values[:, :, -1:], 0)[0], expected)
                    cache.reset()
                    self.assertFalse(cache.update(keys[:, :, :0], values[:, :, :0], 0)[0].any())

    def test_rows_as_they_are_beside_stored_rows(self):
        for dtype in (torch.float32, torch.bfloat16):
            with self.subTest(dtype=dtype):
                cache = KvappendCache(config=LlamaConfig(**SIZES), max_cache_len=ROWS, k_storage=Storage(),
                                      v_storage=Q8_0)
                keys, values = torch.randn(2, 2, 2, 5, 128).to(dtype)
                found = cache.update(keys, values, 0)
                self.assert_same_bits(found[0][:, :, :5], keys)
                self.assert_same_bits(found[1][:, :, :5], decoded(Q8_0, values))

    def test_generation_with_stored_rows(self):
        model, inputs = llama(), prompts(2)
        stock, own = (generate(model, kind(config=model.config, max_cache_len=ROWS, **options), inputs)
                      for kind, options in ((StaticCache, {}), (KvappendCache, {"k_storage": E4M3, "v_storage": E4M3})))
        difference = max(float((one - other).abs().max()) for one, other in zip(stock.logits[:1], own.logits[:1]))
        self.assertTrue(0 < difference < 0.1, difference)

    def test_storages_with_given_scales_are_refused(self):
        given = Storage.preset(Preset.E4M3_DIVIDE)
        with self.assertRaisesRegex(ValueError, "scales that are given: expected scales that are computed, or none"):
            KvappendCache(config=LlamaConfig(**SIZES), max_cache_len=ROWS, k_storage=given, v_storage=given)
        with self.assertRaisesRegex(TypeError, "expected both or none"):
            KvappendCache(config=LlamaConfig(**SIZES), max_cache_len=ROWS, k_storage=Q8_0)

    def test_a_batch_of_another_size_is_refused(self):
        caches = [kind(config=llama().config, max_cache_len=ROWS) for kind in CACHES]
        for cache, kind in zip(caches, (RuntimeError, ValueError)):
            cache.update(*torch.randn(2, 3, 2, 1, 16), 0)
            with self.assertRaises(kind):
                cache.update(*torch.randn(2, 2, 2, 1, 16), 0)

    def test_what_autograd_would_miss_is_refused(self):
        model = llama()
        with self.assertRaisesRegex(BufferError, "k_new: .*require gradient"):
            model(torch.tensor([[1, 2]]), **{keyword(model): KvappendCache(config=model.config, max_cache_len=ROWS)})


def report_times():
    """A step of decoding of a Llama of eight layers, with either cache in turn. It is the CPU's time, as the machine
    may be busy, and the ratio is of steps side by side, as the machine may change its pace."""
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_hidden_layers": 8}
    model, steps = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **sizes)).eval(), 150
    caches = {kind: kind(config=model.config, max_cache_len=steps + 16) for kind in CACHES}
    seconds = {kind: [] for kind in CACHES}
    with torch.no_grad():
        for cache in caches.values():
            model(torch.arange(16)[None], **{keyword(model): cache})
        for step in range(steps):
            for kind in CACHES if step % 2 else CACHES[::-1]:
                before = time.thread_time()
                model(torch.tensor([[step]]), **{keyword(model): caches[kind]})
                seconds[kind].append(time.thread_time() - before)
    stock, own = (statistics.median(seconds[kind]) * 1e6 for kind in CACHES)
    low, middle, high = statistics.quantiles(one / other for one, other in
                                             zip(seconds[KvappendCache], seconds[StaticCache]))
    print(f"a step of eight layers: stock {stock:.0f} us, libkvappend {own:.0f} us, {middle:.3f} times as long "
          f"(quartiles {low:.3f} and {high:.3f})")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    done = unittest.main(exit=False).result
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: {Generation.tokens} tokens compared")
    report_times()
    raise SystemExit(not done.wasSuccessful())
