#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is known of the kernels without a device: for each kernel and architecture what the machine code says, and
for the models' shapes the grids that the library launches, in waves of blocks that 132 multiprocessors hold."""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

import sass

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/support/compiler"))
import compiled  # noqa: E402

# Of one multiprocessor, by compute capability (CUDA programming guide, "Technical Specifications per Compute
# Capability"): threads, blocks.
RESIDENT = {"75": (1024, 16), "80": (2048, 32), "86": (1536, 16), "87": (1536, 16), "89": (1536, 24), "90": (2048, 32),
            "100": (2048, 32), "103": (2048, 32), "120": (1536, 24), "121": (1536, 24)}
PARTITIONS, PARTITION_REGISTERS, REGISTER_UNIT, WARP = 4, 16384, 256, 32

def resident_blocks(architecture, registers, threads):
    """Blocks that one multiprocessor holds at once. No kernel uses shared memory."""
    if architecture not in RESIDENT:
        return None
    most_threads, most_blocks = RESIDENT[architecture]
    warps = math.ceil(threads / WARP)
    warp_registers = math.ceil(registers * WARP / REGISTER_UNIT) * REGISTER_UNIT
    by_registers = PARTITIONS * (PARTITION_REGISTERS // warp_registers) // warps
    return min(most_blocks, most_threads // (warps * WARP), by_registers)


def print_kernels(facts):
    print("Registers, bytes of stack and of local memory; blocks that a multiprocessor holds at once; instructions of "
          "the kernel, and of\nthe innermost loop with accesses of its widest kind, predicated ones too.\n")
    print("kernel                      arch  registers  stack  local  blocks/SM     code  "
          "copying loop: instructions  loads    stores   loads before a store  instructions/16 B")
    for kernel, architectures in facts.items():
        for architecture, of in architectures.items():
            row = (f"{kernel:<27} {architecture:>4} {of['registers']:>10} {of['stack_bytes']:>6}"
                   f" {of['local_bytes']:>6} {of['blocks_per_multiprocessor'] or '-':>10} {of.get('instructions', '-'):>8}")
            if loop := of.get("loop"):
                row += (f"  {loop['instructions']:>26}  {loop['loads']:>2} x {loop['load_bytes']:>2} B"
                        f"  {loop['stores']:>2} x {loop['store_bytes']:>2} B {loop['loads_before_first_store']:>20}"
                        f" {loop['instructions_per_16_bytes']:>18.2f}")
            print(row)


def print_grids(grids, architectures):
    """A line for each model, step and grid: layouts that come to the same one share it."""
    lines = {}
    for one in grids:
        call = f"{one['model']} {one['phase']} {one['batch']}x{one['rows']}"
        lines.setdefault((call, one["kernel"], tuple(one["grid"])), []).append(one)
    print(f"\n{'call':<34} {'kernel':<23} {'grid':>14} {'blocks':>8}  waves on {grids[0]['multiprocessors']}"
          f" multiprocessors of {' '.join(f'sm_{a:<4}' for a in architectures)}  layouts")
    for (call, kernel, grid), same in lines.items():
        waves = " ".join(f"{same[0]['waves'][a]:>7.2f}" if a in same[0]["waves"] else "      -" for a in architectures)
        print(f"{call:<34} {kernel:<27} {'x'.join(map(str, grid)):>14} {same[0]['blocks']:>8} {' ' * 31}{waves}  "
              + " ".join(one["layout"] for one in same))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--library", required=True)
    parser.add_argument("--only", metavar="ARCHITECTURE", help="such as 90")
    parser.add_argument("--grids", help="the program that says which grids are launched")
    parser.add_argument("--json", help="a file to write it all to")
    options = parser.parse_args()
    nvcc = options.nvcc.split()[0]
    cuobjdump, nvdisasm = compiled.tool("cuobjdump", nvcc), compiled.tool("nvdisasm", nvcc)
    if cuobjdump is None:
        print("skipped: " + compiled.missing("cuobjdump"))
        sys.exit(compiled.SKIPPED)
    if nvdisasm is None:
        print(compiled.missing("nvdisasm") + " Their instructions are left out.\n")

    facts = {}  # kernel -> architecture -> fact
    with tempfile.TemporaryDirectory() as folder:
        cubins = compiled.machine_code(cuobjdump, options.library, folder)
        if options.only:
            cubins = {options.only: cubins[options.only]}
        ptx = compiled.last_ptx(cuobjdump, options.library, folder)
        moved, threads = compiled.accesses(ptx), compiled.most_threads(ptx)
        for architecture, paths in cubins.items():
            report = compiled.resources(cuobjdump, paths)
            code = sass.facts(compiled.disassembled(nvdisasm, paths), compiled.name_of) if nvdisasm else {}
            for kernel in moved:
                registers, stack, local = report[kernel]
                facts.setdefault(kernel, {})[architecture] = {
                    "registers": registers, "stack_bytes": stack, "local_bytes": local,
                    "blocks_per_multiprocessor": resident_blocks(architecture, registers, threads[kernel]),
                    **code.get(kernel, {})}
    missing = set(compiled.kernel_names(options.library)) - set(facts)
    assert not missing, f"kernels of the table without code in the library: {missing}"
    print_kernels(facts)

    print("\nPTX of the last architecture: the number of loads and stores of each width, on all paths of a kernel")
    for kernel, kinds in moved.items():
        print(f"{kernel:<27} " + "; ".join(
            f"{ {'ld': 'loads', 'st': 'stores'}[kind]} " + ", ".join(f"{n} x {w} B" for w, n in sorted(counts.items()))
            for kind, counts in kinds.items() if counts))

    grids = []
    if options.grids:
        grids = json.loads(subprocess.run([options.grids], capture_output=True, text=True, check=True).stdout)
        for one in grids:
            threads = math.prod(one["block"])
            one["waves"] = {}
            for architecture, of in facts[one["kernel"]].items():
                held = resident_blocks(architecture, of["registers"], threads)
                if held:
                    one["waves"][architecture] = one["blocks"] / (one["multiprocessors"] * held)
        print_grids(grids, list(cubins))
    if options.json:
        with open(options.json, "w", encoding="ascii") as file:
            json.dump({"kernels": facts, "grids": grids}, file, indent=1)


if __name__ == "__main__":
    main()
