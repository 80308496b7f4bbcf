# SPDX-License-Identifier: Apache-2.0
"""The C interface, declaration by declaration: what kvappend/kvappend.h says, in ctypes. The header is the manual."""

from __future__ import annotations

import ctypes
import enum
import functools
import os
import types
import typing

ABI_VERSION = 1


class Status(enum.IntEnum):
    SUCCESS = 0
    ERROR_NULL_ARGUMENT = 1
    ERROR_STRUCT_SIZE = 2
    ERROR_ABI_VERSION = 3
    ERROR_BACKEND = 10
    ERROR_ELEMENT_TYPE = 11
    ERROR_OFFSET_TYPE = 12
    ERROR_ADDRESSING = 13
    ERROR_EXTENT = 14
    ERROR_STRIDE = 15
    ERROR_OVERFLOW = 16
    ERROR_OVERLAP = 17
    ERROR_KERNEL = 18
    ERROR_LENGTHS = 19
    ERROR_UNSUPPORTED = 20
    ERROR_NO_DEVICE = 21
    ERROR_DRIVER = 22
    ERROR_CUDA = 23
    ERROR_WRONG_DEVICE = 24
    ERROR_OUT_OF_MEMORY = 25
    ERROR_NULL_BUFFER = 30
    ERROR_BUFFER_TOO_SMALL = 31
    ERROR_MISALIGNED = 32
    ERROR_ALIAS = 33
    ERROR_WORKSPACE = 34
    ERROR_STREAM = 35
    ERROR_FLAGS = 40
    ERROR_CONFLICT = 41
    ERROR_SKIP_POLICY = 42
    ERROR_PACK = 43
    ERROR_SKIPPED = 44
    ERROR_INDEX_ORDER = 45
    ERROR_INDEX_RANGE = 46
    ERROR_DUPLICATE = 47
    ERROR_HOST_THREADS = 48
    ERROR_INDEX_WIDTH = 49
    ERROR_INDEX_TYPE = 50
    ERROR_STORAGE = 51
    ERROR_SCALE = 52
    ERROR_OPERATION = 53
    ERROR_ROTARY = 54


class Operation(enum.IntEnum):
    APPEND = 0
    GATHER = 1
    MOVE = 2


class Backend(enum.IntEnum):
    HOST = 0
    CUDA = 1


class Element(enum.IntEnum):
    F32 = 0
    F64 = 1
    F16 = 2
    BF16 = 3
    E4M3 = 4
    E5M2 = 5
    INT8 = 6
    UINT8 = 7


class Offset(enum.IntEnum):
    INT64 = 0
    INT32 = 1


class Index(enum.IntEnum):
    INT32 = 0
    INT64 = 1


class Addressing(enum.IntEnum):
    DENSE = 0
    RING = 1
    PAGED = 2
    PAGED_CSR = 3
    SLOTS = 4


class Lengths(enum.IntEnum):
    FIXED = 0
    PER_SAMPLE = 1
    PACKED = 2
    PER_TOKEN = 3


class Flag(enum.IntFlag):
    BATCH_INDEX = 1
    LEFT_PADS = 2
    ZERO_OFFSETS = 4
    RESERVED_SLOT = 8
    ADVANCE = 16
    RESET_REPORT = 32
    COUNT_WRITTEN = 64
    PROGRAMMATIC_LAUNCH = 128
    SHARED_OFFSET = 256
    END_OFFSETS = 512
    LAST_PAGE_LENGTHS = 1024
    TOKEN_COUNT = 2048
    RESERVED_PAGE = 4096
    ZERO_SKIPPED = 8192
    POSITIONS = 16384


class Skip(enum.IntEnum):
    SILENTLY = 0
    REPORT = 1
    TRAP = 2


class Axis(enum.IntEnum):
    BATCH = 0
    HEAD = 1
    ROW = 2


