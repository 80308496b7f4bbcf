#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ONNX's own cases of TensorScatter, as its package publishes them, come out the same to the byte; and so do others,
with what those leave out, as ONNX' reference implementation has them."""

import ctypes
import importlib
import itertools
import math
import sys

SKIPPED = 77

BACKEND_HOST = 0
ELEMENTS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 3}
OFFSETS = {"int64": 0, "int32": 1}
ADDRESSINGS = {"linear": 0, "circular": 1}
FLAG_ZERO_OFFSETS = 4


# Both structs end before the fields that no case needs, as an older header's would: the library takes those as zero.
class Descriptor(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)]
    _fields_ += [(name, ctypes.c_int32) for name in ("backend", "element_type", "offset_type", "addressing")]
    _fields_ += [(name, ctypes.c_int64) for name in ("batch", "heads", "new_rows", "cache_rows", "k_dim", "v_dim")]
    _fields_ += [(name, ctypes.c_int64 * 3)
                 for name in ("k_new_strides", "v_new_strides", "k_cache_strides", "v_cache_strides")]
    _fields_ += [(name, ctypes.c_int32) for name in ("lengths", "flags")]


class Args(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)]
    for _name in ("k_new", "v_new", "k_cache", "v_cache", "cache_offsets"):
        _fields_ += [(_name, ctypes.c_void_p), (_name + "_bytes", ctypes.c_size_t)]


class Library:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.kvappend_last_error_message.restype = ctypes.c_char_p
        self.library.kvappend_plan_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t,
                                                   ctypes.c_void_p]
        self.library.kvappend_plan_destroy.argtypes = [ctypes.c_void_p]

    def require(self, status):
        assert status == 0, self.library.kvappend_last_error_message().decode()

    def append(self, descriptor, args):
        plan = ctypes.c_void_p()
        self.require(self.library.kvappend_plan_create(ctypes.byref(descriptor), None, ctypes.byref(plan)))
        try:
            self.require(self.library.kvappend_plan_run(plan, ctypes.byref(args), None, 0, None))
        finally:
            self.library.kvappend_plan_destroy(plan)


def give(args, name, array):
    setattr(args, name, array.ctypes.data)
    setattr(args, name + "_bytes", array.nbytes)


def tensor_scatter(library, attributes, past_cache, update, write_indices=None):
    """The operator by libkvappend: K alone, in a copy of past_cache."""
    present_cache = past_cache.copy(order="C")
    update = update.copy(order="C")
    rank = present_cache.ndim
    axis = attributes.get("axis", -2) % rank
    assert 1 <= axis < rank, axis
    # A row is what the last axis holds, and the axes that remain are one axis of heads, as they lie side by side.
    row_axis = None if axis == rank - 1 else rank - 1
    head_axes = [a for a in range(1, rank) if a not in (axis, row_axis)]
    assert head_axes == list(range(rank))[head_axes[0]:head_axes[-1] + 1] if head_axes else True, (axis, rank)

    def strides(array):
        elements = [stride // array.itemsize for stride in array.strides]
        return elements[0], elements[head_axes[-1]] if head_axes else 0, elements[axis]

    descriptor = Descriptor(struct_size=ctypes.sizeof(Descriptor), backend=BACKEND_HOST)
    descriptor.element_type = ELEMENTS[present_cache.dtype.name]
    descriptor.addressing = ADDRESSINGS[attributes.get("mode", "linear")]
    descriptor.batch = present_cache.shape[0]
    descriptor.heads = math.prod(present_cache.shape[a] for a in head_axes)
    descriptor.new_rows = update.shape[axis]
    descriptor.cache_rows = present_cache.shape[axis]
    descriptor.k_dim = 1 if row_axis is None else present_cache.shape[row_axis]
    descriptor.k_new_strides[:] = strides(update)
    descriptor.k_cache_strides[:] = strides(present_cache)
    args = Args(struct_size=ctypes.sizeof(Args))
    give(args, "k_new", update)
    give(args, "k_cache", present_cache)
    if write_indices is None:
        descriptor.flags = FLAG_ZERO_OFFSETS
    else:
        descriptor.offset_type = OFFSETS[write_indices.dtype.name]
        write_indices = write_indices.copy(order="C")
        give(args, "cache_offsets", write_indices)
    library.append(descriptor, args)
    return present_cache


def published_cases():
    """The cases of the operator, which ONNX makes when their module is imported."""
    node = importlib.import_module("onnx.backend.test.case.node")
    importlib.import_module("onnx.backend.test.case.node.tensorscatter")
    # A case that is the operator's expansion into other operators has other nodes.
    cases = [case for case in node._NodeTestCases  # pylint: disable=protected-access
             if [n.op_type for n in case.model.graph.node] == ["TensorScatter"]]
    names = {case.name for case in cases}
    assert {"test_tensorscatter", "test_tensorscatter_circular", "test_tensorscatter_3d"} <= names, names
    return cases


def check(library, onnx, case):
    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if "mode" in attributes:
        attributes["mode"] = attributes["mode"].decode()
    for inputs, (expected,) in case.data_sets:
        before = [array.tobytes() for array in inputs]
        found = tensor_scatter(library, attributes, *inputs)
        assert found.dtype == expected.dtype and found.shape == expected.shape, case.name
        assert found.tobytes() == expected.tobytes(), f"{case.name}\nfound\n{found}\nexpected\n{expected}"
        assert [array.tobytes() for array in inputs] == before, case.name


def reference(onnx, attributes, inputs):
    names = ["past_cache", "update", "write_indices"][:len(inputs)]
    node = onnx.helper.make_node("TensorScatter", names, ["present_cache"], **attributes)
    values = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
              for name, array in zip(names, inputs)]
    cache = onnx.helper.make_tensor_value_info("present_cache", values[0].type.tensor_type.elem_type, inputs[0].shape)
    graph = onnx.helper.make_graph([node], "one", values, [cache])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)])
    (present_cache,) = onnx.reference.ReferenceEvaluator(model).run(None, dict(zip(names, inputs)))
    return present_cache


