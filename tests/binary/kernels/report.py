#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads the library's kernels as compiled, for each architecture: no stack and no local memory, so nothing spilled; in
the PTX, accesses of rows as wide as each kernel's name promises and none wider, and loads of indices that a compiler must
not repeat; and the kernels are those of the table."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../support/compiler"))
import compiled  # noqa: E402

# Widths that a kernel does not have. Kernels with 64-bit indices convert and rotate pairs of elements only, and the
# others pairs or 16 bytes of elements.
ABSENT = {("cuda_convert_b16", "ld"): {8}, ("cuda_convert_layers_b16", "ld"): {8},
          ("cuda_convert_wide_b16", "ld"): {8, 16}, ("cuda_convert_wide_b16", "st"): {8, 16},
          ("cuda_rotate_wide_b16", "ld"): {8, 16}, ("cuda_rotate_wide_b16", "st"): {8, 16},
          ("cuda_gather_convert_wide_b16", "ld"): {8, 16}, ("cuda_gather_convert_wide_b16", "st"): {8, 16},
          ("cuda_gather_convert_b16", "st"): {8}, ("cuda_gather_convert_layers_b16", "st"): {8}}


def main():
    nvcc, library, *architectures = sys.argv[1:]
    cuobjdump = compiled.tool("cuobjdump", nvcc.split()[0])
    if cuobjdump is None:
        print("skipped: " + compiled.missing("cuobjdump"))
        sys.exit(compiled.SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        reports = {architecture: compiled.resources(cuobjdump, cubins)
                   for architecture, cubins in compiled.machine_code(cuobjdump, library, folder).items()}
        ptx = compiled.last_ptx(cuobjdump, library, folder)
    moved = compiled.accesses(ptx)

    failures = []
    if list(reports) != architectures:
        failures.append(f"machine code of {', '.join(reports)}, expected that of {', '.join(architectures)}")
    print("registers (stack, local memory in bytes) of each kernel")
    print(f"{'kernel':<27}" + "".join(f"{'sm_' + a:>13}" for a in reports))
    for name in moved:
        row = f"{name:<27}"
        for architecture, report in reports.items():
            registers, stack, local = report[name]
            row += f"{registers:>7} ({stack}, {local})"
            if stack or local:
                failures.append(f"{name} on sm_{architecture}: {stack} bytes of stack, {local} of local memory")
        print(row)
    table = compiled.kernel_names(library)
    failures += [f"{name} is in the table and was not compiled" for name in table if name not in moved]
    failures += [f"{name} was compiled and is not in the table"
                 for name in moved if name.startswith("cuda_") and name.partition("/")[0] not in table]
    failures += [f"{name} has {kind} of {counts}: expected some of 16 bytes, and none wider"
                 for name in moved if "/" in name for kind, counts in moved[name].items() if max(counts) != 16]
    for name in set(table) & set(moved):
        width = int(name.rsplit("_b", 1)[1])
        for kind in ("ld", "st"):
            expected = {w for w in (1, 2, 4, 8, 16) if w <= width} - ABSENT.get((name, kind), set())
            if set(moved[name][kind]) != expected:
                failures.append(f"{name} has {kind} of {moved[name][kind]}: expected those of {sorted(expected)} bytes")
    failures += [f"{name} loads an index by a load that a compiler may repeat, or loads none"
                 for name, index_loads in compiled.index_loads(ptx).items()
                 if index_loads["plain"] or not index_loads["relaxed"]]
    print("\n".join(failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
