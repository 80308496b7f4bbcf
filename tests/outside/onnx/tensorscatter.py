#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ONNX's own cases of TensorScatter, as its package publishes them, come out the same to the byte; and so do others,
with what those leave out, as ONNX' reference implementation has them."""

import importlib
import itertools
import math
import sys

from kvappend import append

SKIPPED = 77


def by_rows(array, axis):
    """A view [B, H, L, D]: L is `axis`, D the last axis if that is another, and H all axes that remain, which must lie
    side by side."""
    batch, shape = array.shape[0], array.shape
    heads = math.prod(shape[1:axis] + shape[axis + 1:-1])
    if axis == array.ndim - 1:
        return array.reshape(batch, heads, shape[axis], 1)
    if axis == array.ndim - 2:
        return array.reshape(batch, heads, shape[axis], shape[-1])
    assert axis == 1, (axis, shape)
    return array.reshape(batch, shape[axis], heads, shape[-1]).transpose(0, 2, 1, 3)


def tensor_scatter(attributes, past_cache, update, write_indices=None):
    """The operator by libkvappend: K alone, in a copy of past_cache."""
    present_cache = past_cache.copy(order="C")
    axis = attributes.get("axis", -2) % present_cache.ndim
    append(k_new=by_rows(update.copy(order="C"), axis), k_cache=by_rows(present_cache, axis),
           cache_offsets=0 if write_indices is None else write_indices,
           ring=attributes.get("mode", "linear") == "circular")
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


def check(onnx, case):
    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if "mode" in attributes:
        attributes["mode"] = attributes["mode"].decode()
    for inputs, (expected,) in case.data_sets:
        before = [array.tobytes() for array in inputs]
        found = tensor_scatter(attributes, *inputs)
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


def check_other(onnx, numpy, random):
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
            found = tensor_scatter(attributes, *inputs)
            expected = reference(onnx, attributes, inputs)
            assert found.tobytes() == expected.tobytes(), (shape, attributes, inputs, found, expected)
            count += 1
    return count


def main():
    (sanitizers,) = sys.argv[1:]
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
    cases = published_cases()
    for case in cases:
        check(onnx, case)
        print(f"{case.name}: passed")
    print(f"{len(cases)} cases of onnx {onnx.__version__}")
    # Earlier ones take all leading indices, the sample's too, modulo the rows of a circular cache.
    if tuple(int(number) for number in onnx.__version__.split(".")[:2]) >= (1, 23):
        others = check_other(onnx, numpy, numpy.random.default_rng(24))
        print(f"{others} other cases by its reference implementation")


if __name__ == "__main__":
    main()
