# SPDX-License-Identifier: Apache-2.0
"""KvappendCache instead of Transformers' own StaticCache: the same tokens, logits and caches, to the bit, from small
models with random weights. Prints what a step takes with either, for information."""

import inspect
import itertools
import statistics
import time
import unittest

import torch
import transformers
from kvappend.transformers_cache import KvappendCache, KvappendLayer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, StaticCache

PROMPT, NEW, ROWS, WORDS = 9, 40, 64, 256
SIZES = {"vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2, "num_hidden_layers": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
CACHES = (StaticCache, KvappendCache)


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

    def check(self, model, inputs, own_layers=SIZES["num_hidden_layers"], **options):
        stock, own = (kind(config=model.config, max_cache_len=ROWS) for kind in CACHES)
        self.assertEqual(sum(isinstance(layer, KvappendLayer) for layer in own.layers), own_layers)
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
        """Layers with a sliding window stay Transformers' own; the others are ours."""
        config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=2)
        self.check(small(Qwen2ForCausalLM, config, torch.float32), prompts(2), own_layers=2)

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

    def test_torch_compile_leaves_update_alone(self):
        def step(cache, keys, values):
            keys, values = cache.update(2 * keys, values - 1, 0)
            return keys + values

        cache, expected = (KvappendCache(config=LlamaConfig(**SIZES), max_cache_len=ROWS) for _ in range(2))
        compiled = torch.compile(step, backend="eager")
        for rows in (5, 1, 1):
            keys, values = torch.randn(2, 2, 2, rows, 16)
            self.assert_same_bits(compiled(cache, keys, values), step(expected, keys, values))

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
    """The CPU's time, as the machine may be busy; alternating, as it may change its pace."""

    def compare(name, repetitions, count, run):
        seconds = {kind: [] for kind in CACHES}
        for kind in CACHES * repetitions:
            cache = kind(config=model.config, max_cache_len=ROWS)
            cache.early_initialization(1, 2, 16, torch.float32, torch.device("cpu"))
            before = time.thread_time()
            run(cache)
            seconds[kind].append((time.thread_time() - before) / count)
        stock, own = (statistics.median(seconds[kind]) * 1e6 for kind in CACHES)
        ratios = sorted(one / other for one, other in zip(seconds[KvappendCache], seconds[StaticCache]))
        print(f"{name}: stock {stock:.1f} us, libkvappend {own:.1f} us, {ratios[0]:.3f} < "
              f"{statistics.median(ratios):.3f} < {ratios[-1]:.3f} times as long")

    def update(cache):
        for _ in range(ROWS):
            cache.update(keys, keys, 0)

    model, inputs, keys = llama(), prompts(1), torch.randn(1, 2, 1, 16)
    compare("a step of generate, three layers", 7, NEW, lambda cache: generate(model, cache, inputs))
    compare("an update of one layer", 50, ROWS, update)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    done = unittest.main(exit=False).result
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: {Generation.tokens} tokens compared")
    report_times()
    raise SystemExit(not done.wasSuccessful())
