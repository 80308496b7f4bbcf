# SPDX-License-Identifier: Apache-2.0
"""From the layouts of tensors to the descriptor of the append, the gather or the move that they describe. What cannot
be one is refused here, in terms of the arguments. The library checks the rest."""

from __future__ import annotations

import collections.abc
import ctypes
import typing

from .abi import (Addressing, Backend, Descriptor, Element, Flag, Index, Lengths, Offset, Operation, ScaleOrder,
                  ScaleType, Scaling, Skip, Stored)
from .devices import common_device
from .layout import ELEMENT_BYTES, OFFSET_NAMES, Layout
from .rotary import Rotary
from .storage import Storage

ELEMENTS = {"float32": Element.F32, "float64": Element.F64, "float16": Element.F16, "bfloat16": Element.BF16,
            # Only the width matters to a copy. NumPy has no bfloat16 of its own, so callers may view one as uint16.
            "uint16": Element.BF16, "float8_e4m3fn": Element.E4M3, "float8_e5m2": Element.E5M2, "int8": Element.INT8,
            "uint8": Element.UINT8}
OFFSETS = {"int64": Offset.INT64, "int32": Offset.INT32}
INDICES = {"int32": Index.INT32, "int64": Index.INT64}
# The types that the tensor of a cache with a storage may have. An entry of uint8 has two elements of 4 bits.
CODES = {Stored.F32: ("float32",), Stored.F16: ("float16",), Stored.BF16: ("bfloat16", "uint16"),
         Stored.E4M3: ("uint8", "float8_e4m3fn"), Stored.E5M2: ("uint8", "float8_e5m2"), Stored.INT8: ("int8", "uint8"),
         Stored.INT4: ("uint8",), Stored.E2M1: ("uint8",)}
SCALES = {ScaleType.F32: ("float32",), ScaleType.F16: ("float16",), ScaleType.E4M3: ("uint8", "float8_e4m3fn"),
          ScaleType.UE8M0: ("uint8", "float8_e8m0fnu")}
# The tensors of rows, of an append and of a gather.
NEW, OUT = ("k_new", "v_new"), ("k_out", "v_out")
QUERY = ("q", "q_out")
TABLES = ("rotary_cos", "rotary_sin")
REPORT_FIELDS = 11
LAYOUTS = ("HND", "NHD")
# The axes by their letters. N is a cache's block (a sample's cache, or a page), R a row of a block, T a token.
_PADDED = {"HND": "B, H, L, D", "NHD": "B, L, H, D"}
_CACHE = {"HND": "N, H, R, D", "NHD": "N, R, H, D"}
_PIECES = "N, H, D/pack, R, pack"
# The fields of the descriptor for these letters; D is k_dim or v_dim.
_FIELDS = {"B": "batch", "H": "heads", "L": "new_rows", "T": "new_rows", "N": "cache_blocks", "R": "cache_rows"}


def _form(axes: str) -> str:
    return f"[{axes}]"


def _shape_text(name: str, layout: Layout, axes: str) -> str:
    return f"{name} {_form(axes)} {list(layout.shape)}"


class _Extents:
    """The extents of the tensors. Several tensors may have the same extent, but they must agree."""

    def __init__(self) -> None:
        self.fields: dict[str, typing.Any] = {}
        self.sources: dict[str, tuple[str, Layout, str]] = {}

    def state(self, letter: str, extent: int, source: tuple[str, Layout, str], field: str | None = None) -> None:
        """`source` is the name, the layout and the axes of the tensor that has the extent."""
        field = field or _FIELDS[letter]
        known = self.fields.setdefault(field, extent)
        if known != extent:
            first = self.sources[field]
            raise ValueError(f"{letter} is {known} in {_shape_text(*first)}, and {extent} in {_shape_text(*source)}"
                             f"{_hint(letter, known, extent, first, source)}")
        self.sources.setdefault(field, source)


