#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The library that was built has what its build asks for: check.py LIBRARY FLAG..., with the compiler's flags.

Its relocations are done, and read-only, before its first function runs; neither its stack nor its data can be executed
and no code is written; its functions have canaries, and indirect jumps land where they may."""

import platform
import re
import shutil
import subprocess
import sys


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main():
    library, *flags = sys.argv[1:]
    if shutil.which("readelf") is None or shutil.which("objdump") is None:
        print("readelf or objdump is not installed")
        sys.exit(77)
    segments = output("readelf", "-lW", library)
    dynamic = output("readelf", "-dW", library)
    symbols = output("readelf", "--dyn-syms", "-W", library)
    faults = []

    def require(name, good):
        print(f"{name:<50}{'yes' if good else 'NO'}")
        if not good:
            faults.append(name)

    require("relocations read-only (RELRO)", "GNU_RELRO" in segments)
    require("and all of them done at load (BIND_NOW)", re.search(r"\(FLAGS_1\).*\bNOW\b", dynamic))
    stack = re.search(r"GNU_STACK(?: +0x[0-9a-f]+){5} +(\S+)", segments)
    require("stack not executable", stack and "E" not in stack.group(1))
    loaded = re.findall(r"^ *LOAD(?: +0x[0-9a-f]+){5} +([RWE ]+?) +0x", segments, re.M)
    require("no memory writable and executable", loaded and not [f for f in loaded if "W" in f and "E" in f])
    require("no relocation in code", "TEXTREL" not in dynamic)
    require("position independent", "DYN" in output("readelf", "-hW", library))
    require("no search path for libraries", "RPATH" not in dynamic and "RUNPATH" not in dynamic)
    if "-fstack-protector-strong" in flags:
        require("canaries on the stack", re.search(r"UND __stack_chk_fail\b", symbols))
    if "unfortified" not in flags:
        require("checked C library functions (_FORTIFY_SOURCE)", re.search(r"UND __\w+_chk\b", symbols))
    if "-fcf-protection=full" in flags and platform.machine() == "x86_64":
        exported = re.findall(r"FUNC +GLOBAL +DEFAULT +\d+ (kvappend_\w+)", symbols)
        code = output("objdump", "-d", "--no-show-raw-insn", library)
        first = dict(re.findall(r"^[0-9a-f]+ <(\w+)(?:@@\w+)?>:\n *[0-9a-f]+:\t(\w+)", code, re.M))
        require(f"{len(exported)} exported functions begin with endbr64 (CET)",
                exported and all(first.get(name) == "endbr64" for name in exported))
        # The linker marks a library only if every object in it is marked, those of the C library and CUDA, too.
        notes = output("readelf", "-nW", library)
        print(f"{'marked for CET as a whole':<50}{'yes' if 'IBT' in notes and 'SHSTK' in notes else 'no'}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
