#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times what else appends to caches in memory beside libkvappend: PyTorch's index_copy_, index_put_ and slice
assignment, ONNX Runtime's TensorScatter, and NumPy's slice assignment, each where it is installed. Where another format
is stored, PyTorch converts the rows by its operators, and then copies them by index_copy_. All run in one process on one thread, in random order, and are called from Python, which is the greater part of a small call. New rows
are always in the cache."""

import argparse
import ctypes
import importlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../capi/python"))
from kvappend import Preset, Storage, abi, append  # pylint: disable=wrong-import-position

SKIPPED = 77
MEBIBYTE = 1 << 20
FAR = 256 * MEBIBYTE  # A walk over so much finds little of its beginning in the cache.
VISITS = 1024  # At most, before a place comes again.
ROUNDS = 5  # In each repetition, which is their median.


def installed(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


numpy, torch, onnx, onnxruntime = map(installed, ("numpy", "torch", "onnx", "onnxruntime"))


# Formats that PyTorch can make.
FORMATS = {"f32-to-f16": Preset.F16, "bf16-to-e4m3": Preset.E4M3_DIVIDE, "bf16-to-e4m3-row": Preset.E4M3_ROW,
           "bf16-to-int8-row": Preset.INT8_ROW}


class Configuration:
    """All samples stand at one position, as index_copy_ and slices need it. Caches are [B, H, R, D]."""

    def __init__(self, line):
        self.name, *numbers = line.split()
        self.preset = FORMATS.get(self.name.split("/")[-1])
        self.heads, self.k_dim, self.v_dim, width = map(int, numbers)
        self.type = {2: "float16", 4: "float32"}[width]
        self.model, self.layout, step, residence, *_ = self.name.split("/")
        self.phase, self.batch, self.rows = re.fullmatch(r"(\w+)-(\d+)x(\d+)", step).groups()
        self.batch, self.rows = int(self.batch), int(self.rows)
        token = self.batch * self.heads * (self.k_dim + self.v_dim) * width
        self.bytes = token * self.rows
        self.cache_rows = max(self.rows, 64, min(4096, 128 * MEBIBYTE // token))
        self.cold = residence == "cold"
        self.layers = max(1, FAR // (token * self.cache_rows)) if self.cold else 1
        places = random.sample(range(self.cache_rows - self.rows + 1), min(64, self.cache_rows - self.rows + 1))
        visits = min(VISITS, FAR // self.bytes + 1, self.layers * len(places)) if self.cold else 1
        self.visits = [(i % self.layers, places[i // self.layers]) for i in range(visits)]
        self.k_new, self.v_new = (self.tensor(self.rows, dim, fill=True) for dim in (self.k_dim, self.v_dim))

    def tensor(self, rows, dim, fill=False):
        shape = (self.batch, self.heads, rows, dim)
        # Written to, so that memory is there.
        return numpy.random.rand(*shape).astype(self.type) if fill else numpy.full(shape, 0, self.type)

    def caches(self):
        return [tuple(self.tensor(self.cache_rows, dim) for dim in (self.k_dim, self.v_dim))
                for _ in range(self.layers)]


class Library:
    """The C interface as it is: what kvappend.Plan does for its callers at each run costs more than a small append."""
    name = "library"

    def __init__(self, case, caches, library):
        self.library, self.plan = library, abi.PlanPointer()
        descriptor = abi.Descriptor(batch=case.batch, heads=case.heads, new_rows=case.rows, cache_rows=case.cache_rows,
                                    k_dim=case.k_dim, v_dim=case.v_dim,
                                    element_type={"float32": abi.Element.F32, "float16": abi.Element.F16}[case.type])
        library.plan_create(descriptor, None, self.plan)
        self.kept, self.calls = [], []
        for layer, place in case.visits:
            offsets = numpy.full(case.batch, place, numpy.int64)
            args = abi.Args()
            for name, array in zip(("k_new", "v_new", "k_cache", "v_cache", "cache_offsets"),
                                   (case.k_new, case.v_new, *caches[layer], offsets)):
                setattr(args, name, array.ctypes.data)
                setattr(args, name + "_bytes", array.nbytes)
            self.kept.append(offsets)
            self.calls.append(ctypes.byref(args))

    def __call__(self, visit):
        self.library.plan_run(self.plan, self.calls[visit], None, 0, None)

    def __del__(self):
        self.library.plan_destroy(self.plan)


class Slices:
    """NumPy's or PyTorch's."""

    def __init__(self, case, caches):
        self.k_new, self.v_new = self.wrap(case.k_new), self.wrap(case.v_new)
        self.calls = [(*map(self.wrap, caches[layer]), slice(place, place + case.rows)) for layer, place in case.visits]

    def __call__(self, visit):
        k_cache, v_cache, rows = self.calls[visit]
        k_cache[:, :, rows] = self.k_new
        v_cache[:, :, rows] = self.v_new


class NumpySlices(Slices):
    name = "numpy slice"

    @staticmethod
    def wrap(array):
        return array


class TorchSlices(Slices):
    name = "torch slice"

    @staticmethod
    def wrap(array):
        return torch.from_numpy(array)


class TorchIndexCopy(TorchSlices):
    name = "torch index_copy_"

    def __init__(self, case, caches):
        super().__init__(case, caches)
        self.calls = [(k, v, torch.arange(rows.start, rows.stop)) for k, v, rows in self.calls]

    def __call__(self, visit):
        k_cache, v_cache, rows = self.calls[visit]
        k_cache.index_copy_(2, rows, self.k_new)
        v_cache.index_copy_(2, rows, self.v_new)


class TorchIndexPut(TorchIndexCopy):
    """As cache[:, :, rows] = new does it, and as caches whose samples have positions of their own need it."""
    name = "torch index_put_"

    def __init__(self, case, caches):
        super().__init__(case, caches)
        # The method index_put_ takes an index for every axis, and the operator below it None for a whole axis.
        self.calls = [(k, v, [None, None, rows]) for k, v, rows in self.calls]

    def __call__(self, visit):
        k_cache, v_cache, indices = self.calls[visit]
        torch.ops.aten.index_put_(k_cache, indices, self.k_new)
        torch.ops.aten.index_put_(v_cache, indices, self.v_new)


class NumpyPackage(NumpySlices):
    """The Python package, as its callers call it."""
    name = "kvappend.append of numpy"

    def __init__(self, case, caches):
        super().__init__(case, caches)
        self.calls = [(k, v, self.wrap(numpy.full(case.batch, rows.start))) for k, v, rows in self.calls]

    def __call__(self, visit):
        k_cache, v_cache, offsets = self.calls[visit]
        append(k_new=self.k_new, v_new=self.v_new, k_cache=k_cache, v_cache=v_cache, cache_offsets=offsets)


class TorchPackage(NumpyPackage):
    name = "kvappend.append of torch"
    wrap = staticmethod(TorchSlices.wrap)


class Formats:
    """Rows of K and V as PyTorch's tensors, caches of another format, and their scales."""

    def __init__(self, case, caches):
        del caches  # They have the type of the rows.
        self.storage = Storage.preset(case.preset)
        element = torch.float32 if case.type == "float32" else torch.bfloat16
        self.new = [torch.from_numpy(array).to(element) for array in (case.k_new, case.v_new)]
        self.is_cast = case.preset == Preset.F16
        self.is_given = case.preset == Preset.E4M3_DIVIDE
        self.stored = {Preset.F16: torch.float16, Preset.INT8_ROW: torch.int8}.get(case.preset, torch.float8_e4m3fn)
        shape = (case.batch, case.heads, case.cache_rows, case.k_dim)
        kind = torch.float16 if self.is_cast else torch.uint8
        self.caches = [[torch.zeros(shape, dtype=kind) for _ in "kv"] for _ in range(case.layers)]
        self.scales = [[torch.full((1,), 0.5).expand(*shape[:3], 1) if self.is_given else torch.zeros(*shape[:3], 1)
                        for _ in "kv"] for _ in range(case.layers)]
        self.calls = [(layer, torch.arange(place, place + case.rows), torch.full((case.batch,), place))
                      for layer, place in case.visits]