def _hint(letter: str, known: int, extent: int, first: tuple[str, Layout, str], source: tuple[str, Layout, str]) -> str:
    """What to say if one of the two tensors has its head axis where the other order of axes has it."""
    if letter != "H":
        return ""
    for (name, layout, axes), expected in ((first, extent), (source, known)):
        for forms, option in ((_PADDED, "new_layout"), (_CACHE, "layout")):
            for order, other in zip(LAYOUTS, LAYOUTS[::-1]):
                if axes == forms[order] and layout.shape[forms[other].split(", ").index("H")] == expected:
                    return f": if {name} is {_form(forms[other])}, say {option}=\"{other}\""
    return ""


def _require_form(name: str, layout: Layout, *forms: typing.Any) -> str:
    """The one of `forms` that has as many axes as the tensor."""
    for axes in forms:
        if axes.count(",") + 1 == len(layout.shape):
            return axes
    raise ValueError(f"{name} has the shape {list(layout.shape)}: expected the axes {' or '.join(map(_form, forms))}")


def _require_strides(name: str, layout: Layout, axes: str) -> None:
    letters = axes.split(", ")
    for letter, extent, stride in zip(letters, layout.shape, layout.strides):
        if stride < 0:
            raise ValueError(f"{name} has the stride {stride} along {letter} of {_form(axes)}: expected 0 or more, so "
                             "no reversed axis")
        if letter == letters[-1] and extent > 1 and stride != 1 and not layout.is_empty:
            raise ValueError(f"{name} has the stride {stride} along {letter}, its last axis: expected 1, adjacent "
                             "elements")


def _require_type(name: str, layout: Layout, types: collections.abc.Collection[str]) -> None:
    if layout.type not in types:
        raise ValueError(f"{name} has the type {layout.type}: expected {' or '.join(types)}")


