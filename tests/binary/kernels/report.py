#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels as the library does, for each architecture, and reads what the compiler says: no spills, no stack
and no local memory anywhere; in the PTX, accesses of rows as wide as each kernel's name promises and none wider, and
loads of indices that a compiler must not repeat; and the copy kernels are those of the table."""

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
    print(f"{'kernel':<22}" + "".join(f"{'sm_' + a:>13}" for a in architectures))
    failures = []
    for name in moved:
        row = f"{name:<22}"
        for architecture, report in reports.items():
            registers, stack, spilled = report[name]
            row += f"{registers:>7} ({stack}, {spilled})"
            if stack or spilled:
                failures.append(f"{name} on sm_{architecture}: {stack} of stack, {spilled} spilled")
        print(row)
    table = compiled.kernel_names(library)
    failures += [f"{name} is in the table and was not compiled" for name in table if name not in moved]
    failures += [f"{name} was compiled and is not in the table"
                 for name in moved if name.startswith("cuda_") and name not in table]
    for name in set(table) & set(moved):
        width = int(name.rsplit("_b", 1)[1])
        stored = {w for w in (1, 2, 4, 8, 16) if w <= width}
        if name == "cuda_convert_wide_b16":
            stored -= {8, 16}  # only pairs of elements
        if set(moved[name]["st"]) != stored or set(moved[name]["ld"]) != stored:
            failures.append(f"{name} moves {moved[name]}: expected loads and stores of {sorted(stored)} bytes")
    failures += [f"{name} loads an index by a load that a compiler may repeat, or loads none"
                 for name, index_loads in compiled.index_loads(ptx).items()
                 if index_loads["plain"] or not index_loads["relaxed"]]
    print("\n".join(failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