class TorchFormats(Formats):
    """What PyTorch does by its operators."""
    name = "torch convert, index_copy_"

    def __call__(self, visit):
        layer, rows, _ = self.calls[visit]
        for new, cache, scales in zip(self.new, self.caches[layer], self.scales[layer]):
            if self.is_cast:
                cache.index_copy_(2, rows, new.to(self.stored))
                continue
            numbers = new.float()
            if self.is_given:
                codes = numbers / 0.5
            else:
                scale = (numbers.abs().amax(-1, keepdim=True) / (127 if self.stored == torch.int8 else 448)).clamp(1e-6)
                scales.index_copy_(2, rows, scale)
                codes = numbers * (1 / scale)
            if self.stored == torch.int8:  # Halves are rounded away from zero.
                codes = (codes.abs() + 0.5).floor().copysign(codes)
            codes = codes.clamp(*((-128, 127) if self.stored == torch.int8 else (-448, 448)))
            cache.index_copy_(2, rows, codes.to(self.stored).view(torch.uint8))


class PackageFormats(Formats):
    name = "library"

    def __call__(self, visit):
        layer, _, offsets = self.calls[visit]
        (k_cache, v_cache), (k_scales, v_scales) = self.caches[layer], self.scales[layer]
        scales = {} if self.is_cast else {"k_scales": k_scales, "v_scales": v_scales}
        append(k_new=self.new[0], v_new=self.new[1], k_cache=k_cache, v_cache=v_cache, k_storage=self.storage,
               v_storage=self.storage, cache_offsets=offsets, **scales)