class Stored(enum.IntEnum):
    AS_IS = 0
    F32 = 1
    F16 = 2
    BF16 = 3
    E4M3 = 4
    E5M2 = 5
    INT8 = 6
    INT4 = 7
    E2M1 = 8


class Scaling(enum.IntEnum):
    NONE = 0
    GIVEN = 1
    COMPUTED = 2


class ScaleUse(enum.IntEnum):
    DIVIDE = 0
    RECIPROCAL = 1
    MULTIPLY = 2
    UNROUNDED_RECIPROCAL = 3


class ScaleType(enum.IntEnum):
    F32 = 0
    F16 = 1
    E4M3 = 2
    UE8M0 = 3


class ScaleRounding(enum.IntEnum):
    NEAREST = 0
    POWER_OF_TWO = 1


class ScaleOrder(enum.IntEnum):
    LINEAR = 0
    BY_FOUR_ROWS = 1


class Rounding(enum.IntEnum):
    HALF_EVEN = 0
    HALF_AWAY = 1


class Nibbles(enum.IntEnum):
    PAIRS = 0
    HALVES = 1


class RotaryStyle(enum.IntEnum):
    HALF = 0
    INTERLEAVED = 1


class Preset(enum.IntEnum):
    F16 = 1
    BF16 = 2
    E4M3_DIVIDE = 3
    E4M3_RECIPROCAL = 4
    E4M3_MULTIPLY = 5
    INT8_MULTIPLY = 6
    INT8_CHANNEL = 7
    INT4_CHANNEL = 8
    INT8_ROW = 9
    E4M3_ROW = 10
    DEEPSEEK_V3 = 11
    DEEPSEEK_V3_POWER_OF_TWO = 12
    DEEPSEEK_V4 = 13
    INDEXER = 14
    INDEXER_POWER_OF_TWO = 15
    NVFP4 = 16
    NVFP4_BY_FOUR_ROWS = 17
    Q8_0 = 18
    Q4_0 = 19


class Struct(ctypes.Structure):
    """Fields that are not given are zero, except struct_size, which is the size."""

    def __init__(self, **fields: typing.Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(self), **fields)


Strides = ctypes.c_int64 * 3
ScaleStrides = ctypes.c_int64 * 4


class Storage(Struct):
    _fields_ = [("struct_size", ctypes.c_size_t)]
    _fields_ += [(_name, ctypes.c_int32)
                 for _name in ("type", "scaling", "scale_use", "scale_type", "scale_rounding", "scale_order",
                               "rounding", "nibbles", "global_scale")]
    _fields_ += [("amax_floor", ctypes.c_float), ("scale_floor", ctypes.c_float), ("reserved", ctypes.c_int32),
                 ("group", ctypes.c_int64), ("scale_strides", ScaleStrides)]


class Rotary(Struct):
    _fields_ = [("struct_size", ctypes.c_size_t), ("style", ctypes.c_int32), ("table_type", ctypes.c_int32)]
    _fields_ += [(_name, ctypes.c_int64)
                 for _name in ("dim", "first", "table_rows", "table_stride", "q_heads", "q_dim", "q_first")]
    _fields_ += [("q_strides", Strides), ("q_out_strides", Strides), ("q_storage", ctypes.POINTER(Storage))]


