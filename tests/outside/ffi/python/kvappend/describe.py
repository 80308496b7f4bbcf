# SPDX-License-Identifier: Apache-2.0
"""From the layouts of tensors to the descriptor of the problem that they are. What is no problem for the library at all
is refused here; whether it is a good one, the library says."""

from .abi import Addressing, Backend, Descriptor, Element, Flag, Lengths, Offset, Skip
from .dlpack import ON_DEVICE, Code, Device, type_name

ELEMENTS = {(Code.FLOAT, 32): Element.F32, (Code.FLOAT, 64): Element.F64, (Code.FLOAT, 16): Element.F16,
            (Code.BFLOAT, 16): Element.BF16,
            # Only the width matters to a copy: so NumPy, which has no bfloat16, may give a view of one as uint16.
            (Code.UINT, 16): Element.BF16}
OFFSETS = {(Code.INT, 64): Offset.INT64, (Code.INT, 32): Offset.INT32}
INT64, INT32 = OFFSETS
REPORT_FIELDS = 11


class _Facts:
    """What the tensors say, each of which may say the same as another but nothing else."""

    def __init__(self):
        self.values, self.sources = {}, {}

    def state(self, fact, value, source):
        if self.values.setdefault(fact, value) != value:
            raise ValueError(f"{source} has {fact} {value}, and {self.sources[fact]} has {self.values[fact]}")
        self.sources.setdefault(fact, source)


def _require_form(name, layout, *forms):
    if len(layout.shape) not in [form.count(",") + 1 for form in forms]:
        raise ValueError(f"{name} is {list(layout.shape)}: expected {' or '.join(f'[{form}]' for form in forms)}")
    if layout.strides[-1] != 1 and layout.shape[-1] > 1 and layout.size > 0:
        raise ValueError(f"{name} has stride {layout.strides[-1]} in its last axis: expected 1, elements side by side")


def _require_type(name, layout, types):
    if layout.type not in types:
        raise ValueError(f"{name} has elements of type {type_name(layout.type)}: expected one of "
                         f"{', '.join(map(type_name, types))}")


def _backend(layouts):
    devices = {name: layout.device[1] for name, layout in layouts.items() if layout.device[0] in ON_DEVICE}
    if not devices:
        return Backend.HOST
    first = next(iter(devices))
    for name, layout in layouts.items():
        if layout.device[0] == Device.CPU:
            raise ValueError(f"{name} is in the memory of the CPU, and {first} on CUDA device {devices[first]}")
        if devices.get(name, devices[first]) != devices[first]:
            raise ValueError(f"{name} is on CUDA device {devices[name]}, and {first} on {devices[first]}")
    return Backend.CUDA


def _state_tensor(facts, name, layout, axes, shape, strides):
    """One of K and V; `axes` is what its extents are called, strides[:3] those of the descriptor."""
    _require_type(name, layout, ELEMENTS)
    facts.state("element_type", ELEMENTS[layout.type], name)
    for axis, extent in zip(axes, shape):
        facts.state(axis, extent, name)
    strides = strides[:3]
    # Three zeros mean contiguous. Where they are meant, an axis without a second entry gets another stride.
    if layout.size > 0 and not any(strides):
        strides = [0 if extent > 1 else 1 for extent in shape[:3]]
        if not any(strides):
            raise ValueError(f"{name} is one row repeated along all of its axes: that has no descriptor")
    facts.values[name + "_strides"] = tuple(strides)


def _state_new(facts, kind, layout, by_token):
    name, shape, strides = kind + "_new", layout.shape, layout.strides
    if by_token:
        _require_form(name, layout, "T, H, D")
        # The stride of the batch is not used; as it is not 0, the others are taken as they are.
        _state_tensor(facts, name, layout, ("new_rows", "heads", kind + "_dim"), shape, (1, strides[1], strides[0]))
    else:
        _require_form(name, layout, "B, H, L, D")
        _state_tensor(facts, name, layout, ("batch", "heads", "new_rows", kind + "_dim"), shape, strides)


def _state_cache(facts, kind, layout):
    name, shape, strides = kind + "_cache", layout.shape, layout.strides
    _require_form(name, layout, "N, H, R, D", "N, H, D/pack, R, pack")
    if len(shape) == 5:
        blocks, heads, pieces, rows, pack = shape
        facts.values[kind + "_pack"], facts.values[kind + "_piece_stride"] = pack, strides[2]
        shape, strides = (blocks, heads, rows, pieces * pack), (strides[0], strides[1], strides[3])
    _state_tensor(facts, name, layout, ("cache_blocks", "heads", "cache_rows", kind + "_dim"), shape, strides)


