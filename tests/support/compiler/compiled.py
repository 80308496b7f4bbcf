# SPDX-License-Identifier: Apache-2.0
"""Reads what nvcc made of the kernels from the library itself: the machine code of each architecture and the PTX."""

import collections
import ctypes
import glob
import importlib.util
import os
import re
import shutil
import subprocess

SKIPPED = 77


def tool(name, nvcc):
    """The path of cuobjdump or nvdisasm beside nvcc, in PATH, or as PyPI has it; None if there is none."""
    compiler = shutil.which(nvcc) or nvcc
    found = shutil.which(name, path=os.pathsep.join([os.path.dirname(compiler), os.environ.get("PATH", "")]))
    spec = None if found else importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else []:
        for path, _, files in os.walk(folder):
            if name in files and os.access(os.path.join(path, name), os.X_OK):
                return os.path.join(path, name)
    return found


def missing(name):
    return (f"{name}, which reads the library's kernels, was not found beside nvcc, in PATH or among Python's packages "
            f"(pip install nvidia-cuda-{name}).")


def output(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def machine_code(cuobjdump, library, folder):
    """architecture -> paths of its machine code, which is unpacked into `folder`."""
    output(cuobjdump, "-xelf", "all", os.path.abspath(library), cwd=folder)
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.cubin"))):
        found.setdefault(re.search(r"\.sm_(\d+)", path).group(1), []).append(path)
    return {architecture: found[architecture] for architecture in sorted(found, key=int)}


def disassembled(nvdisasm, cubins):
    """The text of each."""
    return [output(nvdisasm, "-c", cubin) for cubin in cubins]


def last_ptx(cuobjdump, library, folder):
    """The PTX of the last architecture that the library has it of."""
    output(cuobjdump, "-xptx", "all", os.path.abspath(library), cwd=folder)
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.ptx"))):
        with open(path, encoding="ascii") as file:
            found.setdefault(int(re.search(r"\.sm_(\d+)", path).group(1)), []).append(file.read())
    return "".join(found[max(found)])


def kernel_names(library):
    """The CUDA kernels of the library's kernel table."""
    table = ctypes.CDLL(library)
    table.kvappend_kernel_name.argtypes = [ctypes.c_size_t]
    table.kvappend_kernel_name.restype = ctypes.c_char_p
    names = []
    while (name := table.kvappend_kernel_name(len(names))) is not None:
        names.append(name.decode())
    return [name for name in names if name.startswith("cuda_")]


RULES = ("pages", "slots", "tokens", "ends", "any")  # RuleKind


def name_of(entry):
    """The name in the kernel table. copy_kernel<DenseGeometry<AppendRows>, 1> is cuda_dense_b16, and that of GatherRows
    is cuda_gather_dense_b16; with more layers they end with _layers_b16. RowsGeometry makes cuda_rows_b16, and
    copy_wide_kernel is cuda_rows_wide_b16. The same goes for convert_kernel<1>, which is cuda_convert_b16, for
    decode_kernel<1>, which is cuda_gather_convert_b16, for rotate_kernel<QueryGeometry, 1>, which is cuda_rotate_b16,
    and for move_kernel<1>, which is cuda_move_rows_b16. Kernels for one rule or for elements of one type, which the
    library chooses by itself, have the same name and what they are for: cuda_rows_b16/slots, cuda_convert_b16/f32. A
    kernel that moves no rows, such as after_copy, is not in the table and keeps its own name."""
    found = re.match(r"\W*_ZN8kvappend\d+(([a-z]+)_(wide_|rule_|known_)?kernel|after_copy|after_move)[IE]", entry)
    assert found, f"a kernel with an unknown name: {entry[:80]}"
    function, kind, special = found.groups()
    if kind is None:
        return function
    gathers = kind == "decode" or "GatherRows" in entry
    name = "cuda_gather" if gathers else "cuda_move" if kind == "move" else "cuda"
    name += ("_convert" if kind in ("convert", "decode") else "_rotate" if kind == "rotate"
             else "_dense" if "DenseGeometry" in entry else "_rows")
    several = special not in ("wide_", "rule_") and re.search(r"Lj(32|36|80)EEE", entry)
    name += f"_{'wide_' if special == 'wide_' else 'layers_' if several else ''}b16"
    if special == "rule_":
        rule = RULES[int(re.search(r"RuleKindE(\d)E", entry).group(1))]
        return name if rule == "any" else f"{name}/{rule}"
    if special == "known_":
        return name + ("/f32" if "F32E" in entry else "/bf16" if "SmallFloatILj8ELj7E" in entry else "/f16")
    return name


def resources(cuobjdump, cubins):
    """kernel -> registers, bytes of stack and of local memory. What does not fit into the registers is on the stack."""
    found = {}
    for cubin in cubins:
        for symbol, registers, stack, local in re.findall(
                r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)",
                output(cuobjdump, "-res-usage", cubin)):
            found[name_of(symbol)] = (int(registers), int(stack), int(local))
    return found


def accesses(ptx):
    """kernel -> how many of its loads and of its stores of rows move how many bytes at once."""
    found = {}
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "b8": 1, "b16": 2, "b32": 4, "b64": 8, "s32": 4, "s64": 8, "f32": 4}
    assert ".local" not in ptx, "the PTX uses local memory"
    for part in ptx.split(".entry ")[1:]:
        counts = {"ld": collections.Counter(), "st": collections.Counter()}
        for kind, vector, element in re.findall(
                r"\b(ld|st)\.global(?:\.\w+)*?(?:\.v(\d))?\.([usbf]\d+)\s", part):
            counts[kind][int(vector or 1) * sizes[element]] += 1
        found[name_of(part)] = counts
    return found


def index_loads(ptx):
    """kernel -> how many loads of indices are relaxed, which a compiler must not repeat, and how many are plain. Rows are
    loaded by plain loads. A kernel has as many of 4 bytes for them as of 2 bytes, so any further ones are of indices."""
    found = {}
    for part in ptx.split(".entry ")[1:]:
        def count(kind):
            return len(re.findall(r"\bld\." + kind + r"\s", part))
        found[name_of(part)] = {"relaxed": count(r"relaxed\.cta\.global\.[us]32"),
                                "plain": count(r"global\.[usb]32") - count(r"global\.[usb]16")}
    return found


def most_threads(ptx):
    """kernel -> the threads of a block that it is compiled for."""
    return {name_of(part): int(re.search(r"\.maxntid (\d+)", part).group(1)) for part in ptx.split(".entry ")[1:]}