class TensorScatter:
    """With the cache bound as input and as output, so that it may be written in place."""
    name = "onnxruntime TensorScatter"

    def __init__(self, case, caches):
        self.session = self.make_session(case)
        values = [[self.value(array) for array in layer] for layer in caches]
        k_new, v_new = self.value(case.k_new), self.value(case.v_new)
        self.calls = []
        for layer, place in case.visits:
            binding = self.session.io_binding()
            binding.bind_ortvalue_input("places", self.value(numpy.full(case.batch, place, numpy.int64)))
            for name, cache, new in zip("kv", values[layer], (k_new, v_new)):
                binding.bind_ortvalue_input(name + "_cache", cache)
                binding.bind_ortvalue_input(name + "_new", new)
                binding.bind_ortvalue_output(name + "_present", cache)
            self.calls.append(binding)

    @staticmethod
    def value(array):
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    @staticmethod
    def make_session(case):
        helper, element = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(numpy.dtype(case.type))
        inputs, outputs, nodes = [helper.make_tensor_value_info("places", onnx.TensorProto.INT64, [case.batch])], [], []
        for name, dim in (("k", case.k_dim), ("v", case.v_dim)):
            shape = [case.batch, case.heads, case.cache_rows, dim]
            inputs.append(helper.make_tensor_value_info(name + "_cache", element, shape))
            inputs.append(helper.make_tensor_value_info(name + "_new", element, shape[:2] + [case.rows, dim]))
            outputs.append(helper.make_tensor_value_info(name + "_present", element, shape))
            nodes.append(helper.make_node("TensorScatter", [name + "_cache", name + "_new", "places"],
                                          [name + "_present"]))
        model = helper.make_model(helper.make_graph(nodes, "append", inputs, outputs), ir_version=10,
                                  opset_imports=[helper.make_opsetid("", 24)])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, visit):
        self.session.run_with_iobinding(self.calls[visit])


def has_tensor_scatter():
    """Whether this ONNX Runtime has the operator at all."""
    if not (onnx and onnxruntime):
        return False
    try:
        TensorScatter.make_session(Configuration("x/x/decode-1x1/warm 1 8 8 4"))
        return True
    except Exception as error:  # Its exceptions have no base of their own.
        print(f"no TensorScatter in onnxruntime {onnxruntime.__version__}: {error}")
        return False