def _state_indices(facts, layouts, packed):
    """The arrays of one entry, or one more, for each sample."""
    more = {"page_indptr": 1, "lengths": int(packed)}
    for name in ("cache_offsets", "lengths", "left_pads", "batch_index", "page_indptr"):
        if name in layouts:
            layout, extra = layouts[name], more.get(name, 0)
            _require_form(name, layout, "B + 1" if extra else "B")
            _require_type(name, layout, OFFSETS if name == "cache_offsets" else (INT32,))
            facts.state("batch", layout.shape[0] - extra, name)
    if "cache_offsets" in layouts:
        facts.values["offset_type"] = OFFSETS[layouts["cache_offsets"].type]


def _state_slots(facts, layout):
    _require_form("slots", layout, "T")
    _require_type("slots", layout, OFFSETS)
    facts.values["offset_type"] = OFFSETS[layout.type]
    facts.state("batch", 1, "slots")
    # More tokens than slots, or slots than tokens, are padding.
    facts.values["new_rows"] = min(facts.values["new_rows"], layout.shape[0])


def _state_table(facts, layouts):
    layout = layouts["page_table"]
    _require_type("page_table", layout, (INT32,))
    if "page_indptr" in layouts:
        _require_form("page_table", layout, "entries")
    else:
        _require_form("page_table", layout, "B, entries")
        facts.state("batch", layout.shape[0], "page_table")
        facts.values["table_stride"] = layout.strides[0]
        if layout.strides[0] == 0 and layout.shape[0] > 1 and layout.size > 0:
            raise ValueError("page_table is one row repeated along its first axis: that has no descriptor")
    facts.values["table_entries"] = layout.shape[-1]


def _addressing(names):
    for name, addressing in (("slots", Addressing.SLOTS), ("page_indptr", Addressing.PAGED_CSR),
                             ("page_table", Addressing.PAGED), ("ring", Addressing.RING)):
        if name in names:
            return addressing
    return Addressing.DENSE


def _require_names(names):
    """What would otherwise be left out of the descriptor, and so be ignored without a word."""
    for kind in "kv":
        if (kind + "_new" in names) != (kind + "_cache" in names):
            raise TypeError(f"{kind}_new and {kind}_cache go together")
    if "k_new" not in names and "v_new" not in names:
        raise TypeError("expected k_new with k_cache, or v_new with v_cache, or all four")
    if "page_indptr" in names and "page_table" not in names:
        raise TypeError("page_indptr divides a page_table, which is not there")
    for one, others in (("slots", ("cache_offsets", "page_table", "ring")), ("ring", ("page_table",)),
                        ("report", ("trap",))):
        for other in others:
            if one in names and other in names:
                raise TypeError(f"{one} and {other} do not go together")


def describe(layouts, *, ring=False, sink_rows=0, reserved_slot=None, flags=0, trap=False):
    """The descriptor of an append with tensors of these layouts, by the names that they have in kvappend_args."""
    names = {*layouts, *(["ring"] if ring else []), *(["trap"] if trap else [])}
    _require_names(names)
    slots, new = "slots" in layouts, [name for name in ("k_new", "v_new") if name in layouts]
    # Which of both lengths count is told by the tensors that they divide.
    packed = not slots and "lengths" in layouts and len(layouts[new[0]].shape) == 3
    facts = _Facts()
    facts.values["backend"] = _backend(layouts)
    for name in new:
        _state_new(facts, name[0], layouts[name], slots or packed)
        _state_cache(facts, name[0], layouts[name[0] + "_cache"])
    _state_indices(facts, layouts, packed)
    if slots:
        _state_slots(facts, layouts["slots"])
    if "page_table" in layouts:
        _state_table(facts, layouts)
    if "report" in layouts:
        _require_form("report", layouts["report"], str(REPORT_FIELDS))
        _require_type("report", layouts["report"], (INT64,))
    given = {Flag.BATCH_INDEX: "batch_index" in layouts, Flag.LEFT_PADS: "left_pads" in layouts,
             Flag.ZERO_OFFSETS: "cache_offsets" not in layouts and not slots,
             Flag.RESERVED_SLOT: reserved_slot is not None}
    for flag, is_set in given.items():
        flags |= flag if is_set else 0
    if "lengths" in layouts:
        facts.values["lengths"] = Lengths.PACKED if packed else Lengths.PER_SAMPLE
    facts.values["skip_policy"] = Skip.TRAP if trap else Skip.REPORT if "report" in layouts else Skip.SILENTLY
    return Descriptor(addressing=_addressing(names), flags=flags, sink_rows=sink_rows,
                      reserved_slot=reserved_slot or 0, **facts.values)
