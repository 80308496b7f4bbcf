#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calls through the C++ header compile to the instructions of the same calls through the C header, which a compiler
may have put in another order, or to fewer instructions with the same calls."""

import re
import subprocess
import sys


def instructions(compiler, include, source):
    """Those of each function, with the jump targets numbered anew."""
    text = subprocess.run(
        [*compiler, "-std=c++17", "-O2", "-g0", "-S", "-fno-asynchronous-unwind-tables", "-I", include, source, "-o", "-"],
        stdout=subprocess.PIPE, text=True, check=True).stdout
    functions = {}
    for name, body in re.findall(r"^(\w+):[^\n]*\n(.*?)^\s*\.size\s", text, re.MULTILINE | re.DOTALL):
        labels = {}
        lines = (re.sub(r"\s*# .*", "", line).strip() for line in body.splitlines())
        code = [line for line in lines if line and not re.match(r"\.(LFB|LFE|Lfunc|cfi|p2align)", line)]
        functions[name] = [re.sub(r"\.L\w+", lambda label: labels.setdefault(label.group(), f".L{len(labels)}"), line)
                           for line in code]
    return functions


def calls(code):
    return sorted(line for line in code if line.startswith("call"))


def is_no_more(got, expected):
    return sorted(got) == sorted(expected) or len(got) < len(expected) and calls(got) == calls(expected)


def main():
    include, direct, wrapped, *compiler = sys.argv[1:]
    expected = instructions(compiler, include, direct)
    got = instructions(compiler, include, wrapped)
    assert {"run", "can_implement", "validate", "step"} <= expected.keys(), expected.keys()
    for name, code in expected.items():
        assert is_no_more(got[name], code), "\n".join([f"{name}: direct", *code, "wrapped", *got[name]])
        print(f"{name}: {len(code)} lines of assembly, and {len(got[name])} with the C++ header")


if __name__ == "__main__":
    main()
