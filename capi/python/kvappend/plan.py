# SPDX-License-Identifier: Apache-2.0
"""Plans, made and run with tensors."""

from __future__ import annotations

import collections.abc
import contextlib
import ctypes
import functools
import operator
import re
import struct
import sys
import typing
import weakref

from . import abi
from .arguments import Append, Gather, Move, PlanTensors, RunTensors
from .describe import NEW, OUT, QUERY, TABLES, describe
from .devices import common_device, current
from .layout import OFFSET_NAMES, ON_DEVICE, Layout, Tensor, device_name
from .rotary import Rotary
from .storage import Storage
from .tensors import borrow, device_of, glance, in_memory, is_torch, learn

# The names of tensors, and what kvappend_args calls them.
_FIELDS = {name: name for name in abi.BUFFERS} | dict.fromkeys(OFFSET_NAMES, "cache_offsets")
_ARGS_BYTES = ctypes.sizeof(abi.Args)
# How many kinds of calls append(), gather() and move() each remember before they start anew.
_MOST_CALLS = 512


def _require_known(arguments: collections.abc.Iterable[str],
                   names: collections.abc.Collection[str] = tuple(_FIELDS)) -> None:
    unknown = [name for name in arguments if name not in names]
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: expected some of {', '.join(names)}")


def _current_torch_stream(device: int) -> int:
    return sys.modules["torch"].cuda.current_stream(device).cuda_stream


def _devices(tensors: dict[str, typing.Any]) -> dict[str, tuple[int, int]]:
    return {name: device_of(name, tensor) for name, tensor in tensors.items()}


def _borrow_all(arguments: collections.abc.Mapping[str, typing.Any], stream: int | None) -> typing.Any:
    """The tensors among the arguments, borrowed; their device; and the stream. If no stream is given, PyTorch's tensors
    are used in PyTorch's current stream."""
    tensors = {name: tensor for name, tensor in arguments.items() if name in _FIELDS and tensor is not None}
    device = common_device(_devices(tensors))
    if device is not None and stream is None and any(is_torch(tensor) and tensor.is_cuda
                                                     for tensor in tensors.values()):
        stream = _current_torch_stream(device)
    with current(device):
        return {name: borrow(name, tensor, stream) for name, tensor in tensors.items()}, device, stream


def _reworded(error: abi.Error, offsets: str) -> abi.Error:
    """The error in terms of the arguments. Most fields in the library's messages have the same names as arguments."""
    message = re.sub(r"\b(args|descriptor|preference)\.", "", error.message)
    message = re.sub(r"\bcache_offsets\b", offsets, message)
    return abi.Error(error.status, error.name, re.sub(r"\bKVAPPEND_FLAG_", "Flag.", message))


def _offsets_name(names: collections.abc.Container[str]) -> str:
    return next((name for name in OFFSET_NAMES if name in names), "cache_offsets")


@contextlib.contextmanager
def _in_terms_of(names: collections.abc.Container[str]) -> collections.abc.Iterator[None]:
    try:
        yield
    except abi.Error as error:
        raise _reworded(error, _offsets_name(names)) from None


class _Call:
    """A run with tensors of one kind, in one order. It does not keep its plan."""

    def __init__(self, plan: Plan, names: collections.abc.Iterable[str], bound: dict[str, Tensor]) -> None:
        # pylint: disable=protected-access
        self.device, self.library, self.pointer = plan.device, abi.library(), plan._pointer
        # An empty tensor is NULL.
        self.after = [0, *(tensor.data for tensor in bound.values())]
        everything = [*names, None, *bound]
        sources = {_FIELDS[name]: name if plan._expected[name].size else None for name in everything if name}
        if "q" in sources:
            sources.setdefault("q_out", sources["q"])
        self.order = operator.itemgetter(*[everything.index(sources[field])
                                           for field in abi.BUFFERS if field in sources])
        # The fields of kvappend_args. The sizes are 0, so a run does not check them: Plan._call has checked this kind.
        self.pack = struct.Struct("Q" + "".join("Q8x" if field in sources else "16x" for field in abi.BUFFERS)).pack
        self.offsets = _offsets_name(plan._expected)
        self.plan: Plan | None = None  # that the call keeps

    def args(self, addresses: list[int]) -> bytes:
        """A kvappend_args for one run, so that any number of threads may run at once."""
        return self.pack(_ARGS_BYTES, *self.order(addresses + self.after))

    def __call__(self, addresses: list[int], stream: int | None) -> None:
        args = self.args(addresses)
        if self.device is None:
            status = self.library.plan_run_quick(self.pointer, args, None, 0, stream)
        else:
            with current(self.device):
                status = self.library.plan_run_quick(self.pointer, args, None, 0, stream)
        if status:
            self.require_open()
            raise _reworded(self.library.error(status), self.offsets)

    def require_open(self) -> None:
        if not self.pointer:
            raise ValueError("the plan is closed")


