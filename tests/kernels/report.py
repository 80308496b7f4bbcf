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
    out = os.path.join(folder, f"{architecture}.{kind}")
    command = [*nvcc, f"-{kind}", "-std=c++20", "-O2", "-Xptxas=-v", f"-arch=sm_{architecture}", "-I", include]
    done = subprocess.run([*command, source, "-o", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


def width_of(entry):
    """append_dense<4> moves at most 1 << 4 bytes an access; 4 is mangled as ILj4E."""
    return 1 << int(re.search(r"append_denseILj(\d+)E", entry).group(1))


def resources(report):
    """(widest access) -> registers, stack, spilled bytes, by ptxas."""
    found = {}
    for part in report.split("Compiling entry function ")[1:]:
        stack, stores, loads = map(int, re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        found[width_of(part)] = (int(re.search(r"Used (\d+) registers", part).group(1)), stack, stores + loads)
    return found


def accesses(ptx):
    """(widest access) -> the sets of bytes that its loads of rows, and its stores, move at once."""
    found = {}
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "b8": 1, "b16": 2, "b32": 4, "b64": 8, "s32": 4, "s64": 8}
    assert ".local" not in ptx, "the PTX uses local memory"
    for part in ptx.split(".entry ")[1:]:
        sets = {"ld": set(), "st": set()}
        for kind, vector, element in re.findall(
                r"\b(ld|st)\.global(?:\.\w+)*?(?:\.v(\d))?\.([usb]\d+)\s", part):
            sets[kind].add(int(vector or 1) * sizes[element])
        found[width_of(part)] = sets
    return found


def main():
    nvcc, include, source, library, *architectures = sys.argv[1:]
    nvcc = nvcc.split()
    table = ctypes.CDLL(library)
    table.kvappend_kernel_name.argtypes = [ctypes.c_size_t]
    table.kvappend_kernel_name.restype = ctypes.c_char_p
    names = []
    while (name := table.kvappend_kernel_name(len(names))) is not None:
        names.append(name.decode())
    widths = sorted(int(name.rsplit("_b", 1)[1]) for name in names if name.startswith("cuda_"))

    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        def build(architecture, kind):
            return pool.submit(compile_kernels, nvcc, include, source, folder, architecture, kind)
        cubins = {architecture: build(architecture, "cubin") for architecture in architectures}
        ptx_path, _ = build(architectures[-1], "ptx").result()
        with open(ptx_path, encoding="ascii") as file:
            moved = accesses(file.read())
        reports = {architecture: resources(job.result()[1]) for architecture, job in cubins.items()}

    print("registers (stack, spilled bytes) of each kernel")
    print("kernel          " + "".join(f"{'sm_' + a:>13}" for a in architectures))
    failures = []
    for width in widths:
        row = f"cuda_dense_b{width:<4}"
        for architecture, report in reports.items():
            registers, stack, spilled = report[width]
            row += f"{registers:>7} ({stack}, {spilled})"
            if stack or spilled:
                failures.append(f"cuda_dense_b{width} on sm_{architecture}: {stack} of stack, {spilled} spilled")
        print(row)
        narrower = {w for w in widths if w <= width}
        # Besides rows, a kernel loads the offset, of 4 or 8 bytes.
        if moved[width]["st"] != narrower or moved[width]["ld"] != narrower | {4, 8}:
            failures.append(f"cuda_dense_b{width} moves {moved[width]}: expected {narrower}")
    for architecture, report in reports.items():
        if sorted(report) != widths:
            failures.append(f"sm_{architecture} has kernels for {sorted(report)}, the table for {widths}")
    print("\n".join(failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