def seconds_of_call(competitor, visits, start, calls):
    """Seconds a call."""
    order = [(start + i) % visits for i in range(calls)]
    before = time.perf_counter()
    for visit in order:
        competitor(visit)
    return (time.perf_counter() - before) / calls


def measure(case, makers, repetitions):
    caches = [case.caches() for _ in makers]
    competitors = [make(case, own) for make, own in zip(makers, caches)]
    for competitor in competitors:
        for visit in range(len(case.visits)):
            competitor(visit)
    if case.preset is not None:
        caches = [competitor.caches for competitor in competitors]
    for competitor, own in zip(competitors[1:], caches[1:]):
        for (k, v), (expected_k, expected_v) in zip(own, caches[0]):
            same = numpy.array_equal(k, expected_k) and numpy.array_equal(v, expected_v) and expected_k.any()
            assert same, f"{competitor.name} writes other bytes than the library"
    calls = 1
    while seconds_of_call(competitors[0], len(case.visits), 0, calls) * calls < 0.002:
        calls *= 2
    seconds, done = {competitor.name: [] for competitor in competitors}, 0
    for _ in range(repetitions):
        rounds = {competitor.name: [] for competitor in competitors}
        for _ in range(ROUNDS):
            for competitor in random.sample(competitors, len(competitors)):
                rounds[competitor.name].append(seconds_of_call(competitor, len(case.visits), done, calls))
            done += calls
        for name, values in rounds.items():
            seconds[name].append(statistics.median(values))
    return seconds


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host", help="the benchmark of the host backend, which knows the cases")
    parser.add_argument("library", help="libkvappend.so")
    parser.add_argument("--short", action="store_true", help="a few cases only")
    parser.add_argument("--filter", default="llama3-8b/", help="a regular expression for names (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", help="the file that the benchmark wrote, to add the figures to")
    options = parser.parse_args()
    if numpy is None or not (torch or onnxruntime):
        print("skipped: NumPy and one of PyTorch and ONNX Runtime are needed")
        return SKIPPED
    random.seed(1)

    # The package loads the same library.
    os.environ["KVAPPEND_LIBRARY"] = options.library
    loaded = abi.library()
    makers = [lambda case, caches: Library(case, caches, loaded), NumpyPackage, NumpySlices]
    if torch:
        torch.set_num_threads(1)
        makers += [TorchPackage, TorchSlices, TorchIndexCopy, TorchIndexPut]
    if has_tensor_scatter():
        makers.append(TensorScatter)
    versions = [f"{module.__name__} {module.__version__}" for module in (numpy, torch, onnxruntime) if module]
    print(", ".join(versions) + "; a ratio is another's time by the library's: min < median < max")

    command = [options.host, "--list"] + (["--short"] if options.short else [])
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    results = []
    for line in listed:
        if "/dense-bhsd/" not in line or "unaligned" in line or "/gather-" in line or not re.search(options.filter, line.split()[0]):
            continue
        case = Configuration(line)
        if case.cold and case.bytes * VISITS < FAR / 4:
            continue  # So few bytes would not fill the cache between two visits of a place.
        converts = case.name.count("/") > 3
        if converts and (torch is None or case.preset is None):
            continue
        seconds = measure(case, [PackageFormats, TorchFormats] if converts else makers, options.repetitions)
        result = {"name": case.name, "bytes": case.bytes, "versions": versions,
                  "ns": {name: [round(s * 1e9, 1) for s in values] for name, values in seconds.items()}, "ratios": {}}
        library = seconds["library"]
        print(f"{case.name:50} {case.bytes:9} bytes  {statistics.median(library) * 1e6:9.2f} us", end="")
        for name, values in seconds.items():
            if name != "library":
                ratio = result["ratios"][name] = spread([value / own for value, own in zip(values, library)])
                print(f"  {name} {ratio['min']:.2f} < {ratio['median']:.2f} < {ratio['max']:.2f}", end="")
        print(flush=True)
        results.append(result)

    if options.json:
        with open(options.json, encoding="utf-8") as file:
            figures = json.load(file)
        figures["peers"] = results
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
