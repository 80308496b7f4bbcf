# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels as the library does, and reads what the compiler says of them and what it made."""

import collections
import concurrent.futures
import ctypes
import os
import re
import subprocess


def kernel_names(library):
    """The CUDA kernels of the library's kernel table."""
    table = ctypes.CDLL(library)
    table.kvappend_kernel_name.argtypes = [ctypes.c_size_t]
    table.kvappend_kernel_name.restype = ctypes.c_char_p
    names = []
    while (name := table.kvappend_kernel_name(len(names))) is not None:
        names.append(name.decode())
    return [name for name in names if name.startswith("cuda_")]


def compile_kernels(nvcc, include, source, folder, architecture, kind):
    out = os.path.join(folder, f"{os.path.basename(source)}.{architecture}.{kind}")
    command = [*nvcc, f"-{kind}", "-std=c++20", "-O2", "--fmad=false", "-Xptxas=-v", f"-arch=sm_{architecture}", "-I", include]
    done = subprocess.run([*command, source, "-o", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


def name_of(entry):
    """The name in the kernel table. copy_kernel<DenseGeometry, 1> is cuda_dense_b16, with more layers it is
    cuda_dense_layers_b16; that of RowsGeometry is cuda_rows_b16, and copy_wide_kernel is cuda_rows_wide_b16. The same
    goes for convert_kernel<1>, which is cuda_convert_b16. A kernel that copies no rows, such as after_copy, is not in the
    table and keeps its own name."""
    found = re.match(r"\W*_ZN8kvappend\d+([a-z_]+?)(?:I(?:NS_\d+(Dense|Rows)GeometryE)?Lj(\d+)E|E)", entry)
    assert found, f"a kernel with an unknown name: {entry[:80]}"
    function, geometry, layers = found.groups()
    if function in ("copy_wide_kernel", "convert_wide_kernel"):
        return "cuda_rows_wide_b16" if function == "copy_wide_kernel" else "cuda_convert_wide_b16"
    if function not in ("copy_kernel", "convert_kernel"):
        return function
    geometry = geometry or "convert"
    return f"cuda_{geometry.lower()}_{'layers_' if layers != '1' else ''}b16"


def resources(report):
    """kernel -> registers, stack, spilled bytes, by ptxas."""
    found = {}
    for part in report.split("Compiling entry function ")[1:]:
        stack, stores, loads = map(int, re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        found[name_of(part)] = (int(re.search(r"Used (\d+) registers", part).group(1)), stack, stores + loads)
    return found


def accesses(ptx):
    """kernel -> how many of its loads and of its stores of rows move how many bytes at once."""
    found = {}
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "b8": 1, "b16": 2, "b32": 4, "b64": 8, "s32": 4, "s64": 8}
    assert ".local" not in ptx, "the PTX uses local memory"
    for part in ptx.split(".entry ")[1:]:
        counts = {"ld": collections.Counter(), "st": collections.Counter()}
        for kind, vector, element in re.findall(
                r"\b(ld|st)\.global(?:\.\w+)*?(?:\.v(\d))?\.([usb]\d+)\s", part):
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


def compile_all(nvcc, include, sources, architectures, folder):
    """architecture -> kernel -> resources; the PTX of the last architecture; and architecture -> paths of the machine
    code, in `folder`. Sources that are not CUDA have no kernels and are left out."""
    sources = [source for source in sources if source.endswith(".cu")]
    cubins = {architecture: [] for architecture in architectures}
    reports = {architecture: {} for architecture in architectures}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        def build(source, architecture, kind):
            return pool.submit(compile_kernels, nvcc, include, source, folder, architecture, kind)
        jobs = [(architecture, build(source, architecture, "cubin"))
                for architecture in architectures for source in sources]
        ptx = ""
        for job in [build(source, architectures[-1], "ptx") for source in sources]:
            with open(job.result()[0], encoding="ascii") as file:
                ptx += file.read()
        for architecture, job in jobs:
            path, report = job.result()
            reports[architecture].update(resources(report))
            cubins[architecture].append(path)
    return reports, ptx, cubins
