# SPDX-License-Identifier: Apache-2.0
"""What DLPack says about a tensor: https://dmlc.github.io/dlpack/latest/c_api.html

Tensors are only looked at. The package does not take the capsule over (a consumer that does renames it to "used_..."),
so the capsule releases what it holds when its last reference goes. A Tensor keeps that reference."""

from __future__ import annotations

import ctypes
import typing

from .layout import ON_DEVICE, Device, Tensor, make_layout

_REACHED = frozenset(Device)
# DLDataTypeCode: types of any width, and types of one width.
_FAMILIES = {0: "int{}", 1: "uint{}", 2: "float{}", 4: "bfloat{}", 5: "complex{}"}
_TYPES = {(6, 8): "bool", (7, 8): "float8_e3m4", (8, 8): "float8_e4m3", (9, 8): "float8_e4m3b11fnuz",
          (10, 8): "float8_e4m3fn", (11, 8): "float8_e4m3fnuz", (12, 8): "float8_e5m2", (13, 8): "float8_e5m2fnuz",
          (14, 8): "float8_e8m0fnu", (15, 6): "float6_e2m3fn", (16, 6): "float6_e3m2fn", (17, 4): "float4_e2m1fn"}


class _Tensor(ctypes.Structure):  # DLTensor, and in it DLDevice and DLDataType
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


class _Versioned(ctypes.Structure):  # DLManagedTensorVersioned
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("manager_ctx", ctypes.c_void_p),
                ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", _Tensor)]


READ_ONLY = 1
IS_COPIED = 2
LEGACY, VERSIONED = b"dltensor", b"dltensor_versioned"

# Prototypes of our own: those in ctypes.pythonapi belong to everybody.
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi))
_get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi))


def type_name(code: int, bits: int) -> str:
    """The name that NumPy and PyTorch have for a type of DLPack."""
    if (code, bits) in _TYPES:
        return _TYPES[code, bits]
    return _FAMILIES.get(code, f"DLPack code {code} with {{}} bits").format(bits)


def device_of(name: str, tensor: typing.Any) -> tuple[int, int]:
    """(DLPack's type of the device, its number)."""
    if not hasattr(tensor, "__dlpack__"):
        raise TypeError(f"{name} is a {type(tensor).__name__}: expected a tensor, such as one of NumPy or PyTorch, or "
                        "another object with __dlpack__")
    kind, number = tensor.__dlpack_device__()
    if kind not in _REACHED:
        raise ValueError(f"{name}: memory of DLPack's device type {int(kind)} cannot be reached: expected one of "
                         f"{', '.join(f'{device.name} {device.value}' for device in Device)}")
    return Device(kind), number


def _export(name: str, tensor: typing.Any, stream: int | None) -> typing.Any:
    """The tensor's capsule."""
    # On a GPU the tensor's owner makes our stream wait for what still writes the tensor. The default stream is 1 for
    # DLPack and 0 for CUDA. Memory of the CPU has no streams.
    on_device = device_of(name, tensor)[0] in ON_DEVICE
    stream = (1 if stream == 0 else stream) if on_device else None
    try:
        try:
            return tensor.__dlpack__(stream=stream, max_version=(1, 0), copy=False)
        except TypeError:
            pass  # An owner that does not know these keywords has capsules of the old kind only.
        return tensor.__dlpack__(stream=stream)
    except BufferError as refusal:
        raise BufferError(f"{name}: {refusal}") from refusal


def borrow(name: str, tensor: typing.Any, stream: int | None = None) -> Tensor:
    """The tensor, called `name` in errors, to be used in `stream`. Its device must be current."""
    capsule = _export(name, tensor, stream)
    if _is_valid(capsule, VERSIONED):
        managed = _Versioned.from_address(_get_pointer(capsule, VERSIONED))
        if managed.major != 1:
            raise BufferError(f"{name}: DLPack {managed.major}.{managed.minor} where 1 was asked for")
        if managed.flags & IS_COPIED:
            raise BufferError(f"{name}: a copy was given where the tensor itself was asked for")
        found, read_only = managed.tensor, bool(managed.flags & READ_ONLY)
    elif _is_valid(capsule, LEGACY):
        found, read_only = _Tensor.from_address(_get_pointer(capsule, LEGACY)), False
    else:
        raise BufferError(f"{name}: {capsule!r} is not a capsule of DLPack, or it is used up")
    if found.lanes != 1:
        raise ValueError(f"{name}: vectors of {found.lanes} elements are not supported")
    shape = tuple(found.shape[:found.ndim])
    if found.strides:
        strides = found.strides[:found.ndim]
    else:  # Older owners may leave them out of a contiguous tensor.
        strides = [1] * found.ndim
        for axis in range(found.ndim - 1, 0, -1):
            strides[axis - 1] = strides[axis] * shape[axis]
    layout = make_layout(shape, strides, type_name(found.code, found.bits), (found.device_type, found.device_id))
    return Tensor(layout, (found.data or 0) + found.byte_offset, read_only, capsule)
