# SPDX-License-Identifier: Apache-2.0
"""Tensors on several CUDA devices, by the library over the emulated CUDA runtime, which has two devices and checks
every access: which device is current during a call and after it, which bytes are written, and what is refused."""

import contextlib
import ctypes
import os
import threading
import types
import unittest
from unittest import mock

import numpy

os.environ["KVAPPEND_LIBRARY"] = os.environ["EMULATED"]

# pylint: disable=wrong-import-position
from kvappend import Error, Flag, Plan, Rotary, append, append_layers, devices, gather, move
from kvappend.layout import Device

devices.DRIVER = os.environ["EMULATED"]
RUNTIME = ctypes.CDLL(os.environ["EMULATED"])
RUNTIME.emulated_malloc.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t]
RUNTIME.emulated_copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
RUNTIME.emulated_free.argtypes = RUNTIME.emulated_stream_query.argtypes = [ctypes.c_void_p]
B, H, R, D = 2, 3, 5, 4


def call(name, *arguments):
    error = getattr(RUNTIME, name)(*arguments)
    assert error == 0, f"{name}: {error}"


def current_device():
    device = ctypes.c_int(-1)
    call("emulated_get_device", ctypes.byref(device))
    return device.value


@contextlib.contextmanager
def on(device):
    before = current_device()
    call("emulated_set_device", device)
    yield
    call("emulated_set_device", before)


class DeviceArray:
    """A copy of an array on a device, without any of the frameworks."""

    def __init__(self, array, device):
        self.array, self.device, self.asked, self.current = numpy.ascontiguousarray(array), device, [], []
        self.memory = ctypes.c_void_p()
        with on(device):
            call("emulated_malloc", ctypes.byref(self.memory), self.array.nbytes)
            call("emulated_copy", self.memory, self.array.ctypes.data, self.array.nbytes)

    def __del__(self):
        # Unlike a real one, the emulated cudaFree does not wait for kernels.
        with on(self.device):
            call("emulated_synchronize")
        call("emulated_free", self.memory)

    def __dlpack_device__(self):
        return Device.CUDA, self.device

    def __dlpack__(self, stream=None, max_version=None, copy=None):
        from kvappend import dlpack  # pylint: disable=import-outside-toplevel
        self.asked.append((stream, max_version, copy))
        self.current.append(current_device())
        # pylint: disable=protected-access
        capsule = self.array.__dlpack__(max_version=(1, 0))
        tensor = dlpack._Versioned.from_address(dlpack._get_pointer(capsule, dlpack.VERSIONED)).tensor
        tensor.device_type, tensor.device_id, tensor.data = Device.CUDA, self.device, self.memory.value
        return capsule

    def read(self):
        with on(self.device):
            call("emulated_synchronize")
            result = numpy.empty_like(self.array)
            call("emulated_copy", result.ctypes.data, self.memory, result.nbytes)
        return result


def arrays(seed=1):
    random = numpy.random.default_rng(seed)
    new = random.random((2, B, H, 1, D), numpy.float32)
    caches = random.random((2, B, H, R, D), numpy.float32)
    return dict(zip(("k_new", "v_new", "k_cache", "v_cache"), (*new, *caches)), cache_offsets=numpy.array([3, 0]))


def expected(host):
    result = {name: host[name].copy() for name in ("k_cache", "v_cache")}
    for kind in "kv":
        for b, offset in enumerate(host["cache_offsets"]):
            result[kind + "_cache"][b, :, offset] = host[kind + "_new"][b, :, 0]
    return result


