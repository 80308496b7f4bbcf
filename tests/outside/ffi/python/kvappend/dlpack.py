# SPDX-License-Identifier: Apache-2.0
"""What DLPack says of a tensor: https://dmlc.github.io/dlpack/latest/c_api.html

Tensors are only looked at. The capsule is not taken over, which its name would tell by "used_": so it gives back what
it holds, by itself, when the last reference to it goes, and that is one that a Tensor keeps while it is used."""

import ctypes
import enum
import typing


class Device(enum.IntEnum):
    """DLDeviceType, as far as the library can reach the memory."""
    CPU = 1
    CUDA = 2
    CUDA_HOST = 3  # Pinned memory: both can reach it.
    CUDA_MANAGED = 13


_REACHED = frozenset(Device)
ON_DEVICE = (Device.CUDA, Device.CUDA_MANAGED)


class Code(enum.IntEnum):
    """DLDataTypeCode, as far as it is of use here."""
    INT = 0
    UINT = 1
    FLOAT = 2
    BFLOAT = 4


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


def type_name(code_and_bits):
    code, bits = code_and_bits
    return f"{Code(code).name if code in list(Code) else f'DLPack code {code}'} {bits}"


class Layout(typing.NamedTuple):
    """All of a tensor but its place. A stride, in elements, is 0 where there is no second entry to lead to."""
    shape: tuple
    strides: tuple
    type: tuple  # (Code, bits)
    device: tuple  # (Device, number)

    def __str__(self):
        return (f"{list(self.shape)} by strides {list(self.strides)}, of {type_name(self.type)}, on "
                f"{Device(self.device[0]).name} {self.device[1]}")

    @property
    def size(self):
        """Bytes from the first element to the end of the last one."""
        if 0 in self.shape:
            return 0
        return (1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides))) * self.type[1] // 8


class Tensor(typing.NamedTuple):
    """A tensor on loan: its memory is there while this is."""
    layout: Layout
    data: int
    read_only: bool
    lender: object


def _export(name, tensor, stream):
    """The tensor's capsule."""
    if not hasattr(tensor, "__dlpack__"):
        raise TypeError(f"{name}: a {type(tensor).__name__} has no __dlpack__, as NumPy's arrays and tensors have")
    # On a GPU the tensor's owner makes our stream wait for what still writes the tensor; None is the default stream.
    # Memory of the CPU knows no streams.
    if stream is not None and tensor.__dlpack_device__()[0] not in ON_DEVICE:
        stream = None
    try:
        try:
            return tensor.__dlpack__(stream=stream, max_version=(1, 0), copy=False)
        except TypeError:
            pass  # One that knows neither word has only capsules of the old kind.
        return tensor.__dlpack__(stream=stream)
    except BufferError as refusal:
        raise BufferError(f"{name}: {refusal}") from refusal


def borrow(name, tensor, stream=None):
    """The tensor, called so in errors, to be used in `stream`."""
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
        raise BufferError(f"{name}: {capsule!r} is none of DLPack's, or is used up")
    if found.device_type not in _REACHED:
        raise ValueError(f"{name}: memory of DLPack's device type {found.device_type} cannot be reached: expected one "
                         f"of {', '.join(f'{device.name} {device.value}' for device in Device)}")
    if found.lanes != 1:
        raise ValueError(f"{name}: vectors of {found.lanes} elements are not supported")
    shape = tuple(found.shape[:found.ndim])
    if found.strides:
        strides = found.strides[:found.ndim]
    else:  # Older ones may leave them out of a contiguous tensor.
        strides = [1] * found.ndim
        for axis in range(found.ndim - 1, 0, -1):
            strides[axis - 1] = strides[axis] * shape[axis]
    if 0 in shape:
        strides = (0,) * found.ndim
    else:
        strides = tuple(stride if n > 1 else 0 for n, stride in zip(shape, strides))
    layout = Layout(shape, strides, (found.code, found.bits), (found.device_type, found.device_id))
    return Tensor(layout, (found.data or 0) + found.byte_offset, read_only, capsule)
