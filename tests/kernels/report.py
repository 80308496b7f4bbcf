#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels as the library does, for each architecture, and reads what the compiler says: no spills, no stack
and no local memory anywhere, and in the PTX the widths of access that each kernel's name promises."""

import concurrent.futures
import ctypes
import os
import re
import subprocess
import sys
import tempfile


def compile_kernels(nvcc, include, source, folder, architecture, kind):
    out = os.path.join(folder, f"{os.path.basename(source)}.{architecture}.{kind}")
    command = [*nvcc, f"-{kind}", "-std=c++20", "-O2", "-Xptxas=-v", f"-arch=sm_{architecture}", "-I", include]
    done = subprocess.run([*command, source, "-o", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


def name_of(entry):
    """append<4, DensePlacing> is cuda_dense_b16: it moves at most 1 << 4 bytes an access. Other kernels have no name in
    the table."""
    found = re.match(r"\W*_ZN8kvappend\d+(?:appendILj(\d+)ENS_\d+(Dense|Row)Placing|([a-z_]+?)ENS_)", entry)
    width, placing, other = found.groups()
    return other or f"cuda_{ {'Dense': 'dense', 'Row': 'rows'}[placing]}_b{1 << int(width)}"


def resources(report):
    """kernel -> registers, stack, spilled bytes, by ptxas."""
    found = {}
    for part in report.split("Compiling entry function ")[1:]:
        stack, stores, loads = map(int, re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        found[name_of(part)] = (int(re.search(r"Used (\d+) registers", part).group(1)), stack, stores + loads)
    return found


def accesses(ptx):
    """kernel -> the sets of bytes that its loads, and its stores, move at once."""
    found = {}
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "b8": 1, "b16": 2, "b32": 4, "b64": 8, "s32": 4, "s64": 8}
    assert ".local" not in ptx, "the PTX uses local memory"
    for part in ptx.split(".entry ")[1:]:
        sets = {"ld": set(), "st": set()}
        for kind, vector, element in re.findall(
                r"\b(ld|st)\.global(?:\.\w+)*?(?:\.v(\d))?\.([usb]\d+)\s", part):
            sets[kind].add(int(vector or 1) * sizes[element])
        found[name_of(part)] = sets
    return found


def main():
    nvcc, include, library, *lists = sys.argv[1:]
    architectures, sources = lists[:lists.index("--")], lists[lists.index("--") + 1:]
    nvcc = nvcc.split()
    table = ctypes.CDLL(library)
    table.kvappend_kernel_name.argtypes = [ctypes.c_size_t]
    table.kvappend_kernel_name.restype = ctypes.c_char_p
    names = []
    while (name := table.kvappend_kernel_name(len(names))) is not None:
        names.append(name.decode())
    names = [name for name in names if name.startswith("cuda_")]

    moved, reports = {}, {architecture: {} for architecture in architectures}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        def build(source, architecture, kind):
            return pool.submit(compile_kernels, nvcc, include, source, folder, architecture, kind)
        jobs = [(architecture, build(source, architecture, "cubin"))
                for architecture in architectures for source in sources]
        for ptx in [build(source, architectures[-1], "ptx") for source in sources]:
            with open(ptx.result()[0], encoding="ascii") as file:
                moved.update(accesses(file.read()))
        for architecture, job in jobs:
            reports[architecture].update(resources(job.result()[1]))

    print("registers (stack, spilled bytes) of each kernel")
    print("kernel          " + "".join(f"{'sm_' + a:>13}" for a in architectures))
    failures = []
    for name in moved:
        row = f"{name:<16}"
        for architecture, report in reports.items():
            registers, stack, spilled = report[name]
            row += f"{registers:>7} ({stack}, {spilled})"
            if stack or spilled:
                failures.append(f"{name} on sm_{architecture}: {stack} of stack, {spilled} spilled")
        print(row)
    for name in names:
        width = int(name.rsplit("_b", 1)[1])
        narrower = {w for w in (1, 2, 4, 8, 16) if w <= width}
        # Besides rows, a kernel loads indices, of 4 or 8 bytes; the words of an offset by themselves.
        indices = {4} if name.startswith("cuda_dense") else {4, 8}
        if moved[name]["st"] != narrower or moved[name]["ld"] != narrower | indices:
            failures.append(f"{name} moves {moved[name]}: expected {narrower}")
    print("\n".join(failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
