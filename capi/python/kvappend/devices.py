# SPDX-License-Identifier: Apache-2.0
"""The device of an append, and making it current. A CUDA device is made current by the driver, which every framework
and the library's own runtime share."""

from __future__ import annotations

import collections.abc
import contextlib
import ctypes
import functools
import typing

from . import abi
from .layout import ON_DEVICE, Device, device_name


def common_device(devices: dict[str, tuple[int, int]]) -> int | None:
    """The number of the CUDA device on which these named tensors are, or None for the host."""
    on_device = {name: device for name, device in devices.items() if device[0] in ON_DEVICE}
    if not on_device:
        return None
    first, (_, number) = next(iter(on_device.items()))
    for name, device in devices.items():
        # A GPU reaches pinned memory, too.
        if device[0] != Device.CUDA_HOST and (device[0] == Device.CPU or device[1] != number):
            raise ValueError(f"{name} is on {device_name(device)}, and {first} on {device_name(on_device[first])}: "
                             "expected one device for all arguments")
    return number


DRIVER = "libcuda.so.1"


@functools.cache
def _driver() -> typing.Any:
    """The functions of the CUDA driver, or None without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    pointer = ctypes.POINTER(ctypes.c_void_p)
    for name, *arguments in (("cuInit", ctypes.c_uint), ("cuDeviceGet", ctypes.POINTER(ctypes.c_int), ctypes.c_int),
                             ("cuDevicePrimaryCtxRetain", pointer, ctypes.c_int),
                             ("cuCtxPushCurrent_v2", ctypes.c_void_p), ("cuCtxPopCurrent_v2", pointer)):
        getattr(driver, name).argtypes = arguments
    _call(driver, "cuInit", 0)
    return driver


def _call(driver: typing.Any, name: str, *arguments: typing.Any) -> None:
    error = getattr(driver, name)(*arguments)
    if error:
        raise abi.Error(abi.Status.ERROR_CUDA, "KVAPPEND_ERROR_CUDA", f"{name} failed with error {error}")


@functools.cache
def _primary_context(number: int) -> typing.Any:
    """The context of the device that CUDA's runtime uses. It is kept as long as the process lives, as the runtime keeps
    it."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call(_driver(), "cuDeviceGet", device, number)
    _call(_driver(), "cuDevicePrimaryCtxRetain", context, device)
    return context


@contextlib.contextmanager
def current(number: int | None) -> collections.abc.Iterator[None]:
    """Makes a CUDA device current in this thread, and restores what was current. None is the host."""
    # Without a driver there is nothing to make current, and the library says so.
    if number is None or not (driver := _driver()):
        yield
        return
    _call(driver, "cuCtxPushCurrent_v2", _primary_context(number))
    try:
        yield
    finally:
        _call(driver, "cuCtxPopCurrent_v2", ctypes.c_void_p())
