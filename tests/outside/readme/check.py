#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The README's examples compile as shown, and the program among them prints what it says. Its links lead to files, its
chart is what plot.py draws of the data. The reference has the statuses of the header."""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse

CHART = "bench/results/h200"


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def check_statuses(root):
    statuses = re.findall(r"^    (KVAPPEND_(?:SUCCESS|ERROR_\w+)) = (\d+)",
                          read(f"{root}/include/kvappend/kvappend.h"), re.MULTILINE)
    told = re.findall(r"^\| `(KVAPPEND_\w+)` \| (\d+) \|", read(f"{root}/capi/docs/reference.md"), re.MULTILINE)
    assert len(told) > 30 and told == statuses, set(told) ^ set(statuses)


def check_links(root, readme):
    # Without code, which may have brackets.
    text = re.sub(r"```.*?```|`[^`\n]*`", "", readme, flags=re.DOTALL)
    addresses = [urllib.parse.urlsplit(address) for address in re.findall(r"\]\(([^)\s]+)\)", text)]
    dead = [address.path for address in addresses
            if not address.scheme and not os.path.exists(f"{root}/{address.path}")]
    assert len(addresses) > 10 and not dead, dead
    assert {f"{CHART}.svg", "capi/docs/figures/append.svg"} <= {address.path for address in addresses}, addresses


def check_chart(root, folder):
    drawn = os.path.join(folder, "chart.svg")
    subprocess.run([sys.executable, f"{root}/bench/plot.py", "--peers", f"{root}/{CHART}.json", drawn], check=True)
    assert read(drawn) == read(f"{root}/{CHART}.svg"), "the chart is not what bench/plot.py draws"


def check_figures(root):
    """The table of benchmarks.md has the numbers of the chart."""
    cases = json.loads(read(f"{root}/{CHART}.json"))["peers"]
    text = read(f"{root}/capi/docs/benchmarks.md")
    for name in cases[0]["ratios"]:
        row = " | ".join(f"{case['ratios'][name]['median']:.2f}" for case in cases)
        assert f"\n| {name} | {row} |\n" in text, name


def compile_c(root, source, *arguments):
    subprocess.run(["cc", "-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-I", f"{root}/include",
                    source, *arguments], check=True)


def main():
    root, library, sanitizers = sys.argv[1:]
    readme = read(f"{root}/README.md")
    check_statuses(root)
    check_links(root, readme)
    # The demonstration, the tests (which .ci/run takes from here), and the benchmark of a GPU.
    commands = re.findall(r"^\.ci/setup && (?:.*\\\n)*.*", readme, re.MULTILINE)
    assert len(commands) == 3, commands
    assert [("decode README.md" in c, "meson test" in c, "bench/cuda" in c) for c in commands] == [
        (True, False, False), (False, True, False), (False, False, True)], commands
    examples = re.findall(r"^```c\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2, "the README has an example for a GPU, and one for the host"
    assert all(example.count("\n") <= 30 for example in examples), "an example has more than 30 lines"
    with tempfile.TemporaryDirectory() as folder:
        check_chart(root, folder)
        check_figures(root)
        # CUDA's header, as far as the example uses it.
        with open(f"{folder}/cuda_runtime.h", "w", encoding="ascii") as file:
            file.write("typedef struct CUstream_st *cudaStream_t;\n")
        for name, example in zip(("cuda", "host"), examples):
            with open(f"{folder}/{name}.c", "w", encoding="ascii") as file:
                file.write(example)
        compile_c(root, f"{folder}/cuda.c", "-I", folder, "-fsyntax-only")
        if sanitizers != "none":
            print("skipped: a program without the sanitizers' runtime cannot use a library with them")
            sys.exit(77)
        compile_c(root, f"{folder}/host.c", library, f"-Wl,-rpath,{os.path.dirname(library)}", "-o", f"{folder}/host")
        shown = subprocess.run([f"{folder}/host"], check=True, capture_output=True, text=True).stdout
    # The comment behind the printf says what it prints.
    assert f"/* {shown.strip()} */" in examples[1], shown


if __name__ == "__main__":
    main()
