# SPDX-License-Identifier: Apache-2.0
"""Plans, by tensors."""

import functools
import weakref

from . import abi
from .describe import describe
from .dlpack import Layout, borrow

_WRITTEN = ("k_cache", "v_cache", "report")


def _borrow_all(tensors, stream=None):
    unknown = [name for name in tensors if name not in abi.BUFFERS]
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: expected some of {', '.join(abi.BUFFERS)}")
    return {name: borrow(name, tensor, stream) for name, tensor in tensors.items() if tensor is not None}


class Plan:
    """An append for tensors like those that are given, by the names of kvappend_args:

        k_new, v_new      [B, H, L, D]; with slots, or lengths that divide them, [T, H, D]
        k_cache, v_cache  [N, H, R, D]; in pieces (pack) [N, H, D/pack, R, pack]
        cache_offsets     [B]; where it is not given all offsets are 0
        lengths           [B], or [B + 1] where new rows are [T, H, D]
        left_pads, batch_index [B]; page_table [B, entries]; page_indptr [B + 1] and page_table [entries]; slots [T]
        report            eleven int64, zero at first (see Report)

    Each is anything with __dlpack__ (NumPy's arrays, PyTorch's tensors, ...), any view of it that keeps the elements of
    a row side by side, or a Layout where there is no tensor yet. Another order of axes is but a transposed view: for
    PyTorch's [B, L, H, D] give x.transpose(1, 2). NumPy's bfloat16, which ml_dtypes adds, goes as x.view(numpy.uint16).
    Either both of K's tensors or both of V's may be missing.

    A plan keeps no tensor. It may run in any number of threads at once, and is destroyed by `close`, at the end of
    `with`, or with its last reference; only `close` must not overlap a run. For CUDA the tensors' device must be
    current when it is made and when it runs, and memory must stay as it is until the stream has come past the run.

        ring           positions go round from sink_rows on, instead of ending with the cache
        reserved_slot  a further number in slots that means padding
        flags          ADVANCE, RESET_REPORT, COUNT_WRITTEN and PROGRAMMATIC_LAUNCH of Flag; others come by the tensors
        trap           a row without a place is an error (CUDA: a trap) instead of being skipped
        kernel_name, host_threads   as in kvappend_preference

    Raises TypeError, ValueError or BufferError for what is no append; Error for what the library refuses."""

    def __init__(self, *, ring=False, sink_rows=0, reserved_slot=None, flags=0, trap=False, kernel_name=None,
                 host_threads=0, **tensors):
        layouts = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Layout)}
        others = {name: tensor for name, tensor in tensors.items() if name not in layouts}
        layouts |= {name: tensor.layout for name, tensor in _borrow_all(others).items()}
        descriptor = describe(layouts, ring=ring, sink_rows=sink_rows, reserved_slot=reserved_slot, flags=flags,
                              trap=trap)
        preference = abi.Preference(kernel_name=kernel_name and kernel_name.encode(), host_threads=host_threads)
        pointer = abi.PlanPointer()
        self._library = abi.library()
        self._library.plan_create(descriptor, preference, pointer)
        self._pointer = pointer
        self._destroy = weakref.finalize(self, self._library.plan_destroy, pointer)
        self._expected = {name: (layout, layout.size) for name, layout in layouts.items()}
        self._written = _WRITTEN + (("cache_offsets",) if flags & abi.Flag.ADVANCE else ())

    def run(self, *, stream=None, **tensors):
        """Appends. The tensors are as those the plan was made for, in other memory or the same. stream is a CUDA
        stream's number (PyTorch: torch.cuda.current_stream().cuda_stream); None is the default stream, or the host."""
        self._run(_borrow_all(tensors, stream), stream)

    def _run(self, borrowed, stream):
        self._library.plan_run(self._alive(), self._args(borrowed), None, 0, stream)

    def validate(self, *, stream=None, **tensors):
        """Looks for faults in the arrays of indices, writes nothing, and raises Error whose `fault` says where."""
        borrowed, fault = _borrow_all(tensors, stream), abi.Fault()
        try:
            self._library.plan_validate(self._alive(), self._args(borrowed), None, 0, stream, fault)
        except abi.Error as error:
            error.fault = fault
            raise

    def sku(self):
        """What the library has chosen: the kernel's name and more."""
        sku = abi.Sku()
        self._library.plan_get_sku(self._alive(), sku)
        return sku

    def close(self):
        self._destroy()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _alive(self):
        if not self._destroy.alive:
            raise ValueError("the plan is closed")
        return self._pointer

    def _args(self, borrowed):
        if borrowed.keys() != self._expected.keys():
            raise TypeError(f"the plan was made for {', '.join(self._expected)}, and not for {', '.join(borrowed)}")
        args = abi.Args()
        for name, tensor in borrowed.items():
            layout, size = self._expected[name]
            if tensor.layout != layout:
                raise ValueError(f"{name} is {tensor.layout}: the plan was made for {layout}")
            if tensor.read_only and name in self._written:
                raise ValueError(f"{name} is read-only, and would be written")
            if size > 0:  # To the library a size of 0 would be one that is not known.
                setattr(args, name, tensor.data)
                setattr(args, name + "_bytes", size)
        return args


@functools.lru_cache(maxsize=64)
def _plan_for(layouts, options):
    return Plan(**dict(layouts), **dict(options))


def append(*, stream=None, **tensors_and_options):
    """Plan(...).run(...) at once, with a plan that is kept for the next call with tensors of these layouts."""
    tensors, options = dict(tensors_and_options), []
    for name in Plan.__init__.__kwdefaults__:
        if name in tensors:
            options.append((name, tensors.pop(name)))
    borrowed = _borrow_all(tensors, stream)
    layouts = tuple((name, tensor.layout) for name, tensor in borrowed.items())
    _plan_for(layouts, tuple(options))._run(borrowed, stream)  # pylint: disable=protected-access