class Descriptor(Struct):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("backend", ctypes.c_int32),
        ("element_type", ctypes.c_int32),
        ("offset_type", ctypes.c_int32),
        ("addressing", ctypes.c_int32),
        ("batch", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("new_rows", ctypes.c_int64),
        ("cache_rows", ctypes.c_int64),
        ("k_dim", ctypes.c_int64),
        ("v_dim", ctypes.c_int64),
        ("k_new_strides", Strides),
        ("v_new_strides", Strides),
        ("k_cache_strides", Strides),
        ("v_cache_strides", Strides),
        ("lengths", ctypes.c_int32),
        ("flags", ctypes.c_int32),
        ("cache_blocks", ctypes.c_int64),
        ("sink_rows", ctypes.c_int64),
        ("table_entries", ctypes.c_int64),
        ("table_stride", ctypes.c_int64),
        ("reserved_slot", ctypes.c_int64),
        ("reserved_page", ctypes.c_int64),
        ("k_pack", ctypes.c_int64),
        ("v_pack", ctypes.c_int64),
        ("k_piece_stride", ctypes.c_int64),
        ("v_piece_stride", ctypes.c_int64),
        ("skip_policy", ctypes.c_int32),
        ("index_type", ctypes.c_int32),
        ("k_storage", ctypes.POINTER(Storage)),
        ("v_storage", ctypes.POINTER(Storage)),
        ("operation", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("rotary", ctypes.POINTER(Rotary)),
    ]


class Preference(Struct):
    _fields_ = [("struct_size", ctypes.c_size_t), ("kernel_name", ctypes.c_char_p), ("host_threads", ctypes.c_int32),
                ("reserved", ctypes.c_int32)]


# The names of the buffers in Args. Each is followed by a size.
BUFFERS = ("k_new", "v_new", "k_cache", "v_cache", "cache_offsets", "slots", "from_slots", "lengths", "left_pads",
           "batch_index", "page_table", "page_indptr", "token_samples", "token_positions", "token_count", "k_scales",
           "v_scales", "k_global_scale", "v_global_scale", "report", "k_out", "v_out", "rotary_cos",
           "rotary_sin", "positions", "q", "q_out", "q_scales")


class Args(Struct):
    _fields_ = [("struct_size", ctypes.c_size_t)]
    for _name in BUFFERS:
        _fields_ += [(_name, ctypes.c_void_p), (_name + "_bytes", ctypes.c_size_t)]


class Report(Struct):
    """Report.from_buffer(array) reads the report that a NumPy array of eleven int64 holds."""
    _fields_ = [("struct_size", ctypes.c_size_t)]
    _fields_ += [(_name, ctypes.c_int64)
                 for _name in ("rows_written", "rows_replaced", "rows_padding", "rows_below", "rows_above",
                               "first_sample", "first_row", "first_position")]
    _fields_ += [("state", ctypes.c_int64 * 2)]


class Fault(Struct):
    _fields_ = [("struct_size", ctypes.c_size_t), ("array", ctypes.c_char_p)]
    _fields_ += [(_name, ctypes.c_int64)
                 for _name in ("index", "value", "sample", "row", "position", "other_sample", "other_row")]


class Sku(Struct):
    _fields_ = [("struct_size", ctypes.c_size_t)]
    _fields_ += [(_name, ctypes.c_int32) for _name in ("operation", "backend", "element_type", "architecture",
                                                       "k_vector_bytes", "v_vector_bytes")]
    _fields_ += [("kernel_name", ctypes.c_char_p), ("device", ctypes.c_int32), ("addressing", ctypes.c_int32)]


class PrecisionGuarantee(Struct):
    _fields_ = [("struct_size", ctypes.c_size_t), ("k_bit_exact", ctypes.c_int32), ("v_bit_exact", ctypes.c_int32),
                ("deterministic", ctypes.c_int32), ("same_on_all_backends", ctypes.c_int32),
                ("k_error", ctypes.c_float), ("v_error", ctypes.c_float)]


class Result(ctypes.c_int32):
    """kvappend_status as a result. The functions that load() returns raise Error unless it is SUCCESS."""


PlanPointer = ctypes.c_void_p
# args, workspace, workspace_bytes, stream: how a run and a validation begin, after the plan.
_RUN = [ctypes.POINTER(Args), ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
QUICK = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]

FUNCTIONS = {
    "status_name": (ctypes.c_char_p, [ctypes.c_int32]),
    "last_error_message": (ctypes.c_char_p, []),
    "descriptor_init": (Result, [ctypes.POINTER(Descriptor), ctypes.c_size_t]),
    "storage_init": (Result, [ctypes.POINTER(Storage), ctypes.c_size_t]),
    "storage_preset": (Result, [ctypes.c_int32, ctypes.POINTER(Storage), ctypes.c_size_t]),
    "rotary_init": (Result, [ctypes.POINTER(Rotary), ctypes.c_size_t]),
    "preference_init": (Result, [ctypes.POINTER(Preference), ctypes.c_size_t]),
    "args_init": (Result, [ctypes.POINTER(Args), ctypes.c_size_t]),
    "report_init": (Result, [ctypes.POINTER(Report), ctypes.c_size_t]),
    "fault_init": (Result, [ctypes.POINTER(Fault), ctypes.c_size_t]),
    "sku_init": (Result, [ctypes.POINTER(Sku), ctypes.c_size_t]),
    "precision_guarantee_init": (Result, [ctypes.POINTER(PrecisionGuarantee), ctypes.c_size_t]),
    "plan_create": (Result, [ctypes.POINTER(Descriptor), ctypes.POINTER(Preference), ctypes.POINTER(PlanPointer)]),
    "plan_workspace_size": (Result, [PlanPointer, ctypes.POINTER(ctypes.c_size_t)]),
    "plan_can_implement": (Result, [PlanPointer, ctypes.POINTER(Args)]),
    "plan_run": (Result, [PlanPointer, *_RUN]),
    "plan_run_layers": (Result, [ctypes.POINTER(PlanPointer), ctypes.POINTER(ctypes.POINTER(Args)), ctypes.c_size_t,
                                 *_RUN[1:]]),
    "plan_validate": (Result, [PlanPointer, *_RUN, ctypes.POINTER(Fault)]),
    "plan_destroy": (Result, [PlanPointer]),
    "plan_get_sku": (Result, [PlanPointer, ctypes.POINTER(Sku)]),
    "plan_get_precision_guarantee": (Result, [PlanPointer, ctypes.POINTER(PrecisionGuarantee)]),
    "kernel_name": (ctypes.c_char_p, [ctypes.c_size_t]),
    "version": (ctypes.c_uint32, []),
    "get_api": (Result, [ctypes.c_uint32, ctypes.POINTER(ctypes.c_void_p)]),
}


class Error(Exception):
    """A call of the library failed: `status` (one of Status), its `name` as in the header, and the `message`.
    Plan.validate adds the `fault`."""

    fault: Fault

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(status, name, message)
        self.status, self.name, self.message = status, name, message

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def load(path: str) -> types.SimpleNamespace:
    """The library at `path`, or that the loader finds by this name. `plan_run` is kvappend_plan_run, and so on."""
    loaded = ctypes.CDLL(path)

    def error(status: int) -> Error:
        # The message belongs to this thread. Other threads that run in between have messages of their own.
        return Error(status, api["status_name"](status).decode(), api["last_error_message"]().decode())

    def require(status: int, _function: typing.Any, _arguments: dict[str, typing.Any]) -> None:
        if status:
            raise error(status)

    api: dict[str, typing.Any] = {"error": error}
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(loaded, "kvappend_" + name)
        function.restype, function.argtypes = result, arguments
        if result is Result:
            function.restype, function.errcheck = ctypes.c_int32, require
        api[name] = function
    # plan_run with a kvappend_args that is given as bytes. It returns a status, of which `error` makes an exception.
    api["plan_run_quick"] = loaded["kvappend_plan_run"]
    api["plan_run_quick"].restype, api["plan_run_quick"].argtypes = ctypes.c_int32, QUICK
    api["get_api"](ABI_VERSION, ctypes.c_void_p())
    return types.SimpleNamespace(**api)


@functools.cache
def library() -> types.SimpleNamespace:
    """The library that KVAPPEND_LIBRARY names, else the one inside the package, else the one that the loader finds."""
    name = f"libkvappend.so.{ABI_VERSION}"
    packed = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    return load(os.environ.get("KVAPPEND_LIBRARY") or (packed if os.path.exists(packed) else name))