def _writes_scales(descriptor: typing.Any, kind: str) -> typing.Any:
    """Whether an append computes the scales of K or of V, or a move moves them."""
    storage = getattr(descriptor, kind + "_storage")
    if not storage:
        return False
    storage = storage.contents
    if descriptor.operation == abi.Operation.APPEND:
        return storage.scaling == abi.Scaling.COMPUTED
    by_block, _, by_row, _ = storage.scale_strides
    return bool(by_block or by_row or storage.scale_order == abi.ScaleOrder.BY_FOUR_ROWS)


_Calls = dict[typing.Any, _Call]


class Plan:
    """An append for tensors like the given ones; a gather if k_out or v_out is among them; a move if from_slots is.
    Most arguments have the names of kvappend_args:

        k_new, v_new      [B, H, L, D]; with slots or token_samples, or with lengths that divide them, [T, H, D]
        k_out, v_out      the same shapes, instead of k_new and v_new: a gather writes the rows that it reads from the
                          caches. What is said of new rows holds for them
        k_cache, v_cache  [N, H, R, D]; in pieces (pack) [N, H, D/pack, R, pack]
        cache_offsets     [B], or one number for all samples: the position of a sample's first new row; or instead
        end_offsets       the same, but the number of rows of a sample including the new ones (vLLM's seq_lens); or
        last_page_lengths [B]: the number of rows on its last page after the append, with page_indptr (FlashInfer)
        lengths           [B], or [B + 1] for new rows [T, H, D]
        left_pads, batch_index [B]; page_table [B, entries]; page_indptr [B + 1] and page_table [entries]; slots [T]
        from_slots        [T]: a move has no rows, and moves those of the caches from these slots to slots. lengths
                          [B + 1] divide the slots into samples, whose rows are moved at the same time. The rows of
                          one sample are moved one after the other
        token_samples, token_positions [T]: the sample and the position of each token
        token_count       [1]: how many of the tokens are not padding, with slots or token_samples
        report            eleven int64, zero at first (see Report)
        k_scales, v_scales [N, H, R, D/group] in the order of the cache's axes, with a storage that has scales. Given
                          scales may have any shape that NumPy broadcasts to it, such as [1], or [H, 1, 1] for a scale
                          of each head. BY_FOUR_ROWS: [N, H, R, D/group] with any cache, the last two axes contiguous
        k_global_scale, v_global_scale [1]: float32, with a storage that has it
        rotary_cos, rotary_sin [P, D/2], with rotary: the numbers for each position. D is the number of elements that
                          are rotated. Both may be views of one table, such as table[:, :32] and table[:, 32:]
        positions         [T], or [B, L]: the position by which each row of K is rotated, if it is not that in its
                          sequence; with slots it is required
        q                 [B, H, L, D] or [T, H, D] as k_new, with rotary: rows of Q, each rotated by the position of
                          the row of K. Q has an H and a D of its own, and always the axis H
        q_out             the same shape: where the rotated rows of Q go. Without it, q is rotated in place: the run
                          changes q, while it never changes k_new
        q_scales          [H, D/group] or any shape that NumPy broadcasts to it, such as [1], with a q_storage that
                          has scales

    B is the number of samples, H of heads, L of new rows of each sample, T of tokens, N of caches or pages, R of rows
    of each of them, and D of elements of a row. Without the axis H there is one head, as in the latent cache of MLA:
    k_new [B, L, D] or [T, D] and k_cache [N, R, D]. K or V may be missing.

    A tensor is one of NumPy or PyTorch, or any object with __dlpack__. It may be a view, as long as the elements of a
    row are adjacent. If there is no tensor yet, give a Layout. All tensors are on one device. The types of rows are
    float32, float64, float16, bfloat16 (or its bits as uint16), float8_e4m3fn, float8_e5m2, int8 and uint8. NumPy gets
    bfloat16 and the float8 types from ml_dtypes.

    Indices are tensors of int32 or int64, or lists and numbers of Python. Offsets, slots, token_positions and positions
    have one type. All other indices have one type, too, which may be different. One number for all samples is a number
    of Python, or a tensor without axes: tensor.reshape(()) makes one of a tensor [1], in the same memory.

    With a storage, new rows are float32, float16 or bfloat16. The cache is a tensor of the stored type, or of uint8 if
    codes have 8 bits or less. An entry of uint8 has two elements of 4 bits, so a row of D elements has D/2 entries,
    rounded up. Scales are float32, float16, float8_e4m3fn or float8_e8m0fnu, and the last two may also be uint8. They
    are written if an append computes them, and if a move moves them: those that differ between rows. Caches and scales
    may be views of one memory, such as pool[..., :64] and pool[..., 64:68].view(float32).

    A plan keeps no tensor. It may run in any number of threads at once. `close`, the end of `with`, or the end of its
    last reference destroys it. `close` must not overlap a run. A CUDA plan makes its device current for its own calls.
    Memory must stay unchanged until the run has finished in the stream.

        layout         the axes of the caches: "HND" (default) is [N, H, R, D], and "NHD" is [N, R, H, D], as in pages
                       of vLLM and FlashInfer. It is required for pages with as many rows as heads
        new_layout     the axes of new rows: "HND" (default) is [B, H, L, D], and "NHD" is [B, L, H, D]. It has no
                       effect on [T, H, D]
        ring           True: positions from sink_rows on wrap around, instead of ending with the cache
        sink_rows      the number of first rows of a ring that no later row replaces
        reserved_slot  a further number in slots that means padding
        reserved_page  a number in page_table that means padding
        flags          Flag.ADVANCE, RESET_REPORT, COUNT_WRITTEN, PROGRAMMATIC_LAUNCH, or ZERO_OFFSETS instead of
                       cache_offsets, and ZERO_SKIPPED for a gather that sets rows without a place to zero; the other
                       flags follow from the arguments
        trap           a row without a place is an error (CUDA: a trap) instead of being skipped
        k_storage, v_storage   how the caches store their rows: a Storage. None keeps their bits
        q_storage      how q_out stores its rows: a Storage with codes of 8, 16 or 32 bits, without scales or with given
                       ones. None keeps the bits of the rotated rows
        rotary         how the rows of K are rotated before they are stored, and those of Q: a Rotary. None leaves them
                       as they are
        smaller_batch  allows a batch with fewer samples than caches, which uses the first caches
        kernel_name, host_threads   as in kvappend_preference

    Raises TypeError, ValueError or BufferError for what is none of the three operations, and Error for what the library
    refuses."""

    def __init__(self, *, layout: str | None = None, new_layout: str = "HND", ring: bool = False, sink_rows: int = 0,
                 reserved_slot: int | None = None, reserved_page: int | None = None, flags: int = 0,
                 trap: bool = False, smaller_batch: bool = False, k_storage: Storage | None = None,
                 v_storage: Storage | None = None, q_storage: Storage | None = None, rotary: Rotary | None = None,
                 kernel_name: str | None = None, host_threads: int = 0,
                 **tensors: typing.Unpack[PlanTensors]) -> None:
        _require_known(tensors)
        given = {name: tensor for name, tensor in in_memory(tensors, flags).items() if tensor is not None}
        layouts = {name: tensor for name, tensor in given.items() if isinstance(tensor, Layout)}
        others = {name: tensor for name, tensor in given.items() if name not in layouts}
        # First of all, as tensors of several devices cannot be borrowed at once.
        common_device({name: tensor.device for name, tensor in layouts.items()} | _devices(others))
        layouts |= {name: tensor.layout for name, tensor in _borrow_all(others, None)[0].items()}
        descriptor = describe(layouts, layout=layout, new_layout=new_layout, ring=ring, sink_rows=sink_rows,
                              reserved_slot=reserved_slot, reserved_page=reserved_page, flags=flags, trap=trap,
                              smaller_batch=smaller_batch, k_storage=k_storage, v_storage=v_storage,
                              q_storage=q_storage, rotary=rotary)
        preference = abi.Preference(kernel_name=kernel_name and kernel_name.encode(), host_threads=host_threads)
        pointer = abi.PlanPointer()
        self._library = abi.library()
        with _in_terms_of(layouts), current(common_device({name: tensor.device for name, tensor in layouts.items()})):
            self._library.plan_create(descriptor, preference, pointer)
        self._pointer = pointer
        self._destroy = weakref.finalize(self, self._library.plan_destroy, pointer)
        self._expected = layouts
        self._written = ("report", *(OFFSET_NAMES if flags & abi.Flag.ADVANCE else ()))
        if descriptor.operation == abi.Operation.GATHER:
            self._written += OUT
        else:
            self._written += ("k_cache", "v_cache", *(kind + "_scales" for kind in "kv"
                                                      if _writes_scales(descriptor, kind)),
                              "q_out" if "q_out" in layouts else "q")
        self.device = self.sku().device if descriptor.backend == abi.Backend.CUDA else None
        self._flags = flags
        self._calls: _Calls = {}

    def run(self, *, stream: int | None = None, **tensors: typing.Unpack[RunTensors]) -> None:
        """Appends, gathers or moves. The tensors are like those that the plan was made for, in the same memory or
        other.
        stream is the number of a CUDA stream. None is PyTorch's current stream for tensors of PyTorch, and CUDA's
        default stream for others."""
        run_quick(tensors, stream, self._calls, self._prepare)

    def bind(self, **tensors: typing.Unpack[RunTensors]) -> Bound:
        """Binds some of the tensors, such as the caches of a layer. The `run` of the result takes the others, and is
        quicker than that of the plan. The result keeps the bound tensors, which must keep their shape and memory."""
        return Bound(self, tensors)

    def validate(self, *, stream: int | None = None, **tensors: typing.Unpack[RunTensors]) -> None:
        """Looks for faults in the arrays of indices, and writes nothing. For the first fault, raises Error, whose
        `fault` describes it."""
        _require_known(tensors)
        borrowed, _, stream = _borrow_all(in_memory(tensors, self._flags), stream)
        args, fault = self._checked(borrowed), abi.Fault()
        try:
            with _in_terms_of(borrowed), current(self.device):
                self._library.plan_validate(self._pointer, args, None, 0, stream, fault)
        except abi.Error as error:
            error.fault = fault
            raise

    def sku(self) -> abi.Sku:
        """What the library has chosen: the kernel's name and more."""
        sku = abi.Sku()
        self._library.plan_get_sku(self._alive(), sku)
        return sku

    def precision_guarantee(self) -> abi.PrecisionGuarantee:
        """What the plan guarantees for the values that it writes."""
        guarantee = abi.PrecisionGuarantee()
        self._library.plan_get_precision_guarantee(self._alive(), guarantee)
        return guarantee

    def close(self) -> None:
        self._destroy()
        self._pointer.value = None

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *_: typing.Any) -> None:
        self.close()

    def _alive(self) -> typing.Any:
        if not self._pointer:
            raise ValueError("the plan is closed")
        return self._pointer

    def _prepare(self, tensors: dict[str, typing.Any], stream: int | None) -> typing.Any:
        def find(_arguments: dict[str, typing.Any], borrowed: dict[str, Tensor]) -> typing.Any:
            return self._call(borrowed, {})

        _require_known(tensors)
        return _prepare(tensors, self._flags, stream, self._calls, find)

    def _require_like(self, borrowed: dict[str, Tensor]) -> None:
        """That the tensors are like those that the plan was made for."""
        for name, tensor in borrowed.items():
            layout = self._expected.get(name)
            if layout is None:
                raise TypeError(f"{name} is given: the plan was made without it")
            if tensor.layout.device != layout.device:
                raise ValueError(f"{name} is on {device_name(tensor.layout.device)}: the plan was made for it on "
                                 f"{device_name(layout.device)}")
            if tensor.layout != layout:
                raise ValueError(f"{name} is {tensor.layout}: the plan was made for {layout}")
            if tensor.read_only and name in self._written:
                raise ValueError(f"{name} is read-only, and would be written")

    def _checked(self, borrowed: dict[str, Tensor], bound: dict[str, Tensor] | None = None) -> abi.Args:
        """A kvappend_args of these tensors, if they are like those that the plan was made for. Bound tensors have been
        checked before."""
        self._alive()
        everything = borrowed | (bound or {})
        missing = [name for name in self._expected if name not in everything]
        if missing:
            raise TypeError(f"{missing[0]} is missing: the plan was made with it")
        self._require_like(borrowed)
        args = abi.Args()
        for name, tensor in everything.items():
            # To the library, a size of 0 means that the size is unknown, so an empty tensor is NULL.
            if tensor.layout.size:
                setattr(args, _FIELDS[name], tensor.data)
                setattr(args, _FIELDS[name] + "_bytes", tensor.layout.size)
        if "q_out" not in everything:
            args.q_out, args.q_out_bytes = args.q, args.q_bytes
        return args

    def _call(self, borrowed: dict[str, Tensor], bound: typing.Any) -> _Call:
        """The run with tensors such as these."""
        args = self._checked(borrowed, bound)
        with _in_terms_of(self._expected):
            self._library.plan_can_implement(self._pointer, args)
        return _Call(self, list(borrowed), bound)


