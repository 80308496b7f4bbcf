# SPDX-License-Identifier: Apache-2.0
"""Tensors of any library, by what DLPack says of them: both kinds of capsule, as NumPy fills them and with what NumPy
would not fill in."""

import ctypes
import sys
import unittest

import numpy
from kvappend import Error, Layout, Plan, append, dlpack
from kvappend.abi import Backend, Element
from kvappend.describe import describe
from kvappend.layout import Device

CPU = (Device.CPU, 0)


class Foreign:
    """A tensor of no library that is known: NumPy's capsule, with other fields than NumPy's where they are given."""

    def __init__(self, array, versioned=True, device=CPU, **changes):
        self.array, self.versioned, self.device, self.changes, self.asked = array, versioned, device, changes, None

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **keywords):
        if not self.versioned and "max_version" in keywords:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        self.asked = keywords
        capsule = self.array.__dlpack__(max_version=(1, 0)) if self.versioned else self.array.__dlpack__()
        # pylint: disable=protected-access
        if self.versioned:
            managed = dlpack._Versioned.from_address(dlpack._get_pointer(capsule, dlpack.VERSIONED))
            tensor = managed.tensor
        else:
            managed = None
            tensor = dlpack._Tensor.from_address(dlpack._get_pointer(capsule, dlpack.LEGACY))
        tensor.device_type, tensor.device_id = self.device
        for name, value in self.changes.items():
            setattr(managed if name in ("major", "flags") else tensor, name, value)
        return capsule


class OldForeign(Foreign):
    def __init__(self, array, **changes):
        super().__init__(array, versioned=False, **changes)


def numbers(*shape, dtype=numpy.float32):
    return numpy.arange(numpy.prod(shape)).reshape(shape).astype(dtype)