class _States:
    """Describes the rows and the caches of K and of V, and the rows of Q."""

    def __init__(self, extents: _Extents, layouts: dict[str, Layout], storages: dict[str, Storage | None],
                 layout: str | None, new_layout: str) -> None:
        self.extents, self.layouts, self.storages = extents, layouts, storages
        self.layout, self.new_layout = layout, new_layout
        self.first: str | None = None
        self.by_token = False
        self.cache_axes: dict[str, str] = {}

    def read(self, kind: str, rows: str | None) -> None:
        """`rows` is the name of the rows, such as k_new. A move has none: None."""
        cache_axes = self.cache_axes[kind] = self._cache_axes(kind + "_cache", self.layouts[kind + "_cache"])
        if rows is None:
            self.by_token = True
        else:
            self._read(kind, rows, self._rows_axes(rows, "H" in cache_axes))
        self._read(kind, kind + "_cache", cache_axes)

    def read_query(self) -> None:
        """Q has the rows of K. Without q_out, it is rotated in place."""
        axes = "T, H, D" if self.by_token else _PADDED[self.new_layout]
        self.cache_axes["q"] = "H, D"  # of the scales, which are the same for all rows
        for name in QUERY:
            if name in self.layouts:
                self._read("q", name, _require_form(name, self.layouts[name], axes))
        self.extents.fields.setdefault("q_out_strides", self.extents.fields["q_strides"])

    def _rows_axes(self, name: str, has_heads: bool) -> str:
        padded = _PADDED[self.new_layout] if has_heads else "B, L, D"
        tokens = "T, H, D" if has_heads else "T, D"
        # Rows are tokens with some arrays, and may be tokens with lengths: the number of axes says which.
        by_token = {"slots", "token_samples"} & self.layouts.keys()
        forms = [tokens] if by_token else [padded, tokens] if "lengths" in self.layouts else [padded]
        axes = _require_form(name, self.layouts[name], *forms)
        self.by_token = axes == tokens
        return axes

    def _cache_axes(self, name: str, layout: Layout) -> str:
        axes = _require_form(name, layout, _CACHE[self.layout or "HND"], "N, R, D", _PIECES)
        if axes == _PIECES and self.layout == "NHD":
            raise ValueError(f"{name} has the shape {list(layout.shape)}: layout=\"NHD\" is for "
                             f"{_form(_CACHE['NHD'])}, and rows in pieces are {_form(_PIECES)}")
        # Both orders of the axes of pages are in wide use, so here the default would be a guess.
        is_paged = {"slots", "page_table"} & self.layouts.keys()
        if axes == _CACHE["HND"] and self.layout is None and is_paged and layout.shape[1] == layout.shape[2] > 1:
            raise ValueError(f"{name} has the shape {list(layout.shape)}, which may be {_form(_CACHE['HND'])} or "
                             f"{_form(_CACHE['NHD'])}: say layout=\"HND\" or layout=\"NHD\"")
        return axes

    def _read(self, kind: str, name: str, axes: str) -> None:
        layout, fields = self.layouts[name], self.extents.fields
        stored = self._stored_type(kind, name)
        self._require_element_type(name, layout, stored)
        _require_strides(name, layout, axes)
        extents = dict(zip(axes.split(", "), layout.shape))
        strides = dict(zip(axes.split(", "), layout.strides))
        # Strides with a storage are in bytes, and an entry may be two elements.
        unit = ELEMENT_BYTES[layout.type] if stored else 1
        elements = 2 if stored in (Stored.INT4, Stored.E2M1) else 1
        if axes == _PIECES:
            fields[kind + "_pack"] = elements * extents["pack"]
            fields[kind + "_piece_stride"] = unit * strides["D/pack"]
            extents["D"] = elements * extents.pop("D/pack") * extents.pop("pack")
        elif elements == 2:
            extents["D"] = self._row_of_pairs(kind, name, extents["D"])
        extents.setdefault("H", 1)
        for letter, extent in extents.items():
            field = {"D": kind + "_dim", "H": "q_heads" if kind == "q" else None}.get(letter)
            self.extents.state(letter, extent, (name, layout, axes), field)
        # The stride of the batch is not used for tokens. It is not 0, so the others are taken as they are.
        outer = strides.get("B", strides.get("N", 1))
        inner = next(strides[letter] for letter in "LTR" if letter in strides)
        outer_to_inner = self._strides(name, layout, (outer, strides.get("H", 0), inner), extents)
        # The rows of a gather have the fields of new rows.
        field = NEW[OUT.index(name)] if name in OUT else name
        fields[field + "_strides"] = tuple(unit * stride for stride in outer_to_inner)

    def _stored_type(self, kind: str, name: str) -> Stored:
        """The stored type of a cache, or of q_out, with a storage, else 0."""
        storage = self.storages[kind] if name == _stored_name(kind) else None
        return Stored(storage.type) if storage else Stored.AS_IS

    def _require_element_type(self, name: str, layout: Layout, stored: Stored) -> None:
        if stored:
            _require_type(name, layout, CODES[stored])
            return
        _require_type(name, layout, ELEMENTS)
        first = self.first = self.first or name
        if ELEMENTS[layout.type] != ELEMENTS[self.layouts[first].type]:
            raise ValueError(f"{first} has the type {self.layouts[first].type}, and {name} {layout.type}: expected one "
                             "type")

    def _row_of_pairs(self, kind: str, name: str, entries: int) -> int:
        """The elements of a row with two elements in each entry. In a move, nothing else says whether the last one has
        two, and both are moved."""
        dim = self.extents.fields.get(kind + "_dim", 2 * entries)
        if entries != (dim + 1) // 2:
            raise ValueError(f"{name} has {entries} entries in a row: expected {(dim + 1) // 2}, with two elements of "
                             "4 bits in each")
        return dim

    @staticmethod
    def _strides(name: str, layout: Layout, strides: tuple[int, ...], extents: dict[str, int]) -> tuple[int, ...]:
        # Three zeros mean contiguous. If zeros are meant, an axis with only one entry gets another stride.
        if layout.is_empty or any(strides):
            return strides
        outer = extents["B"] if "B" in extents else extents["N"]
        inner = next(extents[letter] for letter in "LTR" if letter in extents)
        strides = tuple(0 if extent > 1 else 1 for extent in (outer, extents["H"], inner))
        if not any(strides):
            raise ValueError(f"{name} is one row repeated along all of its axes: a descriptor cannot express that")
        return strides