class Bound:
    """A plan with some of its tensors, by Plan.bind."""

    def __init__(self, plan: Plan, tensors: typing.Any) -> None:
        # pylint: disable=protected-access
        _require_known(tensors)
        plan._alive()
        self._plan = plan
        self._borrowed, _, _ = _borrow_all(in_memory(tensors, plan._flags), None)
        plan._require_like(self._borrowed)
        self._calls: _Calls = {}

    def run(self, *, stream: int | None = None, **tensors: typing.Unpack[RunTensors]) -> None:
        """As Plan.run, with the tensors that are not bound."""
        run_quick(tensors, stream, self._calls, self._prepare)

    def _prepare(self, tensors: dict[str, typing.Any], stream: int | None) -> typing.Any:
        def find(_arguments: dict[str, typing.Any], borrowed: dict[str, Tensor]) -> typing.Any:
            for name in borrowed.keys() & self._borrowed.keys():
                raise TypeError(f"{name} is given, and is bound")
            return self._plan._call(borrowed, self._borrowed)  # pylint: disable=protected-access

        _require_known(tensors)
        return _prepare(tensors, self._plan._flags, stream, self._calls, find)  # pylint: disable=protected-access


OPTIONS = tuple(Plan.__init__.__kwdefaults__ or ())


def run_quick(arguments: collections.abc.Mapping[str, typing.Any], stream: int | None, calls: _Calls,
              prepare: collections.abc.Callable[..., typing.Any]) -> None:
    key, addresses, _kept = glance(arguments)
    call = calls.get(key)
    if call is None or call.device is not None:
        call, addresses, stream, _kept = prepare(arguments, stream)
    call(addresses, stream)