class Borrowing(unittest.TestCase):
    def test_all_that_is_said(self):
        array = numbers(2, 3, 4, 6)[:, 1:, ::-2, 1:]
        for kind in (Foreign, OldForeign):
            with self.subTest(kind=kind):
                tensor = dlpack.borrow("t", kind(array))
                self.assertEqual(tensor.layout, Layout((2, 2, 2, 5), (72, 24, -12, 1), "float32", CPU))
                self.assertEqual(tensor.data, array.ctypes.data)
                self.assertFalse(tensor.read_only)

    def test_every_type(self):
        for name in ("float16", "float32", "float64", "uint16", "int8", "int32", "int64", "bool", "complex64"):
            self.assertEqual(dlpack.borrow("t", numpy.zeros(2, name)).layout.type, name)
        for code, bits, name in ((4, 16, "bfloat16"), (10, 8, "float8_e4m3fn"), (12, 8, "float8_e5m2"),
                                 (17, 4, "float4_e2m1fn"), (3, 64, "DLPack code 3 with 64 bits")):
            tensor = Foreign(numpy.zeros(2, numpy.uint8), code=code, bits=bits)
            self.assertEqual(dlpack.borrow("t", tensor).layout.type, name)

    def test_an_offset_in_bytes(self):
        array = numbers(3, 4)
        tensor = dlpack.borrow("t", Foreign(array, data=array.ctypes.data - 1000, byte_offset=1000))
        self.assertEqual(tensor.data, array.ctypes.data)

    def test_no_strides(self):
        for kind in (Foreign, OldForeign):
            tensor = dlpack.borrow("t", kind(numbers(2, 1, 3, 4), strides=None))
            self.assertEqual(tensor.layout.strides, (12, 0, 4, 1))
            self.assertEqual(dlpack.borrow("t", kind(numbers(), strides=None)).layout.strides, ())

    def test_the_stride_of_a_single_entry_says_nothing(self):
        self.assertEqual(dlpack.borrow("t", numbers(4, 6)[1:2, ::2]).layout,
                         dlpack.borrow("t", numbers(2, 6)[1:2, ::2]).layout)
        self.assertEqual(dlpack.borrow("t", numbers(4, 6)[::-1][:1]).layout.strides, (0, 1))

    def test_size_is_from_the_first_element_to_the_end_of_the_last(self):
        for array, size in ((numbers(2, 3), 24), (numbers(4, 6)[1:3, 2:4], 32), (numbers(0, 3), 0), (numbers(), 4)):
            self.assertEqual(dlpack.borrow("t", array).layout.size, size)

    def test_what_cannot_be_borrowed(self):
        array = numbers(2, 3)
        for words, tensor in (
                ("t: DLPack 2.0 where 1 was asked for", Foreign(array, major=2)),
                ("t: a copy was given", Foreign(array, flags=dlpack.IS_COPIED)),
                ("t: vectors of 4 elements", Foreign(array, lanes=4)),
                ("t: vectors of 4 elements", OldForeign(array, lanes=4)),
                (r"t: memory of DLPack's device type 8 cannot be reached: expected one of CPU 1, CUDA 2, ",
                 Foreign(array, device=(8, 0)))):
            with self.assertRaisesRegex((BufferError, ValueError), words):
                dlpack.borrow("t", tensor)
        used = array.__dlpack__()
        numpy.from_dlpack(type("Once", (), {"__dlpack__": lambda self, **_: used,
                                            "__dlpack_device__": lambda self: CPU})())
        with self.assertRaisesRegex(BufferError, "t: <capsule.*> is not a capsule of DLPack, or it is used up"):
            dlpack.borrow("t", type("Again", (), {"__dlpack__": lambda self, **_: used,
                                                  "__dlpack_device__": lambda self: CPU})())

    def test_a_read_only_tensor_of_the_old_kind_is_refused_by_its_owner(self):
        array = numbers(2, 3)
        array.flags.writeable = False
        self.assertTrue(dlpack.borrow("t", Foreign(array)).read_only)
        with self.assertRaisesRegex(BufferError, "t: Cannot export readonly array"):
            dlpack.borrow("t", OldForeign(array))

    def test_a_loan_ends_with_the_tensor(self):
        for kind in (Foreign, OldForeign):
            array = numbers(2, 3)
            before = sys.getrefcount(array)
            tensor = dlpack.borrow("t", kind(array))
            self.assertEqual(sys.getrefcount(array), before + 1)
            del tensor
            self.assertEqual(sys.getrefcount(array), before)

    def test_a_loan_keeps_memory_that_nobody_else_does(self):
        tensor = dlpack.borrow("t", numbers(1000, 1000))
        last = ctypes.c_float.from_address(tensor.data + tensor.layout.size - 4)
        numbers(1000, 1000).fill(0)
        self.assertEqual(last.value, 999999)


class Appending(unittest.TestCase):
    def test_by_both_kinds_of_capsule(self):
        for kind in (Foreign, OldForeign):
            k_new, v_new = numbers(2, 3, 4, 6), numbers(2, 4, 3, 5).transpose(0, 2, 1, 3)
            k_cache, v_cache = numpy.zeros((2, 3, 9, 6), numpy.float32), numpy.zeros((2, 3, 9, 5), numpy.float32)
            append(k_new=kind(k_new), v_new=kind(v_new), k_cache=kind(k_cache), v_cache=kind(v_cache),
                   cache_offsets=kind(numpy.array([2, 2])))
            self.assertEqual(k_cache[:, :, 2:6].tobytes(), k_new.tobytes())
            self.assertEqual(v_cache[:, :, 2:6].tobytes(), v_new.tobytes())
            self.assertEqual(numpy.count_nonzero(k_cache), numpy.count_nonzero(k_new))

    def test_never_into_a_read_only_tensor(self):
        k_new, k_cache = numbers(1, 1, 2, 4), numpy.zeros((1, 1, 3, 4), numpy.float32)
        with self.assertRaisesRegex(ValueError, "k_cache is read-only, and would be written"):
            append(k_new=k_new, k_cache=Foreign(k_cache, flags=dlpack.READ_ONLY), cache_offsets=[0])
        self.assertFalse(k_cache.any())
        append(k_new=Foreign(k_new, flags=dlpack.READ_ONLY), k_cache=k_cache, cache_offsets=[0])
        self.assertEqual(k_cache[:, :, :2].tobytes(), k_new.tobytes())

    def test_types_that_numpy_does_not_have(self):
        for code, dtype in ((4, numpy.uint16), (10, numpy.uint8), (12, numpy.uint8)):
            k_new, k_cache = numbers(1, 2, 3, 4, dtype=dtype), numpy.zeros((1, 2, 5, 4), dtype)
            append(k_new=Foreign(k_new, code=code), k_cache=Foreign(k_cache, code=code), cache_offsets=0)
            self.assertEqual(k_cache[:, :, :3].tobytes(), k_new.tobytes())
        with self.assertRaisesRegex(ValueError, "k_new has the type float8_e8m0fnu: expected float32 or"):
            append(k_new=Foreign(k_new, code=14), k_cache=Foreign(k_cache, code=14), cache_offsets=0)


