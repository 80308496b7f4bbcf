# SPDX-License-Identifier: Apache-2.0
"""The operators of kvappend.torch: the same bytes as the package's own calls, eagerly and compiled as one graph, and
what torch.library.opcheck asks of operators."""

import unittest

import kvappend
import kvappend.torch as operators
import torch
from kvappend import Flag, Preset, Rotary, Storage

B, H, L, R, D, Q_HEADS, POSITIONS = 2, 2, 3, 12, 32, 4, 40
Q8_0, E4M3, NVFP4 = map(Storage.preset, (Preset.Q8_0, Preset.E4M3_DIVIDE, Preset.NVFP4))


def rows(*shape):
    return torch.randn(shape)


def offsets(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def dense():
    return {"k_new": rows(B, H, L, D), "v_new": rows(B, H, L, D), "k_cache": rows(B, H, R, D),
            "v_cache": rows(B, H, R, D), "cache_offsets": offsets(1, R - L)}


def pages():
    return {"k_new": rows(B, L, H, D), "v_new": rows(B, L, H, D), "k_cache": rows(6, 4, H, D),
            "v_cache": rows(6, 4, H, D), "page_table": torch.tensor([[5, 0, 3], [2, 4, 1]], dtype=torch.int32),
            "cache_offsets": offsets(3, 7).int(), "layout": "NHD", "new_layout": "NHD"}


def slots():
    return {"k_new": rows(B * L, H, D), "k_cache": rows(4, 5, H, D), "slots": offsets(7, -1, 0, 12, 3, 19),
            "layout": "NHD", "report": torch.tensor([88] + [0] * 10)}


def ring():
    return dense() | {"ring": True, "sink_rows": 2, "cache_offsets": offsets(R + 1, 3)}


def stored():
    """K in q8_0, whose scales are computed; V in E4M3 with a scale that is given."""
    return dense() | {"k_cache": torch.zeros(B, H, R, D, dtype=torch.int8), "k_storage": Q8_0,
                      "k_scales": torch.zeros(B, H, R, 1, dtype=torch.float16),
                      "v_cache": torch.zeros(B, H, R, D, dtype=torch.float8_e4m3fn), "v_storage": E4M3,
                      "v_scales": torch.tensor([0.5])}


def with_global_scale():
    return {"k_new": rows(B, H, L, D), "k_cache": torch.zeros(B, H, R, D // 2, dtype=torch.uint8), "k_storage": NVFP4,
            "k_scales": torch.zeros(B, H, R, D // 16, dtype=torch.uint8), "k_global_scale": torch.tensor([0.01]),
            "cache_offsets": offsets(0, 4)}


def rotated():
    return dense() | {"q": rows(B, Q_HEADS, L, D), "q_out": rows(B, Q_HEADS, L, D), "rotary": Rotary(),
                      "rotary_cos": rows(POSITIONS, D // 2), "rotary_sin": rows(POSITIONS, D // 2)}


def gathered():
    arguments = dense()
    return {"k_out": arguments.pop("k_new"), "v_out": arguments.pop("v_new"), **arguments,
            "cache_offsets": offsets(R - 1, -2), "flags": Flag.ZERO_SKIPPED}


def decoded():
    arguments = stored()
    kvappend.append(**arguments)
    return {"k_out": rows(B, H, R, D), "v_out": rows(B, H, R, D), "flags": Flag.ZERO_OFFSETS,
            **{name: value for name, value in arguments.items()
               if name not in ("k_new", "v_new", "cache_offsets")}}


def moved():
    return {"k_cache": rows(B, H, R, D), "v_cache": rows(B, H, R, D), "from_slots": offsets(1, 2, 3, R + 4),
            "slots": offsets(0, 1, 2, R), "lengths": offsets(0, 3, 4).int(), "trap": True}


NO_MOVE = ("cache_offsets", "end_offsets", "last_page_lengths", "left_pads", "batch_index", "page_table", "page_indptr",
           "token_samples", "token_positions")
CASES = {"append": (dense, pages, slots, ring, stored, with_global_scale, rotated), "gather": (gathered, decoded),
         "move": (moved,)}


def copied(arguments):
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in arguments.items()}


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


class Operators(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(11)

    def check(self, name, arguments, run):
        expected, found = copied(arguments), copied(arguments)
        getattr(kvappend, name)(**expected)
        run(**found)
        changed = False
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                self.assertTrue(torch.equal(bits(value), bits(found[key])), key)
                changed |= not torch.equal(bits(value), bits(arguments[key]))
        self.assertTrue(changed)

    def test_equal_the_calls_of_the_package(self):
        for name, cases in CASES.items():
            for case in cases:
                with self.subTest(case=case.__name__):
                    self.check(name, case(), getattr(operators, name))

    def test_equal_them_compiled_as_one_graph(self):
        """Also between operations that PyTorch fuses and reorders, as far as the declared writes let it."""
        for name, cases in CASES.items():
            for case in cases:
                with self.subTest(case=case.__name__):
                    torch.compiler.reset()
                    self.check(name, case(), torch.compile(getattr(operators, name), backend="aot_eager",
                                                           fullgraph=True))

        def step(k_new, k_cache, offset, result):
            operators.append(k_new=k_new + 1, k_cache=k_cache, cache_offsets=offset)
            before = k_cache.sum(dim=-1)
            offset.add_(L)
            operators.append(k_new=k_new - 1, k_cache=k_cache, cache_offsets=offset)
            operators.gather(k_out=result, k_cache=k_cache, flags=Flag.ZERO_OFFSETS)
            return before, result * 2

        for backend in ("aot_eager", "inductor"):
            with self.subTest(backend=backend):
                torch.compiler.reset()
                arguments = {"k_new": rows(B, H, L, D), "k_cache": rows(B, H, R, D), "offset": offsets(1, 2),
                             "result": rows(B, H, R, D)}
                expected, found = copied(arguments), copied(arguments)
                results = step(**expected), torch.compile(step, backend=backend, fullgraph=True)(**found)
                for one, other in zip([*results[0], *expected.values()], [*results[1], *found.values()], strict=True):
                    torch.testing.assert_close(one, other)
                self.assertTrue(torch.equal(bits(expected["k_cache"]), bits(found["k_cache"])))

    def test_pass_opcheck(self):
        for name, cases in CASES.items():
            for case in cases:
                with self.subTest(case=case.__name__):
                    arguments = {key: [float(field) for field in value] if isinstance(value, Storage) else
                                 [int(field) for field in value] if isinstance(value, Rotary) else
                                 int(value) if isinstance(value, Flag) else value for key, value in case().items()}
                    # PyTorch cannot compare tensors of E4M3.
                    arguments = {key: value.view(torch.uint8) if getattr(value, "dtype", None) == torch.float8_e4m3fn
                                 else value for key, value in arguments.items()}
                    operator = getattr(torch.ops.kvappend, name)
                    torch.library.opcheck(operator.default, (), arguments)
                    if arguments.keys() <= {argument.name for argument in operator.few._schema.arguments}:
                        torch.library.opcheck(operator.few, (), arguments)

    def test_can_be_exported(self):
        class Step(torch.nn.Module):
            def forward(self, k_new, k_cache, offset):
                operators.append(k_new=k_new, k_cache=k_cache, cache_offsets=offset)
                return k_cache + 0

        arguments = rows(B, H, L, D), rows(B, H, R, D), offsets(0, 2)
        exported = torch.export.export(Step(), tuple(tensor.clone() for tensor in arguments))
        expected = Step()(*(tensor.clone() for tensor in arguments))
        self.assertTrue(torch.equal(exported.module()(*(tensor.clone() for tensor in arguments)), expected))

    def test_refuse_what_they_cannot_declare(self):
        with self.assertRaisesRegex(ValueError, "flags has ADVANCE"):
            operators.append(**dense(), flags=Flag.ADVANCE)
        arguments = rotated()
        del arguments["q_out"]
        with self.assertRaisesRegex(TypeError, "q_out is missing"):
            operators.append(**arguments)

    def test_refuse_gradients(self):
        """A graph without the gradients that flow through the cache would be wrong."""
        def step(weights, k_new, k_cache, offset):
            rotated = k_new @ weights
            operators.append(k_new=rotated, k_cache=k_cache, cache_offsets=offset)
            return k_cache.sum() + rotated.sum()

        for run in (step, torch.compile(step, backend="aot_eager"), torch.compile(step, backend="aot_eager",
                                                                                  fullgraph=True)):
            arguments = rows(B, H, L, D), rows(B, H, R, D), offsets(1, 2)
            with self.assertRaisesRegex(Exception, "k_new.* requires? gradient"):
                run(rows(D, D).requires_grad_(), *arguments)
            with torch.no_grad():
                run(rows(D, D).requires_grad_(), *arguments)

    def test_count_as_writes(self):
        """A backward pass refuses a tensor that it has saved and that an operator has written since."""
        for name, cases in CASES.items():
            _, writes = operators._TENSORS[name]
            for case in cases:
                arguments = case()
                saved = [tensor for key, tensor in arguments.items() if key in writes and tensor.is_floating_point()
                         and tensor.itemsize > 1]
                losses = [(tensor * torch.ones(1, requires_grad=True)).sum() for tensor in saved]
                getattr(operators, name)(**arguments)
                for loss in losses:
                    with self.subTest(case=case.__name__), self.assertRaisesRegex(RuntimeError, "inplace operation"):
                        loss.backward()

    def test_raise_an_index_error_for_a_row_without_a_place(self):
        arguments = dense() | {"cache_offsets": offsets(0, R), "trap": True}
        for run in (operators.append, torch.compile(operators.append, backend="aot_eager", fullgraph=True)):
            with self.assertRaisesRegex(IndexError, f"row 0 of sample 1 has the position {R}, above the cache"):
                run(**copied(arguments))

    def test_take_the_arguments_of_the_package(self):
        """Every argument but those that the module names."""
        for name in CASES:
            schema = {argument.name for argument in getattr(torch.ops.kvappend, name).default._schema.arguments}
            taken = set(getattr(kvappend.plan, "_OF_" + name.upper()))
            # A move has slots, and no other places.
            left_out = {"kernel_name"} | set(NO_MOVE if name == "move" else ())
            self.assertEqual(taken - schema, left_out)
            self.assertFalse(schema - taken)


if __name__ == "__main__":
    unittest.main()