def _prepare(arguments: collections.abc.Mapping[str, typing.Any], flags: int, stream: int | None, calls: _Calls,
             find: collections.abc.Callable[..., _Call]) -> typing.Any:
    """The call for the arguments, the addresses, the stream, and what must be kept until the call is done. `calls` has
    those of earlier arguments; `find(tensors, borrowed)` makes a new one."""
    given, arguments = arguments, in_memory(arguments, flags)
    learn(arguments.values())
    key, addresses, kept = glance(arguments)
    call = calls.get(key)
    if call is not None and call.pointer:
        if call.device is None:
            return call, addresses, stream, (arguments, kept)
        # In PyTorch's current stream its tensors are ready. Another stream has to wait for them, as DLPack says.
        current_stream = _current_torch_stream(call.device)
        if stream in (None, current_stream):
            return call, addresses, current_stream, (arguments, kept)
    borrowed, device, stream = _borrow_all(arguments, stream)
    if device is not None and arguments is not given and stream != _current_torch_stream(device):
        raise TypeError("plain numbers and lists go to a GPU in PyTorch's current stream: expected tensors, or "
                        "no other stream")
    call = find(arguments, borrowed)
    # With a GPU, memory of the CPU must be pinned, and the key does not say whether it is.
    if key is not None and (device is None or
                            all(tensor.layout.device[0] in ON_DEVICE for tensor in borrowed.values())):
        if len(calls) >= _MOST_CALLS:
            calls.clear()
        calls[key] = call
    return call, [tensor.data for tensor in borrowed.values()], stream, borrowed