class Devices(unittest.TestCase):
    """Without a GPU: what would be asked of one."""

    def layouts(self, **devices):
        shapes = {"k_new": (1, 2, 1, 4), "k_cache": (1, 2, 8, 4)}
        layouts = {name: Layout(shape, (0, shape[2] * 4, 4, 1), "float32", devices.get(name, (2, 1)))
                   for name, shape in shapes.items()}
        return layouts | {"cache_offsets": Layout((1,), (0,), "int64", devices.get("cache_offsets", (2, 1)))}

    def test_the_backend_is_that_of_the_memory(self):
        self.assertEqual(describe(self.layouts()).backend, Backend.CUDA)
        self.assertEqual(describe(self.layouts()).element_type, Element.F32)
        for host in (dict.fromkeys(self.layouts(), CPU), dict.fromkeys(self.layouts(), CPU) | {"k_new": (3, 0)}):
            self.assertEqual(describe(self.layouts(**host)).backend, Backend.HOST)
        self.assertEqual(describe(self.layouts(k_new=(3, 0))).backend, Backend.CUDA)
        self.assertEqual(describe(self.layouts(k_new=(13, 1))).backend, Backend.CUDA)

    def test_memory_apart_is_refused(self):
        for layouts, words in (
                ({"k_new": CPU}, "k_new is on cpu, and k_cache on cuda:1: expected one device for all arguments"),
                ({"k_new": (2, 0)}, "k_cache is on cuda:1, and k_new on cuda:0"),
                ({"cache_offsets": CPU}, "cache_offsets is on cpu, and k_new on cuda:1"),
                ({"k_cache": (13, 0)}, "k_cache is on managed memory of cuda:0, and k_new on cuda:1")):
            with self.assertRaisesRegex(ValueError, words):
                describe(self.layouts(**layouts))
            tensors = {name: Foreign(numpy.zeros(layout.shape, layout.type), device=layout.device)
                       for name, layout in self.layouts(**layouts).items()}
            for call in (append, Plan):
                with self.assertRaisesRegex(ValueError, words):
                    call(**tensors)
            self.assertEqual([tensor.asked for tensor in tensors.values()], [None] * 3)

    def test_the_stream_is_told_to_who_owns_the_tensor(self):
        array = numbers(2)
        for device, stream, told in (((2, 0), 1234, 1234), ((2, 0), 0, 1), ((13, 0), 1234, 1234), ((2, 0), None, None),
                                     (CPU, None, None), (CPU, 1234, None), ((3, 0), 1234, None)):
            tensor = Foreign(array, device=device)
            dlpack.borrow("t", tensor, stream)
            self.assertEqual(tensor.asked, {"stream": told, "max_version": (1, 0), "copy": False})
            tensor = OldForeign(array, device=device)
            dlpack.borrow("t", tensor, stream)
            self.assertEqual(tensor.asked, {"stream": told})

    def test_a_stream_is_none_of_the_hosts(self):
        with self.assertRaisesRegex(Error, "ERROR_STREAM"):
            append(k_new=numbers(1, 1, 1, 4), k_cache=numbers(1, 1, 4, 4), cache_offsets=[0], stream=1234)


if __name__ == "__main__":
    unittest.main()
