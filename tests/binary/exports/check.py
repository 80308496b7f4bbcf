#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The library exports the functions of symbols.txt and nothing else, needs no CUDA library, has no part of libgcc that
tells processors apart, and has the ABI's SONAME; the header declares the same functions, and the function table holds
them."""

import re
import subprocess
import sys


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main():
    library, header, symbols, abi = sys.argv[1:]
    with open(symbols, encoding="ascii") as file:
        expected = file.read().split()
    assert expected == sorted(expected), "symbols.txt is not sorted"

    exported = sorted(line.split()[-1] for line in output("nm", "-D", "--defined-only", library).splitlines())
    assert exported == expected, f"exported, but not in the list, or the reverse: {set(exported) ^ set(expected)}"

    with open(header, encoding="ascii") as file:
        text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
    declared = sorted(re.findall(r"^KVAPPEND_API[^;(]*?\b(kvappend_\w+)\(", text, re.MULTILINE))
    assert declared == expected, f"declared, but not in the list, or the reverse: {set(declared) ^ set(expected)}"

    table = re.search(r"typedef struct kvappend_api \{(.*?)\} kvappend_api;", text, re.DOTALL).group(1)
    members = {"kvappend_" + name for name in re.findall(r"\(\*(\w+)\)\(", table)}
    # The table is what get_api gives, and the version is a number in it.
    missing = set(expected) - members - {"kvappend_get_api", "kvappend_version"}
    assert not missing and members <= set(expected), f"not in the table: {missing}"

    # Programs that are linked without libgcc do not have these.
    assert "__cpu_" not in output("nm", library), "refers to the processor's model in libgcc"

    dynamic = output("readelf", "-d", library)
    assert re.search(rf"SONAME.*\[libkvappend\.so\.{abi}\]", dynamic), dynamic
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic)
    assert not [name for name in needed if re.match("libcuda|libnv", name)], needed
    assert not re.search("libcuda|libnv", output("ldd", library))
    print(f"{len(exported)} functions; needs {' '.join(needed)}")


if __name__ == "__main__":
    main()