class _Indices:
    """Describes the arrays of indices. Each of their two groups has one type."""

    def __init__(self, extents: _Extents, layouts: dict[str, Layout], packed: bool, by_token: bool,
                 operation: int) -> None:
        self.extents, self.layouts, self.by_token, self.operation = extents, layouts, by_token, operation
        self.more = {"page_indptr": 1, "lengths": int(packed)}
        self.sources: dict[str, str] = {}

    def read(self) -> None:
        for name in ("lengths", "left_pads", "batch_index", "page_indptr"):
            more = self.more.get(name, 0)
            self._read(name, "index_type", INDICES, "B + 1" if more else "B", more)
        for name in OFFSET_NAMES:
            # One number for all samples has a flag.
            if name in self.layouts and is_one_offset(self.layouts[name]):
                self._read_type(name, "offset_type", OFFSETS)
            else:
                self._read(name, "offset_type", OFFSETS, "B")
        self._read("token_positions", "offset_type", OFFSETS, "T")
        self._read("token_samples", "index_type", INDICES, "T")
        self._read("slots", "offset_type", OFFSETS, "T")
        self._read("from_slots", "offset_type", OFFSETS, "T")
        self._read_table()
        self._read_positions()
        if "token_count" in self.layouts:
            self._read_type("token_count", "index_type", INDICES)
            if self.layouts["token_count"].shape not in ((), (1,)):
                raise ValueError(f"token_count has the shape {list(self.layouts['token_count'].shape)}: expected [1]")

    def _read(self, name: str, field: str, types: collections.abc.Mapping[str, int], axes: str, more: int = 0) -> None:
        if name not in self.layouts:
            return
        layout = self.layouts[name]
        self._read_type(name, field, types)
        _require_form(name, layout, axes)
        _require_strides(name, layout, axes)
        if name == "slots" and self.operation == Operation.APPEND:
            # More tokens than slots, or more slots than tokens, are padding. In a gather, rows without a slot would be
            # no rows of the plan, and ZERO_SKIPPED would not reach them.
            self.extents.fields["new_rows"] = min(self.extents.fields["new_rows"], layout.shape[0])
        else:
            self.extents.state(axes[0], layout.shape[0] - more, (name, layout, axes))

    def _read_type(self, name: str, field: str, types: collections.abc.Mapping[str, int]) -> None:
        kind = self.layouts[name].type
        _require_type(name, self.layouts[name], types)
        self.extents.fields.setdefault(field, types[kind])
        first = self.sources.setdefault(field, name)
        if self.layouts[first].type != kind:
            raise ValueError(f"{first} has the type {self.layouts[first].type}, and {name} {kind}: expected one type "
                             "for both")

    def _read_positions(self) -> None:
        if "positions" not in self.layouts:
            return
        layout = self.layouts["positions"]
        if self.by_token:
            self._read("positions", "offset_type", OFFSETS, "T")
            return
        self._read_type("positions", "offset_type", OFFSETS)
        axes = _require_form("positions", layout, "B, L")
        _require_strides("positions", layout, axes)
        for letter, extent in zip("BL", layout.shape):
            self.extents.state(letter, extent, ("positions", layout, axes))
        if layout.shape[0] > 1 and layout.strides[0] != layout.shape[1] and not layout.is_empty:
            raise ValueError(f"positions has the strides {list(layout.strides)}: expected both axes to be contiguous")

    def _read_table(self) -> None:
        if "page_table" not in self.layouts:
            return
        layout, fields = self.layouts["page_table"], self.extents.fields
        self._read_type("page_table", "index_type", INDICES)
        axes = _require_form("page_table", layout, "entries" if "page_indptr" in self.layouts else "B, entries")
        _require_strides("page_table", layout, axes)
        fields["table_entries"] = layout.shape[-1]
        if axes == "B, entries":
            self.extents.state("B", layout.shape[0], ("page_table", layout, axes))
            fields["table_stride"] = layout.strides[0]
            if layout.strides[0] == 0 and layout.shape[0] > 1 and not layout.is_empty:
                raise ValueError("page_table is one row repeated along its first axis: a descriptor cannot "
                                 "express that")