@functools.lru_cache(maxsize=64)
def _plan_for(layouts: tuple[tuple[str, Layout], ...], options: tuple[tuple[str, typing.Any], ...]) -> Plan:
    arguments: dict[str, typing.Any] = {**dict(layouts), **dict(options)}
    return Plan(**arguments)


_calls: _Calls = {}  # of append
_gathers: _Calls = {}  # of gather
_moves: _Calls = {}  # of move


def _find(arguments: dict[str, typing.Any], borrowed: dict[str, Tensor]) -> _Call:
    layouts = tuple((name, tensor.layout) for name, tensor in borrowed.items())
    plan = _plan_for(layouts, tuple((name, arguments[name]) for name in OPTIONS if name in arguments))
    call = plan._call(borrowed, {})  # pylint: disable=protected-access
    call.plan = plan
    return call


# What append(), gather() and move() take.
_OF_APPEND = tuple(name for name in (*_FIELDS, *OPTIONS) if name not in (*OUT, "from_slots"))
_OF_ROTATION = (*TABLES, *QUERY, "q_scales", "q_storage", "positions", "rotary")
_OF_GATHER = tuple(name for name in (*_FIELDS, *OPTIONS) if name not in (*NEW, "from_slots", *_OF_ROTATION))
_OF_MOVE = tuple(name for name in (*_FIELDS, *OPTIONS) if name not in (*NEW, *OUT, *_OF_ROTATION))


