#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shows from the machine code of sm_90 that a thread that copies one vector of K and one of V (Loop::pair) loads both
before it reads what it has loaded of an index. So it waits once for all of these loads, and not twice (loop.cuh).

The way from the kernel's entry to such a pair of loads is followed through all branches. On none of them may an
instruction read a register that a load from global memory has written, before the second load of the pair."""

import os
import re
import sys
import tempfile

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(here, "../../support/compiler"), os.path.join(here, "../../../bench/kernels")]
import compiled  # noqa: E402
import sass  # noqa: E402

ARCHITECTURE = "90"
# Placings that a kernel is compiled for, each with a loop of its own: those of several layers have all rules of rows.
PAIRS = {"cuda_dense_b16": 1, "cuda_dense_layers_b16": 1, "cuda_rows_layers_b16": len(compiled.RULES)} | {
    "cuda_rows_b16" + ("" if rule == "any" else "/" + rule): 1 for rule in compiled.RULES}


class Instruction:
    """What an instruction reads and writes, as far as registers go, and where the code goes on after it."""

    def __init__(self, text):
        self.text = text
        self.predicate, rest = re.match(r"(@!?U?P\d+ +)?(.*)", text, flags=re.S).groups()
        self.opcode, _, operands = rest.partition(" ")
        self.parts = self.opcode.split(".")
        operands = re.split(r",(?![^\[]*\])", operands)
        stores = self.parts[0] in ("ST", "STG", "STL", "STS", "RED")
        first = re.fullmatch(r"R(\d+)", operands[0].strip())
        self.writes = set() if stores or not first else self.registers(int(first.group(1)), self.width())
        self.reads = set()
        for position, operand in enumerate(operands[1 if self.writes else 0:]):
            for register, suffix in re.findall(r"\bR(\d+)((?:\.\w+)*)", operand):
                count = 2 if ".64" in suffix else self.width() if stores and position == 1 else 1
                if "WIDE" in self.parts and position == 2:
                    count = 2  # what a product of 64 bits is added to
                self.reads |= self.registers(int(register), count)
        self.access = sass.access(text)
        conditional = self.predicate or re.match(r"BRA(\.DIV|\S* +!?U?P\d)", rest)
        self.ends = not conditional and self.parts[0] in ("EXIT", "BRA", "BRX", "RET")
        self.targets = re.findall(r"\.L_x_\d+", text) if self.parts[0] in ("BRA", "BRX") else []

    @staticmethod
    def registers(first, count):
        return set(range(first, first + count))

    def width(self):
        """Registers of the result, or of what is stored."""
        return 4 if "128" in self.parts else 2 if "64" in self.parts or "WIDE" in self.parts else 1


def pairs_of_loads(code, labels):
    """Positions of the second of two loads of 16 bytes, where just these two stand between one label and the next."""
    borders = sorted({0, len(code), *labels.values()})
    found = []
    for begin, end in zip(borders, borders[1:]):
        loads = [i for i in range(begin, end) if code[i].access == ("ld", 16)]
        if len(loads) == 2:
            found.append(loads[1])
    return found


def first_reads(code, labels):
    """For each instruction, an earlier one on a way to it from the entry that reads a loaded register, or None. Also
    all instructions that read one."""
    loaded = {0: frozenset()}  # instruction -> registers with what a load has brought and nothing has read
    reader = {0: None}
    readers = set()
    todo = [0]
    while todo:
        at = todo.pop()
        instruction = code[at]
        read = reader[at]
        if instruction.reads & loaded[at]:
            readers.add(at)
            read = at if read is None else read
        after = loaded[at] - (set() if instruction.predicate else instruction.writes)
        if instruction.access and instruction.access[0] == "ld":
            after |= instruction.writes
        following = [labels[target] for target in instruction.targets]
        if not instruction.ends and at + 1 < len(code):
            following.append(at + 1)
        for to in following:
            merged = loaded.get(to, frozenset()) | after
            merged_reader = reader.get(to) if reader.get(to) is not None else read
            if to not in loaded or merged != loaded[to] or merged_reader != reader[to]:
                loaded[to], reader[to] = merged, merged_reader
                todo.append(to)
    return reader, readers


def check(name, code, labels):
    """Prints what was found, and returns what is wrong."""
    pairs = pairs_of_loads(code, labels)
    if len(pairs) != PAIRS[name]:
        return [f"{name}: {len(pairs)} loops that load one vector of K and one of V, expected {PAIRS[name]}"]
    reader, readers = first_reads(code, labels)
    failures = []
    for pair in pairs:
        following = min((at for at in readers if at > pair), default=None)
        if pair not in reader or following is None:
            failures.append(f"{name}: no index is read around the loads at instruction {pair}; this test must be wrong")
        elif reader[pair] is not None:
            at = reader[pair]
            failures.append(
                f"{name}: a loaded index is read before the new rows are loaded, so a thread waits twice.\n"
                f"    instruction {at} reads it: {code[at].text}\n"
                f"    instruction {pair} is the later load: {code[pair].text}")
        else:
            print(f"{name}: both new rows are loaded by instruction {pair}, an index is first read by {following}: "
                  f"{code[following].text}")
    return failures


def main():
    nvcc, library = sys.argv[1].split()[0], sys.argv[2]
    tools = {name: compiled.tool(name, nvcc) for name in ("cuobjdump", "nvdisasm")}
    for name, path in tools.items():
        if path is None:
            print("skipped: " + compiled.missing(name))
            sys.exit(compiled.SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        cubins = compiled.machine_code(tools["cuobjdump"], library, folder).get(ARCHITECTURE)
        if cubins is None:
            print(f"skipped: the library has no machine code of sm_{ARCHITECTURE}")
            sys.exit(compiled.SKIPPED)
        codes = [code for text in compiled.disassembled(tools["nvdisasm"], cubins) for code in sass.functions(text)]
    failures = []
    checked = set()
    for symbol, code, labels in codes:
        name = compiled.name_of(symbol)
        if name in PAIRS:
            checked.add(name)
            failures += check(name, [Instruction(text) for text in code], labels)
    failures += [f"{name} is not in the machine code" for name in set(PAIRS) - checked]
    print("\n".join(failures))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