class _Scales:
    """Describes the scales of K, of V or of Q, and thereby completes the storage."""

    def __init__(self, kind: str, storage: Storage, layouts: dict[str, Layout], extents: _Extents,
                 cache_axes: str) -> None:
        self.kind, self.storage, self.layouts = kind, storage, layouts
        self.moves = "from_slots" in layouts
        self.by_four_rows = storage.scale_order == ScaleOrder.BY_FOUR_ROWS and kind != "q"
        axes = _CACHE["HND"] if cache_axes == _PIECES or self.by_four_rows and "H" in cache_axes else cache_axes
        self.axes = axes.replace("D", "D/group").split(", ")
        fields = extents.fields
        groups = fields[kind + "_dim"] // storage.group if storage.group > 0 else 1
        heads = fields["q_heads" if kind == "q" else "heads"]
        whole = {"N": fields["cache_blocks"], "H": heads, "R": fields["cache_rows"], "D/group": groups}
        self.expected = [whole[axis] for axis in self.axes]

    def strides(self) -> tuple[int, ...]:
        """kvappend_storage.scale_strides."""
        self._require_global_scale()
        layout = self._require(self.kind + "_scales", self.storage.scaling != Scaling.NONE)
        if layout is None:
            return 0, 0, 0, 0
        name = self.kind + "_scales"
        _require_type(name, layout, SCALES[ScaleType(self.storage.scale_type)])
        self._require_shape(name, layout)
        unit = ELEMENT_BYTES[layout.type]
        strides = dict(zip(self.axes[::-1], [unit * stride for stride in layout.strides[::-1]]))
        if self.by_four_rows:
            self._require_tiles(name, layout)
            strides |= {"R": 0, "D/group": 0}
        return tuple(strides.get(axis, 0) for axis in ("N", "H", "R", "D/group"))

    def _require(self, name: str, is_used: bool) -> Layout | None:
        if is_used and name not in self.layouts:
            raise TypeError(f"{name} is missing, and {self.kind}_storage has it")
        if not is_used and name in self.layouts:
            raise TypeError(f"{name} is given, and {self.kind}_storage does not have it")
        return self.layouts.get(name)

    def _require_global_scale(self) -> None:
        name = self.kind + "_global_scale"
        # Q has none: the library refuses a storage that asks for it.
        if self.kind == "q" or self.moves and name not in self.layouts:
            return
        layout = self._require(name, self.storage.global_scale)
        if layout is not None:
            _require_type(name, layout, ("float32",))
            if layout.shape not in ((), (1,)):
                raise ValueError(f"{name} has the shape {list(layout.shape)}: expected [1]")

    def _require_shape(self, name: str, layout: Layout) -> None:
        repeats = self.storage.scaling == Scaling.GIVEN and not self.by_four_rows
        shape, expected = list(layout.shape), self.expected
        if repeats and len(shape) <= len(expected):
            # Missing axes and those of extent 1 are repeated, as NumPy broadcasts.
            shape = [1] * (len(expected) - len(shape)) + shape
            shape = [whole if extent == 1 else extent for extent, whole in zip(shape, expected)]
        if shape != expected:
            raise ValueError(f"{name} has the shape {list(layout.shape)}: expected {_form(', '.join(self.axes))} "
                             f"{expected}{', or a shape that NumPy broadcasts to it' if repeats else ''}")

    def _require_tiles(self, name: str, layout: Layout) -> None:
        rows, groups = layout.shape[-2:]
        if layout.strides[-2:] != (groups if rows > 1 else 0, 1 if groups > 1 else 0) and not layout.is_empty:
            raise ValueError(f"{name} has the strides {list(layout.strides)}: expected its last two axes to be "
                             "contiguous")


