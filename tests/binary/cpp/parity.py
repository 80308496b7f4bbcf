#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each function of the library has its counterpart in the C++ header, and a test case with its name as a tag."""

import re
import subprocess
import sys


def counterpart(header, function):
    struct = re.fullmatch(r"(kvappend_\w+)_init", function)
    if struct:
        # What an init function does is done by a constructor.
        name = struct.group(1)
        return re.search(rf"struct {name.removeprefix('kvappend_')} : {name} \{{", header)
    return re.search(rf"\b{function}\(", header)


def main():
    path, symbols, test = sys.argv[1:]
    with open(path, encoding="ascii") as file:
        header = re.sub(r"//.*", "", file.read())
    with open(symbols, encoding="ascii") as file:
        functions = file.read().split()
    assert functions
    missing = [function for function in functions if not counterpart(header, function)]
    assert not missing, f"kvappend.hpp has nothing for {missing}"
    tags = subprocess.run([test, "--list-tags"], capture_output=True, text=True, check=True).stdout
    untested = [function for function in functions if f"[{function}]" not in tags]
    assert not untested, f"no test case for {untested}"
    print(f"{len(functions)} functions")


if __name__ == "__main__":
    main()