def _prepare_append(arguments: dict[str, typing.Any], stream: int | None) -> typing.Any:
    def find(given: dict[str, typing.Any], borrowed: dict[str, Tensor]) -> typing.Any:
        _require_known(given, _OF_APPEND)
        return _find(given, borrowed)

    return _prepare(arguments, arguments.get("flags", 0), stream, _calls, find)


def _prepare_gather(arguments: dict[str, typing.Any], stream: int | None) -> typing.Any:
    def find(given: dict[str, typing.Any], borrowed: dict[str, Tensor]) -> typing.Any:
        _require_known(given, _OF_GATHER)
        if not borrowed.keys() & {*OUT}:
            raise TypeError("k_out and v_out are missing: expected tensors for the rows of K, of V, or of both")
        return _find(given, borrowed)

    return _prepare(arguments, arguments.get("flags", 0), stream, _gathers, find)


def _prepare_move(arguments: dict[str, typing.Any], stream: int | None) -> typing.Any:
    def find(given: dict[str, typing.Any], borrowed: dict[str, Tensor]) -> typing.Any:
        _require_known(given, _OF_MOVE)
        if "from_slots" not in borrowed:
            raise TypeError("from_slots is missing: expected the slots that the rows come from")
        return _find(given, borrowed)

    return _prepare(arguments, arguments.get("flags", 0), stream, _moves, find)