def _operation_of(names: set[str]) -> Operation:
    """A plan with from_slots moves, and one with k_out or v_out gathers."""
    if "from_slots" in names:
        return Operation.MOVE
    return Operation.GATHER if names & {*OUT} else Operation.APPEND


def _rows_of(kind: str, operation: int) -> str | None:
    """The name of the rows of K or of V, or None."""
    names: dict[int, tuple[str, str]] = {Operation.APPEND: NEW, Operation.GATHER: OUT}
    rows = names.get(operation)
    return rows["kv".index(kind)] if rows else None


def is_one_offset(layout: Layout) -> bool:
    """Whether offsets are a single number, or one that is repeated for all samples."""
    return not layout.shape or len(layout.shape) == 1 and layout.shape[0] > 1 and layout.strides[0] == 0


def _addressing(names: collections.abc.Collection[str]) -> int:
    for name, addressing in (("slots", Addressing.SLOTS), ("page_indptr", Addressing.PAGED_CSR),
                             ("page_table", Addressing.PAGED), ("ring", Addressing.RING)):
        if name in names:
            return addressing
    return Addressing.DENSE


_TOGETHER = (("page_indptr", "page_table"), ("sink_rows", "ring"), ("reserved_slot", "slots"),
             ("reserved_page", "page_table"), ("flags.RESET_REPORT", "report"), ("flags.COUNT_WRITTEN", "report"),
             ("token_samples", "token_positions"), ("token_positions", "token_samples"),
             ("last_page_lengths", "page_indptr"), ("from_slots", "slots"),
             ("rotary_cos", "rotary_sin"), ("rotary_sin", "rotary_cos"), ("rotary_cos", "rotary"),
             ("rotary", "rotary_cos"), ("positions", "rotary"), ("rotary", "k_new"), ("q", "rotary"), ("q_out", "q"),
             ("q_storage", "q_out"), ("q_scales", "q_storage"))
_ANY_OFFSETS = (*OFFSET_NAMES, "flags.ZERO_OFFSETS")
_APART = (("slots", (*_ANY_OFFSETS, "page_table", "ring", "left_pads", "batch_index", "token_samples")),
          ("from_slots", (*NEW, *OUT)), ("token_samples", (*_ANY_OFFSETS, "lengths", "left_pads")),
          ("flags.ZERO_OFFSETS", OFFSET_NAMES),
          ("cache_offsets", ("end_offsets", "last_page_lengths")), ("end_offsets", ("last_page_lengths",)),
          ("page_table", ("batch_index", "ring")), ("report", ("trap",)))
_APART_UNLESS_MOVED = (("slots", ("lengths",)),)


def _require_rows(names: set[str], operation: int) -> None:
    """That K, V or both have what the operation needs of them."""
    for new in NEW:
        for out in OUT:
            if new in names and out in names:
                raise TypeError(f"{new} and {out} do not go together")
    if operation == Operation.MOVE:
        if not names & {"k_cache", "v_cache"}:
            raise TypeError("k_cache and v_cache are missing: expected that of K, that of V, or both")
        return
    for kind in "kv":
        rows = _rows_of(kind, operation)
        for one, other in ((rows, kind + "_cache"), (kind + "_cache", rows)):
            if one in names and other not in names:
                raise TypeError(f"{other} is missing, and {one} is given: expected both or none")
    if not names & {*NEW, *OUT}:
        raise TypeError("k_new, k_cache, v_new and v_cache are missing: expected those of K, those of V, or all four")


