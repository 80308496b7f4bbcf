#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels as the library does, for each architecture, and reads what the compiler says: no spills, no stack
and no local memory anywhere, and in the PTX the widths of access that each kernel's name promises."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../support/compiler"))
import compiled  # noqa: E402


def main():
    nvcc, include, library, *lists = sys.argv[1:]
    architectures, sources = lists[:lists.index("--")], lists[lists.index("--") + 1:]
    with tempfile.TemporaryDirectory() as folder:
        reports, ptx, _ = compiled.compile_all(nvcc.split(), include, sources, architectures, folder)
    moved = compiled.accesses(ptx)

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
    for name in compiled.kernel_names(library):
        width = int(name.rsplit("_b", 1)[1])
        narrower = {w for w in (1, 2, 4, 8, 16) if w <= width}
        # Besides rows, a kernel loads indices, of 4 or 8 bytes; the words of an offset by themselves.
        indices = {4} if name.startswith("cuda_dense") else {4, 8}
        if set(moved[name]["st"]) != narrower or set(moved[name]["ld"]) != narrower | indices:
            failures.append(f"{name} moves {moved[name]}: expected {narrower}")
    print("\n".join(failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