# For kvappend.torch: what remembers the calls of an operation, and what prepares one.
CALLS = {"append": (_calls, _prepare_append), "gather": (_gathers, _prepare_gather), "move": (_moves, _prepare_move)}


def append(*, stream: int | None = None, **arguments: typing.Unpack[Append]) -> None:
    """The same as Plan(...).run(...), with the arguments of both. The plan is kept for the next call with tensors of
    these layouts."""
    run_quick(arguments, stream, _calls, _prepare_append)


def gather(*, stream: int | None = None, **arguments: typing.Unpack[Gather]) -> None:
    """Reads rows from caches: as `append`, with k_out and v_out instead of k_new and v_new. Rows without a place keep
    what they have, or are zero with flags=Flag.ZERO_SKIPPED."""
    run_quick(arguments, stream, _gathers, _prepare_gather)


def move(*, stream: int | None = None, **arguments: typing.Unpack[Move]) -> None:
    """Moves rows within caches, from from_slots to slots: as `append`, without k_new and v_new. A row is skipped if one
    of its slots is negative or does not exist."""
    run_quick(arguments, stream, _moves, _prepare_move)


def append_layers(layers: collections.abc.Iterable[Append], *, stream: int | None = None,
                  **shared: typing.Unpack[Append]) -> None:
    """The appends of several layers as one, on a GPU in one launch (kvappend_plan_run_layers). Each layer is a dict of
    arguments of `append`. Other keywords are arguments of every layer:

        append_layers([{"k_new": k, "v_new": v, "k_cache": k_cache, "v_cache": v_cache} for ...],
                      cache_offsets=offsets)

    If one of the appends is refused, the message begins with its number, and nothing has been written."""
    _run_layers(layers, stream, shared, _prepare_append)


def gather_layers(layers: collections.abc.Iterable[Gather], *, stream: int | None = None,
                  **shared: typing.Unpack[Gather]) -> None:
    """The gathers of several layers as one, as append_layers has the appends."""
    _run_layers(layers, stream, shared, _prepare_gather)


def move_layers(layers: collections.abc.Iterable[Move], *, stream: int | None = None,
                **shared: typing.Unpack[Move]) -> None:
    """The moves of several layers as one, as append_layers has the appends."""
    _run_layers(layers, stream, shared, _prepare_move)


def _run_layers(layers: collections.abc.Iterable[typing.Any], stream: int | None, shared: typing.Any,
                prepare: collections.abc.Callable[..., typing.Any]) -> None:
    calls: list[_Call] = []
    args: list[abi.Args] = []
    kept: list[typing.Any] = []
    for number, layer in enumerate(layers):
        arguments = {**shared, **layer}
        try:
            call, addresses, stream, keep = prepare(arguments, stream)
        except (TypeError, ValueError, BufferError) as error:
            raise type(error)(f"layer {number}: {error}") from error
        except abi.Error as error:
            raise abi.Error(error.status, error.name, f"layer {number}: {error.message}") from error
        if calls and call.device != calls[0].device:
            raise ValueError(f"layer {number}: it is on {_place(call.device)}, and layer 0 on {_place(calls[0].device)}"
                             ": expected one device for all layers")
        calls.append(call)
        args.append(abi.Args.from_buffer_copy(call.args(addresses)))
        kept.append(keep)
    if calls:
        pointers = (abi.PlanPointer * len(calls))(*[call.pointer for call in calls])
        structs = (ctypes.POINTER(abi.Args) * len(args))(*map(ctypes.pointer, args))
        with _in_terms_of(shared), current(calls[0].device):
            calls[0].library.plan_run_layers(pointers, structs, len(calls), None, 0, stream)


def _place(device: int | None) -> str:
    return "cpu" if device is None else f"cuda:{device}"