def check_other(library, onnx, numpy, random):
    """Every axis, other types, indices beyond the ring, and no indices."""
    shapes = [(3, 7, 5), (2, 7, 3, 4), (2, 1, 7, 8), (1, 2, 6, 3, 4)]
    count = 0
    for shape, mode, dtype in itertools.product(shapes, ("linear", "circular"), (numpy.float64, numpy.float16)):
        for axis, absent in itertools.product(range(1, len(shape)), (False, True)):
            if 2 <= axis < len(shape) - 2:
                continue  # Its heads would be two axes that do not lie side by side.
            rows = int(random.integers(0, shape[axis] + 1))
            cache = random.random(shape).astype(dtype)
            update = random.random(shape[:axis] + (rows,) + shape[axis + 1:]).astype(dtype)
            last = shape[axis] - rows if mode == "linear" else 1000
            inputs = [cache, update] + ([] if absent else [random.integers(0, last + 1, shape[0])])
            attributes = {"mode": mode, "axis": axis if absent else axis - len(shape)}
            found = tensor_scatter(library, attributes, *inputs)
            expected = reference(onnx, attributes, inputs)
            assert found.tobytes() == expected.tobytes(), (shape, attributes, inputs, found, expected)
            count += 1
    return count


def main():
    path, sanitizers = sys.argv[1:]
    if sanitizers != "none":
        print("skipped: a program without the sanitizers' runtime cannot use a library with them")
        sys.exit(SKIPPED)
    try:
        numpy = importlib.import_module("numpy")
        onnx = importlib.import_module("onnx")
        importlib.import_module("onnx.reference")
        importlib.import_module("onnx.backend.test.case.node.tensorscatter")
    except ImportError as absent:
        print(f"skipped: there is no onnx package with TensorScatter, which is there from 1.19 on: {absent}")
        sys.exit(SKIPPED)
    library = Library(path)
    cases = published_cases()
    for case in cases:
        check(library, onnx, case)
        print(f"{case.name}: passed")
    print(f"{len(cases)} cases of onnx {onnx.__version__}")
    # Earlier ones take all leading indices, the sample's too, modulo the rows of a circular cache.
    if tuple(int(number) for number in onnx.__version__.split(".")[:2]) >= (1, 23):
        others = check_other(library, onnx, numpy, numpy.random.default_rng(24))
        print(f"{others} other cases by its reference implementation")


if __name__ == "__main__":
    main()