class Appends(unittest.TestCase):
    def check(self, host, tensors):
        for name, array in expected(host).items():
            self.assertEqual(tensors[name].read().tobytes(), array.tobytes())
        for tensor in tensors.values():
            self.assertEqual(set(tensor.current), {tensor.device})

    def test_the_tensors_device_is_current_for_a_call_alone(self):
        for before in (0, 1):
            for device in (0, 1):
                for run in (append, lambda **tensors: Plan(**tensors).run(**tensors)):
                    host = arrays()
                    tensors = {name: DeviceArray(array, device) for name, array in host.items()}
                    with self.subTest(before=before, device=device), on(before):
                        run(**tensors)
                        self.assertEqual(current_device(), before)
                        self.check(host, tensors)

    def test_a_plan_belongs_to_its_device(self):
        host = arrays()
        first, second = ({name: DeviceArray(array, device) for name, array in host.items()} for device in (0, 1))
        with Plan(**second) as plan:
            self.assertEqual((plan.device, plan.sku().device), (1, 1))
            for mixed in ({name: first[name]} for name in first):
                with self.assertRaisesRegex(ValueError, "is on cuda:[01], and .* on cuda:[01]: expected one device"):
                    plan.run(**{**second, **mixed})
            with self.assertRaisesRegex(ValueError, "k_new is on cuda:0: the plan was made for it on cuda:1"):
                plan.run(**first)
            with self.assertRaisesRegex(ValueError, "cache_offsets is on cpu, and k_new on cuda:1"):
                plan.run(**{**second, "cache_offsets": [0, 0]})
            plan.validate(**second)
            self.assertEqual(current_device(), 0)
            plan.run(**second)
            self.check(host, second)
        for name in ("k_cache", "v_cache"):
            self.assertEqual(first[name].read().tobytes(), host[name].tobytes())

    def test_layers_on_one_device(self):
        hosts = [arrays(seed) for seed in range(3)]
        layers = [{name: DeviceArray(array, 1) for name, array in host.items()} for host in hosts]
        append_layers(layers)
        self.assertEqual(current_device(), 0)
        for host, tensors in zip(hosts, layers):
            self.check(host, tensors)
        other = {name: DeviceArray(array, 0) for name, array in hosts[0].items()}
        with self.assertRaisesRegex(ValueError, "layer 2: it is on cuda:0, and layer 0 on cuda:1"):
            append_layers([*layers[:2], other])
        self.assertEqual(other["k_cache"].read().tobytes(), hosts[0]["k_cache"].tobytes())

    def test_queries_are_rotated_on_their_device(self):
        """By a quarter turn, in place and to another tensor."""
        host = arrays() | {"rotary_cos": numpy.zeros((R, D // 2), numpy.float32),
                           "rotary_sin": numpy.ones((R, D // 2), numpy.float32)}
        tensors = {name: DeviceArray(array, 1) for name, array in host.items()}
        q = numpy.arange(1, B * 2 * H * D + 1, dtype=numpy.float32).reshape(B, 2 * H, 1, D)
        rotated = numpy.concatenate([-q[..., D // 2:], q[..., :D // 2]], axis=-1)
        in_place, apart, q_out = DeviceArray(q, 1), DeviceArray(q, 1), DeviceArray(numpy.zeros_like(q), 1)
        append(**tensors, rotary=Rotary(), q=in_place)
        append(**tensors, rotary=Rotary(), q=apart, q_out=q_out)
        for tensor, array in ((in_place, rotated), (apart, q), (q_out, rotated)):
            self.assertEqual(tensor.read().tobytes(), array.tobytes())

    def test_rows_are_gathered_on_their_device(self):
        host = arrays()
        names = {"k_new": "k_out", "v_new": "v_out"}
        tensors = {names.get(name, name): DeviceArray(array, 1) for name, array in host.items()}
        gather(**tensors)
        self.assertEqual(current_device(), 0)
        for kind in "kv":
            cache = host[kind + "_cache"]
            rows = numpy.stack([cache[b, :, offset:offset + 1] for b, offset in enumerate(host["cache_offsets"])])
            self.assertEqual(tensors[kind + "_out"].read().tobytes(), rows.tobytes())
            self.assertEqual(tensors[kind + "_cache"].read().tobytes(), cache.tobytes())

    def test_rows_are_moved_on_their_device(self):
        host = arrays()
        tensors = {name: DeviceArray(host[name], 1) for name in ("k_cache", "v_cache")}
        slots = {"from_slots": numpy.array([0, 1, 2, R]), "slots": numpy.array([1, 2, 3, -1])}
        move(**tensors, **{name: DeviceArray(array, 1) for name, array in slots.items()})
        self.assertEqual(current_device(), 0)
        for name, tensor in tensors.items():
            host[name][0, :, 1:4] = host[name][0, :, :1]
            self.assertEqual(tensor.read().tobytes(), host[name].tobytes())

    def test_threads_with_devices_of_their_own(self):
        done = []

        def work(device):
            for seed in range(20):
                host = arrays(seed)
                tensors = {name: DeviceArray(array, device) for name, array in host.items()}
                append(**tensors)
                self.check(host, tensors)
                done.append(device)

        threads = [threading.Thread(target=work, args=[device]) for device in (0, 1, 1, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((done.count(0), done.count(1)), (40, 40))

    def test_the_device_is_restored_after_an_error(self):
        tensors = {name: DeviceArray(array, 1) for name, array in arrays().items()}
        with self.assertRaisesRegex(Error, "ERROR_KERNEL"):
            Plan(**tensors, kernel_name="no_such_kernel")
        self.assertEqual(current_device(), 0)
        with self.assertRaisesRegex(Error, "ERROR_OVERLAP"):
            append(**{**tensors, "v_cache": tensors["k_cache"]})
        self.assertEqual(current_device(), 0)

    def test_the_default_stream_as_dlpack_calls_it(self):
        tensors = {name: DeviceArray(array, 1) for name, array in arrays().items()}
        append(**tensors, stream=0)
        self.assertEqual({asked for tensor in tensors.values() for asked in tensor.asked}, {(1, (1, 0), False)})

    def test_a_failure_of_the_driver_names_the_call(self):
        tensors = {name: DeviceArray(array, 1) for name, array in arrays().items()}
        driver = devices._driver()  # pylint: disable=protected-access
        with mock.patch.object(driver, "cuCtxPushCurrent_v2", lambda _: 201, create=True):
            with self.assertRaisesRegex(Error, "ERROR_CUDA: cuCtxPushCurrent_v2 failed with error 201"):
                append(**tensors, flags=Flag.PROGRAMMATIC_LAUNCH)


class TorchArray(DeviceArray):
    """With those attributes of PyTorch's tensors that are looked at."""
    requires_grad, is_cuda = False, True

    def __init__(self, array, device):
        super().__init__(array, device)
        self.shape, self.dtype = self.array.shape, self.array.dtype.name

    def stride(self):
        return tuple(stride // self.array.itemsize for stride in self.array.strides)

    def is_neg(self):
        return False

    def data_ptr(self):
        return self.memory.value


class Streams(unittest.TestCase):
    """PyTorch's tensors are used in PyTorch's current stream, in the same way at the first call and at later ones."""

    def setUp(self):
        self.streams = []
        for device in (0, 1):
            self.streams.append(ctypes.c_void_p())
            with on(device):
                call("emulated_stream", ctypes.byref(self.streams[-1]))
        torch = types.SimpleNamespace(Tensor=TorchArray, nn=types.SimpleNamespace(Parameter=None), cuda=mock.Mock())
        torch.cuda.current_stream = lambda device: types.SimpleNamespace(
            cuda_stream=self.streams[getattr(device, "device", device)].value)
        for patch in (mock.patch.dict("sys.modules", torch=torch), mock.patch.dict("kvappend.tensors._GLANCES")):
            patch.start()
            self.addCleanup(patch.stop)

    def waiting(self):
        """Whether each stream has work that is not done."""
        return [RUNTIME.emulated_stream_query(stream) != 0 for stream in self.streams]

    def test_pytorchs_current_one(self):
        for device in (1, 0, 1):
            for own in (None, self.streams[device].value):
                host = arrays()
                tensors = {name: TorchArray(array, device) for name, array in host.items()}
                for again in range(2):
                    asked = [len(tensor.asked) for tensor in tensors.values()]
                    append(**tensors, stream=own)
                    self.assertEqual(self.waiting(), [device == 0, device == 1])
                    for name, array in expected(host).items():
                        self.assertEqual(tensors[name].read().tobytes(), array.tobytes())
                    self.assertEqual(self.waiting(), [False, False])
                    if again:
                        self.assertEqual(asked, [len(tensor.asked) for tensor in tensors.values()])
                self.assertEqual(current_device(), 0)

    def test_another_one_waits_for_the_tensors(self):
        tensors = {name: TorchArray(array, 1) for name, array in arrays().items()}
        for _ in range(2):
            append(**tensors)
        for tensor in tensors.values():
            tensor.asked.clear()
        for _ in range(2):
            append(**tensors, stream=0)
        self.assertEqual([tensor.asked for tensor in tensors.values()], [[(1, (1, 0), False)] * 2] * 5)


if __name__ == "__main__":
    unittest.main()