def _require_names(names: set[str], flags: int, operation: int) -> None:
    """Refuses arguments that the descriptor would otherwise leave out, and so ignore silently."""
    _require_rows(names, operation)
    offsets = [name for name in OFFSET_NAMES if name in names]
    if not offsets and not {"slots", "from_slots", "token_samples", "flags.ZERO_OFFSETS"} & names:
        raise TypeError("cache_offsets is missing: expected the position of each sample's first new row as an array "
                        "[B], or one number for all samples (0: from the start of the cache), or end_offsets, or "
                        "slots, or token_samples")
    if flags & Flag.ADVANCE and not offsets:
        raise TypeError("cache_offsets is missing, and flags has ADVANCE: expected offsets to advance")
    for one, other in _TOGETHER:
        if one in names and other not in names:
            raise TypeError(f"{other} is missing, and {one} is given: expected both or none")
    if "token_count" in names and not {"slots", "token_samples"} & names:
        raise TypeError("token_count is given: expected it with slots or token_samples")
    for one, others in _APART + (() if operation == Operation.MOVE else _APART_UNLESS_MOVED):
        for other in others:
            if one in names and other in names:
                raise TypeError(f"{one} and {other} do not go together")


def _require_batch(extents: _Extents, names: set[str], smaller_batch: bool) -> None:
    """Without batch_index, sample b has cache b."""
    batch, blocks = extents.fields["batch"], extents.fields["cache_blocks"]
    if {"slots", "page_table", "batch_index", "token_samples"} & names or batch == blocks:
        return
    if batch > blocks or not smaller_batch:
        raise ValueError(f"B is {batch} in {_shape_text(*extents.sources['batch'])}, and N is {blocks} in "
                         f"{_shape_text(*extents.sources['cache_blocks'])}: expected a cache for each sample, or "
                         "batch_index, or smaller_batch=True with a batch that uses the first caches only")


def _flags_of(names: collections.abc.Container[str], layouts: dict[str, Layout]) -> int:
    """The flags that follow from the arguments."""
    flags = 0
    for flag, name in ((Flag.BATCH_INDEX, "batch_index"), (Flag.LEFT_PADS, "left_pads"),
                       (Flag.RESERVED_SLOT, "reserved_slot"), (Flag.RESERVED_PAGE, "reserved_page"),
                       (Flag.TOKEN_COUNT, "token_count"), (Flag.POSITIONS, "positions"),
                       (Flag.END_OFFSETS, "end_offsets"), (Flag.LAST_PAGE_LENGTHS, "last_page_lengths")):
        flags |= flag if name in names else 0
    if any(name in layouts and is_one_offset(layouts[name]) for name in OFFSET_NAMES):
        flags |= Flag.SHARED_OFFSET
    return flags


def _lengths_of(names: collections.abc.Collection[str], by_token: bool) -> int:
    if "token_samples" in names:
        return Lengths.PER_TOKEN
    if "lengths" in names:
        return Lengths.PACKED if by_token else Lengths.PER_SAMPLE
    return Lengths.FIXED


def _stored_name(kind: str) -> str:
    """The tensor that a storage of this kind belongs to."""
    return "q_out" if kind == "q" else kind + "_cache"


def _describe_storage(kind: str, storage: Storage | None, layouts: dict[str, Layout], extents: _Extents,
                      cache_axes: dict[str, str]) -> None:
    for name in (kind + "_scales", kind + "_global_scale"):
        if name in layouts and (storage is None or kind not in cache_axes):
            raise TypeError(f"{name} is given: expected it with {kind}_storage and {_stored_name(kind)}")
    if storage is not None and kind in cache_axes:
        strides = _Scales(kind, storage, layouts, extents, cache_axes[kind]).strides()
        extents.fields[kind + "_storage"] = ctypes.pointer(storage.in_c(strides))


def _describe_rotary(rotary: Rotary, layouts: dict[str, Layout], extents: _Extents) -> None:
    cos, sin = (layouts[name] for name in TABLES)
    for name, layout in zip(TABLES, (cos, sin)):
        _require_type(name, layout, ("float32", "float16", "bfloat16", "uint16"))
        _require_strides(name, layout, _require_form(name, layout, "P, D/2"))
    if (cos.type, cos.shape, cos.strides) != (sin.type, sin.shape, sin.strides):
        raise ValueError(f"rotary_cos is {cos}, and rotary_sin {sin}: expected one type, shape and strides for both")
    if cos.strides[0] == 0 and cos.shape[0] > 1 and not cos.is_empty:
        raise ValueError("rotary_cos is one row repeated along its first axis: a descriptor cannot express that")
    query = {name: extents.fields.pop(name) for name in list(extents.fields) if name.startswith("q_")}
    c = rotary.in_c(ELEMENTS[cos.type], cos.shape, cos.strides[0], query)
    extents.fields["rotary"] = ctypes.pointer(c)


def describe(layouts: dict[str, Layout], *, layout: str | None = None, new_layout: str = "HND", ring: bool = False,
             sink_rows: int = 0, reserved_slot: int | None = None, reserved_page: int | None = None, flags: int = 0,
             trap: bool = False, smaller_batch: bool = False, k_storage: Storage | None = None,
             v_storage: Storage | None = None, q_storage: Storage | None = None,
             rotary: Rotary | None = None) -> Descriptor:
    """The descriptor of an append, a gather or a move with tensors of these layouts, by the names of the arguments."""
    for option, value, values in (("layout", layout, (None, *LAYOUTS)), ("new_layout", new_layout, LAYOUTS)):
        if value not in values:
            raise ValueError(f"{option} is {value!r}: expected \"HND\" or \"NHD\"")
    names = {*layouts, *(f"flags.{flag.name}" for flag in Flag if flag & flags)}
    names |= {name for name, is_set in (("ring", ring), ("trap", trap), ("sink_rows", sink_rows),
                                        ("reserved_slot", reserved_slot is not None),
                                        ("reserved_page", reserved_page is not None),
                                        ("q_storage", q_storage is not None),
                                        ("rotary", rotary is not None)) if is_set}
    operation = _operation_of(names)
    _require_names(names, flags, operation)
    is_on_device = common_device({name: layout.device for name, layout in layouts.items()}) is not None
    extents = _Extents()
    storages = {"k": k_storage, "v": v_storage, "q": q_storage}
    states = _States(extents, layouts, storages, layout, new_layout)
    for kind in "kv":
        if kind + "_cache" in layouts:
            states.read(kind, _rows_of(kind, operation))
    if "q" in layouts:
        states.read_query()
    lengths = _lengths_of(names, states.by_token)
    _Indices(extents, layouts, lengths == Lengths.PACKED, states.by_token, operation).read()
    # Without lengths, slots have no samples. If no array has an element for each sample, tokens may be in any cache.
    extents.fields.setdefault("batch", 1 if "slots" in names else extents.fields["cache_blocks"])
    _require_batch(extents, names, smaller_batch)
    if "report" in layouts:
        _require_type("report", layouts["report"], ("int64",))
        if layouts["report"].shape != (REPORT_FIELDS,):
            raise ValueError(f"report has the shape {list(layouts['report'].shape)}: expected [{REPORT_FIELDS}]")
    for kind in "kvq":
        _describe_storage(kind, storages[kind], layouts, extents, states.cache_axes)
    if rotary is not None:
        _describe_rotary(rotary, layouts, extents)
    skip_policy = Skip.TRAP if trap else Skip.REPORT if "report" in names else Skip.SILENTLY
    # The rows of a move have no type if all caches have storages. Each of these can be the storage of float32.
    element_type = ELEMENTS[layouts[states.first].type] if states.first else Element.F32
    return Descriptor(backend=Backend.CUDA if is_on_device else Backend.HOST, addressing=_addressing(names),
                      element_type=element_type, flags=flags | _flags_of(names, layouts),
                      sink_rows=sink_rows, reserved_slot=reserved_slot or 0, reserved_page=reserved_page or 0,
                      lengths=lengths, skip_policy=skip_policy, operation=operation, **extents.fields)
